"""This module counts exact matches on tracks in memory, in one pass for all questions of a batch of clips.

An answer that is decoded greedily is right exactly where every token of it is the likeliest after those before it, so
nothing needs to be generated. What counts in the end is measured on files, see `benchmarks/small_checkpoint.py`.
"""

from collections.abc import Sequence

import numpy as np
import torch

from ..omnivinci.modeling_omnivinci import IGNORE_INDEX, OmniVinciForConditionalGeneration
from ..training import OmniVinciDataCollator
from . import FAMILIES, Question
from .dataset import seed_questions
from .evaluation import Score, choose
from .tracks import TrackEncoder


def questions_about_tracks(encoder: TrackEncoder, seeds: Sequence[int], per_family: int = 2) -> list[list[Question]]:
    """Asks about each track's own scene, a few questions of each family; `seeds` are those of the tracks."""
    scenes = [track.scene for track in encoder.tracks]
    return [choose(seed_questions(seed, scene), per_family, seed) for seed, scene in zip(seeds, scenes, strict=True)]


@torch.no_grad()
def exact_matches(
    model: OmniVinciForConditionalGeneration,
    encoder: TrackEncoder,
    asked: Sequence[Sequence[Question]],
    *,
    seen: Sequence[int] | None = None,
    heard: Sequence[int] | None = None,
    dropped: float = 0.0,
    blind: bool = False,
    batch_size: int = 16,
) -> dict[str, Score]:
    """Scores by family of the questions `asked` about each track.

    `seen` and `heard` put other tracks in the place of a clip's picture or sound: controls, with the answers still
    those of the clip itself. `dropped` is the share of frames that are left out at random, the same ones every time.
    `blind` asks without the clips.
    """
    count = len(encoder.tracks)
    seen, heard = (range(count) if other is None else other for other in (seen, heard))
    collator = OmniVinciDataCollator(encoder.processor)
    scores = {family: Score() for family in FAMILIES}
    model.eval()
    order = sorted((i for i in range(count) if asked[i]), key=lambda i: encoder.tracks[i].scene.duration_sec)
    for start in range(0, len(order), batch_size):
        clips = order[start : start + batch_size]
        if blind:
            rows = [encoder.encode_words(asked[i]) for i in clips]
        else:
            kept = [_kept(len(encoder.tracks[seen[i]].times), dropped, i) for i in clips]
            rows = [encoder.encode(seen[i], heard[i], asked[i], k) for i, k in zip(clips, kept, strict=True)]
        batch = collator(rows)
        labels = batch.pop("labels")[:, 1:]
        wrong = model(**batch).logits[:, :-1].argmax(-1) != labels
        for row, (index, is_wrong) in enumerate(zip(clips, wrong, strict=True)):
            spans = _spans(labels[row])
            for question, (first, last) in zip(asked[index], spans, strict=True):
                scores[question.family].add(not is_wrong[first:last].any())
    return scores


def _kept(num_frames: int, dropped: float, seed: int) -> np.ndarray | None:
    """Indices of the frames that stay, in order; the first always does."""
    if not dropped:
        return None
    is_kept = np.random.default_rng((seed, 7)).random(num_frames) >= dropped
    is_kept[0] = True
    return is_kept.nonzero()[0]


def _spans(labels: torch.Tensor) -> list[tuple[int, int]]:
    """Where the stretches of labels of a row begin and end: an answer each."""
    has_label = torch.nn.functional.pad((labels != IGNORE_INDEX).int(), (1, 1))
    steps = has_label.diff()
    starts, ends = ((steps == sign).nonzero()[:, 0].tolist() for sign in (1, -1))
    return list(zip(starts, ends, strict=True))
