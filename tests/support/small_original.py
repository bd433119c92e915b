"""This module writes the small checkpoint in the original layout, as far as that can hold it."""

import json
from pathlib import Path

from safetensors.torch import load_file, save_file

from omnivinci_hf.original_layout.config import COMPONENTS
from omnivinci_hf.original_layout.weights import new_name
from omnivinci_hf.small import small_checkpoint
from omnivinci_hf.testing import write_tiny_checkpoint


SAME_NAME = ("num_hidden_layers", "num_attention_heads", "hidden_size", "intermediate_size")
TEXT_NAMES = (*SAME_NAME, "num_key_value_heads")
VISION_NAMES = (*SAME_NAME, "image_size", "patch_size", "vision_use_head")
AUDIO_NAMES = ("d_model", "encoder_attention_heads", "encoder_ffn_dim", "encoder_layers", "num_mel_bins")
MAIN_CONFIG = {
    "dynamic_s2": False,
    "s2_scales": "56",
    "image_aspect_ratio": "resize",
    "mm_vision_select_layer": -1,
    "interleaved_video_segment_duration": 1,
}


def write_small_original(folder: Path) -> Path:
    """Writes the sizes and the trained weights of the small checkpoint in the original layout.

    That layout has no CRTE, no projector for five steps of audio, and no tokenizer of whole words: its own time
    embedding, a random projector and the tokenizer of tiny checkpoints stand in, with random embeddings for the words
    that are more, and windows of 30 seconds. So the answers are others.
    """
    source = small_checkpoint()
    config = json.loads((source / "config.json").read_text(encoding="utf-8"))
    text, vision, audio = (
        {name: config[f"{part}_config"][name] for name in names}
        for part, names in (("text", TEXT_NAMES), ("vision", VISION_NAMES), ("audio", AUDIO_NAMES))
    )
    text["rope_theta"] = config["text_config"]["rope_parameters"]["rope_theta"]
    write_tiny_checkpoint(folder, llm=text, vision_tower=vision, sound_tower=audio, config=MAIN_CONFIG)
    trained = load_file(source / "model.safetensors")
    for component in COMPONENTS:
        file = folder / component / "model.safetensors"
        tensors = load_file(file)
        for name, tensor in tensors.items():
            values = trained[new_name(f"{component}/{name}")]
            if values.shape[1:] == tensor.shape[1:]:
                tensor[: len(values)] = values
        save_file(tensors, file, {"format": "pt"})
    return folder
