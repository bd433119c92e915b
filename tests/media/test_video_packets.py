"""The number of frames that a packet shows is read from its first bytes; bits of streams are written here by hand."""

from types import SimpleNamespace

import av
import pytest

from omnivinci_hf.omnivinci.frame_table_omnivinci import frame_counter
from tests.support.media_files import h264_header


def count(codec: str, data: bytes, extradata: bytes = b""):
    context = SimpleNamespace(codec=SimpleNamespace(canonical_name=codec), extradata=extradata)
    packet = av.Packet(data)
    return frame_counter(context)(packet)


def test_vp8_says_in_its_first_byte_whether_it_is_shown():
    assert count("vp8", b"\x10\0\0") == 1 and count("vp8", b"\x00\0\0") == 0


@pytest.mark.parametrize(
    "first, shown",
    [
        (0b10_00_0_0_1_0, 1),  # a key frame
        (0b10_00_0_1_0_0, 0),  # a hidden one
        (0b10_00_1_000, 1),  # shows an old frame
        (0b10_11_0_0_0_1, 1),  # profile 3 has one bit more
        (0b10_11_0_0_1_0, 0),
        (0b10_11_0_1_0_0, 1),
    ],
)
def test_flags_of_vp9(first, shown):
    assert count("vp9", bytes([first, 0, 0])) == shown


def test_a_vp9_packet_of_several_frames():
    hidden, seen, index = b"\x84\0\0\0", b"\x86\0", 0b110_00_001
    assert count("vp9", hidden + seen + bytes([index, 4, 2, index])) == 1
    assert count("vp9", seen * 2 + bytes([index, 2, 2, index])) == 2
    wide = 0b110_01_001
    assert count("vp9", seen * 2 + bytes([wide, 2, 0, 2, 0, wide])) == 2
    assert count("vp9", seen + bytes([index])) == 1  # no index, but a last byte like it
    assert count("vp9", bytes([0x86, index, 200, 2, index])) == 1  # sizes beyond the end


@pytest.mark.parametrize(
    "units, shown",
    [
        (b"\x12\0" + b"\x32\2\x10\0", 1),  # a delimiter, then a frame that is shown
        (b"\x12\0" + b"\x32\2\0\0", 0),
        (b"\x32\2\0\0" + b"\x1a\1\x80", 1),  # a hidden one, then a header that shows an old frame
        (b"\x36\0\2\0\0" + b"\x30\x10", 1),  # an extension byte; no length: to the end
        (b"\x0a\1\x18", 1),  # a header of photos: all are shown
        (b"\x0a\1\0" + b"\x32\x80\x01" + bytes(128), 0),  # a length of two bytes
        (b"\x32", 0),
        (b"", 0),
    ],
)
def test_units_of_av1(units, shown):
    assert count("av1", units) == shown


def test_mpeg4_packets_of_one_picture_are_plain():
    picture = b"\0\0\1\xb6" + bytes(range(1, 20))
    assert count("mpeg4", picture) == 1
    assert count("mpeg4", picture * 2) is None and count("mpeg4", picture[:7]) is None


@pytest.mark.parametrize("profile, scaling", [(66, False), (77, False), (100, False), (100, True)])
@pytest.mark.parametrize("order", [0, 1, 2])
def test_h264_with_pictures_of_fields_must_be_decoded(profile, scaling, order):
    for frames_only, number in ((1, 1), (0, None)):
        header = h264_header(profile, frames_only, order, scaling)
        assert count("h264", b"\0", header) == number
        assert count("h264", b"\0", b"\1" + bytes(7) + header[4:]) == number  # as MP4 has it


def test_other_packets_are_frames():
    assert count("hevc", b"\0") == 1 and count("h264", b"\0") == 1 and count("h264", b"\0", b"\0\0\1\x68") == 1
