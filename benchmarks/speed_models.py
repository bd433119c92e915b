"""Models of chosen sizes with random weights, their bare parts, and how much work they are; for `model_speed.py`."""

import copy
import math

import torch
from torch import nn
from train_memory import build_inputs
from transformers import Qwen2AudioEncoder, Qwen2ForCausalLM, SiglipVisionModel
from transformers.initialization import no_init_weights

from omnivinci_hf import OmniVinciConfig, OmniVinciForConditionalGeneration


IDS = {"image_token_id": 3, "video_token_id": 4, "audio_token_id": 5}
ORIGINAL_TIME = {"type": "pixel_periodic", "dim": 128, "max_time": 3600.0}
SIZES = {
    # nothing but overhead: to try the script out, and to see what calls cost
    "tiny": {
        "vision_config": {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 3, "image_size": 56},
        "audio_config": {"d_model": 64, "encoder_layers": 2, "encoder_attention_heads": 2, "encoder_ffn_dim": 128},
        "text_config": {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "vocab_size": 1000},
    },
    # of the real shapes, narrow and shallow: for what takes many frames or minutes of sound
    "slim": {
        "vision_config": {"hidden_size": 384, "intermediate_size": 1536, "num_hidden_layers": 5, "image_size": 224},
        "audio_config": {"d_model": 384, "encoder_layers": 4, "encoder_attention_heads": 6, "encoder_ffn_dim": 1536},
        "text_config": {"hidden_size": 512, "intermediate_size": 2048, "num_hidden_layers": 4, "vocab_size": 2000},
    },
    # about 0.9 B: so400m's width and half its depth at 224 px, Qwen2-Audio's width and a quarter of its depth, and
    # Qwen2.5-0.5B
    "1b": {
        "vision_config": {"hidden_size": 1152, "intermediate_size": 4304, "num_hidden_layers": 14, "image_size": 224},
        "audio_config": {"d_model": 1280, "encoder_layers": 8, "encoder_attention_heads": 20, "encoder_ffn_dim": 5120},
        "text_config": {
            "hidden_size": 896,
            "intermediate_size": 4864,
            "num_hidden_layers": 24,
            "num_attention_heads": 14,
            "num_key_value_heads": 2,
            "vocab_size": 151936,
            "tie_word_embeddings": True,
        },
    },
    # the original one: so400m at 448 px, Qwen2-Audio's encoder, Qwen2.5-7B, its kind of time embedding
    "real": {"video_time_embedding": ORIGINAL_TIME, "audio_time_embedding": ORIGINAL_TIME},
}


def build_config(size: str, image_size: int | None = None, **options) -> OmniVinciConfig:
    parts = copy.deepcopy(SIZES[size])
    if size != "real":
        parts["vision_config"] |= {"patch_size": 14, "vision_use_head": False}
        parts["vision_config"].setdefault("num_attention_heads", 16 if size == "1b" else 2 if size == "tiny" else 6)
        heads = {"num_attention_heads": 8, "num_key_value_heads": 2}
        parts["text_config"] = {**heads, "max_position_embeddings": 2**18, "pad_token_id": 0, **parts["text_config"]}
        parts |= IDS
    if image_size is not None:
        vision = OmniVinciConfig(**parts).vision_config
        vision.image_size = image_size
        parts["vision_config"] = vision
    return OmniVinciConfig(**parts, **options)


def build_model(config: OmniVinciConfig, device: str, dtype: torch.dtype) -> OmniVinciForConditionalGeneration:
    """Weights are one block of random numbers over and over: as fast as memory is written."""
    with no_init_weights(), torch.device(device):
        model = OmniVinciForConditionalGeneration._from_config(config, dtype=dtype)
    model.tie_weights()
    block = 0.02 * torch.randn(2**20, device=device).to(dtype)
    with torch.no_grad():
        for parameter in model.parameters():
            for part in parameter.view(-1).split(len(block)):
                part.copy_(block[: len(part)])
        for module in model.modules():
            if "Norm" in type(module).__name__ and hasattr(module, "weight"):
                module.weight.fill_(1)
    model.generation_config.update(pad_token_id=0, eos_token_id=None, do_sample=False)
    return model.eval()


class Parts(nn.Module):
    """SigLIP, the audio encoder and the language model alone: Transformers' own classes on the same weights."""

    def __init__(self, model: OmniVinciForConditionalGeneration):
        super().__init__()
        vision, audio = model.model.vision_tower, model.model.audio_tower
        config = copy.deepcopy(model.config.vision_config)
        config.num_hidden_layers = vision.num_layers
        with torch.device("meta"):
            self.vision = SiglipVisionModel._from_config(config)
            self.audio = Qwen2AudioEncoder._from_config(copy.deepcopy(model.config.audio_config))
            self.text = Qwen2ForCausalLM._from_config(copy.deepcopy(model.config.text_config))
        self.vision.embeddings, self.vision.post_layernorm = vision.embeddings, vision.post_layernorm
        self.vision.encoder.layers = vision.encoder.layers[: vision.num_layers]
        for name, module in audio.named_children():
            setattr(self.audio, name, module)
        self.text.model, self.text.lm_head = model.model.language_model, model.lm_head
        self.text.generation_config.update(**model.generation_config.to_diff_dict())
        self.eval()


def prompt(
    config: OmniVinciConfig, num_frames: int, audio_sec: float, device: str, words: int = 32, rows: int = 1
) -> dict[str, torch.Tensor | None]:
    """Inputs of a model: a video, a sound and words in each row, without labels."""
    inputs = build_inputs(config, rows, num_frames, audio_sec, words)
    return {name: value.to(device) for name, value in inputs.items() if isinstance(value, torch.Tensor)} | {
        "labels": None
    }


def layer_parameters(part: nn.Module) -> int:
    """Counts parameters of products and convolutions, which run at every position."""
    return sum(module.weight.numel() for module in part.modules() if isinstance(module, (nn.Linear, nn.Conv2d)))


def flops(parts: Parts, num_frames: int, num_windows: int, length: int) -> dict[str, float]:
    """Counts floating-point operations of each part: two for each weight and position, and those of attention."""
    vision, audio, text = parts.vision.config, parts.audio.config, parts.text.model.config
    patches = (vision.image_size // vision.patch_size) ** 2
    steps = audio.max_source_positions
    return {
        "SigLIP": num_frames
        * (
            2 * patches * layer_parameters(parts.vision)
            + 4 * patches**2 * vision.hidden_size * vision.num_hidden_layers
        ),
        "audio encoder": num_windows
        * (
            2 * steps * (layer_parameters(parts.audio) + parts.audio.conv2.weight.numel())
            + 2 * 2 * steps * parts.audio.conv1.weight.numel()
            + 4 * steps**2 * audio.d_model * audio.encoder_layers
        ),
        # half of the attention, for it is causal
        "Qwen2": 2 * length * layer_parameters(parts.text.model)
        + 2 * length**2 * text.hidden_size * text.num_hidden_layers,
    }


def original_cost(num_frames: int, audio_sec: float) -> tuple[int, float, float]:
    """Computes for the original model: embeddings, GB of the cache in bfloat16, 1e12 operations of a prefill."""
    config = OmniVinciConfig()
    with torch.device("meta"):
        parts = Parts(OmniVinciForConditionalGeneration(config))
    side = config.vision_config.image_size // config.vision_config.patch_size // config.spatial_merge_size
    num_windows = math.ceil(audio_sec * 100 / config.audio_window_frames)
    length = num_frames * side**2 + num_windows * config.audio_window_embeds
    text = config.text_config
    width = text.num_key_value_heads * text.hidden_size // text.num_attention_heads
    cache = 2 * 2 * length * text.num_hidden_layers * width
    return length, cache / 1e9, sum(flops(parts, num_frames, num_windows, length).values()) / 1e12
