"""This module measures how well a checkpoint answers about clips that it has never seen, also without one sense."""

import math
import os
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from .clip_file import reencode, write_clip
from .dataset import seed_questions
from .guessing import Guess
from .questions import FAMILIES, Question
from .sampling import FRAME_RATES, sample_scene
from .scene import Scene


CLIPS, TEXT_ONLY = "mp4", "text only"
VISION_SHUFFLED, SOUND_SHUFFLED = "vision shuffled", "sound shuffled"
CONTROLS = (TEXT_ONLY, VISION_SHUFFLED, SOUND_SHUFFLED)
REENCODED: dict[str, tuple[str, dict[str, Any]]] = {  # suffix, and arguments of `reencode`
    "webm": (".webm", {}),
    "mkv": (".mkv", {}),
    "mkv, VP8 and AC-3": (".mkv", {"video_codec": "libvpx", "audio_codec": "ac3"}),
}
MAX_NEW_TOKENS = 8


@dataclass
class Score:
    """A score says how many questions were asked, and how many of the answers are right."""

    num_right: int = 0
    num_asked: int = 0

    def add(self, is_right: bool) -> None:
        """Counts one answer."""
        self.num_right += is_right
        self.num_asked += 1

    @property
    def accuracy(self) -> float:
        """Share of right answers; not a number where nothing was asked."""
        return self.num_right / self.num_asked if self.num_asked else math.nan

    @property
    def interval(self) -> tuple[float, float]:
        """Where the true accuracy lies, at 95 %: its lower and upper end."""
        return wilson_interval(self.num_right, self.num_asked)

    def __str__(self) -> str:
        if not self.num_asked:
            return ""
        low, high = self.interval
        return f"{self.accuracy:.1%} ({low:.1%} - {high:.1%})"


Scores = dict[str, dict[str, Score]]  # by condition and family


def wilson_interval(right: int, asked: int, z: float = 1.96) -> tuple[float, float]:
    """Wilson's interval, in which the true accuracy lies at 95 %."""
    if not 0 <= right <= asked:
        raise ValueError(f"Got {right} right answers to {asked} questions.")
    if not asked:
        return 0.0, 1.0
    share, spread = right / asked, z**2 / asked
    centre = (share + spread / 2) / (1 + spread)
    half = z * math.sqrt(share * (1 - share) / asked + spread / (4 * asked)) / (1 + spread)
    return max(0.0, centre - half), min(1.0, centre + half)


def evaluate(
    pipe: Callable[..., Any],
    seeds: Sequence[int],
    folder: str | os.PathLike,
    *,
    per_family: int = 2,
    conditions: Iterable[str] = (CLIPS, *CONTROLS, *REENCODED),
    report: Callable[[str], Any] = lambda line: None,
    answered: Callable[[str, Scene, Question, bool], Any] = lambda condition, scene, question, right: None,
) -> Scores:
    """Asks `pipeline("omni-qa")` about the clips of `seeds`, which are written to `folder` one at a time.

    Args:
        per_family: so many questions of each family about each clip, at most.
        conditions: "mp4", the clips; "text only", without them; "vision shuffled" and "sound shuffled", with that track
            of another clip of about the same length, the answers still those of the clip itself; "webm" (VP9, Opus),
            "mkv" (MPEG-4, MP3) and "mkv, VP8 and AC-3", the mp4 files encoded anew at another frame rate and size.
        report: is given a line of progress now and then.
        answered: is told of each answer about a clip: condition, the clip's own scene, question, whether it is right.
    """
    conditions = list(conditions)
    _check_conditions(conditions, len(seeds))
    scenes = [sample_scene(seed) for seed in seeds]
    asked = [choose(seed_questions(seed, scene), per_family, seed) for seed, scene in zip(seeds, scenes, strict=True)]
    others = neighbours([scene.duration_sec for scene in scenes])
    scores: Scores = {condition: {family: Score() for family in FAMILIES} for condition in conditions}
    if TEXT_ONLY in conditions:
        _ask_without_clips(pipe, asked, scores[TEXT_ONLY])
    with_clips = [condition for condition in conditions if condition != TEXT_ONLY]
    for number, (seed, scene) in enumerate(zip(seeds, scenes, strict=True) if with_clips else ()):
        for condition in with_clips:
            path = _write(condition, seed, scene, scenes[others[number]], Path(folder))
            for question, right in zip(asked[number], _ask(pipe, path, asked[number]), strict=True):
                scores[condition][question.family].add(right)
                answered(condition, scene, question, right)
            path.unlink()
        if (number + 1) % 20 == 0 or number + 1 == len(scenes):
            num_right, num_asked = _total(scores[with_clips[0]])
            report(f"{number + 1} of {len(scenes)} clips, {with_clips[0]}: {num_right} of {num_asked} right")
    return scores


def _check_conditions(conditions: list[str], num_clips: int) -> None:
    """Raises ValueError for conditions that are unknown, or need more clips."""
    if unknown := sorted(set(conditions) - {CLIPS, *CONTROLS, *REENCODED}):
        raise ValueError(f"Unknown conditions {unknown}: there are {', '.join((CLIPS, *CONTROLS, *REENCODED))}.")
    if num_clips < 2 and {VISION_SHUFFLED, SOUND_SHUFFLED} & set(conditions):
        raise ValueError(f"Tracks cannot be taken from another clip of {num_clips}: give at least two seeds.")


def _total(by_family: dict[str, Score]) -> tuple[int, int]:
    """How many answers of all families are right, and how many there are."""
    return sum(score.num_right for score in by_family.values()), sum(score.num_asked for score in by_family.values())


def choose(candidates: Sequence[Question], per_family: int, seed: int) -> list[Question]:
    """Chooses at most so many of each family, their answers as different as can be: so many "yes" as "no"."""
    rng = np.random.default_rng((seed, 5))
    chosen = []
    for family in FAMILIES:
        by_answer = defaultdict(list)
        for index in rng.permutation([i for i, question in enumerate(candidates) if question.family == family]):
            by_answer[candidates[index].answer].append(candidates[index])
        rounds = [(place, question) for same in by_answer.values() for place, question in enumerate(same)]
        chosen += [question for _, question in sorted(rounds, key=lambda item: item[0])[:per_family]]
    return chosen


def neighbours(durations: Sequence[float]) -> list[int]:
    """Finds for each clip another one of about its length, each clip taken once."""
    order = np.argsort(durations, kind="stable")
    others = np.empty(len(order), dtype=int)
    others[order] = np.roll(order, -1)
    return others.tolist()


def _write(condition: str, seed: int, scene: Scene, other: Scene, folder: Path) -> Path:
    if condition == VISION_SHUFFLED:
        scene = Scene(other.vision, scene.sound)
    if condition == SOUND_SHUFFLED:
        scene = Scene(scene.vision, other.sound)
    path = write_clip(scene, folder / f"{seed}.mp4")
    if condition not in REENCODED:
        return path
    rng = np.random.default_rng((seed, 6))
    fps = float(rng.choice([fps for fps in FRAME_RATES if fps != scene.vision.fps]))
    scale = rng.choice((0.75, 1.25))
    width, height = (2 * round(side * scale / 2) for side in (scene.vision.width, scene.vision.height))
    suffix, codecs = REENCODED[condition]
    again = reencode(path, path.with_suffix(suffix), fps=fps, size=(width, height), **codecs)
    path.unlink()
    return again


def _ask(pipe: Callable[..., Any], path: Path, questions: list[Question]) -> list[bool]:
    records = pipe(video=str(path), question=[q.question for q in questions], max_new_tokens=MAX_NEW_TOKENS)
    return [is_right(record, question) for question, record in zip(questions, records, strict=True)]


def _ask_without_clips(pipe: Callable[..., Any], asked: list[list[Question]], scores: dict[str, Score]) -> None:
    texts = sorted({question.question for questions in asked for question in questions})
    records = pipe(texts, batch_size=32, max_new_tokens=MAX_NEW_TOKENS)
    answers = {text: answer[0] for text, answer in zip(texts, records, strict=True)}
    for question in (question for questions in asked for question in questions):
        scores[question.family].add(is_right(answers[question.question], question))


def is_right(record: dict[str, Any], question: Question) -> bool:
    """Tells whether a record of the pipeline has the answer, white space aside."""
    return " ".join(record["answer"].split()) == question.answer


def format_scores(scores: Scores, guesses: Sequence[Guess] = ()) -> str:
    """Makes a markdown table, a family a row; `guesses` of the audit tell what could be had without a model."""
    chances = sorted({guess.source for guess in guesses}, key=("text", "vision", "sound").index)
    head = ["family", "questions", *scores, *(f"guessed from {source}" for source in chances)]
    lines = [f"| {' | '.join(head)} |", "|---" * len(head) + "|"]
    for family in next(iter(scores.values())):
        of_family = [by_family[family] for by_family in scores.values()]
        guessed = {guess.source: f"{guess.accuracy:.1%}" for guess in guesses if guess.family == family}
        cells = [
            family,
            str(of_family[0].num_asked),
            *map(str, of_family),
            *(guessed.get(name, "") for name in chances),
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def as_json(scores: Scores, guesses: Sequence[Guess] = ()) -> dict[str, Any]:
    """Makes plain data of scores and guesses."""
    conditions = {
        condition: {
            family: {"right": score.num_right, "asked": score.num_asked, "interval": score.interval}
            for family, score in by_family.items()
        }
        for condition, by_family in scores.items()
    }
    return {"conditions": conditions, "guesses": [asdict(guess) for guess in guesses]}
