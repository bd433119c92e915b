"""How media are read: options, time limits, threads that stop together, progress."""

import inspect
import math
import os
import queue
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import FIRST_EXCEPTION, CancelledError, ThreadPoolExecutor, wait
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, fields
from numbers import Integral, Real
from typing import Any

from tqdm import tqdm

from .media_limits_omnivinci import MediaError, MediaLimits
from .options_omnivinci import READ_OPTIONS, check_options, refuse_unknown


MIN_BYTES_PER_SEC = 100_000  # slower sources of bytes are given up
LONG_SEC = 300.0  # from here on a terminal shows the progress
MAX_THREADS = 8


@dataclass(frozen=True)
class ReadOptions:
    """Options of reading that pictures, videos and sounds share.

    Args:
        timeout_sec: limit on opening and on every read of a packet. File objects and URLs that are slower than 100 kB/s
            after this time are given up, too.
        media_limits ([`MediaLimits`] or a dict of some of its fields): how much is taken.
        on_damage: "raise", or "warn" to keep what is whole and to log what is missing.
        progress: a bar on the standard error; None: for long media, if that is a terminal.
        allow_urls: fetch http(s) URLs.
        allow_redirects: follow their redirects.
        allow_private_addresses: fetch from addresses that are not public (this machine, the local network) as well.
        num_threads: for the parts of one medium; None: as many as there are processors.
        cancelled: set it to make all threads of a call stop.
    """

    timeout_sec: float = 20.0
    media_limits: MediaLimits | dict | None = None
    on_damage: str = "raise"
    progress: bool | None = None
    allow_urls: bool = False
    allow_redirects: bool = False
    allow_private_addresses: bool = False
    num_threads: int | None = None
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

    @classmethod
    def of(cls, loader: Callable, given: Mapping[str, Any]) -> "ReadOptions":
        """From the arguments that a loader has no parameter for."""
        parameters = inspect.signature(loader).parameters.keys() - {"source", "reading"}
        names = {field.name for field in fields(cls)}
        refuse_unknown(loader.__name__, given, names, also=parameters)
        reading = cls(**given)
        check_options(given, READ_OPTIONS)
        return reading

    def check_cancelled(self) -> None:
        if self.cancelled.is_set():
            raise CancelledError("reading was cancelled")

    def progress_bar(self, name: str, duration_sec: float, total: float, unit: str) -> "tqdm | HiddenBar":
        shown = self.progress
        if shown is None:
            shown = duration_sec >= LONG_SEC and sys.stderr is not None and sys.stderr.isatty()
        return tqdm(total=total, unit=unit, desc=name[-40:], leave=False) if shown else HiddenBar()


class HiddenBar(AbstractContextManager):
    """Shows nothing. tqdm's own hidden bars take a lock that processes share, and start a thread that takes it, too."""

    n = 0

    def update(self, num_done: float = 1) -> None:
        pass

    def __exit__(self, *error: object) -> None:
        pass


@dataclass(frozen=True)
class TimeRange:
    """Seconds of a medium that are taken, counted from its first frame or sample. Time 0 of the clip is the start."""

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
        return math.inf if self.end_sec is None else self.end_sec - self.start_sec

    def __str__(self) -> str:
        return f"start_sec={self.start_sec:g}" + ("" if self.end_sec is None else f" to end_sec={self.end_sec:g}")


def available_processors() -> int:
    count = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(count, MAX_THREADS)


def run_all(jobs: list[Callable], num_threads: int, cancelled: threading.Event) -> list:
    """Results of the jobs in order. After an error or an interrupt `cancelled` is set and all end at once."""
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
    errors = [future.exception() for future in futures if not future.cancelled() and future.exception()]
    # Those that were stopped because of another's error come last.
    for error in sorted(errors, key=lambda error: isinstance(error, CancelledError)):
        raise error
    return [future.result() for future in futures]


def collect_bytes(name: str, parts: Iterator[bytes], reading: ReadOptions, give_up: Callable = lambda: None) -> bytes:
    """All of `parts`, read in a thread of its own, since a read that blocks cannot be interrupted.

    Args:
        give_up: called when the time is over or too much comes, to wake the thread. A file object that ignores its
            `close` leaves a sleeping daemon thread behind.
    """
    arrived, stop = queue.SimpleQueue(), threading.Event()

    def read():
        try:
            for part in parts:
                arrived.put(part)
                if stop.is_set():
                    return
            arrived.put(None)
        except BaseException as error:  # carried over to the caller
            arrived.put(error)

    threading.Thread(target=read, name="omnivinci-read", daemon=True).start()
    data, start = bytearray(), time.monotonic()
    try:
        while True:
            allowed = reading.timeout_sec + len(data) / MIN_BYTES_PER_SEC
            try:
                part = arrived.get(timeout=max(0, start + allowed - time.monotonic()))
            except queue.Empty:
                raise MediaError(
                    f"{name} gave only {len(data)} bytes in {allowed:.3g} s; save it to a file first, or raise "
                    "`timeout_sec`."
                ) from None
            if part is None:
                return bytes(data)
            if isinstance(part, BaseException):
                raise part
            data += part
            reading.media_limits.check(name, "max_memory_bytes", len(data), "bytes (at least)")
    except BaseException:
        stop.set()
        give_up()
        raise
