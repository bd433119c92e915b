"""Scenes of the made-up world, written by hand."""

import os
from pathlib import Path

from omnivinci_hf.world import Motion, Scene, ShapeEvent, SoundEvent, SoundTrack, VisionTrack, write_clip
from omnivinci_hf.world.scene import COLOURS


STILL = Motion((0.5, 0.5), (0.5, 0.5))
BLACK = ((0, 0, 0), (0, 0, 0))


def shape(name: str, appear: float, vanish: float, motion: Motion = STILL, size: float = 0.4) -> ShapeEvent:
    colour, kind = name.split()
    return ShapeEvent(colour, kind, appear, vanish, size, motion, COLOURS.get(colour, (0, 0, 0)))


def vision(*events: ShapeEvent, duration: float = 12.0, **options) -> VisionTrack:
    options = {"fps": 10, "width": 128, "height": 96, "background": BLACK, **options}
    return VisionTrack(duration, events=events, **options)


def sound(*events: SoundEvent, duration: float = 12.0, **options) -> SoundTrack:
    return SoundTrack(duration, events=events, **{"sampling_rate": 16000, **options})


def example() -> Scene:
    """Every family can be asked; what is ambiguous is there, too: a chirp between two shapes, a drum heard twice."""
    return Scene(
        vision(
            shape("red circle", 1.3, 4.2),
            shape("blue square", 4.4, 7.2),
            shape("red star", 8.3, 11.2),
        ),
        sound(
            SoundEvent("bell", 2.5, 0.8),
            SoundEvent("chirp", 4.1, 0.5),
            SoundEvent("drum", 5.5, 0.7),
            SoundEvent("whistle", 7.4, 0.6),
            SoundEvent("drum", 9.5, 0.7),
        ),
    )


def write_plain_clip(path: str | os.PathLike, duration: float, fps: float = 8) -> Path:
    """An mp4 with a shape and a whistle in its middle."""
    middle = duration / 2
    picture = vision(shape("red circle", middle - 0.5, middle + 0.5), duration=duration, fps=fps)
    return write_clip(Scene(picture, sound(SoundEvent("whistle", middle - 0.5, 0.8), duration=duration)), path)
