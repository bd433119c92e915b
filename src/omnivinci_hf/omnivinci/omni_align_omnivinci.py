"""This module holds OmniAlignNet (arXiv 2510.15870), which maps a clip's picture and its audio into one space."""

import math
from collections.abc import Sequence

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import nn
from torch.nn.utils.rnn import pad_sequence
from transformers import initialization as init

from .configuration_omnivinci import OmniAlignNetConfig


# as in CLIP: logits are never scaled by more
MAX_LOGIT_SCALE = math.log(100.0)


class OmniAlignAttention(nn.Module):
    """This multi-head attention lets queries look at keys, which may have another width."""

    def __init__(self, width: int, key_size: int, num_heads: int):
        super().__init__()
        self.num_heads = num_heads
        self.q_proj = nn.Linear(width, width)
        self.k_proj = nn.Linear(key_size, width)
        self.v_proj = nn.Linear(key_size, width)
        self.out_proj = nn.Linear(width, width)

    def forward(self, queries: torch.Tensor, keys: torch.Tensor, mask: torch.Tensor | None = None) -> torch.Tensor:
        """Lets `queries (clips, num_queries, width)` look at `keys (clips, num_keys, key_size)`.

        `mask (clips, 1, 1, num_keys)` is True where there is something to look at. Returns what each query sees, in the
        shape of `queries`.
        """
        query, key, value = (
            project(inputs).unflatten(-1, (self.num_heads, -1)).transpose(1, 2)  # (clips, heads, length, head_dim)
            for project, inputs in ((self.q_proj, queries), (self.k_proj, keys), (self.v_proj, keys))
        )
        seen = F.scaled_dot_product_attention(query, key, value, attn_mask=mask)
        return self.out_proj(seen.transpose(1, 2).flatten(2))


class OmniAlignLayer(nn.Module):
    """This self-attention layer has attention and a feed-forward network, each behind a norm and with a residual."""

    def __init__(self, config: OmniAlignNetConfig):
        super().__init__()
        width = config.embed_dim
        self.norm1 = nn.LayerNorm(width)
        self.attention = OmniAlignAttention(width, width, config.num_attention_heads)
        self.norm2 = nn.LayerNorm(width)
        intermediate_size = config.intermediate_size or 4 * width  # the config has filled it in
        self.fc1 = nn.Linear(width, intermediate_size)
        self.fc2 = nn.Linear(intermediate_size, width)

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        """Turns `(clips, num_queries, width)` into the same shape."""
        normed = self.norm1(hidden_states)
        hidden_states = hidden_states + self.attention(normed, normed)
        return hidden_states + self.fc2(F.gelu(self.fc1(self.norm2(hidden_states))))


class OmniAlignBranch(nn.Module):
    """A branch turns clips of one modality into vectors: learned queries look at a clip, then at each other; L2 norm.

    With one query, as in the paper, self-attention has a single position to look at and acts as a deep residual
    network; with more, the vectors of the queries are averaged.
    """

    def __init__(self, config: OmniAlignNetConfig, feature_size: int):
        super().__init__()
        self.feature_size = feature_size
        self.query = nn.Parameter(torch.empty(config.num_queries, config.embed_dim))
        self.norm = nn.LayerNorm(feature_size)
        self.cross_attention = OmniAlignAttention(config.embed_dim, feature_size, config.num_attention_heads)
        self.layers = nn.ModuleList(OmniAlignLayer(config) for _ in range(config.num_layers))

    def forward(self, clips: Sequence[torch.Tensor], stand_in: torch.Tensor | None = None) -> torch.Tensor:
        """Turns clips `(num_embeds, feature_size)` of any length, also none at all, into `(num_clips, embed_dim)`.

        Without any clip, `stand_in`, or zeros, is read in its place and the result dropped: so every parameter, and
        what gave the stand-in, has its part in the graph on each process.
        """
        if stand_in is None:
            stand_in = self.query.new_zeros(1, self.feature_size)
        rows = list(clips) or [stand_in]
        padded = pad_sequence(rows, batch_first=True)
        lengths = torch.tensor([len(row) for row in rows], device=padded.device)
        present = torch.arange(padded.shape[1], device=padded.device) < lengths[:, None]
        queries = self.query.expand(len(padded), -1, -1)
        hidden_states = self.cross_attention(queries, self.norm(padded), present[:, None, None])
        for layer in self.layers:
            hidden_states = layer(hidden_states)
        return F.normalize(hidden_states.mean(1), dim=-1)[: len(clips)]


class OmniAlignNet(nn.Module):
    """
    OmniAlignNet pulls the audio and the picture of a clip together and pushes those of different clips apart.

    It reads the projected embeddings before any time embedding, and serves training and search alone: answers do not
    depend on it.

    Args:
        config ([`OmniAlignNetConfig`]).
        feature_size (`int`): width of the projected embeddings.
    """

    def __init__(self, config: OmniAlignNetConfig, feature_size: int):
        super().__init__()
        self.config = config
        self.vision = OmniAlignBranch(config, feature_size)
        self.audio = OmniAlignBranch(config, feature_size)
        self.logit_scale = nn.Parameter(torch.empty(1))  # FSDP takes no scalars
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Initializes the queries and the temperature; the layers initialize themselves."""
        init.constant_(self.logit_scale, -math.log(self.config.temperature))
        for branch in (self.vision, self.audio):
            init.normal_(branch.query, std=1.0)

    def loss(self, vision_embeds: torch.Tensor, audio_embeds: torch.Tensor) -> torch.Tensor:
        """Returns the symmetric cross-entropy over the clips of all processes, `()`; zero where none has a clip.

        `vision_embeds` and `audio_embeds` `(num_clips, embed_dim)` are unit vectors of this process's clips, in the
        same order. Every process computes the whole loss, and gradients flow back through the gathering, so that
        their mean over processes, which data-parallel training takes, is the gradient of one process with all clips.
        All processes must call this together, also those without a clip.
        """
        vision_embeds, audio_embeds = gather_rows(vision_embeds), gather_rows(audio_embeds)
        scale = self.logit_scale.clamp(max=MAX_LOGIT_SCALE).exp().squeeze()
        if not len(vision_embeds):
            return (vision_embeds.sum() + audio_embeds.sum()) * scale
        logits = scale * vision_embeds.float() @ audio_embeds.float().T
        target = torch.arange(len(logits), device=logits.device)
        return (F.cross_entropy(logits, target) + F.cross_entropy(logits.T, target)) / 2


def gather_rows(rows: torch.Tensor) -> torch.Tensor:
    """Gathers the rows of all processes, in their order, with gradients; each may have another number of rows."""
    if not (dist.is_available() and dist.is_initialized()) or dist.get_world_size() == 1:
        return rows
    from torch.distributed.nn.functional import all_gather  # not every build of PyTorch has it

    count = torch.tensor([len(rows)], device=rows.device)
    counts = [torch.empty_like(count) for _ in range(dist.get_world_size())]
    dist.all_gather(counts, count)
    numbers: list[int] = torch.cat(counts).tolist()
    padded = F.pad(rows, (0, 0, 0, max(numbers) - len(rows)))
    return torch.cat([part[:number] for part, number in zip(all_gather(padded), numbers, strict=True)])
