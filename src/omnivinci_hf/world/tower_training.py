"""This module pretrains the encoders of the small model: they learn to name what is there.

Each learns under heads of its own that are thrown away: every square of a frame, which shapes the frame shows, and by
themselves which colours and which forms; every fifth of a second, which sound is heard; and both, at which place that
is.
"""

import itertools
from collections.abc import Iterator, Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from ..omnivinci.modeling_omnivinci import OmniVinciForConditionalGeneration
from . import COLOURS, PLACES, SHAPES, SOUNDS
from .model import MERGED_EMBEDS, WINDOW_SEC
from .muon import MuonWithAdamW, matrices_of
from .tracks import TrackEncoder, Tracks, View


SHAPE_NAMES = [f"{colour} {shape}" for colour in COLOURS for shape in SHAPES]
SILENCE = len(SOUNDS)
PLACE_WEIGHT = 0.02  # the tint is learned at once, the hum soon
WEIGHT_DECAY = 0.01
MAX_GRAD_NORM = 1.0


def train_vision_tower(
    model: OmniVinciForConditionalGeneration,
    encoder: TrackEncoder,
    steps: int,
    *,
    batch_size: int = 96,
    learning_rate: float = 1.5e-3,
    seed: int = 0,
    log=print,
) -> float:
    """Trains the vision tower.

    Returns:
        the share of frames of the last steps in which exactly the shapes that are there were found.
    """
    tower, merge = model.model.vision_tower, model.config.spatial_merge_size
    head = nn.Linear(model.config.vision_feature_size * merge**2, len(SHAPE_NAMES))
    factor_head = nn.Linear(model.config.vision_feature_size * merge**2, len(COLOURS) + len(SHAPES))
    place_head = nn.Linear(model.config.vision_feature_size * merge**2, PLACES)
    heads = [head, factor_head, place_head]
    for part in heads:
        part.to(tower.device)

    def loss_of(batch):
        pixels, labels, places = (part.to(tower.device) for part in batch)
        maps = tower((pixels.float() / 255 - 0.5) / 0.5).last_hidden_state
        side = int(maps.shape[1] ** 0.5)
        squares = (
            maps.unflatten(1, (side // merge, merge, side // merge, merge)).transpose(2, 3).flatten(3).flatten(1, 2)
        )
        # each square must tell all shapes: a mean of squares would let a few of them keep it to themselves
        logits = head(squares)
        right = ((logits.mean(1) > 0) == labels.bool()).all(1).float().mean()
        place_loss = F.cross_entropy(place_head(squares.mean(1)), places)
        # without factors a red star and a blue one are two strangers, and "What colour is the star?" is not learned
        shape_loss = _named_by_all(logits, labels) + _named_by_all(factor_head(squares), factors_of(labels))
        return shape_loss, place_loss, right

    batches = frame_batches(encoder.tracks, batch_size, seed)
    return _train(tower, heads, batches, loss_of, steps, learning_rate, "vision tower", log)


def train_audio_tower(
    model: OmniVinciForConditionalGeneration,
    encoder: TrackEncoder,
    steps: int,
    *,
    batch_size: int = 48,
    learning_rate: float = 1.5e-3,
    seed: int = 0,
    log=print,
) -> float:
    """Trains the audio tower.

    Returns:
        the share of fifths of a second of the last steps that were named right.
    """
    tower = model.model.audio_tower
    head = nn.Linear(model.config.audio_feature_size * MERGED_EMBEDS, len(SOUNDS) + 1)
    place_head = nn.Linear(model.config.audio_feature_size * MERGED_EMBEDS, PLACES)
    for part in (head, place_head):
        part.to(tower.device)

    def loss_of(batch):
        features, labels, places = (part.to(tower.device) for part in batch)
        hidden = tower(features).last_hidden_state.unflatten(1, (-1, MERGED_EMBEDS)).flatten(2)
        logits = head(hidden)
        right = (logits.argmax(-1) == labels).float().mean()
        place_loss = F.cross_entropy(place_head(hidden.mean(1)), places)
        return F.cross_entropy(logits.flatten(0, 1), labels.flatten()), place_loss, right

    batches = window_batches(encoder, batch_size, seed)
    return _train(tower, [head, place_head], batches, loss_of, steps, learning_rate, "audio tower", log)


def frame_batches(tracks: Sequence[Tracks], batch_size: int, seed: int) -> Iterator[tuple[torch.Tensor, ...]]:
    """Yields frames `(batch_size, 3, size, size)` uint8, their shapes, `(batch_size, shapes)`, and places."""
    rng = np.random.default_rng((seed, 1))
    while True:
        frames, places, labels = [], [], torch.zeros(batch_size, len(SHAPE_NAMES))
        for number in range(batch_size):
            track = tracks[int(rng.integers(len(tracks)))]
            index = rng.integers(len(track.times))
            frames.append(View.sample(rng).of(track.frames[index : index + 1])[0])
            places.append(track.scene.vision.place)
            for event in track.scene.vision.events:
                if event.visible_at(track.times[index]):
                    labels[number, SHAPE_NAMES.index(event.name)] = 1
        yield torch.from_numpy(np.stack(frames)).permute(0, 3, 1, 2), labels, torch.tensor(places)


def factors_of(labels: torch.Tensor) -> torch.Tensor:
    """Tells which colours and which forms are there, `(batch_size, colours + forms)`, by what shapes are."""
    shapes = labels.unflatten(1, (len(COLOURS), len(SHAPES)))
    return torch.cat([shapes.amax(2), shapes.amax(1)], dim=1)


def _named_by_all(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    return F.binary_cross_entropy_with_logits(logits, labels[:, None].expand_as(logits))


def window_batches(encoder: TrackEncoder, batch_size: int, seed: int) -> Iterator[tuple[torch.Tensor, ...]]:
    """Yields windows `(batch_size, mel_bins, frames)`, the sounds of embeddings, `(batch_size, embeds)`, and places."""
    rng = np.random.default_rng((seed, 2))
    num_embeds = encoder.processor.feature_extractor.window_frames // 4 // MERGED_EMBEDS
    step = WINDOW_SEC / num_embeds
    while True:
        features, places, labels = [], [], torch.full((batch_size, num_embeds), SILENCE)
        for number in range(batch_size):
            index = int(rng.integers(len(encoder.tracks)))
            windows = encoder.sounds[index]["input_features"]
            window = int(rng.integers(len(windows)))
            features.append(windows[window].float())
            places.append(encoder.tracks[index].scene.sound.place)
            middles = window * WINDOW_SEC + (np.arange(num_embeds) + 0.5) * step
            for event in encoder.tracks[index].scene.sound.events:
                heard = (middles >= event.onset_sec) & (middles < event.end_sec)
                labels[number, torch.from_numpy(heard)] = SOUNDS.index(event.kind)
        yield torch.stack(features), labels, torch.tensor(places)


def _train(tower, heads, batches, loss_of, steps: int, learning_rate: float, name: str, log) -> float:
    parameters = [value for part in (tower, *heads) for value in part.parameters() if value.requires_grad]
    groups = [{"params": parameters, "lr": learning_rate, "weight_decay": WEIGHT_DECAY}]
    optimizer = MuonWithAdamW(groups, matrices_of(tower))
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer,
        [group["lr"] for group in optimizer.param_groups],
        total_steps=steps,
        pct_start=0.1,
        cycle_momentum=False,
    )
    recent: list[float] = []
    for step, batch in enumerate(itertools.islice(batches, steps), 1):
        loss, place_loss, right = loss_of(batch)
        optimizer.zero_grad()
        (loss + PLACE_WEIGHT * place_loss).backward()
        nn.utils.clip_grad_norm_(parameters, MAX_GRAD_NORM)
        optimizer.step()
        schedule.step()
        recent = [*recent[-49:], right.item()]
        if step % 100 == 0 or step == steps:
            log(
                f"{name}: step {step}, loss {loss.item():.4f}, of places {place_loss.item():.4f}, "
                f"right {np.mean(recent):.3f}"
            )
    return float(np.mean(recent))
