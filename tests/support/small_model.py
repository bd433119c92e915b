"""This module builds a model of two layers a part, and inputs for it: an image, two frames and audio in each row."""

import torch

from omnivinci_hf import OmniVinciConfig, OmniVinciForConditionalGeneration
from omnivinci_hf.omnivinci.configuration_omnivinci import AUDIO_ENCODERS


IMAGE, VIDEO, AUDIO = 3, 4, 5  # placeholder ids
# 2 words, 4 embeddings of the image, 2 words, 2 x 4 of the video, 10 of the sound, 3 words
LENGTH = 29


def small_config(audio: str = "qwen2_audio_encoder", **options) -> OmniVinciConfig:
    text = {
        "vocab_size": 99,
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 256,
        "pad_token_id": 0,
        "bos_token_id": 1,
        "eos_token_id": 2,
    }
    vision = {
        "hidden_size": 32,
        "intermediate_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "image_size": 16,
        "patch_size": 4,
        "vision_use_head": False,
    }
    return OmniVinciConfig(
        **{
            "text_config": {**text, **options.pop("text_config", {})},
            "vision_config": {**vision, **options.pop("vision_config", {})},
            "audio_config": {
                "model_type": audio,
                "num_mel_bins": 16,
                "max_source_positions": 20,
                "hidden_size": 32,
                "num_hidden_layers": 2,
                "num_attention_heads": 2,
                "intermediate_size": 32,
                **AUDIO_ENCODERS[audio].small_settings,
            },
            "image_token_id": IMAGE,
            "video_token_id": VIDEO,
            "audio_token_id": AUDIO,
            # ten times the usual, so that a random model has opinions
            "initializer_range": 0.2,
            **options,
        }
    )


def small_model(audio: str = "qwen2_audio_encoder", **options) -> OmniVinciForConditionalGeneration:
    torch.manual_seed(0)
    model = OmniVinciForConditionalGeneration(small_config(audio, **options)).eval()
    # an untrained model would end at once, or speak in placeholders
    model.generation_config.update(suppress_tokens=[0, 1, 2, IMAGE, VIDEO, AUDIO], eos_token_id=None, pad_token_id=0)
    return model


def small_inputs(rows: int = 3, seed: int = 0) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    words = torch.randint(6, 99, (rows, 7), generator=generator)

    def pixels(count):
        return torch.rand(count, 3, 16, 16, generator=generator)

    ids = torch.cat(
        (
            words[:, :2],
            torch.full((rows, 4), IMAGE),
            words[:, 2:4],
            torch.full((rows, 8), VIDEO),
            torch.full((rows, 10), AUDIO),
            words[:, 4:],
        ),
        dim=1,
    )
    return {
        "input_ids": ids,
        "attention_mask": torch.ones_like(ids),
        "pixel_values": pixels(rows),
        "image_grids": torch.zeros(rows, 2, dtype=torch.long),
        "pixel_values_videos": pixels(2 * rows),
        "video_num_frames": torch.full((rows,), 2),
        "video_frame_times_ns": torch.tensor([0, 1_000_000_000] * rows),
        "input_features": torch.randn(rows, 16, 40, generator=generator),
        "audio_num_windows": torch.ones(rows, dtype=torch.long),
        "audio_durations_ns": torch.full((rows,), 400_000_000),
        "audio_num_embeds": torch.full((rows,), 10),
    }


def row(inputs: dict[str, torch.Tensor], index: int) -> dict[str, torch.Tensor]:
    """One row of `small_inputs`, with its media."""
    rows = len(inputs["input_ids"])
    return {name: value.chunk(rows)[index] for name, value in inputs.items()}


def padded_left(inputs: dict[str, torch.Tensor], count: int) -> dict[str, torch.Tensor]:
    ids, mask = inputs["input_ids"], inputs["attention_mask"]
    padding = torch.zeros(len(ids), count, dtype=torch.long)
    return {
        **inputs,
        "input_ids": torch.cat((padding, ids), dim=1),
        "attention_mask": torch.cat((padding, mask), dim=1),
    }
