import numpy as np
import pytest

from omnivinci_hf.world import CROSS_FAMILIES, FAMILIES, Question, sample_scene
from omnivinci_hf.world.dataset import seed_questions
from omnivinci_hf.world.guessing import audit, guess_from_one, guess_from_text


NUM_SCENES = 2000


@pytest.fixture(scope="module")
def asked():
    return [(scene, seed_questions(seed, scene)) for seed in range(NUM_SCENES) for scene in [sample_scene(seed)]]


@pytest.fixture(scope="module")
def guesses(asked):
    return {(guess.family, guess.source): guess for guess in audit(asked)}


# by text: 5 colours or shapes, or 25 of both; 6 sounds; 25; 2; 20 seconds, the early ones in more clips than the late
@pytest.mark.parametrize(
    ("family", "source", "limit"),
    [
        ("vision", "text", 0.18),
        ("audio", "text", 0.21),
        ("sound_while_shape", "text", 0.20),
        ("shape_during_sound", "text", 0.06),
        ("order", "text", 0.53),
        ("time", "text", 0.14),
        ("sound_while_shape", "sound", 0.38),
        ("sound_while_shape", "vision", 0.20),
        ("shape_during_sound", "vision", 0.40),
        ("shape_during_sound", "sound", 0.06),
        ("order", "vision", 0.59),
        ("order", "sound", 0.59),
    ],
)
def test_no_family_can_be_guessed(guesses, family, source, limit):
    guess = guesses[family, source]
    assert guess.accuracy < limit and guess.num_questions > NUM_SCENES / 4


def test_every_family_is_audited(guesses):
    assert {family for family, _ in guesses} == set(FAMILIES)
    assert {family for family, source in guesses if source != "text"} == set(CROSS_FAMILIES)


def test_an_answer_that_the_wording_gives_away_is_found():
    scene = sample_scene(0)
    told = [(scene, Question("audio", f"Which sound follows the {kind}?", kind)) for kind in ("bell", "drum") * 5]
    assert guess_from_text(told, told) == 1.0


def test_a_shortcut_through_one_modality_is_found():
    def last_sound(seed):
        scene = sample_scene(seed)
        return scene, Question("sound_while_shape", "Which sound is last?", scene.sound.events[-1].kind)

    learned, judged = ([last_sound(seed) for seed in seeds] for seeds in (range(60), range(60, 120)))
    judged = [item for item in judged if item[0].sound.events[-1].kind not in _kinds(item[0])[:-1]]
    assert guess_from_one("sound", learned, judged) > 0.9
    assert guess_from_one("vision", learned, judged) == 0.0


def test_an_order_that_the_early_half_gives_away_is_found(asked):
    def early(scene, question):
        event = next(event for event in scene.vision.events if f" {event.name} " in question.question)
        answer = "no" if event.appear_sec < scene.duration_sec / 2 else "yes"
        return scene, Question("order", question.question, answer)

    rigged = [
        early(scene, question) for scene, found in asked[:200] for question in found if question.family == "order"
    ]
    half = len(rigged) // 2
    assert guess_from_one("vision", rigged[:half], rigged[half:]) > 0.9
    assert np.abs(guess_from_text(rigged[:half], rigged[half:]) - 0.5) < 0.25


def _kinds(scene):
    return [event.kind for event in scene.sound.events]
