import pytest

from omnivinci_hf.world import FAMILIES, demo
from omnivinci_hf.world.demo import ABOUT, demo_scene, show_demo, timeline


def test_a_clip_with_a_question_of_each_family():
    scene, asked = demo_scene()
    assert [question.family for question in asked] == list(FAMILIES) == list(ABOUT)
    assert demo_scene() == (scene, asked) != demo_scene(30)


def test_timeline_is_in_the_order_of_events():
    scene, _ = demo_scene()
    lines = timeline(scene)
    assert len(lines) == len(scene.vision.events) + len(scene.sound.events)
    starts = [float(line.split()[0]) for line in lines]
    assert starts == sorted(starts)
    assert {line.split()[4] for line in lines} == {"see", "hear"}


def test_six_questions_are_asked_and_judged(tmp_path):
    lines = []
    show_demo(tmp_path, write=lines.append)
    scene, asked = demo_scene()
    found = [line for line in lines if line.startswith("\n[")]
    num_right = 0
    for question, line in zip(asked, found, strict=True):
        _, about, text, verdict = line.split("\n")
        assert about == f"[{ABOUT[question.family]}]" and text == f"  {question.question}"
        if verdict == f"  {question.answer}  (right)":
            num_right += 1
        else:
            assert verdict.endswith(f"  (WRONG, it is {question.answer})")
    assert num_right >= 5  # untrained it would be none
    assert lines[-1] == f"\n{num_right} of 6 answers are right."
    assert [path.name for path in tmp_path.iterdir()] == ["clip.mp4"]


def test_a_wrong_answer_is_called_wrong(tmp_path, monkeypatch):
    scene, asked = demo_scene()
    lied = [type(question)(question.family, question.question, "nothing of the kind") for question in asked]
    monkeypatch.setattr(demo, "demo_scene", lambda number: (scene, lied))
    lines = []
    show_demo(tmp_path, write=lines.append)
    assert lines[-1] == "\n0 of 6 answers are right."
    assert "\n".join(lines).count("(WRONG, it is nothing of the kind)") == 6


def test_seeds_beyond_the_split_are_refused():
    with pytest.raises(ValueError, match="has 100000000 seeds"):
        demo_scene(10**8)
