"""A checkpoint with the original one's sizes that takes no room: its weight files have headers, and holes for data.

`python -m tests.support.sparse_checkpoint CHECKPOINT FOLDER` writes it, with what a tiny CHECKPOINT has beside weights
and sizes.
"""

import json
import math
import shutil
import struct
import sys
from pathlib import Path

import torch

from omnivinci_hf import OmniVinciConfig, OmniVinciForConditionalGeneration


# what names of tensors begin with here -> folder, and what they begin with in the original layout
PREFIXES = {
    "model.language_model.": ("llm", "model."),
    "lm_head.": ("llm", "lm_head."),
    "model.vision_tower.": ("vision_tower", "vision_tower.vision_model."),
    "model.audio_tower.": ("sound_tower", ""),
    "model.vision_projector.norm.": ("mm_projector", "layers.1."),
    "model.vision_projector.linear_1.": ("mm_projector", "layers.2."),
    "model.vision_projector.linear_2.": ("mm_projector", "layers.4."),
    "model.audio_projector.linear_1.": ("sound_mm_projector", "layers.0."),
    "model.audio_projector.linear_2.": ("sound_mm_projector", "layers.2."),
}
SIZES = {"llm": "text_config", "vision_tower": "vision_config", "sound_tower": "audio_config"}
SHARD = 5 * 10**9


def write_sparse_checkpoint(checkpoint: Path, folder: Path) -> int:
    """Writes the checkpoint and returns the bytes that its weights would have."""
    config = OmniVinciConfig()
    with torch.device("meta"):
        shapes = {name: list(one.shape) for name, one in OmniVinciForConditionalGeneration(config).state_dict().items()}
    shutil.copytree(checkpoint, folder, ignore=shutil.ignore_patterns("*.safetensors"))
    main = json.loads((folder / "config.json").read_text())
    for name, part in SIZES.items():
        path = folder / name / "config.json"
        sizes = getattr(config, part).to_dict()
        sizes.setdefault("num_hidden_layers", sizes.get("encoder_layers"))
        known = json.loads(path.read_text())
        path.write_text(json.dumps({key: sizes.get(key, value) for key, value in known.items()}))
    side = config.vision_config.image_size
    main.update(s2_scales=f"{side},{2 * side},{3 * side}", torch_dtype="bfloat16", model_dtype="torch.bfloat16")
    for encoder in ("video_encoder", "sound_encoder"):
        main[encoder]["trope_dim"] = 128
    (folder / "config.json").write_text(json.dumps(main))
    parts: dict[str, dict[str, list[int]]] = {}
    for name, shape in shapes.items():
        prefix = next(prefix for prefix in PREFIXES if name.startswith(prefix))
        component, original = PREFIXES[prefix]
        parts.setdefault(component, {})[original + name.removeprefix(prefix)] = shape
    return sum(_write_shards(folder / component, tensors) for component, tensors in parts.items())


def _write_shards(folder: Path, tensors: dict[str, list[int]]) -> int:
    shards, size = [{}], 0
    for name, shape in tensors.items():
        num_bytes = 2 * math.prod(shape)
        if size + num_bytes > SHARD:
            shards.append({})
            size = 0
        shards[-1][name] = shape
        size += num_bytes
    if len(shards) == 1:
        return write_sparse_file(folder / "model.safetensors", tensors)
    names = [f"model-{number:05}-of-{len(shards):05}.safetensors" for number in range(1, len(shards) + 1)]
    weight_map = {tensor: name for name, shard in zip(names, shards, strict=True) for tensor in shard}
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
    return sum(write_sparse_file(folder / name, shard) for name, shard in zip(names, shards, strict=True))


def write_sparse_file(path: Path, tensors: dict[str, list[int]]) -> int:
    """Writes a file of bfloat16 tensors that are all zeros, and returns the bytes of these."""
    header, end = {"__metadata__": {"format": "pt"}}, 0
    for name, shape in tensors.items():
        start, end = end, end + 2 * math.prod(shape)
        header[name] = {"dtype": "BF16", "shape": shape, "data_offsets": [start, end]}
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with open(path, "wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        file.truncate(8 + len(text) + end)
    return end


if __name__ == "__main__":
    print(write_sparse_checkpoint(Path(sys.argv[1]), Path(sys.argv[2])))
