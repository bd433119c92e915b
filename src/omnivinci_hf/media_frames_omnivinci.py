"""Bare streams of sound (MP3, AC-3): how long their frames are by their own headers.

FFmpeg splits such a file where it believes a frame to begin, so that the last packet may be a part of one, or hold what
programs write behind the sound (tags, zeros).
"""

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
