"""This module finds files that were cut off or damaged by what their headers and frames say of their length."""

import os
import re
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO


MAX_CHUNKS = 10_000  # that are looked at before the sound or the pictures
PLACEHOLDER_BYTES = 500_000_000  # more than so much, of which less than half is there, may be a placeholder
NO_END = "has no mark of its end, so it may be cut short"
SLACK_BYTES = 64  # that recorders may count too much


@dataclass(frozen=True)
class _Layout:
    """How a chunk begins: an identifier, then its length; where the first one is, and what its content is called."""

    first: int
    content: bytes
    byte_order: str = "little"
    id_bytes: int = 4
    length_bytes: int = 4
    padding: int = 2
    counts_head: bool = False  # in the length


# By the first bytes of a file.
_LAYOUTS = {
    b"RIFF": _Layout(12, b"data"),
    b"RF64": _Layout(12, b"data"),
    b"riff": _Layout(40, b"data", id_bytes=16, length_bytes=8, padding=8, counts_head=True),
    b"FORM": _Layout(12, b"SSND", "big"),
    b"caff": _Layout(8, b"data", "big", length_bytes=8, padding=1),
}
_AVI_PARTS = (b"LIST", b"idx1", b"JUNK")  # others behind the pictures are no part of the file


def check_chunks(file: BinaryIO, size: int) -> tuple[str | None, bool]:
    """What is wrong with the file, and whether that is certain."""
    file.seek(0)
    head = file.read(40)
    if head[:4] == b".snd":  # AU: the header's length, then the content's
        start, length = (int.from_bytes(head[place : place + 4], "big") for place in (4, 8))
        return _missing_sound(start, length, 4, size)
    if head[:4] not in _LAYOUTS:
        return None, True
    layout, is_film = _LAYOUTS[head[:4]], head[8:12] == b"AVI "
    for kind, start, length in _chunks(file, size, layout):
        if is_film:
            if kind in _AVI_PARTS and start + length > size and length < PLACEHOLDER_BYTES:
                return f"is cut short: {start + length - size} bytes are missing at its end", True
        elif kind[:4] == layout.content:
            if head[:4] == b"RF64" and length == 0xFFFFFFFF:
                length = int.from_bytes(head[28:36], "little")  # in a chunk of its own (EBU Tech 3306)
            return _missing_sound(start, length, layout.length_bytes, size)
    return None, True


def _chunks(file: BinaryIO, size: int, layout: _Layout) -> Iterator[tuple[bytes, int, int]]:
    """Identifier, start of the content and its length."""
    place, head_bytes = layout.first, layout.id_bytes + layout.length_bytes
    for _ in range(MAX_CHUNKS):
        file.seek(place)
        head = file.read(head_bytes)
        if len(head) < head_bytes:
            return
        kind, length = head[: layout.id_bytes], int.from_bytes(head[layout.id_bytes :], layout.byte_order)
        if kind == b"RIFF":  # large AVI files are several one after the other
            place += 12
            continue
        length = max(0, length - head_bytes) if layout.counts_head else length
        yield kind, place + head_bytes, length
        place += head_bytes + length
        place += -place % layout.padding


def _missing_sound(start: int, length: int, length_bytes: int, size: int) -> tuple[str | None, bool]:
    missing, unknown = start + length - size, 256**length_bytes - 1
    if length in (0, unknown):  # written by a program that could not go back
        return NO_END, False
    if missing <= 0:
        return None, True
    if missing <= SLACK_BYTES or (length >= PLACEHOLDER_BYTES and missing > length / 2):
        return f"may be cut short: its header promises {missing} bytes more", False
    return f"is cut short: {missing} bytes are missing at its end", True


# -- Bare streams of sound (MP3, AC-3): how long their frames are by their own headers

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


def whole_frames(format_name: str, data: bytes) -> tuple[int, int, int]:
    """Where the whole frames of a packet begin and end, and how many bytes the frame behind them lacks."""
    measure = BARE_FORMATS[format_name]
    first = place = _tags_length(data)
    while place < len(data):
        length = measure(data[place : place + 8].ljust(8, b"\0"))
        if length is None:
            return first, len(data), 0
        if length == 0:
            break
        if place + length > len(data):
            return first, place, place + length - len(data)
        place += length
    return first, place, 0


def id3_length(data: bytes) -> int:
    """Length of the tag that `data` begins with; 0 without one. It is written with 7 bits in a byte."""
    if data[:3] != b"ID3":
        return 0
    return 10 + sum(byte << shift for byte, shift in zip(data[6:10], (21, 14, 7, 0), strict=False))


def _tags_length(data: bytes) -> int:
    """Where files were joined, FFmpeg leaves the tags of both before the next frame."""
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


def _mpeg(head: bytes) -> int | None:
    """ISO 11172-3, 2.4.1.3, and ISO 13818-3: 0 if it is no header, None if that does not tell (free format)."""
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


def _ac3(head: bytes) -> int:
    """ETSI TS 102 366, 4.4.1 and E.1.3.1."""
    if head[:2] != b"\x0b\x77":
        return 0
    if head[5] >> 3 >= _ENHANCED:
        return 2 * ((head[2] & 7) << 8 | head[3]) + 2
    rate, code = head[4] >> 6, head[4] & 63
    if rate == 3 or code // 2 >= len(_AC3_RATES):
        return 0
    kilobits = _AC3_RATES[code // 2]
    return 2 * (2 * kilobits, kilobits * 320 // 147 + (code & 1), 3 * kilobits)[rate]


BARE_FORMATS = {"mp3": _mpeg, "ac3": _ac3, "eac3": _ac3}


# -- What the structure of a container tells about parts that are missing, where FFmpeg reads on and says nothing


MAX_PARTS = 2_000_000  # of a file that are looked at: more than in six hours
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


def find_damage(format_name: str, file: BinaryIO) -> tuple[str | None, bool]:
    """What is wrong with a file of FFmpeg's format `format_name`, and whether that is certain."""
    check = _CHECKS.get(format_name.partition(",")[0])
    return (None, True) if check is None else check(file, file.seek(0, os.SEEK_END))


def _cut(missing: int) -> tuple[str | None, bool]:
    return (f"is cut short: {missing} bytes are missing at its end" if missing > 0 else None), True


def _broken(place: int) -> tuple[str, bool]:
    return f"is damaged at byte {place}: what is there is no part of such a file", True


def _check_transport(file: BinaryIO, size: int) -> tuple[str | None, bool]:
    """A transport stream consists of packets of one size, of discs with a time stamp before each."""
    file.seek(0)
    head = file.read(205)
    for first, length in ((0, 188), (4, 192), (0, 204)):
        if head[first : first + 1] == head[first + length : first + length + 1] == b"G":
            file.seek(size - size % length + first)
            return _cut(-size % length if file.read(1) in (b"G", b"") else 0)  # else a tail of something else
    return None, True


def _check_programme(file: BinaryIO, size: int) -> tuple[str | None, bool]:
    """Packs consist of a head and of parts that say how long they are; the last one begins in the last 64 kB."""
    start = file.seek(-min(size, PACK_BYTES), os.SEEK_END)
    tail = file.read()
    place = tail.rfind(_PACK)
    while place >= 0 and tail[place : place + 3] == _PACK[:3]:
        kind = tail[place + 3 : place + 14].ljust(11, b"\0")
        if kind[:1] == b"\xb9":  # the end
            break
        if kind[:1] == b"\xba":
            place += 14 + (kind[10] & 7) if kind[1] >> 6 == 1 else 12  # MPEG-2, MPEG-1
        else:
            place += 6 + int.from_bytes(kind[1:3], "big")
    return _cut(start + place - size)


def _check_dv(file: BinaryIO, size: int) -> tuple[str | None, bool]:
    """All frames have one size, which the first says: that of 50 or that of 60 fields per second."""
    file.seek(3)
    return _cut(-size % (144_000 if file.read(1) >= b"\x80" else 120_000))


def _check_mp3(file: BinaryIO, size: int) -> tuple[str | None, bool]:
    """Encoders put the size into the first frame. Their count of frames, which FFmpeg trusts, may be missing."""
    start = file.seek(0)
    while length := id3_length(head := file.read(10)):
        start = file.seek(start + length)
    counts = _MP3_COUNTS.search(head + file.read(64))
    missing = start + int.from_bytes(counts[2], "big") - size if counts and counts[1][0] & 3 == 3 else 0
    return _cut(missing if missing > ID3V1_BYTES else 0)  # some encoders count this tag, which editors drop


def _check_asf(file: BinaryIO, size: int) -> tuple[str | None, bool]:
    """The object with the packets is what counts, the size of the whole file is often wrong."""
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


def _check_wavpack(file: BinaryIO, size: int) -> tuple[str | None, bool]:
    """Blocks follow on each other; behind them there may be a tag."""
    place = 0
    for _ in range(MAX_PARTS):
        file.seek(place)
        head = file.read(8)
        if head[:4] != b"wvpk":
            break
        place += 8 + int.from_bytes(head[4:], "little")
    return _broken(place) if _holds(file, place, b"wvpk") else _cut(place - size)


def _check_matroska(file: BinaryIO, size: int) -> tuple[str | None, bool]:
    """Elements follow on each other without a gap, also those in the clusters."""
    place, end, cluster_end = 0, size, size
    for _ in range(MAX_PARTS):
        if place >= min(end, size):
            break
        file.seek(place)
        head = file.read(12)
        name = head[: 9 - head[0].bit_length()]
        first = head[len(name) : len(name) + 1]
        if name not in _ELEMENTS or first == b"\0":
            return _broken(place)
        width = 9 - first[0].bit_length() if first else 1  # of the length, whose first bits say how many bytes it has
        bits = (1 << 7 * width) - 1
        length = int.from_bytes(head[len(name) :][:width], "big") & bits
        is_open = length == bits  # where it ends was not known when it was written
        if name == _HEADER and place:
            end = place
            break
        place += len(name) + width
        if name == _SEGMENT:
            end = cluster_end = size if is_open else place + length
        elif name == _CLUSTER:
            cluster_end = end if is_open else place + length
        elif is_open:
            return _broken(place)
        else:
            place += length
        if place >= cluster_end:
            if place > cluster_end and cluster_end < size:
                return _broken(cluster_end)
            cluster_end = end
    file.seek(end)
    if end < size and file.read(4) == _HEADER:
        return f"is several recordings, the second one from byte {end} on, whose times overlap", True
    return _cut(max(place, end) - size)


def _check_flash(file: BinaryIO, size: int) -> tuple[str | None, bool]:
    file.seek(5)
    place = int.from_bytes(file.read(4), "big") + 4
    for _ in range(MAX_PARTS):
        if place >= size:
            break
        file.seek(place)
        head = file.read(4)
        if head[0] & 0x1F not in (8, 9, 18):  # sound, picture, data
            return _broken(place)
        place += int.from_bytes(head[1:], "big") + 15
    return _cut(place - 4 - size)  # the last 4 bytes repeat the length


def _check_fragments(file: BinaryIO, size: int) -> tuple[str | None, bool]:
    """Of an MP4 file in one piece the index lists every packet; fragments that FFmpeg does not find are not missed.

    Makers of cameras and phones put trailers of their own behind the last fragment.
    """
    place, kinds = 0, [b""]
    for _ in range(MAX_PARTS):
        if place >= size:
            break
        file.seek(place)
        head = file.read(16)
        length, kind = int.from_bytes(head[:4], "big"), head[4:8]
        length = int.from_bytes(head[8:], "big") if length == 1 else length or size - place  # 0: to the end
        if b"moof" not in kinds:
            if length < 8 or kind == bytes(4):
                return None, True
        elif kind not in _AFTER_FRAGMENTS or length < 8:
            is_end = b"mfra" in kinds or (kinds[-1] == b"mdat" and any(head[4:8]) and kind not in _AFTER_FRAGMENTS)
            return (None, True) if is_end and not _holds(file, place, b"moof") else _broken(place)
        kinds.append(kind)
        place += length
    return _cut(place - size if b"moof" in kinds else 0)


def _holds(file: BinaryIO, place: int, mark: bytes) -> bool:
    """Whether a mark stands somewhere behind a place."""
    file.seek(place)
    part = b""
    while more := file.read(1 << 20):
        part = part[-len(mark) :] + more
        if mark in part:
            return True
    return False


def _check_gif(file: BinaryIO, size: int) -> tuple[str | None, bool]:
    def skip_palette(flags: int) -> None:
        file.seek(3 << (flags & 7) + 1 if flags & 0x80 else 0, os.SEEK_CUR)

    file.seek(0)
    skip_palette(file.read(13).ljust(13)[10])
    parts = iter(range(MAX_PARTS))
    for _ in parts:
        place, kind = file.tell(), file.read(1)
        if kind == b",":
            head = file.read(9)
            if len(head) == 9:
                skip_palette(head[8])
        elif kind != b"!":
            return (NO_END, False) if not kind else (None, True) if kind == b";" else _broken(place)
        file.seek(1, os.SEEK_CUR)
        for _ in parts:
            length = file.read(1)
            if not length:
                return "is cut short: it ends within a picture", True
            if length == b"\0":
                break
            file.seek(length[0], os.SEEK_CUR)
    return None, True


def _check_ivf(file: BinaryIO, size: int) -> tuple[str | None, bool]:
    place = 32
    while place < size:
        file.seek(place)
        place += 12 + int.from_bytes(file.read(4), "little")
    return _cut(place - size)


def _check_mxf(file: BinaryIO, size: int) -> tuple[str | None, bool]:
    """A key of 16 bytes comes before each part, then its length: in one byte, or how many bytes have it."""
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


def _check_voc(file: BinaryIO, size: int) -> tuple[str | None, bool]:
    """Blocks with their length, up to one of type 0 that only programs of old times write always."""
    file.seek(20)
    place = int.from_bytes(file.read(2), "little")
    while place < size:
        file.seek(place)
        head = file.read(4)
        if head[0] == 0:
            return None, True
        place += 4 + int.from_bytes(head[1:], "little")
    return _cut(place - size)


def _check_ogg_end(file: BinaryIO, size: int) -> tuple[str | None, bool]:
    file.seek(-min(size, OGG_PAGE_BYTES), os.SEEK_END)
    tail = file.read()
    page = tail[max(0, tail.rfind(OGG_PAGE)) :]
    if len(page) < 27 or len(page) < 27 + page[26] + sum(page[27 : 27 + page[26]]):
        return "is cut short: its last page is not whole", True
    return (None, True) if page[5] & 4 else (NO_END, False)  # many recorders leave the mark out


def has_lost_ogg_pages(file: BinaryIO) -> bool:
    """By the numbers and checksums of the pages; after the headers of a stream it may be joined at any page."""
    following = {}  # number of the next page of each stream
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


_CHECKS = {
    "aiff": check_chunks,
    "asf": _check_asf,
    "au": check_chunks,
    "avi": check_chunks,
    "caf": check_chunks,
    "dv": _check_dv,
    "flv": _check_flash,
    "gif": _check_gif,
    "ivf": _check_ivf,
    "matroska": _check_matroska,
    "mov": _check_fragments,
    "mp3": _check_mp3,
    "mpeg": _check_programme,
    "mpegts": _check_transport,
    "mxf": _check_mxf,
    "ogg": _check_ogg_end,
    "voc": _check_voc,
    "w64": check_chunks,
    "wav": check_chunks,
    "wv": _check_wavpack,
}
