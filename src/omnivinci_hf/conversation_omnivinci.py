"""Conversations: the prompt that they become and the media that they hold."""

import re
from typing import Any

import numpy as np
from PIL import Image
from transformers.utils import logging

from .media_omnivinci import MediaPart
from .released_config_omnivinci import MEDIA_TOKENS


logger = logging.get_logger(__name__)
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
SOURCE_KEYS = {
    "image": ("image", "path", "url", "base64"),
    "video": ("video", "path", "url"),
    "audio": ("audio", "path", "url"),
}


# options of reading that a part may have for its own medium
PART_OPTIONS = {
    "image": (),
    "video": (
        *("start_sec", "end_sec", "frame_indices", "frame_times", "num_frames", "fps"),
        *("audio", "sampling_rate"),  # its sound, where it is not that of the file
    ),
    "audio": ("start_sec", "end_sec"),
}
PART_KEYS = {"type", "text", *SOURCE_KEYS, "path", "url", "base64", "sampling_rate", "video_metadata", "metadata"}


def collect_media(message: dict, media: dict[str, list]) -> dict:
    """A copy of a message for the template; its media are appended to `media`."""
    if not isinstance(message, dict) or "role" not in message:
        got = f"one with the keys {list(message)}" if isinstance(message, dict) else f"a {type(message).__name__}"
        raise ValueError(f"A message must be a dictionary with `role` and `content`, got {got}.")
    content = message.get("content") or []
    parts = [{"type": "text", "text": content}] if isinstance(content, str) else content
    if not isinstance(parts, (list, tuple)):
        raise ValueError(f"`content` of a message must be a string or a list of parts, got a {type(parts).__name__}.")
    cleaned = []
    for part in parts:
        if not isinstance(part, dict):
            raise ValueError(
                f"A part of a message must be a dictionary, got a {type(part).__name__}; words are "
                "`{'type': 'text', 'text': ...}`."
            )
        kind = part.get("type")
        if kind in ("image_url", "video_url", "audio_url"):
            url = part.get(kind)
            kind, part = kind.removesuffix("_url"), {"url": url.get("url") if isinstance(url, dict) else url}
        if kind == "text":
            cleaned.append({"type": "text", "text": _without_placeholders(part.get("text") or "")})
            continue
        if kind not in media:
            raise ValueError(f"Unknown content type {kind!r} in a message; known are text, image, video and audio.")
        keys = [key for key in SOURCE_KEYS[kind] if part.get(key) is not None]
        if not keys:
            raise ValueError(
                f"A part of type {kind!r} has no medium: put it under one of {', '.join(SOURCE_KEYS[kind])}. (The "
                "sound of a video is heard with `load_audio_from_video=True`; it needs no part of its own.)"
            )
        ignored = [key for key in part if part[key] is not None and key not in {*PART_KEYS, *PART_OPTIONS[kind]}]
        if ignored:
            logger.warning_once(f"Parts of type {kind!r} have no option {ignored}: this is ignored.")
        media[kind].append(_source(kind, keys[0], part))
        cleaned.append({"type": kind})
    return {**message, "content": cleaned}


def _without_placeholders(words: str) -> str:
    if not isinstance(words, str):
        raise ValueError(f"`text` of a part must be a string, got a {type(words).__name__}.")
    # what is left may form another one: "<im<image>age>"
    while (cleaned := re.sub("|".join(map(re.escape, MEDIA_TOKENS.values())), "", words)) != words:
        words = cleaned
    return words


def _source(kind: str, key: str, part: dict) -> Any:
    source = part[key]
    if key == "base64" and isinstance(source, str) and not source.startswith("data:"):
        source = "data:application/octet-stream;base64," + source
    if kind == "audio" and part.get("sampling_rate") is not None:
        source = source, part["sampling_rate"]
    options = {name: part[name] for name in PART_OPTIONS[kind] if part.get(name) is not None}
    source = MediaPart(source, options)
    return (source, part.get("video_metadata", part.get("metadata"))) if kind == "video" else source


def flatten(items) -> list:
    """One medium, a list, or a list per text, as a flat list; tuples are media (samples and rate)."""
    if items is None:
        return []
    if isinstance(items, list) and items and isinstance(items[0], (int, float)):
        return [np.asarray(items)]
    if isinstance(items, list):
        return [medium for item in items for medium in flatten(item)]
    return [items]


def flatten_videos(items) -> list:
    if isinstance(items, (list, tuple)) and items and all(_is_frame(item) for item in items):
        return [list(items)]
    if isinstance(items, (list, tuple)):
        return [video for item in items for video in flatten_videos(item)]
    return [] if items is None else [items]


def _is_frame(item) -> bool:
    return isinstance(item, Image.Image) or (hasattr(item, "ndim") and item.ndim == 3)
