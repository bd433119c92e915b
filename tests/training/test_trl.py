"""TRL's trainers with our processor: what they pass on is learned, what they lose is told."""

import pytest
import torch
from PIL import Image

from omnivinci_hf.training import OmniVinciDataCollator
from tests.support.training_data import RATE, frames, load, tone


trl = pytest.importorskip("trl")
datasets = pytest.importorskip("datasets")
pytestmark = pytest.mark.slow

ANSWER = {"role": "assistant", "content": [{"type": "text", "text": "red circle", "path": None}]}
QUESTION = {"type": "text", "text": "What is heard?", "path": None}
OPTIONS = {
    **{"use_cpu": True, "bf16": False, "report_to": "none", "disable_tqdm": True, "save_strategy": "no"},
    **{"max_steps": 1, "logging_steps": 1, "learning_rate": 0.0, "per_device_train_batch_size": 2},
}


def prompt(path=None, kind: str = "image") -> list[dict]:
    return [{"role": "user", "content": [{"type": kind, "text": None, "path": path}, QUESTION]}]


@pytest.fixture
def audio(tmp_path):
    import soundfile

    soundfile.write(tmp_path / "tone.wav", tone(), RATE)
    return str(tmp_path / "tone.wav")


def finetune(tmp_path, rows, collator=None, **options):
    """One step of TRL's own trainer at rate 0, and the loss that the model has by itself for the same batch."""
    model, processor = load()
    trainer = trl.SFTTrainer(
        model,
        args=trl.SFTConfig(str(tmp_path), **OPTIONS, **options),
        train_dataset=datasets.Dataset.from_list(rows),
        processing_class=processor,
        data_collator=collator(processor) if collator else None,
    )
    batch = next(iter(trainer.get_train_dataloader()))
    trainer.train()
    with torch.no_grad():
        return trainer.state.log_history[0]["loss"], load()[0].eval()(**batch).loss.item()


@pytest.mark.parametrize("form", ["messages", "completions"])
def test_images_are_learned_from(tmp_path, form):
    question = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "What is seen?"}]}]
    answer = [{"role": "assistant", "content": [{"type": "text", "text": "red circle"}]}]
    texts = {"messages": question + answer} if form == "messages" else {"prompt": question, "completion": answer}
    rows = [{"images": [Image.fromarray(frames(seed, 1)[0])], **texts} for seed in range(2)]
    logged, expected = finetune(tmp_path, rows, assistant_only_loss=form == "messages")
    assert logged == pytest.approx(expected, rel=1e-4)


def test_audio_that_is_lost_is_told(tmp_path, audio):
    with pytest.raises(ValueError, match=r"placeholders of \['audio'\] but no media .*TRL's do of images alone"):
        finetune(tmp_path, [{"messages": [*prompt(audio, "audio"), ANSWER]}] * 2)


def test_our_collator_brings_the_audio(tmp_path, audio):
    rows = [{"messages": [*prompt(audio, "audio"), ANSWER]}] * 2
    options = {"dataset_kwargs": {"skip_prepare_dataset": True}, "remove_unused_columns": False}
    logged, expected = finetune(tmp_path, rows, OmniVinciDataCollator, **options)
    assert logged == pytest.approx(expected, rel=1e-4)


def reinforce(tmp_path, rows):
    model, processor = load()
    trainer = trl.GRPOTrainer(
        model,
        reward_funcs=lambda completions, **_: [float(number) for number in range(len(completions))],
        args=trl.GRPOConfig(str(tmp_path), num_generations=2, max_completion_length=4, **OPTIONS),
        train_dataset=datasets.Dataset.from_list(rows),
        processing_class=processor,
    )
    trainer.train()


def test_reinforcement_sees_images_and_tells_that_audio_is_lost(tmp_path, audio):
    words = [{"role": "user", "content": "What is seen?"}]
    reinforce(tmp_path, [{"image": Image.fromarray(frames(seed, 1)[0]), "prompt": words} for seed in range(2)])
    with pytest.raises(ValueError, match=r"placeholders of \['audio'\]"):
        reinforce(tmp_path, [{"prompt": prompt(audio, "audio")}] * 2)
