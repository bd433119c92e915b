from dataclasses import replace

import pytest

from omnivinci_hf.world import Motion, Scene, SoundEvent, VisionTrack
from tests.support.world_scenes import BLACK, example, shape, sound, vision


def test_a_shape_is_visible_from_its_first_to_before_its_last_moment():
    event = shape("red circle", 1.0, 3.0)
    assert [event.visible_at(time) for time in (0.99, 1.0, 2.99, 3.0)] == [False, True, True, False]


def test_a_shape_moves_at_constant_speed():
    event = shape("red circle", 1.0, 3.0, Motion((0.2, 0.4), (0.6, 0.8)))
    assert event.position(1.0) == (0.2, 0.4)
    assert event.position(2.0) == pytest.approx((0.4, 0.6))


def test_a_scene_lasts_as_long_as_the_longer_track():
    long, short = vision(duration=9.0), sound(duration=7.0)
    assert Scene(long, short).duration_sec == 9.0
    assert Scene(replace(long, duration_sec=6.0), short).duration_sec == 7.0


def test_tracks_of_different_scenes_can_be_paired():
    scene, other = example(), Scene(vision(), sound(SoundEvent("bell", 1.5, 0.5)))
    assert Scene(scene.vision, other.sound).sound.events[0].kind == "bell"


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: shape("pink circle", 1, 2), "Unknown shape 'pink circle': colours are red, "),
        (lambda: shape("red blob", 1, 2), "Unknown shape 'red blob'"),
        (lambda: shape("red circle", 2, 1), "cannot appear at 2 s and vanish at 1 s"),
        (lambda: vision(width=97), "an even width and height of at least 16 .*97x96"),
        (lambda: vision(fps=0), "frame rate in \\(0, 240\\]"),
        (lambda: vision(shape("red circle", 3, 4), shape("red star", 1, 2)), "in the order in which they start"),
        (lambda: vision(shape("red circle", 3, 14)), "over by the end of the track \\(12.0 s\\).*14"),
        (lambda: SoundEvent("moo", 1, 1), "Unknown sound 'moo': known are bell, "),
        (lambda: SoundEvent("bell", 1, 0), "a length > 0"),
        (lambda: SoundEvent("bell", 1, 1, level=1.5), "a level in \\(0, 1\\]"),
        (lambda: sound(channels=3), "1 or 2 channels and 8000 Hz or more, got 3 at 16000"),
        (lambda: sound(SoundEvent("bell", 11.5, 1)), "over by the end of the track"),
    ],
)
def test_what_cannot_be_is_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_an_empty_track_is_a_track():
    assert VisionTrack(6.0, 10, 64, 64, BLACK, ()).events == ()
