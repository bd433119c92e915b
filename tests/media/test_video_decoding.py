"""Frames are oriented as players show them, and photos are no videos."""

import struct
from pathlib import Path

import av
import numpy as np
import pytest
from av.bitstream import BitStreamFilterContext

from omnivinci_hf import MediaError, load_video
from omnivinci_hf.omnivinci import video_media_omnivinci
from omnivinci_hf.omnivinci.video_media_omnivinci import _display_matrix
from tests.support.media_files import H264, decode_all, write_video


@pytest.fixture(scope="module")
def three_frames(tmp_path_factory):
    return write_video(tmp_path_factory.mktemp("media") / "three.mp4", range(3))


def with_matrix(path: Path, a: float, b: float, c: float, d: float) -> bytes:
    """Returns the file with another display matrix in its track header (ISO 14496-12, 8.3.2)."""
    data = bytearray(path.read_bytes())
    place = data.index(b"tkhd") + 4 + 40
    numbers = [round(value * 65536) for value in (a, b, 0, c, d, 0, 0, 0)]
    data[place : place + 36] = struct.pack(">9i", *numbers, 1 << 30)
    return bytes(data)


def moved(picture: np.ndarray, a: int, b: int, c: int, d: int) -> np.ndarray:
    """Puts each pixel at (a x + c y, b x + d y), as the matrix is defined."""
    y, x = np.indices(picture.shape[:2])
    columns, rows = a * x + c * y, b * x + d * y
    columns, rows = columns - columns.min(), rows - rows.min()
    result = np.zeros((rows.max() + 1, columns.max() + 1, 3), np.uint8)
    result[rows, columns] = picture
    return result


@pytest.mark.parametrize(
    "matrix",
    [
        (1, 0, 0, 1),
        (-1, 0, 0, 1),
        (1, 0, 0, -1),
        (-1, 0, 0, -1),
        (0, 1, -1, 0),
        (0, -1, 1, 0),
        (0, 1, 1, 0),
        (0, -1, -1, 0),
    ],
)
def test_all_eight_orientations_are_shown_as_players_do(matrix, three_frames, warnings):
    frame = load_video(with_matrix(three_frames, *matrix), num_frames=1).frames[0]
    np.testing.assert_array_equal(np.asarray(frame), moved(decode_all(three_frames)[0], *matrix))
    assert not warnings


def test_a_scaled_matrix_orients_alike(three_frames, warnings):
    frame = load_video(with_matrix(three_frames, 0, 2, -2, 0.01), num_frames=1).frames[0]
    np.testing.assert_array_equal(np.asarray(frame), moved(decode_all(three_frames)[0], 0, 1, -1, 0))
    assert not warnings


@pytest.mark.parametrize("matrix", [(0.7071, 0.7071, -0.7071, 0.7071), (0.99, 0.14, -0.14, 0.99), (1, 1, 1, 1)])
def test_a_matrix_of_an_odd_angle_is_noted(matrix, three_frames, warnings):
    clip = load_video(with_matrix(three_frames, *matrix))
    np.testing.assert_array_equal(np.asarray(clip.frames[0]), decode_all(three_frames)[0])
    assert len(warnings) == 1 and "is to be shown turned by an odd angle" in warnings[0]


@pytest.mark.skipif(H264 == "mpeg4", reason="this PyAV has no H.264 encoder")
def test_an_orientation_inside_of_the_stream_counts_too(tmp_path):
    """H.264 and HEVC can hold the orientation themselves, in a message (SEI)."""
    plain = write_video(tmp_path / "plain.ts", range(3))
    with av.open(str(plain)) as source, av.open(str(tmp_path / "turned.ts"), "w") as container:
        stream = container.add_stream_from_template(source.streams.video[0])
        orient = BitStreamFilterContext("h264_metadata=display_orientation=insert:rotate=90", source.streams.video[0])
        for packet in source.demux(video=0):
            if packet.size:
                for part in orient.filter(packet):
                    part.stream = stream
                    container.mux(part)
    frame = load_video(tmp_path / "turned.ts", num_frames=1).frames[0]
    np.testing.assert_array_equal(np.asarray(frame), np.rot90(decode_all(plain)[0]))


def test_a_rotation_among_side_data_that_pyav_does_not_know():
    class Frame:
        rotation = 90

        @property
        def side_data(self):
            raise ValueError("99 is not a valid Type")

    assert _display_matrix(Frame()) == (0, -65536, 65536, 0)


def with_brands(path: Path, major: bytes, *others: bytes) -> bytes:
    data = path.read_bytes()
    size, length = int.from_bytes(data[:4], "big"), 16 + 4 * len(others)
    assert data[4:8] == b"ftyp" and size - length >= 8
    head = struct.pack(">I4s4sI", length, b"ftyp", major, 0) + b"".join(others)
    return head + struct.pack(">I4s", size - length, b"free").ljust(size - length, b"\0") + data[size:]


@pytest.mark.parametrize("major", [b"heic", b"mif1", b"avif"])
def test_photos_are_no_videos(major, three_frames):
    with pytest.raises(MediaError, match=rf"is a photo \({major.decode()}\), not a video; give it as an image"):
        load_video(with_brands(three_frames, major))
    assert load_video(with_brands(three_frames, b"isom")).total_frames == 3
    assert load_video(with_brands(three_frames, major, b"avis")).total_frames == 3  # with a sequence beside the photo


def test_side_data_is_read_once_since_it_would_keep_the_frames_in_memory(tmp_path, monkeypatch):
    frames, read = [], video_media_omnivinci._display_matrix
    monkeypatch.setattr(video_media_omnivinci, "_display_matrix", lambda frame: frames.append(frame) or read(frame))
    assert len(load_video(write_video(tmp_path / "clip.mp4"), num_threads=1).frames) == 50
    assert len(frames) == 1


@pytest.mark.skipif("libx264" not in av.codecs_available, reason="this PyAV has no H.264 encoder")
@pytest.mark.parametrize("suffix", ["mkv", "ts"])
def test_a_recording_that_begins_in_the_middle_of_a_stream_is_whole(suffix, tmp_path):
    """Its pictures forget others that it never had, which a strict decoder takes for damage."""
    params = "open-gop=1:keyint=12:min-keyint=12:scenecut=0:bframes=3:b-pyramid=normal:repeat-headers=1"
    whole = moving_stripes(tmp_path / "whole.ts", {"x264-params": params})
    path = tmp_path / f"middle.{suffix}"
    with av.open(str(whole)) as source, av.open(str(path), "w") as container:
        packets = [packet for packet in source.demux(video=0) if packet.size]
        start = [number for number, packet in enumerate(packets) if packet.is_keyframe][1]
        num_before = sum(packet.pts < packets[start].pts for packet in packets)
        stream = container.add_stream_from_template(source.streams.video[0])
        for packet in packets[start:]:
            packet.stream = stream
            container.mux(packet)
    right = decode_all(whole)[num_before:]
    clip = load_video(path)
    assert len(right) > 24 and clip.total_frames == len(right)
    for image, frame in zip(right, clip.frames, strict=True):
        np.testing.assert_array_equal(np.asarray(frame), np.asarray(image))


def moving_stripes(path, options):
    stripes = np.random.default_rng(0).integers(0, 255, (48, 160, 3), dtype=np.uint8)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=25, options=options)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        for number in range(60):
            picture = np.ascontiguousarray(stripes[:, number : number + 64])
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode(None))
    return path
