"""Files of chunks that are really cut are errors; sizes that recorders leave in their headers are none."""

import io
import struct

import numpy as np
import pytest

from omnivinci_hf import MediaError, load_audio, load_video
from omnivinci_hf.omnivinci.media_structure_omnivinci import NO_END, check_chunks
from tests.support.media_files import tone, write_video, write_wav


@pytest.fixture(scope="module")
def wav(tmp_path_factory):
    wave = (tone(1) * 30000).astype(np.int16)
    return write_wav(tmp_path_factory.mktemp("media") / "tone.wav", wave, 16000).read_bytes()


def with_sizes(data, riff=None, content=None):
    data, place = bytearray(data), data.index(b"data") + 4
    for start, value in ((4, riff), (place, content)):
        if value is not None:
            data[start : start + 4] = struct.pack("<I", value)
    return bytes(data)


@pytest.mark.parametrize("riff", [8, -8, 44, 1_000_000, 2_000_000_000])
def test_the_size_of_the_whole_does_not_matter_where_all_samples_are_there(riff, wav, warnings):
    told = int.from_bytes(wav[4:8], "little") + riff if abs(riff) < 100 else riff
    assert load_audio(with_sizes(wav, riff=told)).duration_sec == 1 and not warnings


@pytest.mark.parametrize(
    "content, note",
    [
        (32000 + 36, "may be cut short: its header promises 36 bytes more"),
        (2_000_000_000, "may be cut short: its header promises 1999968000 bytes more"),
        (0x7FFFFFFF, "may be cut short: its header promises"),
        (0xFFFFFFF0, "may be cut short: its header promises"),
        (0xFFFFFFFF, NO_END),
        (0, NO_END),
    ],
)
def test_sizes_that_recorders_leave_behind_are_noted(content, note, wav, warnings):
    clip = load_audio(with_sizes(wav, riff=min(content + 36, 0xFFFFFFFF), content=content))
    assert clip.duration_sec == 1 and len(warnings) == 1 and note in warnings[0]


@pytest.mark.parametrize("content", [33000, 128_000, 100_000_000])
def test_what_is_really_cut_stays_an_error(content, wav):
    with pytest.raises(MediaError, match=f"is cut short: {content - 32000} bytes are missing at its end"):
        load_audio(with_sizes(wav, content=content))


def test_a_large_file_that_was_cut_near_its_end():
    head = b"RIFF\0\0\0\0WAVEdata" + struct.pack("<I", 700_000_000)
    assert check_chunks(io.BytesIO(head), 690_000_000) == ("is cut short: 10000020 bytes are missing at its end", True)


@pytest.mark.parametrize(
    "head, content_bytes",
    [
        (b"FORM\0\0\0\0AIFFCOMM" + struct.pack(">I", 18) + bytes(18) + b"SSND" + struct.pack(">I", 1000), 1000),
        (b"caff\0\1\0\0desc" + struct.pack(">Q", 32) + bytes(32) + b"data" + struct.pack(">Q", 1000), 1000),
        (b"riff" + bytes(36) + b"data" + bytes(12) + struct.pack("<Q", 1024), 1000),
        (b".snd" + struct.pack(">II", 24, 1000) + bytes(12), 1000),
        (b"RF64\xff\xff\xff\xffWAVEds64" + struct.pack("<IQQQ", 24, 0, 1000, 0) + b"data\xff\xff\xff\xff", 1000),
        (b"RIFF\0\0\0\0WAVEJUNK" + struct.pack("<I", 3) + bytes(4) + b"data" + struct.pack("<I", 1000), 1000),
    ],
)
def test_layouts_of_chunks(head, content_bytes):
    data = head + bytes(content_bytes)
    assert check_chunks(io.BytesIO(data), len(data)) == (None, True)
    assert check_chunks(io.BytesIO(data + b"TAG of some editor"), len(data) + 18) == (None, True)
    cut = data[:-500]
    assert check_chunks(io.BytesIO(cut), len(cut)) == ("is cut short: 500 bytes are missing at its end", True)


def test_files_without_chunks():
    assert check_chunks(io.BytesIO(b"nothing of the kind"), 19) == (None, True)
    assert check_chunks(io.BytesIO(b"RIFF\0\0\0\0WAVE"), 12) == (None, True)


@pytest.mark.parametrize("riff", [8, 2_000_000_000])
def test_the_size_of_an_avi_file(riff, tmp_path, warnings):
    data = bytearray(write_video(tmp_path / "clip.avi").read_bytes())
    told = int.from_bytes(data[4:8], "little") + 8 if riff == 8 else riff
    data[4:8] = struct.pack("<I", told)
    assert load_video(bytes(data) + b"TAGx of some editor").total_frames == 50 and not warnings
    with pytest.raises(MediaError, match="is cut short: 10 bytes are missing"):
        load_video(bytes(data[:-10]))
