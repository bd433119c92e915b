"""`HubTrainer` on this machine; test_hub.py has its pushes."""

import copy

import numpy as np
import pytest
import torch
from huggingface_hub import HfApi, ModelCard
from safetensors.torch import load_file
from transformers import Trainer, TrainingArguments

from omnivinci_hf.hub import HubTrainer
from omnivinci_hf.hub.training_states import load_state, refuse_pickled_weights, save_state
from tests.support.small_model import small_model


PICKLES = (".bin", ".pt", ".pth", ".pkl", ".pickle", ".ckpt", ".joblib", ".npy")
OWN_CARD = b"---\nlicense: mit\n---\n\nMy own words.\n"
CARD = "README.md"
WEIGHTS = "model.safetensors"


# -- checkpoints


def small_trainer(folder, steps, trainer_class=HubTrainer, **options):
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(6, 99, (6, 8), generator=generator)
    arguments = TrainingArguments(
        output_dir=str(folder),
        max_steps=steps,
        save_steps=2,
        learning_rate=1e-2,
        lr_scheduler_type="cosine",
        per_device_train_batch_size=1,
        report_to="none",
        use_cpu=True,
        disable_tqdm=True,
        **options,
    )
    rows = [{"input_ids": row, "attention_mask": torch.ones_like(row), "labels": row} for row in ids]
    return trainer_class(model=small_model(), args=arguments, train_dataset=rows)


def test_training_goes_on_from_a_checkpoint_without_pickles(tmp_path):
    whole = small_trainer(tmp_path, 4)
    whole.train()
    checkpoint = tmp_path / "checkpoint-2"
    assert not [path for path in tmp_path.rglob("*") if path.suffix in PICKLES]
    again = small_trainer(tmp_path / "again", 4)
    again.train(resume_from_checkpoint=str(checkpoint))
    assert again.state.global_step == 4
    expected = whole.model.state_dict()
    assert all(torch.equal(value, expected[name]) for name, value in again.model.state_dict().items())
    # and it is the states that make the difference
    for path in (*checkpoint.glob("optimizer.*"), *checkpoint.glob("scheduler.*")):
        path.unlink()
    other = small_trainer(tmp_path / "other", 4)
    other.train(resume_from_checkpoint=str(checkpoint))
    assert not all(torch.equal(value, expected[name]) for name, value in other.model.state_dict().items())


def test_states_that_another_trainer_pickled_are_refused(tmp_path):
    small_trainer(tmp_path, 2, trainer_class=Trainer).train()
    with pytest.raises(ValueError, match=r"its \['optimizer.pt', 'scheduler.pt'\] are pickles"):
        small_trainer(tmp_path / "again", 4).train(resume_from_checkpoint=str(tmp_path / "checkpoint-2"))


@pytest.mark.parametrize(
    "name, readable",
    [
        ("pytorch_model.bin", "model.safetensors"),
        ("pytorch_model.bin.index.json", "model.safetensors.index.json"),
        ("adapter_model.bin", "adapter_model.safetensors"),
        ("second/adapter_model.bin", "second/adapter_model.safetensors"),
    ],
)
def test_pickled_weights_of_a_checkpoint_are_refused(tmp_path, name, readable):
    trainer = small_trainer(tmp_path, 1)
    folder = tmp_path / "checkpoint-2"
    (folder / "second").mkdir(parents=True)
    (folder / "trainer_state.json").write_text("{}")
    (folder / name).write_bytes(b"\x80\x02.")
    with pytest.raises(
        ValueError, match=f"{name} is a pickle, which is never read, and there is no .*have the weights"
    ):
        trainer.train(resume_from_checkpoint=str(folder))
    trainer.state.best_model_checkpoint = str(folder)
    with pytest.raises(ValueError, match=f"{name} is a pickle, which is never read"):
        trainer._load_best_model()
    (folder / readable).touch()
    if readable.endswith(".json"):
        with pytest.raises(ValueError, match="is no JSON"):
            refuse_pickled_weights(folder)
        (folder / readable).write_text('{"weight_map": {"a": "weights.bin"}}')
        with pytest.raises(ValueError, match="only safetensors files beside it are read"):
            refuse_pickled_weights(folder)
        (folder / readable).write_text('{"weight_map": {"a": "a.safetensors"}}')
    refuse_pickled_weights(folder)


def test_a_pickle_beside_readable_weights_is_left_alone(tmp_path):
    small_trainer(tmp_path, 2).train()
    (tmp_path / "checkpoint-2" / "pytorch_model.bin").write_bytes(b"no weights")
    again = small_trainer(tmp_path / "again", 3)
    again.train(resume_from_checkpoint=str(tmp_path / "checkpoint-2"))
    assert again.state.global_step == 3
    again.state.best_model_checkpoint = str(tmp_path / "checkpoint-2")
    again._load_best_model()
    assert torch.equal(again.model.lm_head.weight, load_file(tmp_path / "checkpoint-2" / WEIGHTS)["lm_head.weight"])


def test_processes_that_save_nothing_write_nothing(tmp_path, monkeypatch):
    trainer = small_trainer(tmp_path, 2)
    monkeypatch.setattr(TrainingArguments, "should_save", False)
    for path in (tmp_path / "training_args.bin", tmp_path / CARD):
        path.write_text("another process's")
    trainer.save_model(str(tmp_path))
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == dict.fromkeys(
        ("training_args.bin", CARD), "another process's"
    )


def test_states_are_kept_as_they_are(tmp_path):
    state = {"state": {0: {"step": torch.tensor(3.0), "moment": torch.arange(6).view(2, 3).T}}, "betas": (0.9, 0.99)}
    state |= {"groups": [{"lr": 1e-3, "name": None, "fused": True}], "best": float("inf"), "count": np.int64(3)}
    state |= {"by shape": {(3, (4, 5)): "a", (): "b", None: "c", 1.5: "d"}}
    save_state(state, tmp_path / "state")
    found = load_state(tmp_path / "state")
    assert all(torch.equal(found["state"][0].pop(name), state["state"][0].pop(name)) for name in ("step", "moment"))
    assert found == state
    with pytest.raises(TypeError, match="A set in the state `state` cannot be .* or set `save_only_model=True`"):
        save_state({"names": {"a"}}, tmp_path / "state")
    with pytest.raises(TypeError, match="A Tensor in the state `state` cannot be saved"):
        save_state({"moments": {torch.zeros(1): 1.0}}, tmp_path / "state")


def test_the_loss_scale_of_half_precision_is_kept(tmp_path):
    trainer = small_trainer(tmp_path, 2)
    trainer.accelerator.scaler = torch.amp.GradScaler("cpu", init_scale=8.0)
    trainer._save_scaler(str(tmp_path))
    trainer.accelerator.scaler = torch.amp.GradScaler("cpu", init_scale=2.0)
    trainer._load_scaler(str(tmp_path))
    assert trainer.accelerator.scaler.get_scale() == 8.0


# -- cards


def test_a_card_of_a_trainer_is_brought_up_to_date(model, tmp_path, monkeypatch):
    arguments = TrainingArguments(output_dir=str(tmp_path), report_to="none", use_cpu=True)
    path = tmp_path / CARD
    for steps in (3, 5):  # the second one by a trainer that knows nothing of the first, as after resuming
        trainer = HubTrainer(model=model, args=arguments)
        trainer.state.global_step = steps
        trainer.create_model_card()
        assert f"steps: {steps}," in path.read_text()
        path.write_bytes(path.read_text().replace("\n", "\r\n").encode())

    # and where it lies in the repository alone
    monkeypatch.setattr(HfApi, "hf_hub_download", lambda *args, **options: str(tmp_path / "pushed.md"))
    path.rename(tmp_path / "pushed.md")
    trainer.hub_model_id = "me/mine"
    trainer.create_model_card()
    assert f"steps: {steps}," in path.read_text()

    for old, new in (("steps: 5", "steps: 50"), ("license: ", "license: mit # "), ("-->", "-->\n\nMy words.")):
        changed = path.read_text().replace(old, new)
        assert changed != path.read_text()
        (tmp_path / "pushed.md").write_text(changed)
        assert trainer._has_written_card(tmp_path / "pushed.md")
    path.unlink()
    trainer.create_model_card()
    assert not path.exists()


def test_the_trainer_keeps_an_own_card(model, tmp_path):
    arguments = TrainingArguments(output_dir=str(tmp_path), report_to="none", use_cpu=True)
    trainer = HubTrainer(model=copy.deepcopy(model), args=arguments)
    (tmp_path / CARD).write_bytes(OWN_CARD)
    trainer.create_model_card()
    assert (tmp_path / CARD).read_bytes() == OWN_CARD
    (tmp_path / CARD).unlink()
    trainer.create_model_card(model_name="it", license="mit", finetuned_from="me/base", dataset="clips", tags="mine")
    card = ModelCard.load(tmp_path / CARD)
    assert (card.data.license, card.data.base_model) == ("mit", "me/base")
    assert "- data: clips" in card.text and "mine" in card.data.tags
