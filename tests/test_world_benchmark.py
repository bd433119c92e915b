import json
import runpy
import subprocess
import sys
from pathlib import Path

from omnivinci_hf.world import FAMILIES


SCRIPT = Path(__file__).parents[1] / "benchmarks" / "small_checkpoint.py"


def test_the_benchmark_asks_a_real_pipeline(released_folder, tmp_path, monkeypatch, capsys):
    file = tmp_path / "scores.json"
    options = ["--clips", "1", "--per-family", "1", "--audit", "40", "--conditions", "mp4", "text only"]
    monkeypatch.setattr(sys, "argv", [str(SCRIPT), str(released_folder), *options, "--json", str(file)])
    runpy.run_path(str(SCRIPT), run_name="__main__")
    printed = capsys.readouterr().out
    assert "| family | questions | mp4 | text only | guessed from text | guessed from vision |" in printed
    values = json.loads(file.read_text())
    assert values["seeds"] == [2 * 10**8 + 100_000] * 2
    assert list(values["conditions"]) == ["mp4", "text only"]
    assert all(values["conditions"]["mp4"][family]["asked"] <= 1 for family in FAMILIES)
    # conditions in processes of their own come to the same
    other = tmp_path / "others.json"
    command = [sys.executable, str(SCRIPT), str(released_folder), *options, "--jobs", "2", "--json", str(other)]
    subprocess.run(command, check=True, capture_output=True)
    assert json.loads(other.read_text()) == values
