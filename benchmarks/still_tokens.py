"""What `still_threshold` saves and what it costs: embeddings, time and answers of the small checkpoint.

    python benchmarks/still_tokens.py [CHECKPOINT] [--clips 100] [--thresholds 4 8 16 32] [--json FILE]

The same fresh clips are asked about with each threshold, in turns for every clip, so that all meet the same load of the
machine. Time is the CPU time of the whole call, decoding included. The checkpoint was trained on whole
frames alone; a picture of the made-up world has noise, on which low thresholds stumble.
"""

import argparse
import json
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from measuring import markdown
from transformers import pipeline
from transformers.utils import logging

import omnivinci_hf  # noqa: F401 (registers the task)
from omnivinci_hf.small import small_checkpoint
from omnivinci_hf.world import sample_scene, write_clip
from omnivinci_hf.world.dataset import seed_questions, split_seeds
from omnivinci_hf.world.evaluation import MAX_NEW_TOKENS, choose, is_right


THRESHOLDS = (4.0, 8.0, 16.0, 32.0)
FIRST_SEED = 60_000  # of the test split, beyond what is asked about elsewhere


def ask(pipe, path: Path, asked: list, threshold: float | None) -> tuple[int, float, int]:
    """Right answers, CPU seconds, tokens of the prompts."""
    started = time.process_time()
    questions = [question.question for question in asked]
    records = pipe(
        video=str(path),
        question=questions,
        max_new_tokens=MAX_NEW_TOKENS,
        still_threshold=threshold,
        return_token_counts=True,
    )
    seconds = time.process_time() - started
    right = sum(is_right(record, question) for record, question in zip(records, asked, strict=True))
    return right, seconds, records[0]["prompt_tokens"]


def measure(
    checkpoint: str, num_clips: int, thresholds: Sequence[float] = THRESHOLDS, device: str = "cpu"
) -> list[dict[str, float | int | None]]:
    """A row for each threshold, the first of none; shares are those of the first row."""
    pipe = pipeline("omni-qa", model=checkpoint, device=device, dtype=torch.float32)
    choices = [None, *thresholds]
    sums = {threshold: np.zeros(5) for threshold in choices}
    with tempfile.TemporaryDirectory() as folder:
        for number, seed in enumerate(split_seeds("test", num_clips, FIRST_SEED)):
            scene = sample_scene(seed)
            asked = choose(seed_questions(seed, scene), 2, seed)
            path = write_clip(scene, Path(folder) / "clip.mp4")
            if number == 0:
                ask(pipe, path, asked, None)  # the first call is slow
            turn = number % len(choices)
            for threshold in (*choices[turn:], *choices[:turn]):
                (layout,) = pipe.processor.describe(videos=[str(path)], still_threshold=threshold)
                sums[threshold] += *ask(pipe, path, asked, threshold), layout.num_embeds, len(asked)
    whole = sums[None]
    return [
        {
            "still_threshold": threshold,
            "visual embeddings": embeds / whole[3],
            "prompt tokens": tokens / whole[2],
            "CPU time": seconds / whole[1],
            "exact matches": right / questions,
            "questions": int(questions),
        }
        for threshold, (right, seconds, tokens, embeds, questions) in sums.items()
    ]


def table(rows: Sequence[dict]) -> str:
    """How many questions, and a table."""
    columns = list(rows[0])[:-1]
    cells = []
    for row in rows:
        threshold, *shares = (row[name] for name in columns)
        cells.append(["none" if threshold is None else f"{threshold:g}", *(f"{share:.1%}" for share in shares)])
    return f"asked {rows[0]['questions']} questions about fresh clips.\n\n{markdown(columns, cells)}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", nargs="?", help="folder or name; by default the one of the package")
    parser.add_argument("--clips", type=int, default=100)
    parser.add_argument("--thresholds", type=float, nargs="+", default=THRESHOLDS, help="levels of 255")
    parser.add_argument("--json", type=Path, help="write the numbers there, too")
    arguments = parser.parse_args()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    rows = measure(arguments.checkpoint or str(small_checkpoint()), arguments.clips, arguments.thresholds)
    print(table(rows))
    if arguments.json is not None:
        arguments.json.write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
