from collections import Counter

import numpy as np
import pytest

from omnivinci_hf.world import CROSS_FAMILIES, Scene, SoundEvent, list_questions, questions, sample_scene, vocabulary
from tests.support.world_scenes import example, shape, sound, vision


ANSWERS = {
    "vision": {
        "What colour is the circle?": "red",
        "What colour is the square?": "blue",
        "What colour is the star?": "red",
        "Which shape is blue?": "square",
        "Which shape appears first?": "red circle",
        "Which shape appears last?": "red star",
    },
    "audio": {
        "Which sound is heard first?": "bell",
        "Which sound is heard last?": "drum",
        "Which sound comes after the bell?": "chirp",
        "Which sound comes after the chirp?": "drum",
        "Which sound comes after the whistle?": "drum",
    },
    "shape_during_sound": {},
    "time": {
        "In which second does the red circle appear?": "1",
        "In which second does the blue square appear?": "4",
        "In which second does the red star appear?": "8",
        "In which second is the bell heard?": "2",
        "In which second is the chirp heard?": "4",
        "In which second is the whistle heard?": "7",
    },
    "order": {
        "Is the bell heard before the red circle appears?": "no",
        "Is the whistle heard before the red star appears?": "yes",
    },
    "list": {
        "List the shapes and their seconds.": "red circle 1, blue square 4, red star 8",
        "List the sounds and their seconds.": "bell 2, chirp 4, drum 5, whistle 7, drum 9",
    },
}


def ask(scene, family, seed=0):
    found = list_questions(scene) if family == "list" else questions(scene, np.random.default_rng(seed))
    return {question.question: question.answer for question in found if question.family == family}


@pytest.mark.parametrize("family", ANSWERS)
def test_answers_to_a_scene_written_by_hand(family):
    assert ask(example(), family) == ANSWERS[family]


def test_which_sound_is_heard_while_a_shape_is_visible():
    scene = Scene(
        vision(shape("red circle", 1.3, 4.2), shape("blue square", 4.4, 7.2), shape("red star", 8.3, 11.2)),
        sound(SoundEvent("bell", 2.5, 0.8), SoundEvent("drum", 5.5, 0.7), SoundEvent("whistle", 9.4, 0.6)),
    )
    assert ask(scene, "sound_while_shape") == {
        "Which sound is heard while the red circle is visible?": "bell",
        "Which sound is heard while the blue square is visible?": "drum",
        "Which sound is heard while the red star is visible?": "whistle",
    }
    assert ask(scene, "shape_during_sound") == {
        "Which shape is visible when the bell is heard?": "red circle",
        "Which shape is visible when the drum is heard?": "blue square",
        "Which shape is visible when the whistle is heard?": "red star",
    }
    assert ask(scene, "list")["List the sounds and the visible shapes."] == (
        "bell red circle, drum blue square, whistle red star"
    )
    assert ask(scene, "list")["List the shapes and their sounds."] == (
        "red circle bell, blue square drum, red star whistle"
    )
    assert ask(scene, "list")["List the shapes and sounds."] == (
        "red circle, bell, blue square, drum, red star, whistle"
    )


def test_a_sound_near_a_second_shape_goes_with_none():
    shapes = vision(shape("red circle", 1.3, 4.2), shape("blue square", 4.4, 7.2), shape("red star", 8.3, 11.2))
    bell, whistle = SoundEvent("bell", 2.5, 0.8), SoundEvent("whistle", 9.4, 0.6)
    scene = Scene(shapes, sound(bell, SoundEvent("drum", 4.1, 0.7), whistle))
    assert "drum" not in ask(scene, "shape_during_sound").values()
    assert ask(scene, "sound_while_shape") == {}  # the red circle has two sounds, the star alone has one
    assert "List the sounds and the visible shapes." not in ask(scene, "list")


def test_one_question_of_which_is_none():
    scene = Scene(vision(shape("red circle", 1.3, 4.2)), sound(SoundEvent("bell", 2.5, 0.8)))
    assert ask(scene, "sound_while_shape") == ask(scene, "shape_during_sound") == {}


def test_the_same_answer_is_asked_for_once():
    scene = Scene(
        vision(shape("red circle", 1.3, 6.2), shape("blue square", 8.4, 11.2)),
        sound(SoundEvent("bell", 2.5, 0.8), SoundEvent("drum", 4.5, 0.7), SoundEvent("whistle", 9.4, 0.6)),
    )
    asked = [ask(scene, "shape_during_sound", seed) for seed in range(20)]
    assert all(sorted(found.values()) == ["blue square", "red circle"] for found in asked)
    assert len({tuple(found) for found in asked}) == 2  # about the bell, or about the drum


def test_what_happens_twice_is_not_asked_about():
    scene = Scene(
        vision(shape("red circle", 1.3, 4.2), shape("red circle", 6.4, 9.2)),
        sound(SoundEvent("bell", 2.5, 0.8), SoundEvent("bell", 7.5, 0.8)),
    )
    for family in ("time", "order", *CROSS_FAMILIES):
        assert ask(scene, family) == {}
    assert ask(scene, "list")["List the shapes and their seconds."] == "red circle 1, red circle 6"


def test_orders_are_asked_of_near_moments_only():
    shapes = vision(shape("red circle", 4.3, 6.2), shape("blue square", 8.4, 11.2))
    near = Scene(shapes, sound(SoundEvent("bell", 3.5, 0.5), SoundEvent("drum", 5.5, 0.5)))
    assert ask(near, "order") == {
        "Is the bell heard before the red circle appears?": "yes",
        "Is the drum heard before the red circle appears?": "no",
    }
    far = Scene(shapes, sound(SoundEvent("bell", 1.5, 0.5), SoundEvent("drum", 6.5, 0.5)))
    assert ask(far, "order") == {}


def test_an_order_needs_one_of_the_other_answer():
    shapes = vision(shape("red circle", 4.3, 6.2), shape("blue square", 8.4, 11.2))
    assert ask(Scene(shapes, sound(SoundEvent("bell", 3.5, 0.5))), "order") == {}


def test_orders_are_not_asked_of_short_clips():
    shapes = vision(shape("red circle", 3.3, 6.2), duration=7.0)
    scene = Scene(shapes, sound(SoundEvent("bell", 2.5, 0.5), SoundEvent("drum", 4.5, 0.5), duration=7.0))
    assert ask(scene, "order") == {}


def test_nothing_is_listed_as_such():
    scene = Scene(vision(), sound(SoundEvent("bell", 2.5, 0.5)))
    assert ask(scene, "list") == {
        "List the shapes and their seconds.": "nothing",
        "List the sounds and their seconds.": "bell 2",
        "List the sounds and the visible shapes.": "bell nothing",
        "List the shapes and their sounds.": "nothing",
        "List the shapes and sounds.": "bell",
    }


def test_two_shapes_at_a_sound_are_joined():
    scene = Scene(
        vision(shape("red circle", 1.3, 6.2), shape("blue square", 2.4, 7.2)), sound(SoundEvent("bell", 3.5, 0.5))
    )
    assert ask(scene, "list")["List the sounds and the visible shapes."] == "bell red circle and blue square"


def test_answers_are_balanced():
    for seed in range(40):
        found = questions(sample_scene(seed), np.random.default_rng(seed))
        for family in CROSS_FAMILIES[:2]:
            answers = Counter(question.answer for question in found if question.family == family)
            assert len(answers) >= 2 and set(answers.values()) == {1}
        orders = Counter(question.answer for question in found if question.family == "order")
        assert orders["yes"] == orders["no"]


def test_the_vocabulary_is_closed_and_has_no_word_too_many():
    used = set()
    for seed in range(150):
        scene = sample_scene(seed, None if seed % 3 else 20)
        for question in questions(scene, np.random.default_rng(0)) + list_questions(scene):
            text = f"{question.question} {question.answer}"
            used |= set(text.replace("?", " ?").replace(".", " .").replace(",", " ,").split())
    assert used <= set(vocabulary())
    assert set(vocabulary()) - used <= {"19", "18"}
    assert len(vocabulary()) == len(set(vocabulary())) <= 120
