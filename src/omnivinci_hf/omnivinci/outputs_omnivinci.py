"""What the models return."""

import warnings
from dataclasses import dataclass

import torch
from transformers.cache_utils import Cache
from transformers.modeling_outputs import (
    BaseModelOutputWithPast,
    BaseModelOutputWithPooling,
    CausalLMOutputWithPast,
    ModelOutput,
)
from transformers.utils import is_torchdynamo_compiling


# Transformers 5.24 calls `cache`, in arguments and outputs, what was `past_key_values` before
CACHE = "cache" if "cache" in BaseModelOutputWithPast.__dataclass_fields__ else "past_key_values"


def the_cache(cache: Cache | None, past_key_values: Cache | None) -> dict[str, Cache | None]:
    """The one cache that was given, under either name, as the name that this version of Transformers takes."""
    if cache is not None and past_key_values is not None:
        raise ValueError(
            f"`cache` and `past_key_values` are two names for the same: give `{CACHE}`, as this Transformers calls it."
        )
    if past_key_values is not None and CACHE == "cache" and not is_torchdynamo_compiling():
        warnings.warn(
            "`past_key_values` is deprecated from Transformers 5.24 on: use `cache`.", FutureWarning, stacklevel=2
        )
    return {CACHE: past_key_values if cache is None else cache}


@dataclass
class OmniEmbeddingsOutput(ModelOutput):
    """
    Args:
        vision_embeds (`torch.Tensor` of shape `(num_videos, embed_dim)`): unit vectors of the videos.
        audio_embeds (`torch.Tensor` of shape `(num_sounds, embed_dim)`): unit vectors of the sounds.
    """

    vision_embeds: torch.Tensor | None = None
    audio_embeds: torch.Tensor | None = None


@dataclass
class OmniVinciFeaturesOutput(BaseModelOutputWithPooling):
    """
    Args:
        projected (`tuple[torch.Tensor, ...]`): of each medium `(num_embeds, hidden_size)`, before the time embedding;
            what OmniAlignNet reads, where the model has one.
    """

    projected: tuple[torch.Tensor, ...] | None = None


@dataclass
class OmniVinciModelOutputWithPast(BaseModelOutputWithPast):
    """
    Args:
        omni_embeds ([`OmniEmbeddingsOutput`]): unit vectors of the videos that have sound and of their sounds, where
            the model has an OmniAlignNet.
    """

    omni_embeds: OmniEmbeddingsOutput | None = None


@dataclass
class OmniVinciCausalLMOutputWithPast(CausalLMOutputWithPast):
    """
    Args:
        loss (`torch.Tensor` of shape `()`): what is trained, with `labels`: the next-token loss, plus the weighted
            loss of OmniAlignNet where the model has one.
        logits (`torch.Tensor` of shape `(batch_size, seq_len, vocab_size)`).
        cache (`Cache`): `past_key_values` before Transformers 5.24.
        hidden_states, attentions: of the language model, where asked for.
        language_loss, omni_align_loss (`torch.Tensor` of shape `()`): the two parts of `loss`, the second unweighted.
    """

    language_loss: torch.Tensor | None = None
    omni_align_loss: torch.Tensor | None = None
