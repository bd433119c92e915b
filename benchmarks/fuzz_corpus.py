"""This module makes damaged media files: real ones, cut, flipped and spliced.

File number `n` of a seed is always the same.
"""

import io
import tempfile
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from PIL import Image, features


# name -> (format, video codec, pixel format, audio codec, container options)
FILES = {
    "h264.mp4": ("mp4", "libx264", "yuv420p", "aac", {}),
    "h264_faststart.mp4": ("mp4", "libx264", "yuv420p", "aac", {"movflags": "faststart"}),
    "h264_fragments.mp4": ("mp4", "libx264", "yuv420p", "aac", {"movflags": "frag_keyframe+empty_moov"}),
    "av1.mp4": ("mp4", "libsvtav1", "yuv420p", "aac", {}),
    "png.mov": ("mov", "png", "rgb24", "pcm_s16le", {}),
    "qtrle.mov": ("mov", "qtrle", "argb", "pcm_s16le", {}),
    "prores.mov": ("mov", "prores_ks", "yuv422p10le", None, {}),
    "h264.mkv": ("matroska", "libx264", "yuv420p", "pcm_s16le", {}),
    "hevc.mkv": ("matroska", "libx265", "yuv420p10le", "flac", {}),
    "vp9.webm": ("webm", "libvpx-vp9", "yuv420p", "libopus", {}),
    "ffv1.mkv": ("matroska", "ffv1", "yuv420p", None, {}),
    "mpeg4.avi": ("avi", "mpeg4", "yuv420p", "pcm_s16le", {}),
    "mjpeg.avi": ("avi", "mjpeg", "yuvj420p", "libmp3lame", {}),
    "h264.ts": ("mpegts", "libx264", "yuv420p", "aac", {}),
    "h264.flv": ("flv", "libx264", "yuv420p", "aac", {}),
    "moving.gif": ("gif", "gif", "rgb8", None, {}),
    "pcm.wav": ("wav", None, None, "pcm_s16le", {}),
    "flac.flac": ("flac", None, None, "flac", {}),
    "mp3.mp3": ("mp3", None, None, "libmp3lame", {}),
    "opus.ogg": ("ogg", None, None, "libopus", {}),
    "aac.m4a": ("mp4", None, None, "aac", {}),
    "aac.aac": ("adts", None, None, "aac", {}),
}
IMAGES = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF", "ICO", "PPM", *(["AVIF"] if features.check("avif") else []))
RATE = 48000


def make_corpus() -> dict[str, bytes]:
    """Makes whole files by name, as far as this PyAV has the encoders."""
    corpus = {}
    for name, (container_format, video, pixels, audio, options) in FILES.items():
        if all(codec is None or codec in av.codecs_available for codec in (video, audio)):
            corpus[name] = _container(container_format, video, pixels, audio, options)
    picture = Image.fromarray(np.random.default_rng(0).integers(0, 255, (12, 16, 3), dtype=np.uint8)).resize((96, 72))
    for image_format in IMAGES:
        file = io.BytesIO()
        picture.save(file, image_format)
        corpus[f"image.{image_format.lower()}"] = file.getvalue()
    return corpus


def _container(container_format: str, video: str | None, pixels: str | None, audio: str | None, options: dict) -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "file"
        _write(str(path), container_format, video, pixels, audio, options)
        return path.read_bytes()


def _write(
    path: str, container_format: str, video: str | None, pixels: str | None, audio: str | None, options: dict
) -> None:
    rng = np.random.default_rng(0)
    with av.open(path, "w", format=container_format, options=options) as container:
        streams = []
        if video is not None:
            quiet = {"x265-params": "log-level=none"} if video == "libx265" else {}
            streams.append(container.add_stream(video, rate=10, options={"g": "8", **quiet}))
            streams[0].width, streams[0].height, streams[0].pix_fmt = 64, 48, pixels
        if audio is not None:
            streams.append(container.add_stream(audio, rate=RATE, layout="stereo"))
        packets = []
        for number in range(30 if video is not None else 0):
            picture = rng.integers(0, 255, (6, 8, 3), dtype=np.uint8).repeat(8, 0).repeat(8, 1)
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24").reformat(format=pixels)
            frame.pts, frame.time_base = number, Fraction(1, 10)
            packets += streams[0].encode(frame)
        for first in range(0, RATE if audio is not None else 0, 960):
            wave = (rng.normal(size=(2, 960)) * 0.1).astype(np.float32)
            frame = av.AudioFrame.from_ndarray(wave, format="fltp", layout="stereo")
            frame.sample_rate, frame.time_base, frame.pts = RATE, Fraction(1, RATE), first
            packets += streams[-1].encode(frame)
        packets += [packet for stream in streams for packet in stream.encode()]
        for packet in sorted(packets, key=lambda packet: (packet.dts or 0) * packet.time_base):
            container.mux(packet)


def damaged_file(corpus: dict[str, bytes], seed: int, number: int) -> tuple[str, bytes]:
    """Returns the name of the original file and the damaged content."""
    rng = np.random.default_rng([seed, number])
    names = sorted(corpus)
    name = names[number % len(names)]
    data = bytearray(corpus[name])
    for _ in range(rng.integers(1, 4)):
        operation = (_cut, _flip, _fill, _splice, _drop, _inflate)[rng.integers(6)]
        data = operation(data, rng, corpus[names[rng.integers(len(names))]])
    return name, bytes(data)


def _place(data: bytearray, rng) -> int:
    """Chooses a place anywhere, but every other time near one of the ends, where headers and indices are."""
    near = min(len(data), 1500)
    start, stop = ((0, len(data)), (0, len(data)), (0, near), (len(data) - near, len(data)))[rng.integers(4)]
    return int(rng.integers(start, max(start + 1, stop)))


def _cut(data: bytearray, rng, other: bytes) -> bytearray:
    place = _place(data, rng)
    return data[:place] if rng.random() < 0.8 else data[place:]


def _flip(data: bytearray, rng, other: bytes) -> bytearray:
    for _ in range(int(2 ** rng.integers(0, 8)) if data else 0):
        data[min(_place(data, rng), len(data) - 1)] ^= 1 << rng.integers(8)
    return data


def _fill(data: bytearray, rng, other: bytes) -> bytearray:
    place, length = _place(data, rng), int(2 ** rng.integers(1, 13))
    end = min(len(data), place + length)
    data[place:end] = rng.bytes(end - place) if rng.random() < 0.5 else bytes(end - place)
    return data


def _splice(data: bytearray, rng, other: bytes) -> bytearray:
    place, start = _place(data, rng), int(rng.integers(len(other)))
    part = other[start : start + int(2 ** rng.integers(2, 14))]
    return data[:place] + part + data[place + (len(part) if rng.random() < 0.5 else 0) :]


def _drop(data: bytearray, rng, other: bytes) -> bytearray:
    place = _place(data, rng)
    return data[:place] + data[place + int(2 ** rng.integers(0, 13)) :]


def _inflate(data: bytearray, rng, other: bytes) -> bytearray:
    """Writes absurd numbers where sizes, counts and lengths may stand."""
    place = _place(data, rng)
    number = (b"\xff\xff\xff\xff", b"\x7f\xff\xff\xff", b"\xff\xff\xff\x7f", b"\0\0\0\0", b"\x75\x30\x75\x30")
    data[place : place + 4] = number[rng.integers(len(number))]
    return data
