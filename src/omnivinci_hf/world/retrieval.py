"""This module measures how well sounds are matched with pictures: recall at one."""

import numpy as np


def recall_at_1(queries: np.ndarray, targets: np.ndarray, gallery_size: int) -> float:
    """Computes how often the most similar target is the query's own, `targets[i]` for `queries[i]`.

    Args:
        queries, targets: unit vectors, `(num_clips, width)`.
        gallery_size: so many consecutive targets are searched together; an incomplete last gallery is left out.

    Where the best is shared, the own target counts as found with the chance of drawing it among them.
    """
    queries, targets = (np.asarray(vectors, dtype=np.float64) for vectors in (queries, targets))
    if queries.ndim != 2 or queries.shape != targets.shape:
        raise ValueError(f"Queries and targets must be (num_clips, width) alike, got {queries.shape}, {targets.shape}.")
    if not 1 <= gallery_size <= len(queries):
        raise ValueError(f"gallery_size must lie between 1 and the number of clips {len(queries)}, got {gallery_size}.")
    norms = np.linalg.norm([queries, targets], axis=-1)
    if np.abs(norms - 1).max() > 1e-3:
        raise ValueError(
            f"Queries and targets must be unit vectors, got lengths {norms.min():.4g} to {norms.max():.4g}."
        )
    number = len(queries) // gallery_size * gallery_size
    queries, targets = (vectors[:number].reshape(-1, gallery_size, vectors.shape[1]) for vectors in (queries, targets))
    similarity = queries @ targets.transpose(0, 2, 1)  # (galleries, gallery_size, gallery_size)
    best = similarity >= similarity.max(axis=-1, keepdims=True) - 1e-9
    matching = np.diagonal(best, axis1=1, axis2=2)
    return float((matching / best.sum(axis=-1)).mean())
