"""This module holds the time embeddings: CRTE and RoTE as in the paper, a learned table, and the original code's modes.

`TIME_EMBEDDINGS` in the configuration names the class of each. All read `embeds (steps, tokens, hidden_size)` and
`times` in seconds that broadcast to `(steps, tokens)`: a video passes `(frames, 1)` since all tokens of a frame share
its moment, an audio clip `(1, tokens)`. A part of a medium also comes with `first`, the step and the token that it
begins with, and `shape`, all steps and tokens of the medium. Nothing is kept as a buffer: frequencies come from Python
numbers at every call, so that casting the model to half precision or building it on the meta device cannot spoil them.
"""

import math
from typing import NamedTuple

import torch
from torch import nn

from .configuration_omnivinci import TIME_EMBEDDINGS, OmniVinciTimeEmbeddingConfig


# angles of one block of steps and tokens are built at a time, to bound the memory of long media
MAX_BLOCK_ELEMENTS = 2**22


class Span(NamedTuple):
    """A span is a stretch of the steps, or of the tokens, of a medium that has `total`."""

    first: int
    length: int
    total: int


class TimeEmbedding(nn.Module):
    """A time embedding tells the embeddings of one modality the moment that they stand for; this is the base class.

    Args:
        config ([`OmniVinciTimeEmbeddingConfig`]).
        hidden_size (`int`): width of the embeddings.
        modality (`str`): "video" or "audio"; it matters to the original code's modes alone.
    """

    def __init__(self, config: OmniVinciTimeEmbeddingConfig, hidden_size: int, modality: str = "video"):
        super().__init__()

    def forward(
        self,
        embeds: torch.Tensor,
        times: torch.Tensor,
        first: tuple[int, int] = (0, 0),
        shape: tuple[int, int] | None = None,
    ) -> torch.Tensor:
        """Returns `embeds (steps, tokens, hidden_size)` with the moments `times` in them."""
        raise NotImplementedError


class NoTimeEmbedding(TimeEmbedding):
    """This time embedding leaves the embeddings as they are."""

    def forward(self, embeds, times, first=(0, 0), shape=None):
        """Returns `embeds (steps, tokens, hidden_size)` unchanged, whatever the times."""
        return embeds


class LearnedTimeEmbedding(TimeEmbedding):
    """The learned time embedding, the paper's third, is a table over `[0, max_time]` seconds, interpolated and added.

    Moments outside the range take the nearest row.
    """

    def __init__(self, config: OmniVinciTimeEmbeddingConfig, hidden_size: int, modality: str = "video"):
        super().__init__(config, hidden_size, modality)
        self.max_time = float(config.max_time or 0)  # the config has checked that it is given
        self.table = nn.Embedding(config.num_time_bins, hidden_size)

    def forward(self, embeds, times, first=(0, 0), shape=None):
        """Adds to `embeds (steps, tokens, hidden_size)` the rows of the table for `times`, in seconds.

        The result has the shape and dtype of `embeds`; `first` and `shape` change nothing.
        """
        last = self.table.num_embeddings - 1
        position = (times / self.max_time).clamp(0, 1) * last
        lower = position.floor().clamp(max=last - 1)
        weight = (position - lower)[..., None].to(embeds.dtype)
        row = lower.long()
        return embeds + torch.lerp(self.table(row), self.table(row + 1), weight)


class RotaryTimeEmbedding(TimeEmbedding):
    """A rotary time embedding turns pairs `(2k, 2k + 1)` of the first `num_channels` channels. This is the base class.

    The product is taken in float64 whatever the dtype of the embeddings, as in the original code: angles reach 1e5
    radians in some modes.
    """

    def __init__(self, config: OmniVinciTimeEmbeddingConfig, hidden_size: int, modality: str = "video"):
        super().__init__(config, hidden_size, modality)
        self.num_channels = config.num_channels(hidden_size)
        self.max_time = config.max_time
        self.theta = 10000.0 if config.theta is None else config.theta
        if self.num_channels % 2 or self.num_channels > hidden_size:
            raise ValueError(f"Cannot rotate {self.num_channels} of {hidden_size} channels in pairs.")

    def angles(self, times: torch.Tensor, steps: Span, tokens: Span) -> torch.Tensor:
        """Returns angles in radians that broadcast to `(steps.length, tokens.length, num_channels)`.

        `times` are the seconds of the steps and tokens in the two spans.
        """
        raise NotImplementedError

    def forward(self, embeds, times, first=(0, 0), shape=None):
        """Rotates the first channels of `embeds (steps, tokens, hidden_size)` by the angles of `times`, in seconds.

        `first` and `shape` tell which part of a medium this is. The result has the shape and dtype of `embeds`.
        """
        num_steps, num_tokens, _ = embeds.shape
        all_steps, all_tokens = (num_steps, num_tokens) if shape is None else shape
        tokens_at_once = max(1, min(num_tokens, MAX_BLOCK_ELEMENTS // self.num_channels))
        steps_at_once = max(1, MAX_BLOCK_ELEMENTS // (tokens_at_once * self.num_channels))
        rows = []
        for step in range(0, num_steps, steps_at_once):
            row = []
            for token in range(0, num_tokens, tokens_at_once):
                block = embeds[step : step + steps_at_once, token : token + tokens_at_once]
                steps = Span(first[0] + step, block.shape[0], all_steps)
                tokens = Span(first[1] + token, block.shape[1], all_tokens)
                moments = times if len(times) == 1 else times[step : step + steps_at_once]
                moments = moments if moments.shape[1] == 1 else moments[:, token : token + tokens_at_once]
                row.append(self._rotate(block, self.angles(moments, steps, tokens)))
            rows.append(row[0] if len(row) == 1 else torch.cat(row, dim=1))
        return rows[0] if len(rows) == 1 else torch.cat(rows)

    def _rotate(self, embeds: torch.Tensor, angles: torch.Tensor) -> torch.Tensor:
        turned, rest = embeds[..., : self.num_channels], embeds[..., self.num_channels :]
        turned = turned.double()
        pairs = turned.unflatten(-1, (-1, 2))
        across = torch.stack((-pairs[..., 1], pairs[..., 0]), dim=-1).flatten(-2)
        turned = turned * angles.cos() + across * angles.sin()
        return torch.cat((turned.to(embeds.dtype), rest), dim=-1)


class ConstrainedRotaryTimeEmbedding(RotaryTimeEmbedding):
    """CRTE (arXiv 2510.15870) turns channel pair `i` of `C` by `w_i t` with `w_i = 2 pi / (T_max theta^(i / C))`.

    By this formula `T_max` is the shortest period. RoTE is the same with `T_max` left out (1 second).
    """

    def angles(self, times, steps, tokens):
        """Returns the angles `w_i t` in radians, float64 and of shape `(*times.shape, num_channels)`."""
        pairs = self.num_channels // 2
        exponents = torch.arange(pairs, dtype=torch.float64, device=times.device) / pairs
        frequencies = 2 * math.pi / ((self.max_time or 1.0) * self.theta**exponents)
        return (times.double()[..., None] * frequencies).repeat_interleave(2, dim=-1)


class RotaryTimeEmbeddingWithoutLimit(ConstrainedRotaryTimeEmbedding):
    """RoTE has the frequencies of CRTE without `T_max`."""

    def __init__(self, config: OmniVinciTimeEmbeddingConfig, hidden_size: int, modality: str = "video"):
        super().__init__(config, hidden_size, modality)
        self.max_time = None


class AxialTimeEmbedding(RotaryTimeEmbedding):
    """The `pixel` and `lang` modes of the original code rotate by position and time.

    A table of positions along two axes (step and token) times frequencies is multiplied by an angle of time. Follows
    the original code, not the paper: positions take part, and with `seconds` the angle is `-2 pi t`. The products are
    taken from left to right in the original code's precision (float32 for audio; float32 table and float64 time for
    video) because the order of rounding shows at such angles. Mended: a video may have more frames than tokens per
    frame.
    """

    def __init__(self, config: OmniVinciTimeEmbeddingConfig, hidden_size: int, modality: str = "video"):
        super().__init__(config, hidden_size, modality)
        self.pixel = config.type.startswith("pixel")
        self.periodic = config.type.endswith("periodic")
        # in the original code the video's pixel mode alone does not scale its positions
        self.scale_positions = self.max_time is not None and not (self.pixel and modality == "video")
        if not self.pixel and self.max_time is not None:
            self.theta = self.max_time / (2 * math.pi)

    def _frequencies(self, device) -> torch.Tensor:
        dim = self.num_channels // 2
        if self.pixel:
            return torch.linspace(1.0, 128.0, dim // 2, device=device) * math.pi
        return 1.0 / (self.theta ** (torch.arange(0, dim, 2, device=device).float() / dim))

    def _axis(self, span: Span, device) -> torch.Tensor:
        if self.pixel:
            positions = torch.linspace(-1, 1, span.total, device=device)[span.first : span.first + span.length]
        else:
            positions = torch.arange(span.first, span.first + span.length, device=device, dtype=torch.float32)
        if self.scale_positions and self.max_time is not None:
            positions = positions / self.max_time * (2 * math.pi)
        return (positions[:, None] * self._frequencies(device)).repeat_interleave(2, dim=-1)  # (length, dim)

    def angles(self, times, steps, tokens):
        """Returns the angles in radians, of shape `(steps.length, tokens.length, num_channels)`."""
        shape = (steps.length, tokens.length, -1)
        step_table = self._axis(steps, times.device)[:, None].expand(shape)
        token_table = self._axis(tokens, times.device)[None].expand(shape)
        table = torch.cat((step_table, token_table), dim=-1)
        if not self.periodic:
            angle = -times * 2 * math.pi
        else:
            angle = times if self.max_time is None else times / self.max_time * 2 * math.pi
        return table * angle[..., None]


class MultiPeriodTimeEmbedding(RotaryTimeEmbedding):
    """The `MTCT` ("shortest") and "longest" modes of the original code rotate by angles `w_j t`.

    Periods grow geometrically from `max_time` to five times that (shortest) or from one second to `max_time`
    (longest). Follows the original code: channel `j` has angle `j`, so the two channels of a pair turn differently.
    """

    def __init__(self, config: OmniVinciTimeEmbeddingConfig, hidden_size: int, modality: str = "video"):
        super().__init__(config, hidden_size, modality)
        self.longest = config.type == "mtct_longest"

    def angles(self, times, steps, tokens):
        """Returns the angles `w_j t` in radians, `(*times.shape, num_channels)` in the dtype of `times`."""
        width = self.num_channels
        exponents = torch.arange(width, device=times.device).float() / width
        if self.longest:
            periods = (self.max_time ** (width / (width - 1))) ** exponents
        else:
            periods = self.max_time * 5.0**exponents
        angles = times.float()[..., None] * (2 * math.pi / periods)
        return angles.to(times.dtype)


def build_time_embedding(config: OmniVinciTimeEmbeddingConfig, hidden_size: int, modality: str) -> nn.Module:
    """Builds the module of `config.type`; `modality`, "video" or "audio", matters to the original modes alone."""
    return globals()[TIME_EMBEDDINGS[config.type].module](config, hidden_size, modality)
