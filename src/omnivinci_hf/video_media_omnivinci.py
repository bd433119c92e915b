"""Videos: the wanted frames with their true times, decoded by feeding only the packets that they need."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction
from numbers import Integral

import av
import numpy as np
from PIL import Image

from .audio_media_omnivinci import AudioClip, SoundOptions, audio_from_container
from .media_omnivinci import MediaError, MediaSource, check_complete, check_pixels, is_array, load_image, to_numpy


# A Matroska file may end this much before the duration in its header without being called cut short.
END_TOLERANCE_SEC = 0.5

_QUARTER_TURNS = {1: Image.Transpose.ROTATE_90, 2: Image.Transpose.ROTATE_180, 3: Image.Transpose.ROTATE_270}


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
    if is_array(source) or isinstance(source, (list, tuple)):
        return _video_from_frames(source, metadata, num_frames, fps)
    sound = SoundOptions(sampling_rate, downmix, max_audio_sec)
    source = MediaSource.of("video", source)
    table = _scan_video(source, timeout_sec)
    indices = sample_indices(table.times, table.duration_sec, num_frames=num_frames, fps=fps)
    images = _decode_frames(source, table, set(indices.tolist()), timeout_sec)
    origin_sec = table.start_sec if align_audio_start else None
    audio = audio_from_container(source, sound, timeout_sec, origin_sec) if with_audio else None
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


def _scan_video(source: MediaSource, timeout_sec: float) -> _FrameTable:
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
        check_complete(source.name, stream, len(packets))
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
    check_pixels(name, stream.codec_context.width, stream.codec_context.height)
    return stream


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


def _decode_frames(source: MediaSource, table: _FrameTable, wanted: set[int], timeout_sec: float) -> dict:
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


def _feed_packets(source: MediaSource, table: _FrameTable, wanted: set[int], timeout_sec: float) -> dict:
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


def _decode_in_order(source: MediaSource, table: _FrameTable, wanted: set[int], timeout_sec: float) -> dict:
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
    check_pixels(name, frame.width, frame.height)
    image, turns = frame.to_image(), round(frame.rotation / 90) % 4
    return image.transpose(_QUARTER_TURNS[turns]) if turns else image


def _video_from_frames(frames, metadata, num_frames: int | None, fps: float | None) -> VideoClip:
    if is_array(frames) and frames.ndim != 4:
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
        indices = to_numpy(indices).astype(np.int64)
        total = max(total, int(indices.max()) + 1)
    elif times is None and total != num_given:
        raise MediaError(f"Got {num_given} frames of {total}; say which with `frames_indices`.")
    else:
        total = num_given
    if times is None:
        times, end_sec = (np.arange(num_given) if indices is None else indices) / rate, total / rate
    else:
        times = to_numpy(times).astype(np.float64)
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
