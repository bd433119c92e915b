"""The captioner of the engine's measurement: the small checkpoint, taught to list what one sense tells.

The paper's engine captions picture and audio with models that know their one sense well. The small checkpoint learned
from whole clips alone, never heard speech, and sees less of a picture alone. So it is trained further, for a few
minutes, on lists of shapes from pictures with silence and lists of sounds from audio alone; in half of the audio a
voice says something. While it learns it is never asked about the sense that it does not get, so that what it then says
of that is its own guess.
"""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.data import Dataset

from omnivinci_hf import OmniVinciForConditionalGeneration, OmniVinciProcessor
from omnivinci_hf.small import small_checkpoint
from omnivinci_hf.training import OmniVinciDataCollator, Recipe
from omnivinci_hf.world import WORDINGS, Question, Scene, waveform, with_statements
from omnivinci_hf.world.dataset import split_seeds
from omnivinci_hf.world.tracks import SAMPLING_RATE, TrackEncoder, Tracks, View, load_tracks
from omnivinci_hf.world.training import BATCH_SIZE, TrainingLog, keep_freed_memory, train_stage


FIRST_SEED = 90_000  # of the training split, apart from what the small checkpoint learned from
RATE = 5e-4  # of AdamW; Muon, which the matrices learn with, takes three times as much
RECIPE = Recipe(
    "captioner",
    dict.fromkeys(("vision_projector", "audio_projector", "language_model"), RATE),
    arguments={
        "per_device_train_batch_size": BATCH_SIZE,
        "warmup_steps": 20,
        "lr_scheduler_type": "cosine",
        "weight_decay": 0.01,
        "adam_beta2": 0.98,
        "dataloader_pin_memory": False,
    },
)


def list_of_shapes(scene: Scene) -> Question:
    """Asks for the shapes of a scene, each with the seconds in which it appears and vanishes."""
    shapes = [f"{one.name} {int(one.appear_sec)} and {int(one.vanish_sec)}" for one in scene.vision.events]
    return Question("list", WORDINGS["shapes"], ", ".join(shapes) or "nothing")


def list_of_sounds(scene: Scene) -> Question:
    """Asks for the sounds of a scene, each with its second."""
    sounds = [f"{one.name} {int(one.onset_sec)}" for one in scene.sound.events]
    return Question("list", WORDINGS["sounds"], ", ".join(sounds) or "nothing")


def with_voice(track: Tracks, seed: int) -> Tracks:
    """Adds statements about its shapes to a track."""
    scene = with_statements(track.scene, seed)
    voice = replace(scene.sound, events=(), noise=0.0, hum=0.0)
    length = len(track.samples) / SAMPLING_RATE
    samples = track.samples + 32767 * waveform(voice, SAMPLING_RATE, length).mean(axis=0)
    return replace(track, scene=scene, samples=np.clip(samples.round(), -32768, 32767).astype(np.int16))


class Lists(Dataset):
    """Rows of lists of shapes and of sounds, batch by batch in turns; a batch has clips of one length."""

    def __init__(self, processor: OmniVinciProcessor, tracks: Sequence[Tracks], length: int, seed: int = 0):
        self.tracks, self.length, self.seed = tracks, length, seed
        self.collator = OmniVinciDataCollator(processor)
        silent = [replace(track, samples=np.zeros_like(track.samples)) for track in tracks]
        self.pictures = TrackEncoder(processor, silent)
        self.alike: dict[float, list[int]] = {}
        for number, track in enumerate(tracks):
            self.alike.setdefault(track.scene.duration_sec, []).append(number)

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int):
        if not 0 <= index < self.length:
            raise IndexError(index)
        batch = index // BATCH_SIZE
        duration = np.random.default_rng((self.seed, batch)).choice(sorted(self.alike))
        rng = np.random.default_rng((self.seed, index, 1))
        number = rng.choice(self.alike[duration])
        track = self.tracks[number]
        if batch % 2:
            track = with_voice(track, int(rng.integers(2**31))) if rng.random() < 0.5 else track
            return self.collator.encode({"messages": list(audio_messages(track))})
        return self.pictures.encode(number, number, [list_of_shapes(track.scene)], view=View.sample(rng))


def audio_messages(track: Tracks) -> Iterator[dict[str, Any]]:
    """Yields the question for the sounds of a track, asked about its audio alone, and the answer."""
    asked = list_of_sounds(track.scene)
    audio = {"type": "audio", "audio": track.samples, "sampling_rate": SAMPLING_RATE}
    yield {"role": "user", "content": [audio, {"type": "text", "text": asked.question}]}
    yield {"role": "assistant", "content": asked.answer}


def train_captioner(folder: Path, cache: Path, num_tracks: int, steps: int, jobs: int) -> Path:
    """Returns the checkpoint of the captioner, which is trained if it is not there."""
    checkpoint = folder / "captioner"
    if checkpoint.exists():
        return checkpoint
    tracks = load_tracks(split_seeds("train", num_tracks, FIRST_SEED), cache, jobs)
    keep_freed_memory()
    model = OmniVinciForConditionalGeneration.from_pretrained(small_checkpoint(), dtype=torch.float32)
    processor = OmniVinciProcessor.from_pretrained(small_checkpoint())
    rows = Lists(processor, tracks, BATCH_SIZE * steps)
    log = TrainingLog(partial(print, flush=True))
    model = train_stage(model, processor, RECIPE, rows, folder / "training", 0, log)
    unfinished = folder / "captioner.partial"
    model.save_pretrained(unfinished)
    processor.save_pretrained(unfinished)
    return unfinished.replace(checkpoint)
