"""This module decides which ids stand in the sequence in place of each medium.

It holds Temporal Embedding Grouping, the layout of one medium, and the prompt around the media.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from .audio_media_omnivinci import AudioClip
from .feature_extraction_omnivinci import OmniVinciFeatureExtractor
from .media_sources_omnivinci import flatten
from .video_media_omnivinci import VideoClip


@dataclass(frozen=True)
class TimeGroup:
    """A time group is one time window of a clip: half-open ranges into its frames, visual and audio embeddings."""

    start_sec: float
    end_sec: float
    frames: tuple[int, int]
    video_embeds: tuple[int, int]
    audio_embeds: tuple[int, int]


def group_clip(
    frame_times: Sequence[float],
    duration_sec: float,
    audio_sec: float,
    group_duration_sec: float,
    num_video_embeds: int,
    num_audio_embeds: int,
    audio_frames: int,
    audio_frames_per_sec: int,
) -> list[TimeGroup]:
    """Lays out the embeddings of one video and of its audio in time windows of `group_duration_sec` (`T_G`).

    The rounding is the original code's. Boundary tokens that stand inside the two sequences count as embeddings. Audio
    after the end of the video is left out, and so are the embeddings of its padding.

    Args:
        frame_times: when the sampled frames are shown, in seconds, ascending; the clip starts at 0.
        duration_sec: length of the video.
        audio_sec: length of the audio before padding.
        group_duration_sec: `T_G`.
        num_video_embeds: embeddings of all frames, boundary tokens included.
        num_audio_embeds: embeddings of the padded audio, boundary tokens included.
        audio_frames: mel frames of the padded audio.
        audio_frames_per_sec: mel frames in a second, a whole number.

    Returns:
        The groups in order; their ranges of embeddings count boundary tokens, too.
    """
    groups = []
    frame = video = audio = audio_end_frame = 0
    num_groups = math.ceil(duration_sec / group_duration_sec)
    for index in range(num_groups):
        start_sec, end_sec = index * group_duration_sec, min((index + 1) * group_duration_sec, duration_sec)
        first_frame, first_video, first_audio = frame, video, audio
        last = index == num_groups - 1
        while frame < len(frame_times) and (last or frame_times[frame] < end_sec):
            frame += 1
        if frame > first_frame:
            video = min(math.ceil(frame * (num_video_embeds / len(frame_times))), num_video_embeds)
        heard_until = min(end_sec, audio_sec)
        if heard_until > start_sec:
            audio_end_frame = round(heard_until * audio_frames_per_sec)
            audio = min(math.ceil(audio_end_frame * (num_audio_embeds / audio_frames)), num_audio_embeds)
        groups.append(TimeGroup(start_sec, end_sec, (first_frame, frame), (first_video, video), (first_audio, audio)))
    return groups


# -- The layout of one medium: one placeholder per embedding, and boundary texts


@dataclass
class MediumLayout:
    """The layout of a medium says which ids stand in the sequence in its place, and how they came about.

    Args:
        modality: "image", "video" or "audio".
        ids `(length,)`: one placeholder id per embedding and the ids of boundary texts. Those of a video and of its
            audio are interleaved in time groups.
        clip: the decoded video or audio clip.
        audio: the audio clip itself, or the audio of a video if that is heard.
        grid: rows and columns of tiles of an image, (0, 0) for a single tile.
        groups: the time groups of a video with audio.
        audio_ids `(audio_length,)`: ids of a video's audio, which stands before its frames if there are no time
            groups; else empty.
        num_embeds, num_audio_embeds: how many embeddings stand in the sequence.
        num_windows: windows that the audio encoder hears.
        kept_embeds `(embeddings of all frames,)` bool: which of a video's embeddings stand in the sequence; None: all.
    """

    modality: str
    ids: np.ndarray
    clip: VideoClip | AudioClip | None = None
    audio: AudioClip | None = None
    grid: tuple[int, int] = (0, 0)
    groups: list[TimeGroup] = field(default_factory=list)
    audio_ids: np.ndarray = field(default_factory=lambda: np.zeros(0, dtype=np.int64))
    num_embeds: int = 0
    num_audio_embeds: int = 0
    num_windows: int = 0
    kept_embeds: np.ndarray | None = None


@dataclass(frozen=True)
class LayoutRules:
    """Layout rules decide, from the options of a checkpoint, which ids stand in the place of a medium.

    Args:
        image_token_id, video_token_id, audio_token_id: placeholders.
        boundaries: ids of the texts of `OmniVinciConfig.boundary_tokens`.
        tile_side: embeddings along the side of one tile.
        s2_scales, s2_output_scale_index, video_pool_sizes, audio_merge_size: as in `OmniVinciConfig`.
        feature_extractor: says how many windows an audio clip takes.
    """

    image_token_id: int
    video_token_id: int
    audio_token_id: int
    boundaries: Mapping[str, Sequence[int]]
    tile_side: int
    s2_scales: Sequence[int]
    s2_output_scale_index: int
    video_pool_sizes: Sequence[Sequence[int]]
    audio_merge_size: int
    feature_extractor: OmniVinciFeatureExtractor

    def image(self, grid: tuple[int, int]) -> MediumLayout:
        """Lays out an image whose largest scale has `grid` (rows, columns) of tiles, (0, 0) for a single tile."""
        rows, columns = grid if grid[0] else (1, 1)
        if grid[0] and self.s2_output_scale_index not in (-1, len(self.s2_scales) - 1):
            rows = columns = self.s2_scales[self.s2_output_scale_index] // self.s2_scales[0]
        num_embeds = rows * columns * self.tile_side**2
        ids = [*self.boundaries["image_start"], *[self.image_token_id] * num_embeds, *self.boundaries["image_end"]]
        return MediumLayout("image", np.array(ids, dtype=np.int64), grid=grid, num_embeds=num_embeds)

    def audio(self, clip: AudioClip) -> MediumLayout:
        """Lays out the whole of an audio clip, its padding included."""
        num_windows = self.feature_extractor.num_windows(len(clip.samples))
        num_embeds = num_windows * (self.feature_extractor.window_frames // 4 // self.audio_merge_size)
        ids = [*self.boundaries["audio_start"], *[self.audio_token_id] * num_embeds, *self.boundaries["audio_end"]]
        layout = MediumLayout("audio", np.array(ids, dtype=np.int64), clip, clip)
        layout.num_audio_embeds, layout.num_windows = num_embeds, num_windows
        return layout

    def video(
        self, clip: VideoClip, group_duration_sec: float | None, kept_embeds: np.ndarray | None = None
    ) -> MediumLayout:
        """Lays out a video, in time groups with its audio if it has some and `group_duration_sec` is not None.

        `kept_embeds` leaves embeddings out of the groups where they would stand; the groups stay what they are.
        """
        all_ids = self._frame_ids(len(clip.frames))
        stays = np.ones(len(all_ids), dtype=bool)
        if kept_embeds is not None:
            stays[all_ids == self.video_token_id] = kept_embeds
        frame_ids = all_ids[stays]
        layout = MediumLayout("video", frame_ids, clip, clip.audio, kept_embeds=kept_embeds)
        layout.num_embeds = int((frame_ids == self.video_token_id).sum())
        if clip.audio is None:
            return layout
        audio = self.audio(clip.audio)
        layout.num_audio_embeds, layout.num_windows = audio.num_audio_embeds, audio.num_windows
        if group_duration_sec is None:
            layout.audio_ids = audio.ids
            return layout
        groups = group_clip(
            clip.times.tolist(),
            clip.duration_sec,
            clip.audio.duration_sec,
            group_duration_sec,
            num_video_embeds=len(all_ids),
            num_audio_embeds=len(audio.ids),
            audio_frames=self.feature_extractor.num_frames(len(clip.audio.samples)),
            audio_frames_per_sec=self.feature_extractor.sampling_rate // self.feature_extractor.hop_length,
        )
        num_kept = np.concatenate(([0], stays.cumsum())).tolist()  # of the first 0, 1, 2, ... embeddings
        for group in groups:
            first, stop = group.video_embeds
            layout.groups.append(replace(group, video_embeds=(num_kept[first], num_kept[stop])))
        end = np.array(self.boundaries["group_end"], dtype=np.int64)
        pieces = []
        for group in layout.groups:
            pieces += [frame_ids[slice(*group.video_embeds)], end, audio.ids[slice(*group.audio_embeds)], end]
        layout.ids = np.concatenate(pieces)
        layout.num_audio_embeds = int((layout.ids == self.audio_token_id).sum())
        return layout

    def _frame_ids(self, num_frames: int) -> np.ndarray:
        start, end, sep = (self.boundaries[f"video_{name}"] for name in ("start", "end", "sep"))
        ids: list[int] = []
        for frames, rows, columns in self.video_pool_sizes:
            num_embeds = math.ceil(self.tile_side / rows) * math.ceil(self.tile_side / columns)
            ids += [*start, *[self.video_token_id] * num_embeds, *end] * math.ceil(num_frames / frames)
            ids += sep
        return np.array(ids, dtype=np.int64)


# -- Prompts: words with placeholders become ids of final length, padded or truncated


MODALITY_BOUNDARIES = {
    "image": ("<|image_bos|>", "<|image_eos|>"),
    "video": ("<|video_bos|>", "<|video_eos|>"),
    "audio": ("<|sound_bos|>", "<|sound_eos|>"),
}


Spans = Sequence[tuple[int, int]]


def is_text(words: str) -> bool:
    """Tells whether words can be written as UTF-8: JSON may hold halves of characters, which no tokenizer takes."""
    return not any("\ud800" <= character <= "\udfff" for character in words)


@dataclass(frozen=True)
class PromptEncoder:
    """A prompt encoder turns prompts into ids, and puts those of every medium in the place of its placeholder.

    Args:
        tokenizer: for the words.
        placeholders: modality -> its placeholder token and the token's id.
        use_modality_boundary_tokens: as in [`OmniVinciProcessor`].
    """

    tokenizer: Any
    placeholders: Mapping[str, tuple[str, int]]
    use_modality_boundary_tokens: bool

    @property
    def media_ids(self) -> list[int]:
        """The ids of the placeholders of all modalities."""
        return [token_id for _, token_id in self.placeholders.values()]

    def text_ids(self, text: str | None) -> list[int]:
        """Tokenizes a text that stands around media, without special tokens."""
        return self.tokenizer(text, add_special_tokens=False)["input_ids"] if text else []

    def tokenize(self, prompt: str, text: Mapping[str, Any] | None = None) -> tuple[np.ndarray, np.ndarray]:
        """Tokenizes a prompt, with one token for each placeholder.

        Args:
            text: options of the text; `add_special_tokens` is obeyed here.

        Returns:
            ids `(length,)` and the characters `(length, 2)` of the prompt that each stands for.
        """
        if not is_text(prompt):
            raise ValueError("The words hold half of a character (a surrogate), which is no text; are they UTF-8?")
        settings = {name: value for name, value in (text or {}).items() if name == "add_special_tokens"}
        encoding = self.tokenizer(prompt, return_offsets_mapping=True, **settings)
        ids = np.array(encoding["input_ids"], dtype=np.int64)
        offsets = np.array(encoding["offset_mapping"], dtype=np.int64).reshape(-1, 2)
        if self.tokenizer.pad_token_id == self.tokenizer.eos_token_id:
            return ids, offsets
        # The original code drops a literal padding token in the words, too.
        keep = ids != self.tokenizer.pad_token_id
        return ids[keep], offsets[keep]

    def end_of_media(self, ids: np.ndarray) -> int:
        """Finds the position after the last placeholder, 0 if there is none."""
        positions = np.flatnonzero(np.isin(ids, self.media_ids))
        return positions[-1] + 1 if len(positions) else 0

    def check_counts(self, rows: list[tuple[np.ndarray, np.ndarray]], media: Mapping[str, Any]) -> None:
        """Refuses placeholders and media that do not match, row by row where media come as a list per text."""
        for modality, items in media.items():
            token, token_id = self.placeholders[modality]
            counts = [int((ids == token_id).sum()) for ids, _ in rows]
            given = len(flatten(modality, items))
            nested = isinstance(items, list) and len(items) == len(rows) and all(isinstance(row, list) for row in items)
            for index, row_items in enumerate(items if nested and len(rows) > 1 else ()):
                if counts[index] != (num_items := len(flatten(modality, row_items))):
                    raise ValueError(
                        f"Text {index} has {counts[index]} {token!r} placeholders but its list holds "
                        f"{num_items} {modality} inputs; they must match 1:1."
                    )
            if sum(counts) != given:
                raise ValueError(
                    f"Got {sum(counts)} {token!r} placeholders in the text but {given} {modality} inputs; they must "
                    "match 1:1. Write one placeholder for every medium, or use `apply_chat_template`."
                )

    def modalities(self, ids: np.ndarray) -> list[str]:
        """Tells the modality of each placeholder, in order."""
        names = {token_id: modality for modality, (_, token_id) in self.placeholders.items()}
        return [names[token_id] for token_id in ids[np.isin(ids, self.media_ids)].tolist()]

    def expand(
        self, ids: np.ndarray, offsets: np.ndarray, layouts: Sequence[MediumLayout], spans: Spans | None
    ) -> tuple[np.ndarray, np.ndarray]:
        """Puts the ids of every medium in the place of its placeholder.

        Args:
            ids, offsets: of the prompt, from [`tokenize`].
            layouts: one for each placeholder, in order.
            spans: first and last character of the parts of the prompt that the mask marks.

        Returns:
            ids `(length,)` and the mask `(length,)`, 1 for words in the spans.
        """
        mask = span_mask(offsets, spans)
        pieces, masks, done = [], [], 0
        positions = np.flatnonzero(np.isin(ids, self.media_ids))
        for position, inserted in zip(positions, self._with_modality_boundaries(layouts), strict=True):
            pieces += [ids[done:position], inserted]
            masks += [mask[done:position], np.zeros(len(inserted), dtype=np.int64)]
            done = position + 1
        return np.concatenate([*pieces, ids[done:]]), np.concatenate([*masks, mask[done:]])

    def _with_modality_boundaries(self, layouts: Sequence[MediumLayout]) -> list[np.ndarray]:
        """Returns the ids of each medium, with boundary tokens before the first and after the last of a modality."""
        pieces: list[list[Any]] = []  # [number of the medium, modality, ids]
        for number, layout in enumerate(layouts):
            if layout.modality == "video" and layout.audio is not None:
                pieces.append([number, "audio", layout.audio_ids])
            pieces.append([number, layout.modality, layout.ids])
        if self.use_modality_boundary_tokens:
            for modality, (start, end) in MODALITY_BOUNDARIES.items():
                if same := [piece for piece in pieces if piece[1] == modality]:
                    same[0][2] = np.concatenate([self.text_ids(start), same[0][2]])
                    same[-1][2] = np.concatenate([same[-1][2], self.text_ids(end)])
        return [np.concatenate([ids for at, _, ids in pieces if at == number]) for number in range(len(layouts))]

    def pad(self, rows: list[np.ndarray], masks: list[np.ndarray] | None, text: Mapping[str, Any]) -> dict[str, Any]:
        """Truncates and pads the rows of a batch as the options of the text say.

        Returns:
            `input_ids` and `attention_mask`, and `assistant_masks` if there are masks; each a list per row.
        """
        if text.get("truncation") not in (None, False, "do_not_truncate"):
            kept = [self._kept(row, text.get("max_length") or self.tokenizer.model_max_length) for row in rows]
            rows = [row[part] for row, part in zip(rows, kept, strict=True)]
            masks = None if masks is None else [mask[part] for mask, part in zip(masks, kept, strict=True)]
        side = text.get("padding_side") or self.tokenizer.padding_side
        data = self.tokenizer.pad(
            {"input_ids": [row.tolist() for row in rows]},
            padding=text.get("padding") or False,
            padding_side=side,
            max_length=text.get("max_length"),
            pad_to_multiple_of=text.get("pad_to_multiple_of"),
            return_attention_mask=True,
            verbose=text.get("verbose", True),
        )
        data = dict(data)
        if masks is not None:
            missing = [len(ids) - len(mask) for ids, mask in zip(data["input_ids"], masks, strict=True)]
            data["assistant_masks"] = [
                [0] * gap * (side == "left") + mask.tolist() + [0] * gap * (side == "right")
                for gap, mask in zip(missing, masks, strict=True)
            ]
        return data

    def _kept(self, row: np.ndarray, max_length: int) -> slice:
        """Returns the part of a row that truncation leaves, on the tokenizer's side."""
        left = self.tokenizer.truncation_side == "left"
        kept = slice(max(0, len(row) - max_length), None) if left else slice(None, max_length)
        if np.isin(row, self.media_ids).sum() != np.isin(row[kept], self.media_ids).sum():
            raise ValueError(
                f"`max_length`={max_length} would cut a medium in a sequence of {len(row)} tokens: raise it, or take "
                "fewer frames or seconds of audio."
            )
        return kept


def span_mask(offsets: np.ndarray, spans: Spans | None) -> np.ndarray:
    """Marks with 1 the tokens that overlap one of the character spans."""
    mask = np.zeros(len(offsets), dtype=np.int64)
    for start, end in spans or []:
        mask |= (offsets[:, 0] < end) & (offsets[:, 1] > start)
    return mask
