"""This module has a very small model with its processor, rows with media of every modality, and a trainer for them."""

import numpy as np
import torch
from transformers import TrainingArguments

from omnivinci_hf import OmniVinciForConditionalGeneration, OmniVinciProcessor
from omnivinci_hf.training import OmniVinciDataCollator, OmniVinciTrainer
from omnivinci_hf.world.model import SAMPLING_RATE as RATE
from omnivinci_hf.world.model import build_config, build_processor, build_tokenizer


ALIGN = {"embed_dim": 16, "num_attention_heads": 2, "intermediate_size": 32}
SIZES = {
    "vision_config": {
        "hidden_size": 32,
        "intermediate_size": 32,
        "num_hidden_layers": 3,
        "num_attention_heads": 2,
        "image_size": 16,
        "patch_size": 4,
        "vision_use_head": False,
    },
    "audio_config": {
        "model_type": "qwen2_audio_encoder",
        "d_model": 32,
        "encoder_layers": 2,
        "encoder_attention_heads": 2,
        "encoder_ffn_dim": 32,
        "num_mel_bins": 16,
        "max_source_positions": 20,
    },
    "vision_feature_layer": -2,
    "s2_scales": [16],
    "initializer_range": 0.2,
}


def load(**options) -> tuple[OmniVinciForConditionalGeneration, OmniVinciProcessor]:
    """With random weights, the same every time."""
    tokenizer = build_tokenizer()
    text = {
        "vocab_size": len(tokenizer),
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 1024,
        "pad_token_id": tokenizer.pad_token_id,
    }
    config = build_config(tokenizer, **{"text_config": text, "omni_align_config": None, **SIZES, **options})
    torch.manual_seed(0)
    model = OmniVinciForConditionalGeneration(config)
    processor = build_processor(config, tokenizer)
    return model, processor


def frames(seed: int = 0, count: int = 4) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (count, 24, 32, 3), np.uint8)


def tone(seed: int = 0, seconds: float = 0.5) -> np.ndarray:
    pitch = 200 + 300 * seed
    return (0.3 * np.sin(2 * np.pi * pitch * np.arange(int(RATE * seconds)) / RATE)).astype(np.float32)


def part(kind: str, seed: int = 0) -> dict:
    if kind == "image":
        return {"type": "image", "image": frames(seed, 1)[0]}
    if kind == "audio":
        return {"type": "audio", "audio": tone(seed), "sampling_rate": RATE}
    video = {"type": "video", "video": frames(seed), "video_metadata": {"fps": 2.0}}
    return video if kind == "silent" else {**video, "audio": tone(seed), "sampling_rate": RATE}


def row(kind: str | None = None, seed: int = 0, question: str = "What is heard?", answer: str = "red circle") -> dict:
    """`kind` is None for words alone, "image", "audio", "video" (with audio) or "silent" (a video without)."""
    content = [] if kind is None else [part(kind, seed)]
    content.append({"type": "text", "text": question})
    messages = [{"role": "user", "content": content}, {"role": "assistant", "content": answer}]
    return {"id": f"{kind}-{seed}", "messages": messages}


def branched(kind: str | None, pairs: list[tuple[str, str]], seed: int = 0) -> dict:
    rows = [row(kind, seed, question, answer) for question, answer in pairs]
    return {"id": f"{kind}-{seed}", "conversations": [one["messages"] for one in rows]}


ROWS = [row("video", 0), row("video", 1, answer="blue star"), row("image", 2), row("audio", 3), row(None)]


def arguments(folder, **options) -> TrainingArguments:
    values = {
        "per_device_train_batch_size": len(ROWS),
        "max_steps": 1,
        "report_to": "none",
        "use_cpu": True,
        "disable_tqdm": True,
        "save_strategy": "no",
        "lr_scheduler_type": "constant",
    }
    return TrainingArguments(str(folder), **{**values, **options})


def make_trainer(model, processor, recipe, folder, rows=ROWS, **options) -> OmniVinciTrainer:
    return OmniVinciTrainer(
        model,
        arguments(folder, **options),
        recipe=recipe,
        data_collator=OmniVinciDataCollator(processor),
        train_dataset=rows,
        processing_class=processor,
    )
