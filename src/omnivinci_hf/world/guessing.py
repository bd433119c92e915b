"""This module measures how far questions can be guessed without looking, or without listening. No model is asked.

Every rule is learned on one half of the scenes and judged on the other.
"""

from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from .questions import CROSS_FAMILIES, FAMILIES, Question
from .scene import Scene, ShapeEvent, SoundEvent


Asked = tuple[Scene, Question]


@dataclass(frozen=True)
class Guess:
    """A guess says how often a question of `family` is guessed from `source`.

    Sources are "text", "vision" (and text) and "sound" (and text).
    """

    family: str
    source: str
    accuracy: float
    num_questions: int


def audit(asked: Sequence[tuple[Scene, Sequence[Question]]]) -> list[Guess]:
    """Makes the best guesses for every family, from scenes and what is asked about each."""
    halves = [[(scene, question) for scene, questions in asked[part::2] for question in questions] for part in (0, 1)]
    guesses = []
    for family in FAMILIES:
        learned, judged = ([item for item in half if item[1].family == family] for half in halves)
        accuracies = {"text": guess_from_text(learned, judged)}
        if family in CROSS_FAMILIES:
            for source in ("vision", "sound"):
                accuracies[source] = max(accuracies["text"], guess_from_one(source, learned, judged))
        guesses += [Guess(family, source, accuracy, len(judged)) for source, accuracy in accuracies.items()]
    return guesses


def guess_from_text(learned: Sequence[Asked], judged: Sequence[Asked]) -> float:
    """Guesses the most frequent answer: to the very question, or to its wording whatever the names in it."""
    return max(_majority(learned, judged, key) for key in (lambda text: text, _without_names))


def guess_from_one(source: str, learned: Sequence[Asked], judged: Sequence[Asked]) -> float:
    """Guesses the answer that looks likeliest in one modality, by a linear score of what it shows of each."""
    choices = [[_choices(source, scene, question) for scene, question in half] for half in (learned, judged)]
    known, asked = ([choice for choice in half if choice is not None] for half in choices)
    if (len(known), len(asked)) != (len(learned), len(judged)):  # this modality shows nothing of the answers
        return 0.0
    weights = _fit(known)
    return float(np.mean([_log_probabilities(features, weights).argmax() == target for features, target in asked]))


def _majority(learned: Sequence[Asked], judged: Sequence[Asked], key: Callable[[str], str]) -> float:
    answers: defaultdict[str, Counter] = defaultdict(Counter)
    for _, question in learned:
        answers[key(question.question)][question.answer] += 1
    best = {text: counts.most_common(1)[0][0] for text, counts in answers.items()}
    return float(np.mean([best.get(key(question.question)) == question.answer for _, question in judged]))


def _without_names(text: str) -> str:
    return " ".join(text.split()[:3])


# What can be seen of each possible answer


def _choices(source: str, scene: Scene, question: Question) -> tuple[np.ndarray, int] | None:
    """Features of the possible answers, `(num_answers, num_features)`, and which of them is right."""
    events = scene.vision.events if source == "vision" else scene.sound.events
    if question.family == "order":
        event = next(event for event in events if f" {event.name} " in question.question)
        features = np.array(_order_features(event, events, scene.duration_sec))
        features = np.outer((1, scene.duration_sec / 10), features).ravel()  # other weights for other durations
        return np.stack((features, 0 * features)), int(question.answer == "no")
    if source != ("vision" if question.family == "shape_during_sound" else "sound"):
        return None
    names = list(dict.fromkeys(event.name for event in events))
    of_answers = [_answer_features(name, events, scene.duration_sec) for name in names]
    return np.array(of_answers), names.index(question.answer)


def _order_features(event: ShapeEvent | SoundEvent, events: Sequence, duration: float) -> list[float]:
    """Features of the answer "yes"; those of "no" are zero."""
    place = event.start_sec / duration
    starts = [other.start_sec for other in events]
    before = event.start_sec - max([start for start in starts if start < event.start_sec], default=0.0)
    after = min([start for start in starts if start > event.start_sec], default=duration) - event.start_sec
    seconds = event.start_sec
    return [1, place, place**2, place**3, seconds / 10, seconds < 1.5, duration - seconds < 3,
            event is events[0], event is events[-1], before / 5, after / 5]  # fmt: skip


def _answer_features(name: str, events: Sequence, duration: float) -> list[float]:
    event = next(event for event in events if event.name == name)
    start, end = event.start_sec, event.end_sec
    others = [other for other in events if other is not event]
    place = (start + end) / 2 / duration
    shared = sum(max(0.0, min(end, other.end_sec) - max(start, other.start_sec)) for other in others)
    before = start - max([other.end_sec for other in others if other.start_sec < start], default=0.0)
    after = min([other.start_sec for other in others if other.start_sec > start], default=duration) - end
    return [abs(place - 0.5), place, place**2, (end - start) / 3, shared / 3, (end - start - shared) / 3, before / 3,
            after / 3, min(before, after) / 3, event is events[0], event is events[-1],
            sum(other.name == name for other in others)]  # fmt: skip


# A conditional logit model


def _log_probabilities(features: np.ndarray, weights: np.ndarray) -> np.ndarray:
    scores = features @ weights
    return scores - np.logaddexp.reduce(scores)


def _fit(choices: Sequence[tuple[np.ndarray, int]], num_steps: int = 12, decay: float = 1.0) -> np.ndarray:
    """Weights of the likeliest choices, by Newton's method."""
    weights = np.zeros(choices[0][0].shape[1])
    for _ in range(num_steps):
        gradient, curvature = -decay * weights, decay * np.eye(len(weights))
        for features, target in choices:
            chances = np.exp(_log_probabilities(features, weights))
            mean = chances @ features
            gradient += features[target] - mean
            curvature += (features * chances[:, None]).T @ features - np.outer(mean, mean)
        weights += np.linalg.solve(curvature, gradient)
    return weights
