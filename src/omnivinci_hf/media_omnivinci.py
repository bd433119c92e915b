"""Where media come from: files, bytes, data URLs or arrays; and images.

Nothing here fetches from the network, and nothing stands in for a medium that cannot be read:
every failure is a [`MediaError`] that names the medium, the cause and a remedy.
"""

import base64
import io
import os
import re
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import av
import numpy as np
import torch
from PIL import Image, ImageOps


MAX_PIXELS = 8192 * 8192  # of one image or video frame
# Playlists and descriptions (.m3u8, ffconcat, .sdp) open other files and sockets, so only these containers.
CONTAINERS = "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi,gif,mpegts,mpeg,flv,ogg,wav,flac,mp3,aac,asf"

_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")
_DATA_URL = re.compile(r"data:[^,]*;base64,", re.IGNORECASE)


class MediaError(ValueError):
    """A medium that cannot be used; says which one, what is wrong with it and what to do."""


@dataclass(frozen=True)
class MediaSource:
    """Where a medium's bytes are: a checked regular file, or in memory."""

    name: str
    path: str | None = None
    data: bytes | None = None

    @classmethod
    def of(cls, kind: str, source) -> "MediaSource":
        if isinstance(source, str) and source[:5].lower() == "data:":
            name, data = f"{kind} {source[:40]!r}...", _decode_data_url(kind, source)
        elif isinstance(source, (str, os.PathLike)):
            return cls._from_path(kind, os.fspath(source))
        elif isinstance(source, (bytes, bytearray, memoryview)):
            name, data = f"{kind} given as bytes", bytes(source)
        elif hasattr(source, "read"):
            name, data = f"{kind} file object {getattr(source, 'name', '')!r}", source.read()
            if not isinstance(data, bytes):
                raise MediaError(f"{name} gives {type(data).__name__}, not bytes; open it in binary mode.")
        else:
            remedy = "give a path, bytes, a binary file object or an array."
            raise MediaError(f"Cannot take a {type(source).__name__} as {kind}; {remedy}")
        if not data:
            raise MediaError(f"{name} is empty; if it is a file that was read before, seek(0) first.")
        return cls(name, data=data)

    @classmethod
    def _from_path(cls, kind: str, path: str) -> "MediaSource":
        name = f"{kind} {path[:1000]!r}"
        if _URL.match(path):
            raise MediaError(f"{name}: URLs are not fetched; download the file first and give its path.")
        try:
            status = os.stat(path)
        except (FileNotFoundError, NotADirectoryError) as error:
            raise MediaError(f"{name} does not exist; check the path.") from error
        except (OSError, ValueError) as error:  # no permission, too long, null byte
            raise MediaError(f"{name} cannot be looked up ({error}); check the path.") from error
        if stat.S_ISDIR(status.st_mode):
            raise MediaError(f"{name} is a directory; give the path of one file.")
        if not stat.S_ISREG(status.st_mode):
            raise MediaError(f"{name} is not a regular file (a pipe?); save it as a file first.")
        if status.st_size == 0:
            raise MediaError(f"{name} is an empty file; get it again.")
        return cls(name, path=os.path.abspath(path))

    @contextmanager
    def container(self, timeout_sec: float) -> Iterator[av.container.InputContainer]:
        """Open with PyAV; its errors, then or while the container is in use, become `MediaError`."""
        # "file:" and the white lists keep playlists, and names such as "concat:a|b", from opening more.
        target = io.BytesIO(self.data) if self.path is None else "file:" + self.path
        protocols = "none" if self.path is None else "file"
        options = {"protocol_whitelist": protocols, "format_whitelist": CONTAINERS}
        timeout = (timeout_sec, timeout_sec)
        try:
            with av.open(target, timeout=timeout, options=options, metadata_errors="replace") as container:
                yield container
        except av.error.FFmpegError as error:
            raise MediaError(
                f"{self.name} cannot be decoded: {error.strerror}. It is damaged, cut short or of an "
                "unsupported format; check that it plays, or convert it."
            ) from error


def _decode_data_url(kind: str, url: str) -> bytes:
    head = _DATA_URL.match(url)
    if head is None:
        raise MediaError(f"{kind} {url[:40]!r}...: write a data: URL as data:<type>;base64,<data>.")
    try:
        return base64.b64decode(url[head.end() :], validate=True)
    except ValueError as error:
        raise MediaError(f"{kind} {url[:40]!r}...: broken base64 ({error}); encode it again.") from error


def is_array(source) -> bool:
    return isinstance(source, (np.ndarray, torch.Tensor))


def to_numpy(array) -> np.ndarray:
    if not isinstance(array, torch.Tensor):
        return np.asarray(array)
    array = array.detach().cpu()
    return (array.float() if array.dtype == torch.bfloat16 else array).numpy()


def check_complete(name: str, stream: av.stream.Stream, num_packets: int) -> None:
    """The index of mp4 and mov lists every packet, so it shows when the end of the file is not there."""
    if not stream.container.format.name.startswith("mov"):
        return
    promised = sum(entry.size > 0 for entry in stream.index_entries)
    if num_packets < promised:
        raise MediaError(
            f"{name} is cut short: {promised - num_packets} of {promised} {stream.type} packets are missing; "
            "get a complete copy."
        )


def load_image(source) -> Image.Image:
    """Read one image as RGB; the orientation noted by a camera (EXIF) is applied.

    `source`: a path, a base64 `data:` URL, bytes, a binary file object, a PIL image, or an array or tensor
    `(height, width)`, `(height, width, 3 or 4)` or `(3, height, width)`, uint8 or float in [0, 1].
    """
    if is_array(source):
        return _image_from_array(to_numpy(source))
    name, image = "image", source
    if not isinstance(source, Image.Image):
        source = MediaSource.of("image", source)
        name, image = source.name, None
    try:
        image = image or Image.open(source.path or io.BytesIO(source.data))
        check_pixels(name, *image.size)
        return ImageOps.exif_transpose(image).convert("RGB")
    except MediaError:
        raise
    except Image.UnidentifiedImageError as error:
        raise MediaError(f"{name} is of no known image format; check that it opens in a viewer.") from error
    # Pillow's decoders raise SyntaxError too (a broken PNG), and ValueError (a closed image).
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise MediaError(f"{name} cannot be decoded ({error}); it is damaged or cut short.") from error


def _image_from_array(array: np.ndarray) -> Image.Image:
    shape = array.shape
    if array.ndim == 3 and shape[-1] not in (3, 4) and shape[0] == 3:
        array = array.transpose(1, 2, 0)
    if array.size == 0 or not (array.ndim == 2 or (array.ndim == 3 and array.shape[-1] in (3, 4))):
        raise MediaError(f"An image array must be (H, W), (H, W, 3 or 4) or (3, H, W), not {shape}.")
    if array.dtype.kind == "f":
        low, high = array.min(), array.max()
        if not (low >= 0 and high <= 1):  # NaN too
            raise MediaError(f"A float image must be in [0, 1], got {low} to {high}; scale it or give uint8.")
        array = np.round(array.astype(np.float32) * 255).astype(np.uint8)
    if array.dtype != np.uint8:
        raise MediaError(f"An image array must be uint8, or float in [0, 1], got {array.dtype}; convert it.")
    return Image.fromarray(np.ascontiguousarray(array)).convert("RGB")


def check_pixels(name: str, width: int, height: int) -> None:
    if width * height > MAX_PIXELS:
        raise MediaError(f"{name} is {width} x {height}, above {MAX_PIXELS} pixels; make it smaller.")
