import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml
from PIL import Image
from safetensors.torch import load_file
from transformers import Trainer
from transformers.utils import find_labels

from omnivinci_hf import OmniVinciForConditionalGeneration
from omnivinci_hf.cli import main
from omnivinci_hf.training import OmniVinciDataCollator, OmniVinciTrainer, Recipe, apply_recipe, load_recipe
from omnivinci_hf.world import sample_scene, write_clip
from omnivinci_hf.world.dataset import seed_questions
from tests.support.paths import ROOT
from tests.support.training_data import ALIGN, RATE, arguments, frames, load, make_trainer, row, tone


ALL = Recipe(
    "all", dict.fromkeys(("vision_tower", "vision_projector", "audio_tower", "audio_projector", "language_model"), 1e-3)
)
ROWS = [
    row(kind, seed, answer=answer)
    for seed, (kind, answer) in enumerate(
        [
            ("video", "red circle"),
            (None, "bell"),
            ("image", "star"),
            ("audio", "drum"),
            ("silent", "blue"),
            ("video", "7"),
        ]
        + [(None, "yes"), (None, "no")]
    )
]


def losses(trainer) -> list[float]:
    return [log["loss"] for log in trainer.state.log_history if "loss" in log]


def run(folder, rows=ROWS, recipe=ALL, align=ALIGN, resume=None, **options):
    model, processor = load(omni_align_config=align)
    options = {"per_device_train_batch_size": 2, "max_steps": 4, "logging_steps": 1, **options}
    trainer = make_trainer(apply_recipe(model, recipe), processor, recipe, folder, rows=rows, **options)
    trainer.train(resume_from_checkpoint=resume)
    return trainer


# -- the loss ---------------------------------------------------------------------------------------------------------


def test_plain_trainer_trains_it(tmp_path):
    model, processor = load()
    options = arguments(tmp_path, max_steps=3, logging_steps=1, remove_unused_columns=False, learning_rate=1e-2)
    trainer = Trainer(model, options, data_collator=OmniVinciDataCollator(processor), train_dataset=ROWS[:5])
    trainer.train()
    assert losses(trainer)[-1] < losses(trainer)[0]


def test_accumulated_batches_equal_one_large_batch(tmp_path):
    """Also where the batches have unlike numbers of labels."""
    large = run(tmp_path / "a", align=None, per_device_train_batch_size=8, max_steps=2)
    small = run(tmp_path / "b", align=None, per_device_train_batch_size=2, gradient_accumulation_steps=4, max_steps=2)
    assert losses(small) == pytest.approx(losses(large), abs=1e-5)


def test_both_losses_are_in_the_log(tmp_path):
    recipe = load_recipe("omni-implicit")
    trainer = run(tmp_path, recipe=recipe, gradient_accumulation_steps=2, eval_strategy="no", max_steps=2)
    trainer.evaluate(ROWS[:4])
    logs = [log for log in trainer.state.log_history if "loss" in log]
    for log in logs:
        assert log["loss"] == pytest.approx(log["language_loss"] + log["omni_align_loss"], abs=1e-4)
    evaluated = next(log for log in trainer.state.log_history if "eval_loss" in log)
    total = evaluated["eval_language_loss"] + evaluated["eval_omni_align_loss"]
    assert evaluated["eval_loss"] == pytest.approx(total, abs=1e-4)


def test_a_net_that_does_not_learn_has_no_part_in_what_others_learn(tmp_path):
    found = []
    for keep in (True, False):
        model, processor = load(omni_align_config=ALIGN)
        if not keep:
            model.model.omni_align_net = None
        recipe = load_recipe("vision-pretraining")
        options = {"per_device_train_batch_size": 2, "max_steps": 4, "logging_steps": 1}
        trainer = make_trainer(apply_recipe(model, recipe), processor, recipe, tmp_path, rows=ROWS, **options)
        trainer.train()
        found.append(losses(trainer))
        assert "omni_align_loss" not in trainer.state.log_history[0]
    assert found[0] == found[1]


def test_skipped_rows_are_counted_in_the_log(tmp_path):
    model, processor = load()
    bad = {"messages": [{"role": "user", "content": "Is it?"}]}
    trainer = OmniVinciTrainer(
        model,
        arguments(tmp_path, max_steps=1, per_device_train_batch_size=4, logging_steps=1),
        data_collator=OmniVinciDataCollator(processor, on_error="skip"),
        train_dataset=[ROWS[0], bad, ROWS[1], bad],
    )
    trainer.train()
    assert next(log for log in trainer.state.log_history if "loss" in log)["skipped_rows"] == 2


def test_labels_alone_are_labels():
    assert find_labels(OmniVinciForConditionalGeneration) == ["labels"]


def test_losses_of_an_evaluation_are_its_own(tmp_path):
    trainer = run(tmp_path, recipe=load_recipe("omni-implicit"), max_steps=1)
    first = trainer.evaluate(ROWS[:2])
    trainer.predict(ROWS[2:6])
    assert trainer.evaluate(ROWS[:2])["eval_omni_align_loss"] == first["eval_omni_align_loss"]
    several = trainer.evaluate({"one": ROWS[:2], "two": ROWS[5:]})
    assert several["eval_one_language_loss"] == first["eval_language_loss"] and "eval_two_language_loss" in several


def test_label_smoothing_is_refused(tmp_path):
    model, processor = load()
    with pytest.raises(ValueError, match="label_smoothing_factor"):
        OmniVinciTrainer(model, arguments(tmp_path, label_smoothing_factor=0.1))


# -- going on ---------------------------------------------------------------------------------------------------------


def test_interrupted_and_resumed_training_has_the_same_losses(tmp_path):
    options = {"max_steps": 6, "learning_rate": 1e-3, "lr_scheduler_type": "linear"}
    whole = run(tmp_path / "whole", save_strategy="steps", save_steps=3, save_total_limit=1, **options)
    first = run(tmp_path / "parts", save_strategy="steps", save_steps=3, **{**options, "max_steps": 6})
    checkpoint = tmp_path / "parts" / "checkpoint-3"
    second = run(tmp_path / "parts", resume=str(checkpoint), **options)
    assert losses(first) == losses(whole)
    assert losses(second) == pytest.approx(losses(whole), abs=1e-6)
    for name in ("language_loss", "omni_align_loss"):
        logs = [[log[name] for log in one.state.log_history if name in log] for one in (second, whole)]
        assert logs[0] == pytest.approx(logs[1], abs=1e-5)
    assert sorted(folder.name for folder in (tmp_path / "whole").iterdir() if folder.is_dir()) == ["checkpoint-6"]
    for name, value in second.model.state_dict().items():
        torch.testing.assert_close(value, whole.model.state_dict()[name], rtol=0, atol=1e-6)


# -- memory -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("reentrant", [False, True])
def test_checkpointing_gives_the_same_losses(tmp_path, reentrant):
    plain = run(tmp_path / "a", align=None)
    saving = run(
        tmp_path / "b",
        align=None,
        gradient_checkpointing=True,
        gradient_checkpointing_kwargs={"use_reentrant": reentrant},
    )
    assert losses(saving) == pytest.approx(losses(plain), abs=1e-5)


def test_frozen_towers_keep_nothing_under_checkpointing():
    model, processor = load()
    model = apply_recipe(model, load_recipe("vision-pretraining")).train()
    model.gradient_checkpointing_enable({"use_reentrant": False})
    seen = []
    for tower in (model.model.vision_tower, model.model.audio_tower):
        tower.register_forward_hook(lambda module, inputs, output: seen.append(output.last_hidden_state.requires_grad))
    loss = model(**OmniVinciDataCollator(processor)(ROWS[:1])).loss
    assert len(seen) > 1 and not any(seen) and loss.requires_grad


def test_bfloat16_is_near(tmp_path):
    exact = run(tmp_path / "a", align=None, max_steps=1)
    rounded = run(tmp_path / "b", align=None, max_steps=1, bf16=True)
    assert losses(rounded)[0] == pytest.approx(losses(exact)[0], rel=0.02)


# -- learning ---------------------------------------------------------------------------------------------------------


def test_eight_clips_are_learned_by_heart(tmp_path):
    rows = []
    for seed in range(8):
        scene = sample_scene(seed, duration_sec=6)
        path = write_clip(scene, tmp_path / f"{seed}.mp4", size=(64, 64), fps=4)
        question = seed_questions(seed, scene)[seed % 3]
        content = [{"type": "video", "path": str(path)}, {"type": "text", "text": question.question}]
        answer = {"role": "assistant", "content": question.answer}
        rows.append({"messages": [{"role": "user", "content": content}, answer]})
    model, processor = load()
    collator = OmniVinciDataCollator(processor)
    encoded = [collator.encode(one) for one in rows]
    trainer = OmniVinciTrainer(
        model,
        arguments(tmp_path / "out", max_steps=100, per_device_train_batch_size=8, learning_rate=3e-3),
        data_collator=collator,
        train_dataset=encoded,
    )
    trainer.train()
    batch = OmniVinciDataCollator(processor)(rows)
    with torch.inference_mode():
        logits = model.eval()(**batch).logits[:, :-1]
    labels = batch["labels"][:, 1:]
    right = (logits.argmax(-1) == labels)[labels != -100]
    assert right.float().mean() > 0.95


# -- the command ------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def workplace(tmp_path_factory):
    """A checkpoint and a JSON-lines file with media in files."""
    import soundfile

    folder = tmp_path_factory.mktemp("training")
    model, processor = load()
    model.save_pretrained(folder / "model")
    processor.save_pretrained(folder / "model")
    Image.fromarray(frames(0, 1)[0]).save(folder / "picture.png")
    soundfile.write(folder / "sound.wav", tone(), RATE)
    write_clip(sample_scene(1, duration_sec=6), folder / "clip.mp4", size=(32, 32), fps=2)
    # so few that some batches of two have no sound or no picture
    kinds = [None, None, "picture.png", "sound.wav", "clip.mp4", "clip.mp4", "clip.mp4", "picture.png"]
    with open(folder / "data.jsonl", "w", encoding="utf-8") as file:
        for number, path in enumerate(kinds):
            content = [{"type": "text", "text": "What is heard?"}]
            if path is not None:
                kind = {"png": "image", "wav": "audio", "mp4": "video"}[path.split(".")[1]]
                content.insert(0, {"type": kind, "path": path})
            answer = " ".join(["bell", "red circle", "no", "7"][number % 4 :])
            messages = [{"role": "user", "content": content}, {"role": "assistant", "content": answer}]
            file.write(json.dumps({"id": str(number), "messages": messages}) + "\n")
    return folder


def command(folder, output, *options) -> list[str]:
    return [
        *("train", "--recipe", str(folder / "recipe.yaml"), "--model", str(folder / "model")),
        *("--data", str(folder / "data.jsonl"), "--media-root", str(folder), "--output_dir", str(output)),
        *("--max_steps", "4", "--logging_steps", "1", "--report_to", "none", "--use_cpu", "--disable_tqdm", "true"),
        *("--save_strategy", "no", "--lr_scheduler_type", "constant", *options),
    ]


@pytest.fixture(scope="module")
def single(workplace):
    """Logs of one process with batches of four."""
    (workplace / "recipe.yaml").write_text(
        "learning_rates: {vision_tower: 1.0e-3, vision_projector: 1.0e-3, audio_tower: 1.0e-3, "
        "audio_projector: 1.0e-3, language_model: 1.0e-3, omni_align_net: 1.0e-3}\n"
        "omni_align_config: {embed_dim: 16, num_attention_heads: 2}\n"
    )
    assert main(command(workplace, workplace / "single", "--per_device_train_batch_size", "4")) == 0
    return logs_of(workplace / "single")


def logs_of(folder) -> list[dict]:
    state = json.loads((folder / "trainer_state.json").read_text())
    return [log for log in state["log_history"] if "loss" in log]


def launch(words: list[str], *options: str) -> None:
    launcher = [sys.executable, "-m", "accelerate.commands.launch", "--num_processes", "2", *options]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [*launcher, "-m", "omnivinci_hf", *words], capture_output=True, text=True, timeout=300, env=environment
    )
    assert done.returncode == 0, done.stderr[-3000:]


def test_the_command_saves_what_can_be_loaded(single, workplace):
    model = OmniVinciForConditionalGeneration.from_pretrained(workplace / "single")
    before = OmniVinciForConditionalGeneration.from_pretrained(workplace / "model")
    name = "model.audio_projector.linear_1.weight"
    assert not torch.equal(model.state_dict()[name], before.state_dict()[name])
    assert model.config.omni_align_config.embed_dim == 16 and len(single) == 4
    assert (workplace / "single" / "processor_config.json").exists()


def configure(folder, name: str, **changes: str) -> Path:
    """A configuration for accelerate that comes with the package, for two processes without a GPU."""
    path = ROOT / "src/omnivinci_hf/training/configs" / f"{name}.yaml"
    values = {**yaml.safe_load(path.read_text()), "use_cpu": True, "mixed_precision": "no", **changes}
    (folder / f"{name}.yaml").write_text(yaml.safe_dump(values))
    return folder / f"{name}.yaml"


def test_rows_that_another_process_skipped_are_counted(workplace, single, tmp_path):
    rows = (workplace / "data.jsonl").read_text().splitlines()
    (tmp_path / "bad.jsonl").write_text("\n".join([*rows[:7], "{"]))
    words = [*command(workplace, tmp_path / "out"), "--data", str(tmp_path / "bad.jsonl"), "--on-error", "skip"]
    launch([*words, "--per_device_train_batch_size", "4", "--max_steps", "1"], "--config_file",
           str(configure(workplace, "ddp")))  # fmt: skip
    assert logs_of(tmp_path / "out")[-1]["skipped_rows"] == 1


def test_two_processes_equal_one(single, workplace):
    config = configure(workplace, "ddp")
    launch(command(workplace, workplace / "double", "--per_device_train_batch_size", "2"), "--config_file", str(config))
    double = logs_of(workplace / "double")
    for name in ("loss", "language_loss", "omni_align_loss"):
        assert [log[name] for log in double] == pytest.approx([log[name] for log in single], abs=1e-5), name


SHARDED = """
import torch
import torch.distributed as dist
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor
from tests.support.training_data import ALIGN, load, row
from omnivinci_hf.training import OmniVinciDataCollator

KINDS = [["image", None], ["video", "audio"]], [["video", "video"], [None, None]], [["video", None], ["video", "image"]]

def loss_of(model, batch, items):
    return model(**batch, num_items_in_batch=items).loss

dist.init_process_group("gloo")
rank = dist.get_rank()
whole, processor = load(omni_align_config=ALIGN)
sharded, _ = load(omni_align_config=ALIGN)
mesh = init_device_mesh("cpu", (2,))
wrapped = {{"Qwen2DecoderLayer", "SiglipEncoderLayer", "Qwen2AudioEncoderLayer", "OmniAlignBranch"}}
for module in list(sharded.modules()):
    if type(module).__name__ in wrapped:
        fully_shard(module, mesh=mesh)
fully_shard(sharded, mesh=mesh)
assert all(isinstance(value, DTensor) for value in sharded.parameters())
sharded.train()
collator = OmniVinciDataCollator(processor)
for number, kinds in enumerate(KINDS):
    rows = [[row(kind, 10 * number + 2 * who + i) for i, kind in enumerate(own)] for who, own in enumerate(kinds)]
    together = collator([one for own in rows for one in own])
    items = (together["labels"] != -100).sum()
    loss = 2 * loss_of(sharded, collator(rows[rank]), items)  # as Trainer does, since gradients are averaged
    loss.backward()
    summed = loss.detach() / 2
    dist.all_reduce(summed)
    learned = [(name, value.grad) for name, value in sharded.named_parameters() if value.grad is not None]
    gradients = {{name: gradient.full_tensor() for name, gradient in learned}}
    if rank == 0:
        # without the group, one process has all clips
        initialized, dist.is_initialized = dist.is_initialized, lambda: False
        expected = loss_of(whole.train(), together, items)
        expected.backward()
        dist.is_initialized = initialized
        torch.testing.assert_close(summed, expected.detach(), rtol=0, atol=1e-5)
        for name, value in whole.named_parameters():
            if value.grad is not None:
                torch.testing.assert_close(gradients[name], value.grad, rtol=1e-3, atol=2e-5, msg=name)
        whole.zero_grad()
    dist.barrier()
    sharded.zero_grad()
print("equal" if rank == 0 else "", flush=True)
dist.destroy_process_group()
"""


def test_two_processes_that_share_out_the_weights_equal_one(tmp_path):
    """FSDP2, towers and OmniAlignNet included, also where one process has no picture, no sound or no pair."""
    script = tmp_path / "sharded.py"
    script.write_text(SHARDED.replace("{{", "{").replace("}}", "}"))
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2", str(script)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=240, env=environment)
    assert done.returncode == 0 and "equal" in done.stdout, done.stderr[-3000:]


def test_a_batch_that_lacks_a_modality_does_not_stall_the_others(single):
    """The rows above do: some steps have no pair, some processes no picture and no sound."""
    assert min(log["omni_align_loss"] for log in single) == 0 < max(log["omni_align_loss"] for log in single)


def test_the_adapter_and_what_it_is_merged_into(workplace, single, tmp_path):
    pytest.importorskip("peft")
    (tmp_path / "lora.yaml").write_text(
        "learning_rates: {lora: 1.0e-2, audio_projector: 1.0e-3}\n"
        "lora: {r: 4, target_modules: '.*language_model.*(q_proj|v_proj)'}\n"
    )
    words = command(workplace, tmp_path / "out", "--merge")
    words[words.index("--recipe") + 1] = str(tmp_path / "lora.yaml")
    assert main(words) == 0
    assert (tmp_path / "out" / "adapter_model.safetensors").exists()
    assert not (tmp_path / "out" / "model.safetensors").exists()
    adapted = OmniVinciForConditionalGeneration.from_pretrained(tmp_path / "out").eval()
    merged = OmniVinciForConditionalGeneration.from_pretrained(tmp_path / "out" / "merged").eval()
    base = OmniVinciForConditionalGeneration.from_pretrained(workplace / "model").eval()
    _, processor = load()
    batch = OmniVinciDataCollator(processor, only_needed_logits=False)(ROWS[:2])
    with torch.inference_mode():
        expected = adapted(**batch).logits
        torch.testing.assert_close(merged(**batch).logits, expected, rtol=1e-4, atol=1e-4)
        assert not torch.allclose(base(**batch).logits, expected, atol=1e-2)


LORA = "lora: {{r: {r}, lora_alpha: 8, target_modules: '.*language_model.*(q_proj|v_proj)'}}\n"


@pytest.fixture(scope="module")
def trained_adapter(workplace, single, tmp_path_factory):
    """A trained adapter, and words of a command that goes on with it by a recipe, so slowly that it stays the same."""
    pytest.importorskip("peft")
    folder = tmp_path_factory.mktemp("adapter")

    def going_on(recipe: str, output: str, model="first") -> list[str]:
        (folder / "recipe.yaml").write_text(recipe)
        words = command(workplace, folder / output, "--max_steps", "2")
        words[words.index("--recipe") + 1] = str(folder / "recipe.yaml")
        words[words.index("--model") + 1] = str(folder / model)
        return words

    recipe = "learning_rates: {lora: 1.0e-2, audio_projector: 1.0e-3}\n" + LORA.format(r=4)
    assert main(going_on(recipe, "first", workplace / "model")) == 0
    return folder, going_on


def weights_of(folder):
    return load_file(folder / "adapter_model.safetensors")


def test_training_an_adapter_goes_on_with_it(workplace, trained_adapter):
    folder, going_on = trained_adapter
    recipe = "learning_rates: {lora: 1.0e-12, audio_projector: 1.0e-12}\n" + LORA.format(r=4)
    assert main([*going_on(recipe, "second"), "--merge"]) == 0
    first, second = weights_of(folder / "first"), weights_of(folder / "second")
    assert any(weight.any() for name, weight in first.items() if "lora_B" in name)
    assert all(torch.allclose(second[name], weight, atol=1e-8) for name, weight in first.items())
    saved = json.loads((folder / "second" / "adapter_config.json").read_text())
    assert saved["base_model_name_or_path"] == str(workplace / "model")
    assert_same_answers(folder / "first", folder / "second" / "merged")


def test_an_adapter_is_merged_before_the_weights_themselves_learn(trained_adapter):
    folder, going_on = trained_adapter
    assert main(going_on("learning_rates: {language_model: 1.0e-12}\n", "full")) == 0
    assert (folder / "full" / "model.safetensors").exists()
    assert_same_answers(folder / "first", folder / "full")


def assert_same_answers(folder, other):
    _, processor = load()
    batch = OmniVinciDataCollator(processor, only_needed_logits=False)(ROWS[:2])
    with torch.inference_mode():
        expected, found = (
            OmniVinciForConditionalGeneration.from_pretrained(one).eval()(**batch).logits for one in (folder, other)
        )
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("recipe", "message"),
    [
        ("learning_rates: {lora: 1.0e-2, audio_projector: 1.0e-3}\n" + LORA.format(r=2), "`r` is 2 there and 4 here"),
        (
            "learning_rates: {lora: 1.0e-2}\n" + LORA.format(r=4),
            "`modules_to_save` is None there and ['audio_projector'] here",
        ),
    ],
)
def test_a_recipe_that_contradicts_the_adapter_is_refused(trained_adapter, recipe, message, capsys):
    _, going_on = trained_adapter
    assert main(going_on(recipe, "third")) == 2
    assert message in capsys.readouterr().err


def test_a_pickled_adapter_is_refused(trained_adapter, tmp_path, capsys):
    folder, going_on = trained_adapter
    shutil.copytree(folder / "first", tmp_path / "pickled")
    (tmp_path / "pickled" / "adapter_model.safetensors").rename(tmp_path / "pickled" / "adapter_model.bin")
    recipe = "learning_rates: {lora: 1.0e-2, audio_projector: 1.0e-3}\n" + LORA.format(r=4)
    assert main(going_on(recipe, "third", tmp_path / "pickled")) == 2
    assert "pickled adapters are never read" in capsys.readouterr().err


def test_a_model_with_an_adapter_in_its_folder_is_neither(workplace, trained_adapter, tmp_path, capsys):
    folder, going_on = trained_adapter
    shutil.copytree(workplace / "model", tmp_path / "both")
    shutil.copy(folder / "first" / "adapter_config.json", tmp_path / "both")
    assert main(going_on("learning_rates: {language_model: 1.0e-3}\n", "third", tmp_path / "both")) == 2
    assert "a model or an adapter of one, and not both" in capsys.readouterr().err


@pytest.mark.parametrize("package", ["peft", "bitsandbytes"])
def test_a_package_that_is_not_there_is_named_in_one_line(workplace, tmp_path, monkeypatch, capsys, package):
    monkeypatch.setattr(f"omnivinci_hf.training.run.is_{package}_available", lambda: False)
    words = command(workplace, tmp_path)
    words[words.index("--recipe") + 1] = "qlora"
    assert main(words) == 2
    assert f"needs the package {package}: pip install {package}" in capsys.readouterr().err


def test_going_on_from_the_last_checkpoint(workplace, single, tmp_path):
    words = command(workplace, tmp_path, "--save_strategy", "steps", "--save_steps", "2")
    assert main(words) == 0
    whole = logs_of(tmp_path)
    for name in ("checkpoint-4", "model.safetensors"):
        path = tmp_path / name
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    assert main([*words, "--resume_from_checkpoint", "true"]) == 0
    assert [log["loss"] for log in logs_of(tmp_path)] == pytest.approx([log["loss"] for log in whole], abs=1e-6)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--epochs", "3"], "--epochs"),
        (["--max_steps", "many"], "max_steps"),
        (["--recipe", "mine"], "There is no recipe 'mine'"),
        (["--data", "no/such.jsonl"], "no/such.jsonl"),
        (["--merge"], "--merge is for adapters"),
        (["--resume_from_checkpoint", "true"], "no checkpoint to resume from"),
    ],
)
def test_wrong_options_end_in_one_line(workplace, single, tmp_path, options, message, capsys):
    assert main([*command(workplace, tmp_path), *options]) == 2
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert error.startswith("omnivinci-hf: ") and message in error


def test_bad_rows_stop_the_run_or_are_skipped(workplace, single, tmp_path, capsys):
    rows = (workplace / "data.jsonl").read_text().splitlines()
    (tmp_path / "bad.jsonl").write_text("\n".join([*rows[:3], rows[4].replace("clip.mp4", "gone.mp4"), "{", *rows[6:]]))
    words = [*command(workplace, tmp_path / "out"), "--data", str(tmp_path / "bad.jsonl")]
    assert main(words) == 2
    error = capsys.readouterr().err
    assert "gone.mp4" in error or "line 5" in error
    assert main([*words, "--on-error", "skip", "--per_device_train_batch_size", "4"]) == 0
    assert logs_of(tmp_path / "out")[-1]["skipped_rows"] == 4  # two rows, read in two epochs


def test_a_run_without_a_good_row_fails(workplace, single, tmp_path, capsys):
    words = [*command(workplace, tmp_path / "out"), "--on-error", "skip", "--media-root", str(tmp_path)]
    rows = [line for line in (workplace / "data.jsonl").read_text().splitlines() if "path" in line]
    (tmp_path / "data.jsonl").write_text("\n".join(rows))
    assert main([*words, "--data", str(tmp_path / "data.jsonl")]) == 2
    assert "None of the" in capsys.readouterr().err


def test_an_error_in_a_worker_is_one_line_too(workplace, single, tmp_path, capsys):
    (tmp_path / "bad.jsonl").write_text("{")
    words = [*command(workplace, tmp_path / "out"), "--data", str(tmp_path / "bad.jsonl")]
    assert main([*words, "--dataloader_num_workers", "1"]) == 2
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert "bad.jsonl, line 1" in error and "Traceback" not in error


def test_the_recipes_are_listed(capsys):
    assert main(["train", "--list-recipes"]) == 0
    assert "omni-implicit" in capsys.readouterr().out


def test_the_memory_is_estimated_without_data(workplace, single, capsys):
    words = ["train", "--estimate", "--recipe", "omni-implicit", "--model", str(workplace / "single")]
    assert main([*words, "--num-frames", "8", "--audio-sec", "10", "--bf16"]) == 0
    assert "peak" in capsys.readouterr().out


def test_what_is_missing_is_named(capsys):
    assert main(["train"]) == 2
    assert "train needs --recipe" in capsys.readouterr().err
