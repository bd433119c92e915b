"""This module finds out what is missing of a file by its structure, where FFmpeg reads on and says nothing.

A check takes the file and its size. Which container has which check is declared in `media_containers`.
"""

import os
import re
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import BinaryIO, Literal, NamedTuple


MAX_PARTS = 2_000_000  # of a file that are looked at: more than in six hours
NO_END = "has no mark of its end, so it may be cut short"


class Damage(NamedTuple):
    """A damage is what is wrong with a file (None: nothing), and whether that is certain."""

    what: str | None
    is_certain: bool = True


WHOLE = Damage(None)


def _cut(num_missing: int) -> Damage:
    return Damage(f"is cut short: {num_missing} bytes are missing at its end") if num_missing > 0 else WHOLE


def _broken(place: int) -> Damage:
    return Damage(f"is damaged at byte {place}: what is there is no part of such a file")


def _holds(file: BinaryIO, place: int, mark: bytes) -> bool:
    """Whether a mark stands somewhere behind a place."""
    file.seek(place)
    part = b""
    while more := file.read(1 << 20):
        part = part[-len(mark) :] + more
        if mark in part:
            return True
    return False


# -- Files of chunks that say how long they are: WAV, AIFF, CAF, AU and AVI


MAX_CHUNKS = 10_000  # that are looked at before the audio or the pictures
PLACEHOLDER_BYTES = 500_000_000  # a longer length, of which less than half is there, may be a placeholder
SLACK_BYTES = 64  # that recorders may count too much


@dataclass(frozen=True)
class _ChunkLayout:
    """A chunk begins with its identifier and length; the first one is at `first`, the one with audio is `content`."""

    first: int
    content: bytes
    byte_order: Literal["little", "big"] = "little"
    id_bytes: int = 4
    length_bytes: int = 4
    padding: int = 2
    counts_head: bool = False  # in the length


# By the first bytes of a file.
_LAYOUTS = {
    b"RIFF": _ChunkLayout(12, b"data"),
    b"RF64": _ChunkLayout(12, b"data"),
    b"riff": _ChunkLayout(40, b"data", id_bytes=16, length_bytes=8, padding=8, counts_head=True),
    b"FORM": _ChunkLayout(12, b"SSND", "big"),
    b"caff": _ChunkLayout(8, b"data", "big", length_bytes=8, padding=1),
}
_AVI_PARTS = (b"LIST", b"idx1", b"JUNK")  # others behind the pictures are no part of the file


def check_chunks(file: BinaryIO, size: int) -> Damage:
    """Checks a file of chunks: whether the one with the audio, and those with the pictures, are whole."""
    file.seek(0)
    head = file.read(40)
    if head[:4] == b".snd":  # AU: the header's length, then the content's
        start, length = (int.from_bytes(head[place : place + 4], "big") for place in (4, 8))
        return _check_audio_chunk(start, length, 4, size)
    if head[:4] not in _LAYOUTS:
        return WHOLE
    layout, is_avi = _LAYOUTS[head[:4]], head[8:12] == b"AVI "
    for identifier, start, length in _chunks(file, layout):
        if is_avi:
            if identifier in _AVI_PARTS and start + length > size and length < PLACEHOLDER_BYTES:
                return _cut(start + length - size)
        elif identifier[:4] == layout.content:
            if head[:4] == b"RF64" and length == 0xFFFFFFFF:
                length = int.from_bytes(head[28:36], "little")  # in a chunk of its own (EBU Tech 3306)
            return _check_audio_chunk(start, length, layout.length_bytes, size)
    return WHOLE


def _chunks(file: BinaryIO, layout: _ChunkLayout) -> Iterator[tuple[bytes, int, int]]:
    """Yields of each chunk its identifier, the start of its content and the content's length."""
    place, head_bytes = layout.first, layout.id_bytes + layout.length_bytes
    for _ in range(MAX_CHUNKS):
        file.seek(place)
        head = file.read(head_bytes)
        if len(head) < head_bytes:
            return
        identifier, length = head[: layout.id_bytes], int.from_bytes(head[layout.id_bytes :], layout.byte_order)
        if identifier == b"RIFF":  # large AVI files are several one after the other
            place += 12
            continue
        length = max(0, length - head_bytes) if layout.counts_head else length
        yield identifier, place + head_bytes, length
        place += head_bytes + length
        place += -place % layout.padding


def _check_audio_chunk(start: int, length: int, length_bytes: int, size: int) -> Damage:
    num_missing, unknown = start + length - size, 256**length_bytes - 1
    if length in (0, unknown):  # written by a program that could not go back
        return Damage(NO_END, is_certain=False)
    if 0 < num_missing and (num_missing <= SLACK_BYTES or (length >= PLACEHOLDER_BYTES and num_missing > length / 2)):
        return Damage(f"may be cut short: its header promises {num_missing} bytes more", is_certain=False)
    return _cut(num_missing)


# -- Bare streams of audio frames (MP3, AC-3), whose headers say how long they are


ID3V1_BYTES = 128
APE_HEAD_BYTES = 32

# Kilobits per second by version (MPEG-1 or later) and layer, from code 1 on.
_MPEG_RATES = {
    (True, 1): range(32, 449, 32),
    (True, 2): (32, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320, 384),
    (True, 3): (32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320),
    (False, 1): (32, 48, 56, 64, 80, 96, 112, 128, 144, 160, 176, 192, 224, 256),
    (False, 2): (8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
    (False, 3): (8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
}
_AC3_RATES = (32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320, 384, 448, 512, 576, 640)
_ENHANCED = 11  # the first version of E-AC-3


def whole_frames(frame_bytes: Callable[[bytes], int | None], data: bytes) -> tuple[int, int, int]:
    """Finds where the whole frames of a packet begin and end, and how many bytes the frame behind them lacks.

    Args:
        frame_bytes: a function from the first 8 bytes of a frame to its length in bytes: 0 if they are no header, None
            if the header does not tell.
    """
    first = place = _tags_length(data)
    while place < len(data):
        length = frame_bytes(data[place : place + 8].ljust(8, b"\0"))
        if length is None:
            return first, len(data), 0
        if length == 0:
            break
        if place + length > len(data):
            return first, place, place + length - len(data)
        place += length
    return first, place, 0


def id3_length(data: bytes) -> int:
    """Returns the length of the ID3 tag that `data` begins with; 0 without one. It is written with 7 bits in a byte."""
    if data[:3] != b"ID3":
        return 0
    return 10 + sum(byte << shift for byte, shift in zip(data[6:10], (21, 14, 7, 0), strict=False))


def _tags_length(data: bytes) -> int:
    """Measures all tags that `data` begins with: where files were joined, FFmpeg leaves them before the next frame."""
    place = 0
    while place < len(data):
        head = data[place : place + 16]
        if head[:3] == b"TAG":
            length = ID3V1_BYTES
        elif head[:8] == b"APETAGEX":
            length = APE_HEAD_BYTES + int.from_bytes(head[12:], "little")
        else:
            length = id3_length(head)
        if length == 0:
            break
        place += length
    return min(place, len(data))


def mpeg_frame_bytes(head: bytes) -> int | None:
    """Computes the length of a frame of MP3 or MP2, None in free format (ISO 11172-3, 2.4.1.3, and ISO 13818-3)."""
    version, layer, code, rate = head[1] >> 3 & 3, 4 - (head[1] >> 1 & 3), head[2] >> 4, head[2] >> 2 & 3
    if head[0] != 0xFF or head[1] < 0xE0 or version == 1 or layer == 4 or code == 15 or rate == 3:
        return 0
    if code == 0:
        return None
    is_first = version == 3
    hertz = (44100, 48000, 32000)[rate] >> (0 if is_first else 1 if version == 2 else 2)
    bits, padding = 1000 * _MPEG_RATES[is_first, layer][code - 1], head[2] >> 1 & 1
    if layer == 1:
        return (12 * bits // hertz + padding) * 4
    return (144 if is_first or layer == 2 else 72) * bits // hertz + padding


def ac3_frame_bytes(head: bytes) -> int:
    """Computes the length of a frame of AC-3 or E-AC-3 (ETSI TS 102 366, 4.4.1 and E.1.3.1)."""
    if head[:2] != b"\x0b\x77":
        return 0
    if head[5] >> 3 >= _ENHANCED:
        return 2 * ((head[2] & 7) << 8 | head[3]) + 2
    rate, code = head[4] >> 6, head[4] & 63
    if rate == 3 or code // 2 >= len(_AC3_RATES):
        return 0
    kilobits = _AC3_RATES[code // 2]
    return 2 * (2 * kilobits, kilobits * 320 // 147 + (code & 1), 3 * kilobits)[rate]


# -- Containers that consist of parts which follow on each other


PACK_BYTES = 1 << 16  # at most
OGG_PAGE = b"OggS\0"  # each begins so
OGG_PAGE_BYTES = 65307  # at most

_MP3_COUNTS = re.compile(rb"(?:Xing|Info)\0\0\0(.)....(....)", re.DOTALL)  # which there are, of frames, of bytes
_MIRRORED = bytes(int(f"{byte:08b}"[::-1], 2) for byte in range(256))  # each byte with its bits the other way round
_HEADER, _SEGMENT, _CLUSTER = map(bytes.fromhex, ("1a45dfa3", "18538067", "1f43b675"))
# What a Matroska file may consist of, outside of the elements that are skipped as a whole (RFC 9559).
_ELEMENTS = {
    *(_HEADER, _SEGMENT, _CLUSTER, *map(bytes.fromhex, ("ec", "bf"))),
    *map(bytes.fromhex, ("114d9b74", "1549a966", "1654ae6b", "1c53bb6b", "1941a469", "1043a770", "1254c367")),
    *map(bytes.fromhex, ("e7", "5854", "a7", "ab", "a3", "a0", "af")),
}
_PACK = b"\0\0\1\xba"
_MXF_KEY = bytes.fromhex("060e2b34")
_ASF_PROPERTIES = bytes.fromhex("a1dcab8c47a9cf118ee400c00c205365")
_ASF_DATA = bytes.fromhex("3626b2758e66cf11a6d900aa0062ce6c")
# What may follow on a fragment of an MP4 file (ISO 14496-12); of anything else there, no player knows.
_AFTER_FRAGMENTS = {
    *(b"moof", b"mdat", b"mfra", b"sidx", b"styp", b"ssix", b"emsg", b"prft", b"free", b"skip", b"wide"),
    *(b"uuid", b"udta", b"meta", b"moov"),
}


def check_transport_stream(file: BinaryIO, size: int) -> Damage:
    """Checks a transport stream: packets of one size, on discs with a time stamp before each."""
    file.seek(0)
    head = file.read(205)
    for first, length in ((0, 188), (4, 192), (0, 204)):
        if head[first : first + 1] == head[first + length : first + length + 1] == b"G":
            file.seek(size - size % length + first)
            return _cut(-size % length if file.read(1) in (b"G", b"") else 0)  # else a tail of something else
    return WHOLE


def check_program_stream(file: BinaryIO, size: int) -> Damage:
    """Checks the last pack of an MPEG program stream, in the last 64 kB: a head, and parts that have a length."""
    start = file.seek(-min(size, PACK_BYTES), os.SEEK_END)
    tail = file.read()
    place = tail.rfind(_PACK)
    while place >= 0 and tail[place : place + 3] == _PACK[:3]:
        head = tail[place + 3 : place + 14].ljust(11, b"\0")
        if head[:1] == b"\xb9":  # the end
            break
        if head[:1] == b"\xba":
            place += 14 + (head[10] & 7) if head[1] >> 6 == 1 else 12  # MPEG-2, MPEG-1
        else:
            place += 6 + int.from_bytes(head[1:3], "big")
    return _cut(start + place - size)


def check_dv(file: BinaryIO, size: int) -> Damage:
    """Checks a DV file: all frames have one size, that of 50 or that of 60 fields per second, as the first says."""
    file.seek(3)
    return _cut(-size % (144_000 if file.read(1) >= b"\x80" else 120_000))


def check_mp3(file: BinaryIO, size: int) -> Damage:
    """Checks an MP3 file by the size that encoders put into the first frame; FFmpeg trusts the count beside it."""
    start = file.seek(0)
    while length := id3_length(head := file.read(10)):
        start = file.seek(start + length)
    counts = _MP3_COUNTS.search(head + file.read(64))
    num_missing = start + int.from_bytes(counts[2], "big") - size if counts and counts[1][0] & 3 == 3 else 0
    return _cut(num_missing if num_missing > ID3V1_BYTES else 0)  # some encoders count this tag, which editors drop


def check_asf(file: BinaryIO, size: int) -> Damage:
    """Checks the part of an ASF file that holds the packets; the size of the whole in its header is often wrong."""
    file.seek(0)
    head = file.read(1 << 16)
    properties = head[head.find(_ASF_PROPERTIES) :][:92]
    is_broadcast = len(properties) < 92 or properties[88] & 1
    data_start = int.from_bytes(head[16:24], "little")
    file.seek(data_start)
    data_head = file.read(24)
    data_end = data_start + int.from_bytes(data_head[16:], "little")
    is_whole = len(data_head) == 24 and data_head[:16] == _ASF_DATA and data_end <= size
    return _cut(0 if is_broadcast or is_whole else int.from_bytes(properties[40:48], "little") - size)


def check_wavpack(file: BinaryIO, size: int) -> Damage:
    """Checks a WavPack file: blocks follow on each other, and behind them there may be a tag."""
    place = 0
    for _ in range(MAX_PARTS):
        file.seek(place)
        head = file.read(8)
        if head[:4] != b"wvpk":
            break
        place += 8 + int.from_bytes(head[4:], "little")
    return _broken(place) if _holds(file, place, b"wvpk") else _cut(place - size)


def check_matroska(file: BinaryIO, size: int) -> Damage:
    """Checks a Matroska file: elements follow on each other without a gap, also those in the clusters."""
    place, end, cluster_end = 0, size, size
    for _ in range(MAX_PARTS):
        if place >= min(end, size):
            break
        element = _read_element(file, place)
        if element is None:
            return _broken(place)
        if element.name == _HEADER and place:
            end = place
            break
        place, stop = element.start, element.stop
        if element.name == _SEGMENT:
            end = cluster_end = size if stop is None else stop
        elif element.name == _CLUSTER:
            cluster_end = end if stop is None else stop
        elif stop is None:
            return _broken(place)
        else:
            place = stop
        if place >= cluster_end:
            if place > cluster_end and cluster_end < size:
                return _broken(cluster_end)
            cluster_end = end
    return _check_matroska_end(file, size, place, end)


class _Element(NamedTuple):
    """An element of a Matroska file has a name, and its content is from `start` to `stop` (None: not known)."""

    name: bytes
    start: int
    stop: int | None


def _read_element(file: BinaryIO, place: int) -> _Element | None:
    """Reads the head of the element at `place`; None if there is none of those that a file may consist of."""
    file.seek(place)
    head = file.read(12)
    name = head[: 9 - head[0].bit_length()]
    first = head[len(name) : len(name) + 1]
    if name not in _ELEMENTS or first == b"\0":
        return None
    width = 9 - first[0].bit_length() if first else 1  # of the length, whose first bits say how many bytes it has
    unknown = (1 << 7 * width) - 1  # all bits are set if the end was not known when the head was written
    length = int.from_bytes(head[len(name) :][:width], "big") & unknown
    start = place + len(name) + width
    return _Element(name, start, None if length == unknown else start + length)


def _check_matroska_end(file: BinaryIO, size: int, place: int, end: int) -> Damage:
    """Checks what is behind the last element, at `place`, of a recording that is to end at `end`."""
    file.seek(end)
    if end < size and file.read(4) == _HEADER:
        return Damage(f"is several recordings, the second one from byte {end} on, whose times overlap")
    return _cut(max(place, end) - size)


def check_flash(file: BinaryIO, size: int) -> Damage:
    """Checks a Flash file: tags follow on each other, and each is followed by its length."""
    file.seek(5)
    place = int.from_bytes(file.read(4), "big") + 4
    for _ in range(MAX_PARTS):
        if place >= size:
            break
        file.seek(place)
        head = file.read(4)
        if head[0] & 0x1F not in (8, 9, 18):  # audio, video, data
            return _broken(place)
        place += int.from_bytes(head[1:], "big") + 15
    return _cut(place - 4 - size)  # the last 4 bytes repeat the length


def check_fragments(file: BinaryIO, size: int) -> Damage:
    """Checks an MP4 file in fragments; those that FFmpeg does not find are missed nowhere else.

    Of a file in one piece the index lists every packet. Makers of cameras and phones put trailers of their own behind
    the last fragment.
    """
    place, types = 0, [b""]
    for _ in range(MAX_PARTS):
        if place >= size:
            break
        box_type, length = _read_box(file, place, size)
        if b"moof" not in types:
            if length < 8 or box_type == bytes(4):
                return WHOLE
        elif box_type not in _AFTER_FRAGMENTS or length < 8:
            is_trailer = types[-1] == b"mdat" and any(box_type) and box_type not in _AFTER_FRAGMENTS
            is_end = b"mfra" in types or is_trailer
            return WHOLE if is_end and not _holds(file, place, b"moof") else _broken(place)
        types.append(box_type)
        place += length
    return _cut(place - size if b"moof" in types else 0)


def _read_box(file: BinaryIO, place: int, size: int) -> tuple[bytes, int]:
    """Reads the type and the length of the box at `place` of an MP4 file with `size` bytes."""
    file.seek(place)
    head = file.read(16)
    length = int.from_bytes(head[:4], "big")
    if length == 1:  # a longer length follows
        length = int.from_bytes(head[8:], "big")
    elif length == 0:  # to the end
        length = size - place
    return head[4:8], length


def check_gif(file: BinaryIO, size: int) -> Damage:
    """Checks a GIF file: its pictures and extensions, each in blocks of at most 255 bytes, and the mark of its end."""

    def skip_palette(flags: int) -> None:
        file.seek(3 << (flags & 7) + 1 if flags & 0x80 else 0, os.SEEK_CUR)

    file.seek(0)
    skip_palette(file.read(13).ljust(13)[10])
    parts = iter(range(MAX_PARTS))
    for _ in parts:
        place, mark = file.tell(), file.read(1)
        if mark == b",":
            head = file.read(9)
            if len(head) == 9:
                skip_palette(head[8])
        elif mark != b"!":
            return Damage(NO_END, is_certain=False) if not mark else WHOLE if mark == b";" else _broken(place)
        file.seek(1, os.SEEK_CUR)
        for _ in parts:
            length = file.read(1)
            if not length:
                return Damage("is cut short: it ends within a picture")
            if length == b"\0":
                break
            file.seek(length[0], os.SEEK_CUR)
    return WHOLE


def check_ivf(file: BinaryIO, size: int) -> Damage:
    """Checks an IVF file: each frame has a head of 12 bytes that begins with its length."""
    place = 32
    while place < size:
        file.seek(place)
        place += 12 + int.from_bytes(file.read(4), "little")
    return _cut(place - size)


def check_mxf(file: BinaryIO, size: int) -> Damage:
    """Checks an MXF file: before each part come a key of 16 bytes and its length, or the number of its bytes."""
    place = 0
    for _ in range(MAX_PARTS):
        file.seek(place)
        head = file.read(25)
        if head[:4] != _MXF_KEY:  # at the end, or what some recorders write behind it
            break
        first = int.from_bytes(head[16:17], "big")
        width = max(0, first - 0x80)
        place += 17 + width + (int.from_bytes(head[17 : 17 + width], "big") if width else first)
    return _cut(place - size)


def check_voc(file: BinaryIO, size: int) -> Damage:
    """Checks a VOC file: blocks that begin with their length, up to one of type 0 that not all programs write."""
    file.seek(20)
    place = int.from_bytes(file.read(2), "little")
    while place < size:
        file.seek(place)
        head = file.read(4)
        if head[0] == 0:
            return WHOLE
        place += 4 + int.from_bytes(head[1:], "little")
    return _cut(place - size)


def check_ogg_end(file: BinaryIO, size: int) -> Damage:
    """Checks the last page of an Ogg file: whether it is whole, and marked as the last one."""
    file.seek(-min(size, OGG_PAGE_BYTES), os.SEEK_END)
    tail = file.read()
    page = tail[max(0, tail.rfind(OGG_PAGE)) :]
    if len(page) < 27 or len(page) < 27 + page[26] + sum(page[27 : 27 + page[26]]):
        return Damage("is cut short: its last page is not whole")
    return WHOLE if page[5] & 4 else Damage(NO_END, is_certain=False)  # many recorders leave the mark out


def has_lost_ogg_pages(file: BinaryIO) -> bool:
    """Whether pages of an Ogg file are missing, by their numbers and checksums.

    After the headers of a stream it may be joined at any page.
    """
    following: dict[bytes, int] = {}  # number of the next page of each stream
    file.seek(0)
    while len(head := file.read(27)) == 27:
        if head[:5] != OGG_PAGE:  # a tag at the end
            rest = head + file.read(OGG_PAGE_BYTES)
            return OGG_PAGE in rest or len(rest) > OGG_PAGE_BYTES
        sizes = file.read(head[26])
        page = head[:22] + bytes(4) + head[26:] + sizes + file.read(sum(sizes))
        stream, number = head[14:18], int.from_bytes(head[18:22], "little")
        # Python has this checksum for bits in the other order
        checksum = zlib.crc32(page.translate(_MIRRORED), 0xFFFFFFFF) ^ 0xFFFFFFFF
        if checksum != int.from_bytes(head[22:26].translate(_MIRRORED), "big"):
            return True
        is_first, is_header = head[5] & 2, head[6:14] == bytes(8)
        if not is_first and following.get(stream, number) != number:
            return True
        following[stream] = number + 1
        if is_header:
            del following[stream]
    return False
