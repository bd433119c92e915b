"""This module says where a clip is: what its picture and its sound have in common, whatever happens in it.

Each place has a tint of its own and a hum of its own, and no question asks for it. Without it, the picture and the
sound of a clip would be strangers to each other, and there would be nothing for OmniAlignNet to align.
"""

import colorsys

import numpy as np


HUES, HUMS_HZ = 8, (95, 150, 240, 380, 560, 820, 1150, 1600)
PLACES = 2 * HUES  # half of them dark with a steady hum, half lighter with one that comes and goes
LEVELS = (32, 60)  # of the darker and the lighter pictures, out of 255
SATURATION = 0.35
HUM_LEVEL = 0.035  # its highest sample, where sounds are as loud as they can be
PULSES_PER_SEC = 2.5


def tint(place: int) -> np.ndarray:
    """Computes the colour of the background, `(3,)` of 255."""
    level = LEVELS[_check(place) // HUES]
    return level * np.array(colorsys.hsv_to_rgb(place % HUES / HUES, SATURATION, 1.0))


def hum(place: int, num_samples: int, rate: int) -> np.ndarray:
    """Makes the sound of a place, `(num_samples,)` float32 with a peak of one."""
    time = np.arange(num_samples, dtype=np.float32) / rate
    tone = np.sin(2 * np.pi * HUMS_HZ[_check(place) % HUES] * time)
    return tone if place < HUES else tone * np.sin(np.pi * PULSES_PER_SEC * time) ** 2


def _check(place: int) -> int:
    if not 0 <= place < PLACES:
        raise ValueError(f"There are places 0 to {PLACES - 1}, got {place}.")
    return place
