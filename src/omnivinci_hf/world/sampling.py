"""This module draws scenes at random. A seed gives the same scene on every machine."""

import math
from collections.abc import Sequence

import numpy as np

from .backgrounds import HUM_LEVEL, PLACES, tint
from .questions import complete, questions
from .scene import (
    COLOURS,
    SHAPES,
    SOUNDS,
    Colour,
    Distractor,
    Motion,
    Point,
    Scene,
    ShapeEvent,
    SoundEvent,
    SoundTrack,
    VisionTrack,
)


MIN_SEC, MAX_SEC = 6, 20
FRAME_RATES = (8, 10, 12, 12.5, 15, 20, 24, 25, 30)
SAMPLING_RATES = (16000, 16000, 22050, 24000, 44100)  # high ones are slow to encode
# Moments keep away from those that would leave an answer in doubt. Sounds stay clear of the turn of a second. Who looks
# twice a second, and may be a frame late, sees a shape first in the second that is asked for, and last just before it
# vanishes.
SOUND_ONSETS = (0.25, 0.75)
TICK_SEC, OFF_TICK_SEC = 0.5, (0.1, 0.3)
EVENTS = (3, 6)
SPACING_SEC = 2.4
SHORTEST_SHAPE_SEC = 1.5
MOST_AT_A_TIME = 2
SOUND_SEC = (0.45, 1.0)
SILENCE_SEC = 0.4  # at least, between two sounds
MOST_ATTEMPTS = 100_000
SOUNDS_PER_VISION = 8  # that are tried with it: they are quicker to draw
LOUDNESS = (0.25, 0.7)  # highest sample of the sounds of a clip
REPEATS = 0.15  # of the clips: one of their sounds is heard twice


def sample_vision(seed, duration_sec: float | None = None, place: int | None = None) -> VisionTrack:
    """Draws shapes that appear, move and vanish, at a place or any. `seed` may be a tuple of numbers."""
    rng = np.random.default_rng(_entropy(seed, 0))
    place = _place_of(seed) if place is None else place
    duration = _duration(rng, duration_sec)
    short = 2 * round(48 * 2.2 ** rng.random())
    long = min(320, round(short * rng.uniform(1.0, 1.6) / 2) * 2)
    width, height = (short, long) if rng.random() < 0.25 else (long, short)
    base = tint(place) * rng.uniform(0.85, 1.15, 2)[:, None] + rng.uniform(-4, 4, 3)  # top and bottom
    return VisionTrack(
        duration_sec=duration,
        fps=float(rng.choice(FRAME_RATES)),
        width=width,
        height=height,
        background=(_colour(base[0].round()), _colour(base[1].round())),
        events=_shape_events(rng, duration, width, height),
        distractors=tuple(_distractor(rng) for _ in range(rng.integers(0, 4))),
        noise=float(rng.uniform(0, 10)),
        seed=int(rng.integers(2**31)),
        place=place,
    )


def sample_sound(
    seed, duration_sec: float | None = None, kinds: Sequence[str] = SOUNDS, place: int | None = None
) -> SoundTrack:
    """Draws sounds one after the other, over noise and the hum of a place or any. `seed` may be a tuple of numbers.

    `kinds` may hold spoken words, too: `SOUNDS + SPOKEN`. Their samples differ with the speech synthesizer.
    """
    if len(kinds) < EVENTS[1]:
        raise ValueError(f"A clip may have {EVENTS[1]} sounds: give as many kinds at least, got {len(kinds)}.")
    rng = np.random.default_rng(_entropy(seed, 1))
    duration = _duration(rng, duration_sec)
    level = float(rng.uniform(*LOUDNESS))
    return SoundTrack(
        duration_sec=duration,
        sampling_rate=int(rng.choice(SAMPLING_RATES)),
        events=_sound_events(rng, duration, level, kinds),
        channels=1 if rng.random() < 0.6 else 2,
        noise=level * float(10 ** rng.uniform(-3, -1.7)),
        seed=int(rng.integers(2**31)),
        place=_place_of(seed) if place is None else place,
        hum=HUM_LEVEL * level / LOUDNESS[1] * float(rng.uniform(0.7, 1.0)),
    )


def sample_scene(
    seed, duration_sec: float | None = None, kinds: Sequence[str] = SOUNDS, place: int | None = None
) -> Scene:
    """Draws the first scene of a seed about which every family of questions can be asked that its length allows."""
    duration = _duration(np.random.default_rng(_entropy(seed, 2)), duration_sec)
    place = _place_of(seed) if place is None else place
    for attempt in range(MOST_ATTEMPTS):
        if attempt % SOUNDS_PER_VISION == 0:
            vision = sample_vision((*_entropy(seed, 3), attempt), duration, place)
        scene = Scene(vision, sample_sound((*_entropy(seed, 3), attempt), duration, kinds, place))
        if complete(scene, questions(scene, np.random.default_rng(0))):
            return scene
    raise ValueError(f"Found no scene of {duration} s that can be asked about in every way.")


def _place_of(seed) -> int:
    return int(np.random.default_rng(_entropy(seed, 7)).integers(PLACES))


def _entropy(seed, purpose: int) -> tuple[int, ...]:
    return (*(seed if isinstance(seed, tuple) else (seed,)), purpose)


def _duration(rng: np.random.Generator, duration_sec: float | None) -> float:
    if duration_sec is None:
        return round(float(rng.uniform(MIN_SEC, MAX_SEC)), 2)
    if not MIN_SEC <= duration_sec <= MAX_SEC:
        raise ValueError(f"duration_sec must lie between {MIN_SEC} and {MAX_SEC}, got {duration_sec}.")
    return float(duration_sec)


# Shapes


def _seconds(rng: np.random.Generator, duration: float) -> list[int]:
    """The seconds in which something begins: a few, unevenly spaced, none at the very end."""
    number = int(np.clip(round(duration / SPACING_SEC + rng.uniform(-0.5, 0.5)), *EVENTS))
    places = (np.arange(number) + rng.uniform(0, 1, number)) / number
    return sorted({int(place * (duration - 1.6)) for place in places})


def _shape_events(rng: np.random.Generator, duration: float, width: int, height: int) -> tuple[ShapeEvent, ...]:
    events: list[ShapeEvent] = []
    seconds = _seconds(rng, duration)
    ticks = np.arange(0, duration - OFF_TICK_SEC[1], TICK_SEC)
    for second in seconds:
        appear = second + TICK_SEC - rng.uniform(*OFF_TICK_SEC)
        ends = ticks + rng.uniform(*OFF_TICK_SEC)
        ends = ends[(ends >= appear + SHORTEST_SHAPE_SEC) & (ends <= appear + duration / len(seconds))]
        others = [event for event in events if event.vanish_sec + TICK_SEC > appear]
        if len(ends) and len(others) < MOST_AT_A_TIME:
            event = _place(rng, others, appear, float(rng.choice(ends)), width, height)
            if event is not None:
                events.append(event)
    return tuple(events)


def _place(
    rng: np.random.Generator, others: list[ShapeEvent], appear: float, vanish: float, width: int, height: int
) -> ShapeEvent | None:
    """A shape whose way does not cross those of `others`, nor has it the name of one; None if none is found."""
    colour, shape = str(rng.choice(list(COLOURS))), str(rng.choice(SHAPES))
    if any(other.name == f"{colour} {shape}" for other in others):
        return None
    rgb = _colour([np.clip(level + rng.integers(-12, 13), 0, 255) for level in COLOURS[colour]])
    for size in np.linspace(rng.uniform(0.34, 0.46), 0.3, 12):
        start, end = _ends(rng, 0.5 * size * min(width, height) / np.array((width, height)))
        event = ShapeEvent(colour, shape, appear, vanish, float(size), Motion(start, end), rgb)
        if not any(_meet(event, other, width, height) for other in others):
            return event
    return None


def _ends(rng: np.random.Generator, margin: np.ndarray) -> tuple[Point, Point]:
    start, end = (margin + (1 - 2 * margin) * rng.random(2) for _ in range(2))
    if rng.random() < 0.2:  # stands still
        end = start
    return _point(start), _point(end)


def _point(values: Sequence[float] | np.ndarray) -> Point:
    x, y = values
    return float(x), float(y)


def _colour(levels: Sequence[float] | np.ndarray) -> Colour:
    red, green, blue = levels
    return int(red), int(green), int(blue)


def _meet(a: ShapeEvent, b: ShapeEvent, width: int, height: int) -> bool:
    """Whether two shapes touch while both are visible."""
    apart = 0.58 * (a.size + b.size) * min(width, height)
    for time in np.linspace(max(a.appear_sec, b.appear_sec), min(a.vanish_sec, b.vanish_sec), 12):
        (x0, y0), (x1, y1) = a.position(time), b.position(time)
        if math.hypot((x0 - x1) * width, (y0 - y1) * height) < apart:
            return True
    return False


def _distractor(rng: np.random.Generator) -> Distractor:
    start, end = rng.random((2, 2))
    if rng.random() < 0.5:
        end = start
    size = _point(rng.uniform(0.02, 0.1, 2))
    return Distractor(size, int(rng.integers(90, 160)), Motion(_point(start), _point(end)))


# Sounds


def _sound_events(
    rng: np.random.Generator, duration: float, level: float, kinds: Sequence[str]
) -> tuple[SoundEvent, ...]:
    order: list[str] = rng.permutation(kinds).tolist()
    if rng.random() < REPEATS:
        repeated, place = int(rng.integers(2)), int(rng.integers(2, 4))
        order[place] = order[repeated]
    events: list[SoundEvent] = []
    for second, kind in zip(_seconds(rng, duration), order, strict=False):
        onset = second + rng.uniform(*SOUND_ONSETS)
        if not events or onset >= events[-1].end_sec + SILENCE_SEC:
            length = min(rng.uniform(*SOUND_SEC), duration - 0.1 - onset)
            loudness = min(level * 10 ** rng.uniform(-0.3, 0.1), 1.0)
            pitch, noise_seed = float(rng.random()), int(rng.integers(2**31))
            events.append(SoundEvent(kind, onset, length, loudness, pitch, noise_seed))
    return tuple(events)
