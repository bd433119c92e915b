import math
from collections import Counter
from itertools import combinations, pairwise

import numpy as np
import pytest

from omnivinci_hf.world import FAMILIES, Scene, questions, sample_scene, sample_sound, sample_vision, sampling
from omnivinci_hf.world.scene import COLOURS, SHAPES, SOUNDS


VISIONS = [sample_vision(seed) for seed in range(300)]
SOUNDTRACKS = [sample_sound(seed) for seed in range(300)]


def test_a_seed_gives_the_same_scene_and_another_another():
    assert sample_scene(7) == sample_scene(7)
    assert sample_vision((7, 1)) == sample_vision((7, 1)) != sample_vision((7, 2))
    assert sample_sound(7) == sample_sound(7) != sample_sound(8)


def test_both_tracks_of_a_scene_have_the_duration_of_the_scene():
    scene = sample_scene(3, 9.5)
    assert scene.vision.duration_sec == scene.sound.duration_sec == scene.duration_sec == 9.5


def test_durations_rates_and_sizes_vary_within_their_bounds():
    for tracks in (VISIONS, SOUNDTRACKS):
        durations = [track.duration_sec for track in tracks]
        assert 6 <= min(durations) < 7 and 19 < max(durations) <= 20
    sides = [side for track in VISIONS for side in (track.width, track.height)]
    assert 96 <= min(sides) and max(sides) <= 320 and len({side % 2 for side in sides}) == 1
    assert {track.fps for track in VISIONS} == set(sampling.FRAME_RATES)
    assert {track.sampling_rate for track in SOUNDTRACKS} == set(sampling.SAMPLING_RATES)


def test_every_name_is_about_as_frequent():
    shapes = Counter(event.name for track in VISIONS for event in track.events)
    sounds = Counter(event.kind for track in SOUNDTRACKS for event in track.events)
    assert len(shapes) == len(COLOURS) * len(SHAPES) and set(sounds) == set(SOUNDS)
    assert max(sounds.values()) < 1.4 * min(sounds.values())


def test_moments_leave_no_answer_in_doubt():
    for track in VISIONS:
        for event in track.events:
            assert 0.2 - 1e-9 <= event.appear_sec % 1 <= 0.4 + 1e-9
            assert 0.1 - 1e-9 <= event.vanish_sec % 0.5 <= 0.3 + 1e-9
            assert event.vanish_sec - event.appear_sec >= 1.5
    for track in SOUNDTRACKS:
        for event in track.events:
            assert 0.25 <= event.onset_sec % 1 <= 0.75
            assert 0.4 <= event.length_sec <= 1.0


def test_sounds_do_not_overlap():
    for track in SOUNDTRACKS:
        assert all(b.onset_sec - a.end_sec >= 0.4 for a, b in pairwise(track.events))


def test_shapes_are_large_inside_the_picture_and_never_touch():
    for track in VISIONS:
        short = min(track.width, track.height)
        for event in track.events:
            assert event.size >= 0.3
            for x, y in (event.motion.start, event.motion.end):
                radius = event.size * short / 2 - 1e-6
                assert radius <= x * track.width <= track.width - radius
                assert radius <= y * track.height <= track.height - radius
        for time in np.arange(0, track.duration_sec, 0.1):
            visible = [event for event in track.events if event.visible_at(time)]
            assert len(visible) <= 2
            for a, b in combinations(visible, 2):
                (x0, y0), (x1, y1) = a.position(time), b.position(time)
                apart = math.hypot((x0 - x1) * track.width, (y0 - y1) * track.height)
                assert apart > 0.5 * (a.size + b.size) * short and a.name != b.name


@pytest.mark.parametrize("duration", [8.0, 12.0, 20.0])
def test_a_sampled_scene_can_be_asked_about_in_every_way(duration):
    for seed in range(10):
        found = questions(sample_scene(seed, duration), np.random.default_rng(1))
        assert {question.family for question in found} == set(FAMILIES)


def test_any_two_tracks_make_a_scene():
    for vision, sound in zip(VISIONS, reversed(SOUNDTRACKS), strict=True):
        assert questions(Scene(vision, sound), np.random.default_rng(0))


def test_other_durations_are_refused():
    with pytest.raises(ValueError, match="between 6 and 20, got 5"):
        sample_vision(0, 5)


def test_a_search_without_end_is_given_up(monkeypatch):
    monkeypatch.setattr(sampling, "complete", lambda scene, found: False)
    monkeypatch.setattr(sampling, "MOST_ATTEMPTS", 3)
    with pytest.raises(ValueError, match="Found no scene of 6.0 s"):
        sample_scene(0, 6)
