import json

import av
import numpy as np
import pytest

from omnivinci_hf.world import FAMILIES, Question, sample_scene
from omnivinci_hf.world.dataset import seed_questions, split_seeds
from omnivinci_hf.world.evaluation import (
    CONTROLS,
    REENCODED,
    Score,
    as_json,
    choose,
    evaluate,
    format_scores,
    neighbours,
    wilson_interval,
)
from omnivinci_hf.world.guessing import Guess


SEEDS = split_seeds("test", 3)
Z2 = 1.96**2


class Oracle:
    """Knows the answers to the clips of `SEEDS`, and what it was asked about."""

    def __init__(self):
        self.paths, self.kinds, self.texts = [], [], []

    def __call__(self, texts=None, *, video=None, question=None, max_new_tokens=None, batch_size=None):
        if texts is not None:
            self.texts = texts
            return [[{"question": text, "answer": "bell"}] for text in texts]
        seed = int(video.split("/")[-1].split(".")[0])
        self.paths.append(video.split("/")[-1])
        with av.open(video) as container:
            stream = container.streams.video[0]
            self.kinds.append((stream.codec_context.name, stream.average_rate, stream.width))
        known = {found.question: found.answer for found in seed_questions(seed, sample_scene(seed))}
        return [{"question": text, "answer": f" {known[text]} "} for text in question]


def total(by_family):
    return sum(score.num_right for score in by_family.values()), sum(score.num_asked for score in by_family.values())


def test_wilson_intervals_of_known_shares():
    assert wilson_interval(0, 10) == pytest.approx((0, Z2 / (10 + Z2)))
    assert wilson_interval(10, 10) == pytest.approx((10 / (10 + Z2), 1))
    low, high = wilson_interval(5, 10)
    assert low + high == pytest.approx(1) and high - low == pytest.approx(np.sqrt(Z2 / (10 + Z2)))
    assert wilson_interval(0, 0) == (0, 1)
    with pytest.raises(ValueError, match="Got 3 right answers to 2 questions"):
        wilson_interval(3, 2)


def test_right_answers_count_and_files_are_deleted(tmp_path):
    oracle, lines = Oracle(), []
    scores = evaluate(oracle, SEEDS, tmp_path, per_family=2, conditions=["mp4"], report=lines.append)
    assert list(scores["mp4"]) == list(FAMILIES)
    right, asked = total(scores["mp4"])
    assert right == asked >= 3 * 9
    assert oracle.paths == [f"{seed}.mp4" for seed in SEEDS] and not list(tmp_path.iterdir())
    assert lines == [f"3 of 3 clips, mp4: {right} of {asked} right"]


def test_without_clips_every_question_is_asked_once(tmp_path):
    oracle = Oracle()
    scores = evaluate(oracle, SEEDS, tmp_path, conditions=["text only"])
    assert not oracle.paths and len(set(oracle.texts)) == len(oracle.texts)
    asked = [choose(seed_questions(seed, sample_scene(seed)), 2, seed) for seed in SEEDS]
    bells = sum(question.answer == "bell" for found in asked for question in found)
    assert total(scores["text only"]) == (bells, sum(map(len, asked)))


def test_shuffled_clips_are_other_files_and_answers_stay(tmp_path):
    written = {}

    def look(condition):
        class Looks(Oracle):
            def __call__(self, *args, video=None, **kwargs):
                with av.open(video) as container:
                    written.setdefault(condition, []).append(
                        (
                            next(container.decode(video=0)).to_ndarray(format="rgb24").shape,
                            container.streams.audio[0].rate,
                        )
                    )
                return super().__call__(*args, video=video, **kwargs)

        return Looks()

    for condition in ("mp4", *CONTROLS[1:]):
        evaluate(look(condition), SEEDS, tmp_path, conditions=[condition])
    scenes = [sample_scene(seed) for seed in SEEDS]
    others = [scenes[i] for i in neighbours([scene.duration_sec for scene in scenes])]
    pictures = [(scene.vision.height, scene.vision.width, 3) for scene in scenes]
    rates = [scene.sound.sampling_rate for scene in scenes]
    assert written["mp4"] == list(zip(pictures, rates, strict=True))
    other_pictures = [(scene.vision.height, scene.vision.width, 3) for scene in others]
    assert written["vision shuffled"] == list(zip(other_pictures, rates, strict=True))
    other_rates = [scene.sound.sampling_rate for scene in others]
    assert written["sound shuffled"] == list(zip(pictures, other_rates, strict=True))


def test_clips_encoded_anew_have_other_codecs_rates_and_sizes(tmp_path):
    oracle = Oracle()
    evaluate(oracle, SEEDS[:1], tmp_path, conditions=["mp4", *REENCODED])
    assert oracle.paths == [f"{SEEDS[0]}.{suffix}" for suffix in ("mp4", "webm", "mkv", "mkv")]
    (_, fps, width), *others = oracle.kinds
    assert [name for name, _, _ in others] == ["vp9", "mpeg4", "vp8"]
    assert all(other != fps and wide != width for name, other, wide in others)


def test_the_choice_has_as_many_yes_as_no_and_other_answers_first():
    orders = [Question("order", f"{i}?", answer) for i, answer in enumerate(("yes", "yes", "yes", "no", "no", "no"))]
    colours = [Question("vision", f"{i}?", answer) for i, answer in enumerate(("red", "red", "red", "blue"))]
    for seed in range(20):
        chosen = choose(orders + colours, 2, seed)
        assert sorted(question.answer for question in chosen) == ["blue", "no", "red", "yes"]
    assert len({tuple(choose(orders, 2, seed)) for seed in range(20)}) > 4


def test_neighbours_are_of_about_the_same_length_and_each_is_taken_once():
    assert neighbours([6.0, 19.0, 7.0, 18.0]) == [2, 0, 3, 1]


def test_the_table_and_the_numbers():
    scores = {"mp4": {"vision": Score(9, 10), "order": Score(0, 0)}}
    guesses = [Guess("vision", "text", 0.2, 50)]
    assert format_scores(scores, guesses).splitlines() == [
        "| family | questions | mp4 | guessed from text |",
        "|---|---|---|---|",
        "| vision | 10 | 90.0% (59.6% - 98.2%) | 20.0% |",
        "| order | 0 |  |  |",
    ]
    values = json.loads(json.dumps(as_json(scores, guesses)))
    assert values["conditions"]["mp4"]["vision"]["right"] == 9
    assert values["guesses"] == [{"family": "vision", "source": "text", "accuracy": 0.2, "num_questions": 50}]


def test_conditions_that_cannot_be_are_refused(tmp_path):
    with pytest.raises(ValueError, match=r"Unknown conditions \['avi'\]: there are mp4, text only, "):
        evaluate(Oracle(), SEEDS, tmp_path, conditions=["mp4", "avi"])
    with pytest.raises(ValueError, match="another clip of 1: give at least two seeds"):
        evaluate(Oracle(), SEEDS[:1], tmp_path, conditions=["mp4", "sound shuffled"])
