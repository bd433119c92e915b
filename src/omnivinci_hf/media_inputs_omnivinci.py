"""The media of one call of the processor: read side by side, each with the options of the call and its own."""

import threading
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from PIL import Image

from .audio_media_omnivinci import AudioClip, load_audio
from .conversation_omnivinci import flatten, flatten_videos
from .media_limits_omnivinci import MediaError
from .media_omnivinci import MediaPart, load_image
from .media_reading_omnivinci import available_processors, run_all
from .video_media_omnivinci import VideoClip, load_video


# options of one call only: no configuration that was downloaded can open connections or lift limits
RANGE_OPTIONS = ("start_sec", "end_sec")
FRAME_OPTIONS = ("frame_indices", "frame_times")
READ_OPTIONS = (
    "timeout_sec",
    "media_limits",
    "on_damage",
    "progress",
    "allow_urls",
    "allow_redirects",
    "allow_private_addresses",
)
_CHOICE_OPTIONS = ("num_frames", "fps", *FRAME_OPTIONS)


def load_media(
    images, videos, audio, options: Mapping[str, Any], transform: Callable[[Image.Image], Any], sampling_rate: int
) -> tuple[list[Image.Image], list[VideoClip], list[AudioClip]]:
    """What the call's images, videos and sounds are, in order.

    Args:
        images, videos, audio: one medium, a list, or a list per text; a [`MediaPart`] has options of its own.
        options: of the processor's call.
        transform: what becomes of every frame of a video.
        sampling_rate: of the sounds that are returned.
    """
    images, audio, videos = flatten(images), flatten(audio), flatten_videos(videos)
    metadata = options["video_metadata"]
    metadata = metadata if isinstance(metadata, (list, tuple)) else [metadata] * len(videos)
    if len(metadata) != len(videos):
        raise ValueError(f"Got {len(videos)} videos but {len(metadata)} entries of `video_metadata`.")
    num_threads = available_processors()
    shared = {name: options[name] for name in (*RANGE_OPTIONS, *READ_OPTIONS) if options[name] is not None}
    # One video is decoded by all processors, several are decoded side by side.
    shared.update(cancelled=threading.Event(), num_threads=max(1, num_threads // max(1, len(videos))))
    watching = {
        **{name: options[name] for name in _CHOICE_OPTIONS},
        "with_audio": options["load_audio_from_video"],
        "sampling_rate": sampling_rate,
        "downmix": options["video_audio_downmix"],
        "align_audio_start": options["align_audio_start"],
        "max_audio_sec": options["max_audio_sec"],
        "transform": transform,
        **shared,
    }
    hearing = {
        "sampling_rate": sampling_rate,
        "input_sampling_rate": options["sampling_rate"],
        "max_sec": options["max_audio_sec"],
        **shared,
    }
    reading = {name: value for name, value in shared.items() if name not in RANGE_OPTIONS}
    jobs = [partial(load_image, _with_options(image)[0], **reading) for image in images]
    for video, entry in zip(videos, metadata, strict=True):
        jobs.append(_video_job(*_with_options(video), entry, watching, hearing))
    for sound, own in map(_with_options, audio):
        jobs.append(partial(load_audio, sound, **{**hearing, **own}))
    if len(jobs) > 1:
        kinds = (("image", images), ("video", videos), ("audio", audio))
        labels = [f"{kind} {number}" for kind, media in kinds for number in range(1, len(media) + 1)]
        jobs = [partial(_labelled, label, job) for label, job in zip(labels, jobs, strict=True)]
    media = run_all(jobs, num_threads, shared["cancelled"])
    first_sound = len(images) + len(videos)
    return media[: len(images)], media[len(images) : first_sound], media[first_sound:]


def _labelled(label: str, read: Callable) -> Any:
    """Bytes and arrays have no name that would tell which of several is meant."""
    try:
        return read()
    except MediaError as error:
        raise MediaError(f"{label}: {error}") from error


def _with_options(medium) -> tuple[Any, dict[str, Any]]:
    """A medium and the options that its part of the conversation has."""
    return (medium.source, medium.options) if isinstance(medium, MediaPart) else (medium, {})


def _video_job(video, own: dict[str, Any], metadata, watching: dict, hearing: dict) -> Callable[[], VideoClip]:
    """`own` options come before those of the call; a sound that is given replaces that of the file."""
    if any(name in own for name in _CHOICE_OPTIONS):
        watching = {**watching, **dict.fromkeys(_CHOICE_OPTIONS)}
    given = own if "audio" in own else metadata if isinstance(metadata, Mapping) else {}
    sound = {**hearing, **{name: own[name] for name in RANGE_OPTIONS if name in own}}
    if given.get("sampling_rate") is not None:
        sound["input_sampling_rate"] = given["sampling_rate"]
    own = {name: value for name, value in own.items() if name not in ("audio", "sampling_rate")}
    listen = None if given.get("audio") is None else partial(load_audio, given["audio"], **sound)
    return partial(_watch, video, listen, metadata=metadata, **{**watching, **own})


def _watch(video, listen, with_audio: bool, **options) -> VideoClip:
    """The clip with its own sound, or with the one that `listen` returns."""
    clip = load_video(video, with_audio=with_audio and listen is None, **options)
    if listen is not None:
        clip.audio = listen()
    return clip
