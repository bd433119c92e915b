import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from omnivinci_hf.world.evaluation import is_right
from tests.support.paths import ROOT


EXAMPLES = ROOT / "examples"


def run(name, *arguments):
    command = [sys.executable, str(EXAMPLES / name), *arguments]
    environment = {**os.environ, "TRANSFORMERS_VERBOSITY": "error", "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=300)
    assert not done.returncode, done.stderr[-2000:]
    return done.stdout


def test_every_example_has_a_test_and_a_header():
    for path in EXAMPLES.glob("*.py"):
        header = path.read_text().split('"""')[1]
        assert f"python examples/{path.name}" in header and "CPU cores" in header and "Needs:" in header
        assert f'run("{path.name}"' in Path(__file__).read_text()


@pytest.mark.parametrize("name", sorted(path.name for path in EXAMPLES.glob("*.ipynb")))
def test_the_cells_of_a_notebook_run_in_order(name, capsys):
    notebook = json.loads((EXAMPLES / name).read_text(encoding="utf-8"))
    assert (notebook["nbformat"], notebook["nbformat_minor"]) == (4, 5)
    assert len({cell["id"] for cell in notebook["cells"]}) == len(notebook["cells"])
    assert notebook["cells"][0]["cell_type"] == "markdown" and "Needs:" in "".join(notebook["cells"][0]["source"])
    namespace = {}
    for cell in notebook["cells"]:
        if cell["cell_type"] == "code":
            assert not cell["outputs"] and cell["execution_count"] is None  # none are stored
            exec(compile("".join(cell["source"]), f"{name}, {cell['id']}", "exec"), namespace)
    assert capsys.readouterr().out
    if name == "ask_video.ipynb":
        assert sum(map(is_right, namespace["records"], namespace["asked"])) >= 5
        assert namespace["answer"] == namespace["records"][0]["answer"]


def test_ask_video():
    output = run("ask_video.py", "--max-new-tokens", "4")
    assert output.startswith("really there:\n") and output.count("tokens of prompt, ") == 6


def test_ask_audio():
    output = run("ask_audio.py", "--max-new-tokens", "4").splitlines()
    assert [line for line in output if not line.startswith(" ")] == ["What do you hear?", "Is it getting higher?"]


@pytest.mark.parametrize("lora", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_finetune_round_trip(lora):
    output = run("finetune_round_trip.py", *(["--lora", "--steps", "3"] if lora else []))
    if not lora:
        assert "What do you see? 'A red square.' (taught: 'A red square.')" in output
        assert "What do you hear? 'A low beep.' (taught: 'A low beep.')" in output


def test_search_audio_by_video():
    output = run("search_audio_by_video.py", "--steps", "60")
    assert int(output.split("found: ")[1].split("%")[0]) >= 80
