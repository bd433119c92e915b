"""One clock for the picture and the sound of recordings that were joined, whose stamps start anew in the middle."""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from fractions import Fraction

import av
from av.format import Flags


BACK_SEC, FORWARD_SEC = 0.1, 10.0  # stamps that leave these bounds start anew, as FFmpeg's programs have it
NEARBY_SEC = 3.0  # so far apart two streams may be that were written at one moment
PADDING_SEC = 0.3  # so much longer than the picture a sound may be, for the encoder's padding


def may_start_anew(container) -> bool:
    """Whether files of this kind may be joined byte by byte, or be pieces of a broadcast whose clock jumps."""
    return has_loose_stamps(container) or container.format.name == "flv"


def has_loose_stamps(container) -> bool:
    """Whether FFmpeg takes the stamps of this kind as they come, and fills in those that are not there."""
    return bool(container.format.flags & Flags.ts_discont.value)


def mend_stamps(packets: Iterator[av.Packet]) -> Iterator[av.Packet]:
    """Where stamps are filled in, the last picture before a jump may have got its time of showing from behind it.

    It is as long after its time of decoding, then, as it was for the picture before.
    """
    delays, bounds = {}, {}
    for packet in packets:
        pts, dts, stream = packet.pts, packet.dts, packet.stream_index
        if pts is not None and dts is not None:
            if stream not in bounds:
                bounds[stream] = (-BACK_SEC / packet.time_base, FORWARD_SEC / packet.time_base)
            lowest, highest = bounds[stream]
            if lowest <= pts - dts <= highest:
                delays[stream] = pts - dts
            else:
                packet.pts = dts + delays.get(stream, 0)
        yield packet


@dataclass
class _Piece:
    """What lies between two jumps: where its streams start and end on its own clock, in seconds."""

    starts: dict[int, float] = field(default_factory=dict)
    ends: dict[int, float] = field(default_factory=dict)
    newest: float = -math.inf  # the stamp that was read last


class Clock:
    """Sorts packets into pieces, each with a clock of its own, and finds the shifts that put these one after the other.

    Streams reach a piece at different moments, since their packets are interleaved, and one stream alone may pause. So
    a packet stays in the piece of the one before it if it goes on there, or if the others have gone on there as far;
    else it belongs to the newest piece, if it is near to what was read last there; else a new piece begins with it.
    """

    def __init__(self, time_bases: Mapping[int, Fraction]):
        self.unit_sec = {stream: float(base) for stream, base in time_bases.items()}  # the first stream leads
        self.counts = dict.fromkeys(self.unit_sec, 0)
        self.pieces = [_Piece()]
        self.piece_of, self.last = {}, {}  # of each stream: the piece and the stamp of its last packet
        self.changes: list[tuple[int, int, int]] = []  # stream, number of a packet, piece that begins with it

    def add(self, packet) -> None:
        stream, dts, pts = packet.stream_index, packet.dts, packet.pts
        number, unit_sec = self.counts[stream], self.unit_sec[stream]
        self.counts[stream] += 1
        if dts is None and pts is None:
            return
        first_sec = (pts if dts is None else dts) * unit_sec
        shown_sec = (dts if pts is None else pts) * unit_sec
        current, newest = self.piece_of.get(stream, 0), len(self.pieces) - 1
        if not self._goes_on(stream, current, first_sec):
            if current == newest or abs(first_sec - self.pieces[newest].newest) > NEARBY_SEC:
                self.pieces.append(_Piece())
            current = len(self.pieces) - 1
            self.changes.append((stream, number, current))
        piece, end_sec = self.pieces[current], shown_sec + (packet.duration or 0) * unit_sec
        piece.starts[stream] = min(piece.starts.get(stream, math.inf), shown_sec)
        piece.ends[stream] = max(piece.ends.get(stream, -math.inf), end_sec)
        piece.newest = self.last[stream] = first_sec
        self.piece_of[stream] = current

    def _goes_on(self, stream: int, piece: int, stamp_sec: float) -> bool:
        if stream not in self.last:  # a stream that begins late has not jumped, but may begin in a later piece
            return len(self.pieces) == 1
        known_sec = max(self.last[stream], self.pieces[piece].newest)
        return self.last[stream] - BACK_SEC <= stamp_sec <= known_sec + FORWARD_SEC

    def shifts(self, stream: int) -> dict[int, int]:
        """What must be added to the stamps of a stream, in its time base: {number of a packet: from there on}."""
        seconds = self._shifts_sec() if self.changes else []
        return {
            number: round(seconds[piece] / self.unit_sec[stream])
            for changed, number, piece in self.changes
            if changed == stream
        }

    def _shifts_sec(self) -> list[float]:
        """For each piece the shift with which its leading stream goes on without a hole, and none begins too early."""
        leader, shifts, ends = next(iter(self.unit_sec)), [], {}
        for piece in self.pieces:
            joints = {stream: ends[stream] - start for stream, start in piece.starts.items() if stream in ends}
            padding_sec = PADDING_SEC if leader in joints else 0.0
            last_sec = max(ends.values(), default=0.0) - min(piece.starts.values(), default=0.0)
            joint_sec = max(
                (sec - padding_sec * (stream != leader) for stream, sec in joints.items()), default=last_sec
            )
            shifts.append(joint_sec if ends else 0.0)
            for stream, end in piece.ends.items():
                ends[stream] = max(ends.get(stream, -math.inf), end + shifts[-1])
        return shifts
