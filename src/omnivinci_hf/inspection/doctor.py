"""This module tells what a checkpoint is and whether it will load, from its small files and the headers of its
weights.

The verdict is that of `from_pretrained` itself, on PyTorch's meta device, where weights have shapes and no data:
whatever loading checks is checked, and nothing is checked in another way.
"""

import logging
import os
import platform
import re
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field, fields
from importlib import metadata
from pathlib import Path
from typing import Any

from huggingface_hub.utils import are_progress_bars_disabled, disable_progress_bars, enable_progress_bars
from transformers import PreTrainedTokenizerBase
from transformers.utils import PROCESSOR_NAME, is_peft_available
from transformers.utils import logging as transformers_logging

from .._version import __version__
from ..omnivinci.checkpoint_files_omnivinci import Adapted, find_adapter
from ..omnivinci.configuration_omnivinci import OmniVinciConfig
from ..omnivinci.media_encoder_omnivinci import OmniVinciMediaEncoder
from ..omnivinci.modeling_omnivinci import OmniVinciForConditionalGeneration
from ..omnivinci.processing_omnivinci import OmniVinciProcessor
from ..original_layout.findings import Findings, collect_findings
from ..original_layout.keys import TRANSFORMERS_KEYS
from .checkpoint_facts import (
    describe_generation,
    describe_layout,
    describe_processor,
    describe_settings,
    describe_tokenizer,
    read_configurations,
    read_tensors,
    unusual_files,
    weight_parts,
)
from .checkpoint_outline import Outline, open_outline
from .diagnosis import Diagnosis, folders_of, without_private


QUANTIZED = (
    "The weights are quantized, and only loading tells whether they fit: part of how they lie in their files is among "
    "them, not in the headers."
)


@dataclass
class _Loaded:
    """This is what loading gave: the things that loaded, and the error that stopped one."""

    config: Any = None
    model: Any = None
    processor: Any = None
    missing: frozenset[str] = frozenset()
    unexpected: frozenset[str] = frozenset()
    error: Exception | None = None
    report: str = ""
    findings: Findings = field(default_factory=Findings)

    def attempt(self, load: Callable[[], Any]) -> Any:
        """Returns what a function loads, or None when it raises; the first error is kept."""
        try:
            return load()
        except Exception as error:  # whatever stops `from_pretrained` is the diagnosis
            self.error = self.error or error
            return None


def diagnose(name_or_path: str | os.PathLike, *, revision: str | None = None) -> Diagnosis:
    """Tells what a checkpoint is and whether model and processor load, without loading its weights.

    Of a repository on the Hub only JSON files, tokenizer and headers are fetched. An adapter is diagnosed together with
    the model that it belongs to.

    Args:
        name_or_path: folder or Hub id.
        revision: branch, tag or commit of a repository.

    Returns:
        all that was found. What stops loading is in it, and is not raised.

    Raises:
        OSError: when there is no such folder or repository, it cannot be reached, or the user has no access.
        ValueError: for a revision of a folder, or a name that no repository can have.
    """
    with _quiet() as messages, ExitStack() as stack:
        outline = stack.enter_context(open_outline(str(name_or_path), revision))
        known = folders_of(outline.name, outline.folder)
        diagnosis = _begin(outline)
        adapted = find_adapter(outline.folder, {})
        if adapted is None or adapted.base == outline.folder:
            loaded = _load(outline, messages)
        else:
            loaded = _load_adapter(diagnosis, outline.folder, adapted, known, stack, messages)
        _fill(diagnosis, outline, loaded)
        told = {*diagnosis.unusual, *(diagnosis.base.unusual if diagnosis.base is not None else ())}
        diagnosis.messages = [text for text in dict.fromkeys(messages.texts) if not text.endswith(tuple(told))]
        return _without_private(diagnosis, known)


def _load_adapter(
    diagnosis: Diagnosis,
    folder: str,
    adapted: Adapted,
    known: dict[str, str],
    stack: ExitStack,
    messages: "_Messages",
) -> _Loaded:
    """Loads an adapter with its base model, which is diagnosed by the way; its folder joins those that are `known`."""
    loaded = _Loaded()
    if not is_peft_available():
        loaded.error = ImportError("This is an adapter, which needs the package peft: pip install peft")
        return loaded
    outline = loaded.attempt(
        lambda: stack.enter_context(open_outline(adapted.base, adapted.base_options.get("revision")))
    )
    if outline is None:
        loaded.error = OSError(f"This is an adapter of a model that is not there: {loaded.error}")
        return loaded
    # A folder on somebody's machine is nobody else's business, but for its last part.
    name = f".../{Path(outline.name).name}" if os.path.isabs(outline.name) else outline.name
    known |= folders_of(name, outline.folder)
    diagnosis.base = _begin(outline)
    _fill(diagnosis.base, outline, _load(outline, messages))
    return _load(outline, messages, folder)


def _begin(outline: Outline) -> Diagnosis:
    libraries = ("transformers", "torch", "huggingface_hub", "safetensors", "tokenizers", "accelerate", "peft")
    versions = {"omnivinci_hf": __version__, "Python": platform.python_version()}
    for library in libraries:
        try:
            versions[library] = metadata.version(library)
        except metadata.PackageNotFoundError:
            versions[library] = "not installed"
    files = read_configurations(outline)
    return Diagnosis(
        name=outline.name,
        commit=outline.commit,
        versions=versions,
        layout=describe_layout(outline, files),
        num_bytes=sum(outline.sizes.values()),
        num_bytes_read=outline.num_bytes_read,
        files=outline.sizes,
        configurations=files,
        tensors=read_tensors(outline),
    )


def _load(outline: Outline, messages: "_Messages", adapter: str | None = None) -> _Loaded:
    """Loads config, model and processor of a checkpoint, with an adapter on top if one is given."""
    loaded, folder, messages.report = _Loaded(), outline.folder, []
    with suppress(Exception):  # which stops the model too
        loaded.config = OmniVinciConfig.from_pretrained(folder)
    alone = getattr(loaded.config, "architectures", None) == ["OmniVinciMediaEncoder"]
    model_class: Any = OmniVinciMediaEncoder if alone else OmniVinciForConditionalGeneration
    options: dict[str, Any] = {"device_map": "meta", "output_loading_info": True}
    if adapter is not None:
        options["adapter_kwargs"] = {"_adapter_model_path": adapter}
    with collect_findings() as loaded.findings:
        result = loaded.attempt(lambda: model_class.from_pretrained(folder, **options))
        with_processor = adapter if adapter is not None and Path(adapter, PROCESSOR_NAME).is_file() else folder
        loaded.processor = loaded.attempt(lambda: OmniVinciProcessor.from_pretrained(with_processor))
    if result is None:
        loaded.report = "".join(f"\n{line}" for line in messages.report if " MISMATCH " in line)
    else:
        loaded.model, info = result
        loaded.missing, loaded.unexpected = frozenset(info["missing_keys"]), frozenset(info["unexpected_keys"])
    return loaded


def _fill(diagnosis: Diagnosis, outline: Outline, loaded: _Loaded) -> None:
    diagnosis.loads = loaded.error is None
    if loaded.error is not None:
        plain = isinstance(loaded.error, ValueError | OSError | ImportError)
        diagnosis.obstacle = f"{'' if plain else f'{type(loaded.error).__name__}: '}{loaded.error}{loaded.report}"
        if not plain and getattr(loaded.config, "quantization_config", None) is not None:
            # Weights in 4 bits have part of their layout in their data, which the meta device has not.
            diagnosis.loads, diagnosis.obstacle = None, QUANTIZED
    diagnosis.parts = weight_parts(diagnosis.configurations, diagnosis.tensors)
    diagnosis.unusual += unusual_files(outline, diagnosis.configurations, diagnosis.tensors)
    if diagnosis.base is None:
        _add_findings(diagnosis, loaded.findings)
    if outline.from_cache:
        diagnosis.unusual.append("The Hub was not asked, since it is switched off: this is what the cache holds of it.")
    diagnosis.random_tensors = sorted(loaded.missing)
    if loaded.unexpected:
        diagnosis.unusual.append(f"Tensors that the model does not have are left out: {_some(loaded.unexpected)}.")
    if loaded.config is not None:
        diagnosis.settings = describe_settings(loaded.config)
    tokenizer = getattr(loaded.processor, "tokenizer", None)
    if tokenizer is not None:
        _fill_words(diagnosis, loaded, tokenizer)
    if loaded.model is not None and loaded.model.can_generate():
        diagnosis.generation = describe_generation(loaded.model.generation_config, tokenizer)


def _fill_words(diagnosis: Diagnosis, loaded: _Loaded, tokenizer: PreTrainedTokenizerBase) -> None:
    """Fills in what the processor and its tokenizer make of words."""
    diagnosis.tokenizer = describe_tokenizer(tokenizer)
    diagnosis.processor = describe_processor(loaded.processor)
    diagnosis.chat_template = loaded.processor.chat_template or tokenizer.chat_template
    try:
        messages = [{"role": "user", "content": "What happens?"}]
        diagnosis.example_prompt = loaded.processor.apply_chat_template(messages, add_generation_prompt=True)
    except Exception as error:  # a template is a program, which may end in any error
        diagnosis.unusual.append(f"The chat template fails: {error}")
    num_rows = None if loaded.config is None else loaded.config.text_config.vocab_size
    if num_rows is not None and len(tokenizer) > num_rows:
        diagnosis.unusual.append(f"The tokenizer has {len(tokenizer)} tokens, but the model embeds {num_rows}.")


def _add_findings(diagnosis: Diagnosis, findings: Findings) -> None:
    diagnosis.assumed += [one.sentence for one in findings if one.level == "assumed"]
    diagnosis.unusual += [one.sentence for one in findings if one.level == "unusual"]
    for finding in findings:
        if finding.level == "ignored" and finding.key not in TRANSFORMERS_KEYS:  # these are in every file
            diagnosis.ignored.setdefault(f"{finding.component}/{finding.file}".lstrip("/"), []).append(finding.key)


def _some(names: Iterable[str]) -> str:
    names = sorted(names)
    return ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")


def _without_private(diagnosis: Diagnosis, known: Mapping[str, str]) -> Diagnosis:
    for item in fields(diagnosis):
        value = getattr(diagnosis, item.name)
        if isinstance(value, Diagnosis):
            _without_private(value, known)
        elif item.name != "parts":
            setattr(diagnosis, item.name, without_private(value, known))
    return diagnosis


@contextmanager
def _quiet() -> Iterator["_Messages"]:
    """Collects what the libraries say while they load, instead of showing it."""
    messages = _Messages()
    loggers = [logging.getLogger(name) for name in ("transformers", "omnivinci_hf", "huggingface_hub", "peft")]
    before = [(logger.handlers, logger.propagate, logger.level) for logger in loggers]
    bars = transformers_logging.is_progress_bar_enabled(), not are_progress_bars_disabled()
    transformers_logging.disable_progress_bar()
    disable_progress_bars()
    for logger in loggers:
        logger.handlers, logger.propagate = [messages], False
        logger.setLevel(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield messages
    finally:
        for logger, (handlers, propagate, level) in zip(loggers, before, strict=True):
            logger.handlers, logger.propagate = handlers, propagate
            logger.setLevel(level)
        if bars[0]:
            transformers_logging.enable_progress_bar()
        if bars[1]:
            enable_progress_bars()


class _Messages(logging.Handler):
    """This handler keeps the messages, and the lines of Transformers' last report about tensors apart from them."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.texts: list[str] = []
        self.report: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        text = re.sub(r"\033\[[0-9;]*m", "", record.getMessage())  # without colours
        if "LOAD REPORT" in text:
            self.report = text.splitlines()
        else:
            self.texts.append(text)
