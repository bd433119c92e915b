"""This module builds random models that read what the processor of the golden checkpoint gives."""

import torch

from omnivinci_hf import OmniVinciConfig, OmniVinciForConditionalGeneration
from omnivinci_hf.omnivinci.configuration_omnivinci import AUDIO_ENCODERS


SMALL_PARTS = {
    "vision_config": {
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 3,
        "num_attention_heads": 2,
        "image_size": 56,
        "patch_size": 7,
    },
    "text_config": {
        "vocab_size": 480,
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
    },
    "image_token_id": 459,
    "video_token_id": 460,
    "audio_token_id": 461,
}
AUDIO_PART = {
    "num_mel_bins": 128,
    "max_source_positions": 100,
    "hidden_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 96,
}


def random_model(audio="qwen2_audio_encoder", **options):
    torch.manual_seed(0)
    audio_config = {"model_type": audio, **AUDIO_PART, **AUDIO_ENCODERS[audio].small_settings}
    config = OmniVinciConfig(**SMALL_PARTS, audio_config=audio_config, **options)
    return OmniVinciForConditionalGeneration(config).eval()
