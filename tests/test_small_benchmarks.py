"""The scripts about the small checkpoint, each on as little as it takes."""

import json
import runpy
import sys
from pathlib import Path

import numpy as np
import pytest

from omnivinci_hf.small.model import build_config, build_model, build_processor, build_tokenizer
from omnivinci_hf.world import FAMILIES


SCRIPTS = Path(__file__).parents[1] / "benchmarks"


def save(folder, **options):
    tokenizer = build_tokenizer()
    config = build_config(tokenizer, **options)
    build_model(config).save_pretrained(folder)
    build_processor(config, tokenizer).save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="module")
def untrained(tmp_path_factory):
    return save(tmp_path_factory.mktemp("untrained"))


def run(monkeypatch, name, *arguments):
    monkeypatch.setattr(sys, "argv", [name, *map(str, arguments)])
    return runpy.run_path(str(SCRIPTS / name), run_name="__main__")


def test_retrieval_with_and_without(monkeypatch, capsys, tmp_path, untrained):
    file, other = tmp_path / "retrieval.json", save(tmp_path / "other", omni_align_config=None)
    report = tmp_path / "results.md"
    options = ["--without", other, "--galleries", 2, "--fit", 8, "--json", file, "--report", report]
    run(monkeypatch, "small_retrieval.py", untrained, *options)
    assert capsys.readouterr().out.startswith("2 galleries of 16 clips, recall at one (chance 6.2%)")
    found = json.loads(file.read_text())["recall_at_1"]
    assert list(found) == [
        "trained with it: means",
        "trained with it: linear map",
        "trained with it: OmniAlignNet",
        "trained without it: means",
        "trained without it: linear map",
    ]
    for row in found.values():
        assert list(row) == ["sound to video", "video to sound"]
        assert all(
            np.shape(values) == (1, 2) and 0 <= np.min(values) <= np.max(values) <= 0.5 for values in row.values()
        )
    with pytest.raises(ValueError, match="was trained with OmniAlignNet"):
        run(monkeypatch, "small_retrieval.py", untrained, "--without", untrained)
    assert "| trained without it: means | " in report.read_text()


def test_one_gallery_has_no_spread(monkeypatch, capsys, untrained):
    with pytest.raises(SystemExit):
        run(monkeypatch, "small_retrieval.py", untrained, "--galleries", 1)
    assert "--galleries must be at least 2" in capsys.readouterr().err


def test_still_tokens_are_counted(monkeypatch, tmp_path, untrained):
    file = tmp_path / "still.json"
    run(monkeypatch, "still_tokens.py", untrained, "--clips", 1, "--thresholds", 1, 200, "--json", file)
    none, low, high = json.loads(file.read_text())
    assert none["still_threshold"] is None and none["visual embeddings"] == 1
    assert 0 < high["visual embeddings"] < low["visual embeddings"] <= 1
    assert high["prompt tokens"] < none["prompt tokens"] == 1


def test_ablation_trains_reports_and_repeats_nothing(monkeypatch, tmp_path):
    options = [
        *("--output", tmp_path, "--cards", tmp_path, "--seeds", 2, "--jobs", 2, "--tracks", 10, "--clips", 6),
        *("--alignment-steps", 1, "--tower-steps", 20, "--audit", 60, "--arms", "concatenation", "TEG, CRTE"),
    ]
    run(monkeypatch, "small_ablation.py", *options, "--joint-steps", 1)
    report = (tmp_path / "ablation.md").read_text()
    # five conditions, and two sweeps
    assert report.count("| concatenation | 2 | ") == 5 and report.count("| TEG, CRTE | 2 | ") == 7
    assert "| TEG | " not in report and "| from text | " in report and " steps of alignment and 1 of joint" in report
    assert (tmp_path / "ablation.png").stat().st_size > 5000
    results = sorted(tmp_path.glob("*.json"))
    assert [path.stem for path in results] == ["TEG, CRTE 0", "TEG, CRTE 1", "concatenation 0", "concatenation 1"]
    result = json.loads(results[0].read_text())
    conditions = ["whole clips", "fewer frames", "text only", "picture shuffled", "sound shuffled"]
    assert list(result["scores"]) == conditions
    assert list(result["scores"]["whole clips"]) == list(FAMILIES) and result["settings"]["joint_steps"] == 1
    times = [path.stat().st_mtime for path in results]
    run(monkeypatch, "small_ablation.py", *options, "--joint-steps", 1)
    assert [path.stat().st_mtime for path in results] == times
    with pytest.raises(ValueError, match="is of a run with other settings"):
        run(monkeypatch, "small_ablation.py", *options, "--joint-steps", 2)


def test_a_report_of_nothing(monkeypatch, tmp_path):
    with pytest.raises(ValueError, match="holds no finished runs"):
        run(monkeypatch, "small_ablation.py", "--output", tmp_path, "--report-only")
