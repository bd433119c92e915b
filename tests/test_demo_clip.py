import av
import numpy as np
import pytest

from omnivinci_hf.demo import BEEPS_HZ, SHAPES, write_demo_clip


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    path = tmp_path_factory.mktemp("clip") / "clip.mp4"
    return path, write_demo_clip(path, duration_sec=6, fps=12)


@pytest.fixture(scope="module")
def frames(clip):
    with av.open(str(clip[0])) as container:
        return [(frame.time, frame.to_ndarray(format="rgb24")) for frame in container.decode(video=0)]


@pytest.fixture(scope="module")
def waveform(clip):
    with av.open(str(clip[0])) as container:
        return np.concatenate([frame.to_ndarray()[0] for frame in container.decode(audio=0)])


def visible_shapes(frame):
    """Names of the shapes whose colour covers at least 1 % of the picture."""
    distances = {name: np.abs(frame.astype(int) - colour).max(axis=-1) for name, colour in SHAPES.items()}
    return {name for name, distance in distances.items() if (distance < 40).mean() > 0.01}


def test_streams_are_those_promised(clip):
    with av.open(str(clip[0])) as container:
        video, audio = container.streams.video[0], container.streams.audio[0]
        assert video.codec_context.name in ("h264", "mpeg4")
        assert (audio.codec_context.name, audio.rate, audio.channels) == ("aac", 16000, 1)


def test_clip_lasts_as_long_as_its_timeline_says(clip, frames, waveform):
    assert clip[1]["duration_sec"] == 6
    assert len(frames) == 72
    assert [time for time, _ in frames] == pytest.approx([i / 12 for i in range(72)], abs=1e-3)
    assert 96000 <= len(waveform) <= 96000 + 2 * 1024  # AAC pads its last blocks


def test_every_frame_shows_the_shapes_of_its_time(clip, frames):
    for time, frame in frames:
        expected = {
            shape["name"] for shape in clip[1]["shapes"] if shape["start_sec"] <= time + 1e-6 < shape["end_sec"]
        }
        assert visible_shapes(frame) == expected, time


def test_shapes_move(clip, frames):
    for shape in clip[1]["shapes"]:
        first, last = (
            min(frames, key=lambda item: abs(item[0] - moment))[1]
            for moment in (shape["start_sec"] + 0.1, shape["end_sec"] - 0.2)
        )
        centres = [
            np.argwhere(np.abs(frame.astype(int) - SHAPES[shape["name"]]).max(axis=-1) < 40).mean(axis=0)
            for frame in (first, last)
        ]
        assert abs(centres[1][1] - centres[0][1]) > 80


def test_each_beep_has_its_pitch(clip, waveform):
    for sound in clip[1]["sounds"]:
        piece = waveform[round(sound["start_sec"] * 16000) : round(sound["end_sec"] * 16000)]
        spectrum = np.abs(np.fft.rfft(piece))
        pitch = np.fft.rfftfreq(len(piece), 1 / 16000)[spectrum.argmax()]
        assert pitch == pytest.approx(BEEPS_HZ[sound["name"]], abs=4)


def test_it_is_silent_between_the_beeps(clip, waveform):
    quiet = np.ones(96000, dtype=bool)
    for sound in clip[1]["sounds"]:
        quiet[round((sound["start_sec"] - 0.05) * 16000) : round((sound["end_sec"] + 0.05) * 16000)] = False
    assert quiet.sum() > 16000
    assert np.abs(waveform[:96000][quiet]).max() < 0.02


def test_timeline_names_every_shape_and_beep_once(clip):
    assert sorted(shape["name"] for shape in clip[1]["shapes"]) == sorted(SHAPES)
    assert sorted(sound["name"] for sound in clip[1]["sounds"]) == sorted(BEEPS_HZ)


def test_seed_decides_the_timeline(clip, tmp_path):
    again = write_demo_clip(tmp_path / "again.mp4", duration_sec=6, fps=12)
    other = write_demo_clip(tmp_path / "other.mp4", seed=1, duration_sec=6, fps=12)
    assert again == clip[1] != other


def test_fractional_frame_rate_keeps_its_times(tmp_path):
    timeline = write_demo_clip(tmp_path / "ntsc.mp4", duration_sec=3, fps=30000 / 1001)
    with av.open(str(tmp_path / "ntsc.mp4")) as container:
        times = [frame.time for frame in container.decode(video=0)]
    assert len(times) == 90
    assert times[-1] == pytest.approx(89 * 1001 / 30000, abs=1e-3)
    assert timeline["duration_sec"] == pytest.approx(3.003)


def test_odd_file_names_are_only_names(tmp_path):
    write_demo_clip(tmp_path / "concat:a.mp4", duration_sec=3, fps=8)
    assert (tmp_path / "concat:a.mp4").stat().st_size > 1000


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"duration_sec": 2}, "duration_sec must be at least 3, got 2"),
        ({"duration_sec": float("nan")}, "duration_sec must be at least 3"),
        ({"fps": 0}, "fps must lie between 8 and 120, got 0"),
    ],
)
def test_impossible_clips_are_refused(tmp_path, options, message):
    with pytest.raises(ValueError, match=message):
        write_demo_clip(tmp_path / "bad.mp4", **options)
    assert not (tmp_path / "bad.mp4").exists()
