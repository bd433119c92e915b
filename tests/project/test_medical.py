"""Tests of `examples/applications/medical.py`: the made-up data, their rows, and the whole script."""

from collections import Counter

import numpy as np
import pytest

from omnivinci_hf.cli import main
from omnivinci_hf.world.speech import can_speak
from tests.support.applications import load, read_header, read_lines, run


speaking = pytest.mark.skipif(not can_speak(), reason="needs espeak-ng")


@pytest.fixture
def medical(monkeypatch):
    return load(monkeypatch, "medical")


def test_the_header_says_how_to_run_it():
    header = read_header("medical")
    assert "python examples/applications/medical.py" in header and "CPU cores" in header and "Needs:" in header


def test_neither_sense_of_a_scan_gives_its_finding_away(medical):
    scans = [medical.sample_scan(seed, medical.TRAIN_PITCHES) for seed in range(3000)]
    assert all(set(scan.findings) == set(medical.FINDINGS) for scan in scans)
    # whoever always gives the most frequent answer to the same slices, or to the same remark
    for sense in ("findings", "place"):
        answers = {}
        for scan in scans:
            answers.setdefault(getattr(scan, sense), Counter())[scan.finding] += 1
        assert sum(max(counts.values()) for counts in answers.values()) / len(scans) < 0.42


def test_slices_show_each_finding_at_its_place_in_its_slices_alone(medical):
    scan = medical.Scan(("nothing", "circle", "star", "nothing"), (0, 2, 5, 0), "upper right", 1.0, 1.0, 0.5, 7)
    assert scan.finding == "circle"
    pictures = np.stack(medical.draw_slices(scan))[..., 0].astype(int)
    half = medical.SIZE // 2
    bright = (pictures > 160).reshape(medical.NUM_SLICES, 2, half, 2, half).any(axis=(2, 4)).reshape(-1, 4)
    assert np.flatnonzero(bright[:, 1]).tolist() == [2, 3, 4] and np.flatnonzero(bright[:, 2]).tolist() == [5, 6, 7]
    assert not bright[:, 0].any() and not bright[:, 3].any()


@speaking
def test_a_remark_is_spoken_when_the_scan_says(medical):
    scan = medical.Scan(("circle", "star", "nothing", "star"), (0, 0, 0, 0), "lower left", 1.0, 0.8, 0.5, 7)
    samples = medical.speak_remark(scan)[0]
    loud = np.flatnonzero(np.abs(samples) > 0.05) / medical.RATE
    assert len(samples) == 4 * medical.RATE and 1.0 <= loud.min() < 1.2 and 1.5 < loud.max() <= 1.8


@speaking
def test_the_rows_of_scans_are_valid_and_the_same_for_the_same_seed(medical, tmp_path):
    first, second = (medical.write_training_data(tmp_path / name, 50, 6) for name in ("a", "b"))
    assert first.read_bytes() == second.read_bytes()
    assert main(["validate", str(first), "--media-root", str(first.parent)]) == 0
    rows, truths = read_lines(first), read_lines(first.with_name("truth.jsonl"))
    for row, truth in zip(rows, truths, strict=True):
        assert row["messages"][-1]["content"] == f"{truth['place']} {truth['finding']}"
        assert truth["finding"] == truth["findings"][medical.PLACES.index(truth["place"])]


def test_the_report_of_scans_says_whether_what_was_wanted_came_true(medical):
    settings = {"train": 1, "steps": 2, "test": 3}

    def report(whole, control):
        right = {medical.WHOLE: whole, "slices alone": control, medical.PLACE: 1.0}
        return medical.report([{"right": right, "cpu_seconds": 90}], settings)

    assert "this holds" in report(0.95, 0.3) and "| slices alone | 30.0 | 30.0 |" in report(0.95, 0.3)
    assert "this does not hold" in report(0.85, 0.3) and "this does not hold" in report(0.95, 0.6)


@speaking
@pytest.mark.slow
def test_the_medical_application_runs_from_data_to_figures(tmp_path):
    page = tmp_path / "page.md"
    page.write_text("# Page\n\n<!-- figures: begin -->\n<!-- figures: end -->\n\nEnd.\n", encoding="utf-8")
    options = ("--output", tmp_path / "runs", "--train", 8, "--test", 4, "--steps", 2, "--page", page)
    output = run("medical", *options, "--seeds", 0, 3)
    assert output.count("omnivinci-hf validate") == 2 and output.count("omnivinci-hf train --recipe lora") == 2
    text = page.read_text(encoding="utf-8")
    assert "| slices alone | " in text and "does not hold" in text and text.endswith("End.\n")
    assert "omnivinci-hf" not in run("medical", *options, "--seeds", 3)  # a run that is there is not repeated
