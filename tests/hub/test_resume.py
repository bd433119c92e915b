"""Checkpoints that are whole or are none: which one training goes on from, and what a stopped process leaves."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from transformers import Trainer

from omnivinci_hf.hub.resume import find_checkpoint, find_fault, last_whole_checkpoint
from tests.support.kill_training import make_trainer
from tests.support.paths import SUPPORT


KINDS = ["whole", "sharded", "adapter"]
# what happens at a moment, and the exit codes that it may give (after the last write nothing can fail for want of room)
WAYS = {"kill": {-9}, "interrupt": {130}, "full": {0, 1}}


def run_killed(folder: Path, kind: str, how: str, *moments: int) -> list[dict]:
    script = SUPPORT / "kill_training.py"
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "TRANSFORMERS_VERBOSITY": "error"}
    command = [sys.executable, str(script), str(folder), kind, how, *map(str, moments)]
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr[-3000:]
    return [json.loads(line) for line in done.stdout.splitlines() if line.startswith('{"moment"')]


def assert_nothing_lost(outcomes: list[dict], how: str) -> None:
    """Training went on from a whole checkpoint, came to the same end, and left no half one."""
    for outcome in outcomes:
        assert outcome["code"] in WAYS[how], outcome
        assert {"checkpoint-2", "checkpoint-4", "checkpoint-6"} & {*outcome["left"]}, outcome
        assert (outcome["went_on"], outcome["same"], outcome["after"]) == (0, True, ["checkpoint-6"]), outcome


linux = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="forks and kills as Linux does")


@linux
def test_a_checkpoint_whose_saving_is_stopped_is_none(tmp_path):
    assert_nothing_lost(run_killed(tmp_path, "whole", "kill", 20, 40), "kill")


@linux
@pytest.mark.slow
@pytest.mark.parametrize("how", WAYS)
@pytest.mark.parametrize("kind", KINDS)
def test_saving_is_stopped_at_many_moments(tmp_path, kind, how):
    """Every sixth moment is tried; `kill_training.py` tries all of them, in an hour."""
    moments = range(1, 40, 6)
    outcomes = run_killed(tmp_path, kind, how, *moments)
    assert [outcome["moment"] for outcome in outcomes] == [*moments] and outcomes[0]["of"] >= 40
    assert_nothing_lost(outcomes, how)


TWO_PROCESSES = """
import os, sys
from pathlib import Path
from tests.support.kill_training import make_trainer
folder, moment = Path(sys.argv[1]), int(sys.argv[2])
trainer = make_trainer(folder, "whole")
if os.environ["RANK"] == "0" and moment:
    trainer.stop_at(moment, "kill")
trainer.train(resume_from_checkpoint=None if moment else True)
"""


@linux
@pytest.mark.slow
@pytest.mark.parametrize("moment", [5, 20, 30, 36, 45])
def test_saving_by_two_processes_is_stopped(tmp_path, moment):
    script = tmp_path / "train.py"
    script.write_text(TWO_PROCESSES)
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2", str(script)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    killed = subprocess.run([*command, str(tmp_path / "run"), str(moment)], env=environment, capture_output=True)
    assert killed.returncode != 0
    went_on = subprocess.run([*command, str(tmp_path / "run"), "0"], env=environment, capture_output=True, text=True)
    assert went_on.returncode == 0, went_on.stderr[-3000:]
    names = {path.name for path in (tmp_path / "run" / "checkpoint-6").iterdir()}
    assert {"rng_state_0.json", "rng_state_1.json", "trainer_state.json"} <= names
    assert os.listdir(tmp_path / "run") == ["checkpoint-6"]


# -- checkpoints of other trainers, or from before, which are written in their place


@pytest.fixture(scope="module", params=["HubTrainer", "Trainer", "sharded", "adapter"])
def checkpoint(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp("checkpoints")
    kind = request.param if request.param in KINDS else "whole"
    trainer = make_trainer(folder, kind)
    trainer.args.max_steps = trainer.args.save_steps
    if request.param == "Trainer":
        trainer.__class__ = Trainer
    trainer.train()
    return folder / "checkpoint-2"


def test_a_whole_checkpoint_has_no_fault(checkpoint):
    assert find_fault(checkpoint) is None
    assert find_checkpoint("true", checkpoint.parent) == find_checkpoint(True, checkpoint.parent) == str(checkpoint)


def test_a_checkpoint_without_its_last_files_is_left_out(checkpoint, tmp_path, caplog):
    """However many of its files a process had written, one after the other, when it was stopped in the midst of one."""
    files = sorted((path for path in checkpoint.rglob("*") if path.is_file()), key=lambda path: path.stat().st_mtime_ns)
    assert files[-1].name == "trainer_state.json"
    shutil.copytree(checkpoint, tmp_path / "checkpoint-2")
    half = tmp_path / "checkpoint-4"
    for number, path in enumerate(files):
        if path.suffix in (".safetensors", ".json") or number == 0:
            shutil.copytree(checkpoint, half)
            for missing in files[number + 1 :]:
                (half / missing.relative_to(checkpoint)).unlink()
            with open(half / path.relative_to(checkpoint), "r+b") as file:
                file.truncate(path.stat().st_size // 2)
            assert find_fault(half) is not None
            assert last_whole_checkpoint(tmp_path) == str(tmp_path / "checkpoint-2")
            with pytest.raises(ValueError, match="checkpoint-4 cannot be resumed from, since it is not whole: "):
                find_checkpoint(half, tmp_path)
            shutil.rmtree(half)


def test_what_is_missing_is_named(checkpoint, tmp_path):
    for path in [*checkpoint.glob("*.safetensors"), *checkpoint.glob("trainer_state.json")]:
        half = shutil.copytree(checkpoint, tmp_path / path.name)
        (half / path.name).unlink()
        if (fault := find_fault(half)) != "it has no weights":
            assert fault == f"it has no {path.name}"


def test_a_run_without_a_whole_checkpoint_cannot_be_gone_on_with(tmp_path):
    (tmp_path / "checkpoint-4").mkdir()
    (tmp_path / "_unfinished-checkpoint-6").mkdir()
    with pytest.raises(ValueError, match="has no checkpoint to resume from that is whole"):
        find_checkpoint("true", tmp_path)
    assert find_checkpoint(None, tmp_path) is find_checkpoint("false", tmp_path) is None
    assert find_checkpoint("me/elsewhere", tmp_path) == "me/elsewhere"
