"""This module knows the containers of media: which are read, which of their streams, and the clock of their stamps."""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from fractions import Fraction

import av
from av.format import Flags
from av.stream import Disposition


# FFmpeg's names of the containers, and what they are. None of them names other files, opens sockets or starts programs,
# as playlists and descriptions do (.m3u8, ffconcat, .sdp, image2, AviSynth). Bare streams of pictures (H.264, HEVC,
# MJPEG) are left out, since they have no times of their own.
CONTAINERS = {
    "mov": "MP4, MOV, M4A, M4B, 3GP and other ISO media files",
    "matroska": "MKV, MKA, WebM",
    "avi": "AVI",
    "mpegts": "transport streams: TS, M2TS",
    "mpeg": "MPEG programme streams: MPG, VOB",
    "flv": "Flash video",
    "asf": "WMV, WMA",
    "mxf": "MXF of cameras and broadcasters",
    "rm": "RealMedia",
    "dv": "DV of camcorders",
    "ivf": "IVF: bare VP8, VP9 and AV1 with times",
    "gif": "animated GIF",
    "ogg": "OGG, OGA, OGV, OPUS, SPX",
    "wav": "WAV, RF64",
    "w64": "Sony Wave64",
    "aiff": "AIFF, AIFC",
    "caf": "Apple's CAF",
    "au": "AU, SND",
    "voc": "Creative Voice",
    "flac": "FLAC",
    "mp3": "MP3, MP2",
    "aac": "AAC with ADTS headers",
    "loas": "AAC with LATM headers",
    "ac3": "AC-3",
    "eac3": "E-AC-3",
    "dts": "DTS",
    "dtshd": "DTS-HD",
    "truehd": "TrueHD",
    "mlp": "MLP",
    "amr": "AMR of phones",
    "wv": "WavPack",
    "tta": "True Audio",
    "ape": "Monkey's Audio",
    "tak": "TAK",
    "mpc": "Musepack 7",
    "mpc8": "Musepack 8",
}
# Their headers have the duration, in place of an estimate from the size of the file.
HAVE_DURATION = ("matroska", "flv", "flac", "au", "rm", "mxf", "wv", "tta", "ape", "tak", "mpc", "mpc8")
# In these it proves nothing: recorders write what a clock says, or the length of the whole of which the file is a part.
MAY_HAVE_WRONG_DURATION = ("matroska", "flv", "flac")
# No format that runs other programs (EPS starts Ghostscript) or that opens other files.
IMAGE_FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "DIB", "TIFF", "PPM", "ICO", "TGA", "JPEG2000", "AVIF")
# Of these, files of several frames are videos, and files of one frame are none.
MOVING_FORMATS = ("GIF", "PNG", "WEBP", "AVIF")
STILL_FORMATS = ("JPEG", "BMP", "TIFF", "JPEG2000")


# -- Which of a container's streams is read: the one that players take, not the first


# They are pictures beside a film, or parts of one picture (the tiles of a photo).
_NO_FILM = Disposition.attached_pic | Disposition.timed_thumbnails | Disposition.dependent
_FOR_SOME = (
    Disposition.comment
    | Disposition.hearing_impaired
    | Disposition.visual_impaired
    | Disposition.descriptions
    | Disposition.clean_effects
    | Disposition.karaoke
)
# Brands of ISO media files (HEIF and AVIF): with one of the second kind there is a moving picture too.
_PHOTO_BRANDS = {"heic", "heix", "heim", "heis", "mif1", "mif2", "avif", "avci", "jpeg"}
_SEQUENCE_BRANDS = {"hevc", "hevx", "hevm", "hevs", "msf1", "avis", "avcs", "jpgs"}


def choose_stream(source, container: av.container.InputContainer, kind: str) -> av.stream.Stream | None:
    """The stream of a kind ("video" or "audio") that players take, or None if there is none.

    One that can be decoded comes first, then one of more than a picture, then one that is not marked as commentary or
    as made for some (deaf or blind people, singers), then one that is marked as default, then the first. That an
    undecodable one was left out is noted on the `source`.
    """
    streams = [stream for stream in getattr(container.streams, kind) if not stream.disposition & _NO_FILM]
    wanted = min(streams, key=_rank, default=None)  # of equals, the first
    chosen = min(streams, key=lambda stream: (not is_decodable(stream), *_rank(stream)), default=None)
    if chosen is not wanted:
        source.note(f"has a {kind} stream without a decoder, so stream {chosen.index} was taken, not {wanted.index}")
    return chosen


def is_decodable(stream: av.stream.Stream) -> bool:
    """Whether there is a decoder, and FFmpeg found out on opening what that needs to know (the size, the rate)."""
    context = stream.codec_context
    return context is not None and bool(context.width if stream.type == "video" else context.sample_rate)


def _rank(stream: av.stream.Stream) -> tuple[bool, ...]:
    marks = stream.disposition
    is_still = bool(marks & Disposition.still_image) or (stream.type == "video" and stream.frames == 1)
    return is_still, bool(marks & _FOR_SOME), not marks & Disposition.default


def photo_brand(container: av.container.InputContainer) -> str | None:
    """The brand of a file that says of itself that it is a photo; None of others."""
    major, others = (container.metadata.get(key, "") for key in ("major_brand", "compatible_brands"))
    brands = {others[place : place + 4] for place in range(0, len(others), 4)}
    return major if major in _PHOTO_BRANDS and not brands & _SEQUENCE_BRANDS else None


# -- One clock for the picture and the sound of recordings that were joined, whose stamps start anew in the middle


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
