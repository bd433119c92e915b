"""Where media come from: files, bytes, data URLs, URLs or arrays; and images.

FFmpeg opens nothing but the one regular file or the bytes it is handed, and nothing stands in for a medium that cannot
be read: every failure is a [`MediaError`] that names the medium, the cause and a remedy.
"""

import io
import os
import re
import struct
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from fractions import Fraction
from functools import cached_property
from typing import BinaryIO

import av
import numpy as np
import torch
from PIL import Image, ImageOps
from transformers.utils import logging

from .media_containers_omnivinci import (
    CONTAINERS,
    HAVE_DURATION,
    IMAGE_FORMATS,
    MAY_HAVE_WRONG_DURATION,
    Clock,
    choose_stream,
    has_loose_stamps,
    may_start_anew,
    mend_stamps,
)
from .media_forms_omnivinci import decode_data_url, local_path, plain_source
from .media_limits_omnivinci import MediaError, file_size
from .media_reading_omnivinci import ReadOptions, collect_bytes, fetch
from .media_structure_omnivinci import find_damage, has_lost_ogg_pages


logger = logging.get_logger(__name__)

# What Pillow's decoders raise on broken files, and ValueError for a closed image.
PILLOW_ERRORS = (
    *(OSError, SyntaxError, ValueError, LookupError, TypeError, struct.error),
    *(OverflowError, MemoryError, EOFError, RuntimeError),
)
CHUNK_BYTES = 1 << 20
# A file may end this much before the duration in its header without being called cut short.
END_TOLERANCE_SEC = 0.5

_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")
_HTTP = re.compile(r"https?://", re.IGNORECASE)


@dataclass(frozen=True)
class MediaSource:
    """Where a medium's bytes are: a checked regular file, or in memory. `damage` collects what is missing of it."""

    name: str
    reading: ReadOptions
    path: str | None = None
    data: bytes | None = None
    damage: list[str] = field(default_factory=list)

    @classmethod
    def of(cls, kind: str, source, reading: ReadOptions | None = None) -> "MediaSource":
        reading = reading or ReadOptions()
        if isinstance(source, str) and source[:5].lower() == "data:":
            name = f"{kind} {source[:40]!r}..."
            reading.media_limits.check(name, "max_memory_bytes", len(source) * 3 / 4, "bytes")
            data = decode_data_url(name, source)
        elif isinstance(source, str) and _HTTP.match(source) and reading.allow_urls:
            name = f"{kind} {source[:1000]!r}"
            data = fetch(name, source, reading)
        elif isinstance(source, (str, os.PathLike)):
            return cls._from_path(kind, os.fspath(source), reading)
        elif isinstance(source, (bytes, bytearray, memoryview)):
            name, data = f"{kind} given as bytes", bytes(source)
        elif hasattr(source, "read"):
            name = f"{kind} file object {getattr(source, 'name', '')!r}"
            data = collect_bytes(name, _parts(name, source), reading)
        else:
            remedy = "give a path, bytes, a binary file object or an array."
            raise MediaError(f"Cannot take a {type(source).__name__} as {kind}; {remedy}")
        if not data:
            raise MediaError(f"{name} is empty; if it is a file that was read before, seek(0) first.")
        reading.media_limits.check(name, "max_memory_bytes", len(data), "bytes")
        return cls(name, reading, data=data)

    @classmethod
    def _from_path(cls, kind: str, path: str, reading: ReadOptions) -> "MediaSource":
        name = f"{kind} {path[:1000]!r}"
        path = local_path(name, path)
        if _HTTP.match(path):
            raise MediaError(
                f"{name}: URLs are not fetched; download the file first and give its path, or give `allow_urls=True`."
            )
        if _URL.match(path):
            raise MediaError(f"{name}: URLs are not fetched; download the file first and give its path.")
        size = file_size(name, path)
        reading.media_limits.check(name, "max_file_bytes", size, "bytes")
        return cls(name, reading, path=os.path.abspath(path))

    @contextmanager
    def container(self) -> Iterator[av.container.InputContainer]:
        """Open with PyAV; its errors, then or while the container is in use, become `MediaError`."""
        # "file:" and the white lists keep playlists, and names such as "concat:a|b", from opening more.
        target = io.BytesIO(self.data) if self.path is None else "file:" + self.path
        protocols = "none" if self.path is None else "file"
        options = {"protocol_whitelist": protocols, "format_whitelist": ",".join(CONTAINERS), **self.decoder_options}
        timeout = (self.reading.timeout_sec, self.reading.timeout_sec)
        try:
            with av.open(target, timeout=timeout, options=options, metadata_errors="replace") as container:
                yield container
        except (av.error.ExitError, TimeoutError) as error:
            raise MediaError(
                f"{self.name}: opening or reading it took longer than {self.reading.timeout_sec:g} s; copy it to a "
                "faster place, or raise `timeout_sec`."
            ) from error
        except av.error.FFmpegError as error:
            raise MediaError(
                f"{self.name} cannot be decoded: {error.strerror}. It is damaged, cut short or of an "
                "unsupported format; check that it plays, or convert it."
            ) from error
        except (MemoryError, OverflowError, UnicodeError) as error:
            raise MediaError(f"{self.name} cannot be decoded ({error}); it is damaged, get it again.") from error

    @property
    def decoder_options(self) -> dict[str, str]:
        """FFmpeg refuses larger frames before it takes memory for them."""
        most = self.reading.media_limits.max_pixels
        return {"max_pixels": str(int(min(most, 2**31 - 1)))}

    def report(self, what: str) -> None:
        """Refuse a damaged medium, or note what is wrong with it."""
        if self.reading.on_damage == "raise":
            raise MediaError(f'{self.name} {what}; get a complete copy, or keep what is whole: on_damage="warn".')
        self.note(what)

    def note(self, what: str) -> None:
        """Have it logged once with the rest."""
        if what not in self.damage:
            self.damage.append(what)

    def check_complete(self, container, stream, packets: "PacketReader") -> bool:
        """Compare what came of a stream with what the headers promise, and look at the structure of the file.

        Returns False if packets may be missing in the middle.
        """
        name, missing = container.format.name, 0
        if name.startswith(("mov", "avi")):  # the index lists every packet
            promised = sum(entry.size > 0 for entry in stream.index_entries)
            missing = max(0, promised - packets.count)
        if missing:
            what, is_certain = f"is cut short: {missing} of {promised} {stream.type} packets are missing", True
        else:
            with self.open() as file:
                what, is_certain = find_damage(name, file)
        has_duration = name.startswith(HAVE_DURATION) and container.duration
        lost_sec = container.duration / av.time_base - packets.end_sec if has_duration else 0.0
        if lost_sec > END_TOLERANCE_SEC:
            if what is None and name.startswith(MAY_HAVE_WRONG_DURATION):
                what, is_certain = f"may be cut short: its header promises {lost_sec:.2f} s more", False
            elif what is None or (is_certain and "cut short" in what):
                what, is_certain = f"is cut short: {lost_sec:.2f} s are missing", True
        if what is not None:
            (self.report if is_certain else self.note)(what)
        return what is None or "damaged" not in what

    def is_whole(self, format_name: str) -> bool:
        """Whether the structure of the file, of FFmpeg's format `format_name`, shows no damage."""
        with self.open() as file:
            return find_damage(format_name, file) == (None, True)

    @property
    def path_or_file(self) -> str | io.BytesIO:
        """For Pillow, which closes what it has opened itself."""
        return io.BytesIO(self.data) if self.path is None else self.path

    def open(self) -> BinaryIO:
        return io.BytesIO(self.data) if self.path is None else open(self.path, "rb")

    @cached_property
    def clock(self) -> Clock:
        """The one that the picture and the sound go by; to find its jumps, all packets of both are read."""
        with self.container() as container:
            kinds = ("video", "audio") if may_start_anew(container) else ()
            streams = [stream for kind in kinds if (stream := choose_stream(self, container, kind))]
            clock = Clock({stream.index: stream.time_base for stream in streams})
            for packet in _read_packets(self, container, streams, lambda error: None) if streams else ():
                clock.add(packet)
        return clock

    @cached_property
    def has_lost_ogg_pages(self) -> bool:
        with self.open() as file:
            return has_lost_ogg_pages(file)

    def log_damage(self) -> None:
        if self.damage:
            logger.warning(f"{self.name} {', '.join(self.damage)}. What is whole was kept.")
            self.damage.clear()


class PacketReader:
    """The packets of a stream that have content. Where reading breaks off, that is reported as damage.

    `count` of them have come so far, `num_corrupt` of these at a loss that FFmpeg noticed, and they end at `end_sec` on
    the container's clock.
    """

    def __init__(self, source: MediaSource, container, stream):
        self.source, self.container, self.stream = source, container, stream
        self.count, self.num_corrupt = 0, 0
        self.ends = {}  # of each stream that is read, in units of its time base

    @property
    def end_sec(self) -> float:
        bases = {stream.index: stream.time_base for stream in self.container.streams}
        return max((to_seconds(end, bases[index]) for index, end in self.ends.items()), default=0.0)

    def __iter__(self) -> Iterator[av.Packet]:
        # The length in a Matroska or Flash header is that of the longest stream, so all must be read.
        reads_all = self.container.format.name.startswith(("matroska", "flv"))
        ends, counts, shifts, shift_of = self.ends, {}, {}, {}
        streams = [] if reads_all else [self.stream]
        for packet in _read_packets(self.source, self.container, streams, self._break_off):
            index = packet.stream_index
            if index not in ends:
                ends[index] = counts[index] = shift_of[index] = 0
                shifts[index] = self.source.clock.shifts(index)
                if packet.has_sidedata("encryption_info"):
                    raise MediaError(f"{self.source.name} is encrypted (DRM); decrypt it or get an unprotected copy.")
            if shifts[index]:
                shift_of[index] = shifts[index].get(counts[index], shift_of[index])
                packet.pts = None if packet.pts is None else packet.pts + shift_of[index]
                packet.dts = None if packet.dts is None else packet.dts + shift_of[index]
            counts[index] += 1
            if packet.pts is not None:
                ends[index] = max(ends[index], packet.pts + (packet.duration or 0))
            if index == self.stream.index:
                self.count += 1
                self.num_corrupt += packet.is_corrupt
                yield packet

    def _break_off(self, error: av.error.FFmpegError) -> None:
        self.source.report(f"breaks off at {self.end_sec:.2f} s ({error.strerror})")


def _read_packets(source: MediaSource, container, streams: list, break_off: Callable) -> Iterator[av.Packet]:
    """The packets that have content. `break_off` gets the error at which reading ends, if that is allowed."""
    packets = container.demux(*streams)
    packets = mend_stamps(packets) if has_loose_stamps(container) else packets
    while True:
        source.reading.check_cancelled()
        try:
            packet = next(packets, None)
        except IndexError:  # at the end PyAV 18 stumbles over a stream that began in the middle of the file
            return
        except av.error.FFmpegError as error:
            if container.format.name == "wv" and source.is_whole("wv"):  # FFmpeg stumbles over tags behind the sound
                return
            if source.reading.on_damage == "raise" or isinstance(error, (av.error.ExitError, TimeoutError)):
                raise
            return break_off(error)
        if packet is None:
            return
        if packet.size:  # else the end of a stream, or a frame that was dropped when recording
            yield packet


def to_seconds(stamp: int, time_base: Fraction) -> float:
    """The nearest float, as of an exact product, and much faster than one."""
    return stamp * time_base.numerator / time_base.denominator


def _parts(name: str, file) -> Iterator[bytes]:
    if getattr(file, "closed", False):
        raise MediaError(f"{name} is closed; open it again.")
    while part := file.read(CHUNK_BYTES):
        if not isinstance(part, bytes):
            raise MediaError(f"{name} gives {type(part).__name__}, not bytes; open it in binary mode.")
        yield part


def is_array(source) -> bool:
    return isinstance(source, (np.ndarray, torch.Tensor))


def to_numpy(array) -> np.ndarray:
    if not isinstance(array, torch.Tensor):
        return np.asarray(array)
    array = array.detach().cpu()
    return (array.float() if array.dtype == torch.bfloat16 else array).numpy()


def load_image(source, **reading) -> Image.Image:
    """Read one image as RGB; the orientation noted by a camera (EXIF) is applied.

    `source`: a path or `file:` URL, a base64 `data:` URL, bytes, a dictionary with "bytes" or "path", a binary file
    object, a PIL image, or an array or tensor `(height, width)`, `(height, width, 3 or 4)` or `(3, height, width)`,
    uint8 or float in [0, 1]; an http(s) URL, if `allow_urls` is given. `reading`: fields of [`ReadOptions`].
    """
    reading, source = ReadOptions.of(load_image, reading), plain_source("image", source)
    if is_array(source):
        return _image_from_array(to_numpy(source))
    name, image = "image", source
    if not isinstance(source, Image.Image):
        source = MediaSource.of("image", source, reading)
        name, image = source.name, None
    with pillow_errors(name):
        image = image or _open_image(source)
        check_pixels(name, *image.size, reading)
        # Pillow has 16 bits of these as whole numbers, and of others whatever the numbers are
        is_deep = image.mode.startswith("I;16") or (image.mode == "I" and image.format in ("PPM", "PNG"))
        return _to_rgb(name, ImageOps.exif_transpose(image), is_deep)


@contextmanager
def pillow_errors(name: str) -> Iterator[None]:
    """Pillow's errors about a medium become `MediaError`."""
    try:
        yield
    except MediaError:
        raise
    except Image.UnidentifiedImageError as error:
        raise MediaError(f"{name} is of no known image format; check that it opens in a viewer.") from error
    except Image.DecompressionBombError as error:
        raise MediaError(f"{name} is too large ({error}); make it smaller, or raise Image.MAX_IMAGE_PIXELS.") from error
    except PILLOW_ERRORS as error:
        raise MediaError(f"{name} cannot be decoded ({error}); it is damaged or cut short.") from error


def _open_image(source: MediaSource) -> Image.Image:
    try:
        image = Image.open(source.path_or_file, formats=IMAGE_FORMATS)
    except Image.UnidentifiedImageError:
        with source.open() as file:
            if file.read(8)[4:] != b"ftyp":
                raise
        image = _open_heif(source)
    if image.format != "MPO" and getattr(image, "is_animated", False):  # MPO: smaller copies, depth, light
        logger.warning(
            f"{source.name} holds several pictures, of which the first is taken. If it is an animation, give it as a "
            "video for all of its frames."
        )
    return image


def _open_heif(source: MediaSource) -> Image.Image:
    """Photos of phones; FFmpeg knows no more of them than the tiles that they are made of."""
    try:
        from pillow_heif import register_heif_opener
    except ImportError as error:
        raise MediaError(
            f"{source.name} is of no known image format; if it is a HEIC photo, install pillow-heif, or convert it to "
            "JPEG."
        ) from error
    register_heif_opener()
    return Image.open(source.path_or_file, formats=("HEIF",))


def _to_rgb(name: str, image: Image.Image, is_deep: bool) -> Image.Image:
    """Pillow cuts every value above 255 down to white."""
    if is_deep:
        image = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
    elif image.mode in ("I", "F"):
        low, high = np.asarray(image).min(), np.asarray(image).max()
        if not 0 <= low <= high <= 255 or (image.mode == "F" and 0 < high <= 1):  # NaN too
            raise MediaError(f"{name} has values from {low:g} to {high:g}; scale them to 8 bits, 0 to 255.")
    return image.convert("RGB")


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


def check_pixels(name: str, width: int, height: int, reading: ReadOptions) -> None:
    if width <= 0 or height <= 0:
        raise MediaError(f"{name} has pictures without a size ({width} x {height}); its header is damaged.")
    reading.media_limits.check(name, "max_pixels", width * height, f"pixels ({width} x {height})")
