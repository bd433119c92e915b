"""This module renders a scene in memory, as pictures and samples."""

from collections.abc import Iterable, Iterator

import numpy as np
from PIL import Image, ImageChops, ImageDraw

from .backgrounds import hum
from .scene import ShapeEvent, SoundTrack, VisionTrack
from .synthesis import synthesize


SUPERSAMPLING = 4
NOISE_MARGIN = 32  # pictures show different parts of one field of noise
POLYGONS = {
    "square": ((0.06, 0.06), (0.94, 0.06), (0.94, 0.94), (0.06, 0.94)),
    "triangle": ((0.5, 0.0), (1.0, 0.94), (0.0, 0.94)),
    "cross": (
        *((0.33, 0.0), (0.67, 0.0), (0.67, 0.33), (1.0, 0.33), (1.0, 0.67), (0.67, 0.67)),
        *((0.67, 1.0), (0.33, 1.0), (0.33, 0.67), (0.0, 0.67), (0.0, 0.33), (0.33, 0.33)),
    ),
    "star": tuple(
        (0.5 + radius * np.sin(angle), 0.52 - radius * np.cos(angle))
        for angle, radius in zip(np.arange(10) * np.pi / 5, (0.52, 0.22) * 5, strict=True)
    ),
}


def vision_frames_at(track: VisionTrack, times: Iterable[float], size: tuple[int, int] | None = None) -> np.ndarray:
    """Renders the pictures that are seen at `times`, `(num_frames, height, width, 3)` uint8.

    They are drawn in the size of the track and, with `size` (width, height), resized as an image processor would.
    """
    painter, times = _Painter(track), list(times)
    width, height = size or (track.width, track.height)
    pictures = np.empty((len(times), height, width, 3), dtype=np.uint8)
    for number, time in enumerate(times):
        picture = painter.paint(time)
        pictures[number] = np.asarray(picture if size is None else picture.resize(size, Image.Resampling.BICUBIC))
    return pictures


def frames(track: VisionTrack, duration_sec: float | None = None) -> Iterator[np.ndarray]:
    """Renders every frame of the track in order, frame `i` at `i / fps` seconds, each `(height, width, 3)` uint8."""
    painter = _Painter(track)
    for number in range(num_frames(track, duration_sec)):
        yield np.asarray(painter.paint(number / track.fps))


def num_frames(track: VisionTrack, duration_sec: float | None = None) -> int:
    """Counts the frames of a track, or of so many seconds of it."""
    return max(1, round((duration_sec or track.duration_sec) * track.fps))


def waveform(track: SoundTrack, rate: int | None = None, duration_sec: float | None = None) -> np.ndarray:
    """Renders the sound, `(channels, num_samples)` float32, at the track's rate or another."""
    rate = rate or track.sampling_rate
    length = round((duration_sec or track.duration_sec) * rate)
    rng = np.random.default_rng((track.seed, 1))
    samples = track.noise * rng.standard_normal((track.channels, length), dtype=np.float32)
    if track.hum and track.place is not None:
        samples += track.hum * hum(track.place, length, rate)
    for event in (*track.events, *track.statements):
        start = round(event.onset_sec * rate)
        sound = event.level * synthesize(event.kind, event.length_sec, event.pitch, event.seed, rate)
        # in stereo from the left, the right or anywhere between
        balance = np.random.default_rng((event.seed, 2)).uniform(0.4, 1.0, (track.channels, 1))
        samples[:, start : start + len(sound)] += (balance / balance.max() * sound)[:, : length - start]
    return np.clip(samples, -1, 1)


class _Painter:
    """Draws the pictures of one track; what does not change from one to the next is made once."""

    def __init__(self, track: VisionTrack):
        self.track = track
        self.background = _gradient(track)
        self.stamps = {event: _stamp(event, min(track.width, track.height)) for event in track.events}
        self.noise = _noise_field(track) if track.noise > 0 else None

    def paint(self, time_sec: float) -> Image.Image:
        """Draws the picture that is seen at a moment."""
        track = self.track
        picture = self.background.copy()
        for bar in track.distractors:
            x, y = bar.motion.at(min(time_sec / track.duration_sec, 1.0))
            width, height = round(bar.size[0] * track.width), round(bar.size[1] * track.height)
            corner = round(x * track.width - width / 2), round(y * track.height - height / 2)
            picture.paste((bar.grey,) * 3, (*corner, corner[0] + max(width, 1), corner[1] + max(height, 1)))
        for event in track.events:
            if event.visible_at(time_sec):
                (x, y), stamp = event.position(time_sec), self.stamps[event]
                half = stamp.width / 2
                corner = round(x * track.width - half), round(y * track.height - half)
                picture.paste(event.rgb, corner, stamp)
        if self.noise is None:
            return picture
        # by the time in milliseconds, so that a picture does not depend on those before it
        rng = np.random.default_rng((track.seed, round(time_sec * 1000)))
        left, top = (int(offset) for offset in rng.integers(0, NOISE_MARGIN, 2))
        part = self.noise.crop((left, top, left + track.width, top + track.height))
        return ImageChops.add(picture, part, offset=-128)


def _gradient(track: VisionTrack) -> Image.Image:
    top, bottom = np.array(track.background, dtype=float)
    rows = top + (bottom - top) * np.linspace(0, 1, track.height)[:, None]
    column = Image.fromarray(rows.round().astype(np.uint8)[:, None])
    return column.resize((track.width, track.height), Image.Resampling.NEAREST)


def _stamp(event: ShapeEvent, short_side: int) -> Image.Image:
    """Where the shape is, as a mask with smooth edges in a square of its diameter."""
    side = max(2, round(event.size * short_side))
    large = side * SUPERSAMPLING
    mask = Image.new("L", (large, large))
    draw = ImageDraw.Draw(mask)
    if event.shape == "circle":
        draw.ellipse((0, 0, large - 1, large - 1), fill=255)
    else:
        draw.polygon([(x * (large - 1), y * (large - 1)) for x, y in POLYGONS[event.shape]], fill=255)
    return mask.reduce(SUPERSAMPLING)


def _noise_field(track: VisionTrack) -> Image.Image:
    rng = np.random.default_rng((track.seed, 0))
    shape = (track.height + NOISE_MARGIN, track.width + NOISE_MARGIN, 3)
    field = 128 + track.noise * rng.standard_normal(shape, dtype=np.float32)
    return Image.fromarray(np.clip(field.round(), 0, 255).astype(np.uint8))
