"""This module trains the small checkpoint: `python -m omnivinci_hf.world.training --output FOLDER`.

Encoders first, each alone under a head that is thrown away (they stand in for SigLIP and Audio Flamingo 3, which come
trained), then the stages of `recipes/` through the package's own collator and trainer: alignment of the projectors, and
joint training with OmniAlignNet. Muon updates the matrices, at a multiple of the rates of the recipes. Everything is
seeded; nothing is downloaded.
"""

import argparse
import ctypes
import json
import os
import platform
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, cast

import torch
import transformers
from transformers import TrainerCallback, TrainingArguments, set_seed

from ..omnivinci.modeling_omnivinci import OmniVinciForConditionalGeneration
from ..omnivinci.processing_omnivinci import OmniVinciProcessor
from ..training import OmniVinciDataCollator, OmniVinciTrainer, Recipe, apply_recipe, load_recipe
from . import FAMILIES
from .model import build_config, build_model, build_processor, build_tokenizer
from .muon import MuonWithAdamW, check_muon, matrices_of
from .tower_training import train_audio_tower, train_vision_tower
from .tracks import PairedClips, TrackEncoder, load_tracks


ALIGNMENT_SEC = 10.0  # longest clips of the first stage, which are quicker to learn from
BATCH_SIZE = 16
HARDER = {"sound_while_shape": 3.0, "order": 2.0, "time": 2.0}  # what is learned last is asked about more often
LOSSES = ("loss", "language_loss", "omni_align_loss")
MALLOC_OPTIONS = ((-4, 0), (-1, 2**31 - 1), (-2, 2**29))  # M_MMAP_MAX, M_TRIM_THRESHOLD, M_TOP_PAD


@dataclass(frozen=True)
class Plan:
    """A plan says how long everything takes, in steps. `options` are those of the model, see [`build_config`].

    Raises:
        ValueError: when a count is below one, or the seed negative.
    """

    vision_steps: int = 4500
    audio_steps: int = 400
    alignment_steps: int = 400
    joint_steps: int = 4200
    num_tracks: int = 3000
    seed: int = 0
    options: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self):
        for name in ("vision_steps", "audio_steps", "alignment_steps", "joint_steps", "num_tracks"):
            if (value := getattr(self, name)) < 1:
                raise ValueError(f"`{name}` must be at least 1, got {value}.")
        if self.seed < 0:
            raise ValueError(f"`seed` must not be negative, got {self.seed}.")


class TrainingLog:
    """The log records what all stages come to, and writes it as it comes; seconds count from its beginning."""

    def __init__(self, write: Callable[[str], None] = print):
        self.write, self.started = write, time.monotonic()
        self.records: list[dict[str, Any]] = []

    def add(self, stage: str, **values: float) -> None:
        """Records the values of a step."""
        seconds = time.monotonic() - self.started
        values = {name: round(value, 4) for name, value in values.items()}
        self.records.append({"stage": stage, "seconds": round(seconds, 1), **values})
        self.write(" ".join(f"{name} {value}" for name, value in self.records[-1].items()))

    def as_json(self) -> dict[str, Any]:
        """Makes plain data of the log."""
        versions = {"torch": torch.__version__, "transformers": transformers.__version__}
        return {"threads": torch.get_num_threads(), **versions, "records": self.records}


def training_device() -> torch.device:
    """Finds the device, CUDA or the CPU: other devices lack the double precision of the time embeddings.

    Raises:
        ImportError: when PyTorch is too old.
        ValueError: when there are several GPUs.
    """
    check_muon()
    if torch.cuda.device_count() > 1:
        raise ValueError(f"Training sees {torch.cuda.device_count()} GPUs: let it see one (CUDA_VISIBLE_DEVICES=0).")
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def train_small(
    output: str | os.PathLike,
    plan: Plan,
    encoder: TrackEncoder,
    towers: OmniVinciForConditionalGeneration | None = None,
    log: TrainingLog | None = None,
) -> Path:
    """Trains by a plan and saves model, processor and `log.json` (plan, versions, losses) to `output`.

    `encoder` has the tracks. `towers`, where several models are compared, has the trained encoders that all share. One
    GPU is used if there is one.
    """
    device = training_device()
    log = TrainingLog() if log is None else log
    tokenizer = build_tokenizer()
    config = build_config(tokenizer, **plan.options)
    processor = build_processor(config, tokenizer)
    model = build_model(config, plan.seed)
    model.to(device)  # type: ignore[arg-type]  # the method is wrapped, which hides its own arguments
    encoder = encoder.for_processor(processor)
    set_seed(plan.seed)
    if towers is None:
        train_towers(model, encoder, plan, log)
    else:
        for name in ("vision_tower", "audio_tower"):
            getattr(model.model, name).load_state_dict(getattr(towers.model, name).state_dict())
    easy = {"lists": 0.5, "families": ("vision", "audio", "time"), "max_sec": ALIGNMENT_SEC}
    stages: list[tuple[str, int, dict]] = [
        ("alignment", plan.alignment_steps, easy),
        ("joint", plan.joint_steps, {"lists": 0.25, "families": FAMILIES, "weights": HARDER}),
    ]
    for number, (name, steps, choice) in enumerate(stages):
        rows = PairedClips(encoder, BATCH_SIZE * steps, seed=1000 * plan.seed + number, **choice)
        model = train_stage(model, processor, recipe_of(name, config), rows, Path(output), plan.seed, log)
    model.save_pretrained(output)
    processor.save_pretrained(output)
    values = {"plan": asdict(plan), **log.as_json()}
    (Path(output) / "log.json").write_text(json.dumps(values, indent=1) + "\n", encoding="utf-8")
    return Path(output)


def train_towers(model: OmniVinciForConditionalGeneration, encoder: TrackEncoder, plan: Plan, log: TrainingLog) -> None:
    """Trains both towers, and logs the share that each named right at the end."""
    for name, train, steps in (
        ("audio tower", train_audio_tower, plan.audio_steps),
        ("vision tower", train_vision_tower, plan.vision_steps),
    ):
        right = train(model, encoder, steps, seed=plan.seed, log=log.write)
        log.add(name, step=steps, right=right)


def train_stage(
    model: OmniVinciForConditionalGeneration,
    processor: OmniVinciProcessor,
    recipe: Recipe,
    rows: PairedClips,
    output: Path,
    seed: int,
    log: TrainingLog,
) -> OmniVinciForConditionalGeneration:
    """Trains a model in memory by a recipe, in one pass over `rows`."""
    for parameter in model.parameters():
        parameter.requires_grad_(True)
    for module in model.modules():
        if (freeze_unused := getattr(module, "freeze_unused", None)) is not None:
            freeze_unused()
    apply_recipe(model, recipe)
    arguments = TrainingArguments(
        str(output),
        use_cpu=training_device().type == "cpu",
        max_steps=len(rows) // BATCH_SIZE,
        seed=seed,
        report_to="none",
        logging_steps=20,
        logging_first_step=True,
        save_strategy="no",
        disable_tqdm=True,
        train_sampling_strategy="sequential",  # drawn at random already, in blocks of one length
        **recipe.arguments,
    )
    trainer = MuonTrainer(
        model,
        arguments,
        recipe=recipe,
        data_collator=OmniVinciDataCollator(processor),
        train_dataset=rows,
        processing_class=processor,
        callbacks=[_Recorder(recipe.name, log)],
    )
    trainer.train()
    return model


class MuonTrainer(OmniVinciTrainer):
    """This trainer updates matrices with Muon; tables of words and times, and the head, stay with AdamW."""

    def create_optimizer(self, model=None) -> torch.optim.Optimizer:
        """Makes the optimizer, the first time that it is called."""
        if self.optimizer is None:
            trained = cast(OmniVinciForConditionalGeneration, self.model)
            matrices = matrices_of(trained, trained.get_output_embeddings())
            betas = self.args.adam_beta1, self.args.adam_beta2
            self.optimizer = MuonWithAdamW(self.parameter_groups(trained), matrices, betas)
        return self.optimizer


class _Recorder(TrainerCallback):
    """Hands the losses of a stage on."""

    def __init__(self, stage: str, log: TrainingLog):
        self.stage, self.log = stage, log

    def on_log(self, args, state, control, logs=None, **kwargs):
        if losses := {name: logs[name] for name in LOSSES if name in (logs or {})}:
            self.log.add(self.stage, step=state.global_step, **losses)


def recipe_of(name: str, config) -> Recipe:
    """Loads the recipe of a stage, without OmniAlignNet for a model that has none."""
    recipe = load_recipe(Path(__file__).parent / "recipes" / f"{name}.yaml")
    if config.omni_align_config is None:
        rates = {part: rate for part, rate in recipe.learning_rates.items() if part != "omni_align_net"}
        recipe = replace(recipe, learning_rates=rates)
    return recipe


def keep_freed_memory() -> None:
    """Keeps freed memory in the process, where glibc would give large blocks back to the system at once.

    To get and clear them anew takes a tenth of a step.
    """
    if platform.libc_ver()[0] == "glibc":
        for option in MALLOC_OPTIONS:
            ctypes.CDLL(None).mallopt(*option)


def main() -> None:
    """Runs the command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", required=True, help="folder of the checkpoint")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--cache", help="folder for decoded tracks, to make them only once")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    for name in ("vision_steps", "audio_steps", "alignment_steps", "joint_steps", "num_tracks"):
        parser.add_argument(
            f"--{name.replace('_', '-')}", type=int, default=getattr(Plan, name), help="default: %(default)s"
        )
    arguments = parser.parse_args()
    try:
        plan = Plan(**{name: getattr(arguments, name) for name in Plan.__dataclass_fields__ if name != "options"})
    except ValueError as error:
        parser.error(str(error))
    training_device()  # complains before the work, if it must
    log = TrainingLog(partial(print, flush=True))
    keep_freed_memory()
    torch.set_num_threads(arguments.threads)
    tokenizer = build_tokenizer()
    processor = build_processor(build_config(tokenizer), tokenizer)
    tracks = load_tracks(range(plan.num_tracks), arguments.cache, arguments.threads)
    log.add("tracks", count=len(tracks))
    train_small(arguments.output, plan, TrackEncoder(processor, tracks), log=log)


if __name__ == "__main__":
    main()
