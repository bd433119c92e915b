"""Synthetic clips for the media benchmark, made with FFmpeg's test pictures; each is written once into a folder."""

from fractions import Fraction
from pathlib import Path

import av
import numpy as np


# name -> (suffix, seconds, size, frame rate, codec, its options); no codec: sound alone
CLIPS = {
    "h264_long_gop_60s_720p": ("mp4", 60, "1280x720", 30, "libx264", {"preset": "veryfast", "g": "250", "bf": "3"}),
    "h264_short_gop_60s_720p": ("mp4", 60, "1280x720", 30, "libx264", {"preset": "veryfast", "g": "15", "bf": "2"}),
    "h264_10min_360p": ("mp4", 600, "640x360", 25, "libx264", {"preset": "veryfast", "g": "250", "bf": "3"}),
    "vp9_60s_360p": ("webm", 60, "640x360", 30, "libvpx-vp9", {"cpu-used": "8", "deadline": "realtime", "g": "120"}),
    "hevc_60s_720p": ("mkv", 60, "1280x720", 30, "libx265", {"preset": "ultrafast", "x265-params": "log-level=none"}),
    "sound_60min": ("m4a", 3600, None, None, None, {}),
}


def make_clip(name: str, folder: Path) -> Path:
    suffix, seconds, size, rate, codec, options = CLIPS[name]
    path = folder / f"{name}.{suffix}"
    if path.exists():
        return path
    partial = path.with_name("partial_" + path.name)
    with av.open(str(partial), "w") as container:
        video = None
        if codec is not None:
            video = container.add_stream(codec, rate=rate, options=options)
            video.width, video.height = map(int, size.split("x"))
            video.pix_fmt = "yuv420p"
        audio = container.add_stream("libopus" if suffix == "webm" else "aac", rate=48000, layout="stereo")
        pictures = None if video is None else _pictures(size, rate)
        for second in range(seconds):
            for number in range(rate if video is not None else 0):
                frame = pictures.pull()
                frame.pts, frame.time_base = second * rate + number, Fraction(1, rate)
                frame.pict_type = av.video.frame.PictureType.NONE  # the source says I for all
                container.mux(video.encode(frame))
            container.mux(packet for frame in _sound(second) for packet in audio.encode(frame))
        for stream in filter(None, (video, audio)):
            container.mux(stream.encode())
    return partial.rename(path)


def _pictures(size: str, rate: int):
    """A moving test picture with a little grain, as cameras have."""
    graph = av.filter.Graph()
    nodes = [
        graph.add("testsrc2", f"size={size}:rate={rate}"),
        graph.add("noise", "alls=4:allf=t"),
        graph.add("format", "yuv420p"),
        graph.add("buffersink"),
    ]
    graph.link_nodes(*nodes)
    graph.configure()
    return graph


def _sound(second: int):
    """One second of a stereo chord over noise, in frames that every encoder takes."""
    moments = second + np.arange(48000) / 48000
    noise = np.random.default_rng(second).normal(scale=0.02, size=(2, 48000))
    wave = (0.2 * np.sin(2 * np.pi * 220 * moments) + 0.1 * np.sin(2 * np.pi * 1777 * moments) + noise).astype("f4")
    for first in range(0, 48000, 960):
        frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(wave[:, first : first + 960]), "fltp", "stereo")
        frame.sample_rate, frame.time_base, frame.pts = 48000, Fraction(1, 48000), second * 48000 + first
        yield frame
