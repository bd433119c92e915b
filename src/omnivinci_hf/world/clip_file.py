"""This module writes scenes as real files, and encodes files anew."""

import math
import os
from collections.abc import Iterable
from dataclasses import replace
from fractions import Fraction
from itertools import chain
from pathlib import Path
from typing import Any

import av
import numpy as np

from .rendering import frames, waveform
from .scene import Scene


CODECS = {".mp4": ("libx264", "aac"), ".webm": ("libvpx-vp9", "libopus"), ".mkv": ("mpeg4", "libmp3lame")}
FORMATS = {".mp4": "mp4", ".webm": "webm", ".mkv": "matroska"}
LAYOUTS = {1: "mono", 2: "stereo"}
CRF = range(20, 35)  # from good to poor
AUDIO_OPTIONS = {"aac": {"aac_coder": "fast"}}
# quick rather than good: what they spoil belongs to the world
VIDEO_OPTIONS = {
    "libx264": {"preset": "ultrafast", "crf": "28"},
    "libvpx-vp9": {"deadline": "realtime", "cpu-used": "8", "crf": "36", "b": "0"},
    "libvpx": {"deadline": "realtime", "cpu-used": "8", "crf": "30", "b": "600000"},
    "mpeg4": {"qmin": "4", "qmax": "8", "b": "600000"},
}


def write_clip(
    scene: Scene,
    path: str | os.PathLike,
    *,
    fps: float | None = None,
    size: tuple[int, int] | None = None,
    video_codec: str | None = None,
    audio_codec: str | None = None,
    options: dict[str, str] | None = None,
) -> Path:
    """Writes the scene as a video with sound; the suffix, .mp4, .webm or .mkv, chooses container and codecs.

    `fps` and `size` (width, height) replace those of the vision track; `options` are the video encoder's. Without them
    H.264 is of a quality that differs from scene to scene.
    """
    codecs = choose_codecs(path, video_codec, audio_codec)
    vision = replace(scene.vision, fps=fps or scene.vision.fps)
    if size is not None:
        vision = replace(vision, width=size[0], height=size[1])
    if codecs[0] == "libx264" and options is None:
        options = {**VIDEO_OPTIONS["libx264"], "crf": str(CRF[vision.seed % len(CRF)])}
    rate = sampling_rate(codecs[1], scene.sound.sampling_rate)
    samples = waveform(scene.sound, rate, scene.duration_sec)
    return encode(path, codecs, frames(vision, scene.duration_sec), vision.fps, samples, rate, options)


def reencode(
    source: str | os.PathLike,
    path: str | os.PathLike,
    *,
    fps: float,
    size: tuple[int, int],
    video_codec: str | None = None,
    audio_codec: str | None = None,
    options: dict[str, str] | None = None,
) -> Path:
    """Decodes a clip and encodes it again, in another container, frame rate and size (width, height)."""
    codecs = choose_codecs(path, video_codec, audio_codec)
    with av.open(f"file:{Path(source).absolute()}") as container:
        rate = sampling_rate(codecs[1], container.streams.audio[0].rate)
        resampler = av.AudioResampler("fltp", container.streams.audio[0].layout, rate)
        pictures, times, blocks = [], [], []
        for frame in container.decode(video=0, audio=0):
            if isinstance(frame, av.VideoFrame):
                pictures.append(frame.to_ndarray(width=size[0], height=size[1], format="rgb24"))
                times.append(frame.time)
            else:
                blocks += [block.to_ndarray() for block in resampler.resample(frame)]
        blocks += [block.to_ndarray() for block in resampler.resample(None)]
        duration = len(pictures) / float(container.streams.video[0].average_rate)
    ticks = np.arange(round(duration * fps)) / fps + times[0]
    shown = np.searchsorted(times, ticks + 1e-3, side="right") - 1
    return encode(path, codecs, (pictures[i] for i in shown), fps, np.concatenate(blocks, axis=1), rate, options)


def choose_codecs(path: str | os.PathLike, video_codec: str | None, audio_codec: str | None) -> tuple[str, str]:
    """Chooses the video and the audio codec of a file.

    Raises:
        ValueError: for a suffix of no known container, or a codec for which there is no encoder.
    """
    suffix = Path(path).suffix
    if suffix not in CODECS:
        raise ValueError(f"A clip's name must end with one of {', '.join(CODECS)}, got {str(path)!r}.")
    video, audio = video_codec or CODECS[suffix][0], audio_codec or CODECS[suffix][1]
    if video_codec is None and video == "libx264" and video not in av.codecs_available:
        video = "mpeg4"  # some builds have no H.264 for its patents
    for codec in (video, audio):
        if codec not in av.codecs_available:
            raise ValueError(f"This PyAV has no encoder {codec!r}: choose another as `video_codec` or `audio_codec`.")
    return video, audio


def sampling_rate(codec: str, wanted: int) -> int:
    """Chooses the rate that is wanted, or the next higher that the encoder knows."""
    rates = av.Codec(codec, "w").audio_rates or [wanted]
    return min((rate for rate in rates if rate >= wanted), default=max(rates))


def encode(
    path: str | os.PathLike,
    codecs: tuple[str, str],
    pictures: Iterable[np.ndarray],
    fps: float,
    samples: np.ndarray,
    rate: int,
    options: dict[str, str] | None = None,
) -> Path:
    """Writes pictures `(height, width, 3)` and samples `(channels, num_samples)`.

    Raises:
        ValueError: when there is no picture.
    """
    path, frame_rate = Path(path), Fraction(fps).limit_denominator(1001)
    pictures = iter(pictures)
    first = next(pictures, None)
    if first is None:
        raise ValueError("A clip needs one picture at least.")
    done = 0  # samples
    with av.open(f"file:{path.absolute()}", "w", format=FORMATS[path.suffix]) as container:
        video: Any = container.add_stream(
            codecs[0], rate=frame_rate, options=options or VIDEO_OPTIONS.get(codecs[0], {})
        )
        video.height, video.width = first.shape[:2]
        video.pix_fmt = "yuv420p"
        video.thread_count = 1  # the quickest for such small pictures
        audio: Any = container.add_stream(
            codecs[1], rate=rate, layout=LAYOUTS[len(samples)], options=AUDIO_OPTIONS.get(codecs[1], {})
        )
        for number, picture in enumerate(chain([first], pictures)):
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
            frame.pts, frame.time_base = number, 1 / frame_rate
            container.mux(video.encode(frame))
            end = math.floor((number + 1) / frame_rate * rate)
            container.mux(_encode_sound(audio, samples[:, done:end], done, rate))
            done = end
        container.mux(_encode_sound(audio, samples[:, done:], done, rate))
        container.mux(video.encode())
        container.mux(audio.encode())
    return path


def _encode_sound(stream: av.AudioStream, samples: np.ndarray, start: int, rate: int) -> list[av.Packet]:
    if not samples.size:  # the sound is over before the picture
        return []
    samples = np.ascontiguousarray(samples, dtype=np.float32)
    frame = av.AudioFrame.from_ndarray(samples, format="fltp", layout=LAYOUTS[len(samples)])
    frame.sample_rate = rate
    frame.pts, frame.time_base = start, Fraction(1, rate)
    return stream.encode(frame)
