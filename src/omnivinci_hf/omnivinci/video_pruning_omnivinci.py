"""Fewer visual embeddings where a video stands still: those that repeat what was there before are left out.

Not of the paper, and off by default. What counts is the pixels, so that the number of placeholders is known before any
weights are; each embedding that stays keeps the true time of its frame.
"""

import math
from collections.abc import Iterable

import torch
import torch.nn.functional as F


def moving_embeds(
    frames: Iterable[torch.Tensor], threshold: float, patch_size: int, merge_size: int = 1
) -> torch.Tensor:
    """Which squares of each frame differ from the last that was kept in the same place.

    Args:
        frames: `(3, size, size)` each, in levels from 0 to 255.
        threshold: mean absolute difference over a square, in levels, from which on it counts as new. The first frame
            is kept whole. Noise of deviation `d` alone makes about `1.1 d`.
        patch_size: side of a patch in pixels. What whole patches leave of a frame is not looked at.
        merge_size: patches along the side of an embedding's square; those at the right and lower edge may be smaller.

    Returns:
        `(num_frames, side, side)` bool, `side = ceil(size // patch_size / merge_size)`.
    """
    kept, reference, pixels = [], None, patch_size * merge_size
    for frame in frames:
        size = frame.shape[-1] // patch_size * patch_size
        seen = frame[:, :size, :size]
        if reference is None:
            reference = seen.clone()
            side = math.ceil(size / pixels)
            kept.append(torch.ones(side, side, dtype=torch.bool))
            continue
        difference = (seen - reference).abs().mean(0)
        moved = F.avg_pool2d(difference[None, None], pixels, ceil_mode=True)[0, 0] > threshold
        where = moved.repeat_interleave(pixels, 0).repeat_interleave(pixels, 1)[:size, :size]
        reference = torch.where(where, seen, reference)
        kept.append(moved)
    return torch.stack(kept)
