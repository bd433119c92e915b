"""Time embeddings: CRTE and RoTE as in the paper, a learned table, and every mode of the released code.

All modules read `embeds (steps, tokens, hidden_size)` and `times` in seconds that broadcast to `(steps, tokens)`: a
video passes `(frames, 1)` since all tokens of a frame share its moment, a sound `(1, tokens)`. Nothing is kept as a
buffer: frequencies come from Python numbers at every call, so that casting the model to half precision or building it
on the meta device cannot spoil them.
"""

import math

import torch
from torch import nn

from .configuration_omnivinci import OmniVinciTimeEmbeddingConfig


# angles of one block of steps are built at a time, to bound the memory of long videos
MAX_BLOCK_ELEMENTS = 2**24


class NoTimeEmbedding(nn.Module):
    def forward(self, embeds: torch.Tensor, times: torch.Tensor) -> torch.Tensor:
        return embeds


class LearnedTimeEmbedding(nn.Module):
    """The third alternative of the paper: a table over `[0, max_time]` seconds, linearly interpolated and added.

    Moments outside the range take the nearest row.
    """

    def __init__(self, config: OmniVinciTimeEmbeddingConfig, hidden_size: int):
        super().__init__()
        self.max_time = float(config.max_time)
        self.table = nn.Embedding(config.num_time_bins, hidden_size)

    def forward(self, embeds: torch.Tensor, times: torch.Tensor) -> torch.Tensor:
        last = self.table.num_embeddings - 1
        position = (times / self.max_time).clamp(0, 1) * last
        lower = position.floor().clamp(max=last - 1)
        weight = (position - lower)[..., None].to(embeds.dtype)
        row = lower.long()
        return embeds + torch.lerp(self.table(row), self.table(row + 1), weight)


class RotaryTimeEmbedding(nn.Module):
    """Base of the rotations: turns adjacent channels `(2k, 2k + 1)` of the first `num_channels` channels.

    The product is taken in float64 whatever the dtype of the embeddings, as in the released code: angles reach 1e5
    radians in some modes.
    """

    def __init__(self, config: OmniVinciTimeEmbeddingConfig, hidden_size: int):
        super().__init__()
        self.num_channels = config.num_channels(hidden_size)
        self.max_time = config.max_time
        self.theta = 10000.0 if config.theta is None else config.theta
        if self.num_channels % 2 or self.num_channels > hidden_size:
            raise ValueError(f"Cannot rotate {self.num_channels} of {hidden_size} channels in pairs.")

    def angles(self, times: torch.Tensor, first: int, steps: int, tokens: int) -> torch.Tensor:
        """Angles of the steps from `first` on: broadcastable to `(len(times), tokens, num_channels)`."""
        raise NotImplementedError

    def forward(self, embeds: torch.Tensor, times: torch.Tensor) -> torch.Tensor:
        steps, tokens, _ = embeds.shape
        block = max(1, MAX_BLOCK_ELEMENTS // (tokens * self.num_channels))
        rotated = []
        for first in range(0, steps, block):
            angles = self.angles(times[first : first + block], first, steps, tokens)
            rotated.append(self._rotate(embeds[first : first + block], angles))
        return torch.cat(rotated)

    def _rotate(self, embeds: torch.Tensor, angles: torch.Tensor) -> torch.Tensor:
        turned, rest = embeds[..., : self.num_channels], embeds[..., self.num_channels :]
        turned = turned.double()
        pairs = turned.unflatten(-1, (-1, 2))
        across = torch.stack((-pairs[..., 1], pairs[..., 0]), dim=-1).flatten(-2)
        turned = turned * angles.cos() + across * angles.sin()
        return torch.cat((turned.to(embeds.dtype), rest), dim=-1)


class ConstrainedRotaryTimeEmbedding(RotaryTimeEmbedding):
    """CRTE (arXiv 2510.15870): channel pair `i` of `C` turns by `w_i t` with `w_i = 2 pi / (T_max theta^(i / C))`.

    By this formula `T_max` is the shortest period. RoTE is the same with `T_max` left out (1 second).
    """

    def angles(self, times, first, steps, tokens):
        pairs = self.num_channels // 2
        exponents = torch.arange(pairs, dtype=torch.float64, device=times.device) / pairs
        frequencies = 2 * math.pi / ((self.max_time or 1.0) * self.theta**exponents)
        return (times.double()[..., None] * frequencies).repeat_interleave(2, dim=-1)


class RotaryTimeEmbeddingWithoutLimit(ConstrainedRotaryTimeEmbedding):
    """RoTE: the frequencies of CRTE without `T_max`."""

    def __init__(self, config: OmniVinciTimeEmbeddingConfig, hidden_size: int):
        super().__init__(config, hidden_size)
        self.max_time = None


class AxialTimeEmbedding(RotaryTimeEmbedding):
    """The `pixel` and `lang` modes of the released code.

    A table of positions along two axes (step and token) times frequencies is multiplied by an angle of time. Follows
    the released code, not the paper: positions take part, and with `seconds` the angle is `-2 pi t`. The products are
    taken from left to right in the released code's precision (float32 for sound; float32 table and float64 time for
    video) because the order of rounding shows at such angles. Mended: a video may have more frames than tokens per
    frame.
    """

    def __init__(self, config: OmniVinciTimeEmbeddingConfig, hidden_size: int, modality: str):
        super().__init__(config, hidden_size)
        self.pixel = config.type.startswith("pixel")
        self.periodic = config.type.endswith("periodic")
        # in the released code the video's pixel mode alone does not scale its positions
        self.scale_positions = self.max_time is not None and not (self.pixel and modality == "video")
        if not self.pixel and self.max_time is not None:
            self.theta = self.max_time / (2 * math.pi)

    def _frequencies(self, device) -> torch.Tensor:
        dim = self.num_channels // 2
        if self.pixel:
            return torch.linspace(1.0, 128.0, dim // 2, device=device) * math.pi
        return 1.0 / (self.theta ** (torch.arange(0, dim, 2, device=device).float() / dim))

    def _axis(self, length: int, device) -> torch.Tensor:
        if self.pixel:
            positions = torch.linspace(-1, 1, length, device=device)
        else:
            positions = torch.arange(length, device=device, dtype=torch.float32)
        if self.scale_positions:
            positions = positions / self.max_time * (2 * math.pi)
        return (positions[:, None] * self._frequencies(device)).repeat_interleave(2, dim=-1)  # (length, dim)

    def angles(self, times, first, steps, tokens):
        step_table = self._axis(steps, times.device)[first : first + len(times), None]
        token_table = self._axis(tokens, times.device)[None]
        shape = (len(times), tokens, -1)
        table = torch.cat((step_table.expand(shape), token_table.expand(shape)), dim=-1)
        if not self.periodic:
            angle = -times * 2 * math.pi
        else:
            angle = times if self.max_time is None else times / self.max_time * 2 * math.pi
        return table * angle[..., None]


class MultiPeriodTimeEmbedding(RotaryTimeEmbedding):
    """The `MTCT` ("shortest") and "longest" modes of the released code, of angles `w_j t`.

    Periods grow geometrically from `max_time` to five times that (shortest) or from one second to `max_time`
    (longest). Follows the released code: channel `j` has angle `j`, so the two channels of a pair turn differently.
    """

    def __init__(self, config: OmniVinciTimeEmbeddingConfig, hidden_size: int):
        super().__init__(config, hidden_size)
        self.longest = config.type == "mtct_longest"

    def angles(self, times, first, steps, tokens):
        width = self.num_channels
        exponents = torch.arange(width, device=times.device).float() / width
        if self.longest:
            periods = (self.max_time ** (width / (width - 1))) ** exponents
        else:
            periods = self.max_time * 5.0**exponents
        angles = times.float()[..., None] * (2 * math.pi / periods)
        return angles.to(times.dtype)


def build_time_embedding(config: OmniVinciTimeEmbeddingConfig, hidden_size: int, modality: str) -> nn.Module:
    """The module of `config.type`; `modality` ("video" or "audio") matters to the released modes only."""
    if config.type == "none":
        return NoTimeEmbedding()
    if config.type == "learned":
        return LearnedTimeEmbedding(config, hidden_size)
    if config.type == "crte":
        return ConstrainedRotaryTimeEmbedding(config, hidden_size)
    if config.type == "rote":
        return RotaryTimeEmbeddingWithoutLimit(config, hidden_size)
    if config.type.startswith("mtct"):
        return MultiPeriodTimeEmbedding(config, hidden_size)
    return AxialTimeEmbedding(config, hidden_size, modality)
