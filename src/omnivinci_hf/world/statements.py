"""This module lets a voice say something about the shapes of a scene, true or false: what both senses tell."""

from collections import Counter
from dataclasses import replace

import numpy as np

from .scene import COLOURS, STATEMENTS, Scene, ShapeEvent, SoundEvent, VisionTrack


STATEMENT_SEC = 1.3
STATEMENT_PITCH = 0.5  # one voice speaks all of them
STATEMENT_LEVEL = 0.6
PAUSE_SEC = 0.15  # between a statement and a sound
STEP_SEC = 0.05  # between moments that are tried


def with_statements(scene: Scene, seed: int, number: int = 2) -> Scene:
    """Adds statements about shapes to a scene: each while its shape is visible and nothing else is heard.

    About a shape is spoken only if no other one of the clip has its form, so that there is no doubt which is meant.
    Half of the statements are true, by chance. There may be fewer than `number`. The scene is otherwise the same.
    """
    rng = np.random.default_rng((seed, 8))
    forms = Counter(event.shape for event in scene.vision.events)
    spoken: list[SoundEvent] = []
    candidates = [event for event in scene.vision.events if forms[event.shape] == 1]
    for index in rng.permutation(len(candidates)):
        event = candidates[index]
        onset = _free_moment(scene, spoken, event)
        if onset is not None and len(spoken) < number:
            others = [colour for colour in COLOURS if colour != event.colour]
            colour = event.colour if rng.random() < 0.5 else str(rng.choice(others))
            words = f"the {event.shape} is {colour}"
            spoken.append(SoundEvent(words, onset, STATEMENT_SEC, STATEMENT_LEVEL, STATEMENT_PITCH))
    return replace(scene, sound=replace(scene.sound, statements=tuple(sorted(spoken, key=lambda one: one.onset_sec))))


def is_true(statement: SoundEvent, vision: VisionTrack) -> bool:
    """Tells whether a statement is true of a shape that is visible when it begins."""
    colour, shape = STATEMENTS[statement.kind]
    return any(
        event.visible_at(statement.onset_sec) and (event.colour, event.shape) == (colour, shape)
        for event in vision.events
    )


def _free_moment(scene: Scene, spoken: list[SoundEvent], event: ShapeEvent) -> float | None:
    """The first moment, while a shape is visible, from which on nothing is heard for the length of a statement."""
    busy = [(one.onset_sec - PAUSE_SEC, one.end_sec + PAUSE_SEC) for one in (*scene.sound.events, *spoken)]
    last = min(event.vanish_sec, scene.sound.duration_sec - STATEMENT_SEC)
    for onset in np.arange(event.appear_sec + PAUSE_SEC, last, STEP_SEC):
        if all(onset + STATEMENT_SEC <= start or onset >= end for start, end in busy):
            return float(onset)
    return None
