"""This module loads videos: the wanted frames with their true times, and the audio that belongs to them.

From `frame_table` it knows which packets hold which frames before any is decoded. A decoder is then fed only the
packets that the wanted frames need: seeking misses frames in some formats.
"""

import inspect
import math
import threading
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from itertools import chain
from typing import Any

import av
import numpy as np
import torch
from av.video.reformatter import VideoReformatter
from PIL import Image
from transformers.utils import logging

from .audio_media_omnivinci import AudioClip, AudioOptions, audio_from_container
from .frame_sampling_omnivinci import FrameChoice, sample_indices
from .frame_table_omnivinci import FrameTable, begins_anew, open_decoder, recount, scan_video
from .image_media_omnivinci import (
    DecoderFrames,
    FrameSeries,
    check_pixels,
    frames_with_metadata,
    load_image,
    moving_picture,
)
from .media_containers_omnivinci import PacketReader, open_container
from .media_reading_omnivinci import MediaError, ReadOptions, TimeRange, run_all
from .media_sources_omnivinci import MediaSource, is_array, is_video_decoder, plain_source, read_options
from .options_omnivinci import CALL_OPTIONS


logger = logging.get_logger(__name__)

__all__ = ["VideoClip", "load_video", "sample_indices"]


@dataclass
class VideoClip:
    """A video clip has the sampled frames of a video, or of a range of it.

    Args:
        frames: RGB images, or what `transform` of [`load_video`] made of them: if tensors, then one for all,
            `(num_frames, ...)`, else a list, in which an object repeats where its index does.
        times: float64 `(num_frames,)`, seconds since the start of the clip: the first frame of the video, or the start
            of the range.
        indices: int64 `(num_frames,)`, counted in all frames of the video.
        duration_sec: of the clip.
        fps: the average rate of the video.
        total_frames: of the video.
        audio: that belongs to the clip; None: there is none, or it was not asked for.
        name: what errors call the video.
        size: width and height of the video in pixels.
        start_sec: of the clip, in seconds of the video.
    """

    frames: list[Any] | torch.Tensor
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
    source: Any,
    *,
    num_frames: int | None = None,
    fps: float | None = None,
    frame_indices: Any = None,
    frame_times: Any = None,
    start_sec: float = 0.0,
    end_sec: float | None = None,
    video_metadata: Any = None,
    load_audio_from_video: bool = False,
    sampling_rate: int = 16000,
    video_audio_downmix: str = "mean",
    align_audio_start: bool = True,
    max_audio_sec: float | None = None,
    transform: Callable[..., Any] | None = None,
    **reading: Any,
) -> VideoClip:
    """Reads the frames that are asked for and, if asked, the audio.

    Args:
        source: a path, bytes or binary file object of a container or of a picture that moves (GIF, PNG, WebP or AVIF
            of several frames), an http(s) URL if `allow_urls` is given, what `datasets` gives (a dict with "bytes" or
            "path", or torchcodec's VideoDecoder), or frames:
            an array or tensor `(num_frames, height, width, 3)` or `(num_frames, 3, height, width)`, or a list of what
            [`load_image`] takes.
        num_frames, fps: spread evenly, or at a rate; see [`sample_indices`].
        frame_indices, frame_times: instead of these, certain frames: by their places in the video, or those that are
            shown at some seconds of the video; ascending.
        start_sec, end_sec: take this range of the video only, picture and audio alike. What is shown at its start
            belongs to it, and the times of the clip count from there.
        video_metadata: a dict or Transformers' `VideoMetadata`, for frames only, a file has its own times: `fps`, or
            `times` (`timestamps`), with `total_num_frames` and `duration` if known; frames with `frames_indices` were
            sampled already and are taken as they are.
        load_audio_from_video: read the first audio stream too, as by [`load_audio`]; None if there is none.
        align_audio_start: sample 0 belongs to the first frame: silence is put before audio that starts later and into
            its gaps, the head of audio that starts earlier is cut. Without, its first sample comes first, as the
            original checkpoint heard it.
        max_audio_sec: only so many seconds of the audio.
        transform: applied to every frame as soon as it is decoded; its results are the clip's `frames`. A resize here
            saves holding all frames in full size. Tensors, all of one shape, are put into one; if it has a parameter
            `out`, it is given the place of all but the first few to fill. It is called from several threads.
        reading: `timeout_sec`, `media_limits`, `on_damage`, `progress`, `allow_urls`, `allow_redirects`,
            `allow_private_addresses`, `num_threads` and `cancelled`, as in [`ReadOptions`].

    Raises:
        MediaError: when the source cannot be read, or what is asked for is not in it.
    """
    choice = FrameChoice(num_frames, fps, frame_indices, frame_times, TimeRange(start_sec, end_sec))
    for name, flag in (("load_audio_from_video", load_audio_from_video), ("align_audio_start", align_audio_start)):
        CALL_OPTIONS["load_audio_from_video"].check(name, flag)
    options, source = read_options(load_video, reading), plain_source("video", source)
    if is_video_decoder(source):
        if load_audio_from_video:
            logger.warning_once(
                "A decoder of video gives no audio: give the file itself, or cast the column to `Video(decode=False)`, "
                "for its audio to be heard; or say `load_audio_from_video=False`."
            )
        source = DecoderFrames(source)
        video_metadata = source.metadata()
    if is_array(source) or isinstance(source, (list, tuple, DecoderFrames)):
        return _clip_of_series(frames_with_metadata(source, video_metadata), choice, transform, options)
    audio_options = AudioOptions(sampling_rate, video_audio_downmix, max_audio_sec, choice.range)
    medium = MediaSource.of("video", source, options)
    with moving_picture(medium) as series:
        clip = None if series is None else _clip_of_series(series, choice, transform, options)
    if clip is None:
        clip = _clip_of_container(
            medium, choice, transform, audio_options if load_audio_from_video else None, align_audio_start
        )
    medium.log_damage()
    return clip


def _clip_of_series(
    series: FrameSeries, choice: FrameChoice, transform: Callable[..., Any] | None, options: ReadOptions
) -> VideoClip:
    """Takes frames from a video that is given as images."""
    if series.indices is None:
        chosen = _choose_frames(series.name, choice, series.times, series.duration_sec, options)
        indices = chosen
    elif choice.is_explicit:
        raise ValueError("These frames were sampled already (`frames_indices`); no indices or times can be asked for.")
    else:
        first, stop, _ = choice.bounds(series.name, series.times, series.duration_sec)
        chosen = np.arange(first, stop)
        indices = series.indices[chosen]
        options.media_limits.check(series.name, "max_frames", len(chosen), "frames")
    frames = _Frames(chosen, transform)
    for index in frames.wanted:
        frames.add(index, load_image(series.frames[index], media_limits=options.media_limits))
    return _make_clip(series.name, series, choice, frames, chosen, indices, audio=None)


def _clip_of_container(
    source: MediaSource,
    choice: FrameChoice,
    transform: Callable[..., Any] | None,
    audio_options: AudioOptions | None,
    align_audio_start: bool,
) -> VideoClip:
    """Takes frames, and audio if there are options of it, from a file that FFmpeg reads."""

    def read(table: FrameTable) -> tuple[np.ndarray, _Frames, AudioClip | None]:
        indices = _choose_frames(source.name, choice, table.times, table.duration_sec, source.reading)
        frames = _Frames(indices, transform)
        origin_sec = table.start_sec if align_audio_start else None
        read_audio = None
        if audio_options is not None:
            read_audio = partial(audio_from_container, source, audio_options, origin_sec)
        return indices, frames, _decode_frames(source, table, frames, read_audio)

    table = scan_video(source)
    indices, frames, audio = read(table)
    if frames.missing and (decoded_table := recount(source, table)) is not None:
        table = decoded_table
        indices, frames, audio = read(table)
    frames.check_complete(source, table)
    indices = indices[[index in frames.sizes for index in indices.tolist()]]
    return _make_clip(source.name, table, choice, frames, indices, indices, audio)


def _make_clip(
    name: str,
    video: FrameSeries | FrameTable,
    choice: FrameChoice,
    frames: "_Frames",
    positions: np.ndarray,
    indices: np.ndarray,
    audio: AudioClip | None,
) -> VideoClip:
    """Makes a clip of the frames at `positions` of those that are listed of a video, `indices` among all of them."""
    start_sec = choice.range.start_sec
    end_sec = min(video.duration_sec, start_sec + choice.range.duration_sec)
    return VideoClip(
        frames=frames.take(positions),
        times=np.maximum(video.times[positions] - start_sec, 0.0),
        indices=indices,
        duration_sec=end_sec - start_sec,
        fps=video.total_frames / video.duration_sec,
        total_frames=video.total_frames,
        audio=audio,
        name=name,
        size=frames.size,
        start_sec=start_sec,
    )


def _choose_frames(
    name: str, choice: FrameChoice, times: np.ndarray, duration_sec: float, options: ReadOptions
) -> np.ndarray:
    """Returns the indices of the frames to take, `(num_frames,)`, within the limits."""
    limits = options.media_limits
    taken_sec = min(duration_sec - choice.range.start_sec, choice.range.duration_sec)
    limits.check(name, "max_duration_sec", taken_sec, "seconds")
    what = "frames to take (fewer: `num_frames` or `fps`)"
    if choice.num_frames is not None and choice.fps is None:  # before there is a list of so many
        limits.check(name, "max_frames", choice.num_frames, what)
    indices = choice.choose(name, times, duration_sec)
    limits.check(name, "max_frames", len(indices), what)
    return indices


class _Frames:
    """This collection has the frames of some indices, each transformed. Several threads add to it."""

    def __init__(self, indices: np.ndarray, transform: Callable[..., Any] | None):
        self.wanted: list[int] = sorted(set(indices.tolist()))
        self.places = {index: place for place, index in enumerate(self.wanted)}
        self.transform: Callable[..., Any] = transform or (lambda image: image)
        self.fills_out = _has_parameter(self.transform, "out")
        self.sizes: dict[int, tuple[int, int]] = {}  # of those that have come
        self.items: list[Any] | torch.Tensor = []
        self.lock = threading.Lock()

    def add(self, index: int, image: Image.Image) -> None:
        """Adds a frame."""
        number, place = self.places[index], None
        if self.fills_out and isinstance(self.items, torch.Tensor):
            place = self.items[number]
            item = self.transform(image, out=place)
            item = place if item is None else item
        else:
            item = self.transform(image)
            with self.lock:
                if len(self.items) == 0:
                    total = len(self.wanted)
                    is_tensor = isinstance(item, torch.Tensor)
                    self.items = item.new_empty(total, *item.shape) if is_tensor else [None] * total
        if isinstance(self.items, torch.Tensor):
            form, first = _form(item), _form(self.items[0])
            if form != first:
                raise ValueError(f"`transform` must give tensors of one type and shape, got {form} after {first}.")
        if place is None or item.data_ptr() != place.data_ptr():
            self.items[number] = item
        self.sizes[index] = image.size

    @property
    def missing(self) -> list[int]:
        return [index for index in self.wanted if index not in self.sizes]

    def forget(self, index: int) -> None:
        """Takes a frame for missing: it came, but cannot be relied on."""
        self.sizes.pop(index, None)

    def check_complete(self, source: MediaSource, table: FrameTable) -> None:
        """Reports frames that are missing, and refuses a video without any."""
        missing, total = self.missing, len(self.wanted)
        if missing:
            span = f"between {table.times[missing[0]]:.2f} and {table.times[missing[-1]]:.2f} s"
            source.report(f"is damaged or cut short: {len(missing)} of {total} wanted frames do not decode, {span}")
        if not self.sizes:
            raise MediaError(f"{source.name}: none of the {total} wanted frames decodes; get the file again.")

    @property
    def size(self) -> tuple[int, int]:
        return self.sizes[min(self.sizes)]

    def take(self, indices: np.ndarray) -> list[Any] | torch.Tensor:
        """Returns the items of these indices, in their order and as often as they stand there."""
        places = [self.places[index] for index in indices.tolist()]
        if places == list(range(len(self.items))):
            return self.items
        return self.items[places] if isinstance(self.items, torch.Tensor) else [self.items[place] for place in places]


def _form(item: Any) -> str:
    return f"{item.dtype} {tuple(item.shape)}" if isinstance(item, torch.Tensor) else type(item).__name__


def _has_parameter(function: Callable[..., Any], name: str) -> bool:
    try:
        return name in inspect.signature(function).parameters
    except (TypeError, ValueError):  # it is written in C
        return False


# -- Decoding


def _decode_frames(
    source: MediaSource, table: FrameTable, frames: _Frames, read_audio: Callable[[], AudioClip | None] | None
) -> AudioClip | None:
    """Puts the wanted frames into `frames`, as far as they decode, and returns the audio, which is read meanwhile."""
    num_threads = source.reading.num_threads
    with source.reading.progress_bar(source.name, table.duration_sec, len(frames.wanted), "frame") as bar:
        decoding = _Decoding(source, table, frames, bar)
        intervals = deque(table.intervals(frames.wanted))
        num_feeders = min(num_threads, len(intervals))
        feed = partial(decoding.feed, intervals, num_threads if num_feeders == 1 else 1)
        audio, *unsure = run_all(
            [read_audio or (lambda: None), *[feed] * num_feeders], num_threads, source.reading.cancelled
        )
        for index in set().union(*unsure):
            frames.forget(index)
        if frames.missing:
            # No choice, some key frame was none (an intra refresh point), or damage.
            for index in decoding.decode_in_order(set(frames.missing)):
                frames.forget(index)
        if frames.missing:
            decoding.decode_first_group(set(frames.missing))
    return audio


class _Decoding:
    """This object decodes the wanted frames of one video; several threads may feed decoders at once."""

    def __init__(self, source: MediaSource, table: FrameTable, frames: _Frames, bar: Any):
        self.source, self.table, self.frames, self.bar = source, table, frames, bar
        self.wanted = set(frames.wanted)
        self.wanted_positions = {table.positions[index] for index in self.wanted}
        self.of_thread = threading.local()
        self.matrices: dict[int, tuple[int, ...]] = {}  # display matrices by rotation

    def deliver(self, index: int, frame: av.VideoFrame) -> None:
        """Adds a decoded frame, turned upright."""
        self.source.reading.check_cancelled()
        if not hasattr(self.of_thread, "reformatter"):
            self.of_thread.reformatter = VideoReformatter()
        # Side data and frame refer to each other, so that reading it from each would keep many frames in memory.
        if frame.rotation not in self.matrices:
            self.matrices[frame.rotation] = _display_matrix(frame)
        image = _upright_image(self.source, frame, self.of_thread.reformatter, self.matrices[frame.rotation])
        self.frames.add(index, image)
        self.bar.update()

    def feed(self, intervals: deque[tuple[int, int]], frame_threads: int) -> set[int]:
        """Decodes intervals of packets until none is left; threads share them, each with a decoder of its own.

        Returns indices of frames that were delivered but cannot be relied on, for an error in their interval.
        """
        unsure: set[int] = set()
        with open_container(self.source) as container:
            stream, decoder = open_decoder(container, self.source, frame_threads)
            packets = enumerate(PacketReader(self.source, container, stream))
            while intervals:
                try:
                    interval = intervals.popleft()
                except IndexError:  # another thread was faster
                    break
                unsure |= self._feed_interval(interval, packets, decoder, has_frame_threads=frame_threads > 1)
                decoder.flush_buffers()
        return unsure

    def _feed_interval(
        self,
        interval: tuple[int, int],
        packets: Iterator[tuple[int, av.Packet]],
        decoder: av.VideoCodecContext,
        has_frame_threads: bool,
    ) -> set[int]:
        (first, last), order = interval, self.table.order
        is_clean, recogniser = True, _Recogniser(self.table)
        delivered: set[int] = set()
        for position, packet in packets:
            if position < first:
                continue
            packet.pts = position  # decoders hand it on to the frame
            decoder.skip_frame = "DEFAULT" if position in self.wanted_positions else "NONREF"
            decoded: list[av.VideoFrame] = []
            try:
                decoded += decoder.decode(packet)
                if position == last:
                    decoded += decoder.decode(None)
            except av.error.FFmpegError:
                # Frames that are shown before the first key frame refer to frames that were not fed.
                is_clean &= not has_frame_threads and order[position] < order[first]
            for index, _, frame in recogniser.recognise(decoded if is_clean else ()):
                if index in self.wanted:
                    self.deliver(index, frame)
                    delivered.add(index)
            if position == last:
                break
        return set() if is_clean else delivered

    def decode_in_order(self, wanted: set[int]) -> set[int]:
        """Decodes from the start. After an error no frame is relied on until the next key frame.

        Neither is the one before the error: decoders often notice late. Its index is returned.
        """
        clean_from, unsure, recogniser = -math.inf, set[int](), _Recogniser(self.table)
        with open_container(self.source) as container:
            stream, decoder = open_decoder(container, self.source)
            for position, packet in enumerate(chain(PacketReader(self.source, container, stream), [None])):
                if packet is not None:
                    packet.pts = position
                    if clean_from == math.inf and packet.is_keyframe:
                        clean_from = self.table.order[position]
                try:
                    decoded = decoder.decode(packet)
                except av.error.EOFError:
                    break
                except av.error.FFmpegError:
                    decoded, clean_from = [], math.inf
                    unsure.update(self.table.indices_at.get(position - 1, ()))
                for index, shown, frame in recogniser.recognise(decoded):
                    if index in wanted and self.table.order[shown] >= clean_from:
                        self.deliver(index, frame)
                        wanted.remove(index)
                if not wanted:
                    break
        return unsure

    def decode_first_group(self, wanted: set[int]) -> None:
        """Decodes what a recording that begins in the middle of a stream has of its frames up to the second key frame.

        These refer to what the recording does not have, which is no damage: the decoder itself marks those that it
        cannot make.
        """
        recogniser, num_keys, stop = _Recogniser(self.table), 0, math.inf
        with open_container(self.source) as container:
            stream, decoder = open_decoder(container, self.source, is_strict=False)
            for position, packet in enumerate(chain(PacketReader(self.source, container, stream), [None])):
                if packet is not None and packet.is_keyframe:
                    num_keys += 1
                    if num_keys == 1 and begins_anew(decoder, packet):
                        return
                    stop = self.table.order[position] if num_keys == 2 else stop
                if num_keys == 3:  # nothing that is shown before the second one comes as late
                    packet = None
                if packet is not None:
                    packet.pts = position
                try:
                    decoded = decoder.decode(packet)
                except av.error.InvalidDataError:  # its frame stays missing
                    decoded = []
                for index, shown, frame in recogniser.recognise(decoded):
                    if index in wanted and self.table.order[shown] < stop:
                        self.deliver(index, frame)
                if packet is None:
                    return


class _Recogniser:
    """The recogniser knows by its packet which frame a decoder shows."""

    def __init__(self, table: FrameTable):
        self.table = table
        self.num_shown: Counter[int | None] = Counter()  # of each packet

    def recognise(self, frames: Iterable[av.VideoFrame]) -> Iterator[tuple[int, int, av.VideoFrame]]:
        """Yields index, position of the packet and frame of those that are in the table and whole."""
        for frame in frames:
            position = frame.pts
            number = self.num_shown[position]
            self.num_shown[position] += 1
            indices = () if position is None else self.table.indices_at.get(position, ())
            if position is not None and number < len(indices) and not frame.is_corrupt:
                yield indices[number], position, frame


# -- How players turn a picture


MATRIX_TOLERANCE = 0.02  # about one degree, as FFmpeg's programs have it

# By the signs of a, b, c, d of a display matrix, which puts the pixel at (x, y) to (a x + c y, b x + d y), y downwards.
_ORIENTATIONS: dict[tuple[int, ...], Image.Transpose | None] = {
    (1, 0, 0, 1): None,
    (-1, 0, 0, 1): Image.Transpose.FLIP_LEFT_RIGHT,
    (1, 0, 0, -1): Image.Transpose.FLIP_TOP_BOTTOM,
    (-1, 0, 0, -1): Image.Transpose.ROTATE_180,
    (0, 1, -1, 0): Image.Transpose.ROTATE_270,  # Pillow turns counter-clockwise
    (0, -1, 1, 0): Image.Transpose.ROTATE_90,
    (0, 1, 1, 0): Image.Transpose.TRANSPOSE,
    (0, -1, -1, 0): Image.Transpose.TRANSVERSE,
}


def _upright_image(
    source: MediaSource, frame: av.VideoFrame, reformatter: VideoReformatter, matrix: tuple[int, ...]
) -> Image.Image:
    """Makes an upright RGB image of a frame; `frame.to_image` would make two more copies and start threads for each."""
    check_pixels(source.name, frame.width, frame.height, source.reading)
    rgb = reformatter.reformat(frame, format="rgb24", threads=1)
    plane = rgb.planes[0]
    stride, order = abs(plane.line_size), 1 if plane.line_size > 0 else -1  # -1: stored from the bottom up
    # Pillow's types know no buffer but bytes.
    image = Image.frombuffer("RGB", (rgb.width, rgb.height), plane, "raw", "RGB", stride, order)  # type: ignore[arg-type]
    largest = max(map(abs, matrix))
    signs = tuple(round(value / largest) if largest else 0 for value in matrix)
    off = max(abs(value - sign * largest) for value, sign in zip(matrix, signs, strict=True))
    if signs not in _ORIENTATIONS or off > MATRIX_TOLERANCE * largest:
        source.note(f"is to be shown turned by an odd angle (display matrix {matrix}), but is left as it is stored")
        return image
    orientation = _ORIENTATIONS[signs]
    return image if orientation is None else image.transpose(orientation)


def _display_matrix(frame: av.VideoFrame) -> tuple[int, ...]:
    """Returns a, b, c, d of the matrix, in the container or in the stream itself, by which players turn the frame."""
    try:
        side_data = frame.side_data
    except ValueError:  # PyAV knows not every kind of side data, but finds a rotation among them
        turn = math.radians(frame.rotation)
        a, b = math.cos(turn), math.sin(turn)
        return tuple(round(value * 65536) for value in (a, -b, b, a))
    if "DISPLAYMATRIX" not in side_data:
        return (65536, 0, 0, 65536)
    matrix = side_data["DISPLAYMATRIX"]  # type: ignore[typeddict-item]  # PyAV's types list only some keys
    return tuple(np.frombuffer(matrix, np.int32)[[0, 1, 3, 4]].tolist())
