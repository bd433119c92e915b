"""This module decides which ids stand in the sequence in place of each medium.

It holds Temporal Embedding Grouping, the layout of one medium, and the prompt around the media."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from .audio_media_omnivinci import AudioClip
from .feature_extraction_omnivinci import OmniVinciFeatureExtractor
from .media_forms_omnivinci import flatten
from .video_media_omnivinci import VideoClip


@dataclass(frozen=True)
class TimeGroup:
    """One time window of a clip: half-open ranges into its frames, its visual and its sound embeddings."""

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
    """Lay out the embeddings of one video and of its own sound in time windows of `group_duration_sec` (`T_G`).

    The rounding is the original code's. Boundary tokens that stand inside the two sequences count as embeddings. Sound
    after the end of the video is left out, and so are the embeddings of the sound's padding.

    Args:
        frame_times: moments of the sampled frames in seconds, ascending, the clip starting at 0.
        duration_sec: length of the video.
        audio_sec: length of the sound before padding.
        group_duration_sec: `T_G`.
        num_video_embeds: embeddings of all frames, boundary tokens included.
        num_audio_embeds: embeddings of the padded sound, boundary tokens included.
        audio_frames: mel frames of the padded sound.
        audio_frames_per_sec: mel frames in a second, a whole number.
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


# -- Which ids stand in the sequence in place of a medium: one placeholder per embedding, and boundary texts


@dataclass
class MediumLayout:
    """What the model will see of one medium: its ids in the sequence and how they came about.

    `ids` holds one placeholder id per embedding and the ids of boundary texts. For a video with sound in time groups,
    they are the interleaved ids of both, and `groups` says where each window's part begins. Without groups, the sound
    of a video stands before it as `sound_ids`.

    `kept_embeds (embeddings of all frames,)` bool says which of a video's embeddings stand in the sequence, None: all.
    """

    kind: str
    ids: np.ndarray
    clip: VideoClip | AudioClip | None = None
    audio: AudioClip | None = None
    grid: tuple[int, int] = (0, 0)
    groups: list[TimeGroup] = field(default_factory=list)
    sound_ids: np.ndarray = field(default_factory=lambda: np.zeros(0, dtype=np.int64))
    num_embeds: int = 0
    num_audio_embeds: int = 0
    num_windows: int = 0
    kept_embeds: np.ndarray | None = None


@dataclass(frozen=True)
class LayoutRules:
    """The options of a checkpoint that decide a layout, and the layouts themselves.

    Args:
        image_token_id, video_token_id, audio_token_id: placeholders.
        boundaries: ids of the texts of `OmniVinciConfig.boundary_tokens`.
        tile_side: embeddings along the side of one tile.
        s2_scales, s2_output_scale_index, video_pool_sizes, audio_merge_size: as in `OmniVinciConfig`.
        feature_extractor: says how many windows a sound takes.
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
        """An image whose largest scale has `grid` (rows, columns) of tiles; (0, 0) for one of a single tile."""
        rows, columns = grid if grid[0] else (1, 1)
        if grid[0] and self.s2_output_scale_index not in (-1, len(self.s2_scales) - 1):
            rows = columns = self.s2_scales[self.s2_output_scale_index] // self.s2_scales[0]
        num_embeds = rows * columns * self.tile_side**2
        ids = [*self.boundaries["image_start"], *[self.image_token_id] * num_embeds, *self.boundaries["image_end"]]
        return MediumLayout("image", np.array(ids, dtype=np.int64), grid=grid, num_embeds=num_embeds)

    def audio(self, clip: AudioClip) -> MediumLayout:
        """The whole of a sound, its padding included."""
        num_windows = self.feature_extractor.num_windows(len(clip.samples))
        num_embeds = num_windows * (self.feature_extractor.window_frames // 4 // self.audio_merge_size)
        ids = [*self.boundaries["audio_start"], *[self.audio_token_id] * num_embeds, *self.boundaries["audio_end"]]
        ids = np.array(ids, dtype=np.int64)
        return MediumLayout("audio", ids, clip, clip, num_audio_embeds=num_embeds, num_windows=num_windows)

    def video(
        self, clip: VideoClip, group_duration_sec: float | None, kept_embeds: np.ndarray | None = None
    ) -> MediumLayout:
        """A video, in time groups with its own sound if it has one and `group_duration_sec` is not None.

        `kept_embeds` leaves embeddings out of the groups where they would stand; the groups stay what they are.
        """
        ids = self._frame_ids(len(clip.frames))
        stays = np.ones(len(ids), dtype=bool)
        if kept_embeds is not None:
            stays[ids == self.video_token_id] = kept_embeds
        own = ids[stays]
        layout = MediumLayout("video", own, clip, clip.audio, kept_embeds=kept_embeds)
        layout.num_embeds = int((own == self.video_token_id).sum())
        if clip.audio is None:
            return layout
        sound = self.audio(clip.audio)
        layout.num_audio_embeds, layout.num_windows = sound.num_audio_embeds, sound.num_windows
        if group_duration_sec is None:
            layout.sound_ids = sound.ids
            return layout
        groups = group_clip(
            clip.times,
            clip.duration_sec,
            clip.audio.duration_sec,
            group_duration_sec,
            num_video_embeds=len(ids),
            num_audio_embeds=len(sound.ids),
            audio_frames=self.feature_extractor.num_frames(len(clip.audio.samples)),
            audio_frames_per_sec=self.feature_extractor.sampling_rate // self.feature_extractor.hop_length,
        )
        before = np.concatenate(([0], stays.cumsum())).tolist()  # how many stay, of so many
        layout.groups = [
            replace(group, video_embeds=tuple(before[place] for place in group.video_embeds)) for group in groups
        ]
        end = self.boundaries["group_end"]
        pieces = []
        for group in layout.groups:
            pieces += [own[slice(*group.video_embeds)], end, sound.ids[slice(*group.audio_embeds)], end]
        layout.ids = np.concatenate(pieces).astype(np.int64)
        layout.num_audio_embeds = int((layout.ids == self.audio_token_id).sum())
        return layout

    def _frame_ids(self, num_frames: int) -> np.ndarray:
        start, end, sep = (self.boundaries[f"video_{name}"] for name in ("start", "end", "sep"))
        ids = []
        for frames, rows, columns in self.video_pool_sizes:
            num_embeds = math.ceil(self.tile_side / rows) * math.ceil(self.tile_side / columns)
            ids += [*start, *[self.video_token_id] * num_embeds, *end] * math.ceil(num_frames / frames)
            ids += sep
        return np.array(ids, dtype=np.int64)


# -- Prompts: from words with placeholders to ids of final length, padded or truncated


MODALITY_BOUNDARIES = {kind: (f"<|{name}_bos|>", f"<|{name}_eos|>") for kind, name in
                       (("image", "image"), ("video", "video"), ("audio", "sound"))}  # fmt: skip


def is_text(words: str) -> bool:
    """Whether it can be written as UTF-8: JSON may hold halves of characters, which no tokenizer takes."""
    return not any("\ud800" <= character <= "\udfff" for character in words)


@dataclass(frozen=True)
class PromptEncoder:
    """Makes ids of prompts, and puts those of every medium in the place of its placeholder.

    Args:
        tokenizer: for the words.
        placeholders: kind of medium -> its token and the token's id.
        use_modality_boundary_tokens: as in [`OmniVinciProcessor`].
    """

    tokenizer: Any
    placeholders: Mapping[str, tuple[str, int]]
    use_modality_boundary_tokens: bool

    @property
    def media_ids(self) -> list[int]:
        return [token_id for _, token_id in self.placeholders.values()]

    def text_ids(self, text: str | None) -> list[int]:
        return self.tokenizer(text, add_special_tokens=False)["input_ids"] if text else []

    def tokenize(self, prompt: str, text: Mapping[str, Any] | None = None) -> tuple[np.ndarray, np.ndarray]:
        """Ids of a prompt, placeholders as they are, and the characters `(length, 2)` that each stands for."""
        if not is_text(prompt):
            raise ValueError("The words hold half of a character (a surrogate), which is no text; are they UTF-8?")
        settings = {name: value for name, value in (text or {}).items() if name == "add_special_tokens"}
        encoding = self.tokenizer(prompt, return_offsets_mapping=True, **settings)
        ids = np.array(encoding["input_ids"], dtype=np.int64)
        offsets = np.array(encoding["offset_mapping"], dtype=np.int64).reshape(-1, 2)
        if self.tokenizer.pad_token_id == self.tokenizer.eos_token_id:
            return ids, offsets
        # a literal padding token in the words is dropped, as in the original code
        keep = ids != self.tokenizer.pad_token_id
        return ids[keep], offsets[keep]

    def end_of_media(self, ids: np.ndarray) -> int:
        positions = np.flatnonzero(np.isin(ids, self.media_ids))
        return positions[-1] + 1 if len(positions) else 0

    def check_counts(self, rows: list[tuple[np.ndarray, np.ndarray]], media: Mapping[str, Any]) -> None:
        """Placeholders and media must match, row by row where media come as a list per text."""
        for kind, items in media.items():
            token, token_id = self.placeholders[kind]
            found = [int((ids == token_id).sum()) for ids, _ in rows]
            given = len(flatten(kind, items))
            nested = isinstance(items, list) and len(items) == len(rows) and all(isinstance(row, list) for row in items)
            for index, own in enumerate(items if nested and len(rows) > 1 else ()):
                if found[index] != len(flatten(kind, own)):
                    raise ValueError(
                        f"Text {index} has {found[index]} {token!r} placeholders but its list holds "
                        f"{len(flatten(kind, own))} {kind} inputs; they must match 1:1."
                    )
            if sum(found) != given:
                raise ValueError(
                    f"Got {sum(found)} {token!r} placeholders in the text but {given} {kind} inputs; they must match "
                    "1:1. Write one placeholder for every medium, or use `apply_chat_template`."
                )

    def expand(self, ids, offsets, remaining: Mapping[str, Any], sounds: list, spans) -> tuple[np.ndarray, np.ndarray]:
        """Put every medium's ids in the place of its placeholder.

        Args:
            remaining: kind -> iterator over the layouts of the media that are still to come.
            sounds: collects the layouts of what is heard, in order.
            spans: characters of the prompt that the mask, which is returned too, marks.
        """
        kinds = {self.placeholders[kind][1]: kind for kind in remaining}
        positions = np.flatnonzero(np.isin(ids, list(kinds)))
        events = []  # [position of the placeholder, kind, ids that stand there]
        for position in positions:
            kind = kinds[int(ids[position])]
            layout = next(remaining[kind])
            if layout.audio is not None:
                sounds.append(layout)
            if kind == "video" and layout.audio is not None:
                events.append([position, "audio", layout.sound_ids])
            events.append([position, kind, layout.ids])
        if self.use_modality_boundary_tokens:
            for kind, (bos, eos) in MODALITY_BOUNDARIES.items():
                own = [event for event in events if event[1] == kind]
                if own:
                    own[0][2] = np.concatenate([self.text_ids(bos), own[0][2]])
                    own[-1][2] = np.concatenate([own[-1][2], self.text_ids(eos)])
        mask = span_mask(offsets, spans)
        pieces, masks, done = [], [], 0
        for position in positions:
            inserted = np.concatenate([event[2] for event in events if event[0] == position])
            pieces += [ids[done:position], inserted]
            masks += [mask[done:position], np.zeros(len(inserted), dtype=np.int64)]
            done = position + 1
        return np.concatenate([*pieces, ids[done:]]), np.concatenate([*masks, mask[done:]])

    def pad(self, rows: list[np.ndarray], masks: list[np.ndarray] | None, text: Mapping[str, Any]) -> dict[str, Any]:
        """`input_ids` and `attention_mask` of a batch, and `assistant_masks` if there are masks."""
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
        """The part of a row that truncation leaves, on the tokenizer's side."""
        left = self.tokenizer.truncation_side == "left"
        kept = slice(max(0, len(row) - max_length), None) if left else slice(None, max_length)
        if np.isin(row, self.media_ids).sum() != np.isin(row[kept], self.media_ids).sum():
            raise ValueError(
                f"`max_length`={max_length} would cut a medium in a sequence of {len(row)} tokens: raise it, or take "
                "fewer frames or seconds of sound."
            )
        return kept


def span_mask(offsets: np.ndarray, spans) -> np.ndarray:
    """1 for tokens that overlap one of the character spans."""
    mask = np.zeros(len(offsets), dtype=np.int64)
    for start, end in spans or []:
        mask |= (offsets[:, 0] < end) & (offsets[:, 1] > start)
    return mask
