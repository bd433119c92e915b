"""Stops trainings while they save checkpoints, goes on with them, and tells what became of each, one JSON a line.

    python -m tests.support.kill_training FOLDER KIND HOW [MOMENT ...]

KIND is "whole", "sharded" or "adapter" weights. HOW is "kill" (SIGKILL), "interrupt" (Ctrl-C) or "full" (no more room
on the disk). A moment is the number of a change to the disk (a file opened for writing, a folder made, renamed or
deleted) while the second checkpoint is saved; without any, all moments are tried. Every training is a process of its
own, forked after the imports. With `save_total_limit=1`, the first checkpoint is deleted as soon as that is allowed.
"""

import gc
import json
import os
import resource
import signal
import sys
import tempfile
import traceback
from functools import partial
from pathlib import Path

import torch
from transformers import TrainingArguments

from omnivinci_hf.hub import HubTrainer
from tests.support.small_model import small_model


CHANGES = {"os.rename", "os.mkdir", "os.remove", "os.rmdir", "os.link", "shutil.rmtree"}
STEPS, SAVE_STEPS = 6, 2


class Stopped(HubTrainer):
    """Is stopped at a moment of its second checkpoint; `num_changes` counts them where there is no such moment."""

    num_changes = None

    def stop_at(self, moment: int | None, how: str) -> None:
        def look(event: str, arguments: tuple) -> None:
            if self.num_changes is None or os.getpid() != process:
                return
            if event in CHANGES or (event == "open" and isinstance(arguments[1], str) and "w" in arguments[1]):
                self.num_changes += 1
                if self.num_changes == moment:
                    stop(how)

        process = os.getpid()
        sys.addaudithook(look)

    def _save_checkpoint(self, model, trial):
        if self.state.global_step == 2 * SAVE_STEPS:
            self.num_changes = 0
        super()._save_checkpoint(model, trial)
        if self.state.global_step == 2 * SAVE_STEPS:
            (Path(self.args.output_dir).parent / "num_changes").write_text(str(self.num_changes))
            self.num_changes = None


def stop(how: str) -> None:
    if how == "full":
        resource.setrlimit(resource.RLIMIT_FSIZE, (100, 100))  # bytes of a file
    else:
        os.kill(os.getpid(), signal.SIGKILL if how == "kill" else signal.SIGINT)


def make_trainer(folder: Path, kind: str) -> Stopped:
    model = small_model()
    if kind == "adapter":
        from peft import LoraConfig, get_peft_model

        model = get_peft_model(model, LoraConfig(r=2, target_modules=r".*language_model.*_proj"))
    elif kind == "sharded":
        model.save_pretrained = partial(model.save_pretrained, max_shard_size="40KB")
    arguments = TrainingArguments(
        str(folder),
        max_steps=STEPS,
        save_steps=SAVE_STEPS,
        save_total_limit=1,
        learning_rate=1e-2,
        per_device_train_batch_size=1,
        report_to="none",
        use_cpu=True,
        disable_tqdm=True,
    )
    ids = torch.randint(6, 99, (STEPS, 8), generator=torch.Generator().manual_seed(0))
    rows = [{"input_ids": row, "attention_mask": torch.ones_like(row), "labels": row} for row in ids]
    return Stopped(model=model, args=arguments, train_dataset=rows)


def in_a_process(function, *arguments) -> int:
    """Runs a function in a fork of this process; returns its exit code, negative for a signal."""
    process = os.fork()
    if process == 0:
        code = 1
        try:
            function(*arguments)
            code = 0
        except KeyboardInterrupt:
            code = 130
        except Exception:
            traceback.print_exc()
        finally:
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])


def train(folder: Path, kind: str, moment: int | None, how: str) -> None:
    trainer = make_trainer(folder, kind)
    trainer.stop_at(moment, how)
    trainer.train()
    save_weights(trainer, folder)


def go_on(folder: Path, kind: str) -> None:
    trainer = make_trainer(folder, kind)
    trainer.train(resume_from_checkpoint=True)
    save_weights(trainer, folder)


def save_weights(trainer: Stopped, folder: Path) -> None:
    learned = {name: value.detach() for name, value in trainer.model.named_parameters() if value.requires_grad}
    torch.save(learned, folder.parent / "weights.pt")


def main(root: str, kind: str, how: str, *moments: str) -> None:
    torch.set_num_threads(1)  # threads do not survive a fork
    gc.freeze()  # what is imported needs no look at it in each fork, which would copy its memory
    root = Path(root)
    (root / "undisturbed").mkdir()
    assert in_a_process(train, root / "undisturbed" / "run", kind, None, how) == 0
    expected = torch.load(root / "undisturbed" / "weights.pt")
    num_changes = int((root / "undisturbed" / "num_changes").read_text())
    for moment in map(int, moments or range(1, num_changes + 1)):
        with tempfile.TemporaryDirectory(dir=root) as folder:
            run = Path(folder) / "run"
            code = in_a_process(train, run, kind, moment, how)
            left = sorted(path.name for path in run.iterdir() if path.is_dir())
            went_on = in_a_process(go_on, run, kind)
            found = torch.load(Path(folder) / "weights.pt") if went_on == 0 else {}
            outcome = {
                "moment": moment,
                "of": num_changes,
                "code": code,
                "left": left,
                "went_on": went_on,
                "same": found.keys() == expected.keys()
                and all(torch.equal(found[name], expected[name]) for name in found),
                "after": sorted(path.name for path in run.iterdir() if path.is_dir()),
            }
            print(json.dumps(outcome), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
