"""This module says how a medium is read: from which files and addresses, within which limits, by how many threads."""

import http.client
import inspect
import ipaddress
import math
import os
import queue
import socket
import ssl
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import FIRST_EXCEPTION, CancelledError, ThreadPoolExecutor, wait
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, fields
from numbers import Integral, Real
from typing import Any
from urllib.parse import SplitResult, urljoin, urlsplit

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


# -- http(s) URLs, fetched into memory, for callers who allow it. FFmpeg itself never opens a connection


MAX_REDIRECTS = 5
CHUNK_BYTES = 1 << 16
# IPv6 ranges whose addresses carry an IPv4 address that a gateway would connect to
_TRANSLATED = tuple(ipaddress.ip_network(net) for net in ("64:ff9b::/96", "64:ff9b:1::/48", "2002::/16", "2001::/32"))


def fetch(name: str, url: str, reading: ReadOptions) -> bytes:
    """The body of `url`. Proxies of the environment are not used: they would connect to unchecked addresses."""
    download = _Download(name, url, reading)
    try:
        return collect_bytes(name, download.parts(), reading, give_up=download.close)
    except MediaError:
        raise
    except (OSError, http.client.HTTPException, ValueError) as error:
        raise MediaError(f"{name} cannot be fetched ({error}); check the address and the connection.") from error


class _Download:
    def __init__(self, name: str, url: str, reading: ReadOptions):
        self.name, self.url, self.reading, self.connection, self.socket = name, url, reading, None, None

    def close(self) -> None:
        """Also wakes a thread that waits for the connection."""
        if self.socket is not None:
            try:
                self.socket.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass  # it is closed already

    def parts(self) -> Iterator[bytes]:
        url = self.url
        for _ in range(MAX_REDIRECTS + 1):
            response = self._request(url)
            if response.status not in (301, 302, 303, 307, 308):
                break
            target = urljoin(url, response.getheader("Location") or "")
            if not self.reading.allow_redirects:
                raise MediaError(f"{self.name} redirects to {target[:200]!r}; give that, or `allow_redirects=True`.")
            self.connection.close()
            url = target
        else:
            raise MediaError(f"{self.name} redirects more than {MAX_REDIRECTS} times; give the final address.")
        try:
            yield from self._body(response)
        finally:
            self.connection.close()

    def _body(self, response) -> Iterator[bytes]:
        if response.status != 200:
            raise MediaError(f"{self.name}: the server answers {response.status} {response.reason}; check the address.")
        encoding = response.getheader("Content-Encoding", "identity")
        if encoding != "identity":
            raise MediaError(f"{self.name} comes packed as {encoding!r}, which was not asked for; download it first.")
        expected, received = response.length, 0
        if expected is not None:
            self.reading.media_limits.check(self.name, "max_memory_bytes", expected, "bytes")
        while part := response.read1(CHUNK_BYTES):
            received += len(part)
            yield part
        if expected is not None and received < expected:
            raise MediaError(f"{self.name} was cut off after {received} of {expected} bytes; try again.")

    def _request(self, url: str) -> http.client.HTTPResponse:
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise MediaError(f"{self.name} leads to {url[:200]!r}; only http and https URLs are fetched.")
        self.connection = self._connect(parts)
        target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        headers = {"User-Agent": "omnivinci-hf", "Accept-Encoding": "identity", "Connection": "close"}
        self.connection.request("GET", target, headers=headers)
        return self.connection.getresponse()

    def _connect(self, parts: SplitResult) -> http.client.HTTPConnection:
        """Connected to an address that was checked: a second look-up of the name could give another one."""
        secure = parts.scheme == "https"
        port = parts.port or (443 if secure else 80)
        timeout = self.reading.timeout_sec
        found = socket.getaddrinfo(parts.hostname, port, type=socket.SOCK_STREAM)
        addresses = [entry[4] for entry in found]
        if not self.reading.allow_private_addresses:
            for address in addresses:
                if not is_public(address[0]):
                    raise MediaError(
                        f"{self.name}: {parts.hostname} is at {address[0]}, which is not a public address; if that is "
                        "meant, give `allow_private_addresses=True`."
                    )
        kind = http.client.HTTPSConnection if secure else http.client.HTTPConnection
        connection = kind(parts.hostname, port, timeout=timeout)
        sock = socket.create_connection(addresses[0][:2], timeout=timeout)
        if secure:
            sock = ssl.create_default_context().wrap_socket(sock, server_hostname=parts.hostname)
        connection.sock = self.socket = sock  # the connection forgets it when the answer is the last one
        return connection


def is_public(address: str) -> bool:
    """Whether an IP address is on the public internet, also by way of the IPv4 address in it."""
    ip = ipaddress.ip_address(address.partition("%")[0])
    ip = getattr(ip, "ipv4_mapped", None) or ip
    return ip.is_global and not ip.is_multicast and not any(ip in net for net in _TRANSLATED)
