import numpy as np
import pytest

from omnivinci_hf.world import PLACES, sample_scene, waveform
from omnivinci_hf.world.backgrounds import HUMS_HZ, hum, tint
from tests.support.world_scenes import sound


def test_every_place_has_a_tint_and_a_hum_of_its_own():
    tints = np.stack([tint(place) for place in range(PLACES)])
    hums = np.stack([hum(place, 16000, 16000) for place in range(PLACES)])
    for kind, least in ((tints, 4.0), (hums, 20.0)):
        apart = np.linalg.norm(kind[:, None] - kind[None], axis=-1) + 1e3 * np.eye(PLACES)
        assert apart.min() > least
    assert np.abs(hums).max() <= 1


@pytest.mark.parametrize("place", [2, 10])
def test_the_hum_has_the_pitch_of_its_place(place):
    spectrum = np.abs(np.fft.rfft(hum(place, 16000, 16000)))  # a bin is 1 Hz
    assert spectrum.argmax() == HUMS_HZ[2]


def test_half_of_the_hums_come_and_go():
    steady, pulsing = (np.abs(hum(place, 16000, 16000)).reshape(-1, 400).max(1) for place in (7, 15))
    assert steady.min() > 0.95 and pulsing.min() < 0.1 < 0.9 < pulsing.max()


def test_picture_and_sound_of_a_scene_are_at_one_place():
    scenes = [sample_scene(seed) for seed in range(40)]
    assert all(scene.vision.place == scene.sound.place for scene in scenes)
    assert len({scene.vision.place for scene in scenes}) > 10
    assert sample_scene(1, place=5).vision.place == sample_scene(1, place=5).sound.place == 5


def test_the_hum_lies_under_a_sound_track():
    quiet, humming = sound(duration=8.0), sound(duration=8.0, place=3, hum=0.05)
    assert not waveform(quiet).any()
    assert np.abs(waveform(humming)).max() == pytest.approx(0.05, rel=0.01)


def test_unknown_places_are_refused():
    with pytest.raises(ValueError, match="places 0 to 15, got 16"):
        tint(16)
    with pytest.raises(ValueError, match="got -1"):
        hum(-1, 10, 16000)
