"""This module builds a small OmniAlignNet with random weights, and unit vectors."""

import torch

from omnivinci_hf import OmniAlignNet, OmniAlignNetConfig


SMALL_NET = {"embed_dim": 16, "num_attention_heads": 2, "intermediate_size": 32}


def make_net(feature_size: int = 8, **options) -> OmniAlignNet:
    torch.manual_seed(0)
    return OmniAlignNet(OmniAlignNetConfig(**{**SMALL_NET, **options}), feature_size)


def unit(rows: int, width: int, seed: int) -> torch.Tensor:
    rows = torch.randn(rows, width, generator=torch.Generator().manual_seed(seed))
    return torch.nn.functional.normalize(rows, dim=-1)
