"""This module cuts media into segments and writes a segment's picture or audio as parts of a message to a server."""

import base64
import hashlib
import io
import os
import wave
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
from PIL import Image

from ..omnivinci.audio_media_omnivinci import load_audio
from ..omnivinci.video_media_omnivinci import VideoClip, load_video
from .config import SegmentOptions
from .requests import Medium


SAMPLING_RATE = 16000
SMALL = 32, 24  # pictures in which cuts are looked for
DIGEST_BYTES = 1 << 20  # of each end of a file; large files are not read whole
JPEG_QUALITY = 90


@dataclass(frozen=True)
class Probe:
    """A probe says what a file holds: its length, and whether there is a moving picture and audio."""

    duration_sec: float
    has_video: bool
    has_audio: bool


def file_digest(path: Path) -> str:
    """Returns a hash of a file's size and both of its ends."""
    size = os.path.getsize(path)
    digest = hashlib.sha256(str(size).encode())
    with open(path, "rb") as file:
        digest.update(file.read(DIGEST_BYTES))
        file.seek(max(0, size - DIGEST_BYTES))
        digest.update(file.read(DIGEST_BYTES))
    return digest.hexdigest()[:24]


def probe(path: Path) -> Probe:
    """Looks into a file.

    Raises:
        ValueError: when it cannot be read, or has no length.
    """
    try:
        with av.open(f"file:{path}") as container:
            picture, audio = container.streams.video, container.streams.audio
            lengths = [float(stream.duration * stream.time_base) for stream in (*picture, *audio) if stream.duration]
            if not lengths and container.duration:
                lengths = [container.duration / av.time_base]
    except (av.FFmpegError, OSError) as error:
        raise ValueError(f"{path} cannot be read: {error}; convert it, or leave it out of `media`.") from error
    if not lengths or not (picture or audio):
        raise ValueError(f"{path} is no video or audio with a known length; leave it out of `media`, or remux it.")
    return Probe(max(lengths), bool(picture), bool(audio))


def cut(duration_sec: float, cuts: list[float], options: SegmentOptions) -> list[tuple[float, float]]:
    """Returns beginnings and ends of segments: between cuts, and none longer than allowed."""
    edges = [0.0]
    for scene_end in [*cuts, duration_sec]:
        while scene_end - edges[-1] > options.length_sec:
            edges.append(edges[-1] + options.length_sec)
        edges.append(scene_end)
    kept = [edges[0]]
    for edge in edges[1:-1]:
        if edge - kept[-1] >= options.min_sec:
            kept.append(edge)
    if len(kept) > 1 and duration_sec - kept[-1] < options.min_sec:
        kept.pop()
    kept.append(duration_sec)
    return [(round(start, 3), round(end, 3)) for start, end in zip(kept[:-1], kept[1:], strict=True)]


def scene_cuts(path: Path, threshold: float) -> list[float]:
    """Finds the seconds at which the picture changes at once, by differences of small grey pictures.

    Args:
        threshold: mean difference in levels of 255.
    """
    cuts: list[float] = []
    before, start = None, None
    with av.open(f"file:{path}") as container:
        container.streams.video[0].thread_type = "AUTO"
        for frame in container.decode(video=0):
            if frame.time is None:
                continue
            start = frame.time if start is None else start
            small = frame.reformat(*SMALL, format="gray").to_ndarray().astype(np.int16)
            if before is not None and np.abs(small - before).mean() >= threshold:
                cuts.append(frame.time - start)
            before = small
    return cuts


# -- Parts of messages


def message_parts(medium: Medium, video: str, audio: str, num_frames: int) -> list[dict[str, Any]]:
    """Writes the picture or the audio of a segment as parts of a message in OpenAI's form.

    Args:
        video: "image_url" or "video_url".
        audio: "input_audio" or "audio_url".
    """
    range_sec: dict[str, Any] = {"start_sec": medium.start_sec, "end_sec": medium.end_sec}
    if medium.modality == "audio":
        clip = load_audio(medium.path, sampling_rate=SAMPLING_RATE, **range_sec)
        data = base64.b64encode(_wav(clip.samples)).decode()
        if audio == "input_audio":
            return [{"type": "input_audio", "input_audio": {"data": data, "format": "wav"}}]
        return [{"type": "audio_url", "audio_url": {"url": f"data:audio/wav;base64,{data}"}}]
    frames = load_video(medium.path, num_frames=num_frames, **range_sec)
    if video == "video_url":
        data = base64.b64encode(_mp4(frames)).decode()
        return [{"type": "video_url", "video_url": {"url": f"data:video/mp4;base64,{data}"}}]
    parts: list[dict[str, Any]] = []
    for time, frame in zip(frames.times, frames.frames, strict=True):
        parts.append({"type": "text", "text": f"Frame at {time:.1f} s:"})
        data = base64.b64encode(_jpeg(frame)).decode()
        parts.append({"type": "image_url", "image_url": {"url": f"data:image/jpeg;base64,{data}"}})
    return parts


def _jpeg(frame: Image.Image) -> bytes:
    buffer = io.BytesIO()
    frame.save(buffer, "JPEG", quality=JPEG_QUALITY)
    return buffer.getvalue()


def _wav(samples: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    with wave.open(buffer, "wb") as file:
        file.setparams((1, 2, SAMPLING_RATE, 0, "NONE", ""))
        file.writeframes((np.clip(samples, -1, 1) * 32767).astype("<i2").tobytes())
    return buffer.getvalue()


def _mp4(clip: VideoClip) -> bytes:
    """Writes frames as an MP4 file, each shown at its time."""
    buffer = io.BytesIO()
    codec = "libx264" if "libx264" in av.codecs_available else "mpeg4"  # some builds have no H.264 for its patents
    with av.open(buffer, "w", format="mp4") as container:
        stream: Any = container.add_stream(codec, rate=30)
        frames: list[Any] = list(clip.frames)
        width, height = frames[0].size
        stream.width, stream.height, stream.pix_fmt = width // 2 * 2, height // 2 * 2, "yuv420p"
        stream.codec_context.time_base = Fraction(1, 1000)
        for number, (time, picture) in enumerate(zip(clip.times, frames, strict=True)):
            frame = av.VideoFrame.from_image(picture.resize((stream.width, stream.height)))
            frame.pts, frame.time_base = max(round(time * 1000), number), Fraction(1, 1000)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return buffer.getvalue()
