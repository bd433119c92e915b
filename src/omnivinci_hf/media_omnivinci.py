"""Read images, video frames with their true times, and sound; from files, bytes or arrays.

Nothing here fetches from the network, and nothing stands in for a medium that cannot be read:
every failure is a [`MediaError`] that names the medium, the cause and a remedy.
"""

import base64
import io
import math
import os
import re
import stat
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from numbers import Integral

import av
import numpy as np
import soxr
import torch
from PIL import Image, ImageOps


MAX_PIXELS = 8192 * 8192  # of one image or video frame
MAX_AUDIO_SEC = 6 * 3600.0
# A Matroska file may end this much before the duration in its header without being called cut short.
END_TOLERANCE_SEC = 0.5
# Playlists and descriptions (.m3u8, ffconcat, .sdp) open other files and sockets, so only these containers.
CONTAINERS = "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi,gif,mpegts,mpeg,flv,ogg,wav,flac,mp3,aac,asf"

_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")
_DATA_URL = re.compile(r"data:[^,]*;base64,", re.IGNORECASE)
_QUARTER_TURNS = {1: Image.Transpose.ROTATE_90, 2: Image.Transpose.ROTATE_180, 3: Image.Transpose.ROTATE_270}


class MediaError(ValueError):
    """A medium that cannot be used; says which one, what is wrong with it and what to do."""


@dataclass
class AudioClip:
    """Mono sound: `samples` float32 of shape `(num_samples,)` at `sampling_rate` per second."""

    samples: np.ndarray
    sampling_rate: int

    @property
    def duration_sec(self) -> float:
        return len(self.samples) / self.sampling_rate


@dataclass
class VideoClip:
    """Sampled frames of a video.

    `frames` are RGB images; where an index repeats so does the image object. `times` float64
    `(num_frames,)` are seconds since the first frame of the video, `indices` int64 `(num_frames,)` count
    all its frames. `duration_sec` is the end of the last frame of the video, `fps` its average rate.
    """

    frames: list[Image.Image]
    times: np.ndarray
    indices: np.ndarray
    duration_sec: float
    fps: float
    total_frames: int
    audio: AudioClip | None
    name: str


def sample_indices(
    times: np.ndarray, duration_sec: float, *, num_frames: int | None = None, fps: float | None = None
) -> np.ndarray:
    """Choose frames of a video that shows a frame at each of `times` and ends at `duration_sec`.

    `num_frames` spreads them evenly from first to last; a shorter video repeats frames, as the released
    checkpoint expects. `fps` takes the frames at or next after 0, 1/fps, 2/fps, ... , each once; when
    `num_frames` is given too, that many of these at most. With neither, every frame is taken.
    """
    if num_frames is not None and not (isinstance(num_frames, Integral) and num_frames > 0):
        raise ValueError(f"`num_frames` must be a positive whole number, got {num_frames!r}.")
    if fps is not None and not 0 < fps < math.inf:
        raise ValueError(f"`fps` must be a positive number, got {fps!r}.")
    if len(times) == 0 or not 0 < duration_sec < math.inf:
        raise ValueError(f"Got {len(times)} frames in {duration_sec} s; both must be positive.")
    candidates = np.arange(len(times), dtype=np.int64)
    if fps is not None:
        # A frame is the first at or after some k / fps where the number of ticks so far grows. The margin
        # keeps a frame that is due exactly at a tick from missing it by a rounding error.
        ticks = np.floor(np.asarray(times, dtype=np.float64) * fps + 1e-6)
        candidates = candidates[np.diff(ticks, prepend=-math.inf) > 0]
    if num_frames is None or (fps is not None and len(candidates) <= num_frames):
        return candidates
    return candidates[np.round(np.linspace(0, len(candidates) - 1, num_frames)).astype(np.int64)]


# ----------------------------------------------------------------------------------------------- sources


@dataclass(frozen=True)
class _Source:
    """Where a medium's bytes are: a checked regular file, or in memory."""

    name: str
    path: str | None = None
    data: bytes | None = None

    @classmethod
    def of(cls, kind: str, source) -> "_Source":
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
    def _from_path(cls, kind: str, path: str) -> "_Source":
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


def _is_array(source) -> bool:
    return isinstance(source, (np.ndarray, torch.Tensor))


def _to_numpy(array) -> np.ndarray:
    if not isinstance(array, torch.Tensor):
        return np.asarray(array)
    array = array.detach().cpu()
    return (array.float() if array.dtype == torch.bfloat16 else array).numpy()


# ------------------------------------------------------------------------------------------------ images


def load_image(source) -> Image.Image:
    """Read one image as RGB; the orientation noted by a camera (EXIF) is applied.

    `source`: a path, a base64 `data:` URL, bytes, a binary file object, a PIL image, or an array or tensor
    `(height, width)`, `(height, width, 3 or 4)` or `(3, height, width)`, uint8 or float in [0, 1].
    """
    if _is_array(source):
        return _image_from_array(_to_numpy(source))
    name, image = "image", source
    if not isinstance(source, Image.Image):
        source = _Source.of("image", source)
        name, image = source.name, None
    try:
        image = image or Image.open(source.path or io.BytesIO(source.data))
        _check_pixels(name, *image.size)
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


def _check_pixels(name: str, width: int, height: int) -> None:
    if width * height > MAX_PIXELS:
        raise MediaError(f"{name} is {width} x {height}, above {MAX_PIXELS} pixels; make it smaller.")


# ------------------------------------------------------------------------------------------------- video


def load_video(
    source,
    *,
    num_frames: int | None = None,
    fps: float | None = None,
    metadata=None,
    with_audio: bool = False,
    sampling_rate: int = 16000,
    downmix: str = "mean",
    align_audio_start: bool = True,
    max_audio_sec: float | None = None,
    timeout_sec: float = 20.0,
) -> VideoClip:
    """Read the frames chosen by `num_frames` and `fps` ([`sample_indices`]) and, if asked, the sound.

    `source`: a path, bytes or binary file object of a container, or frames: an array or tensor
    `(num_frames, height, width, 3)` or `(num_frames, 3, height, width)`, or a list of what [`load_image`]
    takes. `metadata` (a dict or Transformers' `VideoMetadata`) is for frames only, a file has its own times:
    `fps`, or `times` (`timestamps`), with `total_num_frames` and `duration` if known; frames with
    `frames_indices` were sampled already and are taken as they are.

    The sound is that of the first audio stream, read as by [`load_audio`], or None. With `align_audio_start`
    its sample 0 belongs to the first frame: silence is put before a sound that starts later, the head of one
    that starts earlier is cut. Without, its first sample comes first, as the released checkpoint heard it.
    """
    if _is_array(source) or isinstance(source, (list, tuple)):
        return _video_from_frames(source, metadata, num_frames, fps)
    sound = _SoundOptions(sampling_rate, downmix, max_audio_sec)
    source = _Source.of("video", source)
    table = _scan_video(source, timeout_sec)
    indices = sample_indices(table.times, table.duration_sec, num_frames=num_frames, fps=fps)
    images = _decode_frames(source, table, set(indices.tolist()), timeout_sec)
    origin_sec = table.start_sec if align_audio_start else None
    audio = _audio_from_container(source, sound, timeout_sec, origin_sec) if with_audio else None
    return VideoClip(
        frames=[images[index] for index in indices.tolist()],
        times=table.times[indices],
        indices=indices,
        duration_sec=table.duration_sec,
        fps=len(table.times) / table.duration_sec,
        total_frames=len(table.times),
        audio=audio,
        name=source.name,
    )


@dataclass
class _FrameTable:
    """All frames of a video stream in the order of showing, found without decoding."""

    times: np.ndarray  # (total_frames,) seconds since the first frame
    duration_sec: float
    start_sec: float  # of the first frame on the container's clock
    index_of: dict[int, int]  # stamp -> index
    # In decode order, (stamp, is_keyframe). None where packet stamps do not tell which frame is which, so
    # that only the order of the decoded frames does.
    packets: list[tuple[int, bool]] | None


def _scan_video(source: _Source, timeout_sec: float) -> _FrameTable:
    """Demux once. Frame counts and rates in headers are not believed; the packets' stamps are."""
    with source.container(timeout_sec) as container:
        stream = _video_stream(container, source.name)
        packets, end_sec = [], 0.0
        for packet in container.demux():
            if packet.size == 0:  # the end of a stream, or a frame that was dropped when recording
                continue
            if packet.pts is not None:
                end_sec = max(end_sec, float((packet.pts + (packet.duration or 0)) * packet.time_base))
            if packet.stream_index == stream.index:
                is_key, is_shown = packet.is_keyframe, not packet.is_discard
                packets.append((packet.pts, packet.dts, packet.duration, is_key, is_shown))
        _check_complete(source.name, stream, len(packets))
        # Matroska has no index of all frames, but its header states the end of the longest stream.
        if "matroska" in container.format.name and container.duration is not None:
            lost = container.duration / av.time_base - end_sec
            if lost > END_TOLERANCE_SEC:
                raise MediaError(f"{source.name} is cut short: {lost:.2f} s are missing; get it again.")
        rates = [Fraction(rate) for rate in (stream.average_rate, stream.guessed_rate) if rate]
        # AVI has no presentation times: FFmpeg guesses them in decode order, wrongly for B-frames.
        by_order = container.format.name == "avi"
        table = _frame_table(packets, stream.time_base, rates, by_order) if packets else None
    if table is None:
        raise MediaError(f"{source.name} has no video frames; check that it plays.")
    return table


def _video_stream(container, name: str) -> av.VideoStream:
    cover_art = av.stream.Disposition.attached_pic
    stream = next((s for s in container.streams.video if not s.disposition & cover_art), None)
    if stream is None:
        raise MediaError(f"{name} has no video stream; if it is a sound file, give it as audio.")
    if stream.codec_context is None:
        raise MediaError(f"{name}: there is no decoder for its video; convert it, to H.264 for example.")
    _check_pixels(name, stream.codec_context.width, stream.codec_context.height)
    return stream


def _check_complete(name: str, stream: av.stream.Stream, num_packets: int) -> None:
    """The index of mp4 and mov lists every packet, so it shows when the end of the file is not there."""
    if not stream.container.format.name.startswith("mov"):
        return
    promised = sum(entry.size > 0 for entry in stream.index_entries)
    if num_packets < promised:
        raise MediaError(
            f"{name} is cut short: {promised - num_packets} of {promised} {stream.type} packets are missing; "
            "get a complete copy."
        )


def _frame_table(
    packets: list[tuple], time_base: Fraction, rates: list[Fraction], by_order: bool
) -> _FrameTable | None:
    """`packets` in decode order: (pts, dts, duration, is_keyframe, is_shown). None if no frame is shown."""
    pts, dts, durations, is_key, is_shown = zip(*packets, strict=True)
    rates = rates or [Fraction(25)]
    by_order = by_order or None in pts or len(set(pts)) < len(pts)
    stamps = next((s for s in (pts, dts) if None not in s and len(set(s)) == len(s)), None)
    if stamps is None:
        stamps, durations, time_base = range(len(packets)), [1] * len(packets), 1 / rates[0]
    # What is shown before the first key frame of the file refers to frames that it does not have.
    first_key = stamps[is_key.index(True)] if True in is_key else min(stamps)
    shown = sorted(s for s, show in zip(stamps, is_shown, strict=True) if show and s >= first_key)
    if not shown:
        return None
    ticks = np.array(shown, dtype=np.int64) - shown[0]
    gap = durations[stamps.index(shown[-1])] or (np.median(np.diff(ticks)) if len(ticks) > 1 else None)
    rate = _constant_rate(ticks, time_base, rates) if len(ticks) > 1 or not gap else 1 / (gap * time_base)
    if rate is None:
        times = ticks * time_base.numerator / time_base.denominator
        duration_sec = float(Fraction(int(ticks[-1]) + gap) * time_base)
    else:
        # Neither the rounding of the stamps (1 ms in Matroska) nor a padded last frame gets in here.
        times = np.arange(len(ticks)) * rate.denominator / rate.numerator
        duration_sec = len(ticks) * rate.denominator / rate.numerator
    return _FrameTable(
        times=times,
        duration_sec=duration_sec,
        start_sec=float(shown[0] * time_base),
        index_of={stamp: index for index, stamp in enumerate(shown)},
        packets=None if by_order else list(zip(pts, is_key, strict=True)),
    )


def _constant_rate(ticks: np.ndarray, time_base: Fraction, rates: list[Fraction]) -> Fraction | None:
    """The frame rate, if all frames keep to one but for the rounding of their stamps to the time base."""
    for rate in rates:
        if np.abs(ticks - np.arange(len(ticks)) * float(1 / (rate * time_base))).max() < 1:
            return rate
    gaps = np.diff(ticks)
    return 1 / (int(gaps[0]) * time_base) if (gaps == gaps[0]).all() else None


def _decode_frames(source: _Source, table: _FrameTable, wanted: set[int], timeout_sec: float) -> dict:
    """Decode the frames of the `wanted` indices: {index: image}."""
    images = {} if table.packets is None else _feed_packets(source, table, wanted, timeout_sec)
    if len(images) < len(wanted):
        # No choice, or some key frame was none (an intra refresh point): decode from the start.
        images = _decode_in_order(source, table, wanted, timeout_sec)
    if len(images) < len(wanted):
        raise MediaError(
            f"{source.name}: {len(wanted) - len(images)} of {len(wanted)} wanted frames do not decode; "
            "the file is damaged or cut short, get a complete copy."
        )
    return images


def _feed_packets(source: _Source, table: _FrameTable, wanted: set[int], timeout_sec: float) -> dict:
    """Give the decoder only what the wanted frames need; seeking misses frames in some formats."""
    images = {}
    with source.container(timeout_sec) as container:
        stream = _video_stream(container, source.name)
        decoder = stream.codec_context
        packets = enumerate(packet for packet in container.demux(stream) if packet.size > 0)
        for first, last in _packet_intervals(table, wanted):
            for position, packet in packets:
                if position < first:
                    continue
                decoder.skip_frame = "DEFAULT" if table.index_of.get(packet.pts) in wanted else "NONREF"
                frames = decoder.decode(packet)
                if position == last:
                    frames += decoder.decode(None)
                    decoder.flush_buffers()
                for frame in frames:
                    index = table.index_of.get(frame.pts)
                    if index in wanted and not frame.is_corrupt:
                        images[index] = _upright_image(source.name, frame)
                if position == last:
                    break
    return images


def _packet_intervals(table: _FrameTable, wanted: set[int]) -> list[tuple[int, int]]:
    """Packet positions (first, last) to feed, each from a key frame on; disjoint and ascending."""
    intervals, keys = [], []
    for position, (stamp, is_key) in enumerate(table.packets):
        if is_key:
            keys.append((position, stamp))
        if table.index_of.get(stamp) in wanted:
            # A key frame that is shown after this frame (open GOP) is not where it can start.
            first = next((key for key, key_stamp in reversed(keys) if key_stamp <= stamp), 0)
            while intervals and intervals[-1][1] >= first:
                first = min(first, intervals.pop()[0])
            intervals.append((first, position))
    return intervals


def _decode_in_order(source: _Source, table: _FrameTable, wanted: set[int], timeout_sec: float) -> dict:
    images = {}
    with source.container(timeout_sec) as container:
        for order, frame in enumerate(container.decode(_video_stream(container, source.name))):
            index = order if table.packets is None else table.index_of.get(frame.pts)
            if index in wanted:
                images[index] = _upright_image(source.name, frame)
                if len(images) == len(wanted):
                    break
    return images


def _upright_image(name: str, frame: av.VideoFrame) -> Image.Image:
    _check_pixels(name, frame.width, frame.height)
    image, turns = frame.to_image(), round(frame.rotation / 90) % 4
    return image.transpose(_QUARTER_TURNS[turns]) if turns else image


def _video_from_frames(frames, metadata, num_frames: int | None, fps: float | None) -> VideoClip:
    if _is_array(frames) and frames.ndim != 4:
        raise MediaError(f"A video array must be (T, H, W, 3) or (T, 3, H, W), not {tuple(frames.shape)}.")
    if len(frames) == 0:
        raise MediaError("A video given as frames is empty; give at least one frame.")
    times, indices, duration_sec, total_frames = _frame_times(len(frames), metadata)
    chosen = np.arange(len(frames))
    if indices is None:
        indices = chosen = sample_indices(times, duration_sec, num_frames=num_frames, fps=fps)
    images = {index: load_image(frames[index]) for index in set(chosen.tolist())}
    return VideoClip(
        frames=[images[index] for index in chosen.tolist()],
        times=times[chosen],
        indices=indices,
        duration_sec=duration_sec,
        fps=total_frames / duration_sec,
        total_frames=total_frames,
        audio=None,
        name=f"video of {len(frames)} frames",
    )


def _frame_times(num_given: int, metadata) -> tuple[np.ndarray, np.ndarray | None, float, int]:
    """Times of the given frames, indices if they were sampled already, duration, number of all frames."""
    fields = metadata if isinstance(metadata, Mapping) else vars(metadata) if metadata is not None else {}
    given = {key: value for key, value in dict(fields).items() if value is not None}
    rate, times = given.get("fps"), given.get("times", given.get("timestamps"))
    indices, total = given.get("frames_indices"), int(given.get("total_num_frames", num_given))
    if rate is None and times is None:
        raise MediaError('Frames have no times: a frame rate is needed, `video_metadata={"fps": ...}`.')
    if rate is not None and not 0 < rate < math.inf:
        raise MediaError(f"`fps` in `video_metadata` must be positive, got {rate}.")
    for name, values in (("frames_indices", indices), ("times", times)):
        if values is not None and len(values) != num_given:
            raise MediaError(f"Got {num_given} frames but {len(values)} {name}; they must match 1:1.")
    if indices is not None:
        indices = _to_numpy(indices).astype(np.int64)
        total = max(total, int(indices.max()) + 1)
    elif times is None and total != num_given:
        raise MediaError(f"Got {num_given} frames of {total}; say which with `frames_indices`.")
    else:
        total = num_given
    if times is None:
        times, end_sec = (np.arange(num_given) if indices is None else indices) / rate, total / rate
    else:
        times = _to_numpy(times).astype(np.float64)
        # Without a rate the last frame is shown as long as the others are on average.
        gap = 1 / rate if rate else (times[-1] - times[0]) / (num_given - 1) if num_given > 1 else math.nan
        end_sec = times[-1] + gap
    if not (np.isfinite(times).all() and times[0] >= 0 and (np.diff(times) >= 0).all()):
        raise MediaError("Frame times in `video_metadata` must be finite, not negative and ascending.")
    duration_sec = float(given.get("duration", end_sec))
    if not (times[-1] <= duration_sec < math.inf and duration_sec > 0):
        raise MediaError(
            f"The last frame is at {times[-1]} s but the video ends at {duration_sec} s; give `fps` or "
            "`duration` in `video_metadata`."
        )
    return times, indices, duration_sec, total


# ------------------------------------------------------------------------------------------------- sound


def load_audio(
    source,
    *,
    sampling_rate: int = 16000,
    input_sampling_rate: int | None = None,
    downmix: str = "mean",
    max_sec: float | None = None,
    timeout_sec: float = 20.0,
) -> AudioClip:
    """Read sound as mono float32 at `sampling_rate`, all of it or its first `max_sec` seconds.

    `source`: a path, bytes or binary file object of a sound or video file, an [`AudioClip`], a pair
    `(array, sampling_rate)`, a dict with "array" and "sampling_rate" (as in datasets), or an array or tensor,
    for which `input_sampling_rate` is needed. Arrays are float or integer PCM, 1-D, or 2-D with the channels
    along the shorter axis.

    `downmix` "mean" averages the channels. "sum" is FFmpeg's downmix without normalisation, sqrt(2) louder
    for stereo: what the released checkpoint heard as the sound of videos.
    """
    options = _SoundOptions(sampling_rate, downmix, max_sec)
    if isinstance(source, AudioClip):
        source = (source.samples, source.sampling_rate)
    elif isinstance(source, Mapping):
        if not {"array", "sampling_rate"} <= source.keys():
            raise MediaError(f'Sound in a dict needs "array" and "sampling_rate", got {list(source)}.')
        source = (source["array"], source["sampling_rate"])
    elif _is_array(source) or isinstance(source, list):
        source = (source, input_sampling_rate)
    if isinstance(source, tuple):
        if len(source) != 2:
            raise MediaError(f"Sound in a tuple must be (array, sampling_rate), got {len(source)} items.")
        return _audio_from_array(*source, options)
    source = _Source.of("audio", source)
    clip = _audio_from_container(source, options, timeout_sec)
    if clip is None:
        raise MediaError(f"{source.name} has no sound; give a file with an audio stream.")
    return clip


@dataclass(frozen=True)
class _SoundOptions:
    sampling_rate: int
    downmix: str
    max_sec: float | None

    def __post_init__(self):
        if not (isinstance(self.sampling_rate, Integral) and self.sampling_rate > 0):
            raise ValueError(f"`sampling_rate` must be a positive whole number, got {self.sampling_rate!r}.")
        if self.downmix not in ("mean", "sum"):
            raise ValueError(f'`downmix` must be "mean" or "sum", got {self.downmix!r}.')
        if self.max_sec is not None and not self.max_sec > 0:
            raise ValueError(f"The seconds of sound to keep must be positive, got {self.max_sec!r}.")


def _audio_from_container(
    source: _Source, options: _SoundOptions, timeout_sec: float, origin_sec: float | None = None
) -> AudioClip | None:
    """The first audio stream, its sample 0 at `origin_sec` of the container's clock if that is given."""
    sound = None
    with source.container(timeout_sec) as container:
        for frame in _audio_frames(container, source.name):
            if sound is None:
                known = origin_sec is not None and frame.pts is not None
                lead_sec = float(frame.pts * frame.time_base) - origin_sec if known else 0.0
                sound = _SoundBuffer(source.name, frame.sample_rate, options, lead_sec)
            elif frame.sample_rate != sound.input_rate:
                raise MediaError(f"{source.name} changes its sampling rate in the middle; convert it first.")
            sound.add(frame)
            if sound.is_enough:
                break
    return None if sound is None else sound.finish()


def _audio_frames(container, name: str) -> Iterator[av.AudioFrame]:
    """Decoded frames of the first audio stream; none if there is no such stream or it has no packets."""
    if not container.streams.audio:
        return
    stream = container.streams.audio[0]
    if stream.codec_context is None:
        raise MediaError(f"{name}: there is no decoder for its sound; convert it, to AAC for example.")
    num_packets = num_frames = 0
    for packet in container.demux(stream):  # the last one is empty and drains the decoder
        num_packets += packet.size > 0
        for frame in packet.decode():
            num_frames += 1
            yield frame
    _check_complete(name, stream, num_packets)
    if num_packets and not num_frames:
        raise MediaError(f"{name}: its {num_packets} audio packets hold no sound; get the file again.")


class _SoundBuffer:
    """Collects sound as mono, resampled on the way so that only the wanted rate is held in memory.

    `lead_sec` of silence goes before it; if negative, that much of its head is cut.
    """

    def __init__(self, name: str, input_rate: int, options: _SoundOptions, lead_sec: float = 0.0):
        self.name, self.input_rate, self.options, self.lead_sec = name, input_rate, options, lead_sec
        self.chunks, self.num_input, self.downmixers, self.stream = [], 0, {}, None
        if input_rate != options.sampling_rate:
            self.stream = soxr.ResampleStream(input_rate, options.sampling_rate, 1, "float32", "HQ")

    @property
    def is_enough(self) -> bool:
        # A second more than is kept, so that the resampling filter does not see an end there.
        end_sec = self.lead_sec + self.num_input / self.input_rate
        return self.options.max_sec is not None and end_sec > self.options.max_sec + 1

    def add(self, frame: av.AudioFrame) -> None:
        self.num_input += frame.samples
        if max(self.lead_sec, 0) + self.num_input / self.input_rate > MAX_AUDIO_SEC:
            raise MediaError(f"{self.name}: the sound is longer than {MAX_AUDIO_SEC / 3600:g} h; cut it.")
        mono = self._downmix(frame)
        self.chunks.append(mono if self.stream is None else self.stream.resample_chunk(mono))

    def _downmix(self, frame: av.AudioFrame) -> np.ndarray:
        num_channels = frame.layout.nb_channels
        if self.options.downmix == "mean" or num_channels == 1:
            samples = frame.to_ndarray()  # (num_channels, num_samples), or (1, both interleaved)
            if not frame.format.is_planar:
                samples = samples.reshape(-1, num_channels).T
            return _pcm_to_float(samples).mean(axis=0)
        key = (frame.layout.name, frame.format.name)  # broadcasts change between stereo and 5.1
        if key not in self.downmixers:
            self.downmixers[key] = av.AudioResampler("fltp", "mono", frame.sample_rate)
        return np.concatenate([part.to_ndarray()[0] for part in self.downmixers[key].resample(frame)])

    def finish(self) -> AudioClip | None:
        """The clip, or None if the head that was cut is all of it."""
        rate, max_sec = self.options.sampling_rate, self.options.max_sec
        if self.stream is not None:
            self.chunks.append(self.stream.resample_chunk(np.zeros(0, np.float32), last=True))
        samples = np.concatenate(self.chunks)
        if not np.isfinite(samples).all():
            raise MediaError(f"{self.name} contains NaN or infinite samples; clean it first.")
        # soxr rounds to the nearest length, librosa up; as long as librosa's.
        length = -(-self.num_input * rate // self.input_rate)
        samples = np.pad(samples[:length], (0, max(0, length - len(samples))))
        lead = round(self.lead_sec * rate)
        samples = np.pad(samples, (lead, 0)) if lead > 0 else samples[-lead:]
        if max_sec is not None:
            samples = samples[: max(1, round(min(max_sec, MAX_AUDIO_SEC) * rate))]
        return AudioClip(samples, rate) if len(samples) else None


def _pcm_to_float(samples: np.ndarray) -> np.ndarray:
    floats = samples.astype(np.float32)
    if samples.dtype.kind == "f":
        return floats
    full_scale = np.float32(2.0 ** (8 * samples.dtype.itemsize - 1))
    return (floats - full_scale if samples.dtype.kind == "u" else floats) / full_scale


def _audio_from_array(array, input_rate, options: _SoundOptions) -> AudioClip:
    if input_rate is None:
        raise MediaError(
            "Sound given as an array needs its sampling rate: pass `sampling_rate`, a pair "
            '(array, sampling_rate) or {"array": ..., "sampling_rate": ...}.'
        )
    if not (input_rate > 0 and input_rate == int(input_rate)):
        raise MediaError(f"The sampling rate of the sound must be a positive whole number, got {input_rate}.")
    try:
        array = _to_numpy(array)
    except ValueError as error:
        raise MediaError(f"Sound given as a list must be numbers ({error}).") from error
    if array.ndim not in (1, 2) or array.size == 0:
        raise MediaError(f"Sound must be (num_samples,) or (channels, num_samples), not {array.shape}.")
    if array.dtype.kind != "f" and array.dtype not in (np.uint8, np.int16, np.int32):
        raise MediaError(f"Sound must be float, or PCM as uint8, int16 or int32, not {array.dtype}.")
    channels = array.reshape(1, -1) if array.ndim == 1 else array if len(array) <= len(array[0]) else array.T
    if len(channels) > 8:
        raise MediaError(f"Sound has 8 channels at most, got shape {array.shape}; pass the waveform.")
    channels = np.ascontiguousarray(_pcm_to_float(channels))  # (num_channels, num_samples)
    frame = av.AudioFrame.from_ndarray(channels, format="fltp", layout=f"{len(channels)}c")
    frame.sample_rate = int(input_rate)
    sound = _SoundBuffer("The sound array", frame.sample_rate, options)
    sound.add(frame)
    return sound.finish()
