"""Every format of the table that PyAV can write is read, and is an error where it was cut."""

import runpy
from fractions import Fraction
from types import SimpleNamespace

import av
import numpy as np
import pytest
from av.format import Flags

from omnivinci_hf import MediaError, load_audio, load_video
from omnivinci_hf.omnivinci import media_sources_omnivinci
from omnivinci_hf.omnivinci.media_containers_omnivinci import CONTAINERS, time_base
from tests.support.media_files import write_channels
from tests.support.paths import ROOT


AUDIO_FORMATS = {  # by suffix: codec, FFmpeg's name where the suffix does not tell, rate
    "aiff": ("pcm_s16be", None, 16000),
    "caf": ("pcm_s16le", None, 16000),
    "au": ("pcm_s16be", None, 16000),
    "w64": ("pcm_s16le", None, 16000),
    "voc": ("pcm_s16le", None, 16000),
    "wv": ("wavpack", None, 16000),
    "tta": ("tta", None, 16000),
    "rm": ("ac3", None, 48000),
    "ac3": ("ac3", None, 48000),
    "eac3": ("eac3", None, 48000),
    "aac": ("aac", None, 16000),
    "loas": ("aac", "latm", 16000),
    "mp2": ("mp2", None, 16000),
    "amr": ("libopencore_amrnb", None, 8000),
    "oga": ("flac", "ogg", 16000),
    "opus": ("libopus", None, 16000),
    "m4b": ("aac", "mp4", 16000),
    "mka": ("pcm_s16le", None, 16000),
    "webm": ("libopus", None, 16000),
}
WITHOUT_LENGTH = {"ac3", "eac3", "mp2"}  # bare frames: that some are missing cannot be seen


@pytest.fixture(scope="module")
def audio_files(tmp_path_factory):
    """Writes two seconds of 440 Hz in each format."""
    folder, paths = tmp_path_factory.mktemp("audio_files"), {}
    for suffix, (codec, format, rate) in AUDIO_FORMATS.items():
        wave = 0.3 * np.sin(2 * np.pi * 440 * np.arange(2 * rate) / rate)
        paths[suffix] = folder / f"tone.{suffix}"
        write_channels(paths[suffix], "mono", codec, wave[None].astype(np.float32), rate, format)
    return paths


@pytest.mark.parametrize("suffix", AUDIO_FORMATS)
def test_audio_formats_are_read(suffix, audio_files):
    for source in (audio_files[suffix], audio_files[suffix].read_bytes()):
        clip = load_audio(source)
        assert clip.duration_sec == pytest.approx(2, abs=0.12)
        assert np.abs(np.fft.rfft(clip.samples[8000:24000])).argmax() == 440


@pytest.mark.parametrize("suffix", sorted(AUDIO_FORMATS.keys() - WITHOUT_LENGTH))
def test_audio_files_that_were_cut_are_errors(suffix, audio_files):
    data = audio_files[suffix].read_bytes()
    with pytest.raises(MediaError, match="cut short"):
        load_audio(data[: len(data) * 6 // 10])


@pytest.mark.parametrize("suffix, place, length", [("caf", b"data", 8), ("aiff", b"SSND", 4)])
def test_audio_files_of_a_stream_have_no_length(suffix, place, length, audio_files, monkeypatch):
    notes = []
    monkeypatch.setattr(media_sources_omnivinci.logger, "warning", notes.append)
    data = bytearray(audio_files[suffix].read_bytes())
    start = data.index(place) + 4
    data[start : start + length] = b"\xff" * length
    assert load_audio(bytes(data)).duration_sec == pytest.approx(2, abs=0.01)
    assert "has no mark of its end, so it may be cut short" in notes.pop()


def write_pictures(path, codec, size=(64, 48), pixels="yuv420p"):
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=25)
        stream.width, stream.height, stream.pix_fmt, stream.time_base = *size, pixels, Fraction(1, 25)
        for number in range(5):
            frame = av.VideoFrame.from_ndarray(np.full((size[1], size[0], 3), 40 * number + 20, np.uint8))
            frame.pts = number
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


@pytest.mark.parametrize(
    "suffix, codec, size, pixels",
    [
        ("mxf", "mpeg2video", (64, 48), "yuv420p"),
        ("ivf", "libvpx", (64, 48), "yuv420p"),
        ("dv", "dvvideo", (720, 576), "yuv420p"),
        ("rm", "rv10", (176, 144), "yuv420p"),
    ],
)
def test_video_formats_are_read(suffix, codec, size, pixels, tmp_path):
    path = write_pictures(tmp_path / f"clip.{suffix}", codec, size, pixels)
    clip = load_video(path)
    np.testing.assert_allclose(clip.times, np.arange(5) / 25, atol=2e-3)
    greys = [np.asarray(frame).mean() for frame in clip.frames]
    np.testing.assert_allclose(greys, 40 * np.arange(5) + 20, atol=8)
    data = path.read_bytes()
    with pytest.raises(MediaError, match="cut short|damaged"):
        load_video(data[: len(data) * 65 // 100])


def test_every_name_of_the_table_is_ffmpegs():
    assert CONTAINERS.keys() <= {format.partition(",")[0] for format in av.formats_available}


@pytest.mark.parametrize("name", CONTAINERS)
def test_stamps_are_as_loose_as_ffmpeg_says(name):
    row, flags = CONTAINERS[name], av.format.ContainerFormat(name, "r").flags
    assert row.has_loose_stamps == bool(flags & Flags.ts_discont.value)
    assert row.may_start_anew or not row.has_loose_stamps


def test_documentation_lists_the_formats_of_the_tables():
    script = runpy.run_path(str(ROOT / "docs" / "write_formats.py"))
    page = script["PAGE"].read_text(encoding="utf-8")
    assert "MP4, MOV" in page and "Musepack" in page and "JPEG 2000" in page
    assert page == script["page_with_formats"](page), "run: python docs/write_formats.py"


def test_a_stream_without_a_unit_of_time_is_refused():
    with pytest.raises(MediaError, match="The video stream has no unit of time"):
        time_base(SimpleNamespace(type="video", time_base=None))
