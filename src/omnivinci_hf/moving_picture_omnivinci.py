"""Pictures that move: files of GIF, PNG, WebP or AVIF with several frames.

One rule holds wherever a medium comes in. Given as a video, such a file has all of its frames, each shown as long as
the file says, once. Given as an image, it is its first frame, with a warning. Where nobody says which, it is a video. A
picture that does not move is no video.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from itertools import accumulate
from typing import BinaryIO

from PIL import Image

from .media_formats_omnivinci import MOVING_FORMATS, STILL_FORMATS
from .media_limits_omnivinci import MediaError
from .media_omnivinci import PILLOW_ERRORS, MediaSource, check_pixels, pillow_errors


# Programs write 0 where they mean "soon"; players take the second for the first, as FFmpeg does of GIF.
SHORTEST_SEC, USUAL_SEC = 0.01, 0.1


def is_moving(image: Image.Image) -> bool:
    """Whether a file that Pillow has opened is a video, if nobody says that it is an image."""
    return image.format in MOVING_FORMATS and bool(getattr(image, "is_animated", False))


class MovingPicture:
    """Frames of a PNG or WebP file, decoded one at a time as they are asked for; FFmpeg reads the other formats."""

    def __init__(self, source: MediaSource, image: Image.Image):
        self.source, self.image = source, image
        self.first = int(getattr(image, "default_image", False))  # one for programs that know no moving PNG
        promised = image.n_frames - self.first
        with source.open() as file:
            durations = [*(_png_durations if image.format == "PNG" else _webp_durations)(file)][:promised]
        if len(durations) < promised:
            source.report(f"is cut short: {promised - len(durations)} of {promised} frames are missing")
        durations = [sec if sec > SHORTEST_SEC else USUAL_SEC for sec in durations]
        *self.times, self.duration_sec = accumulate(durations, initial=0.0)

    def __len__(self) -> int:
        return len(self.times)

    def __getitem__(self, number: int) -> Image.Image:
        self.source.reading.check_cancelled()
        with pillow_errors(f"{self.source.name}, frame {number}"):
            self.image.seek(self.first + number)
            self.image.load()
        return self.image


@contextmanager
def moving_picture(source: MediaSource) -> Iterator[MovingPicture | None]:
    """The frames of a file, or None if FFmpeg is to read it. A still picture is a [`MediaError`]."""
    try:
        image = Image.open(source.path_or_file, formats=(*MOVING_FORMATS, *STILL_FORMATS))
    except (*PILLOW_ERRORS, Image.DecompressionBombError):  # no picture, or FFmpeg tells what is wrong with it
        image = None
    if image is None:
        yield None
        return
    with image:
        if not is_moving(image):
            raise MediaError(f"{source.name} is a still picture ({image.format}), not a video; give it as an image.")
        check_pixels(source.name, *image.size, source.reading)
        yield MovingPicture(source, image) if image.format in ("PNG", "WEBP") else None


def _png_durations(file: BinaryIO) -> Iterator[float]:
    """Before each frame a chunk says its duration as a fraction, whose denominator of 0 stands for 100."""
    duration_sec = None  # of the frame that is being read; it is whole where the next one begins
    file.seek(8)
    while len(head := file.read(8)) == 8:
        end = file.tell() + int.from_bytes(head[:4], "big") + 4  # with the checksum
        if head[4:] in (b"fcTL", b"IEND") and duration_sec is not None:
            yield duration_sec
        if head[4:] == b"fcTL":
            fraction = file.read(24)[20:]
            duration_sec = int.from_bytes(fraction[:2], "big") / (int.from_bytes(fraction[2:], "big") or 100)
        file.seek(end)


def _webp_durations(file: BinaryIO) -> Iterator[float]:
    """Each frame is a chunk that begins with its place, its size and its milliseconds, in three bytes each."""
    file.seek(12)
    while len(head := file.read(8)) == 8:
        end = file.tell() + int.from_bytes(head[4:], "little")
        if head[:4] == b"ANMF":
            yield int.from_bytes(file.read(15)[12:], "little") / 1000
        file.seek(end + end % 2)
