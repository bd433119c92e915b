"""Which ids stand in the sequence in place of a medium: one placeholder per embedding, and boundary texts."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from .audio_media_omnivinci import AudioClip
from .feature_extraction_omnivinci import OmniVinciFeatureExtractor
from .grouping_omnivinci import TimeGroup, group_clip
from .video_media_omnivinci import VideoClip


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
