"""This module holds the towers, which encode pictures and audio, and the projectors to the language model's width.

Between the two, feature maps are pooled over frames, and the tiles of an image are joined.
"""

import math
from collections.abc import Iterator

import torch
import torch.nn.functional as F
from accelerate.utils import align_module_device, has_offloaded_params
from torch import nn
from transformers import AudioFlamingo3Encoder, Qwen2AudioEncoder, SiglipVisionModel
from transformers import initialization as init
from transformers.activations import ACT2FN
from transformers.modeling_outputs import BaseModelOutput
from transformers.models.qwen2_5_omni.modeling_qwen2_5_omni import Qwen2_5OmniAudioEncoder
from transformers.utils.output_capturing import capture_outputs

from .configuration_omnivinci import AUDIO_ENCODERS, OmniVinciConfig


class OmniVinciVisionTower(SiglipVisionModel):
    """The vision tower is SigLIP up to the layer whose output is used; later layers are kept but not run."""

    def __init__(self, config, num_layers: int | None = None):
        super().__init__(config)
        self.num_layers = config.num_hidden_layers if num_layers is None else num_layers
        self.freeze_unused()

    def freeze_unused(self) -> None:
        """Keeps what is never run from being trained, which would only stall distributed training."""
        for unused in (*self.encoder.layers[self.num_layers :], self.post_layernorm, getattr(self, "head", None)):
            if unused is not None:
                unused.requires_grad_(False)

    @capture_outputs(tie_last_hidden_states=False)
    def forward(self, pixel_values: torch.Tensor, **kwargs) -> BaseModelOutput:
        """Turns `(num_tiles, 3, size, size)` into `last_hidden_state (num_tiles, patches, hidden_size)`.

        There is no final layer norm. Where hidden states or attentions are asked for, the layers after it run too and
        are returned with them.
        """
        flags = ("output_hidden_states", "output_attentions")
        record = any(kwargs.get(flag, getattr(self.config, flag, False)) for flag in flags)
        hidden_states = features = self.embeddings(pixel_values)
        for number, layer in enumerate(self.encoder.layers if record else self.encoder.layers[: self.num_layers], 1):
            hidden_states = layer(hidden_states, attention_mask=None)
            if number == self.num_layers:
                features = hidden_states
        return BaseModelOutput(last_hidden_state=features)


class _SinusoidPositions:
    """This mixin freezes position tables and makes fresh ones Whisper's sinusoids; Transformers leaves them random."""

    conv1: nn.Conv1d
    embed_positions: nn.Embedding

    def freeze_unused(self) -> None:
        """Keeps the position table from being trained."""
        self.embed_positions.requires_grad_(False)

    def forward(self, *args, **kwargs):
        """Runs the encoder; weights that were offloaded and that it reads without a call are fetched for it."""
        if not (has_offloaded_params(self.conv1) or has_offloaded_params(self.embed_positions)):
            return super().forward(*args, **kwargs)
        # both are read without being called, so the hooks that fetch what was offloaded would not notice
        with align_module_device(self.conv1), align_module_device(self.embed_positions):
            return super().forward(*args, **kwargs)

    def _init_weights(self, module):
        super()._init_weights(module)
        if isinstance(module, nn.Embedding):
            init.copy_(module.weight, _sinusoids(*module.weight.shape).to(module.weight))


class OmniVinciQwen2AudioTower(_SinusoidPositions, Qwen2AudioEncoder):
    """This is the tower of a `qwen2_audio_encoder`, as the original checkpoint has it.

    Like the other towers it turns `input_features (windows, mel_bins, frames)` into `last_hidden_state (windows,
    frames / 4, channels)`.
    """


class OmniVinciAudioFlamingo3Tower(_SinusoidPositions, AudioFlamingo3Encoder):
    """This is the tower of an `audioflamingo3_encoder`; nothing is masked, as in the original code."""

    def forward(self, input_features: torch.Tensor, **kwargs):
        """Turns `(windows, mel_bins, frames)` into `last_hidden_state (windows, frames / 4, channels)`."""
        num_windows, _, frames = input_features.shape
        mask = torch.ones(num_windows, frames, dtype=torch.long, device=input_features.device)
        return super().forward(input_features, input_features_mask=mask, **kwargs)


class OmniVinciQwen2_5OmniAudioTower(Qwen2_5OmniAudioEncoder):
    """This is the tower of a `qwen2_5_omni_audio_encoder`, which reads all windows in one sequence."""

    def __init__(self, config):
        super().__init__(config)
        self.freeze_unused()

    def freeze_unused(self) -> None:
        """Keeps the marks of windows from being trained."""
        self.audio_bos_eos_token.requires_grad_(False)  # never run

    def forward(self, input_features: torch.Tensor, **kwargs):
        """Turns `(windows, mel_bins, frames)` into `last_hidden_state (windows, frames / 4, channels)`."""
        num_windows, _, frames = input_features.shape
        lengths = torch.full((num_windows,), frames, device=input_features.device)
        flat = input_features.transpose(0, 1).flatten(1)  # (mel_bins, windows * frames)
        output = super().forward(flat, feature_lens=lengths, **kwargs)
        output.last_hidden_state = output.last_hidden_state.unflatten(0, (num_windows, -1))
        return output


# the class of each audio encoder, by the `model_type` of its configuration
AUDIO_TOWERS = {name: globals()[entry.tower] for name, entry in AUDIO_ENCODERS.items()}


class OmniVinciVisionProjector(nn.Module):
    """This projector joins squares of patches on channels (row offset, column offset, channel) and projects them."""

    def __init__(self, config: OmniVinciConfig):
        super().__init__()
        self.merge = config.spatial_merge_size
        merged_size, hidden_size = config.vision_feature_size * self.merge**2, config.text_config.hidden_size
        self.norm = nn.LayerNorm(merged_size)
        self.linear_1 = nn.Linear(merged_size, hidden_size)
        self.act = ACT2FN["gelu"]
        self.linear_2 = nn.Linear(hidden_size, hidden_size)

    def forward(self, maps: torch.Tensor) -> torch.Tensor:
        """Turns `(tiles, height, width, channels)` into `(tiles, height / merge, width / merge, hidden_size)`."""
        height, width = maps.shape[1:3]
        maps = F.pad(maps, (0, 0, 0, -width % self.merge, 0, -height % self.merge))
        maps = maps.unflatten(2, (-1, self.merge)).unflatten(1, (-1, self.merge))
        rows = maps.shape[1]
        merged = maps.transpose(2, 3).flatten(3).flatten(1, 2)  # (tiles, rows * columns, merge * merge * channels)
        merged = merged.to(_dtype(self, merged))
        return self.linear_2(self.act(self.linear_1(self.norm(merged)))).unflatten(1, (rows, -1))


class OmniVinciAudioProjector(nn.Module):
    """This projector joins `audio_merge_size` adjacent embeddings on channels and projects them."""

    def __init__(self, config: OmniVinciConfig):
        super().__init__()
        self.merge = config.audio_merge_size
        hidden_size = config.text_config.hidden_size
        self.linear_1 = nn.Linear(config.audio_feature_size * self.merge, hidden_size)
        self.act = ACT2FN["gelu"]
        self.linear_2 = nn.Linear(hidden_size, hidden_size)

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        """Turns `(windows, embeds, channels)` into `(windows, embeds / merge, hidden_size)`."""
        hidden_states = hidden_states.unflatten(1, (-1, self.merge)).flatten(2)
        hidden_states = hidden_states.to(_dtype(self, hidden_states))
        return self.linear_2(self.act(self.linear_1(hidden_states)))


def _dtype(projector: nn.Module, features: torch.Tensor) -> torch.dtype:
    """Returns the dtype that a projector computes in: that of its weights, or of the features if it is quantized."""
    return next((weight.dtype for weight in projector.parameters() if weight.is_floating_point()), features.dtype)


def pool_frames(maps: torch.Tensor, times: torch.Tensor, size: list[int]) -> tuple[torch.Tensor, torch.Tensor]:
    """Pools the feature maps of frames by their mean: over frames, then rows, then columns, as the original code does.

    A length that is not a multiple of its window is filled up with one number: the mean of all elements of the
    remainder, over all channels and positions.

    Args:
        maps `(frames, height, width, channels)`: feature maps of the frames.
        times `(frames,)`: their moments in seconds.
        size: frames, rows and columns that become one.

    Returns:
        The maps and times, with each pooled dimension divided by its entry of `size` and rounded up.
    """
    for dim, window in enumerate(size):
        if window == 1:
            continue
        if rest := maps.shape[dim] % window:
            shape = list(maps.shape)
            shape[dim] = window - rest
            tail = maps.narrow(dim, maps.shape[dim] - rest, rest)
            maps = torch.cat((maps, tail.mean().expand(shape)), dim)
        maps = maps.unflatten(dim, (-1, window)).mean(dim + 1)
        if dim == 0:
            if rest:
                times = torch.cat((times, times[-rest:].mean().expand(window - rest)))
            times = times.unflatten(0, (-1, window)).mean(1)
    return maps, times


class VideoPool:
    """A video pool pools the frames of one video as `pool_frames` does, while their maps come in chunks.

    Args:
        times (`torch.Tensor` of shape `(frames,)`): moments of all frames.
        side (`int`): rows and columns of the maps.
        size (`list[int]`): of the pooling windows.
    """

    def __init__(self, times: torch.Tensor, side: int, size: list[int]):
        self.times, self.size = times, size
        self.shape = math.ceil(len(times) / size[0]), math.ceil(side / size[1]) * math.ceil(side / size[2])
        # the number that fills up rows or columns is a mean over all frames
        self.at_once = len(times) if side % size[1] or side % size[2] else size[0]
        self.waiting: list[torch.Tensor] = []
        self.taken = 0

    def add(self, maps: torch.Tensor) -> Iterator[tuple[int, torch.Tensor, torch.Tensor]]:
        """Takes the next maps `(frames, height, width, channels)` and yields what is complete.

        That is the number of its first step, the pooled maps and their times.
        """
        self.waiting.append(maps)
        there = sum(len(part) for part in self.waiting)
        is_last = self.taken + there == len(self.times)
        if not is_last:
            there -= there % self.at_once
        if there:
            frames = torch.cat(self.waiting) if len(self.waiting) > 1 else maps
            times = self.times[self.taken : self.taken + there].to(maps.device)
            self.waiting = [] if is_last or there == len(frames) else [frames[there:]]
            first, self.taken = self.taken // self.size[0], self.taken + there
            yield first, *pool_frames(frames[:there], times, self.size)


def stitch(tiles: torch.Tensor, rows: int, columns: int) -> torch.Tensor:
    """Joins tiles `(rows * columns, side, side, channels)`, by rows, to `(rows * side, columns * side, channels)`."""
    return tiles.unflatten(0, (rows, columns)).transpose(1, 2).flatten(2, 3).flatten(0, 1)


def merge_scales(tiles: torch.Tensor, grids: list[tuple[int, int]], shape: tuple[int, int]) -> torch.Tensor:
    """Stitches each scale's tiles, brings all maps to one size, joins them on channels, cuts them into tiles again.

    This is Dynamic-S2; `tiles (num_tiles, side, side, channels)` of all `grids`, in order, become `(rows * columns of
    shape, side, side, channels * scales)`.
    """
    maps, first, side = [], 0, tiles.shape[1]
    for rows, columns in grids:
        scale = stitch(tiles[first : (first := first + rows * columns)], rows, columns)
        scale = scale.permute(2, 0, 1)[None].float()
        size = (shape[0] * side, shape[1] * side)
        maps.append(F.interpolate(scale, size=size, mode="area")[0].to(tiles.dtype))
    merged = torch.cat(maps).permute(1, 2, 0)  # (height, width, channels)
    merged = merged.unflatten(1, (shape[1], side)).unflatten(0, (shape[0], side))
    return merged.transpose(1, 2).flatten(0, 1)


def _sinusoids(length: int, channels: int) -> torch.Tensor:
    """Makes Whisper's position table `(length, channels)`: sines, then cosines, of periods up to 10000 * 2 pi."""
    steps = math.log(10000) / (channels // 2 - 1)
    frequencies = torch.exp(-steps * torch.arange(channels // 2))
    angles = torch.arange(length)[:, None] * frequencies
    return torch.cat((angles.sin(), angles.cos()), dim=1)
