"""The measurement of the data engine runs on a few clips, and its rule does what it says."""

import json
import runpy
import sys

import pytest
from engine_rule import answer, ask, join

from omnivinci_hf.world import speech
from tests.support.paths import BENCHMARKS


@pytest.mark.skipif(not speech.can_speak(), reason="needs espeak-ng")
@pytest.mark.slow
def test_the_engine_is_measured(monkeypatch, capsys, tmp_path):
    file, card = tmp_path / "engine.json", tmp_path / "engine.md"
    options = ["--sets", "1", "--clips", "2", "--json", str(file), "--report", str(card)]
    monkeypatch.setattr(sys, "argv", ["engine_world.py", *options])
    runpy.run_path(str(BENCHMARKS / "engine_world.py"), run_name="__main__")
    silent, spoken = json.loads(file.read_text()).values()
    for (one,) in (silent, spoken):
        combined, concatenated = (one["captions"][kind] for kind in ("combined", "concatenated"))
        assert combined["true"] / combined["told"] > concatenated["true"] / concatenated["told"]
        assert one["right questions"] <= one["kept questions"] <= one["questions"]
    assert silent[0]["statements heard"] == 0
    assert spoken[0]["statements heard"] == spoken[0]["true statements"] + spoken[0]["false statements"] > 0
    assert "| combined | " in card.read_text() and "| combined | " in capsys.readouterr().out


@pytest.mark.parametrize("option", ["--sets", "--clips"])
def test_too_little_is_refused(monkeypatch, capsys, option):
    monkeypatch.setattr(sys, "argv", ["engine_world.py", option, "0"])
    with pytest.raises(SystemExit):
        runpy.run_path(str(BENCHMARKS / "engine_world.py"), run_name="__main__")
    assert "--clips and --sets must be at least 1" in capsys.readouterr().err


PROMPT = """
v0 (1.0 - 2.0 s): red star.
v1 (0.0 - 1.0 s): bell.
a0 (4.0 - 5.0 s): drum.
a1 (6.0 - 7.0 s): chirp.
s0 (2.0 - 3.3 s): "the star is {}"
s1 (5.5 - 6.8 s): "the cross is red"
"""


@pytest.mark.parametrize(("colour", "verdict", "truth"), [("red", "kept", "yes"), ("blue", "contradicts", "no")])
def test_the_rule_believes_each_caption_about_its_own_sense(colour, verdict, truth):
    sentences = join(PROMPT.format(colour))
    verdicts = {one["from"][0]: one["verdict"] for one in sentences}
    assert verdicts == {"v0": "kept", "v1": "dropped", "a0": "kept", "a1": "dropped", "s0": verdict, "s1": "kept"}
    (told,) = [one for one in sentences if one["source"] == "both"]
    assert told["from"] == ["s0", "v0"]
    kept = [{**one, "id": f"o{place}"} for place, one in enumerate(sentences) if one["verdict"] != "dropped"]
    questions = ask(kept, 8)
    assert [one["answer"] for one in questions] == [truth, "red star"]
    assert all(answer(one["question"], kept) == one["answer"] for one in questions)
    assert answer(questions[1]["question"], kept[:1]) == "unknown"
