"""This module loads videos: the wanted frames with their true times, and the audio that belongs to them."""

import inspect
import math
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from itertools import accumulate
from numbers import Real
from typing import Any, BinaryIO

import numpy as np
import torch
from PIL import Image

from .audio_media_omnivinci import AudioClip, SoundOptions, audio_from_container
from .frame_sampling_omnivinci import FrameChoice, sample_indices
from .media_containers_omnivinci import MOVING_FORMATS, STILL_FORMATS
from .media_forms_omnivinci import DecoderFrames, frames_of, is_video_decoder, plain_source
from .media_limits_omnivinci import MediaError
from .media_omnivinci import PILLOW_ERRORS, MediaSource, check_pixels, is_array, load_image, pillow_errors, to_numpy
from .media_reading_omnivinci import ReadOptions, TimeRange
from .options_omnivinci import CALL_OPTIONS
from .video_decoding_omnivinci import decode_frames
from .video_table_omnivinci import FrameTable, recount, scan_video


# Programs write 0 where they mean "soon"; players take the second for the first, as FFmpeg does of GIF.
SHORTEST_SEC, USUAL_SEC = 0.01, 0.1


def is_moving(image: Image.Image) -> bool:
    """Whether a file that Pillow has opened is a video, if nobody says that it is an image."""
    return image.format in MOVING_FORMATS and bool(getattr(image, "is_animated", False))


class MovingPicture:
    """Frames of a PNG or WebP file, decoded one at a time as they are asked for; FFmpeg reads the other formats."""

    def __init__(self, source: MediaSource, image: Image.Image):
        self.source, self.image = source, image
        self.first = int(getattr(image, "default_image", False))  # one for programs that know no moving PNG
        promised = image.n_frames - self.first
        with source.open() as file:
            durations = [*(_png_durations if image.format == "PNG" else _webp_durations)(file)][:promised]
        if len(durations) < promised:
            source.report(f"is cut short: {promised - len(durations)} of {promised} frames are missing")
        durations = [sec if sec > SHORTEST_SEC else USUAL_SEC for sec in durations]
        *self.times, self.duration_sec = accumulate(durations, initial=0.0)

    def __len__(self) -> int:
        return len(self.times)

    def __getitem__(self, number: int) -> Image.Image:
        self.source.reading.check_cancelled()
        with pillow_errors(f"{self.source.name}, frame {number}"):
            self.image.seek(self.first + number)
            self.image.load()
        return self.image


@contextmanager
def moving_picture(source: MediaSource) -> Iterator[MovingPicture | None]:
    """The frames of a file, or None if FFmpeg is to read it. A still picture is a [`MediaError`]."""
    try:
        image = Image.open(source.path_or_file, formats=(*MOVING_FORMATS, *STILL_FORMATS))
    except (*PILLOW_ERRORS, Image.DecompressionBombError):  # no picture, or FFmpeg tells what is wrong with it
        image = None
    if image is None:
        yield None
        return
    with image:
        if not is_moving(image):
            raise MediaError(f"{source.name} is a still picture ({image.format}), not a video; give it as an image.")
        check_pixels(source.name, *image.size, source.reading)
        yield MovingPicture(source, image) if image.format in ("PNG", "WEBP") else None


def _png_durations(file: BinaryIO) -> Iterator[float]:
    """Before each frame a chunk says its duration as a fraction, whose denominator of 0 stands for 100."""
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
    """Each frame is a chunk that begins with its place, its size and its milliseconds, in three bytes each."""
    file.seek(12)
    while len(head := file.read(8)) == 8:
        end = file.tell() + int.from_bytes(head[4:], "little")
        if head[:4] == b"ANMF":
            yield int.from_bytes(file.read(15)[12:], "little") / 1000
        file.seek(end + end % 2)


# -- Videos: the wanted frames with their true times, decoded by feeding only the packets that they need


__all__ = ["VideoClip", "load_video", "sample_indices"]


@dataclass
class VideoClip:
    """Sampled frames of a video, or of a range of it.

    `frames` are RGB images, or what `transform` of [`load_video`] made of them: if tensors, then one for all,
    `(num_frames, ...)`, else a list, in which an object repeats where its index does. `times` float64 `(num_frames,)`
    are seconds since the start of the clip: the first frame of the video, or the start of the range, which is at
    `start_sec` of the video. `indices` int64 `(num_frames,)` and `total_frames` count all frames of the video.
    `duration_sec` is that of the clip, `fps` the average rate of the video, `size` its width and height in pixels.
    """

    frames: list[Image.Image] | torch.Tensor
    times: np.ndarray
    indices: np.ndarray
    duration_sec: float
    fps: float
    total_frames: int
    audio: AudioClip | None
    name: str
    size: tuple[int, int]
    start_sec: float = 0.0


def load_video(
    source,
    *,
    num_frames: int | None = None,
    fps: float | None = None,
    frame_indices=None,
    frame_times=None,
    start_sec: float = 0.0,
    end_sec: float | None = None,
    metadata=None,
    with_audio: bool = False,
    sampling_rate: int = 16000,
    downmix: str = "mean",
    align_audio_start: bool = True,
    max_audio_sec: float | None = None,
    transform: Callable[[Image.Image], Any] | None = None,
    **reading,
) -> VideoClip:
    """Read the frames that are asked for and, if asked, the sound.

    Args:
        source: a path, bytes or binary file object of a container or of a picture that moves (GIF, PNG, WebP or AVIF
            of several frames), an http(s) URL if `allow_urls` is given, what `datasets` gives (a dict with "bytes" or
            "path", or torchcodec's VideoDecoder), or frames:
            an array or tensor `(num_frames, height, width, 3)` or `(num_frames, 3, height, width)`, or a list of what
            [`load_image`] takes.
        num_frames, fps: spread evenly, or at a rate; see [`sample_indices`].
        frame_indices, frame_times: instead of these, certain frames: by their places in the video, or those that are
            shown at some seconds of the video; ascending.
        start_sec, end_sec: take this range of the video only, picture and sound alike. What is shown at its start
            belongs to it, and the times of the clip count from there.
        metadata: a dict or Transformers' `VideoMetadata`, for frames only, a file has its own times: `fps`, or `times`
            (`timestamps`), with `total_num_frames` and `duration` if known; frames with `frames_indices` were sampled
            already and are taken as they are.
        with_audio: read the first audio stream too, as by [`load_audio`]; None if there is none.
        align_audio_start: sample 0 belongs to the first frame: silence is put before a sound that starts later and into
            its gaps, the head of one that starts earlier is cut. Without, its first sample comes first, as the
            original checkpoint heard it.
        max_audio_sec: only so many seconds of the sound.
        transform: applied to every frame as soon as it is decoded; its results are the clip's `frames`. A resize here
            saves holding all frames in full size. Tensors, all of one shape, are put into one; if it has a parameter
            `out`, it is given the place of all but the first few to fill. It is called from several threads.
        reading: fields of [`ReadOptions`].
    """
    choice = FrameChoice(num_frames, fps, frame_indices, frame_times, TimeRange(start_sec, end_sec))
    for name, flag in (("with_audio", with_audio), ("align_audio_start", align_audio_start)):
        CALL_OPTIONS["load_audio_from_video"].check(name, flag)
    reading, source = ReadOptions.of(load_video, reading), plain_source("video", source)
    if is_video_decoder(source):
        source, metadata = frames_of(source, with_audio)
    if is_array(source) or isinstance(source, (list, tuple, DecoderFrames)):
        return _video_from_frames(source, metadata, choice, transform, reading)
    sound = SoundOptions(sampling_rate, downmix, max_audio_sec, choice.range)
    source = MediaSource.of("video", source, reading)
    with moving_picture(source) as picture:
        if picture is not None:
            clip = _video_from_picture(picture, choice, transform)
            source.log_damage()
            return clip
    table = scan_video(source)
    while True:
        indices = _choose(source.name, choice, table.times, table.duration_sec, reading)
        frames = _Frames(indices, transform)
        origin_sec = table.start_sec if align_audio_start else None
        listen = partial(audio_from_container, source, sound, origin_sec) if with_audio else lambda: None
        audio = decode_frames(source, table, frames, listen)
        truth = recount(source, table) if frames.missing else None
        if truth is None:
            break
        table = truth
    frames.check_complete(source, table)
    indices = indices[[index in frames.sizes for index in indices.tolist()]]
    source.log_damage()
    end_sec = min(table.duration_sec, start_sec + choice.range.duration_sec)
    return VideoClip(
        frames=frames.take(indices),
        times=np.maximum(table.times[indices] - start_sec, 0.0),
        indices=indices,
        duration_sec=end_sec - start_sec,
        fps=len(table.times) / table.duration_sec,
        total_frames=len(table.times),
        audio=audio,
        name=source.name,
        size=frames.size,
        start_sec=start_sec,
    )


class _Frames:
    """Collects the frames of some indices, each transformed; called from several threads."""

    def __init__(self, indices: np.ndarray, transform: Callable[[Image.Image], Any] | None):
        self.wanted = sorted(set(indices.tolist()))
        self.places = {index: place for place, index in enumerate(self.wanted)}
        self.transform = transform or (lambda image: image)
        self.fills_out = _has_parameter(self.transform, "out")
        self.sizes: dict[int, tuple[int, int]] = {}  # of those that have come
        self.items, self.lock = None, threading.Lock()

    def add(self, index: int, image: Image.Image) -> None:
        number, place = self.places[index], None
        if self.fills_out and isinstance(self.items, torch.Tensor):
            place = self.items[number]
            item = self.transform(image, out=place)
            item = place if item is None else item
        else:
            item = self.transform(image)
            with self.lock:
                if self.items is None:
                    is_tensor, total = isinstance(item, torch.Tensor), len(self.wanted)
                    self.items = item.new_empty(total, *item.shape) if is_tensor else [None] * total
        if isinstance(self.items, torch.Tensor):
            kind, first = _kind(item), _kind(self.items[0])
            if kind != first:
                raise ValueError(f"`transform` must give tensors of one type and shape, got {kind} after {first}.")
        if place is None or item.data_ptr() != place.data_ptr():
            self.items[number] = item
        self.sizes[index] = image.size

    @property
    def missing(self) -> list[int]:
        return [index for index in self.wanted if index not in self.sizes]

    def forget(self, index: int) -> None:
        """It came, but is not to be believed."""
        self.sizes.pop(index, None)

    def check_complete(self, source: MediaSource, table: FrameTable) -> None:
        missing, total = self.missing, len(self.wanted)
        if missing:
            span = f"between {table.times[missing[0]]:.2f} and {table.times[missing[-1]]:.2f} s"
            source.report(f"is damaged or cut short: {len(missing)} of {total} wanted frames do not decode, {span}")
        if not self.sizes:
            raise MediaError(f"{source.name}: none of the {total} wanted frames decodes; get the file again.")

    @property
    def size(self) -> tuple[int, int]:
        return self.sizes[min(self.sizes)]

    def take(self, indices: np.ndarray) -> list | torch.Tensor:
        places = [self.places[index] for index in indices.tolist()]
        if places == list(range(len(self.items))):
            return self.items
        return self.items[places] if isinstance(self.items, torch.Tensor) else [self.items[place] for place in places]


def _kind(item: Any) -> str:
    return f"{item.dtype} {tuple(item.shape)}" if isinstance(item, torch.Tensor) else type(item).__name__


def _has_parameter(function: Callable, name: str) -> bool:
    try:
        return name in inspect.signature(function).parameters
    except (TypeError, ValueError):  # it is written in C
        return False


def _choose(name: str, choice: FrameChoice, times, duration_sec: float, reading: ReadOptions) -> np.ndarray:
    limits = reading.media_limits
    taken_sec = min(duration_sec - choice.range.start_sec, choice.range.duration_sec)
    limits.check(name, "max_duration_sec", taken_sec, "seconds")
    what = "frames to take (fewer: `num_frames` or `fps`)"
    if choice.num_frames is not None and choice.fps is None:  # before there is a list of so many
        limits.check(name, "max_frames", choice.num_frames, what)
    indices = choice.choose(name, times, duration_sec)
    limits.check(name, "max_frames", len(indices), what)
    return indices


def _video_from_picture(picture: MovingPicture, choice: FrameChoice, transform) -> VideoClip:
    metadata = {"times": picture.times, "duration": picture.duration_sec}
    return _video_from_frames(picture, metadata, choice, transform, picture.source.reading, picture.source.name)


def _video_from_frames(
    frames, metadata, choice: FrameChoice, transform, reading: ReadOptions, name: str | None = None
) -> VideoClip:
    if is_array(frames) and frames.ndim != 4:
        raise MediaError(f"A video array must be (T, H, W, 3) or (T, 3, H, W), not {tuple(frames.shape)}.")
    if len(frames) == 0:
        raise MediaError("A video given as frames is empty; give at least one frame.")
    name = name or f"video of {len(frames)} frames"
    times, indices, duration_sec, total_frames = _frame_times(len(frames), metadata)
    if indices is None:
        indices = chosen = _choose(name, choice, times, duration_sec, reading)
    elif choice.is_explicit:
        raise ValueError("These frames were sampled already (`frames_indices`); no indices or times can be asked for.")
    else:
        first, stop, _ = choice.bounds(name, times, duration_sec)
        chosen = np.arange(first, stop)
        indices = indices[chosen]
        reading.media_limits.check(name, "max_frames", len(chosen), "frames")
    taken = _Frames(chosen, transform)
    for index in taken.wanted:
        taken.add(index, load_image(frames[index], media_limits=reading.media_limits))
    start_sec = choice.range.start_sec
    return VideoClip(
        frames=taken.take(chosen),
        times=np.maximum(times[chosen] - start_sec, 0.0),
        indices=indices,
        duration_sec=min(duration_sec, start_sec + choice.range.duration_sec) - start_sec,
        fps=total_frames / duration_sec,
        total_frames=total_frames,
        audio=None,
        name=name,
        size=taken.size,
        start_sec=start_sec,
    )


def _frame_times(num_given: int, metadata) -> tuple[np.ndarray, np.ndarray | None, float, int]:
    """Times of the given frames, indices if they were sampled already, duration, number of all frames."""
    given = _metadata_fields(num_given, metadata)
    rate, times, indices = given.get("fps"), given.get("times"), given.get("frames_indices")
    total = given.get("total_num_frames", num_given)
    if rate is None and times is None:
        raise MediaError('Frames have no times: a frame rate is needed, `video_metadata={"fps": ...}`.')
    if rate is not None and not 0 < rate < math.inf:
        raise MediaError(f"`fps` in `video_metadata` must be positive, got {rate}.")
    if not (0 < total < math.inf and total == int(total)):
        raise MediaError(f"`total_num_frames` in `video_metadata` must be a positive whole number, got {total:g}.")
    total = int(total)
    if indices is not None:
        if indices[0] < 0 or (np.diff(indices) < 0).any():
            raise MediaError("`frames_indices` in `video_metadata` must be ascending and not negative.")
        total = max(total, int(indices.max()) + 1)
    elif times is None and total != num_given:
        raise MediaError(f"Got {num_given} frames of {total}; say which with `frames_indices`.")
    else:
        total = num_given
    if times is None:
        times, end_sec = (np.arange(num_given) if indices is None else indices) / rate, total / rate
    else:
        # Without a rate the last frame is shown as long as the others are on average.
        gap = 1 / rate if rate else (times[-1] - times[0]) / (num_given - 1) if num_given > 1 else math.nan
        end_sec = times[-1] + gap
    if not (np.isfinite(times).all() and times[0] >= 0 and (np.diff(times) >= 0).all()):
        raise MediaError("Frame times in `video_metadata` must be finite, not negative and ascending.")
    duration_sec = given.get("duration", float(end_sec))
    if not (times[-1] <= duration_sec < math.inf and duration_sec > 0):
        raise MediaError(
            f"The last frame is at {times[-1]} s but the video ends at {duration_sec} s; give `fps` or "
            "`duration` in `video_metadata`."
        )
    return times, indices, duration_sec, total


def _metadata_fields(num_given: int, metadata) -> dict[str, Any]:
    """What is given of the metadata of frames; `times` and `frames_indices` are arrays of one number for each frame."""
    if metadata is not None and not isinstance(metadata, Mapping) and not hasattr(metadata, "__dict__"):
        raise MediaError(f"`video_metadata` of a video must be a dict or a VideoMetadata, got {metadata!r:.100}.")
    fields = dict(metadata if isinstance(metadata, Mapping) else vars(metadata) if metadata is not None else {})
    fields["times"] = fields.get("times", fields.get("timestamps"))
    given = {name: value for name, value in fields.items() if value is not None}
    for name in given.keys() & {"fps", "duration", "total_num_frames"}:
        if not isinstance(given[name], Real):
            raise MediaError(f"`{name}` in `video_metadata` must be a number, got {given[name]!r:.100}.")
        try:
            given[name] = float(given[name])
        except OverflowError as error:
            raise MediaError(f"`{name}` in `video_metadata` is too large ({error}).") from error
    for name, dtype in (("frames_indices", np.int64), ("times", np.float64)):
        if name not in given:
            continue
        try:
            values = to_numpy(given[name])
        except (ValueError, TypeError, OverflowError):  # ragged, or no numbers
            values = np.array(None)
        if values.ndim != 1 or not np.can_cast(values.dtype, dtype, "same_kind"):
            raise MediaError(f"`{name}` in `video_metadata` must be a list of numbers, got {given[name]!r:.100}.")
        if len(values) != num_given:
            raise MediaError(f"Got {num_given} frames but {len(values)} {name}; they must match 1:1.")
        given[name] = values.astype(dtype)
    return given
