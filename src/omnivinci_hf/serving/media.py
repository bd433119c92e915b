"""This module takes the media of a prompt as vLLM has them, and says what identifies each."""

import hashlib
import os
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from numbers import Real
from typing import Any

import numpy as np
import torch
from PIL import Image
from vllm.multimodal.media import MediaWithBytes
from vllm.multimodal.parse import ModalityDataItems, MultiModalDataParser

from ..omnivinci.configuration_omnivinci import MODALITIES
from ..omnivinci.conversation_omnivinci import MediaPart
from ..omnivinci.media_reading_omnivinci import MediaError
from ..omnivinci.media_sources_omnivinci import FILE_CHUNK_BYTES


ORIENTATION = 0x0112  # the EXIF tag that says how an image is turned


@dataclass(frozen=True, eq=False)
class ServedMedium:
    """A served medium is one medium of a prompt.

    Args:
        modality: "image", "video" or "audio".
        source: what `load_image`, `load_video` or `load_audio` takes, or a [`MediaPart`]; None for a medium that the
            prompt names by its UUID alone.
        tile: whether an image is cut into tiles, as the only image of its prompt is; None for other media.
        name: what errors call it where a prompt has several of its modality, else empty.
        options: with which it is encoded, whatever the server and the request say; None: they say.
    """

    modality: str
    source: Any
    tile: bool | None
    name: str
    options: Mapping[str, Any] | None = None


class MediaItems(ModalityDataItems):
    """These are all media of one modality of a prompt."""

    def get_count(self) -> int:
        """Returns how many there are."""
        return len(self.data)

    def get(self, index: int) -> ServedMedium | None:
        """Returns a medium, None if it is named by its UUID alone."""
        medium = self.data[index]
        return None if medium.source is None else medium

    def get_item_for_hash(self, index: int) -> Any:
        """Returns what identifies a medium: its bytes or values with options of its own; None: its UUID does."""
        return identity(self.data[index].source)

    def get_processor_data(self) -> Mapping[str, Any]:
        """Returns the media, for the processor."""
        return {self.modality: self.data}

    def get_passthrough_data(self) -> Mapping[str, Any]:
        """Returns nothing: no media go to the model without the processor."""
        return {}


class MediaParser(MultiModalDataParser):
    """This parser takes media as `LLM.generate` and the connector give them."""

    def _get_subparsers(self) -> Mapping[str, Any]:
        return {modality: partial(parse_media, modality) for modality in MODALITIES}


def parse_media(modality: str, data: Any) -> MediaItems | None:
    """Takes the media of one modality of a prompt: one, or a list, in which None stands for one named by its UUID."""
    if data is None:
        return None
    sources = list_media(modality, data)
    tile = len(sources) == 1 if modality == "image" else None
    media = []
    for number, source in enumerate(sources, 1):
        name = f"{modality} {number}" if len(sources) > 1 else ""
        media.append(source if isinstance(source, ServedMedium) else ServedMedium(modality, source, tile, name))
    return MediaItems(media, modality)


def list_media(modality: str, data: Any) -> list[Any]:
    """Makes a flat list of one medium or a list of them; a medium that vLLM has decoded is taken by its bytes."""
    if isinstance(data, list) and not _is_one_medium(modality, data):
        return [None if item is None else _plain(modality, item) for item in data]
    return [_plain(modality, data)]


def _is_one_medium(modality: str, data: list) -> bool:
    """Tells a list of frames, which is one video, and a list of samples, which is one audio clip, from many media."""
    if modality == "video":
        return len(data) > 0 and all(isinstance(item, Image.Image) or getattr(item, "ndim", 0) == 3 for item in data)
    return modality == "audio" and len(data) > 0 and isinstance(data[0], Real)


def _plain(modality: str, item: Any) -> Any:
    if isinstance(item, MediaWithBytes):
        return item.original_bytes
    if modality == "video" and isinstance(item, tuple) and len(item) == 2 and isinstance(item[1], Mapping):
        return MediaPart("video", item[0], {"video_metadata": dict(item[1])})
    return item


def identity(source: Any) -> Any:
    """Returns what identifies a source: values that vLLM hashes. A file is identified by its bytes.

    Raises:
        TypeError: for a source that has no such values.
        MediaError: for a file that cannot be read.
    """
    if isinstance(source, (str, os.PathLike)):
        path = os.fspath(source)
        return _file_identity(path) if os.path.isfile(path) else path  # reading tells what is wrong
    if isinstance(source, (bytes, int, float, np.ndarray, torch.Tensor, type(None))):
        return source
    if isinstance(source, (bytearray, memoryview)):
        return bytes(source)
    if isinstance(source, Image.Image):
        return {
            "form": [source.mode, *source.size, source.getpalette(), source.getexif().get(ORIENTATION)],
            "transparency": source.info.get("transparency"),
            "pixels": source.tobytes(),
        }
    if isinstance(source, MediaPart):
        return {"source": identity(source.source), "options": _values(source.options)}
    if isinstance(source, Mapping):
        return _values(source)
    if isinstance(source, (list, tuple)):
        return [identity(item) for item in source]
    raise TypeError(f"A {type(source).__name__} cannot be served: give bytes, a path, an array or a PIL image.")


def _file_identity(path: str) -> dict[str, str]:
    digest = hashlib.sha256()
    try:
        with open(path, "rb") as stream:
            while chunk := stream.read(FILE_CHUNK_BYTES):
                digest.update(chunk)
    except OSError as error:
        raise MediaError(f"{path[:1000]!r} cannot be read ({error.strerror}); check the file.") from error
    return {"sha256": digest.hexdigest()}


def _values(options: Mapping[str, Any]) -> dict[str, Any]:
    return {name: identity(options[name]) for name in sorted(options)}
