"""This module writes media files for tests: clips of noise, tones, channels of one level, and H.264 in fields."""

from fractions import Fraction
from pathlib import Path

import av
import numpy as np


LEVELS = np.float32([0.125, 0.0625, 0.25, 0.5, 0.03125, 0.375, 0.4375, 0.1875])  # of channels; exact in 16 bits
H264 = "libx264" if "libx264" in av.codecs_available else "mpeg4"


def write_video(path, pts=range(50), *, time_base=Fraction(1, 10), codec=H264, rotation=0, audio=None, options=None):
    """Writes a clip of noise with frames at `pts`, key frames every 12; `audio` is (samples, rate, start pts)."""
    rng = np.random.default_rng(0)
    with av.open(str(path), "w", container_options=options or {}) as container:
        video = container.add_stream(codec, rate=round(1 / time_base), options={"g": "12"})
        video.width, video.height, video.pix_fmt = 64, 48, "yuv420p"
        video.codec_context.time_base = time_base
        if rotation:
            video.set_display_rotation(rotation)
        audio_stream = None
        if audio is not None:
            samples, rate, start = audio
            layout = f"{len(samples)}c"
            codec = {".mkv": "pcm_s16le", ".avi": "pcm_s16le"}.get(Path(path).suffix, "aac")
            audio_stream = container.add_stream(codec, rate=rate, layout=layout)
        packets = []
        for stamp in pts:
            picture = rng.integers(0, 255, (6, 8, 3), dtype=np.uint8).repeat(8, 0).repeat(8, 1)
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
            frame.pts, frame.time_base = stamp, time_base
            packets += video.encode(frame)
        packets += video.encode()
        if audio_stream is not None:
            for first in range(0, samples.shape[1], 1024):
                part = np.ascontiguousarray(samples[:, first : first + 1024], dtype=np.float32)
                frame = av.AudioFrame.from_ndarray(part, format="fltp", layout=layout)
                frame.sample_rate, frame.time_base, frame.pts = rate, Fraction(1, rate), start + first
                packets += audio_stream.encode(frame)
            packets += audio_stream.encode()
        for packet in sorted(packets, key=lambda packet: packet.dts * packet.time_base):
            container.mux(packet)
    return path


def write_wav(path, samples, rate):
    """Writes `samples`, int16 `(num_channels, num_samples)`."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("pcm_s16le", rate=rate, layout=f"{len(samples)}c")
        packed = np.ascontiguousarray(samples.T.reshape(1, -1))
        frame = av.AudioFrame.from_ndarray(packed, format="s16", layout=f"{len(samples)}c")
        frame.sample_rate = rate
        container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


def tone(seconds, rate=16000, channels=1):
    wave = 0.25 * np.sin(2 * np.pi * 440 * np.arange(round(seconds * rate)) / rate)
    return np.tile(wave.astype(np.float32), (channels, 1))


def decode_all(path):
    with av.open(str(path)) as container:
        return [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]


def assert_frames_are_exact(clip, path):
    everything = decode_all(path)
    assert clip.total_frames == len(everything)
    for index, frame in zip(clip.indices, clip.frames, strict=True):
        np.testing.assert_array_equal(np.asarray(frame), everything[index])


def steady(num_channels, num_samples=8000):
    levels = np.resize(LEVELS, num_channels).astype(np.float32)
    return np.repeat(levels[:, None], num_samples, axis=1)


def write_channels(path, layout, codec="pcm_s16le", samples=None, rate=16000, format=None):
    """Writes a file of channels that each keep to one level."""
    count = av.AudioLayout(layout).nb_channels
    samples = steady(count) if samples is None else samples
    with av.open(str(path), "w", format=format) as container:
        stream = container.add_stream(codec, rate=rate, layout=layout)
        for first in range(0, samples.shape[1], 4096):
            block = np.ascontiguousarray(samples[:, first : first + 4096].T).reshape(1, -1)
            frame = av.AudioFrame.from_ndarray(block, format="flt", layout=layout)
            frame.sample_rate, frame.pts = rate, first
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


class Bits:
    """Writes fields of H.264: plain numbers, and Exp-Golomb codes."""

    def __init__(self):
        self.text = ""

    def plain(self, value: int, width: int = 1) -> "Bits":
        self.text += f"{value:0{width}b}"
        return self

    def codes(self, *values: int) -> "Bits":
        for value in values:
            self.text += f"{value + 1:b}".zfill(2 * (value + 1).bit_length() - 1)
        return self

    def unit(self, kind: int, payload: bytes = b"") -> bytes:
        """Returns a NAL unit with its start code; `payload` follows at the next whole byte, then the stop bit."""
        if not payload:
            self.plain(1)
        self.text += "0" * (-len(self.text) % 8)
        body = int(self.text, 2).to_bytes(len(self.text) // 8, "big") + payload + (b"\x80" if payload else b"")
        return b"\0\0\0\1" + bytes([kind]) + body.replace(b"\0\0\0", b"\0\0\3\0").replace(b"\0\0\1", b"\0\0\3\1")


def h264_header(profile: int = 77, frames_only: int = 0, order: int = 2, scaling: bool = False) -> bytes:
    """Returns the sequence parameters of pictures of 32 x 32 (ITU-T H.264, 7.3.2.1.1)."""
    bits = Bits().plain(profile, 8).plain(0, 8).plain(30, 8).codes(0)
    if profile == 100:
        bits.codes(1, 0, 0).plain(0).plain(scaling)
        if scaling:
            bits.plain(1).codes(*[0] * 16).plain(1).codes(16).plain(0, 6)  # -8: the rest of a list is the default
    bits.codes(0, order)
    if order == 0:
        bits.codes(0)
    elif order == 1:
        bits.plain(0).codes(0, 0, 2, 3, 4)
    bits.codes(1).plain(0).codes(1, 1 if frames_only else 0).plain(frames_only)
    if not frames_only:
        bits.plain(0)
    return bits.plain(1).plain(0).plain(0).unit(0x67)


def field_pictures(num_frames: int) -> list[bytes]:
    """Returns H.264 of 32 x 32 whose pictures are two fields in two packets; frame k has the grey 20 + 4 k."""
    parameters = h264_header() + Bits().codes(0, 0).plain(0, 2).codes(0, 0, 0).plain(0, 3).codes(0, 0, 0).plain(
        4, 3
    ).unit(0x68)
    packets = []
    for number in range(num_frames):
        for is_bottom in (0, 1):
            is_first = number == is_bottom == 0
            bits = Bits().codes(0, 7, 0).plain(number % 16, 4).plain(1).plain(is_bottom)
            bits = bits.codes(0).plain(0, 2) if is_first else bits.plain(0)
            bits.codes(0, 1)
            samples = bytes([20 + 4 * number]) * 256 + bytes([128]) * 128
            bits.codes(25).text += "0" * (-len(bits.text) % 8)
            second = Bits().codes(25)
            second.text += "0" * (-len(second.text) % 8)
            payload = samples + int(second.text, 2).to_bytes(len(second.text) // 8, "big") + samples
            packets.append((parameters if is_first else b"") + bits.unit(0x65 if is_first else 0x61, payload))
    return packets
