"""Temporal Embedding Grouping (TEG): which stretch of a clip's frames and of its sound stand side by side.

This is the only place that knows the rule; the processor, `omnivinci-hf inspect` and serving code read its result.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass


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

    The rounding is the released code's. Boundary tokens that stand inside the two sequences count as embeddings. Sound
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
