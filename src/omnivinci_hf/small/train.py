"""Train the small checkpoint: `python -m omnivinci_hf.small.train --output FOLDER`.

Encoders first, each alone under a head that is thrown away (they stand in for SigLIP and Audio Flamingo 3, which come
trained), then the stages of `recipes/` through the package's own collator and trainer: alignment of the projectors, and
joint training with OmniAlignNet. Everything is seeded; nothing is downloaded.
"""

import argparse
import ctypes
import json
import os
import platform
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from typing import Any

import torch
from transformers import TrainerCallback, TrainingArguments, set_seed

from ..modeling_omnivinci import OmniVinciForConditionalGeneration
from ..training import OmniVinciDataCollator, OmniVinciTrainer, Recipe, apply_recipe, load_recipe
from ..world import FAMILIES
from .model import build_config, build_model, build_processor, build_tokenizer
from .towers import train_audio_tower, train_vision_tower
from .tracks import PairedClips, TrackEncoder, load_tracks


ALIGNMENT_SEC = 10.0  # longest clips of the first stage, which are quicker to learn from
BATCH_SIZE = 16
LOSSES = ("loss", "language_loss", "omni_align_loss")
MALLOC_OPTIONS = {"M_MMAP_MAX": (-4, 0), "M_TRIM_THRESHOLD": (-1, 2**31 - 1), "M_TOP_PAD": (-2, 2**29)}


@dataclass(frozen=True)
class Plan:
    """How long everything takes, in steps. `options` are those of the model, see [`build_config`]."""

    vision_steps: int = 6000
    audio_steps: int = 500
    alignment_steps: int = 800
    joint_steps: int = 5000
    num_tracks: int = 2400
    seed: int = 0
    options: Mapping[str, Any] = field(default_factory=dict)


def train_small(
    output: str | os.PathLike,
    plan: Plan,
    encoder: TrackEncoder | None = None,
    towers: OmniVinciForConditionalGeneration | None = None,
    log: Callable[[str], None] = print,
) -> Path:
    """Train by a plan and save model, processor and `log.json` to `output`.

    `encoder` and `towers`, where several models are compared, are tracks and encoders that were made before.
    """
    tokenizer = build_tokenizer()
    config = build_config(tokenizer, **plan.options)
    processor = build_processor(config, tokenizer)
    model = build_model(config, plan.seed)
    records: list[dict] = []
    if encoder is None:
        encoder = TrackEncoder(processor, load_tracks(range(plan.num_tracks), num_processes=os.cpu_count() or 1))
    else:
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
        ("joint", plan.joint_steps, {"lists": 0.25, "families": FAMILIES}),
    ]
    for number, (name, steps, choice) in enumerate(stages):
        rows = PairedClips(encoder, BATCH_SIZE * steps, seed=1000 * plan.seed + number, **choice)
        model = train_stage(model, processor, _recipe(name, config), rows, steps, Path(output), plan.seed, records, log)
    model.save_pretrained(output)
    processor.save_pretrained(output)
    (Path(output) / "log.json").write_text(json.dumps(records, indent=1) + "\n", encoding="utf-8")
    return Path(output)


def train_towers(model, encoder: TrackEncoder, plan: Plan, log: Callable[[str], None] = print) -> None:
    train_audio_tower(model, encoder, plan.audio_steps, seed=plan.seed, log=log)
    train_vision_tower(model, encoder, plan.vision_steps, seed=plan.seed, log=log)


def train_stage(model, processor, recipe: Recipe, rows, steps: int, output: Path, seed: int, records: list, log):
    """One recipe, from a model in memory to another."""
    for parameter in model.parameters():
        parameter.requires_grad_(True)
    for module in model.modules():
        if hasattr(module, "freeze_unused"):
            module.freeze_unused()
    model = apply_recipe(model, recipe)
    arguments = TrainingArguments(
        str(output),
        max_steps=steps,
        seed=seed,
        report_to="none",
        logging_steps=20,
        logging_first_step=True,
        save_strategy="no",
        disable_tqdm=True,
        train_sampling_strategy="sequential",  # drawn at random already, in blocks of one length
        **recipe.arguments,
    )
    trainer = OmniVinciTrainer(
        model,
        arguments,
        recipe=recipe,
        data_collator=OmniVinciDataCollator(processor),
        train_dataset=rows,
        processing_class=processor,
        callbacks=[_Recorder(recipe.name, records, log)],
    )
    trainer.train()
    return model


class _Recorder(TrainerCallback):
    """Keeps the losses of a stage, and tells them."""

    def __init__(self, stage: str, records: list[dict], log: Callable[[str], None]):
        self.stage, self.records, self.write = stage, records, log

    def on_log(self, args, state, control, logs=None, **kwargs):
        losses = {name: round(logs[name], 4) for name in LOSSES if name in (logs or {})}
        if losses:
            seconds = round(time.monotonic() - _STARTED, 1)
            self.records.append({"stage": self.stage, "step": state.global_step, "seconds": seconds, **losses})
            self.write(" ".join(f"{name} {value}" for name, value in self.records[-1].items()))


_STARTED = time.monotonic()


def _recipe(name: str, config) -> Recipe:
    recipe = load_recipe(resources.files(__package__) / "recipes" / f"{name}.yaml")
    if config.omni_align_config is None:
        recipe.learn.pop("omni_align_net", None)
    return recipe


def keep_freed_memory() -> None:
    """glibc gives large blocks back to the system at once; to get and clear them anew takes a tenth of a step."""
    if platform.libc_ver()[0] == "glibc":
        for option in MALLOC_OPTIONS.values():
            ctypes.CDLL(None).mallopt(*option)


def main() -> None:
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
    keep_freed_memory()
    torch.set_num_threads(arguments.threads)
    plan = Plan(**{name: getattr(arguments, name) for name in Plan.__dataclass_fields__ if name != "options"})
    tokenizer = build_tokenizer()
    processor = build_processor(build_config(tokenizer), tokenizer)
    tracks = load_tracks(range(plan.num_tracks), arguments.cache, arguments.threads)
    print(f"{len(tracks)} tracks after {time.monotonic() - _STARTED:.0f} s", flush=True)
    encoder = TrackEncoder(processor, tracks)
    train_small(arguments.output, plan, encoder, log=lambda text: print(text, flush=True))


if __name__ == "__main__":
    main()
