"""The forms in which people have media, each turned into one that the loaders read.

A dictionary (of `datasets`, or of a chat API) holds a file or samples, a decoder gives frames or samples, a URL with
`data:` or `file:` is bytes or a path.
"""

import base64
import os
import re
from collections.abc import Mapping, Sequence
from numbers import Real
from typing import Any
from urllib.parse import unquote
from urllib.request import url2pathname

import numpy as np
from PIL import Image
from transformers.utils import logging

from .media_limits_omnivinci import MediaError


logger = logging.get_logger(__name__)
NUM_FRAMES_AT_ONCE = 32
ENTRIES = {"bytes", "path", "url", "data", "format"}  # of a dictionary
SOUND_ENTRIES = {"array", "sampling_rate"}

_DATA_URL = re.compile(r"data:[^,]*;base64,", re.IGNORECASE)
_FILE_URL = re.compile(r"file:(?://(?P<host>[^/]*))?(?P<path>/.*)", re.IGNORECASE | re.DOTALL)
_URL_SAFE = str.maketrans("-_", "+/", " \t\r\n\f\v")


def plain_source(kind: str, source: Any) -> Any:
    """What a dictionary or a decoder of sound holds as a source of a medium; everything else as it is.

    Raises:
        MediaError: for a dictionary that holds no such medium, or a decoder that fails.
    """
    if isinstance(source, Mapping):
        return _from_mapping(kind, source)
    if kind == "audio" and hasattr(source, "get_all_samples"):  # torchcodec's AudioDecoder
        try:
            samples = source.get_all_samples()
        except RuntimeError as error:
            raise MediaError(f"The sound of a {type(source).__name__} cannot be decoded ({error}).") from error
        return {"array": samples.data, "sampling_rate": samples.sample_rate}
    return (_stored_file(source) or source) if is_video_decoder(source) else source


def _from_mapping(kind: str, given: Mapping) -> Any:
    held = {name: value for name, value in given.items() if value is not None}
    forms = '"bytes" or "path"' + (', or "array" and "sampling_rate"' if kind == "audio" else "")
    refusal = f"The {kind} in a dictionary with {sorted(map(str, held))} cannot be read; it needs {forms}."
    if held.keys() - (ENTRIES | SOUND_ENTRIES if kind == "audio" else ENTRIES):
        raise MediaError(refusal)
    if SOUND_ENTRIES <= held.keys():
        return {name: held[name] for name in SOUND_ENTRIES}
    if "array" in held:
        raise MediaError(refusal)
    if isinstance(data := held.get("bytes"), (bytes, bytearray, memoryview)):
        return bytes(data)  # the path beside them only names them
    if "bytes" in held:
        raise MediaError(f'"bytes" of {kind} in a dictionary must be bytes, got a {type(data).__name__}.')
    for name in ("path", "url"):
        if name in held:
            return held[name]
    if "data" in held:  # OpenAI's `input_audio`, with its "format" beside; the sound itself tells it
        return base64_url(held["data"])
    raise MediaError(refusal)


def base64_url(data: Any) -> str:
    """A `data:` URL of what may be one already, or bare base64."""
    if not isinstance(data, str):
        raise MediaError(f"`data` must be a string in base64, got a {type(data).__name__}.")
    return data if data[:5].lower() == "data:" else f"data:application/octet-stream;base64,{data}"


def decode_data_url(name: str, url: str) -> bytes:
    """The bytes of a `data:` URL in base64: with line breaks, in the alphabet for URLs, or without its padding, too."""
    head = _DATA_URL.match(url)
    if head is None:
        raise MediaError(f"{name}: write a data: URL as data:<type>;base64,<data>.")
    data = url[head.end() :]
    data = (unquote(data) if "%" in data else data).translate(_URL_SAFE).rstrip("=")
    try:
        return base64.b64decode(data + "=" * (-len(data) % 4), validate=True)
    except ValueError as error:
        raise MediaError(f"{name}: broken base64 ({error}); encode it again.") from error


def local_path(name: str, path: str) -> str:
    """The path that a `file:` URL of this machine stands for; other paths as they are."""
    if (url := _FILE_URL.fullmatch(path)) is None:
        return path
    if (url["host"] or "").lower() not in ("", "localhost"):
        raise MediaError(f"{name} is a file of another machine, {url['host']!r}; copy it here and give its path.")
    return url2pathname(url["path"])


def is_video_decoder(source: Any) -> bool:
    """Whether it behaves as torchcodec's VideoDecoder."""
    return hasattr(source, "get_frames_at") and hasattr(source, "metadata")


def _stored_file(decoder: Any) -> Any:
    """The file that `datasets` keeps beside a decoder: it has the sound, too, and the stamps of all frames."""
    stored = getattr(decoder, "_hf_encoded", None) or {}
    path = stored.get("path")
    return stored.get("bytes") or (path if path is not None and os.path.isfile(path) else None)


class DecoderFrames(Sequence):
    """The frames of a torchcodec VideoDecoder, decoded when they are asked for, and the times of all of them."""

    def __init__(self, decoder: Any):
        self.decoder = decoder

    def __len__(self) -> int:
        return len(self.decoder)

    def __getitem__(self, index: int) -> Any:
        return self._frames_at([int(index)]).data[0]

    def metadata(self) -> dict[str, Any]:
        """Times and length as `video_metadata` has them; a decoder tells a frame's time only together with it."""
        stamps = []
        for first in range(0, len(self), NUM_FRAMES_AT_ONCE):
            batch = self._frames_at(list(range(first, min(first + NUM_FRAMES_AT_ONCE, len(self)))))
            stamps.append(np.asarray(batch.pts_seconds, dtype=np.float64))
        if not stamps:
            raise MediaError(f"A {type(self.decoder).__name__} has no frames.")
        times = np.concatenate(stamps)
        end_sec = float(times[-1]) + float(np.asarray(batch.duration_seconds)[-1])
        return {"times": times - times[0], "duration": end_sec - float(times[0])}

    def _frames_at(self, indices: list[int]) -> Any:
        try:
            return self.decoder.get_frames_at(indices=indices)
        except RuntimeError as error:
            raise MediaError(f"Frames of a {type(self.decoder).__name__} cannot be decoded ({error}).") from error


def frames_of(decoder: Any, with_audio: bool) -> tuple[DecoderFrames, dict[str, Any]]:
    """Frames and metadata of a decoder that does not know its file."""
    if with_audio:
        logger.warning_once(
            "A decoder of video gives no sound: give the file itself, or cast the column to `Video(decode=False)`, for "
            "its sound to be heard; or say `load_audio_from_video=False`."
        )
    frames = DecoderFrames(decoder)
    return frames, frames.metadata()


def flatten(kind: str, items: Any) -> list:
    """One medium, a list, or a list per text, as a flat list.

    A pair of samples and their rate is one sound, a list of numbers too, and a list of pictures is one video.
    """
    if items is None:
        return []
    if not isinstance(items, Sequence) or isinstance(items, (str, bytes, bytearray, memoryview, range)):
        return [items]
    if kind == "audio" and _is_one_sound(items):
        return [items if isinstance(items, tuple) else np.asarray(items)]
    if kind == "video" and len(items) > 0 and all(map(_is_picture, items)):
        return [list(items)]
    return [medium for item in items for medium in flatten(kind, item)]


def _is_one_sound(items: Sequence) -> bool:
    if isinstance(items, tuple):
        return len(items) == 2 and isinstance(items[1], Real)
    return len(items) > 0 and isinstance(items[0], Real)


def _is_picture(item: Any) -> bool:
    return isinstance(item, Image.Image) or getattr(item, "ndim", None) == 3
