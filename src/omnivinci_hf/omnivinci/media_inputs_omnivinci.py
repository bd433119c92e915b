"""The media of one call of the processor: read side by side, each with the options of the call and its own."""

import threading
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from PIL import Image

from .audio_media_omnivinci import AudioClip, load_audio
from .configuration_omnivinci import MODALITIES
from .conversation_omnivinci import MediaPart
from .frame_sampling_omnivinci import check_choice
from .media_forms_omnivinci import flatten
from .media_limits_omnivinci import MediaError
from .media_omnivinci import load_image
from .media_reading_omnivinci import available_processors, run_all
from .options_omnivinci import FRAME_OPTIONS, RANGE_OPTIONS, loader_arguments
from .video_media_omnivinci import VideoClip, load_video


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
    images, videos, audio = flatten("image", images), flatten("video", videos), flatten("audio", audio)
    metadata = options["video_metadata"]
    metadata = metadata if isinstance(metadata, (list, tuple)) else [metadata] * len(videos)
    if len(metadata) != len(videos):
        raise ValueError(f"Got {len(videos)} videos but {len(metadata)} entries of `video_metadata`.")
    for part in (*images, *videos, *audio):
        if isinstance(part, MediaPart):
            check_choice(own_options(part, options))
    num_threads, cancelled = available_processors(), threading.Event()
    # One video is decoded by all processors, several are decoded side by side.
    shared = {"cancelled": cancelled, "num_threads": max(1, num_threads // max(1, len(videos)))}
    jobs = [partial(load_medium, _as_part("image", image), options, **shared) for image in images]
    for video, entry in zip(videos, metadata, strict=True):
        own = {**options, "video_metadata": entry}
        jobs.append(
            partial(load_medium, _as_part("video", video), own, sampling_rate, transform=transform, **shared),
        )
    jobs += [partial(load_medium, _as_part("audio", sound), options, sampling_rate, **shared) for sound in audio]
    if len(jobs) > 1:
        labels = [f"{kind} {number}" for kind, media in zip(MODALITIES, (images, videos, audio), strict=True)
                  for number in range(1, len(media) + 1)]  # fmt: skip
        jobs = [partial(_labelled, label, job) for label, job in zip(labels, jobs, strict=True)]
    media = run_all(jobs, num_threads, cancelled)
    first_sound = len(images) + len(videos)
    return media[: len(images)], media[len(images) : first_sound], media[first_sound:]


def own_options(part: MediaPart, options: Mapping[str, Any]) -> dict[str, Any]:
    """The options of a part before those of the call."""
    if any(name in part.options for name in FRAME_OPTIONS):
        options = {**options, **dict.fromkeys(FRAME_OPTIONS)}
    return {**options, **part.options}


def load_medium(
    part: MediaPart, options: Mapping[str, Any], sampling_rate: int = 16000, **arguments: Any
) -> Image.Image | VideoClip | AudioClip:
    """Read one medium: its own options come before those of the call, and a sound of its own before its file's.

    Args:
        sampling_rate: of the sound that is returned.
        arguments: more of those of the loader.
    """
    options = own_options(part, options)
    given = {
        argument: options[name]
        for name, argument in loader_arguments(part.kind).items()
        if options.get(name) is not None
    }
    if part.kind == "image":
        return load_image(part.source, **given, **arguments)
    if part.kind == "audio":
        return load_audio(part.source, sampling_rate=sampling_rate, **given, **arguments)
    sound = sound_of(part, options)
    if sound is not None:
        given["with_audio"] = False
    clip = load_video(part.source, sampling_rate=sampling_rate, **given, **arguments)
    if sound is not None:
        arguments.pop("transform", None)
        clip.audio = load_medium(sound, options, sampling_rate, **arguments)
    return clip


def sound_of(part: MediaPart, options: Mapping[str, Any]) -> MediaPart | None:
    """The sound that a video brings along, under `audio` of its part or of its metadata."""
    metadata = options.get("video_metadata")
    given = part.options if "audio" in part.options else metadata if isinstance(metadata, Mapping) else {}
    if given.get("audio") is None:
        return None
    own = {name: part.options[name] for name in RANGE_OPTIONS if name in part.options}
    rate = {} if given.get("sampling_rate") is None else {"sampling_rate": given["sampling_rate"]}
    return MediaPart("audio", given["audio"], {**own, **rate})


def _as_part(kind: str, medium: Any) -> MediaPart:
    return medium if isinstance(medium, MediaPart) else MediaPart(kind, medium)


def _labelled(label: str, read: Callable) -> Any:
    """Bytes and arrays have no name that would tell which of several is meant."""
    try:
        return read()
    except MediaError as error:
        raise MediaError(f"{label}: {error}") from error
