"""This module builds the small model: OmniVinci in 1.9 million parameters, for the made-up world."""

import math
from typing import Any

import torch
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers
from torch import nn
from transformers import PreTrainedTokenizerFast

from ..omnivinci.configuration_omnivinci import OmniVinciConfig
from ..omnivinci.modeling_omnivinci import OmniVinciForConditionalGeneration
from ..omnivinci.processing_omnivinci import OmniVinciProcessor
from . import vocabulary


IMAGE_SIZE, FPS = 56, 2.0
SAMPLING_RATE = 16000
WINDOW_SEC = 2  # of sound, read at once
MERGED_EMBEDS = 5  # adjacent embeddings of sound that are joined: 5 remain of a second
OMNI_ALIGN = {"embed_dim": 64, "num_attention_heads": 2, "num_layers": 3}
PAD, UNKNOWN, START, END = "<|endoftext|>", "<unk>", "<|im_start|>", "<|im_end|>"
MEDIA_TOKENS = ("<image>", "<vila/video>", "<sound>")
PROMPT_WORDS = ("system", "user", "assistant", "You", "are", "a", "helpful", "\n")


def build_tokenizer() -> PreTrainedTokenizerFast:
    """Builds a tokenizer with one token for each word and sign of the world."""
    words = [PAD, UNKNOWN, START, END, *MEDIA_TOKENS, *sorted({*PROMPT_WORDS, *vocabulary()})]
    tokenizer = Tokenizer(models.WordLevel({word: number for number, word in enumerate(words)}, UNKNOWN))
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(r" +"), behavior="removed"),
            pre_tokenizers.Split(Regex(r"\n|[^\w\s]"), behavior="isolated"),
        ]
    )
    # words are put apart by spaces, signs stand behind them
    tokenizer.decoder = decoders.WordPiece(cleanup=True)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token=PAD,
        unk_token=UNKNOWN,
        eos_token=END,
        additional_special_tokens=[START, *MEDIA_TOKENS],
        padding_side="left",
        model_max_length=1024,
    )


def build_config(tokenizer: PreTrainedTokenizerFast, **options: Any) -> OmniVinciConfig:
    """Builds the configuration.

    Args:
        options: those of [`OmniVinciConfig`] that differ: other time embeddings, no time groups, no OmniAlignNet.
    """
    image, video, audio = (tokenizer.convert_tokens_to_ids(token) for token in MEDIA_TOKENS)
    pad, end = tokenizer.pad_token_id, tokenizer.eos_token_id
    values = {
        "vision_config": {
            "hidden_size": 96,
            "intermediate_size": 288,
            "num_hidden_layers": 2,
            "num_attention_heads": 3,
            "image_size": IMAGE_SIZE,
            "patch_size": 14,
            "vision_use_head": False,
        },
        "audio_config": {
            "model_type": "qwen2_audio_encoder",
            "d_model": 96,
            "encoder_layers": 2,
            "encoder_attention_heads": 3,
            "encoder_ffn_dim": 288,
            "num_mel_bins": 64,
            "max_source_positions": 50 * WINDOW_SEC,
        },
        "text_config": {
            "vocab_size": len(tokenizer),
            "hidden_size": 128,
            "intermediate_size": 384,
            "num_hidden_layers": 4,
            "num_attention_heads": 4,
            "num_key_value_heads": 4,
            "max_position_embeddings": 1024,
            "pad_token_id": pad,
            "bos_token_id": pad,
            "eos_token_id": end,
        },
        "image_token_id": image,
        "video_token_id": video,
        "audio_token_id": audio,
        "vision_feature_layer": -1,
        "s2_scales": [IMAGE_SIZE],
        "audio_merge_size": MERGED_EMBEDS,
        "group_duration_sec": 1.0,
        # periods from 4 s to beyond the longest clip
        "video_time_embedding": {"type": "crte", "max_time": 4.0, "theta": 8.0},
        "audio_time_embedding": {"type": "crte", "max_time": 4.0, "theta": 8.0},
        "omni_align_config": OMNI_ALIGN,
    }
    return OmniVinciConfig(**{**values, **options})


def build_processor(config: OmniVinciConfig, tokenizer: PreTrainedTokenizerFast) -> OmniVinciProcessor:
    """Builds the processor that reads clips for the small model."""
    return OmniVinciProcessor.from_model_config(
        config, tokenizer, fps=FPS, num_frames=None, chunk_length=WINDOW_SEC, sampling_rate=SAMPLING_RATE
    )


def build_model(config: OmniVinciConfig, seed: int = 0) -> OmniVinciForConditionalGeneration:
    """Builds the model with random weights, scaled by the width of each layer.

    A small model needs that: with Transformers' 0.02 it learns half as fast.
    """
    torch.manual_seed(seed)
    model = OmniVinciForConditionalGeneration(config)
    base = model.model
    for part in (base.vision_tower, base.audio_tower, base.vision_projector, base.audio_projector, base.language_model):
        _scale_by_width(part)
    # words, and learned times, as large as what is seen and heard
    tables = [getattr(part, "table", None) for part in (base.video_time_embedding, base.audio_time_embedding)]
    for table in (base.language_model.embed_tokens, *filter(None, tables)):
        nn.init.normal_(table.weight)
    model.generation_config.update(
        pad_token_id=config.get_text_config().pad_token_id, do_sample=False, max_new_tokens=48
    )
    return model


@torch.no_grad()
def _scale_by_width(part: nn.Module) -> None:
    for module in part.modules():
        if isinstance(module, (nn.Linear, nn.Conv1d, nn.Conv2d)):
            module.weight.normal_(std=1 / math.sqrt(module.weight[0].numel()))
