"""Recordings that were joined, or whose clock jumps, go on without a hole, and picture and audio stay together."""

from fractions import Fraction
from types import SimpleNamespace

import av
import numpy as np
import pytest

from omnivinci_hf import load_audio, load_video
from omnivinci_hf.omnivinci import media_sources_omnivinci
from omnivinci_hf.omnivinci.media_containers_omnivinci import CONTAINERS, Clock, clock_of
from tests.support.media_files import tone, write_wav


RATE, FPS = 16000, 25


@pytest.fixture(autouse=True)
def warnings(monkeypatch):
    """Messages that were logged."""
    messages = []
    monkeypatch.setattr(media_sources_omnivinci.logger, "warning", messages.append)
    return messages


def record(
    path, seconds=3.0, flash_sec=1.0, start_sec=0.0, load_audio_from_video=True, format="mpegts", codec="mpeg2video"
):
    """Writes a recording in which a white flash and a beep, each of 0.4 s, begin together."""
    with av.open(str(path), "w", format=format) as container:
        video = container.add_stream(codec, rate=FPS, options={"g": "10", "bf": "0"})
        video.width, video.height, video.pix_fmt = 64, 48, "yuv420p"
        audio = container.add_stream("mp2", rate=RATE, layout="mono") if load_audio_from_video else None
        packets = []
        for number in range(round(seconds * FPS)):
            is_lit = flash_sec <= number / FPS < flash_sec + 0.4
            frame = av.VideoFrame.from_ndarray(np.full((48, 64, 3), 235 * is_lit, np.uint8))
            frame.pts, frame.time_base = number + round(start_sec * FPS), Fraction(1, FPS)
            packets += video.encode(frame)
        packets += video.encode()
        wave = tone(seconds)
        wave[:, np.abs(np.arange(wave.shape[1]) / RATE - flash_sec - 0.2) > 0.2] = 0
        size = 576 * 2
        for first in range(0, wave.shape[1] - size, size) if audio else ():
            part = (wave[:, first : first + size] * 32767).astype(np.int16)
            frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(part), "s16", "mono")
            frame.sample_rate, frame.time_base = RATE, Fraction(1, RATE)
            frame.pts = first + round(start_sec * RATE)
            packets += audio.encode(frame)
        packets += audio.encode() if audio else []
        for packet in sorted(packets, key=lambda packet: packet.dts * packet.time_base):
            container.mux(packet)
    return path.read_bytes()


def moments(times, active):
    times = np.asarray(times)[np.asarray(active)]
    return times[np.diff(times, prepend=-9) > 0.5].tolist()


def flashes_and_beeps(data):
    clip = load_video(data, load_audio_from_video=True)
    samples = clip.audio.samples
    assert (np.diff(clip.times) >= 0).all()
    flashes = moments(clip.times, [np.asarray(frame).mean() > 120 for frame in clip.frames])
    return clip, flashes, moments(np.arange(len(samples)) / RATE, np.abs(samples) > 0.05)


@pytest.mark.parametrize("second_start", [0, 3600 * 5, 500])
@pytest.mark.parametrize("first_start", [0, 500])
@pytest.mark.parametrize("format", ["mpegts", "mpeg"])
def test_two_recordings_that_were_joined(format, first_start, second_start, tmp_path, warnings):
    data = record(tmp_path / "1", start_sec=first_start, format=format)
    data += record(tmp_path / "2", start_sec=second_start, format=format)
    clip, flashes, beeps = flashes_and_beeps(data)
    assert clip.total_frames == 150 and clip.duration_sec == pytest.approx(6, abs=0.2) and not warnings
    assert flashes == pytest.approx([1, 4], abs=0.1) and beeps == pytest.approx([1, 4], abs=0.1)
    assert np.diff(clip.times).max() < 0.2


def test_many_short_recordings(tmp_path):
    """The padding at the end of each audio stream does not add up."""
    data = record(tmp_path / "1", seconds=1.0, flash_sec=0.2)
    clip, flashes, beeps = flashes_and_beeps(data * 8)
    assert clip.total_frames == 200
    assert flashes == pytest.approx([0.2 + k for k in range(8)], abs=0.2)
    assert beeps == pytest.approx(flashes, abs=0.15)


def test_a_recording_without_audio_between_others(tmp_path):
    parts = [record(tmp_path / f"{k}", load_audio_from_video=k != 1) for k in range(3)]
    _, flashes, beeps = flashes_and_beeps(b"".join(parts))
    assert flashes == pytest.approx([1, 4, 7], abs=0.1) and beeps == pytest.approx([1, 7], abs=0.1)


def test_stamps_that_overflow_go_on(tmp_path):
    """Transport streams have 33 bits for time stamps, which begin anew every 26.5 hours."""
    _, flashes, beeps = flashes_and_beeps(record(tmp_path / "1", start_sec=2**33 / 90000 - 3.2, seconds=4, flash_sec=3))
    assert flashes == pytest.approx([3], abs=0.05) and beeps == pytest.approx([3], abs=0.1)


def test_audio_that_was_joined_has_ranges(tmp_path):
    data = record(tmp_path / "1", seconds=3.0, flash_sec=0.5)
    beeps = load_audio(data + data, start_sec=3.3, end_sec=4.5).samples
    assert moments(np.arange(len(beeps)) / RATE, np.abs(beeps) > 0.05) == pytest.approx([0.2], abs=0.1)


def clock_of_packets(*packets, time_base=Fraction(1, 1000)):
    """Makes a clock of packets of 40 ms, given as (stream, dts in milliseconds)."""
    clock = Clock({0: time_base, 1: time_base})
    for stream, dts in packets:
        clock.add(SimpleNamespace(stream_index=stream, dts=dts, pts=dts, duration=40, time_base=time_base))
    return clock


def test_a_stream_that_pauses_has_not_jumped():
    steady = [(0, stamp) for stamp in range(0, 60_000, 40)]
    packets = [(1, 0), *steady[:20], (1, 800), *steady[20:], (1, 60_000)]
    assert not clock_of_packets(*packets).changes
    assert not clock_of_packets(*steady, (1, 59_990)).changes  # one that begins late


def test_packets_that_come_late_stay_in_their_piece():
    """The last audio of a recording may stand behind the first picture of the next one."""
    clock = clock_of_packets((0, 4000), (1, 4000), (0, 4040), (0, 0), (1, 4040), (0, 40), (1, 10), (1, 50))
    assert clock.changes == [(0, 2, 1), (1, 2, 1)]
    assert clock.shifts(0) == {2: 4080} and clock.shifts(1) == {2: 4080}


def test_one_wrong_stamp_changes_nothing_for_the_others():
    clock = clock_of_packets((0, 0), (1, 0), (0, 40), (0, 9_000_000), (1, 40), (0, 120), (1, 80), (0, 160), (1, 120))
    assert clock.shifts(0) == {2: -8_999_920, 3: 0} and clock.shifts(1) == {}


def test_a_second_jump_right_after_the_first():
    stamps = [0, 1000, 2000, 0, 1000, 2000, 0, 1000]
    assert clock_of_packets(*[(0, stamp) for stamp in stamps]).changes == [(0, 3, 1), (0, 6, 2)]


def test_audio_alone_and_files_that_cannot_be_joined(tmp_path):
    path = write_wav(tmp_path / "a.wav", np.zeros((1, 16000), np.int16), 16000)
    assert not clock_of(media_sources_omnivinci.MediaSource.of("audio", path), CONTAINERS["wav"]).unit_sec
