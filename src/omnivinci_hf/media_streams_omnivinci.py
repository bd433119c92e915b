"""Which of a container's streams is read: the one that players take, not the first."""

import av
from av.stream import Disposition


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
