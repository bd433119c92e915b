"""This module loads what Pillow reads: images, and videos that are given as images.

Such a video is a file of PNG or WebP with several frames, a list, an array or tensor of frames, or a decoder that gives
its frames one by one. Each comes as a [`FrameSeries`]: frames to be indexed, and their times.
"""

import math
import struct
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import accumulate
from numbers import Real
from typing import Any, BinaryIO

import numpy as np
from PIL import Image, ImageFile, ImageOps
from transformers.utils import logging

from .media_reading_omnivinci import MediaError, ReadOptions
from .media_sources_omnivinci import MediaSource, is_array, plain_source, read_options, to_numpy


logger = logging.get_logger(__name__)

# What Pillow's decoders raise on broken files, and ValueError for a closed image.
PILLOW_ERRORS = (
    *(OSError, SyntaxError, ValueError, LookupError, TypeError, struct.error),
    *(OverflowError, MemoryError, EOFError, RuntimeError),
)
# Programs write 0 where they mean "soon"; players take the second for the first, as FFmpeg does of GIF.
SHORTEST_SEC, USUAL_SEC = 0.01, 0.1
NUM_FRAMES_AT_ONCE = 32  # that a decoder is asked for


def _png_durations(file: BinaryIO) -> Iterator[float]:
    """Yields the seconds that each frame of a PNG file is shown.

    Before each frame a chunk has them as a fraction, whose denominator of 0 stands for 100.
    """
    duration_sec = None  # of the frame that is being read; it is whole where the next one begins
    file.seek(8)
    while len(head := file.read(8)) == 8:
        end = file.tell() + int.from_bytes(head[:4], "big") + 4  # with the checksum
        if head[4:] in (b"fcTL", b"IEND") and duration_sec is not None:
            yield duration_sec
        if head[4:] == b"fcTL":
            fraction = file.read(24)[20:]
            duration_sec = int.from_bytes(fraction[:2], "big") / (int.from_bytes(fraction[2:], "big") or 100)
        file.seek(end)


def _webp_durations(file: BinaryIO) -> Iterator[float]:
    """Yields the seconds that each frame of a WebP file is shown.

    Each frame is a chunk that begins with its place, its size and its milliseconds, in three bytes each.
    """
    file.seek(12)
    while len(head := file.read(8)) == 8:
        end = file.tell() + int.from_bytes(head[4:], "little")
        if head[:4] == b"ANMF":
            yield int.from_bytes(file.read(15)[12:], "little") / 1000
        file.seek(end + end % 2)


@dataclass(frozen=True)
class ImageFormat:
    """An image format is one that Pillow reads; its row in `IMAGE_FORMATS` says all that is known of it.

    Args:
        name: Pillow's.
        image_names: what users call such files; the documentation lists them.
        is_video: files of several frames are videos, and are read by FFmpeg, or by Pillow if there are
            `frame_durations`.
        frame_durations: yields the seconds that each frame of a file is shown.
        has_clear_mark: no video file begins as its files do.
    """

    name: str
    image_names: tuple[str, ...] = ()
    is_video: bool = False
    frame_durations: Callable[[BinaryIO], Iterator[float]] | None = None
    has_clear_mark: bool = True


# None of them runs other programs (EPS starts Ghostscript) or opens other files.
_ROWS = (
    ImageFormat("PNG", ("PNG",), is_video=True, frame_durations=_png_durations),
    ImageFormat("JPEG", ("JPEG",)),
    ImageFormat("WEBP", ("WebP",), is_video=True, frame_durations=_webp_durations),
    ImageFormat("GIF", ("GIF",), is_video=True),
    ImageFormat("BMP", ("BMP",)),
    ImageFormat("DIB", has_clear_mark=False),
    ImageFormat("TIFF", ("TIFF",)),
    ImageFormat("PPM", ("PPM",), has_clear_mark=False),
    ImageFormat("ICO", ("ICO",), has_clear_mark=False),
    ImageFormat("TGA", ("TGA",), has_clear_mark=False),
    ImageFormat("JPEG2000", ("JPEG 2000",)),
    ImageFormat("AVIF", ("AVIF",), is_video=True),
)
IMAGE_FORMATS = {row.name: row for row in _ROWS}


# -- Images


def load_image(source: Any, **reading: Any) -> Image.Image:
    """Reads one image as RGB; the orientation noted by a camera (EXIF) is applied.

    Args:
        source: a path or `file:` URL, a base64 `data:` URL, bytes, a dictionary with "bytes" or "path", a binary file
            object, a PIL image, or an array or tensor `(height, width)`, `(height, width, 3 or 4)` or
            `(3, height, width)`, uint8 or float in [0, 1]; an http(s) URL, if `allow_urls` is given.
        reading: `timeout_sec`, `media_limits`, `on_damage`, `progress`, `allow_urls`, `allow_redirects`,
            `allow_private_addresses`, `num_threads` and `cancelled`, as in [`ReadOptions`].

    Raises:
        MediaError: if it cannot be read.
    """
    options, source = read_options(load_image, reading), plain_source("image", source)
    if is_array(source):
        return _image_from_array(to_numpy(source))
    medium = None if isinstance(source, Image.Image) else MediaSource.of("image", source, options)
    name = "image" if medium is None else medium.name
    with pillow_errors(name):
        image: Image.Image = source if medium is None else _open_image(medium)
        check_pixels(name, image.width, image.height, options)
        # Pillow has 16 bits of these as whole numbers, and of others whatever the numbers are
        is_deep = image.mode.startswith("I;16") or (image.mode == "I" and image.format in ("PPM", "PNG"))
        return _to_rgb(name, ImageOps.exif_transpose(image), is_deep)


@contextmanager
def pillow_errors(name: str) -> Iterator[None]:
    """Turns Pillow's errors about a medium into [`MediaError`]."""
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
    image: Image.Image
    try:
        image = Image.open(source.path_or_file, formats=[*IMAGE_FORMATS])
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
    """Opens a photo of a phone; FFmpeg knows no more of it than the tiles that it is made of."""
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
    """Converts to RGB what Pillow would cut down to white: it does so with every value above 255."""
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


def check_pixels(name: str, width: int, height: int, options: ReadOptions) -> None:
    """Refuses a picture without pixels, or with more than the limit."""
    if width <= 0 or height <= 0:
        raise MediaError(f"{name} has pictures without a size ({width} x {height}); its header is damaged.")
    options.media_limits.check(name, "max_pixels", width * height, f"pixels ({width} x {height})")


# -- Videos that are given as images


@dataclass(frozen=True)
class FrameSeries:
    """A frame series is a video that is given as images, each of which [`load_image`] takes.

    Args:
        name: what errors call the video.
        frames: a list, an array or an object that gives a frame for an index.
        times: float64 `(num_frames,)`, seconds since the start of the video.
        duration_sec: of the video.
        indices: int64 `(num_frames,)` of frames that were sampled already; else None.
        total_frames: of the video.
    """

    name: str
    frames: Any
    times: np.ndarray
    duration_sec: float
    indices: np.ndarray | None
    total_frames: int


def frames_with_metadata(frames: Any, metadata: Any, name: str | None = None) -> FrameSeries:
    """Makes a series of frames and what `video_metadata` says of them; see [`load_video`].

    Raises:
        MediaError: when there is no frame, or the metadata do not give their times.
    """
    if is_array(frames) and frames.ndim != 4:
        raise MediaError(f"A video array must be (T, H, W, 3) or (T, 3, H, W), not {tuple(frames.shape)}.")
    if len(frames) == 0:
        raise MediaError("A video given as frames is empty; give at least one frame.")
    times, indices, duration_sec, total_frames = _frame_times(len(frames), metadata)
    name = name or f"video of {len(frames)} frames"
    return FrameSeries(name, frames, times, duration_sec, indices, total_frames)


class DecoderFrames(Sequence):
    """These are the frames of a torchcodec VideoDecoder, decoded when they are asked for."""

    def __init__(self, decoder: Any):
        self.decoder = decoder

    def __len__(self) -> int:
        return len(self.decoder)

    def __getitem__(self, index: Any) -> Any:
        return self._decode([int(index)]).data[0]

    def metadata(self) -> dict[str, Any]:
        """Returns times and length as `video_metadata` has them; a decoder tells a time only with its frame."""
        stamps = []
        for first in range(0, len(self), NUM_FRAMES_AT_ONCE):
            batch = self._decode(list(range(first, min(first + NUM_FRAMES_AT_ONCE, len(self)))))
            stamps.append(np.asarray(batch.pts_seconds, dtype=np.float64))
        if not stamps:
            raise MediaError(f"A {type(self.decoder).__name__} has no frames.")
        times = np.concatenate(stamps)
        end_sec = float(times[-1]) + float(np.asarray(batch.duration_seconds)[-1])
        return {"times": times - times[0], "duration": end_sec - float(times[0])}

    def _decode(self, indices: list[int]) -> Any:
        try:
            return self.decoder.get_frames_at(indices=indices)
        except RuntimeError as error:
            raise MediaError(f"Frames of a {type(self.decoder).__name__} cannot be decoded ({error}).") from error


class _FileFrames:
    """These are the frames of a PNG or WebP file, decoded one at a time as they are asked for."""

    def __init__(self, source: MediaSource, image: Image.Image, first: int, num_frames: int):
        self.source, self.image, self.first, self.num_frames = source, image, first, num_frames

    def __len__(self) -> int:
        return self.num_frames

    def __getitem__(self, index: int) -> Image.Image:
        self.source.reading.check_cancelled()
        with pillow_errors(f"{self.source.name}, frame {index}"):
            self.image.seek(self.first + index)
            self.image.load()
        return self.image


def is_moving(image: Image.Image) -> bool:
    """Whether a file that Pillow has opened is a video, if nobody says that it is an image."""
    row = IMAGE_FORMATS.get(image.format or "")
    return row is not None and row.is_video and bool(getattr(image, "is_animated", False))


@contextmanager
def moving_picture(source: MediaSource) -> Iterator[FrameSeries | None]:
    """Opens a video file that Pillow reads; None if FFmpeg is to read it.

    Raises:
        MediaError: for a still picture.
    """
    formats = [row.name for row in _ROWS if row.is_video or row.has_clear_mark]
    image: ImageFile.ImageFile | None
    try:
        image = Image.open(source.path_or_file, formats=formats)
    except (*PILLOW_ERRORS, Image.DecompressionBombError):  # no picture, or FFmpeg tells what is wrong with it
        image = None
    if image is None:
        yield None
        return
    with image:
        if not is_moving(image):
            raise MediaError(f"{source.name} is a still picture ({image.format}), not a video; give it as an image.")
        check_pixels(source.name, image.width, image.height, source.reading)
        frame_durations = IMAGE_FORMATS[image.format or ""].frame_durations
        yield None if frame_durations is None else _series_of_file(source, image, frame_durations)


def _series_of_file(
    source: MediaSource, image: ImageFile.ImageFile, frame_durations: Callable[[BinaryIO], Iterator[float]]
) -> FrameSeries:
    first = int(getattr(image, "default_image", False))  # one for programs that know no moving PNG
    num_promised = getattr(image, "n_frames", 1) - first
    with source.open() as file:
        durations = [*frame_durations(file)][:num_promised]
    if len(durations) < num_promised:
        source.report(f"is cut short: {num_promised - len(durations)} of {num_promised} frames are missing")
    durations = [sec if sec > SHORTEST_SEC else USUAL_SEC for sec in durations]
    *times, duration_sec = accumulate(durations, initial=0.0)
    frames = _FileFrames(source, image, first, len(times))
    return frames_with_metadata(frames, {"times": times, "duration": duration_sec}, source.name)


# -- The times of frames


@dataclass(frozen=True)
class _FrameMetadata:
    """This is what `video_metadata` says of frames, as far as it does."""

    fps: float | None
    duration_sec: float | None
    total_frames: float | None
    times: np.ndarray | None  # (num_frames,) float64
    indices: np.ndarray | None  # (num_frames,) int64

    @classmethod
    def of(cls, num_frames: int, metadata: Any) -> "_FrameMetadata":
        """Reads a dictionary or an object such as Transformers' `VideoMetadata`."""
        if metadata is None:
            metadata = {}
        elif not isinstance(metadata, Mapping):
            if not hasattr(metadata, "__dict__"):
                raise MediaError(
                    f"`video_metadata` of a video must be a dict or a VideoMetadata, got {metadata!r:.100}."
                )
            metadata = vars(metadata)
        metadata = dict(metadata)
        times = metadata.get("times", metadata.get("timestamps"))
        return cls(
            fps=_number("fps", metadata.get("fps")),
            duration_sec=_number("duration", metadata.get("duration")),
            total_frames=_number("total_num_frames", metadata.get("total_num_frames")),
            times=_numbers("times", times, np.float64, num_frames),
            indices=_numbers("frames_indices", metadata.get("frames_indices"), np.int64, num_frames),
        )


def _number(name: str, value: Any) -> float | None:
    if value is None:
        return None
    if not isinstance(value, Real):
        raise MediaError(f"`{name}` in `video_metadata` must be a number, got {value!r:.100}.")
    try:
        return float(value)
    except OverflowError as error:
        raise MediaError(f"`{name}` in `video_metadata` is too large ({error}).") from error


def _numbers(name: str, value: Any, dtype: type[np.generic], num_frames: int) -> np.ndarray | None:
    """Makes an array of one number for each frame."""
    if value is None:
        return None
    try:
        numbers = to_numpy(value)
    except (ValueError, TypeError, OverflowError):  # ragged, or no numbers
        numbers = np.array(None)
    if numbers.ndim != 1 or not np.can_cast(numbers.dtype, dtype, "same_kind"):
        raise MediaError(f"`{name}` in `video_metadata` must be a list of numbers, got {value!r:.100}.")
    if len(numbers) != num_frames:
        raise MediaError(f"Got {num_frames} frames but {len(numbers)} {name}; they must match 1:1.")
    return numbers.astype(dtype)


def _frame_times(num_frames: int, metadata: Any) -> tuple[np.ndarray, np.ndarray | None, float, int]:
    """Finds the times of frames, their indices if they were sampled already, the duration and the number of all."""
    given = _FrameMetadata.of(num_frames, metadata)
    if given.fps is not None and not 0 < given.fps < math.inf:
        raise MediaError(f"`fps` in `video_metadata` must be positive, got {given.fps}.")
    if given.times is not None:
        times = given.times
        total_frames = _total_frames(num_frames, given)
        # Without a rate the last frame is shown as long as the others are on average.
        mean_gap = (times[-1] - times[0]) / (num_frames - 1) if num_frames > 1 else math.nan
        end_sec = float(times[-1] + (1 / given.fps if given.fps else mean_gap))
    elif given.fps is not None:
        total_frames = _total_frames(num_frames, given)
        times = (np.arange(num_frames) if given.indices is None else given.indices) / given.fps
        end_sec = total_frames / given.fps
    else:
        raise MediaError('Frames have no times: a frame rate is needed, `video_metadata={"fps": ...}`.')
    if not (np.isfinite(times).all() and times[0] >= 0 and (np.diff(times) >= 0).all()):
        raise MediaError("Frame times in `video_metadata` must be finite, not negative and ascending.")
    duration_sec = end_sec if given.duration_sec is None else given.duration_sec
    if not (times[-1] <= duration_sec < math.inf and duration_sec > 0):
        raise MediaError(
            f"The last frame is at {times[-1]} s but the video ends at {duration_sec} s; give `fps` or "
            "`duration` in `video_metadata`."
        )
    return times, given.indices, duration_sec, total_frames


def _total_frames(num_frames: int, given: _FrameMetadata) -> int:
    """Counts the frames of a video of which `num_frames` are given."""
    total = num_frames if given.total_frames is None else given.total_frames
    if not (0 < total < math.inf and total == int(total)):
        raise MediaError(f"`total_num_frames` in `video_metadata` must be a positive whole number, got {total:g}.")
    if given.indices is not None:
        if given.indices[0] < 0 or (np.diff(given.indices) < 0).any():
            raise MediaError("`frames_indices` in `video_metadata` must be ascending and not negative.")
        return max(int(total), int(given.indices.max()) + 1)
    if given.times is None and total != num_frames:
        raise MediaError(f"Got {num_frames} frames of {int(total)}; say which with `frames_indices`.")
    return num_frames
