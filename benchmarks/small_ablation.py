"""The paper's three ideas at small scale: time groups, rotary time, OmniAlignNet; and sweeps of T_G and T_max.

    python benchmarks/small_ablation.py --output runs [--seeds 3] [--jobs 2] [--joint-steps 1200] [--arms NAME ...]

Each arm is trained from the same encoders on the same clips (6 to 10 s) for as many steps, once per seed, and asked
about held-out clips that were read from mp4 files. A run that is already in `--output` is not repeated, so the command
may be interrupted. At the end `ablation.md` and `ablation.png` are written from all runs that are there, to
`model_cards/` or `--cards`. On two CPU cores a run takes about ten minutes.
"""

import argparse
import json
import statistics
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from omnivinci_hf.small.evaluation import exact_matches, own_questions
from omnivinci_hf.small.model import build_config, build_model, build_processor, build_tokenizer
from omnivinci_hf.small.tracks import DURATIONS, TrackEncoder, load_tracks
from omnivinci_hf.small.train import Plan, keep_freed_memory, train_small, train_towers
from omnivinci_hf.world import FAMILIES
from omnivinci_hf.world.dataset import split_seeds


MAX_SEC = 10
CARDS = Path(__file__).parent.parent / "src" / "omnivinci_hf" / "model_cards"


def arm(time: dict[str, Any], group_sec: float | None = 1.0, align: bool = False) -> dict[str, Any]:
    options = {"group_duration_sec": group_sec, "video_time_embedding": time, "audio_time_embedding": time}
    return options if align else {**options, "omni_align_config": None}


def crte(max_time: float) -> dict[str, Any]:
    return {"type": "crte", "max_time": max_time, "theta": 8.0}


NONE = {"type": "none"}
ARMS = {
    "concatenation": arm(NONE, None),
    "TEG": arm(NONE),
    "TEG, learned": arm({"type": "learned", "max_time": 20.0}),
    "TEG, RoTE": arm({"type": "rote"}),
    "TEG, CRTE": arm(crte(4.0)),
    "TEG, CRTE, OmniAlignNet": arm(crte(4.0), align=True),
    "concatenation, CRTE": arm(crte(4.0), None),
    "T_G 0.5 s": arm(crte(4.0), 0.5),
    "T_G 2 s": arm(crte(4.0), 2.0),
    "T_G 4 s": arm(crte(4.0), 4.0),
    "T_max 1 s": arm(crte(1.0)),
    "T_max 2 s": arm(crte(2.0)),
    "T_max 8 s": arm(crte(8.0)),
    "T_max 16 s": arm(crte(16.0)),
}
FIRST_ARMS, SWEEPS = list(ARMS)[:7], {"T_G": list(ARMS)[7:10], "T_max": list(ARMS)[10:]}


def short_seeds(split: str, number: int) -> list[int]:
    """Seeds of clips that are short enough."""
    seeds = split_seeds(split, number * len(DURATIONS))
    return [seed for seed in seeds if DURATIONS[seed % len(DURATIONS)] <= MAX_SEC][:number]


def train_arm(name: str, seed: int, arguments: argparse.Namespace) -> dict[str, Any]:
    """Train and ask one model; returns what is kept of it."""
    torch.set_num_threads(1)
    keep_freed_memory()
    tokenizer = build_tokenizer()
    processor = build_processor(build_config(tokenizer), tokenizer)
    encoder, held_out = (
        TrackEncoder(processor, load_tracks(short_seeds(split, number), arguments.output / "tracks"))
        for split, number in (("train", arguments.tracks), ("validation", arguments.clips))
    )
    towers = build_model(build_config(tokenizer), seed=0)
    load_towers(towers, encoder, arguments)
    plan = Plan(
        alignment_steps=arguments.alignment_steps, joint_steps=arguments.joint_steps, seed=seed, options=ARMS[name]
    )
    folder = arguments.output / f"{name} {seed}"
    train_small(folder, plan, encoder, towers, log=lambda line: print(f"{name} {seed}: {line}", flush=True))
    model = type(towers).from_pretrained(folder, dtype=torch.float32)
    held_out = held_out.for_processor(build_processor(model.config, tokenizer))
    scores = exact_matches(model, held_out, own_questions(held_out, short_seeds("validation", arguments.clips)))
    log = json.loads((folder / "log.json").read_text(encoding="utf-8"))
    return {
        "arm": name,
        "seed": seed,
        "steps": [arguments.alignment_steps, arguments.joint_steps],
        "clips": [arguments.tracks, arguments.clips],
        "scores": {family: [score.right, score.asked] for family, score in scores.items()},
        "language_loss": statistics.mean(record.get("language_loss", record["loss"]) for record in log[-5:]),
    }


def load_towers(model, encoder: TrackEncoder, arguments: argparse.Namespace) -> None:
    """The encoders that all arms share, trained by the first that needs them."""
    path = arguments.output / "towers.safetensors"
    towers = {"vision_tower": model.model.vision_tower, "audio_tower": model.model.audio_tower}
    if not path.exists():
        train_towers(model, encoder, Plan(vision_steps=arguments.tower_steps, audio_steps=arguments.tower_steps // 12))
        save_file({f"{n}.{key}": value for n, part in towers.items() for key, value in part.state_dict().items()}, path)
    weights = load_file(path)
    for name, part in towers.items():
        part.load_state_dict({key.removeprefix(f"{name}."): v for key, v in weights.items() if key.startswith(name)})


def run_missing(arguments: argparse.Namespace) -> None:
    """Each run in a process of its own, several at a time."""

    def run(job: tuple[str, int]) -> None:
        name, seed = job
        command = [sys.executable, __file__, *sys.argv[1:], "--one", name, str(seed)]
        subprocess.run(command, check=True)

    # the encoders, and the tracks, are made once before
    tokenizer = build_tokenizer()
    processor = build_processor(build_config(tokenizer), tokenizer)
    for split, number in (("train", arguments.tracks), ("validation", arguments.clips)):
        tracks = load_tracks(short_seeds(split, number), arguments.output / "tracks", arguments.jobs)
        if split == "train":
            load_towers(build_model(build_config(tokenizer), seed=0), TrackEncoder(processor, tracks), arguments)
    jobs = [(name, seed) for seed in range(arguments.seeds) for name in arguments.arms]
    jobs = [job for job in jobs if not result_path(arguments, *job).exists()]
    with ThreadPoolExecutor(arguments.jobs) as pool:
        list(pool.map(run, jobs))


def result_path(arguments: argparse.Namespace, name: str, seed: int) -> Path:
    return arguments.output / f"{name} {seed}.json"


def by_arm(output: Path) -> dict[str, list[dict]]:
    """All runs that are there, by arm."""
    runs = [json.loads(path.read_text(encoding="utf-8")) for path in sorted(output.glob("*.json"))]
    return {name: found for name in ARMS if (found := [run for run in runs if run["arm"] == name])}


def accuracies(runs: list[dict], family: str) -> list[float]:
    return [run["scores"][family][0] / run["scores"][family][1] for run in runs]


def table(arms: dict[str, list[dict]], names: list[str]) -> str:
    """Mean and standard deviation over seeds, in percent."""
    lines = [f"| arm | seeds | {' | '.join(FAMILIES)} | all | loss |", "|---" * (len(FAMILIES) + 4) + "|"]
    for name in names:
        if runs := arms.get(name):
            columns = [accuracies(runs, family) for family in FAMILIES]
            columns.append([statistics.mean(values) for values in zip(*columns, strict=True)])
            losses = [run["language_loss"] for run in runs]
            cells = [_spread([100 * value for value in values], 1) for values in columns] + [_spread(losses, 3)]
            lines.append(f"| {name} | {len(runs)} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _spread(values: list[float], digits: int) -> str:
    deviation = f" ± {statistics.stdev(values):.{digits}f}" if len(values) > 1 else ""
    return f"{statistics.mean(values):.{digits}f}{deviation}"


def write_report(output: Path, cards: Path) -> None:
    arms = by_arm(output)
    first = next(iter(arms.values()))[0]
    asked = {family: first["scores"][family][1] for family in FAMILIES}
    steps, clips = first["steps"], first["clips"]
    sweep = {"T_G": [*SWEEPS["T_G"][:1], "TEG, CRTE", *SWEEPS["T_G"][1:]]}
    sweep["T_max"] = [*SWEEPS["T_max"][:2], "TEG, CRTE", *SWEEPS["T_max"][2:]]
    text = (
        "# The paper's three ideas, at small scale\n\n"
        "Made by `python benchmarks/small_ablation.py`; exact matches in percent on held-out clips, mean and standard\n"
        "deviation over seeds. All arms share the encoders, the clips, their order and the number of steps:\n"
        f"{steps[0]} of alignment and {steps[1]} of joint training on 16 clips of 6 to {MAX_SEC} s each, from\n"
        f"{clips[0]} files; {clips[1]} other files with "
        f"{', '.join(f'{number} {family}' for family, number in asked.items())} questions.\n"
        "CRTE has T_max 4 s and theta 8, T_G is 1 s, where nothing else is said; RoTE has theta 10000.\n\n"
        f"{table(arms, FIRST_ARMS)}\n\n![Accuracy by arm and family](ablation.png)\n\n"
        f"## T_G (TEG, CRTE is 1 s)\n\n{table(arms, sweep['T_G'])}\n\n"
        f"## T_max (TEG, CRTE is 4 s)\n\n{table(arms, sweep['T_max'])}\n"
    )
    remarks = cards / "ablation_remarks.md"
    if remarks.exists():
        text += "\n" + remarks.read_text(encoding="utf-8")
    (cards / "ablation.md").write_text(text, encoding="utf-8")
    plot(arms, cards / "ablation.png")


def plot(arms: dict[str, list[dict]], path: Path) -> None:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 5), layout="constrained")
    axes = figure.subplots()
    for number, (name, runs) in enumerate(arms.items()):
        offset = (number - len(arms) / 2) / (len(arms) + 3)
        for place, family in enumerate(FAMILIES):
            values = [100 * value for value in accuracies(runs, family)]
            axes.plot([place + offset] * len(values), values, ".", color=f"C{number % 10}", markersize=4)
            marker = "o" if number < 10 else "s"
            label = name if place == 0 else None
            axes.plot(place + offset, statistics.mean(values), marker, color=f"C{number % 10}", label=label, mfc="none")
    axes.set(xticks=range(len(FAMILIES)), xticklabels=FAMILIES, ylabel="exact match, %")
    axes.legend(fontsize=7, ncols=2)
    figure.savefig(path, dpi=110)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, required=True, help="folder of tracks, encoders and runs")
    parser.add_argument("--cards", type=Path, default=CARDS, help="folder of the report (default: model_cards)")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--jobs", type=int, default=2, help="runs at a time, of one thread each")
    parser.add_argument("--arms", nargs="+", default=list(ARMS), choices=list(ARMS), metavar="NAME")
    parser.add_argument("--tracks", type=int, default=1600, help="files to learn from")
    parser.add_argument("--clips", type=int, default=300, help="held-out files")
    parser.add_argument("--alignment-steps", type=int, default=300)
    parser.add_argument("--joint-steps", type=int, default=1200)
    parser.add_argument("--tower-steps", type=int, default=Plan.vision_steps, help="of the encoders that all share")
    parser.add_argument("--report-only", action="store_true", help="train nothing")
    parser.add_argument("--one", nargs=2, metavar=("NAME", "SEED"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    arguments.output.mkdir(parents=True, exist_ok=True)
    if arguments.one:
        name, seed = arguments.one[0], int(arguments.one[1])
        result = json.dumps(train_arm(name, seed, arguments))
        result_path(arguments, name, seed).write_text(result + "\n", encoding="utf-8")
        return
    if not arguments.report_only:
        run_missing(arguments)
    write_report(arguments.output, arguments.cards)


if __name__ == "__main__":
    main()
