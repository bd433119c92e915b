"""This module says how a medium is read: its limits and options, the error when that fails, and the threads.

It imports nothing heavy, so that a command can look up its files before anything else is loaded.
"""

import math
import os
import stat
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import FIRST_EXCEPTION, CancelledError, ThreadPoolExecutor, wait
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, fields
from numbers import Integral, Real
from typing import Any

from tqdm import tqdm


LONG_SEC = 300.0  # from here on a terminal shows the progress
MAX_THREADS = 8


class MediaError(ValueError):
    """This error says which medium cannot be used, what is wrong with it and what to do."""


def file_size(name: str, path: str) -> int:
    """Returns the size in bytes of the one regular file at `path`; `name` is what errors call it.

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
    """These bounds hold for each medium; what is above one is a [`MediaError`], raised before the memory is taken.

    Args:
        max_pixels: of an image or a video frame.
        max_duration_sec: of a video, or of the range that is taken of it.
        max_frames: that are taken of one video. A frame of 448 x 448 takes 2.4 MB as pixel values.
        max_audio_sec: of an audio clip, or of the range that is taken of it.
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
        for limit in fields(self):
            value = getattr(self, limit.name)
            if isinstance(value, bool) or not isinstance(value, Real) or not value > 0:
                raise ValueError(f"`{limit.name}` must be a positive number (math.inf: no limit), got {value!r}.")

    @classmethod
    def of(cls, limits: "MediaLimits | Mapping | None") -> "MediaLimits":
        """Makes limits of an object, or of a mapping of some of its fields; None stands for the defaults."""
        if limits is None:
            return cls()
        if isinstance(limits, cls):
            return limits
        names = [limit.name for limit in fields(cls)]
        unknown = set(limits) - set(names) if isinstance(limits, Mapping) else {limits}
        if not isinstance(limits, Mapping) or unknown:
            known = ", ".join(names)
            raise ValueError(f"`media_limits` has no {sorted(map(str, unknown))}; it has {known}.")
        return cls(**limits)

    def check(self, name: str, limit: str, value: float, what: str) -> None:
        """Refuses the medium `name` with `value` of `what` if that is above the limit named `limit`."""
        most = getattr(self, limit)
        if not value <= most:  # NaN too
            needed = math.ceil(value) if math.isfinite(value) else "..."
            raise MediaError(
                f"{name} has {value:g} {what}, above the limit {limit}={most:g}; make it smaller, or raise the limit: "
                f'media_limits={{"{limit}": {needed}}}.'
            )


def available_processors() -> int:
    """Counts the processors that this process may use, up to `MAX_THREADS`."""
    count = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(count, MAX_THREADS)


@dataclass(frozen=True)
class ReadOptions:
    """These options of reading are the same for images, videos and audio.

    Args:
        timeout_sec: limit on opening and on every read of a packet. File objects and URLs that are slower than 100 kB/s
            after this time are given up, too.
        media_limits ([`MediaLimits`], a dict of some of its fields or None): how much is taken.
        on_damage: "raise", or "warn" to keep what is whole and to log what is missing.
        progress: a bar on the standard error; None: for long media, if that is a terminal.
        allow_urls: fetch http(s) URLs.
        allow_redirects: follow their redirects.
        allow_private_addresses: fetch from addresses that are not public (this machine, the local network) as well.
        num_threads: for the parts of one medium; None: as many as there are processors.
        cancelled: set it to make all threads of a call stop.
    """

    timeout_sec: float = 20.0
    media_limits: MediaLimits = None  # type: ignore[assignment]  # None is replaced by the defaults
    on_damage: str = "raise"
    progress: bool | None = None
    allow_urls: bool = False
    allow_redirects: bool = False
    allow_private_addresses: bool = False
    num_threads: int = field(default_factory=available_processors)
    cancelled: threading.Event = field(default_factory=threading.Event, compare=False, repr=False)

    def __post_init__(self):
        if self.on_damage not in ("raise", "warn"):
            raise ValueError(f'`on_damage` must be "raise" or "warn", got {self.on_damage!r}.')
        if not (isinstance(self.timeout_sec, Real) and self.timeout_sec > 0):
            raise ValueError(f"`timeout_sec` must be positive, got {self.timeout_sec!r}.")
        if self.num_threads is not None and not (isinstance(self.num_threads, Integral) and self.num_threads > 0):
            raise ValueError(f"`num_threads` must be a positive whole number or None, got {self.num_threads!r}.")
        object.__setattr__(self, "media_limits", MediaLimits.of(self.media_limits))
        object.__setattr__(self, "num_threads", self.num_threads or available_processors())

    def check_cancelled(self) -> None:
        """Ends the thread that calls it, with an error, if another one failed."""
        if self.cancelled.is_set():
            raise CancelledError("reading was cancelled")

    def progress_bar(self, name: str, duration_sec: float, total: float, unit: str) -> "tqdm | HiddenBar":
        """Returns the bar for reading `total` of `unit` of the medium `name`, or one that shows nothing."""
        shown = self.progress
        if shown is None:
            shown = duration_sec >= LONG_SEC and sys.stderr is not None and sys.stderr.isatty()
        return tqdm(total=total, unit=unit, desc=name[-40:], leave=False) if shown else HiddenBar()


class HiddenBar(AbstractContextManager):
    """This bar shows nothing. tqdm's own hidden bars take a lock that processes share, and start a thread for it."""

    n = 0

    def update(self, num_done: float = 1) -> None:
        """Does nothing; a bar that is shown would go on by `num_done`."""

    def __exit__(self, *error: object) -> None:
        pass


@dataclass(frozen=True)
class TimeRange:
    """A time range is a part of a medium, in seconds since its first frame or sample; its start is time 0 of the clip.

    Args:
        start_sec: is at least 0.
        end_sec: is later than the start; None: the end of the medium.
    """

    start_sec: float = 0.0
    end_sec: float | None = None

    def __post_init__(self):
        end_sec = math.inf if self.end_sec is None else self.end_sec
        are_numbers = all(isinstance(sec, Real) and not isinstance(sec, bool) for sec in (self.start_sec, end_sec))
        if not (are_numbers and 0 <= self.start_sec < end_sec):
            raise ValueError(
                f"The range must fit 0 <= start_sec < end_sec, got start_sec={self.start_sec!r} and "
                f"end_sec={self.end_sec!r}."
            )

    @property
    def duration_sec(self) -> float:
        """The length of the range in seconds, infinite if it ends with the medium."""
        return math.inf if self.end_sec is None else self.end_sec - self.start_sec

    def __str__(self) -> str:
        return f"start_sec={self.start_sec:g}" + ("" if self.end_sec is None else f" to end_sec={self.end_sec:g}")


def run_all(jobs: Sequence[Callable[[], Any]], num_threads: int, cancelled: threading.Event) -> list[Any]:
    """Runs the jobs in threads and returns their results in order.

    After an error or an interrupt `cancelled` is set, so that all jobs end at once, and the error is raised.
    """
    if num_threads <= 1 or len(jobs) <= 1:
        return [job() for job in jobs]
    with ThreadPoolExecutor(min(num_threads, len(jobs))) as pool:
        futures = [pool.submit(job) for job in jobs]
        try:
            wait(futures, return_when=FIRST_EXCEPTION)
        finally:  # an interrupt is raised here too; leaving the pool waits for the threads
            if not all(future.done() and not future.cancelled() and not future.exception() for future in futures):
                cancelled.set()
                for future in futures:
                    future.cancel()
    errors = [error for future in futures if not future.cancelled() and (error := future.exception())]
    if errors:  # those that were stopped because of another's error are not told
        raise min(errors, key=lambda error: isinstance(error, CancelledError))
    return [future.result() for future in futures]
