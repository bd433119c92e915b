"""Of several streams of a kind, the one is read that players take."""

from types import SimpleNamespace

import av
import numpy as np
import pytest
from av.stream import Disposition

from omnivinci_hf import load_video
from omnivinci_hf.media_streams_omnivinci import choose_stream


def write_pictures(path, *tracks):
    """One MPEG-4 stream for each (grey, number of frames, marks), ten frames a second."""
    with av.open(str(path), "w") as container:
        packets = []
        for grey, num_frames, marks in tracks:
            stream = container.add_stream("mpeg4", rate=10)
            stream.width, stream.height, stream.pix_fmt, stream.disposition = 64, 48, "yuv420p", marks
            for _ in range(num_frames):
                packets += stream.encode(av.VideoFrame.from_ndarray(np.full((48, 64, 3), grey, np.uint8)))
            packets += stream.encode()
        for packet in sorted(packets, key=lambda packet: packet.dts * packet.time_base):
            container.mux(packet)
    return path


def shown_grey(path):
    return round(np.asarray(load_video(path, num_frames=1).frames[0]).mean() / 50) * 50


@pytest.mark.parametrize(
    "suffix, tracks, grey",
    [
        ("mkv", [(50, 5, 0), (200, 5, Disposition.default)], 200),
        ("mkv", [(50, 5, Disposition.default), (200, 5, Disposition.default)], 50),
        ("mkv", [(50, 5, Disposition.comment | Disposition.default), (200, 5, 0)], 200),
        ("mkv", [(50, 5, Disposition.visual_impaired), (200, 5, 0)], 200),
        ("mp4", [(50, 1, Disposition.default), (200, 5, Disposition.default)], 200),  # a poster without a mark
        ("mp4", [(50, 1, Disposition.default)], 50),
    ],
)
def test_the_picture_is_the_one_that_players_show(suffix, tracks, grey, tmp_path):
    assert shown_grey(write_pictures(tmp_path / f"clip.{suffix}", *tracks)) == grey


def fake_stream(index, disposition=Disposition.default, **fields):
    context = SimpleNamespace(width=64, height=48, sample_rate=16000)
    return SimpleNamespace(
        **{"index": index, "type": "video", "frames": 0, "codec_context": context, "disposition": disposition, **fields}
    )


def choose(*streams, kind="video"):
    notes = []
    container = SimpleNamespace(streams=SimpleNamespace(**{kind: streams}))
    chosen = choose_stream(SimpleNamespace(note=notes.append), container, kind)
    return None if chosen is None else chosen.index, notes


def test_a_stream_with_a_decoder_comes_first_and_the_other_is_noted():
    broken = fake_stream(0, codec_context=None)
    assert choose(broken) == (0, [])
    index, notes = choose(broken, fake_stream(1, Disposition.comment))
    assert index == 1 and notes == ["has a video stream without a decoder, so stream 1 was taken, not 0"]
    assert choose(fake_stream(0), broken) == (0, [])
    sizeless = fake_stream(0, codec_context=SimpleNamespace(width=0, height=0))
    assert choose(sizeless, fake_stream(1))[0] == 1


def test_thumbnails_and_tiles_are_never_read():
    hidden = [Disposition.attached_pic, Disposition.timed_thumbnails, Disposition.dependent | Disposition.default]
    streams = [fake_stream(index, marks) for index, marks in enumerate(hidden)]
    assert choose(*streams) == (None, []) and choose(*streams, fake_stream(3, Disposition(0))) == (3, [])


def test_sounds_are_chosen_by_the_same_rule():
    streams = [fake_stream(index, marks, type="audio") for index, marks in enumerate((8, 256 | 1, 0, 1, 1))]
    assert choose(*streams, kind="audio")[0] == 3
    assert choose(*streams[:2], kind="audio")[0] == 1
    assert choose(kind="audio") == (None, [])
