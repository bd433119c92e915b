"""Headers of audio frames say where a bare stream was cut."""

import io

import av
import numpy as np
import pytest

from omnivinci_hf import MediaError, load_audio
from omnivinci_hf.omnivinci import media_sources_omnivinci
from omnivinci_hf.omnivinci.media_containers_omnivinci import CONTAINERS
from omnivinci_hf.omnivinci.media_structure_omnivinci import whole_frames


APE_TAG = b"APETAGEX" + (2000).to_bytes(4, "little") + (332).to_bytes(4, "little") + bytes(16) + b"x" * 332
TAGS = {"id3v1": b"TAG" + bytes(125), "ape": APE_TAG, "id3v2": b"ID3\4\0\0\0\0\0\x0a" + bytes(10)}


def bare_audio(codec, format, rate, bit_rate=64_000, seconds=0.5):
    file = io.BytesIO()
    options = {"write_xing": "0", "write_id3v2": "0"} if format == "mp3" else {}
    with av.open(file, "w", format=format, options=options) as container:
        stream = container.add_stream(codec, rate=rate, layout="mono")
        stream.bit_rate = bit_rate
        samples = np.sin(np.arange(int(rate * seconds)) / rate * 2 * np.pi * 440).astype(np.float32) / 2
        frame = av.AudioFrame.from_ndarray(samples[None], format="fltp", layout="mono")
        frame.sample_rate = rate
        resampler = av.AudioResampler(stream.codec_context.format, "mono", rate)
        for part in [*resampler.resample(frame), None]:
            container.mux(stream.encode(part))
    return file.getvalue()


AUDIO_FORMATS = [
    (codec, format, rate)
    for codec, format, rates in (
        ("libmp3lame", "mp3", (8000, 16000, 22050, 44100, 48000)),
        ("mp2", "mp2", (16000, 44100)),
        ("ac3", "ac3", (32000, 44100, 48000)),
        ("eac3", "eac3", (44100, 48000)),
    )
    if codec in av.codecs_available
    for rate in rates
]
FORMATS = {"mp2": "mp3"}  # FFmpeg's name of what reads it


@pytest.mark.parametrize("codec, format, rate", AUDIO_FORMATS)
def test_a_header_tells_the_length_of_its_frame(codec, format, rate):
    with av.open(io.BytesIO(bare_audio(codec, format, rate))) as container:
        packets = [bytes(packet) for packet in container.demux(audio=0) if packet.size]
    assert len(packets) > 4
    for data in packets:
        assert whole_frames(CONTAINERS[FORMATS.get(format, format)].frame_bytes, data) == (0, len(data), 0)
        assert whole_frames(CONTAINERS[FORMATS.get(format, format)].frame_bytes, data[:-9]) == (0, 0, 9)


@pytest.mark.parametrize("codec, format, rate", [audio for audio in AUDIO_FORMATS if audio[1] != "mp3"])
def test_a_last_frame_that_is_not_whole_is_an_error(codec, format, rate):
    data = bare_audio(codec, format, rate)
    with pytest.raises(MediaError, match="is cut short: 9 bytes of its last frame are missing"):
        load_audio(data[:-9])
    kept, whole = load_audio(data[:-9], on_damage="warn").samples, load_audio(data).samples
    assert 0 < len(kept) < len(whole)


@pytest.mark.skipif("libmp3lame" not in av.codecs_available, reason="this PyAV has no MP3 encoder")
def test_of_an_mp3_file_it_is_a_note(monkeypatch):
    """Recordings of radio stations end anywhere."""
    messages = []
    monkeypatch.setattr(media_sources_omnivinci.logger, "warning", messages.append)
    assert load_audio(bare_audio("libmp3lame", "mp3", 44100)[:-9]).duration_sec > 0.4
    assert len(messages) == 1 and "9 bytes of its last frame are missing" in messages[0]


@pytest.mark.parametrize("tail", [*TAGS.values(), bytes(1000), b"\0", b"text of a song " * 50])
@pytest.mark.parametrize("codec, format, rate", AUDIO_FORMATS[-1:] + AUDIO_FORMATS[:1])
def test_what_programs_write_behind_the_audio_is_no_damage(codec, format, rate, tail):
    data = bare_audio(codec, format, rate)
    np.testing.assert_array_equal(load_audio(data + tail).samples, load_audio(data).samples)


@pytest.mark.skipif("libmp3lame" not in av.codecs_available, reason="this PyAV has no MP3 encoder")
@pytest.mark.parametrize("name", TAGS)
def test_tags_between_mp3_files_that_were_joined_are_no_damage(name):
    data = bare_audio("libmp3lame", "mp3", 44100)
    joined = load_audio(data + TAGS[name] + data)
    assert joined.duration_sec == pytest.approx(load_audio(data + data).duration_sec, abs=0.03)


@pytest.mark.skipif("libmp3lame" not in av.codecs_available, reason="this PyAV has no MP3 encoder")
def test_something_else_in_the_middle_of_the_audio_is_an_error():
    data = bare_audio("libmp3lame", "mp3", 44100)
    with pytest.raises(MediaError, match="there is something else than audio"):
        load_audio(data + bytes(3000) + data)


def test_free_format_does_not_tell():
    data = b"\xff\xfb\x00\x00" + bytes(96)
    assert whole_frames(CONTAINERS["mp3"].frame_bytes, data) == (0, 100, 0)
