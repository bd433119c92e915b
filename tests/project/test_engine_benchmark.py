"""The measurement of the data engine runs on a few clips, and its rule asks what it can answer."""

import json
import runpy
import sys

import pytest
from engine_rule import answer, ask, is_together, join
from engine_sets import is_right

from omnivinci_hf.world import speech
from tests.support.paths import BENCHMARKS, ROOT
from tests.support.world_scenes import example


KEPT = BENCHMARKS / "engine_runs"


def run(monkeypatch, *options):
    monkeypatch.setattr(sys, "argv", ["engine_world.py", *map(str, options)])
    return runpy.run_path(str(BENCHMARKS / "engine_world.py"), run_name="__main__")


@pytest.mark.skipif(not speech.can_speak(), reason="needs espeak-ng")
@pytest.mark.slow
def test_the_engine_is_measured_and_nothing_is_repeated(monkeypatch, capsys, tmp_path):
    card = tmp_path / "engine.md"
    options = [
        *("--output", tmp_path, "--report", card, "--seeds", 1, "--clips", 2, "--tracks", 16, "--captioner-steps", 2),
        *("--training-clips", 8, "--held-out", 4, "--epochs", 1),
    ]
    kinds = ["with statements", "without statements", "start", "true answers", "engine", "picture alone"]
    run(monkeypatch, *options, "--kinds", *kinds)
    results = {path.stem: path for path in tmp_path.glob("*.json")}
    assert sorted(results) == sorted(f"{kind} 0" for kind in kinds)
    for name in kinds[:2]:
        one = json.loads(results[f"{name} 0"].read_text())
        assert one["captions"]["combined"]["facts"] > 0
        assert one["right questions"] <= one["kept questions"] <= one["questions"]
        assert (one["statements heard"] > 0) == (name == "with statements")
        assert one["statements heard"] == one["true statements"] + one["false statements"]
    data = tmp_path / "data 0"
    counts = json.loads((data / "counts.json").read_text())
    assert counts["right"]["true answers"] == 1 and counts["rows"] > 0
    lines = (data / "engine.jsonl").read_text().splitlines()
    assert len(lines) == counts["rows"] and set(lines) <= set((data / "out" / "train.jsonl").read_text().splitlines())
    text = card.read_text()
    assert (
        "| combined | " in text and "| true answers | 1 | " in text and "as a share of what true answers reach" in text
    )
    times = {name: path.stat().st_mtime for name, path in results.items()}
    run(monkeypatch, *options, "--kinds", *kinds)
    assert {name: path.stat().st_mtime for name, path in results.items()} == times
    with pytest.raises(ValueError, match="is a run of other settings"):
        run(monkeypatch, *options, "--clips", 3)
    capsys.readouterr()


@pytest.mark.skipif(not KEPT.is_dir(), reason="no runs are kept")
def test_the_report_is_of_the_runs_that_are_kept(monkeypatch, tmp_path):
    run(monkeypatch, "--output", KEPT, "--report-only", "--report", tmp_path / "engine.md")
    made, card = (
        [line for line in file.read_text().splitlines() if line.startswith("| ")]
        for file in (tmp_path / "engine.md", ROOT / "model_cards" / "engine.md")
    )
    assert made == card and len(made) > 20


def test_a_report_of_nothing_and_of_different_settings_is_refused(monkeypatch, tmp_path):
    options = ["--output", tmp_path, "--report-only", "--report", tmp_path / "engine.md"]
    with pytest.raises(ValueError, match="holds no finished runs"):
        run(monkeypatch, *options)
    for number in range(2):
        (tmp_path / f"start {number}.json").write_text(json.dumps({"kind": "start", "settings": {"clips": number}}))
    with pytest.raises(ValueError, match="holds runs of different settings"):
        run(monkeypatch, *options)


@pytest.mark.parametrize("option", ["--seeds", "--clips"])
def test_too_little_is_refused(monkeypatch, capsys, option):
    with pytest.raises(SystemExit):
        run(monkeypatch, "--output", "nowhere", option, 0)
    assert "--clips and --seeds must be at least 1" in capsys.readouterr().err


PROMPT = """
v0 (1.0 - 3.0 s): red star.
v1 (0.0 - 1.0 s): bell.
a0 (2.0 - 3.0 s): drum.
a1 (6.0 - 7.0 s): chirp.
s0 (2.0 - 3.3 s): "the star is {}"
s1 (5.5 - 6.8 s): "the cross is red"
"""


@pytest.mark.parametrize(("colour", "verdict", "truth"), [("red", "kept", "yes"), ("blue", "contradicts", "no")])
def test_the_rule_believes_each_caption_about_its_own_sense(colour, verdict, truth):
    sentences = join(PROMPT.format(colour))
    verdicts = {one["from"][0]: one["verdict"] for one in sentences}
    assert verdicts == {"v0": "kept", "v1": "dropped", "a0": "kept", "a1": "kept", "s0": verdict, "s1": "kept"}
    (told,) = [one for one in sentences if one["source"] == "both"]
    assert told["from"] == ["s0", "v0"]
    kept = [{**one, "id": f"o{place}"} for place, one in enumerate(sentences) if one["verdict"] != "dropped"]
    questions = {one["question"]: one for one in ask(kept, 8)}
    assert {question: one["answer"] for question, one in questions.items()} == {
        "Is it true what the voice says of the star?": truth,
        "Which sound is heard while the red star is visible?": "drum",
        "Which shape is visible when the drum is heard?": "red star",
        "Is the drum heard before the red star appears?": "no",
        "In which second does the red star appear?": "1",
        "In which second is the drum heard?": "2",
        "In which second is the chirp heard?": "6",
    }
    assert all(answer(question, kept) == one["answer"] for question, one in questions.items())
    assert answer("Which sound is heard while the red star is visible?", kept[:1]) == "unknown"
    assert len(ask(kept, 2)) == 2 and ask([], 8) == []


@pytest.mark.parametrize(("second", "together"), [(1, True), (2, True), (3, None), (4, False), (0, None), (-1, False)])
def test_the_rule_leaves_out_what_seconds_do_not_tell(second, together):
    shape = {"text": "red star.", "start": 1, "end": 3}
    assert is_together(shape, {"text": "drum.", "start": second, "end": second + 1}) is together


@pytest.mark.parametrize(
    ("question", "right", "wrong"),
    [
        ("Which sound is heard while the red star is visible?", "drum", "bell"),
        ("Which shape is visible when the whistle is heard?", None, "blue square"),  # it has just vanished
        ("Which shape is visible when the chirp is heard?", None, "red circle"),  # so is another
        ("Is the bell heard before the red circle appears?", "no", "yes"),
        ("Is the drum heard before the red star appears?", None, "yes"),  # it is heard twice
        ("Is the noise heard before the red star appears?", None, "yes"),  # it is not heard
        ("In which second does the red star appear?", "8", "9"),
        ("In which second is the bell heard?", "2", "3"),
        ("Is it true what the voice says of the star?", None, "yes"),  # nobody speaks
    ],
)
def test_answers_are_checked_against_the_scene(question, right, wrong):
    assert not is_right(question, wrong, example())
    assert right is None or is_right(question, right, example())


def test_a_question_that_the_rule_does_not_ask_is_no_answer_of_it():
    with pytest.raises(ValueError, match="The rule does not ask 'Why"):
        is_right("Why?", "so", example())
