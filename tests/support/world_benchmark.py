"""This module writes a benchmark in DailyOmni's schema about clips of the made-up world."""

from pathlib import Path

import numpy as np

from omnivinci_hf.world import sample_scene, write_clip
from omnivinci_hf.world.dataset import seed_questions, split_seeds
from omnivinci_hf.world.evaluation import choose
from tests.support.benchmark_files import LETTERS, lettered, write_json


def write_world_benchmark(data: Path, num_clips: int, per_family: int = 1) -> None:
    """Writes clips that were in no training, and questions whose options are answers of the same family."""
    rng = np.random.default_rng(0)
    asked = []
    for seed in split_seeds("test", num_clips):
        scene = sample_scene(seed)
        folder = data / "Videos" / str(seed)
        folder.mkdir(parents=True)
        write_clip(scene, folder / f"{seed}_video.mp4")
        asked += [(seed, scene, question) for question in choose(seed_questions(seed, scene), per_family, seed)]
    rows = []
    for seed, scene, question in asked:
        others = sorted({other.answer for _, _, other in asked if other.family == question.family} - {question.answer})
        options = rng.permutation([question.answer, *rng.permutation(others)[:3]]).tolist()
        rows.append(
            {
                "Question": question.question,
                "Choice": lettered(options),
                "Answer": LETTERS[options.index(question.answer)],
                "video_id": str(seed),
                "Type": question.family,
                "video_category": "Made-up world",
                "video_duration": f"{scene.duration_sec:.0f}s",
            }
        )
    write_json(data / "qa.json", rows)
