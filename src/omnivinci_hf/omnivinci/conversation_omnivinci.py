"""This module reads conversations: it parses their messages and parts, collects their media, and reads those."""

import threading
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

from PIL import Image
from transformers.utils.chat_template_utils import _get_template_variables

from .audio_media_omnivinci import AudioClip, load_audio
from .configuration_omnivinci import MEDIA_TOKENS, MODALITIES
from .frame_sampling_omnivinci import check_choice
from .image_media_omnivinci import load_image
from .media_reading_omnivinci import MediaError, available_processors, run_all
from .media_sources_omnivinci import AUDIO_ENTRIES, ENTRIES, flatten, plain_source
from .options_omnivinci import (
    FRAME_OPTIONS,
    RANGE_OPTIONS,
    check_options,
    loader_arguments,
    part_options,
    refuse_unknown,
)
from .video_media_omnivinci import VideoClip, load_video


ROLES = ("system", "user", "assistant")
CHAT_TEMPLATE = """\
{%- if messages[0]['role'] != 'system' %}
    {{- '<|im_start|>system\\nYou are a helpful assistant<|im_end|>\\n' }}
{%- endif %}
{%- macro render(content) %}
    {%- if content is string %}
        {{- content }}
    {%- else %}
        {%- for part in content %}
            {%- if part['type'] == 'image' %}
                {{- '<image>' }}
            {%- elif part['type'] == 'video' %}
                {{- '<vila/video>' }}
            {%- elif part['type'] == 'audio' %}
                {{- '<sound>' }}
            {%- elif part['type'] == 'text' %}
                {{- part['text'] }}
            {%- else %}
                {{- raise_exception('Unknown content type: ' ~ part['type']) }}
            {%- endif %}
        {%- endfor %}
    {%- endif %}
{%- endmacro %}
{%- for message in messages %}
    {{- '<|im_start|>' + message['role'] + '\\n' }}
    {%- if message['role'] == 'assistant' %}
        {%- generation %}
            {{- render(message['content']) + '<|im_end|>' }}
        {%- endgeneration %}
        {{- '\\n' }}
    {%- else %}
        {{- render(message['content']) + '<|im_end|>\\n' }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\\n' }}
{%- endif %}
"""


def template_variables(template: str) -> set[str]:
    """Names the variables that a template has a place for, but for those that every rendering fills."""
    return _get_template_variables(template) - {"messages", "add_generation_prompt", "raise_exception", "strftime_now"}


def collect_media(message: Any, media: Mapping[str, list["MediaPart"]]) -> dict[str, Any]:
    """Makes the copy of a message that the chat template renders, and appends its media to `media`.

    Args:
        media: modality -> the parts of that modality so far.

    Raises:
        ValueError: for a message or a part that cannot be understood.
    """
    if not isinstance(message, dict) or "role" not in message:
        got = f"one with the keys {list(message)}" if isinstance(message, dict) else f"a {type(message).__name__}"
        raise ValueError(f"A message must be a dictionary with `role` and `content`, got {got}.")
    content = message.get("content") or []
    parts = [{"type": "text", "text": content}] if isinstance(content, str) else content
    if not isinstance(parts, (list, tuple)):
        raise ValueError(f"`content` of a message must be a string or a list of parts, got a {type(parts).__name__}.")
    cleaned = []
    for part in map(parse_part, parts):
        if isinstance(part, str):
            cleaned.append({"type": "text", "text": clean_words(part)})
        else:
            media[part.modality].append(part)
            cleaned.append({"type": part.modality})
    return {**message, "content": cleaned}


def collect_all_media(
    conversations: Iterable[Iterable[Any]],
) -> tuple[list[list[dict[str, Any]]], dict[str, list["MediaPart"]]]:
    """Makes the copies of conversations that the chat template renders.

    Returns:
        the copies, and modality -> its media parts, in order.

    Raises:
        ValueError: for a message or a part that cannot be understood.
    """
    media: dict[str, list[MediaPart]] = {modality: [] for modality in MODALITIES}
    return [[collect_media(message, media) for message in messages] for messages in conversations], media


# -- Content parts: the chat template, training data and the pipeline all have them parsed here


SOURCE_KEYS = ("path", "url", "base64")  # under which a medium may stand, beside the name of its type
# the type of a part that holds its medium one level deeper -> its modality
NESTED_TYPES = {"image_url": "image", "video_url": "video", "audio_url": "audio", "input_audio": "audio"}


@dataclass(frozen=True)
class MediaPart:
    """A media part is a medium with options of its own, which come before those of the call.

    Args:
        modality: "image", "video" or "audio".
        source: what `load_image`, `load_video` or `load_audio` takes.
        options: those that the page "Options of the processor" of the documentation lists for parts of this modality.
    """

    modality: str
    source: Any
    options: dict[str, Any] = field(default_factory=dict)

    def as_dict(self) -> dict[str, Any]:
        """Writes the part in its plainest form; [`parse_part`] makes the same of it."""
        return {"type": self.modality, self.modality: self.source, **self.options}


def parse_part(part: Any, place: str = "A part of a message", needs_medium: bool = True) -> MediaPart | str:
    """Parses a content part: its words, or its medium with options. No medium is opened.

    Args:
        part: such as `{"type": "text", "text": ...}`, `{"type": "video", "path": ..., "num_frames": 8}` or
            `{"type": "image_url", "image_url": {"url": ...}}`. A key whose value is None counts as missing.
        place: the words that errors have for the part.
        needs_medium: whether a part without a medium is an error; else its `source` is None.

    Raises:
        ValueError: for a part that cannot be understood.
    """
    if not isinstance(part, Mapping):
        example = '{"type": "text", "text": ...}'
        raise ValueError(f"{place} must be a dictionary such as {example}, got {shown(part)}.")
    given = {name: value for name, value in part.items() if value is not None and name != "type"}
    part_type = part.get("type")
    if part_type == "text":
        refuse_unknown(f"{place} of type 'text'", given, ["text"], ValueError)
        if not isinstance(given.get("text"), str):
            raise ValueError(f"{place}: `text` must be a string, got {shown(given.get('text'))}.")
        return given["text"]
    if isinstance(part_type, str) and part_type in NESTED_TYPES:
        given, part_type = _flattened(place, part_type, given), NESTED_TYPES[part_type]
    if not isinstance(part_type, str) or part_type not in MODALITIES:
        known = ", ".join(("text", *MODALITIES, *NESTED_TYPES))
        raise ValueError(f"{place} has the type {shown(part_type)}; known are {known}.")
    return _parse_medium(place, part_type, given, needs_medium)


def check_part(part: MediaPart, modality: str) -> MediaPart:
    """Checks a media part that anybody may have made: it must be of `modality`, with options that are known there.

    Raises:
        ValueError: for a part of another modality, or an option that it cannot have.
    """
    if part.modality != modality:
        raise ValueError(f"The modality asked for is {modality!r}, but the part is of modality {part.modality!r}.")
    options = _checked_options("A media part", modality, dict(part.options))
    if "sampling_rate" in options:
        _check_rate("A media part", options.get("audio", part.source), options["sampling_rate"])
    return replace(part, options=options)


def _flattened(place: str, part_type: str, given: dict[str, Any]) -> dict[str, Any]:
    """Joins what a nested part such as `{"image_url": {"url": ...}}` holds, options inside and beside it."""
    beside, modality = dict(given), NESTED_TYPES[part_type]
    inside = beside.pop(part_type, {})
    inside = inside if isinstance(inside, Mapping) else {"url": inside}
    inside = {name: value for name, value in inside.items() if value is not None}
    if inside.keys() & {"bytes", "array", "data", "format"}:  # a medium as `datasets` has it, or of `input_audio`
        entries = ENTRIES | AUDIO_ENTRIES if modality == "audio" else ENTRIES
        inside[modality] = {name: inside.pop(name) for name in entries & inside.keys()}
    if twice := sorted(inside.keys() & beside.keys()):
        raise ValueError(f"{place} has {twice} twice, in `{part_type}` and beside it: give it once.")
    if inside.get("detail") == "auto":  # of OpenAI's images: as the model sees fit
        del inside["detail"]
    return {**inside, **beside}


def _parse_medium(place: str, modality: str, given: dict[str, Any], needs_medium: bool) -> MediaPart:
    keys = [key for key in (modality, *SOURCE_KEYS) if key in given]
    if len(keys) > 1:
        raise ValueError(f"{place} holds several media, under {' and '.join(keys)}; leave one.")
    options = {name: value for name, value in given.items() if name not in keys}
    options = _checked_options(place, modality, options)
    if not keys:
        if needs_medium:
            raise ValueError(
                f"{place} of type {modality!r} has no medium: put it under one of "
                f"{', '.join((modality, *SOURCE_KEYS))}. (The audio of a video is heard with "
                "`load_audio_from_video=True`; it needs no part of its own.)"
            )
        return MediaPart(modality, None, options)
    source = {"data": given["base64"]} if keys == ["base64"] else given[keys[0]]
    source = check_source(f"{place}: `{keys[0]}`", modality, source)
    if "audio" in options:
        options["audio"] = check_source(f"{place}: `audio`", "audio", options["audio"])
    if "sampling_rate" in options:
        _check_rate(place, options.get("audio", source), options["sampling_rate"])
    return MediaPart(modality, source, options)


def _checked_options(place: str, modality: str, options: dict[str, Any]) -> dict[str, Any]:
    """Checks the options of a media part against the table of options, and against each other."""
    if modality == "video" and "metadata" in options:
        if "video_metadata" in options:
            raise ValueError(f"{place} has `metadata` beside `video_metadata`, which is the same: give one.")
        options["video_metadata"] = options.pop("metadata")
    if not isinstance(options.get("video_metadata", {}), Mapping):
        raise ValueError(f"{place}: `video_metadata` must be a dictionary, got {shown(options['video_metadata'])}.")
    known = part_options(modality)
    refuse_unknown(f"{place} of type {modality!r}", options, [modality, *SOURCE_KEYS, *known], ValueError)
    try:
        options = check_options(options, known)
        check_choice(options)
    except ValueError as error:
        raise ValueError(f"{place}: {error}") from error
    if modality == "video" and "sampling_rate" in options and "audio" not in options:
        raise ValueError(
            f"{place}: `sampling_rate` is that of audio under `audio`, which this video does not have beside it."
        )
    return options


def _check_rate(place: str, audio: Any, given: Any) -> None:
    """Refuses a rate beside samples that come with another one, of which the loader would take theirs."""
    if isinstance(audio, tuple) and len(audio) == 2:
        audio = {"sampling_rate": audio[1]}
    rate = audio.get("sampling_rate") if isinstance(audio, Mapping) else getattr(audio, "sampling_rate", None)
    if rate is not None and rate != given:
        raise ValueError(f"{place}: `sampling_rate`={given} beside samples at {rate}; leave one out.")


def check_source(place: str, modality: str, source: Any) -> Any:
    """Takes a medium out of the dictionary that holds it, and refuses what cannot be one. It is not opened.

    Raises:
        ValueError: with `place` in front.
    """
    if isinstance(source, Mapping):
        try:
            source = plain_source(modality, source)
        except MediaError as error:
            raise ValueError(f"{place}: {error}") from error
    is_list = isinstance(source, (list, tuple))
    is_empty = isinstance(source, (str, bytes, list, tuple)) and not source
    if source is None or isinstance(source, (bool, int, float)) or is_empty or (is_list and modality == "image"):
        raise ValueError(f"{place} must be one {modality}: a path, bytes or an array, got {shown(source)}.")
    if modality == "video" and is_list:
        return [check_source(f"{place}, frame {number}", "image", frame) for number, frame in enumerate(source)]
    return source


def clean_words(words: str) -> str:
    """Removes placeholders of media from words, where they would pass for media."""
    if not any(token in words for token in MEDIA_TOKENS.values()):
        return words
    # What is left around a placeholder may form another one, as in "<im<image>age>". The end of what is kept is looked
    # at after each character, since removing over and over would take quadratic time.
    kept: list[str] = []
    for character in words:
        kept.append(character)
        if character == ">":  # every placeholder ends so
            for token in MEDIA_TOKENS.values():
                if "".join(kept[-len(token) :]) == token:
                    del kept[-len(token) :]
    return "".join(kept)


def shown(value: Any) -> str:
    """Describes a value for an error: as it was written, if that is short."""
    if isinstance(value, Mapping):
        return f"a dictionary with {sorted(map(str, value))}"
    if isinstance(value, (str, int, float, type(None))):
        text = repr(value)
        return text if len(text) <= 60 else text[:57] + "..."
    is_empty = isinstance(value, (bytes, list, tuple)) and not value
    name = type(value).__name__
    return f"an empty {name}" if is_empty else f"a {name}"


# -- Reading the media


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
        given["load_audio_from_video"] = False
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
