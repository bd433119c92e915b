"""This module reads tracks of the made-up world as a processor does from files, and makes clips of any two of them.

A picture track and a sound track of the same length and place can be put together in any pair: the answers follow from
their events. So a few thousand files give tens of thousands of clips, with many questions about each.
"""

import copy
import os
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import torch
from torch.utils.data import Dataset

from ..omnivinci.audio_media_omnivinci import AudioClip, load_audio
from ..omnivinci.configuration_omnivinci import MEDIA_TOKENS
from ..omnivinci.processing_omnivinci import OmniVinciProcessor
from ..omnivinci.video_media_omnivinci import VideoClip, load_video
from ..training.collator import EncodedRow, join_branches
from . import FAMILIES, PLACES, Question, Scene, list_questions, questions, sample_scene, write_clip
from .model import FPS, IMAGE_SIZE, SAMPLING_RATE


DURATIONS = tuple(range(6, 21))  # seconds
SUFFIXES = (".mp4", ".mp4", ".mkv", ".webm")  # each codec spoils a clip in its own way
BLOCK_ROWS = PLACES
MAX_DRAWS = 1000
SHIFT = 3  # pixels


@dataclass(frozen=True)
class Tracks:
    """Tracks are what was decoded from the file of a scene.

    They hold `frames (num_frames, size, size, 3)` uint8 at `times (num_frames,)` seconds, and `samples (num_samples,)`
    int16.
    """

    scene: Scene
    frames: np.ndarray
    times: np.ndarray
    samples: np.ndarray


@dataclass(frozen=True)
class View:
    """A view says how the pictures of a clip are looked at: mirrored or not, and moved by some pixels.

    No answer depends on it.
    """

    mirrored: bool = False
    down: int = 0
    right: int = 0

    @classmethod
    def sample(cls, rng: np.random.Generator) -> "View":
        """Draws a view at random."""
        return cls(bool(rng.integers(2)), *(int(step) for step in rng.integers(-SHIFT, SHIFT + 1, size=2)))

    def of(self, frames: np.ndarray) -> np.ndarray:
        """Shows `(num_frames, height, width, 3)` in this view; what comes in from beyond the edge repeats it."""
        height, width = frames.shape[1:3]
        rows = (np.arange(height) - self.down).clip(0, height - 1)
        columns = (np.arange(width) - self.right).clip(0, width - 1)
        return frames[:, rows][:, :, columns[::-1] if self.mirrored else columns]


def scene_of(seed: int) -> Scene:
    """Draws the scene of a seed; lengths and places take turns."""
    turn, number = divmod(seed, len(DURATIONS))
    return sample_scene(seed, duration_sec=DURATIONS[number], place=turn % PLACES)


def suffix_of(seed: int) -> str:
    """Tells how the file of a seed is encoded."""
    return SUFFIXES[np.random.default_rng((seed, 8)).integers(len(SUFFIXES))]


def read_tracks(seed: int, folder: str | os.PathLike) -> Tracks:
    """Writes the clip of a seed, reads it as the processor would, deletes it."""
    scene = scene_of(seed)
    path = write_clip(scene, Path(folder) / f"{seed}{suffix_of(seed)}")
    try:
        clip = load_video(path, fps=FPS, load_audio_from_video=False)
        size = (IMAGE_SIZE, IMAGE_SIZE)
        frames = np.stack([np.asarray(frame.resize(size, resample=3)) for frame in clip.frames])
        sound = load_audio(path, sampling_rate=SAMPLING_RATE)
    finally:
        path.unlink()
    samples = np.clip(np.round(sound.samples * 32767), -32768, 32767).astype(np.int16)
    return Tracks(scene, frames, np.asarray(clip.times), samples)


def load_tracks(seeds: Sequence[int], cache: str | os.PathLike | None = None, num_processes: int = 1) -> list[Tracks]:
    """Reads the tracks of all seeds; those in the folder `cache` are not made again."""
    with tempfile.TemporaryDirectory() as scratch:
        work = partial(_cached_tracks, folder=scratch, cache=cache)
        if num_processes == 1:
            return [work(seed) for seed in seeds]
        method = "fork" if sys.platform == "linux" else None  # no need to import all anew
        with get_context(method).Pool(num_processes, initializer=torch.set_num_threads, initargs=(1,)) as pool:
            return pool.map(work, seeds, chunksize=16)


def _cached_tracks(seed: int, folder: str, cache: str | os.PathLike | None) -> Tracks:
    if cache is None:
        return read_tracks(seed, folder)
    path, scene = Path(cache) / f"{seed}.npz", scene_of(seed)
    source = f"{IMAGE_SIZE} {FPS} {SAMPLING_RATE} {suffix_of(seed)} {scene!r}"
    if path.exists():
        with np.load(path) as stored:
            if str(stored.get("source")) == source:  # the world, or how it is read, may have changed
                return Tracks(scene, stored["frames"], stored["times"], stored["samples"])
    tracks = read_tracks(seed, folder)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial_path = path.with_name(f"{seed}.{os.getpid()}.partial.npz")
    np.savez(partial_path, frames=tracks.frames, times=tracks.times, samples=tracks.samples, source=source)
    partial_path.replace(path)
    return tracks


class TrackEncoder:
    """An encoder prepares what the model reads of a picture track, of a sound track and of words, each encoded once.

    [`TrackEncoder.encode`] gives the same as the collator of the training package does for [`row`], in a tenth of the
    time.
    """

    def __init__(self, processor: OmniVinciProcessor, tracks: Sequence[Tracks]):
        self.processor, self.rules, self.tracks = processor, processor.layout_rules, tracks
        self.sounds = [self._hear(track) for track in tracks]
        self.words: dict[Question, tuple[torch.Tensor, torch.Tensor]] = {}
        prompt = processor.apply_chat_template(_conversation({"type": "video", "path": "-"}, Question("", "", "")))
        self.before = processor.tokenizer(prompt.split(MEDIA_TOKENS["video_token_id"])[0])["input_ids"]

    def for_processor(self, processor: OmniVinciProcessor) -> "TrackEncoder":
        """Gives the same tracks for a processor that lays them out in another way."""
        other = copy.copy(self)
        other.processor, other.rules, other.words = processor, processor.layout_rules, {}
        return other

    def encode(
        self,
        seen: int,
        heard: int,
        chosen: Sequence[Question],
        kept: np.ndarray | None = None,
        view: View | None = None,
    ) -> EncodedRow:
        """Encodes a clip with the picture of one track and the sound of another, and questions about it.

        `kept` are the indices of the frames that the model sees, all by default, and `view` tells how it sees them.
        """
        picture, sound = self.tracks[seen], self.sounds[heard]
        audio = AudioClip(self.tracks[heard].samples, SAMPLING_RATE)
        frames, times = picture.frames, picture.times
        if kept is not None:
            frames, times = frames[kept], times[kept]
        if view is not None:
            frames = view.of(frames)
        pixels = torch.from_numpy(frames).permute(0, 3, 1, 2)
        clip = VideoClip(
            pixels,
            times,
            indices=np.arange(len(times)),
            duration_sec=picture.scene.duration_sec,
            fps=FPS,
            total_frames=len(times),
            audio=audio,
            name="",
            size=(IMAGE_SIZE, IMAGE_SIZE),
        )
        layout = self.rules.video(clip, self.processor.group_duration_sec)
        shared = torch.tensor([*self.before, *layout.audio_ids, *layout.ids])
        media = {
            "pixel_values_videos": (pixels.float() / 255 - 0.5) / 0.5,
            "video_num_frames": torch.tensor([len(pixels)]),
            "video_frame_times_ns": torch.from_numpy(np.round(times * 1e9).astype(np.int64)),
            **{name: value.float() if value.dtype == torch.float16 else value for name, value in sound.items()},
            "audio_num_embeds": torch.tensor([layout.num_audio_embeds]),
            "video_has_audio": torch.ones(1, dtype=torch.bool),
            "audio_from_video": torch.ones(1, dtype=torch.bool),
        }
        return self._join(shared, chosen, media)

    def encode_words(self, chosen: Sequence[Question]) -> EncodedRow:
        """Encodes the questions alone, without a clip."""
        return self._join(torch.tensor(self.before), chosen, {})

    def _join(self, shared: torch.Tensor, chosen: Sequence[Question], media: dict[str, torch.Tensor]) -> EncodedRow:
        parts = [(shared, torch.zeros_like(shared, dtype=torch.bool), 0)]
        parts += [(*self._words(question), number) for number, question in enumerate(chosen, 1)]
        return join_branches(parts, media)

    def _hear(self, track: Tracks) -> dict[str, torch.Tensor]:
        features = self.processor.feature_extractor([track.samples / np.float32(32768)])
        return {**features, "input_features": features["input_features"].half()}

    def _words(self, question: Question) -> tuple[torch.Tensor, torch.Tensor]:
        if question not in self.words:
            conversation = _conversation({"type": "video", "path": "-"}, question)
            ids, spoken = self.processor.encode_after_media(conversation)
            self.words[question] = torch.tensor(ids), torch.tensor(spoken).bool()
        return self.words[question]


class PairedClips(Dataset):
    """The data set has rows of clips whose picture and sound were put together at random, with several questions each.

    Args:
        encoder ([`TrackEncoder`]): picture and sound are taken from its tracks.
        length (`int`): number of rows. Row `i` is the same every time. Rows that come together in blocks of
            `BLOCK_ROWS` are of one length, to be padded little, and of different places, to be told apart.
        seed (`int`): of the pairs and the choice of questions.
        num_questions (`int`): at most so many for a clip.
        lists (`float`): share of the questions that ask for all events.
        families (`Sequence[str]`, *optional*): leave the others out.
        weights (`Mapping[str, float]`, *optional*): how much more often than others families are asked.
        max_sec (`float`, *optional*): longest clips; short ones are quicker to learn from at first.
    """

    def __init__(
        self,
        encoder: TrackEncoder,
        length: int,
        seed: int = 0,
        num_questions: int = 8,
        lists: float = 0.25,
        families: Sequence[str] | None = None,
        weights: Mapping[str, float] | None = None,
        max_sec: float | None = None,
    ):
        self.encoder, self.length, self.seed = encoder, length, seed
        self.num_questions, self.lists, self.families, self.weights = num_questions, lists, families, weights or {}
        self.alike: dict[float, dict[int, list[int]]] = {}  # tracks by duration and place
        for index, track in enumerate(encoder.tracks):
            duration, place = track.scene.duration_sec, track.scene.vision.place
            if place is not None and (max_sec is None or duration <= max_sec):
                self.alike.setdefault(duration, {}).setdefault(place, []).append(index)
        if not self.alike:
            raise ValueError(f"None of {len(encoder.tracks)} tracks is at most {max_sec} s long.")

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> EncodedRow:
        view = View.sample(np.random.default_rng((self.seed, index, 2)))
        return self.encoder.encode(*self.draw(index), view=view)

    def draw(self, index: int) -> tuple[int, int, list[Question]]:
        """Draws which picture, which sound, and the questions."""
        if not 0 <= index < self.length:
            raise IndexError(index)
        rng, tracks = np.random.default_rng((self.seed, index)), self.encoder.tracks
        block = np.random.default_rng((self.seed, index // BLOCK_ROWS, 1))
        places = self.alike[block.choice(sorted(self.alike))]
        turns = block.permutation(sorted(places))
        alike = places[turns[index % BLOCK_ROWS % len(turns)]]
        for _ in range(MAX_DRAWS):
            seen, heard = (alike[number] for number in rng.integers(len(alike), size=2))
            if chosen := self._choose(Scene(tracks[seen].scene.vision, tracks[heard].scene.sound), rng):
                return seen, heard, chosen
        families = self.families or FAMILIES
        raise ValueError(f"No question of {families} can be asked about {MAX_DRAWS} clips of this length.")

    def _choose(self, scene: Scene, rng: np.random.Generator) -> list[Question]:
        asked = questions(scene, rng)
        if self.families is not None:
            asked = [question for question in asked if question.family in self.families]
        dense = list_questions(scene) if self.lists else []
        num_dense = min(len(dense), int(rng.binomial(self.num_questions, self.lists)))
        chosen = [dense[i] for i in rng.permutation(len(dense))[:num_dense]]
        # a family with many questions does not crowd out the others
        families: dict[str, list[Question]] = {}
        for i in rng.permutation(len(asked)):
            families.setdefault(asked[i].family, []).append(asked[i])
        order = sorted(
            ((rank + rng.random()) / self.weights.get(family, 1.0), question)
            for family, of_family in families.items()
            for rank, question in enumerate(of_family)
        )
        return chosen + [question for _, question in order[: self.num_questions - num_dense]]


def row(seen: Tracks, heard: Tracks, chosen: Sequence[Question], name: str) -> dict:
    """Makes a row of training data: one conversation for each question, all about the same clip."""
    video = {
        "type": "video",
        "video": seen.frames,
        "video_metadata": {"times": seen.times, "duration": seen.scene.duration_sec},
        "num_frames": len(seen.frames),
        "audio": heard.samples,
        "sampling_rate": SAMPLING_RATE,
    }
    return {"id": name, "conversations": [_conversation(video, question) for question in chosen]}


def _conversation(video: dict, question: Question) -> list[dict]:
    return [
        {"role": "user", "content": [video, {"type": "text", "text": question.question}]},
        {"role": "assistant", "content": question.answer},
    ]
