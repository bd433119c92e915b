"""Files of chunks that say how long they are (WAV, AVI, RF64, W64, AIFF, CAF, AU): which of them are cut short.

What ends behind the end of the file is cut. The sizes in the headers of sounds are less certain: recorders that cannot
go back leave a placeholder there, and some count a header too much.
"""

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
