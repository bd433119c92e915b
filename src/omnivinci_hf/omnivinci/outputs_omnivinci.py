"""This module declares the media tensors that the models take, and the outputs that they return."""

import warnings
from dataclasses import dataclass
from typing import TypedDict

import torch
from transformers.cache_utils import Cache
from transformers.modeling_outputs import (
    BaseModelOutputWithPast,
    BaseModelOutputWithPooling,
    CausalLMOutputWithPast,
    ModelOutput,
)
from transformers.utils import TransformersKwargs, is_torchdynamo_compiling


# Transformers 5.24 calls `cache`, in arguments and outputs, what was `past_key_values` before
CACHE = "cache" if "cache" in BaseModelOutputWithPast.__dataclass_fields__ else "past_key_values"


class OmniVinciMediaInputs(TypedDict, total=False):
    """
    These tensors of media are returned by the processor and taken by the model: flat over the batch, in order.

    Args:
        pixel_values (`torch.Tensor` of shape `(num_tiles, 3, size, size)`): tiles of all images.
        image_grids (`torch.LongTensor` of shape `(num_images, 2)`): rows and columns of the tiles of each image's
            largest scale; 0 for an image of one tile.
        pixel_values_videos (`torch.Tensor` of shape `(num_frames, 3, size, size)`): frames of all videos.
        video_num_frames (`torch.LongTensor` of shape `(num_videos,)`): how many of them each video has.
        video_frame_times_ns (`torch.LongTensor` of shape `(num_frames,)`): moments in nanoseconds.
        video_kept_embeds (`torch.BoolTensor` of shape `(embeddings of all frames,)`): which of them stand in the
            sequence; all if it is left out.
        input_features (`torch.Tensor` of shape `(num_windows, mel_bins, frames)`): windows of all audio clips.
        audio_num_windows (`torch.LongTensor` of shape `(num_audios,)`): how many of them each clip has.
        audio_durations_ns (`torch.LongTensor` of shape `(num_audios,)`): padded lengths in nanoseconds.
        audio_num_embeds (`torch.LongTensor` of shape `(num_audios,)`): how many embeddings of each clip stand in the
            sequence, from its start; all if it is left out.
    """

    pixel_values: torch.Tensor | None
    image_grids: torch.Tensor | None
    pixel_values_videos: torch.Tensor | None
    video_num_frames: torch.Tensor | None
    video_frame_times_ns: torch.Tensor | None
    video_kept_embeds: torch.Tensor | None
    input_features: torch.Tensor | None
    audio_num_windows: torch.Tensor | None
    audio_durations_ns: torch.Tensor | None
    audio_num_embeds: torch.Tensor | None


class OmniVinciPairInputs(TypedDict, total=False):
    """
    These tensors tell OmniAlignNet its pairs: clips of both picture and audio, in the same order.

    Args:
        video_has_audio (`torch.BoolTensor` of shape `(num_videos,)`): which videos have audio.
        audio_from_video (`torch.BoolTensor` of shape `(num_audios,)`): which audio clips are those of videos.
    """

    video_has_audio: torch.Tensor | None
    audio_from_video: torch.Tensor | None


class OmniVinciModelInputs(OmniVinciMediaInputs, OmniVinciPairInputs, TransformersKwargs, total=False):
    """A model takes these keyword inputs beside ids, masks and the cache."""


MEDIA_INPUTS = tuple(OmniVinciMediaInputs.__annotations__)
PAIR_INPUTS = tuple(OmniVinciPairInputs.__annotations__)


def the_cache(cache: Cache | None, past_key_values: Cache | None) -> dict[str, Cache | None]:
    """Returns the one cache that was given, under either name, by the name that this version of Transformers takes.

    Raises:
        ValueError: when both were given.
    """
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
    OmniAlignNet returns these vectors, which lie in one space.

    Args:
        vision_embeds (`torch.Tensor` of shape `(num_videos, embed_dim)`): unit vectors of the videos.
        audio_embeds (`torch.Tensor` of shape `(num_audios, embed_dim)`): unit vectors of the audio clips.
    """

    vision_embeds: torch.Tensor | None = None
    audio_embeds: torch.Tensor | None = None


@dataclass
class OmniVinciFeaturesOutput(BaseModelOutputWithPooling):
    """
    The media encoder returns these features of all media of one modality.

    Args:
        projected (`tuple[torch.Tensor, ...]`): of each medium `(num_embeds, hidden_size)`, before the time embedding;
            what OmniAlignNet reads, where the model has one.
    """

    projected: tuple[torch.Tensor, ...] | None = None


@dataclass
class OmniVinciModelOutputWithPast(BaseModelOutputWithPast):
    """
    The model without its head returns this output.

    Args:
        omni_embeds ([`OmniEmbeddingsOutput`]): unit vectors of the videos that have audio and of their audio, where
            the model has an OmniAlignNet.
    """

    omni_embeds: OmniEmbeddingsOutput | None = None


@dataclass
class OmniVinciCausalLMOutputWithPast(CausalLMOutputWithPast):
    """
    The model with its head returns this output.

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
