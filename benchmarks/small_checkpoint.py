"""How well a checkpoint answers about freshly made clips, with controls and re-encoded files beside it.

    python benchmarks/small_checkpoint.py [CHECKPOINT] [--clips 300] [--jobs 2] [--json scores.json] [--report FILE]

Each clip is written as an mp4 (H.264 and AAC, its own size, frame rate, noise and quality), asked about through
`pipeline("omni-qa")`, and deleted. The clips are those of the test seeds from `--start` on, which no training has seen;
those from 200,000 on, the default, guided no choice either; the first 300 test seeds did, and those from 100,000 on
told which of two runs to keep. The controls: the questions without clips; the picture, then the sound, taken from
another clip; and what can be guessed from text, picture or sound alone by counting (no model is asked). A second table
has the mp4 clips by their length. Intervals are Wilson's at 95 %.
"""

import argparse
import datetime
import json
import math
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context
from pathlib import Path

import torch
from measuring import markdown, write_section
from transformers import AutoConfig, pipeline
from transformers.utils import logging

import omnivinci_hf  # noqa: F401 (registers the classes)
from omnivinci_hf.small import small_checkpoint
from omnivinci_hf.world import FAMILIES, Question, Scene, sample_scene
from omnivinci_hf.world.dataset import seed_questions, split_seeds
from omnivinci_hf.world.evaluation import CLIPS, CONTROLS, REENCODED, Score, Scores, as_json, evaluate, format_scores
from omnivinci_hf.world.guessing import audit


FIRST_SEED = 200_000  # of the test split
LENGTHS = {"under 10 s": (0, 10), "10 to 15 s": (10, 15), "15 s and more": (15, math.inf)}


def length_table(by_length: Scores) -> str:
    def cell(score: Score) -> str:
        return f"{score} of {score.num_asked}" if score.num_asked else ""

    rows = [[family, *(cell(of_length[family]) for of_length in by_length.values())] for family in FAMILIES]
    return markdown(["family", *by_length], rows)


def scores_of(condition: str, checkpoint: str, arguments: argparse.Namespace) -> tuple[dict[str, Score], Scores]:
    """Right answers by family, and by length and family."""
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    if arguments.jobs > 1:
        torch.set_num_threads(1)
    pipe = pipeline("omni-qa", model=checkpoint, device=arguments.device, dtype=torch.float32)
    by_length = {name: {family: Score() for family in FAMILIES} for name in LENGTHS}

    def note(condition: str, scene: Scene, question: Question, right: bool) -> None:
        for name, (low, high) in LENGTHS.items():
            if low <= scene.duration_sec < high:
                by_length[name][question.family].add(right)

    with tempfile.TemporaryDirectory() as folder:
        scores = evaluate(
            pipe,
            split_seeds("test", arguments.clips, arguments.start),
            folder,
            per_family=arguments.per_family,
            conditions=[condition],
            report=partial(print, flush=True),
            answered=note,
        )
    return scores[condition], by_length


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", nargs="?", help="folder or name; by default the one of the package")
    parser.add_argument("--clips", type=int, default=300, help="how many clips (default 300)")
    parser.add_argument("--start", type=int, default=FIRST_SEED, help="the first test seed (default %(default)s)")
    parser.add_argument("--per-family", type=int, default=2, help="questions of a family about a clip, at most")
    conditions = [CLIPS, *CONTROLS, *REENCODED]
    parser.add_argument("--conditions", nargs="+", default=conditions, choices=conditions, metavar="NAME")
    parser.add_argument("--audit", type=int, default=2000, help="so many scenes to learn from what can be guessed")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--jobs", type=int, default=1, help="conditions at a time, a process each (default 1)")
    parser.add_argument("--json", type=Path, help="write the numbers there, too")
    parser.add_argument("--report", type=Path, help="put the table into its section of this Markdown file")
    arguments = parser.parse_args()
    if arguments.clips < 2:
        parser.error("--clips must be at least 2: controls take picture or sound from another clip")
    if arguments.jobs < 1:
        parser.error("--jobs must be at least 1")
    for path in filter(None, (arguments.json, arguments.report)):
        path.parent.mkdir(parents=True, exist_ok=True)
    checkpoint = arguments.checkpoint or str(small_checkpoint())
    AutoConfig.from_pretrained(checkpoint)  # complains before the work, if it must
    guesses = []
    if arguments.audit:
        scenes = [(seed, sample_scene(seed)) for seed in split_seeds("validation", arguments.audit)]
        guesses = audit([(scene, seed_questions(seed, scene)) for seed, scene in scenes])
    started = time.perf_counter()
    seeds = split_seeds("test", arguments.clips, arguments.start)
    ask = partial(scores_of, checkpoint=checkpoint, arguments=arguments)
    if arguments.jobs == 1:
        found = list(map(ask, arguments.conditions))
    else:
        with ProcessPoolExecutor(arguments.jobs, get_context("spawn")) as pool:
            found = list(pool.map(ask, arguments.conditions))
    parts = dict(zip(arguments.conditions, found, strict=True))
    scores = {condition: of_condition for condition, (of_condition, _) in parts.items()}
    by_length = parts[CLIPS][1] if CLIPS in parts else {}
    table = format_scores(scores, guesses)
    if by_length:
        table += f"\n\nBy length of clip ({CLIPS}):\n\n{length_table(by_length)}"
    print(f"\n{len(seeds)} clips, {time.perf_counter() - started:.0f} s\n\n{table}")
    if arguments.json is not None:
        values = {
            "checkpoint": checkpoint,
            "seeds": [seeds[0], seeds[-1]],
            **as_json(scores, guesses),
            "lengths": as_json(by_length)["conditions"],
        }
        arguments.json.write_text(json.dumps(values, indent=2) + "\n", encoding="utf-8")
    if arguments.report is not None:
        text = (
            f"## Answers ({datetime.date.today()})\n\n`benchmarks/small_checkpoint.py`: exact matches on "
            f"{len(seeds)} fresh clips of test seeds {seeds[0]} to {seeds[-1]}, asked about through "
            '`pipeline("omni-qa")`; Wilson intervals at 95 %. "webm" (VP9, Opus) and "mkv" (MPEG-4, MP3) are the same '
            "clips encoded anew at another frame rate and size; half of the training's files have these codecs, none "
            "VP8 and AC-3. Controls: the questions without clips, and with the picture or the sound of "
            "another clip; what counting alone can guess from text, picture or sound.\n\n"
        )
        write_section(arguments.report, "answers", text + table)


if __name__ == "__main__":
    main()
