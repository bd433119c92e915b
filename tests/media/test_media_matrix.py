"""Frames and times of many kinds of files equal a full sequential decode."""

from fractions import Fraction

import av
import numpy as np
import pytest

from omnivinci_hf import load_video


TENTH = Fraction(1, 10)
THIRTIETH = Fraction(1, 30)
X265 = {"x265-params": "log-level=none:keyint=12"}

# name -> (suffix, codec, pixel format, options of the codec, options of the container, frame stamps, time base)
MATRIX = {
    "h264 long GOP, B-frames": ("mp4", "libx264", "yuv420p", {"g": "250", "bf": "3"}, {}, range(60), THIRTIETH),
    "h264 short GOP": ("mp4", "libx264", "yuv420p", {"g": "6"}, {}, range(40), TENTH),
    "h264 open GOP, pyramid": (
        "mp4", "libx264", "yuv420p",
        {"g": "12", "x264-params": "open-gop=1:b-pyramid=normal:bframes=4:scenecut=0"}, {}, range(60), TENTH,
    ),
    "h264 intra refresh": (
        "mkv", "libx264", "yuv420p", {"x264-params": "intra-refresh=1:keyint=10"}, {}, range(40), TENTH,
    ),
    "h264 in Matroska": ("mkv", "libx264", "yuv420p", {"g": "12"}, {}, range(50), THIRTIETH),
    "h264 10 bit": ("mp4", "libx264", "yuv420p10le", {"g": "12"}, {}, range(30), TENTH),
    "h264 interlaced": ("mp4", "libx264", "yuv420p", {"g": "12", "flags": "+ildct+ilme"}, {}, range(30), TENTH),
    "h264 in a transport stream": ("ts", "libx264", "yuv420p", {"g": "12"}, {}, range(50), THIRTIETH),
    "h264 in Flash": ("flv", "libx264", "yuv420p", {"g": "12"}, {}, range(30), TENTH),
    "fragments": ("mp4", "libx264", "yuv420p", {"g": "12"}, {"movflags": "frag_keyframe+empty_moov"}, range(50), TENTH),
    "edit list": ("mp4", "libx264", "yuv420p", {"g": "12"}, {}, range(-13, 37), TENTH),
    "negative start": (
        "mkv", "libx264", "yuv420p", {"g": "12"}, {"avoid_negative_ts": "disabled"}, range(-9, 30), TENTH,
    ),
    "late start": ("mkv", "libx264", "yuv420p", {"g": "12"}, {}, range(45, 80), TENTH),
    "late start in mp4": ("mp4", "libx264", "yuv420p", {"g": "12"}, {}, range(45, 80), TENTH),
    "variable rate": (
        "mkv", "libx264", "yuv420p", {"g": "12"}, {}, [0, 40, 500, 520, 1300, 1310, 2000, 2400, 2401],
        Fraction(1, 1000),
    ),
    "variable rate in mp4": ("mp4", "libx264", "yuv420p", {}, {}, [0, 1, 7, 8, 30, 31, 40], THIRTIETH),
    "one frame": ("mp4", "libx264", "yuv420p", {}, {}, range(1), TENTH),
    "hevc, open GOP": ("mkv", "libx265", "yuv420p", X265, {}, range(50), TENTH),
    "hevc 10 bit in mp4": ("mp4", "libx265", "yuv420p10le", X265, {}, range(30), TENTH),
    "vp8": ("webm", "libvpx", "yuv420p", {"g": "12"}, {}, range(30), TENTH),
    "vp9": ("webm", "libvpx-vp9", "yuv420p", {"g": "12"}, {}, range(30), TENTH),
    "vp9 with alpha": ("webm", "libvpx-vp9", "yuva420p", {"g": "12"}, {}, range(12), TENTH),
    "av1": ("mp4", "libsvtav1", "yuv420p", {"g": "12"}, {}, range(30), TENTH),
    "mpeg4, B-frames": ("mp4", "mpeg4", "yuv420p", {"g": "12", "bf": "2"}, {}, range(40), TENTH),
    "mpeg4 in AVI, B-frames": ("avi", "mpeg4", "yuv420p", {"g": "12", "bf": "2"}, {}, range(40), TENTH),
    "mjpeg in AVI": ("avi", "mjpeg", "yuvj420p", {}, {}, range(20), TENTH),
    "mpeg2 program": ("mpg", "mpeg2video", "yuv420p", {"g": "12", "bf": "2"}, {}, range(50), Fraction(1, 25)),
    "gif": ("gif", "gif", "rgb8", {}, {}, [0, 10, 20, 70, 100, 130], Fraction(1, 100)),
    "quicktime rle with alpha": ("mov", "qtrle", "argb", {}, {}, range(12), TENTH),
    "png with alpha": ("mov", "png", "rgba", {}, {}, range(12), TENTH),
    "prores 10 bit": ("mov", "prores_ks", "yuv422p10le", {}, {}, range(12), TENTH),
    "ffv1": ("mkv", "ffv1", "yuv444p", {"g": "12"}, {}, range(20), TENTH),
}  # fmt: skip


def write(path, codec, pixels, options, container_options, stamps, time_base):
    rng = np.random.default_rng(0)
    with av.open(str(path), "w", container_options=container_options) as container:
        stream = container.add_stream(codec, rate=min(round(1 / time_base), 100), options=options)
        stream.width, stream.height, stream.pix_fmt = 64, 48, pixels
        stream.codec_context.time_base = time_base
        for stamp in stamps:
            picture = rng.integers(0, 255, (6, 8, 3), dtype=np.uint8).repeat(8, 0).repeat(8, 1)
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24").reformat(format=pixels)
            frame.pts, frame.time_base = stamp, time_base
            container.mux(stream.encode(frame))
        container.mux(stream.encode())


def decode_everything(path):
    with av.open(str(path)) as container:
        frames = list(container.decode(video=0))
        if any(frame.pts is None for frame in frames):  # PyAV gives none for negative stamps of Matroska
            return [frame.to_ndarray(format="rgb24") for frame in frames], np.arange(len(frames)) / 10
        times = np.array([float((frame.pts - frames[0].pts) * frame.time_base) for frame in frames])
        return [frame.to_ndarray(format="rgb24") for frame in frames], times


@pytest.mark.parametrize("name", MATRIX)
def test_frames_and_times_equal_a_full_decode(name, tmp_path):
    suffix, codec, *rest = MATRIX[name]
    if codec not in av.codecs_available:
        pytest.skip(f"this PyAV has no {codec} encoder")
    path = tmp_path / f"clip.{suffix}"
    write(path, codec, *rest)
    frames, times = decode_everything(path)
    stamps, time_base = rest[-2:]
    if suffix == "avi":  # FFmpeg invents stamps in decode order
        times = np.arange(len(frames)) / 10
    if name == "gif":  # the stamps are in 1/100 s
        times = np.array(stamps) / 100
    for choice in ({"num_frames": 7}, {}, {"frame_indices": [0, len(frames) // 2, len(frames) - 1]}):
        clip = load_video(path, **choice)
        assert clip.total_frames == len(frames)
        # Matroska and Flash round stamps to 1 ms; we give the exact time of a constant rate
        np.testing.assert_allclose(clip.times, times[clip.indices], rtol=0, atol=1e-3)
        for index, frame in zip(clip.indices, clip.frames, strict=True):
            np.testing.assert_array_equal(np.asarray(frame), frames[index])
    if name not in ("edit list", "h264 intra refresh"):
        assert len(frames) == len(stamps)
        written = np.array([float((stamp - stamps[0]) * time_base) for stamp in stamps])
        np.testing.assert_allclose(load_video(path).times, written, rtol=0, atol=1e-3)
