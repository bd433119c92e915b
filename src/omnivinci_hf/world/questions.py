"""This module asks questions about a scene whose answers follow from its events alone.

Only what is unambiguous is asked: sounds and shapes that occur once, sounds that clearly lie within the time in which
a shape is visible, moments that lie clearly apart.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from .scene import COLOURS, SHAPES, SOUNDS, Scene, ShapeEvent, SoundEvent


FAMILIES = ("vision", "audio", "sound_while_shape", "shape_during_sound", "order", "time")
CROSS_FAMILIES = FAMILIES[2:5]
TOGETHER_SEC = 0.4  # so long, at least, a shape is visible and a sound heard that go together
APART_SEC = 0.4  # so far from both is everything else
ORDER_GAP_SEC = (0.75, 1.25)  # near enough that neither moment alone tells the order
ORDER_CLIP_SEC = 8.0  # in shorter clips whatever comes first or last gives it away
LIST_TOGETHER_SEC = LIST_APART_SEC = 0.2  # lists are less strict, or few clips would have them
LIST_GAP_SEC = 0.4
LAST_SECOND = 19
WORDINGS = {
    "colour": "What colour is the {}?",
    "shape": "Which shape is {}?",
    "first shape": "Which shape appears first?",
    "last shape": "Which shape appears last?",
    "first sound": "Which sound is heard first?",
    "last sound": "Which sound is heard last?",
    "next sound": "Which sound comes after the {}?",
    "sound_while_shape": "Which sound is heard while the {} is visible?",
    "shape_during_sound": "Which shape is visible when the {} is heard?",
    "order": "Is the {} heard before the {} appears?",
    "time of shape": "In which second does the {} appear?",
    "time of sound": "In which second is the {} heard?",
    "shapes": "List the shapes and their seconds.",
    "sounds": "List the sounds and their seconds.",
    "shapes of sounds": "List the sounds and the visible shapes.",
    "sounds of shapes": "List the shapes and their sounds.",
    "everything": "List the shapes and sounds.",
}


@dataclass(frozen=True)
class Question:
    """A question has a family, its words and the right answer."""

    family: str
    question: str
    answer: str


def vocabulary(kinds: Sequence[str] = SOUNDS) -> list[str]:
    """Lists every word and sign of questions and answers, sorted; `kinds` are the sounds."""
    texts = [wording.replace("{}", "") for wording in WORDINGS.values()]
    numbers = [str(second) for second in range(LAST_SECOND + 1)]
    words = {word for text in texts for word in text.replace("?", " ?").replace(".", " .").split()}
    return sorted(words | {*COLOURS, *SHAPES, *kinds, *numbers, "yes", "no", "nothing", "and", ","})


def questions(scene: Scene, rng: np.random.Generator) -> list[Question]:
    """Asks the questions of the six families that can be asked; `rng` chooses where answers have to be balanced.

    The cross-modal families have at least two questions with different answers or none at all: no answer stands
    under two questions of "which sound" or "which shape", and as many orders are "yes" as "no".
    """
    shapes, sounds = _once(scene.vision.events), _once(scene.sound.events)
    asked = [*_vision(scene.vision.events), *_audio(scene.sound.events)]
    pairs = _pairs(scene, shapes, sounds)
    asked += _one_per_answer([_ask("sound_while_shape", sound.kind, shape.name) for shape, sound in pairs[0]], rng)
    asked += _one_per_answer([_ask("shape_during_sound", shape.name, sound.kind) for shape, sound in pairs[1]], rng)
    if scene.duration_sec >= ORDER_CLIP_SEC:
        asked += _as_many_yes_as_no(_orders(shapes, sounds), rng)
    asked += [_ask("time of shape", str(int(shape.appear_sec)), shape.name, family="time") for shape in shapes]
    asked += [_ask("time of sound", str(int(sound.onset_sec)), sound.kind, family="time") for sound in sounds]
    return asked


def list_questions(scene: Scene) -> list[Question]:
    """Asks dense questions for training alone, family "list": all that happens, in order."""
    shapes, sounds = scene.vision.events, scene.sound.events
    lists = {
        "shapes": [f"{shape.name} {int(shape.appear_sec)}" for shape in shapes],
        "sounds": [f"{sound.kind} {int(sound.onset_sec)}" for sound in sounds],
        **_lists_of_pairs(shapes, sounds),
    }
    events: list[ShapeEvent | SoundEvent] = sorted([*shapes, *sounds], key=lambda event: event.start_sec)
    gaps = [b.start_sec - a.start_sec for a, b in pairwise(events) if type(a) is not type(b)]
    if min(gaps, default=LIST_GAP_SEC) >= LIST_GAP_SEC:
        lists["everything"] = [event.name for event in events]
    return [_ask(key, ", ".join(parts) or "nothing", family="list") for key, parts in lists.items()]


def _lists_of_pairs(shapes: tuple[ShapeEvent, ...], sounds: tuple[SoundEvent, ...]) -> dict[str, list[str]]:
    """Which shapes are visible with each sound, and which sounds are heard with each shape, unless one is in doubt."""
    overlaps = {(shape, sound): _overlap(shape, sound) for shape in shapes for sound in sounds}
    if any(-LIST_APART_SEC < overlap < LIST_TOGETHER_SEC for overlap in overlaps.values()):
        return {}
    pairs = [pair for pair, overlap in overlaps.items() if overlap > 0]
    return {
        "shapes of sounds": [_with_names(sound, [seen for seen, heard in pairs if heard is sound]) for sound in sounds],
        "sounds of shapes": [_with_names(shape, [heard for seen, heard in pairs if seen is shape]) for shape in shapes],
    }


def complete(scene: Scene, asked: list[Question]) -> bool:
    """Tells whether every family is asked that can be asked about clips of this length."""
    wanted = FAMILIES if scene.duration_sec >= ORDER_CLIP_SEC else set(FAMILIES) - {"order"}
    return {question.family for question in asked} >= set(wanted)


def _ask(key: str, answer: str, *names: str, family: str | None = None) -> Question:
    return Question(family or key, WORDINGS[key].format(*names), answer)


def _once(events: tuple) -> list:
    counts = Counter(event.name for event in events)
    return [event for event in events if counts[event.name] == 1]


def _vision(events: tuple[ShapeEvent, ...]) -> list[Question]:
    colours, shapes = (Counter(getattr(event, part) for event in events) for part in ("colour", "shape"))
    asked = [_ask("colour", e.colour, e.shape, family="vision") for e in events if shapes[e.shape] == 1]
    asked += [_ask("shape", e.shape, e.colour, family="vision") for e in events if colours[e.colour] == 1]
    if len(events) > 1:
        asked.append(_ask("first shape", events[0].name, family="vision"))
        asked.append(_ask("last shape", events[-1].name, family="vision"))
    return asked


def _audio(events: tuple[SoundEvent, ...]) -> list[Question]:
    asked = []
    if len(events) > 1:
        asked.append(_ask("first sound", events[0].kind, family="audio"))
        asked.append(_ask("last sound", events[-1].kind, family="audio"))
    once = _once(events)
    for event, after in pairwise(events):
        if event in once:
            asked.append(_ask("next sound", after.kind, event.kind, family="audio"))
    return asked


def _pairs(scene: Scene, shapes: list[ShapeEvent], sounds: list[SoundEvent]) -> tuple[list, list]:
    """Shapes and sounds of which the one can be asked about, and the other is the answer: by shape, and by sound."""
    by_shape, by_sound = [], []
    for shape in shapes:
        sounds_near = [sound for sound in scene.sound.events if _overlap(shape, sound) > -APART_SEC]
        if len(sounds_near) == 1 and _overlap(shape, sounds_near[0]) >= TOGETHER_SEC:
            by_shape.append((shape, sounds_near[0]))
    for sound in sounds:
        shapes_near = [shape for shape in scene.vision.events if _overlap(shape, sound) > -APART_SEC]
        if len(shapes_near) == 1 and _overlap(shapes_near[0], sound) >= TOGETHER_SEC:
            by_sound.append((shapes_near[0], sound))
    return by_shape, by_sound


def _overlap(shape: ShapeEvent, sound: SoundEvent) -> float:
    """Seconds for which a shape is visible while a sound is heard; negative: so far they are apart."""
    return min(shape.vanish_sec, sound.end_sec) - max(shape.appear_sec, sound.onset_sec)


def _with_names(event: ShapeEvent | SoundEvent, others: Sequence[ShapeEvent | SoundEvent]) -> str:
    return f"{event.name} {' and '.join(other.name for other in others) or 'nothing'}"


def _orders(shapes: list[ShapeEvent], sounds: list[SoundEvent]) -> list[Question]:
    asked = []
    for shape in shapes:
        for sound in sounds:
            lead = shape.appear_sec - sound.onset_sec
            if ORDER_GAP_SEC[0] <= abs(lead) <= ORDER_GAP_SEC[1]:
                asked.append(_ask("order", "yes" if lead > 0 else "no", sound.kind, shape.name))
    return asked


def _one_per_answer(asked: list[Question], rng: np.random.Generator) -> list[Question]:
    chosen = {asked[index].answer: asked[index] for index in rng.permutation(len(asked))}
    return sorted(chosen.values(), key=asked.index) if len(chosen) > 1 else []


def _as_many_yes_as_no(asked: list[Question], rng: np.random.Generator) -> list[Question]:
    sides = [[question for question in asked if question.answer == answer] for answer in ("yes", "no")]
    number = min(map(len, sides))
    chosen = [side[index] for side in sides for index in rng.permutation(len(side))[:number]]
    return sorted(chosen, key=asked.index)
