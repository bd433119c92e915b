"""This module runs the commands of the command line."""

import argparse
import contextlib
import importlib.util
import json
import os
import sys
import tempfile
from collections.abc import Iterator

import torch
from huggingface_hub.utils import logging as hub_logging
from tqdm import tqdm
from transformers import TextStreamer, set_seed
from transformers.utils import CONFIG_NAME, is_peft_available, logging

from ..inspection.diagnosis_page import format_diagnosis
from ..inspection.doctor import diagnose
from ..inspection.report import ORIGINAL_LAYOUT, format_report, inspect_media, modality_of, original_layout, report
from ..omnivinci.checkpoint_files_omnivinci import Adapted, component_file, find_adapter
from ..omnivinci.configuration_omnivinci import OmniVinciConfig
from ..omnivinci.modeling_omnivinci import OmniVinciForConditionalGeneration
from ..omnivinci.options_omnivinci import CALL_OPTIONS, TEXT_OPTIONS
from ..omnivinci.pipeline_omnivinci import OmniQAPipeline, read_questions
from ..omnivinci.processing_omnivinci import OmniVinciProcessor
from ..original_layout.convert import Progress, convert_checkpoint, push_checkpoint
from .files import check_folder


EXIT_BAD_ROWS = EXIT_DOES_NOT_LOAD = 1
EXIT_UNKNOWN = 2


def note(text: str) -> None:
    """Says something on stderr, beside the result on stdout."""
    print(f"omnivinci-hf: {text}", file=sys.stderr, flush=True)


def run_ask(arguments: argparse.Namespace) -> None:
    """Answers questions about media: `omnivinci-hf ask`."""
    _quiet_off_terminal()
    # the media first: a wrong path should not cost the loading of the weights
    content = [{"type": modality_of(path), "path": path} for path in arguments.media]
    questions = [arguments.question, *arguments.more_questions]
    if arguments.stream and len(questions) > 1:
        raise ValueError("--stream takes one question: leave it, or the others, out.")
    system = [] if arguments.system is None else [{"role": "system", "content": arguments.system}]
    messages = [*system, {"role": "user", "content": content}]
    check_device(arguments.device_map)
    check_model(arguments.model)
    processor = OmniVinciProcessor.from_pretrained(arguments.model)
    inputs = read_questions(processor, messages, questions, processor_options(arguments))
    model = OmniVinciForConditionalGeneration.from_pretrained(
        arguments.model, dtype=arguments.dtype, device_map=arguments.device_map
    )
    if is_untrained(model):
        note("the weights of this checkpoint look untrained (every norm is exactly 1): its answers are noise.")
    if arguments.seed is not None:
        if not arguments.do_sample:
            note("--seed changes nothing without --do-sample.")
        set_seed(arguments.seed)
    streamer = None
    if arguments.stream:
        streamer = TextStreamer(processor.tokenizer, skip_prompt=True, skip_special_tokens=True)
    pipe = OmniQAPipeline(model, processor=processor)
    options = {"max_new_tokens": arguments.max_new_tokens, "do_sample": arguments.do_sample, "streamer": streamer}
    answers = pipe.postprocess(pipe.forward(inputs, **options))
    if streamer is not None:
        return
    for number, answer in enumerate(answers):
        print(
            answer["answer"]
            if len(answers) == 1
            else f"{chr(10) * (number > 0)}{answer['question']}\n{answer['answer']}"
        )


def check_device(device_map: str) -> None:
    """Raises ValueError for a device that this machine, or this PyTorch, does not have."""
    if device_map in ("auto", "balanced", "balanced_low_0", "sequential"):
        return
    try:
        torch.empty(0, device=device_map)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise ValueError(f"--device-map {device_map}: {str(error).splitlines()[0]}") from error


def check_model(name: str, revision: str | None = None, cache_dir: str | None = None) -> Adapted | None:
    """Finds the checkpoint's config before anything else, so that a wrong name costs one look-up and not six.

    Args:
        name: a folder or a Hub id.
        revision: of the checkpoint on the Hub.
        cache_dir: the folder with what was fetched from the Hub, if it is another one than usual.

    Returns:
        what it belongs to, if it is an adapter alone.

    Raises:
        OSError: when there is none, or not the model that an adapter belongs to.
        ValueError: when it is an adapter, and peft is not installed.
    """
    check_folder(name)
    _quiet_hub()
    options = {"revision": revision, "cache_dir": cache_dir}
    hub_options = {key: value for key, value in options.items() if value is not None}
    if component_file(name, "", CONFIG_NAME, hub_options) is not None:
        return None
    if (adapted := find_adapter(name, hub_options)) is None:
        raise FileNotFoundError(f"{name} holds no checkpoint (no {CONFIG_NAME}).")
    if not is_peft_available():
        raise ValueError(f"{name} is an adapter, which needs the package peft: pip install peft")
    if adapted.base == name:
        raise ValueError(f"{name} is an adapter whose adapter_config.json names no base model: write its folder there.")
    try:
        check_model(adapted.base, cache_dir=cache_dir)
    except OSError as error:
        raise OSError(f"{name} is an adapter of a model that is not there: {error}") from error
    return adapted


def is_untrained(model: OmniVinciForConditionalGeneration) -> bool:
    """Tells whether nobody has trained a model: training moves its norms, and nothing else sets them all to 1."""
    norms = [weight for name, weight in model.model.language_model.named_parameters() if "norm" in name]
    return all(not weight.is_meta and bool((weight == 1).all()) for weight in norms)


def run_inspect(arguments: argparse.Namespace) -> None:
    """Reports what the model will see of media: `omnivinci-hf inspect`."""
    if arguments.plot is not None and importlib.util.find_spec("matplotlib") is None:
        raise ValueError("--plot needs matplotlib: pip install matplotlib")
    if arguments.model is None:
        processor, config = original_layout()
    else:
        check_model(arguments.model)
        processor = OmniVinciProcessor.from_pretrained(arguments.model)
        config = OmniVinciConfig.from_pretrained(arguments.model)
    media = inspect_media(processor, arguments.media, **processor_options(arguments))
    facts = report(processor, config, media, arguments.model or ORIGINAL_LAYOUT)
    if arguments.plot is not None:
        # only files are drawn to; a notebook's variable may name a module that this environment lacks
        os.environ["MPLBACKEND"] = "agg"
        from ..inspection.plot import DPI, draw_media

        draw_media(processor, media, facts["media"]).savefig(arguments.plot, dpi=DPI)
        note(f"drew {arguments.plot}")
    print(json.dumps(facts, indent=2) if arguments.json else format_report(facts))


def run_convert(arguments: argparse.Namespace) -> None:
    """Rewrites the original layout: `omnivinci-hf convert`."""
    logging.disable_progress_bar()  # there is one of our own
    if (adapted := check_model(arguments.src)) is not None:
        raise ValueError(
            f"{arguments.src} is an adapter: convert {adapted.base}, which it belongs to; it fits the result as it is."
        )
    with _progress_bar(shown=arguments.progress or sys.stderr.isatty()) as progress:
        folder = convert_checkpoint(
            arguments.src,
            arguments.dst,
            dtype=arguments.dtype,
            max_shard_size=arguments.max_shard_size,
            overwrite=arguments.overwrite,
            progress=progress,
        )
    note(f"wrote {folder}")
    if arguments.push_to_hub:
        note(f"uploaded it to {push_checkpoint(folder, arguments.push_to_hub, arguments.src)}")


def run_train(arguments: argparse.Namespace) -> None:
    """Trains by a recipe: `omnivinci-hf train`."""
    from .train import run_train  # peft and datasets are not always there

    run_train(arguments)


def run_validate(arguments: argparse.Namespace) -> None:
    """Checks the rows of training data: `omnivinci-hf validate`."""
    from .validate import validate_data

    if not validate_data(arguments):
        raise SystemExit(EXIT_BAD_ROWS)


def run_serve(arguments: argparse.Namespace) -> None:
    """Serves a checkpoint with vLLM: `omnivinci-hf serve`."""
    from ..serving.command import check_vllm, option_values, serve

    check_vllm()
    given = option_values(arguments.rest)
    if (adapted := check_model(arguments.model, given.get("revision"), given.get("download-dir"))) is not None:
        raise ValueError(
            f"{arguments.model} is an adapter: serve its base model, "
            f"{adapted.base} --enable-lora --lora-modules NAME={arguments.model}"
        )
    serve(arguments.model, arguments.rest)


def run_doctor(arguments: argparse.Namespace) -> None:
    """Tells what a checkpoint is and whether it will load: `omnivinci-hf doctor`."""
    _quiet_hub()
    diagnosis = diagnose(arguments.checkpoint, revision=arguments.revision)
    print(json.dumps(diagnosis.as_dict(), indent=2) if arguments.json else format_diagnosis(diagnosis))
    if not diagnosis.loads:
        raise SystemExit(EXIT_UNKNOWN if diagnosis.loads is None else EXIT_DOES_NOT_LOAD)


def run_eval(arguments: argparse.Namespace) -> None:
    """Measures a checkpoint on a benchmark: `omnivinci-hf eval`."""
    from .evaluate import run_eval

    _quiet_off_terminal()
    run_eval(arguments)


def run_engine(arguments: argparse.Namespace) -> None:
    """Makes training data of videos: `omnivinci-hf engine`."""
    from .engine import run_engine

    run_engine(arguments)


def run_demo(arguments: argparse.Namespace) -> None:
    """Asks the small checkpoint about a made-up clip: `omnivinci-hf demo`."""
    from ..world.demo import show_demo

    logging.disable_progress_bar()
    if arguments.keep is None:
        with tempfile.TemporaryDirectory(prefix="omnivinci-demo-") as folder:
            show_demo(folder, arguments.number)
        return
    if arguments.keep.exists() and (not arguments.keep.is_dir() or any(arguments.keep.iterdir())):
        raise FileExistsError(f"{arguments.keep} is not an empty folder; give another one with --keep.")
    arguments.keep.mkdir(parents=True, exist_ok=True)
    show_demo(arguments.keep, arguments.number)
    print(f"\nThe clip is in {arguments.keep}.")


def processor_options(arguments: argparse.Namespace) -> dict:
    """Collects the options of the processor that were given; the others keep the checkpoint's values."""
    options = {name: getattr(arguments, name, None) for name in CALL_OPTIONS.keys() - TEXT_OPTIONS.keys()}
    if options["media_limits"]:
        options["media_limits"] = dict(options["media_limits"])
    return {name: value for name, value in options.items() if value is not None}


def _quiet_hub() -> None:
    if "HF_HUB_VERBOSITY" not in os.environ:
        hub_logging.set_verbosity_error()  # it reports every attempt to connect; the error at the end says it all


def _quiet_off_terminal() -> None:
    if not sys.stderr.isatty():
        logging.disable_progress_bar()


@contextlib.contextmanager
def _progress_bar(shown: bool) -> Iterator[Progress]:
    with tqdm(unit="B", unit_scale=True, desc="Writing weights", disable=not shown) as bar:

        def progress(done: int, total: int) -> None:
            bar.total = total
            bar.update(done - bar.n)

        yield progress
