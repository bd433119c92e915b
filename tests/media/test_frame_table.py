"""Frames and times of files whose packets are not frames with a stamp each equal what a full decode shows."""

from fractions import Fraction

import av
import numpy as np
import pytest

from omnivinci_hf import load_video
from omnivinci_hf.omnivinci import frame_table_omnivinci
from omnivinci_hf.omnivinci.media_sources_omnivinci import MediaSource
from tests.support.media_files import assert_frames_are_exact, field_pictures, write_video


def remux(source, path, change, format=None):
    """Writes the packets that `change` makes of each packet, given with its number."""
    with av.open(str(source)) as whole, av.open(str(path), "w", format=format) as container:
        stream = container.add_stream_from_template(whole.streams.video[0])
        number = 0
        for packet in whole.demux(video=0):
            for part in change(number, packet) if packet.size else ():
                part.stream = stream
                container.mux(part)
            number += 1
    return path


def with_content(packet, data):
    part = av.Packet(data)
    part.pts, part.dts, part.time_base, part.is_keyframe = packet.pts, packet.dts, packet.time_base, packet.is_keyframe
    return part


def is_decoded(path):
    return frame_table_omnivinci.scan_video(MediaSource.of("video", path)).is_decoded


@pytest.mark.parametrize(
    "codec, suffix", [("mpeg4", "mkv"), ("libvpx", "webm"), ("libvpx-vp9", "webm"), ("libx264", "mkv")]
)
def test_frames_that_share_a_stamp_keep_the_order_of_decoding(codec, suffix, tmp_path):
    """At a variable rate in whole milliseconds the times of all others stay as they are given."""
    if codec not in av.codecs_available:
        pytest.skip(f"this PyAV has no {codec} encoder")
    stamps = [0, 1000, 2000, 2033, 2067, 2500, 2501, 2533]
    options = {"bf": "0"} if codec in ("mpeg4", "libx264") else {}
    whole = write_frames(tmp_path / f"whole.{suffix}", codec, stamps, options)
    path = remux(whole, tmp_path / f"twins.{suffix}", lambda number, packet: [at(packet, {2501: 2500}.get(packet.pts))])
    clip = load_video(path)
    assert clip.times.tolist() == [0, 1, 2, 2.033, 2.067, 2.5, 2.5, 2.533] and not is_decoded(path)
    assert_frames_are_exact(clip, path)
    assert load_video(path, frame_indices=[6]).times.tolist() == [2.5]


def test_frames_that_share_the_first_stamp_are_all_there(tmp_path):
    whole = write_frames(tmp_path / "whole.mkv", "mpeg4", [0, 1, 2, 1000, 1001, 2000], {"bf": "0"})
    stamps = {1: 0, 2: 0, 1001: 1000}
    path = remux(whole, tmp_path / "twins.mkv", lambda number, packet: [at(packet, stamps.get(packet.pts))])
    clip = load_video(path)
    assert clip.times.tolist() == [0, 0, 0, 1, 1, 2]
    assert_frames_are_exact(clip, path)
    assert load_video(path, start_sec=1).indices.tolist() == [3, 4, 5]
    assert load_video(path, start_sec=0.5).indices.tolist() == [2, 3, 4, 5]


def write_frames(path, codec, stamps, options, time_base=Fraction(1, 1000)):
    rng = np.random.default_rng(0)
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=100, options={"g": "12", **options})
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        stream.codec_context.time_base = time_base
        for stamp in stamps:
            frame = av.VideoFrame.from_ndarray(rng.integers(0, 255, (48, 64, 3), dtype=np.uint8))
            frame.pts, frame.time_base = stamp, time_base
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


def at(packet, stamp):
    if stamp is not None:
        packet.pts = packet.dts = stamp
    return packet


@pytest.mark.skipif("libx264" not in av.codecs_available, reason="this PyAV has no H.264 encoder")
def test_twins_among_frames_that_are_reordered_are_told_apart_by_decoding(tmp_path):
    whole = write_frames(
        tmp_path / "whole.mkv", "libx264", range(0, 600, 20), {"bf": "3", "x264-params": "b-adapt=0:scenecut=0"}
    )

    def twin(number, packet):
        packet.pts = 200 if packet.pts == 220 else packet.pts
        return [packet]

    path = remux(whole, tmp_path / "twins.mkv", twin)
    clip = load_video(path)
    assert is_decoded(path) and clip.times.tolist() == [200 / 1000 if k == 11 else k / 50 for k in range(30)]
    assert_frames_are_exact(clip, path)


@pytest.mark.skipif("libvpx" not in av.codecs_available, reason="this PyAV has no VP8 encoder")
@pytest.mark.parametrize("suffix", ["webm", "avi"])
def test_hidden_frames_of_vp8_are_no_frames(suffix, tmp_path):
    whole = write_frames(tmp_path / "whole.webm", "libvpx", range(0, 1200, 40), {"auto-alt-ref": "0"})

    def hide(number, packet):
        data = bytearray(bytes(packet))
        if number % 7 == 3:
            data[0] &= ~0x10  # to be decoded, not to be shown
        return [with_content(packet, data)]

    path = remux(whole, tmp_path / f"hidden.{suffix}", hide)
    clip = load_video(path)
    shown = [number for number in range(30) if number % 7 != 3]
    assert clip.total_frames == len(shown) and not is_decoded(path)
    np.testing.assert_allclose(clip.times, np.array(shown) / 25, atol=1e-9)
    assert_frames_are_exact(clip, path)
    assert_frames_are_exact(load_video(path, num_frames=5), path)


@pytest.mark.parametrize("format", ["mpegts", "matroska", "mp4"])
@pytest.mark.parametrize("together", [False, True])
def test_two_fields_are_one_frame(format, together, tmp_path):
    """Each frame is in a packet with a stamp, or the second one is without."""
    (tmp_path / "raw").write_bytes(b"".join(field_pictures(20)))
    fields = iter(field_pictures(20))
    path, time_base = tmp_path / "fields", Fraction(1, 90000)
    with av.open(str(tmp_path / "raw"), format="h264") as raw, av.open(str(path), "w", format=format) as container:
        stream = container.add_stream_from_template(raw.streams.video[0])
        stream.time_base = time_base
        for number, data in enumerate(fields):
            packet = av.Packet(data + next(fields) if together else data)
            packet.pts = packet.dts = number * (3600 if together else 1800)
            packet.stream, packet.time_base, packet.is_keyframe = stream, time_base, number == 0
            packet.duration = 3600 if together else 1800
            container.mux(packet)
    clip = load_video(path)
    assert clip.total_frames == 20
    np.testing.assert_allclose(clip.times, np.arange(20) / 25, atol=1e-9)
    assert_frames_are_exact(clip, path)
    assert_frames_are_exact(load_video(path, frame_indices=[3, 11]), path)


@pytest.mark.skipif("libx264" not in av.codecs_available, reason="this PyAV has no H.264 encoder")
def test_frames_of_an_avi_file_with_b_frames_are_fed_too(tmp_path):
    """They lack times of showing: decoding tells their order, and then few packets are enough for one of them."""
    path = write_frames(
        tmp_path / "clip.avi", "libx264", range(60), {"bf": "3", "x264-params": "b-adapt=0:scenecut=0"}, Fraction(1, 25)
    )
    table = frame_table_omnivinci.scan_video(MediaSource.of("video", path))
    assert table.is_decoded and sorted(table.positions) == list(range(60)) != table.positions
    ((first, last),) = table.intervals([30])
    assert 20 < first <= table.positions[30] == last
    assert_frames_are_exact(load_video(path, frame_indices=[0, 30, 59]), path)


def line_of(*packets, reorders=True):
    stream = type("Stream", (), {})()
    stream.time_base, stream.average_rate, stream.guessed_rate = Fraction(1, 100), Fraction(10), None
    stream.codec_context = type("Context", (), {"codec": type("Codec", (), {"reorder": reorders})})
    full = [frame_table_omnivinci._Packet(*packet, True, False, 1) for packet in packets]
    return frame_table_omnivinci._TimeLine(full, stream)


def test_stamps_that_are_not_given_lie_between_their_neighbours():
    line = line_of(
        (None, 0, 10, True), (20, 1, 10, False), (None, 2, 10, False), (60, 3, 10, False), (None, 4, 10, False)
    )
    assert line._stamps([0, 1, 2, 3, 4]).tolist() == [0, 20, 40, 60, 80]
    assert line.table_by_packets() is None
    assert line_of((None, 5, 10, True), (None, 9, 10, False), reorders=False).table_by_packets().times[1] == 0.04


def test_a_file_without_any_usable_stamp_has_its_rate():
    for packets in (
        [(None, None, 0, True), (None, None, 0, False), (None, None, 0, False)],
        [(7, 7, 0, True), (7, 7, 0, False), (7, 7, 0, False)],
        [(7, None, 0, True), (7, 0, 0, False), (7, 0, 0, False)],
    ):
        table = line_of(*packets, reorders=False).table_by_packets()
        assert table.times.tolist() == [0, 0.1, 0.2] and table.duration_sec == pytest.approx(0.3)


def test_a_packet_of_two_frames_has_two_entries():
    line = line_of((0, 0, 10, True), (10, 10, 10, False), (20, 20, 10, False))
    line.packets[1] = line.packets[1]._replace(num_frames=2)
    table = line.table_by_packets()
    assert table.positions == [0, 1, 1, 2] and table.indices_at[1] == [1, 2]
    assert table.times.tolist() == [0, 0.1, 0.1, 0.2]


def test_damage_of_a_file_that_must_be_decoded_keeps_what_is_whole(tmp_path):
    path = write_video(tmp_path / "clip.avi", codec="mpeg4")
    data = bytearray(path.read_bytes())
    with av.open(str(path)) as container:
        packet = next(p for k, p in enumerate(container.demux(video=0)) if k == 30)
        start, size = packet.pos, packet.size
    data[start + 8 : start + size] = bytes(range(size - 8 & 255)) * 1 + b"\xff" * (size - 8 - (size - 8 & 255))
    clip = load_video(bytes(data), on_damage="warn")
    assert 40 < len(clip.frames) < 50 and clip.total_frames == 50
