"""This module makes rows of a chat data set while they are read."""

import json
import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from .clip_file import write_clip
from .questions import Question, list_questions, questions
from .rendering import vision_frames_at, waveform
from .sampling import sample_scene
from .scene import SOUNDS, Scene


SPLITS = {
    "train": range(0, 10**8),
    "validation": range(10**8, 2 * 10**8),
    "test": range(2 * 10**8, 3 * 10**8),
}
ARRAY_FPS = 2
ARRAY_RATE = 16000


def split_seeds(split: str, number: int, start: int = 0) -> range:
    """Lists the first `number` seeds of a split, `start` left out. No two splits share one."""
    if split not in SPLITS:
        raise ValueError(f"Unknown split {split!r}: there are {', '.join(SPLITS)}.")
    if number < 0 or start < 0:
        raise ValueError(f"Neither number nor start may be negative, got {number} and {start}.")
    seeds = SPLITS[split][start : start + number]
    if len(seeds) < number:
        raise ValueError(f"The split {split!r} has {len(SPLITS[split])} seeds, not {start + number}.")
    return seeds


class ClipCache:
    """A cache is a folder of the last `max_clips` clips that were asked for here.

    Older ones are deleted, other files are not.
    """

    def __init__(self, folder: str | os.PathLike, max_clips: int = 256, suffix: str = ".mp4"):
        if max_clips < 1:
            raise ValueError(f"max_clips must be at least 1, got {max_clips}.")
        self.folder, self.max_clips, self.suffix = Path(folder), max_clips, suffix
        self.folder.mkdir(parents=True, exist_ok=True)
        self.names: list[str] = []

    def path(self, name: str, scene: Scene) -> Path:
        """Finds the file of a scene, written if it is not there. It stays until `max_clips` others were asked for."""
        path = self.folder / f"{name}{self.suffix}"
        if name in self.names:
            self.names.remove(name)
        if not path.exists():
            # a file that was left half written is never taken for a clip
            partial = path.with_name(f".{name}.{os.getpid()}{self.suffix}")
            write_clip(scene, partial).rename(path)
        self.names.append(name)
        while len(self.names) > self.max_clips:
            (self.folder / f"{self.names.pop(0)}{self.suffix}").unlink(missing_ok=True)
        return path


def rows(
    seeds: Iterable[int], cache: ClipCache | None = None, lists: bool = False, kinds: Sequence[str] = SOUNDS
) -> Iterator[dict[str, Any]]:
    """Yields one row per question: `id`, `seed`, `family` and `messages`, a question about a clip and its answer.

    The clip is a file of `cache` or, without one, frames and samples in memory. `lists` adds the dense questions.
    `kinds` are the sounds; `SOUNDS + SPOKEN` has spoken digits, too, where espeak-ng is installed.
    """
    for seed in seeds:
        scene = sample_scene(seed, kinds=kinds)
        video = array_part(scene) if cache is None else {"type": "video", "path": str(cache.path(str(seed), scene))}
        for number, question in enumerate(seed_questions(seed, scene, lists)):
            yield _row(f"{seed}-{number}", seed, video, question)


def seed_questions(seed: int, scene: Scene, lists: bool = False) -> list[Question]:
    """Asks the questions of a seed, the same every time."""
    asked = questions(scene, np.random.default_rng((seed, 4)))
    return asked + list_questions(scene) if lists else asked


def write_dataset(
    folder: str | os.PathLike,
    seeds: Iterable[int],
    lists: bool = False,
    suffix: str = ".mp4",
    kinds: Sequence[str] = SOUNDS,
) -> Path:
    """Writes `clips/` and `data.jsonl`, whose paths are relative to `folder`; returns the latter. See [`rows`]."""
    seeds, folder = list(seeds), Path(folder)
    cache = ClipCache(folder / "clips", max(len(seeds), 1), suffix)
    with open(folder / "data.jsonl", "w", encoding="utf-8") as file:
        for row in rows(seeds, cache, lists, kinds):
            video = row["messages"][0]["content"][0]
            video["path"] = Path(video["path"]).relative_to(folder).as_posix()
            file.write(json.dumps(row) + "\n")
    return folder / "data.jsonl"


def array_part(scene: Scene, fps: float = ARRAY_FPS, rate: int = ARRAY_RATE) -> dict[str, Any]:
    """Makes the clip in memory as a part of a message, with its sound (mono)."""
    times = np.arange(0, scene.duration_sec, 1 / fps)
    return {
        "type": "video",
        "video": vision_frames_at(scene.vision, times),
        "video_metadata": {"fps": fps},
        "audio": waveform(scene.sound, rate, scene.duration_sec).mean(axis=0),
        "sampling_rate": rate,
    }


def _row(name: str, seed: int, video: dict[str, Any], question: Question) -> dict[str, Any]:
    messages = [
        {"role": "user", "content": [dict(video), {"type": "text", "text": question.question}]},
        {"role": "assistant", "content": [{"type": "text", "text": question.answer}]},
    ]
    return {"id": name, "seed": seed, "family": question.family, "messages": messages}
