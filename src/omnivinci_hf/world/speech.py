"""This module speaks words, where the speech synthesizer espeak-ng is installed."""

import functools
import io
import shutil
import subprocess
import wave

import numpy as np


PROGRAM = "espeak-ng"
TIMEOUT_SEC = 20
SILENT = 0.02  # of the loudest sample


def can_speak() -> bool:
    """Tells whether the speech synthesizer is installed."""
    return shutil.which(PROGRAM) is not None


def speak(word: str, length_sec: float, pitch: float, rate: int) -> np.ndarray:
    """A word of exactly this length, spoken slower or faster for it; `pitch` from 0 to 1 is low to high."""
    samples, spoken_rate = _spoken(word, round(20 + 60 * pitch), 180)
    speed = 180 * len(samples) / spoken_rate / length_sec
    samples, spoken_rate = _spoken(word, round(20 + 60 * pitch), int(np.clip(speed, 100, 400)))
    times = np.arange(round(length_sec * rate)) / rate
    return np.interp(times, np.arange(len(samples)) / spoken_rate, samples, right=0.0)


@functools.lru_cache(maxsize=256)
def _spoken(word: str, pitch: int, words_per_minute: int) -> tuple[np.ndarray, int]:
    if not can_speak():
        raise ValueError(f"Speaking {word!r} needs the program {PROGRAM}: install it, or leave spoken sounds out.")
    command = [PROGRAM, "-v", "en", "-p", str(pitch), "-s", str(words_per_minute), "--stdout", word]
    output = subprocess.run(command, capture_output=True, check=True, timeout=TIMEOUT_SEC).stdout
    with wave.open(io.BytesIO(output)) as file:
        samples = np.frombuffer(file.readframes(file.getnframes()), dtype="<i2") / 32768
        loud = np.flatnonzero(np.abs(samples) > SILENT * np.abs(samples).max())
        return samples[loud[0] : loud[-1] + 1], file.getframerate()
