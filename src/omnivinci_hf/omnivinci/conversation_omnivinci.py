"""This module reads conversations: the prompt that they become, and the media and options that their parts hold."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from transformers.utils.chat_template_utils import _get_template_variables

from .configuration_omnivinci import MODALITIES
from .frame_sampling_omnivinci import check_choice
from .media_forms_omnivinci import ENTRIES, SOUND_ENTRIES, plain_source
from .media_limits_omnivinci import MediaError
from .options_omnivinci import check_options, part_options, refuse_unknown
from .original_config_omnivinci import MEDIA_TOKENS


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
    """Names for which a template has a place, but for those that every rendering fills."""
    return _get_template_variables(template) - {"messages", "add_generation_prompt", "raise_exception", "strftime_now"}


def collect_media(message: dict, media: dict[str, list]) -> dict:
    """A copy of a message for the template; its media are appended to `media`, each a [`MediaPart`]."""
    if not isinstance(message, dict) or "role" not in message:
        got = f"one with the keys {list(message)}" if isinstance(message, dict) else f"a {type(message).__name__}"
        raise ValueError(f"A message must be a dictionary with `role` and `content`, got {got}.")
    content = message.get("content") or []
    parts = [{"type": "text", "text": content}] if isinstance(content, str) else content
    if not isinstance(parts, (list, tuple)):
        raise ValueError(f"`content` of a message must be a string or a list of parts, got a {type(parts).__name__}.")
    cleaned = []
    for part in map(read_part, parts):
        if isinstance(part, str):
            cleaned.append({"type": "text", "text": clean_words(part)})
        else:
            media[part.kind].append(part)
            cleaned.append({"type": part.kind})
    return {**message, "content": cleaned}


# -- Parts of a message: the one place that reads them, whichever way they came in


PLACES = ("path", "url", "base64")  # where a medium may stand beside the name of its type
# the type of a part that holds its medium one level deeper -> the kind of medium
NESTED_TYPES = {"image_url": "image", "video_url": "video", "audio_url": "audio", "input_audio": "audio"}


@dataclass(frozen=True)
class MediaPart:
    """A medium with options of its own, which come before those of the call."""

    kind: str
    source: Any
    options: dict[str, Any] = field(default_factory=dict)

    def as_dict(self) -> dict[str, Any]:
        """The part in its plainest form; [`read_part`] makes the same of it."""
        return {"type": self.kind, self.kind: self.source, **self.options}


def read_part(part: Any, place: str = "A part of a message", needs_medium: bool = True) -> "MediaPart | str":
    """What a part of a message holds: words, or a medium with its options.

    Args:
        place: the words that errors have for the part.
        needs_medium: whether a part without a medium is an error; else its `source` is None.

    Raises:
        ValueError: for a part that cannot be understood, before any medium is read.
    """
    if not isinstance(part, Mapping):
        words = '{"type": "text", "text": ...}'
        raise ValueError(f"{place} must be a dictionary such as {words}, got {shown(part)}.")
    given = {name: value for name, value in part.items() if value is not None and name != "type"}
    kind = part.get("type")
    if kind == "text":
        refuse_unknown(f"{place} of type 'text'", given, ["text"], ValueError)
        if not isinstance(given.get("text"), str):
            raise ValueError(f"{place}: `text` must be a string, got {shown(given.get('text'))}.")
        return given["text"]
    if isinstance(kind, str) and kind in NESTED_TYPES:
        given, kind = _flattened(place, kind, given), NESTED_TYPES[kind]
    if not isinstance(kind, str) or kind not in MODALITIES:
        raise ValueError(
            f"{place} has the type {shown(kind)}; known are {', '.join(('text', *MODALITIES, *NESTED_TYPES))}."
        )
    return _read_medium(place, kind, given, needs_medium)


def _flattened(place: str, name: str, given: dict[str, Any]) -> dict[str, Any]:
    """What a nested part holds: `{"image_url": {"url": ...}, ...}`, options inside and beside it in one dictionary."""
    beside, kind = dict(given), NESTED_TYPES[name]
    inside = beside.pop(name, {})
    inside = inside if isinstance(inside, Mapping) else {"url": inside}
    inside = {one: value for one, value in inside.items() if value is not None}
    if inside.keys() & {"bytes", "array", "data", "format"}:  # a medium as `datasets` has it, or of `input_audio`
        entries = ENTRIES | SOUND_ENTRIES if kind == "audio" else ENTRIES
        inside[kind] = {one: inside.pop(one) for one in entries & inside.keys()}
    if twice := sorted(inside.keys() & beside.keys()):
        raise ValueError(f"{place} has {twice} twice, in `{name}` and beside it: give it once.")
    if inside.get("detail") == "auto":  # of OpenAI's images: as the model sees fit
        del inside["detail"]
    return {**inside, **beside}


def _read_medium(place: str, kind: str, given: dict[str, Any], needs_medium: bool) -> MediaPart:
    keys = [key for key in (kind, *PLACES) if key in given]
    if len(keys) > 1:
        raise ValueError(f"{place} holds several media, under {' and '.join(keys)}; leave one.")
    options = {name: value for name, value in given.items() if name not in keys}
    if kind == "video" and "metadata" in options:
        if "video_metadata" in options:
            raise ValueError(f"{place} has `metadata` beside `video_metadata`, which is the same: give one.")
        options["video_metadata"] = options.pop("metadata")
    if not isinstance(options.get("video_metadata", {}), Mapping):
        raise ValueError(f"{place}: `video_metadata` must be a dictionary, got {shown(options['video_metadata'])}.")
    known = part_options(kind)
    refuse_unknown(f"{place} of type {kind!r}", options, [kind, *PLACES, *known], ValueError)
    try:
        options = check_options(options, known)
        check_choice(options)
    except ValueError as error:
        raise ValueError(f"{place}: {error}") from error
    if kind == "video" and "sampling_rate" in options and "audio" not in options:
        raise ValueError(f"{place}: `sampling_rate` is that of a sound under `audio`, which this video does not have.")
    if not keys:
        if needs_medium:
            raise ValueError(
                f"{place} of type {kind!r} has no medium: put it under one of {', '.join((kind, *PLACES))}. (The sound "
                "of a video is heard with `load_audio_from_video=True`; it needs no part of its own.)"
            )
        return MediaPart(kind, None, options)
    source = given[keys[0]]
    if keys == ["base64"]:
        source = {"data": source}
    source = read_source(f"{place}: `{keys[0]}`", kind, source)
    if "audio" in options:
        options["audio"] = read_source(f"{place}: `audio`", "audio", options["audio"])
    if "sampling_rate" in options:
        _check_rate(place, options.get("audio", source), options["sampling_rate"])
    return MediaPart(kind, source, options)


def _check_rate(place: str, sound: Any, given: Any) -> None:
    """Refuse a rate beside samples that come with another one, of which the loader would hear theirs."""
    if isinstance(sound, tuple) and len(sound) == 2:
        sound = {"sampling_rate": sound[1]}
    own = sound.get("sampling_rate") if isinstance(sound, Mapping) else getattr(sound, "sampling_rate", None)
    if own is not None and own != given:
        raise ValueError(f"{place}: `sampling_rate`={given} beside samples at {own}; leave one out.")


def read_source(place: str, kind: str, source: Any) -> Any:
    """A medium out of the dictionary that holds it; an error if it cannot be one. It is not opened."""
    if isinstance(source, Mapping):
        try:
            source = plain_source(kind, source)
        except MediaError as error:
            raise ValueError(f"{place}: {error}") from error
    is_list = isinstance(source, (list, tuple))
    is_empty = isinstance(source, (str, bytes, list, tuple)) and not source
    if source is None or isinstance(source, (bool, int, float)) or is_empty or (is_list and kind == "image"):
        raise ValueError(f"{place} must be one {kind}: a path, bytes or an array, got {shown(source)}.")
    if kind == "video" and is_list:
        return [read_source(f"{place}, frame {number}", "image", frame) for number, frame in enumerate(source)]
    return source


def clean_words(words: str) -> str:
    """Words without placeholders of media, which would pass for media."""
    # what is left may form another one: "<im<image>age>"
    while (cleaned := re.sub("|".join(map(re.escape, MEDIA_TOKENS.values())), "", words)) != words:
        words = cleaned
    return words


def shown(value: Any) -> str:
    """A value as an error quotes it: what was written, if that is short."""
    if isinstance(value, Mapping):
        return f"a dictionary with {sorted(map(str, value))}"
    if isinstance(value, (str, int, float, type(None))):
        text = repr(value)
        return text if len(text) <= 60 else text[:57] + "..."
    is_empty = isinstance(value, (bytes, list, tuple)) and not value
    name = type(value).__name__
    return f"an empty {name}" if is_empty else f"a {name}"
