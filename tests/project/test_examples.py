import os
import subprocess
import sys
from pathlib import Path

import pytest

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
        assert "What do you see? 'A red circle.' (taught: 'A red circle.')" in output
        assert "What do you hear? 'A low beep.' (taught: 'A low beep.')" in output


def test_search_audio_by_video():
    output = run("search_audio_by_video.py")
    assert int(output.split("found: ")[1].split("%")[0]) >= 80
