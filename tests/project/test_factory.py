"""Tests of `examples/applications/factory.py`: the made-up data, their rows, and the whole script."""

import numpy as np
import pytest

from omnivinci_hf.cli import main
from tests.support.applications import load, read_header, read_lines, run


@pytest.fixture
def factory(monkeypatch):
    return load(monkeypatch, "factory")


def test_the_header_says_how_to_run_it():
    header = read_header("factory")
    assert "python examples/applications/factory.py" in header and "CPU cores" in header and "Needs:" in header


def test_maps_differ_as_their_defects_say(factory):
    rng = np.random.default_rng(0)
    for defect in factory.DEFECTS:
        for _ in range(5):
            values = factory.wafer_map(defect, rng)
            rows, columns = values.shape
            y, x = np.meshgrid(np.linspace(-1, 1, rows), np.linspace(-1, 1, columns), indexing="ij")
            radius, failed = np.hypot(x, y), values == 2
            assert ((values == 0) == (radius > 1)).all()
            parts = (radius < 0.2, (radius > 0.9) & (radius <= 1), radius <= 1)
            middle, edge, whole = (failed[part].mean() for part in parts)
            assert (middle > 0.5) == (defect in ("Center", "Near-full")) or defect in ("Random", "Scratch"), defect
            assert (edge > 0.5) == (defect in ("Edge-Ring", "Near-full")) or defect in ("Random", "Edge-Loc"), defect
            assert (whole > 0.8) == (defect == "Near-full") and (whole < 0.1) >= (defect == "none"), defect


def test_a_map_of_wm811k_becomes_a_row_and_a_picture(factory, tmp_path):
    # in the table a label lies inside two lists
    wafer = {"waferMap": np.array([[0, 1, 0], [1, 2, 1]], dtype=np.uint8), "failureType": np.array([["Edge-Ring"]])}
    (row,) = factory.write_wafer_rows(tmp_path, [wafer["waferMap"]], [str(wafer["failureType"][0][0])])
    question, answer = row["messages"]
    assert answer["content"] == "Edge-Ring" and question["content"][0] == {"type": "image", "path": "wafer0.png"}
    picture = np.asarray(factory.wafer_picture(wafer["waferMap"]))
    assert picture.shape == (factory.SIZE, factory.SIZE, 3) and (tmp_path / "wafer0.png").exists()
    assert picture[0, 0].tolist() == [0, 0, 0] and picture[-1, factory.SIZE // 2].tolist() == [255, 255, 0]


@pytest.mark.parametrize("values", [np.array([0, 1, 2]), np.array([[0, 1, 3]])])
def test_what_is_no_wafer_map_is_an_error(factory, values):
    with pytest.raises(ValueError, match="A wafer map has rows and columns"):
        factory.wafer_picture(values)


def test_an_unknown_defect_is_an_error(factory, tmp_path):
    with pytest.raises(ValueError, match="Map 0 has the defect 'Hole'; known are Center"):
        factory.write_wafer_rows(tmp_path, [np.ones((3, 3), dtype=np.uint8)], ["Hole"])


def test_a_fault_of_the_machine_is_in_one_sense_alone(factory):
    machines = [factory.sample_machine(seed) for seed in range(60)]
    assert {machine.fault for machine in machines} == set(factory.FAULTS)
    for machine in machines:
        centres = []
        for picture in factory.draw_wheel(machine):
            y, x = np.nonzero(picture[..., 0] > 100)
            centres.append((x.min() + x.max(), y.min() + y.max()))
        moved = np.ptp(np.array(centres), axis=0).max() / 2
        assert (moved > 4) == (machine.fault == "visible") and (moved < 2) == (machine.fault != "visible")
        # what rattles is much louder for a moment
        loudness = np.abs(factory.make_hum(machine)[0]).reshape(-1, 80).max(axis=1)
        assert (loudness.max() > 2.5 * np.median(loudness)) == (machine.fault == "heard"), machine


def test_the_rows_of_the_factory_are_valid_and_the_same_for_the_same_seed(factory, tmp_path):
    first, second = (factory.write_training_data(tmp_path / name, 50, 9) for name in ("a", "b"))
    assert first.read_bytes() == second.read_bytes()
    assert main(["validate", str(first), "--media-root", str(first.parent)]) == 0
    answers = {row["id"]: row["messages"][-1]["content"] for row in read_lines(first)}
    truths = read_lines(first.with_name("truth.jsonl"))
    assert all(answers[f"machine{truth['seed']}"] == truth["fault"] for truth in truths) and len(answers) == 18
    assert sorted(answers[f"wafer{number}"] for number in range(9)) == sorted(factory.DEFECTS)


def test_the_report_of_the_factory_says_whether_what_was_wanted_came_true(factory):
    settings = {"train": 1, "steps": 2, "test": 3}

    def report(machines, audio_alone):
        controls = {**dict.fromkeys(factory.CONTROLS, 0.1), "machine, audio alone": audio_alone}
        right = {factory.MAPS: 0.95, factory.MACHINES: machines, **controls}
        return factory.report([{"right": right, "cpu_seconds": 90}], settings)

    assert "this holds" in report(0.95, 0.7) and "| machine, audio alone | 70.0 | 70.0 |" in report(0.95, 0.7)
    assert "this does not hold" in report(0.85, 0.7) and "this does not hold" in report(0.95, 0.8)


@pytest.mark.slow
def test_the_factory_runs_from_data_to_figures(tmp_path):
    page = tmp_path / "page.md"
    output = run("factory", "--output", tmp_path / "runs", "--train", 9, "--test", 9, "--steps", 2, "--page", page)
    assert output.count("omnivinci-hf validate") == 1 and output.count("omnivinci-hf train --recipe lora") == 1
    text = page.read_text(encoding="utf-8")
    assert "| map: Edge-Loc | " in text and "| machine, audio alone | " in text and "does not hold" in text
