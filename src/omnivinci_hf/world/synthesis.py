"""This module makes the sounds: six kinds of different character, each of any pitch, length and level."""

import numpy as np

from .scene import SPOKEN, STATEMENTS
from .speech import speak


RAMP_SEC = 0.01  # so that a sound does not click


def synthesize(kind: str, length_sec: float, pitch: float, seed: int, rate: int) -> np.ndarray:
    """Makes a sound with a peak of one, `(num_samples,)` float64.

    `pitch` runs from 0 to 1 over the range of its kind.
    """
    time = np.arange(round(length_sec * rate)) / rate
    if kind in SPOKEN or kind in STATEMENTS:
        samples = speak(kind, length_sec, pitch, rate)
    else:
        samples = VOICES[kind](time, pitch, np.random.default_rng(seed))
    ramp = np.minimum(time, time[-1] - time) / RAMP_SEC
    samples = samples * np.clip(ramp, 0, 1)
    return samples / np.abs(samples).max()


def _bell(time: np.ndarray, pitch: float, rng: np.random.Generator) -> np.ndarray:
    """Partials that are no multiples of one another and die away, the high ones first."""
    base = 500 * 1.8**pitch
    partials = ((1.0, 1.0), (2.0, 0.6), (2.76, 0.5), (4.07, 0.3), (5.4, 0.2))
    return sum(
        level * np.exp(-1.3 * ratio * time) * np.sin(2 * np.pi * base * ratio * time) for ratio, level in partials
    )


def _whistle(time: np.ndarray, pitch: float, rng: np.random.Generator) -> np.ndarray:
    """One high tone with a trill."""
    base = 1500 * 1.7**pitch
    trill = 0.02 * base / (2 * np.pi * 12) * np.sin(2 * np.pi * 12 * time)
    return np.sin(2 * np.pi * (base * time + trill))


def _drum(time: np.ndarray, pitch: float, rng: np.random.Generator) -> np.ndarray:
    """Low beats, four a second, each with a short rattle."""
    beat = time % 0.25
    tone = np.sin(2 * np.pi * (80 + 60 * pitch) * beat * (1 + 0.5 * np.exp(-beat / 0.02)))
    return np.exp(-beat / 0.06) * tone + 0.4 * np.exp(-beat / 0.008) * rng.standard_normal(len(time))


def _buzzer(time: np.ndarray, pitch: float, rng: np.random.Generator) -> np.ndarray:
    """A rough low tone: the odd harmonics of a square wave up to 3 kHz."""
    base = 120 * 1.8**pitch
    orders = np.arange(1, 3000 / base, 2)
    return sum(np.sin(2 * np.pi * base * order * time) / order for order in orders)


def _chirp(time: np.ndarray, pitch: float, rng: np.random.Generator) -> np.ndarray:
    """Short rising sweeps, eight a second."""
    sweep_sec = 0.125
    part = time % sweep_sec
    low, rise = 2200 * 1.3**pitch, 2500 / sweep_sec
    return np.sin(np.pi * part / sweep_sec) * np.sin(2 * np.pi * (low * part + rise * part**2 / 2))


def _noise(time: np.ndarray, pitch: float, rng: np.random.Generator) -> np.ndarray:
    """A hiss; the higher the pitch, the brighter."""
    white = rng.standard_normal(len(time) + 1)
    return white[1:] - (0.2 + 0.6 * pitch) * white[:-1]


VOICES = {"bell": _bell, "whistle": _whistle, "drum": _drum, "buzzer": _buzzer, "chirp": _chirp, "noise": _noise}
