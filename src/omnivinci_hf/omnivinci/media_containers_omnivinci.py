"""This module knows the containers of video and audio, opens them with FFmpeg, and reads the packets of a stream.

`CONTAINERS` has a row for each container that is read: to add one, add its row and, if FFmpeg reads on over missing
parts without a word, a check of its structure in `media_structure`. Of a container the stream that players take is
read, and the packets of recordings that were joined are put on one clock.
"""

import io
import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any, BinaryIO, Literal, overload

import av
from av.stream import Disposition

from .media_reading_omnivinci import MediaError
from .media_sources_omnivinci import MediaSource
from .media_structure_omnivinci import (
    WHOLE,
    Damage,
    ac3_frame_bytes,
    check_asf,
    check_chunks,
    check_dv,
    check_flash,
    check_fragments,
    check_gif,
    check_ivf,
    check_matroska,
    check_mp3,
    check_mxf,
    check_ogg_end,
    check_program_stream,
    check_transport_stream,
    check_voc,
    check_wavpack,
    has_lost_ogg_pages,
    mpeg_frame_bytes,
)


@dataclass(frozen=True)
class Container:
    """A container is a file format of video and audio; its row in `CONTAINERS` says all that is known of it.

    Args:
        name: FFmpeg's, the first one where it has several ("mov" of "mov,mp4,m4a,3gp,3g2,mj2").
        video_names: what users call such files with video; the documentation lists them.
        audio_names: what users call such files with audio alone.
        find_damage: looks in the structure of a file, given with its size, for parts that are missing.
        frame_bytes: of a bare stream of audio frames; see `whole_frames` in `media_structure`.
        header_duration: "" if there is none, so that FFmpeg estimates it from the size of the file, which proves
            nothing; "unreliable" if recorders write what a clock says, or the length of the whole of which the file is
            a part.
        has_longest_duration: the duration in the header is that of the longest stream, so that all must be read.
        has_packet_index: an index lists every packet.
        has_show_times: False: FFmpeg guesses the times of showing in decode order, wrongly for B-frames.
        has_loose_stamps: FFmpeg takes the time stamps as they come, and fills in those that are not there.
        may_start_anew: the time stamps may start anew in the middle, since such files are joined byte by byte, or are
            pieces of a broadcast whose clock jumps.
        jump_is_loss: says of a file, and of the number of packets that FFmpeg marked as corrupt so far, whether a jump
            of the time stamps of audio is a loss. None: recorders leave such gaps.
        may_end_in_error: FFmpeg stumbles over tags behind the audio of whole files.
    """

    name: str
    video_names: tuple[str, ...] = ()
    audio_names: tuple[str, ...] = ()
    find_damage: Callable[[BinaryIO, int], Damage] | None = None
    frame_bytes: Callable[[bytes], int | None] | None = None
    header_duration: Literal["", "exact", "unreliable"] = ""
    has_longest_duration: bool = False
    has_packet_index: bool = False
    has_show_times: bool = True
    has_loose_stamps: bool = False
    may_start_anew: bool = False
    jump_is_loss: Callable[[BinaryIO, int], bool] | None = None
    may_end_in_error: bool = False

    def damage(self, source: MediaSource) -> Damage:
        """Looks for parts of a file that are missing by its structure."""
        if self.find_damage is None:
            return WHOLE
        with source.open() as file:
            return self.find_damage(file, file.seek(0, io.SEEK_END))


# None of them names other files, opens sockets or starts programs, as playlists and descriptions do (.m3u8, ffconcat,
# .sdp, image2, AviSynth). Bare streams of pictures (H.264, HEVC, MJPEG) are left out: they have no times of their own.
_ROWS = (
    Container("mov", ("MP4", "MOV", "3GP"), ("M4A", "M4B"), check_fragments, has_packet_index=True),
    Container(
        "matroska",
        ("MKV", "WebM"),
        ("MKA",),
        check_matroska,
        header_duration="unreliable",
        has_longest_duration=True,
    ),
    Container("avi", ("AVI",), (), check_chunks, has_packet_index=True, has_show_times=False),
    Container(
        "mpegts",
        ("TS", "M2TS"),
        (),
        check_transport_stream,
        has_loose_stamps=True,
        may_start_anew=True,
        jump_is_loss=lambda file, num_corrupt: num_corrupt > 0,
    ),
    Container("mpeg", ("MPG", "VOB"), (), check_program_stream, has_loose_stamps=True, may_start_anew=True),
    Container(
        "flv",
        ("FLV",),
        (),
        check_flash,
        header_duration="unreliable",
        has_longest_duration=True,
        may_start_anew=True,
    ),
    Container("asf", ("WMV",), ("WMA",), check_asf),
    Container("mxf", ("MXF",), (), check_mxf, header_duration="exact"),
    Container("rm", ("RealMedia",), (), header_duration="exact"),
    Container("dv", ("DV",), (), check_dv),
    Container("ivf", ("IVF",), (), check_ivf),
    Container("gif", ("GIF",), (), check_gif),
    Container(
        "ogg",
        ("OGV",),
        ("OGG", "OGA", "Opus", "SPX"),
        check_ogg_end,
        has_loose_stamps=True,
        may_start_anew=True,
        jump_is_loss=lambda file, num_corrupt: has_lost_ogg_pages(file),
    ),
    Container("wav", (), ("WAV", "RF64"), check_chunks),
    Container("w64", (), ("W64",), check_chunks),
    Container("aiff", (), ("AIFF", "AIFC"), check_chunks),
    Container("caf", (), ("CAF",), check_chunks),
    Container("au", (), ("AU", "SND"), check_chunks, header_duration="exact"),
    Container("voc", (), ("VOC",), check_voc),
    # Without time stamps but its samples, a jump can only be a loss.
    Container("flac", (), ("FLAC",), header_duration="unreliable", jump_is_loss=lambda file, num_corrupt: True),
    Container("mp3", (), ("MP3", "MP2"), check_mp3, mpeg_frame_bytes),
    Container("aac", (), ("AAC",)),
    Container("loas", (), ("LATM",)),
    Container("ac3", (), ("AC-3",), None, ac3_frame_bytes),
    Container("eac3", (), ("E-AC-3",), None, ac3_frame_bytes),
    Container("dts", (), ("DTS",)),
    Container("dtshd", (), ("DTS-HD",)),
    Container("truehd", (), ("TrueHD",)),
    Container("mlp", (), ("MLP",)),
    Container("amr", (), ("AMR",)),
    Container("wv", (), ("WavPack",), check_wavpack, header_duration="exact", may_end_in_error=True),
    Container("tta", (), ("TTA",), header_duration="exact"),
    Container("ape", (), ("APE",), header_duration="exact"),
    Container("tak", (), ("TAK",), header_duration="exact"),
    Container("mpc", (), ("Musepack",), header_duration="exact"),  # version 7
    Container("mpc8", (), ("Musepack",), header_duration="exact"),
)
CONTAINERS = {row.name: row for row in _ROWS}


@contextmanager
def open_container(source: MediaSource) -> Iterator[av.container.InputContainer]:
    """Opens a medium with PyAV, whose errors, then or while the container is in use, become [`MediaError`].

    FFmpeg opens nothing but the one regular file or the bytes it is handed.
    """
    # "file:" and the white lists keep playlists, and names such as "concat:a|b", from opening more.
    target = io.BytesIO(source.data) if source.path is None else "file:" + source.path
    protocols = "none" if source.path is None else "file"
    options = {"protocol_whitelist": protocols, "format_whitelist": ",".join(CONTAINERS), **decoder_options(source)}
    timeout = (source.reading.timeout_sec, source.reading.timeout_sec)
    try:
        with av.open(target, timeout=timeout, options=options, metadata_errors="replace") as container:
            yield container
    except (av.error.ExitError, TimeoutError) as error:
        raise MediaError(
            f"{source.name}: opening or reading it took longer than {source.reading.timeout_sec:g} s; copy it to a "
            "faster place, or raise `timeout_sec`."
        ) from error
    except av.error.FFmpegError as error:
        raise MediaError(
            f"{source.name} cannot be decoded: {error.strerror}. It is damaged, cut short or of an "
            "unsupported format; check that it plays, or convert it."
        ) from error
    except (MemoryError, OverflowError, UnicodeError) as error:
        raise MediaError(f"{source.name} cannot be decoded ({error}); it is damaged, get it again.") from error


def decoder_options(source: MediaSource) -> dict[str, str]:
    """Returns options with which FFmpeg refuses larger frames before it takes memory for them."""
    return {"max_pixels": str(int(min(source.reading.media_limits.max_pixels, 2**31 - 1)))}


def container_row(container: av.container.InputContainer) -> Container:
    """Returns what is known of an open container."""
    return CONTAINERS[container.format.name.partition(",")[0]]


# -- Which of a container's streams is read: the one that players take, not the first


# These are pictures beside a video, or parts of one picture (the tiles of a photo).
_NO_VIDEO = Disposition.attached_pic | Disposition.timed_thumbnails | Disposition.dependent
# These are made for some: deaf or blind people, singers.
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


@overload
def choose_stream(
    source: MediaSource, container: av.container.InputContainer, modality: Literal["video"]
) -> av.VideoStream | None: ...


@overload
def choose_stream(
    source: MediaSource, container: av.container.InputContainer, modality: Literal["audio"]
) -> av.AudioStream | None: ...


def choose_stream(source: MediaSource, container: av.container.InputContainer, modality: Literal["video", "audio"]):
    """Chooses the stream of a modality that players take; None if there is none.

    One that can be decoded comes first, then one of more than a picture, then one that is not marked as commentary or
    as made for some, then one that is marked as default, then the first. That an undecodable one was left out is noted
    on the `source`.
    """
    streams = [stream for stream in getattr(container.streams, modality) if not stream.disposition & _NO_VIDEO]
    if not streams:
        return None
    wanted = min(streams, key=_rank)  # of equals, the first
    chosen = min(streams, key=lambda stream: (not _is_decodable(stream), *_rank(stream)))
    if chosen is not wanted:
        left_out = f"so stream {chosen.index} was taken, not {wanted.index}"
        source.note(f"has a {modality} stream without a decoder, {left_out}")
    return chosen


def _is_decodable(stream: av.stream.Stream) -> bool:
    """Whether there is a decoder, and FFmpeg found out on opening what that needs to know (the size, the rate)."""
    context: Any = stream.codec_context
    return context is not None and bool(context.width if stream.type == "video" else context.sample_rate)


def _rank(stream: av.stream.Stream) -> tuple[bool, ...]:
    """Makes a key by which the stream that players take comes first."""
    marks = stream.disposition
    is_still = bool(marks & Disposition.still_image) or (stream.type == "video" and stream.frames == 1)
    return is_still, bool(marks & _FOR_SOME), not marks & Disposition.default


def photo_brand(container: av.container.InputContainer) -> str | None:
    """Returns the brand of a file that says of itself that it is a photo; None of others."""
    major, others = (container.metadata.get(key, "") for key in ("major_brand", "compatible_brands"))
    brands = {others[place : place + 4] for place in range(0, len(others), 4)}
    return major if major in _PHOTO_BRANDS and not brands & _SEQUENCE_BRANDS else None


# -- One clock for the video and the audio of recordings that were joined, whose stamps start anew in the middle


BACK_SEC, FORWARD_SEC = 0.1, 10.0  # stamps that leave these bounds start anew, as FFmpeg's programs have it
NEARBY_SEC = 3.0  # two streams that were written at one moment are so near to each other
PADDING_SEC = 0.3  # the audio may be so much longer than the video, for the encoder's padding


@dataclass
class _Piece:
    """A piece lies between two jumps of the stamps; its streams start and end at these seconds of its own clock."""

    starts: dict[int, float] = field(default_factory=dict)
    ends: dict[int, float] = field(default_factory=dict)
    newest: float = -math.inf  # the stamp that was read last


class Clock:
    """The clock sorts packets into pieces between jumps of their stamps, and finds shifts that put these in a row.

    Streams reach a piece at different moments, since their packets are interleaved, and one stream alone may pause. So
    a packet stays in the piece of the one before it if it goes on there, or if the others have gone on there as far;
    else it belongs to the newest piece, if it is near to what was read last there; else a new piece begins with it.

    Args:
        time_bases: of each stream, by its index. The first stream leads: it goes on without a hole.
    """

    def __init__(self, time_bases: Mapping[int, Fraction]):
        self.unit_sec = {stream: float(base) for stream, base in time_bases.items()}
        self.counts = dict.fromkeys(self.unit_sec, 0)
        self.pieces = [_Piece()]
        self.piece_of: dict[int, int] = {}  # of each stream, the piece of its last packet
        self.last: dict[int, float] = {}  # of each stream, the stamp of its last packet in seconds
        self.changes: list[tuple[int, int, int]] = []  # stream, number of a packet, piece that begins with it

    def add(self, packet: av.Packet) -> None:
        """Sorts the next packet into a piece."""
        stream, dts, pts = packet.stream_index, packet.dts, packet.pts
        number, unit_sec = self.counts[stream], self.unit_sec[stream]
        self.counts[stream] += 1
        if dts is None and pts is None:
            return
        first_sec = (dts if dts is not None else pts or 0) * unit_sec
        shown_sec = (pts if pts is not None else dts or 0) * unit_sec
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
        """Returns what is added to the stamps of a stream, in its time base: {number of a packet: from there on}."""
        seconds = self._shifts_sec() if self.changes else []
        return {
            number: round(seconds[piece] / self.unit_sec[stream])
            for changed, number, piece in self.changes
            if changed == stream
        }

    def _shifts_sec(self) -> list[float]:
        """Finds for each piece the shift with which its leading stream goes on, and none begins too early."""
        leader, shifts = next(iter(self.unit_sec)), []
        ends: dict[int, float] = {}
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


def _mend_stamps(packets: Iterator[av.Packet]) -> Iterator[av.Packet]:
    """Corrects times of showing that FFmpeg filled in for the last picture before a jump, from stamps behind the jump.

    Such a picture is shown as long after its time of decoding as the picture before it.
    """
    delays: dict[int, int] = {}
    bounds: dict[int, tuple[float, float]] = {}
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


# -- The packets of a stream


# A file may end this much before the duration in its header without being called cut short.
END_TOLERANCE_SEC = 0.5


class PacketReader:
    """The reader yields the packets of a stream that have content. Where reading breaks off, it reports damage.

    `num_packets` of them have come so far, `num_corrupt` of these at a loss that FFmpeg noticed, and they end at
    `end_sec` on the container's clock.
    """

    def __init__(self, source: MediaSource, container: av.container.InputContainer, stream: av.stream.Stream):
        self.source, self.container, self.stream = source, container, stream
        self.num_packets, self.num_corrupt = 0, 0
        self.ends: dict[int, int] = {}  # of each stream that is read, in units of its time base

    @property
    def end_sec(self) -> float:
        """The second at which the last packet read so far ends, of all streams that are read."""
        bases = {stream.index: time_base(stream) for stream in self.container.streams if stream.index in self.ends}
        return max((to_seconds(end, bases[index]) for index, end in self.ends.items()), default=0.0)

    def __iter__(self) -> Iterator[av.Packet]:
        row = container_row(self.container)
        streams = [] if row.has_longest_duration else [self.stream]  # none: all
        ends, clock = self.ends, clock_of(self.source, row)
        counts: dict[int, int] = {}
        shifts: dict[int, dict[int, int]] = {}
        shift_of: dict[int, int] = {}
        for packet in _read_packets(self.source, self.container, streams, self._break_off):
            index = packet.stream_index
            if index not in ends:
                ends[index] = counts[index] = shift_of[index] = 0
                shifts[index] = clock.shifts(index)
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
                self.num_packets += 1
                self.num_corrupt += packet.is_corrupt
                yield packet

    def _break_off(self, error: av.error.FFmpegError) -> None:
        self.source.report(f"breaks off at {self.end_sec:.2f} s ({error.strerror})")


def _read_packets(
    source: MediaSource,
    container: av.container.InputContainer,
    streams: list[av.stream.Stream],
    break_off: Callable[[av.error.FFmpegError], None],
) -> Iterator[av.Packet]:
    """Reads the packets that have content. `break_off` gets the error at which reading ends, if that is allowed."""
    row, packets = container_row(container), container.demux(*streams)
    packets = _mend_stamps(packets) if row.has_loose_stamps else packets
    while True:
        source.reading.check_cancelled()
        try:
            packet = next(packets, None)
        except IndexError:  # at the end PyAV 18 stumbles over a stream that began in the middle of the file
            return
        except av.error.FFmpegError as error:
            if row.may_end_in_error and row.damage(source) == WHOLE:
                return
            if source.reading.on_damage == "raise" or isinstance(error, (av.error.ExitError, TimeoutError)):
                raise
            return break_off(error)
        if packet is None:
            return
        if packet.size:  # else the end of a stream, or a frame that was dropped when recording
            yield packet


def clock_of(source: MediaSource, row: Container) -> Clock:
    """Returns the clock that the video and the audio of a container go by.

    To find its jumps, all packets of both are read, once.
    """
    if source.clock is None and row.may_start_anew:
        with open_container(source) as container:
            video, audio = choose_stream(source, container, "video"), choose_stream(source, container, "audio")
            streams: list[av.stream.Stream] = [stream for stream in (video, audio) if stream is not None]
            clock = Clock({stream.index: time_base(stream) for stream in streams})
            for packet in _read_packets(source, container, streams, lambda error: None) if streams else ():
                clock.add(packet)
        source.clock = clock
    return source.clock or Clock({})


def check_complete(
    source: MediaSource, container: av.container.InputContainer, stream: av.stream.Stream, packets: PacketReader
) -> bool:
    """Compares what came of a stream with what the headers promise, and looks at the structure of the file.

    Returns False if packets may be missing in the middle.
    """
    row, num_missing = container_row(container), 0
    if row.has_packet_index:
        num_promised = sum(entry.size > 0 for entry in stream.index_entries)
        num_missing = max(0, num_promised - packets.num_packets)
    if num_missing:
        damage = Damage(f"is cut short: {num_missing} of {num_promised} {stream.type} packets are missing")
    else:
        damage = row.damage(source)
    if row.header_duration and container.duration:
        damage = _compare_duration(row, container.duration / av.time_base - packets.end_sec, damage)
    if damage.what is not None:
        (source.report if damage.is_certain else source.note)(damage.what)
    return damage.what is None or "damaged" not in damage.what


def _compare_duration(row: Container, lost_sec: float, damage: Damage) -> Damage:
    """Returns the damage, to which so many seconds that the header promises are added if they say more."""
    if lost_sec <= END_TOLERANCE_SEC:
        return damage
    if damage.what is None and row.header_duration == "unreliable":
        return Damage(f"may be cut short: its header promises {lost_sec:.2f} s more", is_certain=False)
    if damage.what is None or (damage.is_certain and "cut short" in damage.what):
        return Damage(f"is cut short: {lost_sec:.2f} s are missing")
    return damage


def time_base(stream: av.stream.Stream) -> Fraction:
    """Returns the unit of a stream's time stamps in seconds."""
    if stream.time_base is None:
        raise MediaError(f"The {stream.type} stream has no unit of time; its header is damaged, get the file again.")
    return stream.time_base


def to_seconds(stamp: int, time_base: Fraction) -> float:
    """Returns the float that is nearest to the exact product, and much faster than by one of fractions."""
    return stamp * time_base.numerator / time_base.denominator
