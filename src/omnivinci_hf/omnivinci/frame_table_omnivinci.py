"""This module lists the frames of a video with their times, and the packets that hold them, before any is decoded.

Only where packets do not tell which frames they show, the video is decoded for it.
"""

import math
import re
from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property
from itertools import chain
from typing import NamedTuple

import av
import numpy as np

from .image_media_omnivinci import check_pixels
from .media_containers_omnivinci import (
    PacketReader,
    check_complete,
    choose_stream,
    container_row,
    decoder_options,
    open_container,
    photo_brand,
    time_base,
    to_seconds,
)
from .media_reading_omnivinci import MediaError
from .media_sources_omnivinci import MediaSource


# -- How many frames a packet shows, by the headers of its codec


MPEG4_NO_PICTURE_BYTES = 10  # at most, of a packet that only says "as before": encoders of AVI files put these in

_PLAIN_H264_PROFILES = (66, 77, 88)  # whose header goes without chroma format and scaling


def frame_counter(context: av.VideoCodecContext) -> Callable[[av.Packet], int | None]:
    """Returns a function from a packet to the number of frames that it shows; None where only decoding tells."""
    name = context.codec.canonical_name
    if name == "h264":
        number = None if _may_have_fields(context.extradata or b"") else 1
        return lambda packet: number
    return _COUNTERS.get(name, lambda packet: 1)


def _vp8(packet: av.Packet) -> int:
    """Reads the flag of the frame header (RFC 6386, 9.1)."""
    return memoryview(packet)[0] >> 4 & 1


def _vp9(packet: av.Packet) -> int:
    """Counts the frames of a packet, whose sizes stand at its end if it has several (VP9 specification, Annex B)."""
    data = memoryview(packet)
    if data[-1] >> 5 != 0b110:
        return _vp9_shows(data[0])
    num_frames, width = (data[-1] & 7) + 1, (data[-1] >> 3 & 3) + 1
    index = data[-2 - num_frames * width :]
    if len(index) < 2 + num_frames * width or index[0] != data[-1]:
        return _vp9_shows(data[0])
    place, total = 0, 0
    for number in range(num_frames):
        total += _vp9_shows(data[place]) if place < len(data) else 0
        place += int.from_bytes(index[1 + number * width :][:width], "little")
    return total


def _vp9_shows(first: int) -> int:
    """Reads the flags that follow on the marker and the profile: shows an old frame; is no key frame; is shown."""
    flags = first << 1 if first >> 4 & 3 == 3 else first  # profile 3 has one bit more
    return flags >> 3 & 1 or flags >> 1 & 1


def _av1(packet: av.Packet) -> int:
    """Looks for the unit of a packet that shows the frame (AV1 specification, 5.3 and 5.9)."""
    data, place = memoryview(packet), 0
    while place < len(data):
        head = data[place]
        place += 2 if head & 4 else 1
        length = len(data) - place
        if head & 2:  # it has a length, 7 bits in a byte
            length = 0
            for shift in range(0, 56, 7):
                byte = data[place] if place < len(data) else 0
                length, place = length | (byte & 0x7F) << shift, place + 1
                if byte < 0x80:
                    break
        unit_type, first = head >> 3 & 15, data[place] if place < len(data) else 0
        is_photo = unit_type == 1 and first >> 3 & 1
        if is_photo or (unit_type in (3, 6) and (first >> 7 or first >> 4 & 1)):
            return 1
        place += length
    return 0


def _mpeg4(packet: av.Packet) -> int | None:
    """Returns 1, but for packets that hold two pictures or none, as encoders of AVI files write them."""
    pictures = bytes(packet).count(b"\0\0\1\xb6")
    return 1 if pictures == 1 and packet.size > MPEG4_NO_PICTURE_BYTES else None


def begins_anew(context: av.VideoCodecContext, packet: av.Packet) -> bool:
    """Whether nothing refers to what was before a packet; broadcasts often begin elsewhere (H.264, 7.4.1.2.4)."""
    if context.codec.canonical_name != "h264":
        return True
    data, extradata, place = bytes(packet), context.extradata or b"", 0
    if extradata[:1] != b"\1":
        return any(unit[1][0] & 31 == 5 for unit in re.finditer(rb"\x00\x00\x01(.)", data, re.DOTALL))
    width = (extradata[4] & 3) + 1  # of the length before each unit
    while place + width < len(data):
        if data[place + width] & 31 == 5:
            return True
        place += width + int.from_bytes(data[place : place + width], "big")
    return False


def _may_have_fields(extradata: bytes) -> bool:
    """Whether H.264 pictures may come as two fields in two packets (ITU-T H.264, 7.3.2.1.1: frame_mbs_only_flag)."""
    start = 8 if extradata[:1] == b"\1" else extradata.find(b"\0\0\1") + 3
    if extradata[start : start + 1] == b"" or extradata[start] & 31 != 7:
        return False
    bits = _Bits(extradata[start + 1 :].replace(b"\0\0\3", b"\0\0"))
    profile = bits.take(24) >> 16
    bits.number()
    if profile not in _PLAIN_H264_PROFILES:
        chroma = bits.number()
        bits.take(1 if chroma == 3 else 0)
        bits.number(), bits.number(), bits.take(1)
        if bits.take(1):
            _skip_scaling(bits, 12 if chroma == 3 else 8)
    bits.number()
    order = bits.number()
    if order == 0:
        bits.number()
    elif order == 1:
        bits.take(1), bits.number(), bits.number()
        for _ in range(min(bits.number(), 255)):
            bits.number()
    bits.number(), bits.take(1), bits.number(), bits.number()
    return not bits.take(1)


def _skip_scaling(bits: "_Bits", num_lists: int) -> None:
    for number in range(num_lists):
        if not bits.take(1):
            continue
        last = following = 8
        for _ in range(16 if number < 6 else 64):
            if following:
                code = bits.number()
                following = (last + (code + 1 >> 1) * (1 if code & 1 else -1)) % 256
            last = following or last


class _Bits:
    """These are the bits of a header, read from the first on."""

    def __init__(self, data: bytes):
        self.left, self.bits = len(data) * 8, int.from_bytes(data, "big")

    def take(self, count: int) -> int:
        """Reads a number of so many bits; behind the end there are zeros."""
        self.left -= count
        value = self.bits >> self.left if self.left >= 0 else 0
        return value & (1 << count) - 1

    def number(self) -> int:
        """Reads a number that has as many zeros before it as it has bits (Exp-Golomb)."""
        zeros = 0
        while zeros < 32 and not self.take(1):
            zeros += 1
        return (1 << zeros | self.take(zeros)) - 1


_COUNTERS: dict[str, Callable[[av.Packet], int | None]] = {"vp8": _vp8, "vp9": _vp9, "av1": _av1, "mpeg4": _mpeg4}


# -- The table of all frames


JOIN_PACKETS = 3  # so far before a key frame a packet may be marked as damaged where transport streams were joined


class _Packet(NamedTuple):
    """This is what is known of a packet before it is decoded."""

    pts: int | None
    dts: int | None
    duration: int | None
    is_key: bool
    is_shown: bool
    is_corrupt: bool
    num_frames: int | None  # None: only decoding tells


@dataclass
class FrameTable:
    """A frame table lists all frames of a video stream in the order of showing.

    A frame is known by the position of its packet, which is that packet's number in decode order. Stamps do not serve
    for that: frames may share one, and they may have none or wrong ones.

    Args:
        times: float64 `(total_frames,)`, seconds since the first frame.
        duration_sec: of the video.
        start_sec: of the first frame on the container's clock.
        positions: of the frames.
        order: place of each packet in the order of showing; infinite if it shows nothing.
        is_key: whether decoding can start there, of each packet.
        is_decoded: everything was decoded to make the table.
        line: the packets that it was made from.
    """

    times: np.ndarray
    duration_sec: float
    start_sec: float
    positions: list[int]
    order: list[float]
    is_key: list[bool]
    is_decoded: bool
    line: "_TimeLine"

    @property
    def total_frames(self) -> int:
        """The number of frames that the video shows."""
        return len(self.times)

    @cached_property
    def indices_at(self) -> dict[int, list[int]]:
        """Maps the position of a packet to the frames that it shows: one as a rule."""
        indices: defaultdict[int, list[int]] = defaultdict(list)
        for index, position in enumerate(self.positions):
            indices[position].append(index)
        return dict(indices)

    def intervals(self, wanted: Iterable[int]) -> list[tuple[int, int]]:
        """Returns packet positions (first, last) to decode, each from a key frame on; disjoint and ascending."""
        intervals: list[tuple[int, int]] = []
        keys: list[int] = []
        seen = 0
        for position in sorted({self.positions[index] for index in wanted}):
            keys += [key for key in range(seen, position + 1) if self.is_key[key]]
            seen = position + 1
            # A key frame that is shown after this frame (open GOP) is not where it can start.
            first = next((key for key in reversed(keys) if self.order[key] <= self.order[position]), 0)
            while intervals and intervals[-1][1] >= first:
                first = min(first, intervals.pop()[0])
            intervals.append((first, position))
        return intervals


def scan_video(source: MediaSource) -> FrameTable:
    """Reads all packets of a video once and lists its frames. Counts and rates in headers are not relied on.

    Raises:
        MediaError: when there is no video stream, no decoder for it or no frame in it.
    """
    with open_container(source) as container:
        stream = video_stream(container, source)
        reader, count_frames = PacketReader(source, container, stream), frame_counter(stream.codec_context)
        has_show_times = container_row(container).has_show_times
        packets = [
            _Packet(
                *(packet.pts if has_show_times else None, packet.dts, packet.duration, packet.is_keyframe),
                *(not packet.is_discard, packet.is_corrupt, count_frames(packet)),
            )
            for packet in reader
        ]
        is_whole = check_complete(source, container, stream, reader)
        if reader.num_corrupt:
            packets = _without_marked(source, packets, time_base(stream))
        line = _TimeLine(packets if is_whole else _without_gaps(packets), stream)
    table = line.table_by_packets() or (line.table_by_decoding(source) if packets else None)
    if table is None:
        raise MediaError(f"{source.name} has no video frames; check that it plays.")
    return table


def recount(source: MediaSource, table: FrameTable) -> FrameTable | None:
    """Makes the table of what a decoder shows; None if that is what `table` has already, or if there is damage."""
    if table.is_decoded:
        return None
    decoded_table = table.line.table_by_decoding(source, accept_damage=False)
    return None if decoded_table is None or decoded_table.positions == table.positions else decoded_table


def open_decoder(
    container: av.container.InputContainer, source: MediaSource, frame_threads: int = 1, is_strict: bool = True
) -> tuple[av.VideoStream, av.VideoCodecContext]:
    """Prepares the decoder of the video. If strict, a damaged frame is an error; else FFmpeg patches it up silently."""
    stream = video_stream(container, source)
    decoder = stream.codec_context
    decoder.options = {**({"err_detect": "explode"} if is_strict else {}), **decoder_options(source)}
    if frame_threads > 1:
        decoder.thread_type, decoder.thread_count = "AUTO", frame_threads
    return stream, decoder


def video_stream(container: av.container.InputContainer, source: MediaSource) -> av.VideoStream:
    """Returns the video stream that is read.

    Raises:
        MediaError: when there is none, none that a decoder knows, or one with too large frames.
    """
    name = source.name
    if brand := photo_brand(container):
        raise MediaError(f"{name} is a photo ({brand}), not a video; give it as an image.")
    stream = choose_stream(source, container, "video")
    if stream is None:
        raise MediaError(f"{name} has no video stream; if it is an audio file, give it as audio.")
    if stream.codec_context is None:
        raise MediaError(f"{name}: there is no decoder for its video; convert it, to H.264 for example.")
    check_pixels(name, stream.codec_context.width, stream.codec_context.height, source.reading)
    return stream


class _TimeLine:
    """The time line has the packets of a video, and makes tables of its frames from them."""

    def __init__(self, packets: list[_Packet], stream: av.VideoStream):
        self.packets, self.time_base = packets, time_base(stream)
        self.rates = [Fraction(rate) for rate in (stream.average_rate, stream.guessed_rate) if rate] or [Fraction(25)]
        self.reorders = stream.codec_context.codec.reorder

    def table_by_packets(self) -> FrameTable | None:
        """Makes the table of packets alone; None if they do not tell the frames in order, or if there is none."""
        shown = self._order_of_showing()
        if shown is None:
            return None
        order = [math.inf] * len(self.packets)
        for place, position in enumerate(shown):
            order[position] = place
        is_key = [packet.is_key for packet in self.packets]
        # What is shown before the first key frame of the file refers to frames that it does not have.
        shown_keys = (order[position] for position, is_start in enumerate(is_key) if is_start)
        first = next((int(place) for place in shown_keys if place < math.inf), 0)
        positions = []
        for position in shown[first:]:
            packet = self.packets[position]
            positions += [position] * (packet.num_frames or 0) if packet.is_shown else []
        return self._table(positions, order, is_key, is_decoded=False)

    def _order_of_showing(self) -> list[int] | None:
        """Returns the positions of packets that show frames, in the order of showing; None if they do not tell it."""
        if any(packet.num_frames is None for packet in self.packets):
            return None
        in_decode_order = [position for position, packet in enumerate(self.packets) if packet.num_frames]
        stamps = [packet.pts for packet in self.packets if packet.pts is not None]
        if len(stamps) < len(self.packets):
            return None if self.reorders else in_decode_order
        shown = sorted(
            in_decode_order, key=stamps.__getitem__
        )  # of equal stamps, the first in decode order comes first
        if shown != in_decode_order and len({stamps[position] for position in shown}) < len(shown):
            return None
        return shown

    def table_by_decoding(self, source: MediaSource, accept_damage: bool = True) -> FrameTable | None:
        """Makes the table of what a decoder shows, in its order; None if there is nothing, or after an error."""
        decoded = _decode_everything(source, source.reading.num_threads)
        if decoded is None and accept_damage:
            decoded = _decode_everything(source, 1, accept_damage=True)
        if decoded is None:
            return None
        positions = [position for position, _ in decoded if self.packets[position].is_shown]
        order, is_key = [math.inf] * len(self.packets), [False] * len(self.packets)
        for place, (position, is_start) in enumerate(decoded):
            order[position] = min(order[position], place)
            is_key[position] |= is_start and self.packets[position].is_key
        return self._table(positions, order, is_key, is_decoded=True)

    def _table(
        self, positions: list[int], order: list[float], is_key: list[bool], is_decoded: bool
    ) -> FrameTable | None:
        """Makes the table of the frames at `positions`; None if there is none."""
        if not positions:
            return None
        stamps, unit = self._stamps(positions), self.time_base
        if stamps is None:
            stamps, unit = np.arange(len(positions)), 1 / self.rates[0]
        ticks = stamps - stamps[0]
        gap = self._last_gap(positions[-1], ticks, unit)
        rate = _constant_rate(ticks, unit, self.rates) if len(ticks) > 1 or not gap else 1 / (gap * unit)
        if rate is None:
            times = ticks * unit.numerator / unit.denominator
            duration_sec = float((int(ticks[-1]) + gap) * unit)
        else:
            # Neither the rounding of the stamps (1 ms in Matroska) nor a padded last frame gets in here.
            times = np.arange(len(ticks)) * rate.denominator / rate.numerator
            duration_sec = len(ticks) * rate.denominator / rate.numerator
        start_sec = to_seconds(int(stamps[0]), unit)
        return FrameTable(times, duration_sec, start_sec, positions, order, is_key, is_decoded, line=self)

    def _last_gap(self, position: int, ticks: np.ndarray, unit: Fraction) -> Fraction:
        """Finds how long the last frame is shown: as its packet says, else as long as is usual in the video."""
        duration = self.packets[position].duration
        if duration or len(ticks) < 2:
            return Fraction(duration or 0)
        return Fraction(float(np.median(np.diff(ticks)))) or 1 / (self.rates[0] * unit)

    def _stamps(self, positions: list[int]) -> np.ndarray | None:
        """Returns ascending stamps of the frames in the time base; None if there are none.

        What is not given lies evenly between its neighbours.
        """
        for given in ([self.packets[p].pts for p in positions], [self.packets[p].dts for p in positions]):
            known = [index for index, stamp in enumerate(given) if stamp is not None]
            stamps = np.array(sorted(stamp for stamp in given if stamp is not None), dtype=np.int64)
            if len(given) > 1 and len(set(stamps.tolist())) < 2:
                continue
            if len(known) == len(given):
                return stamps
            if len(known) > 1:
                step, indices = np.median(np.diff(stamps) / np.diff(known)), np.arange(len(given))
                outside = np.minimum(indices - known[0], 0) + np.maximum(indices - known[-1], 0)
                return np.round(np.interp(indices, known, stamps) + outside * step).astype(np.int64)
        return None


def _decode_everything(source: MediaSource, threads: int, accept_damage: bool = False) -> list[tuple[int, bool]] | None:
    """Returns the packet's position of every frame in the order of showing, and whether it is a key frame.

    None after an error; if damage is accepted, a packet with an error counts as a frame, unless that is shown later.
    """
    shown: list[tuple[int, bool]] = []
    lost: set[int] = set()  # places in `shown`
    with open_container(source) as container:
        stream, decoder = open_decoder(container, source, threads)
        for position, packet in enumerate(chain(PacketReader(source, container, stream), [None])):
            if packet is not None:
                packet.pts = position
            try:
                frames = decoder.decode(packet)
                shown += [(position if frame.pts is None else frame.pts, bool(frame.key_frame)) for frame in frames]
            except av.error.EOFError:
                break
            except av.error.FFmpegError:
                if not accept_damage:
                    return None
                if packet is not None:
                    lost.add(len(shown))
                    shown.append((position, False))
    came = {position for place, (position, _) in enumerate(shown) if place not in lost}
    return [entry for place, entry in enumerate(shown) if place not in lost or entry[0] not in came]


def _without_gaps(packets: list[_Packet]) -> list[_Packet]:
    """Hides, in a file with parts missing, the frames from a gap in the stamps to the next key frame.

    They refer to what is missing.
    """
    shown = [position for position, packet in enumerate(packets) if packet.num_frames != 0]
    stamps = {position: pts for position in shown if (pts := packets[position].pts) is not None}
    if len(shown) < 2 or len(stamps) < len(shown):
        return packets
    shown.sort(key=stamps.__getitem__)
    gaps = np.diff([stamps[position] for position in shown])
    widest, packets, is_damaged = 1.5 * np.median(gaps), list(packets), False
    for position, gap in zip(shown[1:], gaps, strict=True):
        is_damaged = not packets[position].is_key and (is_damaged or gap > widest)
        if is_damaged:
            packets[position] = packets[position]._replace(is_shown=False)
    return packets


def _without_marked(source: MediaSource, packets: list[_Packet], unit: Fraction) -> list[_Packet]:
    """Hides the frames from a packet that FFmpeg marks as corrupt to the next key frame.

    Where packets are missing, decoders often show these wrongly and without an error, and FFmpeg marks a packet nearby.
    With a key frame among the next ones it may be that streams were joined there.
    """
    kept, key_pts, is_damaged = [], None, False
    for number, packet in enumerate(packets):
        pts, nearby = packet.pts, packets[number : number + JOIN_PACKETS]
        if packet.is_key:
            key_pts, is_damaged = (pts if is_damaged else None), False
        is_marked = packet.is_corrupt and len(nearby) == JOIN_PACKETS and not any(other.is_key for other in nearby)
        if is_marked and not is_damaged:
            stamp = "" if pts is None else f" at {to_seconds(pts, unit):.2f} s"
            source.report(f"is damaged: video packets are missing{stamp}")
            is_damaged = True
        refers_back = key_pts is not None and pts is not None and pts < key_pts  # to what is before the key frame
        kept.append(packet._replace(is_shown=packet.is_shown and not is_damaged and not refers_back))
    return kept


def _constant_rate(ticks: np.ndarray, unit: Fraction, rates: list[Fraction]) -> Fraction | None:
    """Returns the frame rate if all frames keep to one, but for the rounding of their stamps to `unit`."""
    for rate in rates:
        if np.abs(ticks - np.arange(len(ticks)) * float(1 / (rate * unit))).max() < 1:
            return rate
    gaps = np.diff(ticks)
    return 1 / (int(gaps[0]) * unit) if gaps[0] and (gaps == gaps[0]).all() else None
