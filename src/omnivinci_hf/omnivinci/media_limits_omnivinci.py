"""How much of a medium is taken before it is refused, and the error that refuses; imports nothing heavy."""

import math
import os
import stat
from collections.abc import Mapping
from dataclasses import dataclass, fields
from numbers import Real


class MediaError(ValueError):
    """A medium that cannot be used; says which one, what is wrong with it and what to do."""


def file_size(name: str, path: str) -> int:
    """Bytes of the one regular file at `path`; `name` is what errors call it.

    Raises:
        MediaError: when there is no such file, or nothing in it.
    """
    try:
        status = os.stat(path)
    except (FileNotFoundError, NotADirectoryError) as error:
        raise MediaError(f"{name} does not exist; check the path.") from error
    except (OSError, ValueError) as error:  # no permission, too long, null byte
        raise MediaError(f"{name} cannot be looked up ({error}); check the path.") from error
    if stat.S_ISDIR(status.st_mode):
        raise MediaError(f"{name} is a directory; give the path of one file.")
    if not stat.S_ISREG(status.st_mode):
        raise MediaError(f"{name} is not a regular file (a pipe?); save it as a file first.")
    if status.st_size == 0:
        raise MediaError(f"{name} is an empty file; get it again.")
    return status.st_size


@dataclass(frozen=True)
class MediaLimits:
    """Bounds on one medium; what is above them is a [`MediaError`], raised before the memory is taken.

    Args:
        max_pixels: of an image or a video frame.
        max_duration_sec: of a video, or of the range that is taken of it.
        max_frames: taken of one video. A frame of 448 x 448 takes 2.4 MB as pixel values.
        max_audio_sec: of a sound, or of the range that is taken of it.
        max_file_bytes: of a file.
        max_memory_bytes: of what is held in memory: bytes, data URLs, file objects and fetched URLs.
    """

    max_pixels: float = 8192 * 8192
    max_duration_sec: float = 6 * 3600.0
    max_frames: float = 2048
    max_audio_sec: float = 6 * 3600.0
    max_file_bytes: float = 16 * 2**30
    max_memory_bytes: float = 2**30

    def __post_init__(self):
        for field in fields(self):
            value = getattr(self, field.name)
            if isinstance(value, bool) or not isinstance(value, Real) or not value > 0:
                raise ValueError(f"`{field.name}` must be a positive number (math.inf: no limit), got {value!r}.")

    @classmethod
    def of(cls, limits: "MediaLimits | Mapping | None") -> "MediaLimits":
        """From an object, or a mapping of some of its fields."""
        if limits is None or isinstance(limits, cls):
            return limits or cls()
        unknown = set(limits) - {field.name for field in fields(cls)} if isinstance(limits, Mapping) else {limits}
        if unknown:
            known = ", ".join(field.name for field in fields(cls))
            raise ValueError(f"`media_limits` has no {sorted(map(str, unknown))}; it has {known}.")
        return cls(**limits)

    def check(self, name: str, limit: str, value: float, what: str) -> None:
        """Refuse a medium `name` with `value` of `what` if that is above the limit named `limit`."""
        most = getattr(self, limit)
        if not value <= most:  # NaN too
            needed = math.ceil(value) if math.isfinite(value) else "..."
            raise MediaError(
                f"{name} has {value:g} {what}, above the limit {limit}={most:g}; make it smaller, or raise the limit: "
                f'media_limits={{"{limit}": {needed}}}.'
            )
