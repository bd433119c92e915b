"""A tiny released-layout model, its processor, and rows with every kind of medium."""

import numpy as np
import torch
from goldens import SMALL

from omnivinci_hf import OmniVinciForConditionalGeneration, OmniVinciProcessor


FOLDER = SMALL / "checkpoint"
ALIGN = {"embed_dim": 16, "num_attention_heads": 2, "intermediate_size": 32}
RATE = 16000


def load(**options) -> tuple[OmniVinciForConditionalGeneration, OmniVinciProcessor]:
    torch.manual_seed(0)
    model = OmniVinciForConditionalGeneration.from_pretrained(FOLDER, dtype=torch.float32, **options)
    return model, OmniVinciProcessor.from_pretrained(FOLDER, num_frames=2)


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


def row(kind: str | None = None, seed: int = 0, question: str = "What is it?", answer: str = "A dog") -> dict:
    """`kind` is None for words alone, "image", "audio", "video" (with sound) or "silent" (a video without)."""
    content = [] if kind is None else [part(kind, seed)]
    content.append({"type": "text", "text": question})
    messages = [{"role": "user", "content": content}, {"role": "assistant", "content": answer}]
    return {"id": f"{kind}-{seed}", "messages": messages}


def branched(kind: str | None, pairs: list[tuple[str, str]], seed: int = 0) -> dict:
    rows = [row(kind, seed, question, answer) for question, answer in pairs]
    return {"id": f"{kind}-{seed}", "conversations": [one["messages"] for one in rows]}
