"""Metrics of an evaluation: they see a row of logits for every row of the data."""

import json
import os
import subprocess
import sys

import pytest
import torch
from transformers import Trainer

from omnivinci_hf.training import OmniVinciDataCollator, OmniVinciTrainer
from tests.support.training_data import ALIGN, arguments, load, make_trainer, row


ROWS = [row("video", 0), row(None, 1, answer="bell"), row("image", 2, answer="star"), row("audio", 3, answer="drum")]


@pytest.mark.parametrize("trainer_class", [Trainer, OmniVinciTrainer])
def test_metrics_see_logits_and_labels(tmp_path, trainer_class):
    model, processor = load(omni_align_config=ALIGN)
    seen = []

    def compute_metrics(prediction):
        seen.append((prediction.predictions.shape, prediction.label_ids.shape))
        return {"count": 1.0}

    trainer = trainer_class(
        model,
        arguments(tmp_path, remove_unused_columns=False, per_device_eval_batch_size=2),
        data_collator=OmniVinciDataCollator(processor, on_error="skip"),
        eval_dataset=[*ROWS, {"messages": []}],
        compute_metrics=compute_metrics,
    )
    metrics = trainer.evaluate()
    assert metrics["eval_count"] == 1 and metrics["eval_loss"] > 0
    assert seen[0][0] == (*seen[0][1], len(processor.tokenizer)) and seen[0][0][0] == 5
    trainer.preprocess_logits_for_metrics = lambda logits, labels: logits.argmax(-1)
    prediction = trainer.predict(ROWS[:3])  # the last batch has one row
    assert prediction.predictions.shape == prediction.label_ids.shape and len(prediction.predictions) == 3


def test_logits_that_nobody_sees_are_not_computed(tmp_path):
    model, processor = load()
    trainer = make_trainer(model, processor, None, tmp_path, per_device_eval_batch_size=2)
    shapes = []
    model.lm_head.register_forward_hook(lambda module, inputs, output: shapes.append(tuple(output.shape[:2])))
    loss = trainer.evaluate(ROWS[:2])["eval_loss"]
    batch = OmniVinciDataCollator(processor)(ROWS[:2])
    with torch.no_grad():
        assert model.eval()(**batch).loss.item() == pytest.approx(loss, abs=1e-5)
    answers = (batch["labels"] != -100).any(0).sum()
    assert shapes == [(2, answers), (2, batch["labels"].shape[1])]


METRICS = """
import json, os
from pathlib import Path
from tests.support.training_data import arguments
from tests.support.training_data import load, row
from transformers import Trainer
from omnivinci_hf.training import OmniVinciDataCollator

def compute_metrics(prediction):
    logits, labels = prediction.predictions[:, :-1], prediction.label_ids[:, 1:]
    right = (logits.argmax(-1) == labels)[labels != -100]
    return {{"rows": len(logits), "right": int(right.sum()), "words": len(right)}}

model, processor = load()
trainer = Trainer(
    model,
    arguments({folder!r}, remove_unused_columns=False, per_device_eval_batch_size={size}),
    data_collator=OmniVinciDataCollator(processor, on_error="skip"),
    compute_metrics=compute_metrics,
)
rows = [row("image"), {{"messages": []}}, row("audio", answer="bell"), row(None, answer="no"), row("video")]
metrics = trainer.evaluate(rows)
found = [metrics["eval_" + name] for name in ("rows", "right", "words")]
Path({folder!r}, os.environ.get("RANK", "alone") + ".json").write_text(json.dumps(found))
"""


def test_metrics_of_two_processes_equal_those_of_one(tmp_path):
    """Also where the last batch is not full, a row is bad, and the processes' rows have unlike lengths and media."""
    scripts = {size: METRICS.format(folder=str(tmp_path), size=size) for size in (4, 2)}
    exec(scripts[4], {})
    (tmp_path / "two.py").write_text(scripts[2])
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [*command, str(tmp_path / "two.py")], capture_output=True, text=True, timeout=240, env=environment
    )
    assert done.returncode == 0, done.stderr[-3000:]
    alone, *both = (json.loads((tmp_path / f"{name}.json").read_text()) for name in ("alone", "0", "1"))
    assert both == [alone, alone] and alone[0] == 5
