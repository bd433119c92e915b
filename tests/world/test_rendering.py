import numpy as np
import pytest

from omnivinci_hf.world import SOUNDS, Motion, SoundEvent, frames, sample_scene, vision_frames_at, waveform
from omnivinci_hf.world.scene import COLOURS, SHAPES, Distractor
from omnivinci_hf.world.synthesis import synthesize
from tests.support.world_scenes import shape, sound, vision


# how much of the square around a shape it covers
AREAS = {
    "circle": np.pi / 4,
    "square": 0.88**2,
    "triangle": 0.94 / 2,
    "cross": 1 - 4 * 0.33**2,
    "star": 5 * 0.52 * 0.22 * np.sin(np.pi / 5),
}


def is_colour(frame, colour):
    return np.abs(frame.astype(int) - COLOURS[colour]).max(axis=-1) < 8


def test_a_shape_is_drawn_in_its_colour_at_its_place_and_time():
    track = vision(shape("red circle", 1.3, 3.3, Motion((0.25, 0.5), (0.75, 0.5))))
    pictures = vision_frames_at(track, [1.2, 1.3, 2.3, 3.2, 3.4])
    assert pictures.shape == (5, 96, 128, 3) and pictures.dtype == np.uint8
    centres = [np.argwhere(is_colour(picture, "red")).mean(axis=0) for picture in pictures[1:4]]
    assert np.array(centres) == pytest.approx(np.array([[47.5, 31.5], [47.5, 63.5], [47.5, 92.3]]), abs=1)
    assert not pictures[0].any() and not pictures[4].any()  # a black background


@pytest.mark.parametrize("name", SHAPES)
def test_every_shape_has_its_area(name):
    track = vision(shape(f"white {name}", 1, 3, size=0.5))
    picture = vision_frames_at(track, [2.0])[0] / 240
    assert picture[..., 0].sum() / 48**2 == pytest.approx(AREAS[name], rel=0.06)


def test_edges_are_smooth():
    levels = set(np.unique(vision_frames_at(vision(shape("white circle", 1, 3)), [2.0])))
    assert len(levels) > 5


def test_frames_are_the_pictures_at_their_times():
    track = sample_scene(1).vision
    all_frames = list(frames(track))
    assert len(all_frames) == round(track.duration_sec * track.fps)
    chosen = vision_frames_at(track, [7 / track.fps, 40 / track.fps])
    assert (chosen == np.stack([all_frames[7], all_frames[40]])).all()


def test_pictures_can_be_resized_and_be_none():
    track = sample_scene(1).vision
    assert vision_frames_at(track, [0.5, 1.0], (56, 56)).shape == (2, 56, 56, 3)
    assert vision_frames_at(track, [], (56, 56)).shape == (0, 56, 56, 3)


def test_noise_has_its_deviation_and_changes():
    track = vision(background=((60, 60, 60), (60, 60, 60)), noise=8.0, seed=3)
    first, second = vision_frames_at(track, [1.0, 1.1]).astype(float)
    assert first.std() == pytest.approx(8, rel=0.1) and first.mean() == pytest.approx(60, abs=0.5)
    assert (first != second).mean() > 0.9
    assert (vision_frames_at(track, [1.0])[0] == first).all()


def test_a_distractor_moves_all_the_time():
    bar = Distractor((0.1, 0.1), 120, Motion((0.2, 0.5), (0.8, 0.5)))
    pictures = vision_frames_at(vision(distractors=(bar,), duration=10.0), [0, 5, 12])
    centres = [np.argwhere(picture[..., 0] == 120).mean(axis=0)[1] / 128 for picture in pictures]
    assert centres == pytest.approx([0.2, 0.5, 0.8], abs=0.02)


def test_a_sound_stands_at_its_time_with_its_level():
    track = sound(SoundEvent("whistle", 2.5, 0.8, level=0.6))
    samples = waveform(track)
    assert samples.shape == (1, 12 * 16000) and samples.dtype == np.float32
    heard = np.flatnonzero(np.abs(samples[0]) > 0.01) / 16000
    assert (heard[0], heard[-1]) == pytest.approx((2.5, 3.3), abs=0.01)
    assert np.abs(samples).max() == pytest.approx(0.6, abs=0.01)


def test_a_sound_is_the_same_at_every_rate():
    track = sound(SoundEvent("bell", 2.5, 0.8))
    low, high = waveform(track, 16000)[0], waveform(track, 48000)[0]
    assert len(high) == 3 * len(low)
    assert low[::100] == pytest.approx(high[::300], abs=0.02)


def test_a_longer_clip_goes_on_with_noise():
    track = sound(SoundEvent("bell", 2.5, 0.8), noise=0.01, channels=2, duration=6.0)
    samples = waveform(track, duration_sec=9.0)
    assert samples.shape == (2, 9 * 16000)
    assert samples[:, 7 * 16000 :].std() == pytest.approx(0.01, rel=0.05)


def test_stereo_sounds_come_from_somewhere():
    samples = waveform(sound(SoundEvent("buzzer", 1.0, 0.8, seed=4), channels=2))
    left, right = np.abs(samples).max(axis=1)
    assert max(left, right) == pytest.approx(0.5, abs=0.01) and 0.19 < min(left, right) < 0.49


@pytest.mark.parametrize("kind", SOUNDS)
@pytest.mark.parametrize("pitch", [0.0, 1.0])
def test_sounds_start_and_end_softly_and_peak_at_one(kind, pitch):
    samples = synthesize(kind, 0.5, pitch, 0, 16000)
    assert samples.shape == (8000,)
    assert np.abs(samples).max() == pytest.approx(1) and abs(samples[0]) < 1e-6 and abs(samples[-1]) < 1e-6
    assert np.sqrt((samples[-4000:] ** 2).mean()) > 0.02  # heard in its second half, too


@pytest.mark.parametrize(("kind", "low", "high"), [("whistle", 1500, 2550), ("drum", 60, 250), ("buzzer", 120, 216)])
def test_pitched_sounds_lie_in_their_range(kind, low, high):
    for pitch in (0.0, 0.5, 1.0):
        samples = synthesize(kind, 1.0, pitch, 0, 16000)
        peak = np.fft.rfftfreq(16000, 1 / 16000)[np.abs(np.fft.rfft(samples)).argmax()]
        assert low * 0.97 <= peak <= high * 1.03


def test_pictures_and_samples_depend_on_the_seed_alone():
    a, b = sample_scene(11), sample_scene(11)
    assert (vision_frames_at(a.vision, [1.0, 3.5]) == vision_frames_at(b.vision, [1.0, 3.5])).all()
    assert (waveform(a.sound, 16000) == waveform(b.sound, 16000)).all()
