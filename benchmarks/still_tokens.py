"""What `still_threshold` saves and what it costs: embeddings, time and answers of the small checkpoint.

    python benchmarks/still_tokens.py [CHECKPOINT] [--clips 100] [--thresholds 4 8 16 32] [--json FILE] [--report FILE]

The same fresh clips are asked about with each threshold, one after the other for every clip, so that all meet the same
load of the machine. Time is the CPU time of the whole call, decoding included. The checkpoint was trained on whole
frames alone; a picture of the made-up world has noise, on which low thresholds stumble.
"""

import argparse
import datetime
import json
import sys
import tempfile
import time
from pathlib import Path

import torch
from transformers import pipeline
from transformers.utils import logging

import omnivinci_hf  # noqa: F401 (registers the task)
from omnivinci_hf.small import small_checkpoint
from omnivinci_hf.world import sample_scene, write_clip
from omnivinci_hf.world.dataset import seed_questions, split_seeds
from omnivinci_hf.world.evaluation import MAX_NEW_TOKENS, choose, is_right


sys.path.insert(0, str(Path(__file__).parent))

from measuring import markdown, write_section  # noqa: E402


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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", nargs="?", help="folder or name; by default the one of the package")
    parser.add_argument("--clips", type=int, default=100)
    parser.add_argument("--thresholds", type=float, nargs="+", default=[4, 8, 16, 32], help="levels of 255")
    parser.add_argument("--json", type=Path, help="write the numbers there, too")
    parser.add_argument("--report", type=Path, help="put the table into its section of this Markdown file")
    arguments = parser.parse_args()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    pipe = pipeline("omni-qa", model=arguments.checkpoint or str(small_checkpoint()), dtype=torch.float32)
    thresholds = [None, *arguments.thresholds]
    sums = {threshold: [0, 0.0, 0, 0, 0] for threshold in thresholds}
    with tempfile.TemporaryDirectory() as folder:
        for seed in split_seeds("test", arguments.clips, FIRST_SEED):
            scene = sample_scene(seed)
            asked = choose(seed_questions(seed, scene), 2, seed)
            path = write_clip(scene, Path(folder) / "clip.mp4")
            for threshold in thresholds:
                (layout,) = pipe.processor.describe(videos=[str(path)], still_threshold=threshold)
                found = (*ask(pipe, path, asked, threshold), layout.num_embeds, len(asked))
                sums[threshold] = [a + b for a, b in zip(sums[threshold], found, strict=True)]
    whole = sums[None]
    rows = []
    for threshold, (right, seconds, tokens, embeds, questions) in sums.items():
        rows.append(
            {
                "still_threshold": threshold,
                "visual embeddings": embeds / whole[3],
                "prompt tokens": tokens / whole[2],
                "CPU time": seconds / whole[1],
                "exact matches": right / questions,
            }
        )
    cells = []
    for row in rows:
        threshold, *shares = row.values()
        cells.append(["none" if threshold is None else f"{threshold:g}", *(f"{share:.1%}" for share in shares)])
    text = f"{arguments.clips} clips, {whole[4]} questions\n\n{markdown(list(rows[0]), cells)}"
    print(text)
    if arguments.json is not None:
        arguments.json.write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")
    if arguments.report is not None:
        head = f"## Squares that stay as they were ({datetime.date.today()})\n\n`benchmarks/still_tokens.py`: "
        write_section(arguments.report, "still", head + text)


if __name__ == "__main__":
    main()
