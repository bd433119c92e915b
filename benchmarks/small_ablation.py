"""The paper's three ideas at small scale: time groups, rotary time, OmniAlignNet; and sweeps of T_G and T_max.

    python benchmarks/small_ablation.py --output runs [--seeds 3] [--jobs 2] [--joint-steps 700] [--arms NAME ...]
    python benchmarks/small_ablation.py --output benchmarks/ablation_runs --report-only  # the kept runs' report anew

Each arm is trained from the encoders of the package's checkpoint, or of `--encoders`, on the same clips (6 to 10 s) for
as many steps, once per seed, and asked about held-out clips (8 to 10 s) that were read from files: as they are, with a
share of the frames left out (so that their number no longer tells the time), without the clip, and with the picture or
the sound of another one. A run, of some 12 minutes of one core, is not repeated when it is already in `--output`: the
command may be interrupted; runs of other settings are refused. At the end tables and plot are written from all runs
that are there, to `ablation.md` and `ablation.png` in `model_cards/` or `--cards`.
"""

import argparse
import datetime
import hashlib
import json
import math
import statistics
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
import transformers
from measuring import markdown, write_json, write_section
from transformers.utils import is_matplotlib_available

from omnivinci_hf import OmniVinciForConditionalGeneration
from omnivinci_hf.small import small_checkpoint
from omnivinci_hf.world import FAMILIES
from omnivinci_hf.world.dataset import seed_questions, split_seeds
from omnivinci_hf.world.evaluation import neighbours
from omnivinci_hf.world.guessing import audit
from omnivinci_hf.world.model import OMNI_ALIGN, build_config, build_processor, build_tokenizer
from omnivinci_hf.world.muon import MUON_RATE
from omnivinci_hf.world.track_evaluation import exact_matches, questions_about_tracks
from omnivinci_hf.world.tracks import DURATIONS, TrackEncoder, load_tracks, scene_of
from omnivinci_hf.world.training import (
    BATCH_SIZE,
    HARDER,
    Plan,
    TrainingLog,
    keep_freed_memory,
    recipe_of,
    train_small,
    training_device,
)


TRAINED_SEC, ASKED_SEC = (6, 10), (8, 10)  # order is asked about in clips of 8 s and more
FIRST_SEED = 70_000  # of the test split, apart from what is asked about elsewhere
DROPPED = 0.3  # of the frames
PER_FAMILY = 2  # questions about a clip
CARDS = Path(__file__).parents[1] / "model_cards"


def arm(time: dict[str, Any], group_sec: float | None = 1.0, align: bool = False) -> dict[str, Any]:
    options = {"group_duration_sec": group_sec, "video_time_embedding": time, "audio_time_embedding": time}
    return options if align else {**options, "omni_align_config": None}


def crte(max_time: float, theta: float = 8.0) -> dict[str, Any]:
    return {"type": "crte", "max_time": max_time, "theta": theta}


NONE = {"type": "none"}
ARMS = {
    "concatenation": arm(NONE, None),
    "TEG": arm(NONE),
    "TEG, learned": arm({"type": "learned", "max_time": 10.0}),
    "TEG, RoTE": arm({"type": "rote"}),
    "TEG, CRTE": arm(crte(4.0)),
    "TEG, CRTE, OmniAlignNet": arm(crte(4.0), align=True),
    "TEG, CRTE, OmniAlignNet, weight 0.1": {
        **arm(crte(4.0), align=True),
        "omni_align_config": {**OMNI_ALIGN, "loss_weight": 0.1},
    },
    "concatenation, CRTE": arm(crte(4.0), None),
    "TEG, CRTE, theta 10000": arm(crte(4.0, 10000.0)),
    "T_G 0.5 s": arm(crte(4.0), 0.5),
    "T_G 2 s": arm(crte(4.0), 2.0),
    "T_G 4 s": arm(crte(4.0), 4.0),
    "T_max 1 s": arm(crte(1.0)),
    "T_max 2 s": arm(crte(2.0)),
    "T_max 8 s": arm(crte(8.0)),
    "T_max 16 s": arm(crte(16.0)),
}
COMMON = "TEG, CRTE"  # a point of both sweeps
FIRST_ARMS = list(ARMS)[:9]
SWEEPS = {
    "T_G": {"T_G 0.5 s": 0.5, COMMON: 1.0, "T_G 2 s": 2.0, "T_G 4 s": 4.0},
    "T_max": {"T_max 1 s": 1.0, "T_max 2 s": 2.0, COMMON: 4.0, "T_max 8 s": 8.0, "T_max 16 s": 16.0},
}
WHOLE, FEWER, TEXT = "whole clips", "fewer frames", "text only"
OTHER_PICTURE, OTHER_SOUND = "picture shuffled", "sound shuffled"


def seeds_of_length(split: str, number: int, seconds: tuple[float, float], start: int = 0) -> list[int]:
    """The first seeds of clips that are neither shorter nor longer."""
    seeds = split_seeds(split, number * len(DURATIONS), start)
    return [seed for seed in seeds if seconds[0] <= DURATIONS[seed % len(DURATIONS)] <= seconds[1]][:number]


def learned_seeds(arguments: argparse.Namespace) -> list[int]:
    return seeds_of_length("train", arguments.tracks, TRAINED_SEC)


def asked_seeds(arguments: argparse.Namespace) -> list[int]:
    return seeds_of_length("test", arguments.clips, ASKED_SEC, FIRST_SEED)


def load_shared(arguments: argparse.Namespace) -> OmniVinciForConditionalGeneration:
    """The model whose encoders all arms share."""
    folder = arguments.encoders or small_checkpoint()
    return OmniVinciForConditionalGeneration.from_pretrained(folder, dtype=torch.float32)


def digest(model: OmniVinciForConditionalGeneration) -> str:
    """SHA-256 of the encoders' weights, in the order of their names."""
    found = hashlib.sha256()
    for tower in (model.model.vision_tower, model.model.audio_tower):
        for name, value in sorted(tower.state_dict().items()):
            found.update(name.encode() + value.numpy().tobytes())
    return found.hexdigest()


def settings(arguments: argparse.Namespace, shared: OmniVinciForConditionalGeneration) -> dict[str, Any]:
    """What all runs of a report must have in common."""
    names = ("tracks", "clips", "alignment_steps", "joint_steps")
    config = build_config(build_tokenizer())
    return {
        **{name: getattr(arguments, name) for name in names},
        "encoders": digest(shared),
        "recipes": [asdict(recipe_of(name, config)) for name in ("alignment", "joint")],
        "muon_rate": MUON_RATE,
        "weights": HARDER,
        "batch_size": BATCH_SIZE,
        "dropped": DROPPED,
        "per_family": PER_FAMILY,
        "device": str(training_device()),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
    }


def train_arm(name: str, seed: int, arguments: argparse.Namespace) -> dict[str, Any]:
    """Train and ask one model; returns what is kept of it."""
    torch.set_num_threads(1)
    keep_freed_memory()
    shared = load_shared(arguments)
    tokenizer = build_tokenizer()
    processor = build_processor(build_config(tokenizer), tokenizer)
    learned, held_out = (
        TrackEncoder(processor, load_tracks(seeds, arguments.output / "tracks"))
        for seeds in (learned_seeds(arguments), asked_seeds(arguments))
    )
    plan = Plan(
        alignment_steps=arguments.alignment_steps,
        joint_steps=arguments.joint_steps,
        num_tracks=arguments.tracks,
        seed=seed,
        options=ARMS[name],
    )
    folder = arguments.output / f"{name} {seed}"
    log = TrainingLog(lambda line: print(f"{name} {seed}: {line}", flush=True))
    train_small(folder, plan, learned, shared, log)
    model = OmniVinciForConditionalGeneration.from_pretrained(folder, dtype=torch.float32)
    held_out = held_out.for_processor(build_processor(model.config, tokenizer))
    joint = [record for record in log.records if record["stage"] == "joint"]
    losses = [record.get("language_loss", record["loss"]) for record in joint[-5:]]
    return {
        "arm": name,
        "options": ARMS[name],
        "seed": seed,
        "settings": settings(arguments, shared),
        "scores": ask(model, held_out, questions_about_tracks(held_out, asked_seeds(arguments), PER_FAMILY)),
        "language_loss": statistics.mean(losses),
        "seconds": log.records[-1]["seconds"],
    }


def ask(model, held_out: TrackEncoder, asked: list) -> dict[str, dict[str, tuple[int, int]]]:
    """Right answers and questions, by condition and family."""
    others = neighbours([track.scene.duration_sec for track in held_out.tracks])
    conditions = {
        WHOLE: {},
        FEWER: {"dropped": DROPPED},
        TEXT: {"blind": True},
        OTHER_PICTURE: {"seen": others},
        OTHER_SOUND: {"heard": others},
    }
    return {
        condition: {
            family: (score.num_right, score.num_asked)
            for family, score in exact_matches(model, held_out, asked, **options).items()
        }
        for condition, options in conditions.items()
    }


def run_missing(arguments: argparse.Namespace) -> None:
    """Each run in a process of its own, several at a time."""

    def run(job: tuple[str, int]) -> None:
        name, seed = job
        command = [sys.executable, __file__, *sys.argv[1:], "--one", name, str(seed)]
        subprocess.run(command, check=True)

    wanted = settings(arguments, load_shared(arguments))
    for found in by_arm(arguments.output).values():
        for past in found:
            if past["settings"] != wanted:
                raise ValueError(
                    f"{result_path(arguments, past['arm'], past['seed'])} is of a run with other settings: give "
                    "another `--output`."
                )
    for seeds in (asked_seeds(arguments), learned_seeds(arguments)):  # the tracks are made once, before
        load_tracks(seeds, arguments.output / "tracks", arguments.jobs)
    jobs = [(name, seed) for seed in range(arguments.seeds) for name in arguments.arms]
    jobs = [job for job in jobs if not result_path(arguments, *job).exists()]
    with ThreadPoolExecutor(arguments.jobs) as pool:
        list(pool.map(run, jobs))


def result_path(arguments: argparse.Namespace, name: str, seed: int) -> Path:
    return arguments.output / f"{name} {seed}.json"


def by_arm(output: Path) -> dict[str, list[dict]]:
    """All runs that are there, by arm.

    Raises:
        ValueError: when their settings differ, or an arm is of another make than today's.
    """
    runs = [json.loads(path.read_text(encoding="utf-8")) for path in sorted(output.glob("*.json"))]
    for run in runs:
        if run["options"] != ARMS.get(run["arm"]):
            raise ValueError(f"{output} holds a run of {run['arm']!r}, which is another arm now: give another folder.")
        if run["settings"] != runs[0]["settings"]:
            raise ValueError(
                f"{output} holds runs of different settings, {runs[0]['settings']} and {run['settings']}: give each "
                "their own folder."
            )
    return {name: found for name in ARMS if (found := [run for run in runs if run["arm"] == name])}


def accuracies(runs: list[dict], family: str, condition: str = WHOLE) -> list[float]:
    """Computes the accuracies of each run, in percent."""
    pairs = [run["scores"][condition][family] for run in runs]
    return [100 * right / asked if asked else math.nan for right, asked in pairs]


def over_families(runs: list[dict], condition: str = WHOLE) -> list[float]:
    columns = [accuracies(runs, family, condition) for family in FAMILIES]
    return [statistics.mean(values) for values in zip(*columns, strict=True)]


def table(arms: dict[str, list[dict]], names: Sequence[str], condition: str = WHOLE) -> str:
    """Mean and standard deviation over seeds, in percent."""
    rows = []
    for name in names:
        if runs := arms.get(name):
            columns = [accuracies(runs, family, condition) for family in FAMILIES] + [over_families(runs, condition)]
            loss = [_spread([run["language_loss"] for run in runs], 3)] if condition == WHOLE else []
            rows.append([name, len(runs), *(_spread(values, 1) for values in columns), *loss])
    return markdown(["arm", "seeds", *FAMILIES, "all", *(["loss"] if condition == WHOLE else [])], rows)


def _spread(values: list[float], digits: int) -> str:
    deviation = f" ± {statistics.stdev(values):.{digits}f}" if len(values) > 1 else ""
    return f"{statistics.mean(values):.{digits}f}{deviation}"


def chance(num_clips: int) -> str:
    """What counting alone can guess about such clips."""
    scenes = [(seed, scene_of(seed)) for seed in seeds_of_length("validation", num_clips, ASKED_SEC)]
    guesses = audit([(scene, seed_questions(seed, scene)) for seed, scene in scenes])
    rows = []
    for source in ("text", "vision", "sound"):
        found = {guess.family: f"{guess.accuracy:.1%}" for guess in guesses if guess.source == source}
        rows.append([f"from {source}", *(found.get(family, "") for family in FAMILIES)])
    return markdown(["guessed", *FAMILIES], rows)


def write_report(output: Path, cards: Path, audited: int) -> None:
    arms = by_arm(output)
    if not arms:
        raise ValueError(f"{output} holds no finished runs.")
    first = next(iter(arms.values()))[0]
    shared = first["settings"]
    asked = ", ".join(f"{count} {family}" for family, (_, count) in first["scores"][WHOLE].items())
    minutes = statistics.mean(run["seconds"] for runs in arms.values() for run in runs) / 60
    text = (
        f"## Runs ({datetime.date.today()})\n\n"
        "`benchmarks/small_ablation.py`: exact matches in percent on held-out clips, mean and standard deviation over "
        'seeds; "all" is the mean of the six families. Every run: '
        f"{shared['alignment_steps']} steps of alignment and {shared['joint_steps']} of joint training, each on "
        f"{shared['batch_size']} clips of {TRAINED_SEC[0]} to {TRAINED_SEC[1]} s put together from {shared['tracks']} "
        f"files ({minutes:.0f} minutes on average, {shared['device']}, one thread); encoders with SHA-256 "
        f"{shared['encoders'][:8]}, frozen. Asked about {shared['clips']} other files of {ASKED_SEC[0]} to "
        f'{ASKED_SEC[1]} s: {asked} questions. "loss" is that of language in the last hundred steps. '
        f"torch {shared['torch']}, transformers {shared['transformers']}.\n\n"
        f"{table(arms, FIRST_ARMS)}\n\n{chance(audited)}\n\n![Accuracy by arm and family](ablation.png)\n\n"
        f"### T_G\n\n{table(arms, [*SWEEPS['T_G'], 'concatenation, CRTE'])}\n\n"
        f"### T_max\n\n{table(arms, list(SWEEPS['T_max']))}\n\n"
        f"### {DROPPED:.0%} of the frames left out\n\n{table(arms, list(ARMS), FEWER)}\n\n"
        f"### Questions alone\n\n{table(arms, list(ARMS), TEXT)}\n\n"
        f"### The picture of another clip\n\n{table(arms, list(ARMS), OTHER_PICTURE)}\n\n"
        f"### The sound of another clip\n\n{table(arms, list(ARMS), OTHER_SOUND)}\n"
    )
    write_section(cards / "ablation.md", "runs", text)
    plot(arms, cards / "ablation.png")


def plot(arms: dict[str, list[dict]], path: Path) -> None:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(12, 7), layout="constrained")
    grid = figure.add_gridspec(2, 2)
    axes = figure.add_subplot(grid[0, :])
    shown = [name for name in FIRST_ARMS if name in arms]
    for number, name in enumerate(shown):
        offset = (number - (len(shown) - 1) / 2) / (len(shown) + 2)
        for place, family in enumerate(FAMILIES):
            values = accuracies(arms[name], family)
            axes.plot([place + offset] * len(values), values, ".", color=f"C{number}", markersize=4)
            label = name if place == 0 else None
            axes.plot(place + offset, statistics.mean(values), "o", color=f"C{number}", label=label, mfc="none")
    axes.set(xticks=range(len(FAMILIES)), xticklabels=FAMILIES, ylabel="exact match, %")
    axes.legend(fontsize=7, ncols=2)
    for column, (name, points) in enumerate(SWEEPS.items()):
        axes = figure.add_subplot(grid[1, column])
        there = {value: arms[arm] for arm, value in points.items() if arm in arms}
        for family in FAMILIES:
            values = [accuracies(runs, family) for runs in there.values()]
            errors = [statistics.stdev(found) if len(found) > 1 else 0.0 for found in values]
            axes.errorbar(list(there), [statistics.mean(found) for found in values], errors, marker="o", label=family)
        axes.set(xscale="log", xlabel=f"{name}, s", ylabel="exact match, %")
        axes.set_xticks(list(there), labels=[f"{value:g}" for value in there])
        axes.minorticks_off()
        axes.legend(fontsize=7)
    figure.savefig(path, dpi=110)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, required=True, help="folder of tracks, checkpoints and runs")
    parser.add_argument("--encoders", help="checkpoint whose encoders all share (default: the package's)")
    parser.add_argument("--cards", type=Path, default=CARDS, help="folder of the report (default: model_cards)")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--jobs", type=int, default=2, help="runs at a time, of one thread each")
    parser.add_argument("--arms", nargs="+", default=list(ARMS), choices=list(ARMS), metavar="NAME")
    parser.add_argument("--tracks", type=int, default=1000, help="files to learn from")
    parser.add_argument("--clips", type=int, default=300, help="held-out files")
    parser.add_argument("--alignment-steps", type=int, default=120)
    parser.add_argument("--joint-steps", type=int, default=700)
    parser.add_argument("--audit", type=int, default=2000, help="so many scenes to learn from what can be guessed")
    parser.add_argument("--report-only", action="store_true", help="train nothing")
    parser.add_argument("--one", nargs=2, metavar=("NAME", "SEED"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if not is_matplotlib_available():
        parser.error("The plot needs matplotlib: pip install matplotlib")
    for folder in (arguments.output, arguments.cards):
        folder.mkdir(parents=True, exist_ok=True)
    if arguments.one:
        name, seed = arguments.one[0], int(arguments.one[1])
        write_json(result_path(arguments, name, seed), train_arm(name, seed, arguments))
        return
    if not arguments.report_only:
        run_missing(arguments)
    write_report(arguments.output, arguments.cards, arguments.audit)


if __name__ == "__main__":
    main()
