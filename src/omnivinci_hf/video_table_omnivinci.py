"""The frames of a video file and their times, found from its packets without decoding any."""

from dataclasses import dataclass
from fractions import Fraction

import av
import numpy as np

from .media_limits_omnivinci import MediaError
from .media_omnivinci import MediaSource, PacketReader, check_pixels, to_seconds
from .media_streams_omnivinci import choose_stream, photo_brand


JOIN_PACKETS = 3  # so far before a key frame a packet may be marked as damaged where transport streams were joined


@dataclass
class FrameTable:
    """All frames of a video stream in the order of showing."""

    times: np.ndarray  # (total_frames,) seconds since the first frame
    duration_sec: float
    start_sec: float  # of the first frame on the container's clock
    index_of: dict[int, int]  # stamp -> index
    # In decode order, (stamp, is_keyframe). None where packet stamps do not tell which frame is which, so
    # that only the order of the decoded frames does.
    packets: list[tuple[int, bool]] | None

    def intervals(self, wanted: set[int]) -> list[tuple[int, int]]:
        """Packet positions (first, last) to decode, each from a key frame on; disjoint and ascending."""
        intervals, keys = [], []
        for position, (stamp, is_key) in enumerate(self.packets):
            if is_key:
                keys.append((position, stamp))
            if self.index_of.get(stamp) in wanted:
                # A key frame that is shown after this frame (open GOP) is not where it can start.
                first = next((key for key, key_stamp in reversed(keys) if key_stamp <= stamp), 0)
                while intervals and intervals[-1][1] >= first:
                    first = min(first, intervals.pop()[0])
                intervals.append((first, position))
        return intervals


def scan_video(source: MediaSource) -> FrameTable:
    """Demux once. Frame counts and rates in headers are not believed; the packets' stamps are."""
    with source.container() as container:
        stream = video_stream(container, source)
        reader = PacketReader(source, container, stream)
        packets = [(p.pts, p.dts, p.duration, p.is_keyframe, not p.is_discard, p.is_corrupt) for p in reader]
        rates = [Fraction(rate) for rate in (stream.average_rate, stream.guessed_rate) if rate]
        stamps = [packet[0] for packet in packets]
        # AVI has no presentation times: FFmpeg guesses them in decode order, wrongly for B-frames.
        by_order = container.format.name == "avi" or None in stamps or len(set(stamps)) < len(stamps)
        is_whole = source.check_complete(container, stream, reader)
        whole = _without_marked(source, packets, stream.time_base) if reader.num_corrupt else packets
        if not by_order:  # else frames are counted, also these
            packets = whole if is_whole else _without_gaps(whole)
        table = _frame_table(packets, stream.time_base, rates, by_order) if packets else None
    if table is None:
        raise MediaError(f"{source.name} has no video frames; check that it plays.")
    return table


def _without_gaps(packets: list[tuple]) -> list[tuple]:
    """Of a file with parts missing: no frame from a gap in the stamps to the next key frame, for it refers to these."""
    shown = sorted((packet[0], packet[3]) for packet in packets)
    gaps = np.diff([pts for pts, _ in shown])
    widest = 1.5 * np.median(gaps) if len(gaps) else 0
    left_out, is_damaged = set(), False
    for (pts, is_key), gap in zip(shown[1:], gaps, strict=True):
        is_damaged = not is_key and (is_damaged or gap > widest)
        if is_damaged:
            left_out.add(pts)
    return [(*packet[:4], packet[4] and packet[0] not in left_out, packet[5]) for packet in packets]


def _without_marked(source: MediaSource, packets: list[tuple], time_base: Fraction) -> list[tuple]:
    """Where packets are missing, decoders often show the frames up to the next key frame, wrongly and without an error.

    FFmpeg marks a packet nearby. With a key frame among the next ones it may be that streams were joined there.
    """
    kept, key_pts, is_damaged = [], None, False
    for number, (pts, *others, is_key, is_shown, is_corrupt) in enumerate(packets):
        nearby = packets[number : number + JOIN_PACKETS]
        if is_key:
            key_pts, is_damaged = (pts if is_damaged else None), False
        if is_corrupt and not is_damaged and len(nearby) == JOIN_PACKETS and not any(packet[3] for packet in nearby):
            stamp = "" if pts is None else f" at {to_seconds(pts, time_base):.2f} s"
            source.report(f"is damaged: video packets are missing{stamp}")
            is_damaged = True
        leads = None not in (key_pts, pts) and pts < key_pts  # refers to what is before the key frame
        kept.append((pts, *others, is_key, is_shown and not is_damaged and not leads, is_corrupt))
    return kept


def video_stream(container, source: MediaSource) -> av.VideoStream:
    name = source.name
    if brand := photo_brand(container):
        raise MediaError(f"{name} is a photo ({brand}), not a video; give it as an image.")
    stream = choose_stream(source, container, "video")
    if stream is None:
        raise MediaError(f"{name} has no video stream; if it is a sound file, give it as audio.")
    if stream.codec_context is None:
        raise MediaError(f"{name}: there is no decoder for its video; convert it, to H.264 for example.")
    check_pixels(name, stream.codec_context.width, stream.codec_context.height, source.reading)
    return stream


def _frame_table(packets: list[tuple], time_base: Fraction, rates: list[Fraction], by_order: bool) -> FrameTable | None:
    """`packets` in decode order: (pts, dts, duration, is_keyframe, is_shown, is_corrupt). None if no frame is shown."""
    pts, dts, durations, is_key, is_shown, _ = zip(*packets, strict=True)
    rates = rates or [Fraction(25)]
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
    return FrameTable(
        times=times,
        duration_sec=duration_sec,
        start_sec=to_seconds(shown[0], time_base),
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
