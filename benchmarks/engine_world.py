"""How much of what the data engine says is true, and what training on it gains, in the made-up world.

    python benchmarks/engine_world.py --output engine_runs [--seeds 3] [--jobs 2] [--report model_cards/engine.md]
    python benchmarks/engine_world.py --output benchmarks/engine_runs --report-only  # the kept runs' report anew

The captioner is the small checkpoint, taught to list what one sense tells (`engine_captioner.py`); a server on loopback
reasons by a fixed rule (`engine_rule.py`), so that the engine is measured and not a large model. A fact is a shape or a
sound with the second in which it begins. There are sets of clips without speech, and sets in which a voice states
something about shapes, half of it true (needs espeak-ng). Then models are trained on questions of the engine, of the
truth, and of single captions (`engine_training.py`).

A run is not repeated when it is already in `--output`: the command may be interrupted; runs of other settings are
refused. At the end the tables are written from all runs that are there.
"""

import argparse
import datetime
import json
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import engine_sets
import engine_training
import torch
import transformers
from engine_captioner import train_captioner
from engine_sets import SILENT, SPOKEN
from measuring import markdown, write_json, write_section
from transformers.utils import logging


CARD = Path(__file__).parents[1] / "model_cards" / "engine.md"
SETTINGS = ("clips", "tracks", "captioner_steps", *engine_training.SETTINGS)


# -- Report


def verdict(goal: str, value: float, bound: float, is_least: bool = True) -> list[str]:
    """Says whether a goal is reached."""
    holds = value >= bound if is_least else value <= bound
    side = "at least" if is_least else "at most"
    return [goal, f"{side} {bound:.3f}", f"{value:.3f}", "yes" if holds else "**no**"]


def write_report(arguments: argparse.Namespace) -> None:
    """Writes the tables from all runs that are there.

    Raises:
        ValueError: when there are none, or their settings differ.
    """
    runs = [json.loads(path.read_text(encoding="utf-8")) for path in sorted(arguments.output.glob("* [0-9]*.json"))]
    if not runs:
        raise ValueError(f"{arguments.output} holds no finished runs.")
    for one in runs:
        if one["settings"] != runs[0]["settings"]:
            raise ValueError(f"{arguments.output} holds runs of different settings: give each their own folder.")
    common = runs[0]["settings"]
    texts, goals = [], []
    for kind in (SILENT, SPOKEN):
        if sets := [one for one in runs if one["kind"] == kind]:
            text, reached = engine_sets.report(kind, sets)
            texts.append(f"### Captions and questions, clips {kind}\n\n{text}")
            goals += [verdict(*one) for one in reached]
    if trained := [one for one in runs if one["kind"] in engine_training.KINDS]:
        text, reached = engine_training.report(trained)
        texts.append(f"### Training\n\n{text}")
        goals += [verdict(*one) for one in reached]
    head = (
        f"## Runs ({datetime.date.today()})\n\n`benchmarks/engine_world.py`. The captioner was trained for "
        f"{common['captioner_steps']} steps on {common['tracks']} clips. torch {common['torch']}, transformers "
        f"{common['transformers']}."
    )
    section = "\n\n".join([head, markdown(["goal, of means or sums", "bound", "measured", "reached"], goals), *texts])
    write_section(arguments.report, "engine", section)
    print(section)


# -- Runs


def settings_of(arguments: argparse.Namespace) -> dict[str, Any]:
    """Returns what all runs of a report have in common."""
    values = {name: getattr(arguments, name) for name in (*SETTINGS, "split")}
    return {**values, "torch": torch.__version__, "transformers": transformers.__version__}


def result_path(arguments: argparse.Namespace, kind: str, number: int) -> Path:
    return arguments.output / f"{kind} {number}.json"


def run_one(kind: str, number: int, arguments: argparse.Namespace) -> None:
    """Makes one run, and keeps what comes out."""
    torch.set_num_threads(1)
    result = (engine_sets if kind in (SILENT, SPOKEN) else engine_training).measure(kind, number, arguments)
    values = {"kind": kind, "seed": number, "settings": settings_of(arguments), **result}
    write_json(result_path(arguments, kind, number), values)


def run_missing(arguments: argparse.Namespace) -> None:
    """Makes the runs that are not there, each in a process of its own, several at a time."""
    jobs = [(kind, number) for kind in arguments.kinds for number in range(arguments.seeds)]
    for job in jobs:
        path = result_path(arguments, *job)
        if path.exists() and json.loads(path.read_text(encoding="utf-8"))["settings"] != settings_of(arguments):
            raise ValueError(f"{path} is a run of other settings: give another `--output`.")
    train_captioner(arguments.output, arguments.cache, arguments.tracks, arguments.captioner_steps, arguments.jobs)

    def start(kind: str, number: int) -> None:
        subprocess.run([sys.executable, __file__, *sys.argv[1:], "--one", kind, str(number)], check=True)

    missing = [job for job in jobs if not result_path(arguments, *job).exists()]
    data = [(engine_training.DATA, number) for number in sorted({n for k, n in missing if k in engine_training.KINDS})]
    for batch in ([one for one in data if not engine_training.has_data(arguments, one[1])], missing):
        with ThreadPoolExecutor(arguments.jobs) as pool:
            list(pool.map(lambda job: start(*job), batch))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    kinds = [SILENT, SPOKEN, *engine_training.KINDS]
    parser.add_argument("--output", type=Path, required=True, help="folder of the captioner and of all runs")
    parser.add_argument("--cache", type=Path, help="folder of decoded tracks (default: tracks in --output)")
    parser.add_argument("--report", type=Path, default=CARD, help="put the tables into a section of this file")
    parser.add_argument("--kinds", nargs="+", default=kinds, choices=kinds, metavar="NAME", help="of the runs")
    parser.add_argument("--seeds", type=int, default=3, help="runs of each kind (default: %(default)s)")
    parser.add_argument("--jobs", type=int, default=2, help="runs at a time, of one thread each")
    parser.add_argument("--clips", type=int, default=40, help="of a set (default: %(default)s)")
    parser.add_argument("--split", default="test", help="of the sets' seeds; use validation to choose anything")
    parser.add_argument("--tracks", type=int, default=600, help="clips that the captioner learns from")
    parser.add_argument("--captioner-steps", type=int, default=300, help="of its training")
    engine_training.add_arguments(parser)
    parser.add_argument("--report-only", action="store_true", help="run nothing")
    parser.add_argument("--one", nargs=2, metavar=("NAME", "SEED"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.clips < 1 or arguments.seeds < 1:
        parser.error("--clips and --seeds must be at least 1")
    arguments.cache = arguments.cache or arguments.output / "tracks"
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    if arguments.one:
        kind, number = arguments.one[0], int(arguments.one[1])
        if kind == engine_training.DATA:
            engine_training.write_data(number, arguments)
        else:
            run_one(kind, number, arguments)
        return
    if not arguments.report_only:
        run_missing(arguments)
    write_report(arguments)


if __name__ == "__main__":
    main()
