"""This module reads the media of one call of the processor, each with the options of the call and its own."""

import threading
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from PIL import Image

from .audio_media_omnivinci import AudioClip, load_audio
from .configuration_omnivinci import MODALITIES
from .conversation_omnivinci import MediaPart, check_part
from .frame_sampling_omnivinci import check_choice
from .image_media_omnivinci import load_image
from .media_reading_omnivinci import MediaError, available_processors, run_all
from .media_sources_omnivinci import flatten
from .options_omnivinci import FRAME_OPTIONS, RANGE_OPTIONS, loader_arguments
from .video_media_omnivinci import VideoClip, load_video


def load_media(
    media: Mapping[str, Any], options: Mapping[str, Any], transform: Callable[[Image.Image], Any], sampling_rate: int
) -> dict[str, list]:
    """Reads all media of a call, side by side.

    Args:
        media: modality -> one medium, a list, or a list per text; a [`MediaPart`] has options of its own.
        options: of the processor's call.
        transform: is applied to every frame of a video as soon as it is decoded.
        sampling_rate: of the audio that is returned.

    Returns:
        modality -> its images, [`VideoClip`]s or [`AudioClip`]s, in order.

    Raises:
        MediaError: when a medium cannot be read; names it by its number if there are several.
        ValueError: for a part of another modality, or an option that it cannot have.
    """
    parts = {
        modality: [_as_part(modality, medium) for medium in flatten(modality, media.get(modality))]
        for modality in MODALITIES
    }
    metadata = options["video_metadata"]
    if not isinstance(metadata, (list, tuple)):
        metadata = [metadata] * len(parts["video"])
    if len(metadata) != len(parts["video"]):
        raise ValueError(f"Got {len(parts['video'])} videos but {len(metadata)} entries of `video_metadata`.")
    jobs: list[Callable] = []
    labels = []
    num_threads, cancelled = available_processors(), threading.Event()
    # One video is decoded by all processors, several are decoded side by side.
    shared: dict[str, Any] = {"cancelled": cancelled, "num_threads": max(1, num_threads // max(1, len(parts["video"])))}
    for modality, number, part in ((name, *entry) for name in parts for entry in enumerate(parts[name])):
        medium_options, arguments = options, shared
        if modality == "video":
            medium_options = {**options, "video_metadata": metadata[number]}
            arguments = {**shared, "transform": transform}
        check_choice(options_of_part(part, medium_options))
        jobs.append(partial(load_medium, part, medium_options, sampling_rate, **arguments))
        labels.append(f"{modality} {number + 1}")
    if len(jobs) > 1:
        jobs = [partial(_with_label, label, job) for label, job in zip(labels, jobs, strict=True)]
    loaded = iter(run_all(jobs, num_threads, cancelled))
    return {modality: [next(loaded) for _ in parts[modality]] for modality in MODALITIES}


def options_of_part(part: MediaPart, options: Mapping[str, Any]) -> dict[str, Any]:
    """Puts the options of a part before those of the call; a part that chooses frames chooses them alone."""
    if any(name in part.options for name in FRAME_OPTIONS):
        options = {**options, **dict.fromkeys(FRAME_OPTIONS)}
    return {**options, **part.options}


def load_medium(
    part: MediaPart, options: Mapping[str, Any], sampling_rate: int = 16000, **arguments: Any
) -> Image.Image | VideoClip | AudioClip:
    """Reads one medium, of whose part the options come before those of the call.

    Audio under `audio` of a video part comes before that of the video's file.

    Args:
        options: of the processor's call, or some of them.
        sampling_rate: of the audio that is returned.
        arguments: further arguments of the loader.

    Raises:
        MediaError: when the medium cannot be read.
    """
    options = options_of_part(part, options)
    given = {
        argument: options[name]
        for name, argument in loader_arguments(part.modality).items()
        if options.get(name) is not None
    }
    if part.modality == "image":
        return load_image(part.source, **given, **arguments)
    if part.modality == "audio":
        return load_audio(part.source, sampling_rate=sampling_rate, **given, **arguments)
    audio = audio_of_video(part, options)
    if audio is not None:
        given["with_audio"] = False
    clip = load_video(part.source, sampling_rate=sampling_rate, **given, **arguments)
    if audio is not None:
        arguments.pop("transform", None)
        heard = load_medium(audio, options, sampling_rate, **arguments)
        assert isinstance(heard, AudioClip)
        clip.audio = heard
    return clip


def audio_of_video(part: MediaPart, options: Mapping[str, Any]) -> MediaPart | None:
    """Returns the audio that a video brings along under `audio` of its part or of its metadata, if there is any."""
    metadata = options.get("video_metadata")
    given: Mapping[str, Any] = (
        part.options if "audio" in part.options else metadata if isinstance(metadata, Mapping) else {}
    )
    if given.get("audio") is None:
        return None
    options_of_audio = {name: part.options[name] for name in RANGE_OPTIONS if name in part.options}
    if given.get("sampling_rate") is not None:
        options_of_audio["sampling_rate"] = given["sampling_rate"]
    return MediaPart("audio", given["audio"], options_of_audio)


def _as_part(modality: str, medium: Any) -> MediaPart:
    return check_part(medium, modality) if isinstance(medium, MediaPart) else MediaPart(modality, medium)


def _with_label(label: str, read: Callable) -> Any:
    """Puts a label before the error of a medium: bytes and arrays have no name that would tell which one is meant."""
    try:
        return read()
    except MediaError as error:
        raise MediaError(f"{label}: {error}") from error
