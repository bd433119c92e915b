import json
import runpy
import subprocess
import sys

from omnivinci_hf.small import small_checkpoint
from omnivinci_hf.world import FAMILIES
from tests.support.paths import BENCHMARKS


SCRIPT = BENCHMARKS / "small_checkpoint.py"


def test_the_benchmark_asks_a_real_pipeline(tmp_path, monkeypatch, capsys):
    file = tmp_path / "scores.json"
    options = ["--clips", "2", "--per-family", "1", "--audit", "40", "--conditions", "mp4", "text only"]
    monkeypatch.setattr(sys, "argv", [str(SCRIPT), *options, "--json", str(file)])
    runpy.run_path(str(SCRIPT), run_name="__main__")
    printed = capsys.readouterr().out
    assert "| family | questions | mp4 | text only | guessed from text | guessed from vision |" in printed
    values = json.loads(file.read_text())
    assert values["seeds"] == [2 * 10**8 + 200_000, 2 * 10**8 + 200_001]
    assert values["checkpoint"] == str(small_checkpoint())
    assert list(values["conditions"]) == ["mp4", "text only"]
    assert all(values["conditions"]["mp4"][family]["asked"] <= 2 for family in FAMILIES)
    for family, score in values["conditions"]["mp4"].items():
        parts = [by_family[family] for by_family in values["lengths"].values()]
        assert all(sum(part[name] for part in parts) == score[name] for name in ("right", "asked"))
    assert f"| family | {' | '.join(values['lengths'])} |" in printed
    with_clips, alone = (
        sum(score["right"] for score in values["conditions"][name].values()) for name in ("mp4", "text only")
    )
    assert with_clips >= alone + 4  # of 12 at most
    # conditions in processes of their own come to the same
    other = tmp_path / "others.json"
    command = [sys.executable, str(SCRIPT), *options, "--jobs", "2", "--json", str(other)]
    subprocess.run(command, check=True, capture_output=True)
    assert json.loads(other.read_text()) == values
