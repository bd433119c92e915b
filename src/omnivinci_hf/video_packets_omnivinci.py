"""How many frames a packet shows, as far as its first bytes tell: some codecs have frames that others only refer to."""

import re
from collections.abc import Callable

import av


MPEG4_NO_PICTURE_BYTES = 10  # at most, of a packet that only says "as before": encoders of AVI files put these in

_PLAIN_H264_PROFILES = (66, 77, 88)  # whose header goes without chroma format and scaling


def frame_counter(context: av.VideoCodecContext) -> Callable[[av.Packet], int | None]:
    """A function from a packet to the number of frames that it shows; None where only decoding tells."""
    name = context.codec.canonical_name
    if name == "h264":
        number = None if _may_have_fields(context.extradata or b"") else 1
        return lambda packet: number
    return _COUNTERS.get(name, lambda packet: 1)


def _vp8(packet: av.Packet) -> int:
    return memoryview(packet)[0] >> 4 & 1  # RFC 6386, 9.1


def _vp9(packet: av.Packet) -> int:
    """The frames of a packet, whose sizes stand at its end if it has several (VP9 bitstream specification, Annex B)."""
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
    """By the flags that follow on the marker and the profile: shows an old frame; is no key frame; is shown."""
    flags = first << 1 if first >> 4 & 3 == 3 else first  # profile 3 has one bit more
    return flags >> 3 & 1 or flags >> 1 & 1


def _av1(packet: av.Packet) -> int:
    """One of the units that a packet consists of shows the frame (AV1 specification, 5.3 and 5.9)."""
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
        kind, first = head >> 3 & 15, data[place] if place < len(data) else 0
        is_photo = kind == 1 and first >> 3 & 1
        if is_photo or (kind in (3, 6) and (first >> 7 or first >> 4 & 1)):
            return 1
        place += length
    return 0


def _mpeg4(packet: av.Packet) -> int | None:
    """One, but for packets that hold two pictures or none, as encoders of AVI files write them."""
    pictures = bytes(packet).count(b"\0\0\1\xb6")
    return 1 if pictures == 1 and packet.size > MPEG4_NO_PICTURE_BYTES else None


def begins_anew(context: av.VideoCodecContext, packet: av.Packet) -> bool:
    """Whether nothing refers to what was before; recordings of broadcasts often begin elsewhere (H.264, 7.4.1.2.4)."""
    if context.codec.canonical_name != "h264":
        return True
    data, extradata, place = bytes(packet), context.extradata or b"", 0
    if extradata[:1] != b"\1":
        return any(found[1][0] & 31 == 5 for found in re.finditer(rb"\x00\x00\x01(.)", data, re.DOTALL))
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
    def __init__(self, data: bytes):
        self.left, self.bits = len(data) * 8, int.from_bytes(data, "big")

    def take(self, count: int) -> int:
        """Zeros behind the end."""
        self.left -= count
        value = self.bits >> self.left if self.left >= 0 else 0
        return value & (1 << count) - 1

    def number(self) -> int:
        """One that is written with as many zeros before it as it has bits (Exp-Golomb)."""
        zeros = 0
        while zeros < 32 and not self.take(1):
            zeros += 1
        return (1 << zeros | self.take(zeros)) - 1


_COUNTERS = {"vp8": _vp8, "vp9": _vp9, "av1": _av1, "mpeg4": _mpeg4}
