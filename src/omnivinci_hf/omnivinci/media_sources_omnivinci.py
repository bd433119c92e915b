"""This module turns what people have of a medium into one checked regular file or bytes in memory.

A medium comes as a path, a `file:`, `data:` or http(s) URL, bytes, a file object, a dictionary (of `datasets`, or of a
chat API) or a decoder. http(s) URLs are fetched here, for callers who allow it; FFmpeg itself never opens a connection.
"""

import base64
import http.client
import inspect
import io
import ipaddress
import os
import queue
import re
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from numbers import Real
from typing import Any, BinaryIO
from urllib.parse import SplitResult, unquote, urljoin, urlsplit
from urllib.request import url2pathname

import numpy as np
import torch
from PIL import Image
from transformers.utils import logging

from .media_reading_omnivinci import MediaError, ReadOptions, file_size
from .options_omnivinci import READ_OPTIONS, check_options, refuse_unknown


logger = logging.get_logger(__name__)

FILE_CHUNK_BYTES = 1 << 20
ENTRIES = {"bytes", "path", "url", "data", "format"}  # of a dictionary
AUDIO_ENTRIES = {"array", "sampling_rate"}  # of a dictionary that holds audio samples

_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")
_HTTP_URL = re.compile(r"https?://", re.IGNORECASE)
_DATA_URL = re.compile(r"data:[^,]*;base64,", re.IGNORECASE)
_FILE_URL = re.compile(r"file:(?://(?P<host>[^/]*))?(?P<path>/.*)", re.IGNORECASE | re.DOTALL)
_URL_SAFE = str.maketrans("-_", "+/", " \t\r\n\f\v")


@dataclass(eq=False)
class MediaSource:
    """A media source is where the bytes of a medium are: in a checked regular file, or in memory.

    Args:
        name: what errors call it.
        reading: the options of reading.
        path: of the file; None: the bytes are in memory.
        data: the bytes in memory.
        damage: collects what is missing of the medium, to be logged once.
        clock: of joined recordings, found when it is first needed; see `clock_of` in `media_containers`.
    """

    name: str
    reading: ReadOptions
    path: str | None = None
    data: bytes = b""
    damage: list[str] = field(default_factory=list)
    clock: Any = None

    @classmethod
    def of(cls, modality: str, source: Any, reading: ReadOptions | None = None) -> "MediaSource":
        """Makes a media source of a path, URL, bytes or file object; `modality` is what errors call the medium."""
        reading = reading or ReadOptions()
        if isinstance(source, str) and source[:5].lower() == "data:":
            name = f"{modality} {source[:40]!r}..."
            reading.media_limits.check(name, "max_memory_bytes", len(source) * 3 / 4, "bytes")
            data = decode_data_url(name, source)
        elif isinstance(source, str) and _HTTP_URL.match(source) and reading.allow_urls:
            name = f"{modality} {source[:1000]!r}"
            data = _fetch(name, source, reading)
        elif isinstance(source, (str, os.PathLike)):
            return cls._from_path(modality, os.fspath(source), reading)
        elif isinstance(source, (bytes, bytearray, memoryview)):
            name, data = f"{modality} given as bytes", bytes(source)
        elif hasattr(source, "read"):
            name = f"{modality} file object {getattr(source, 'name', '')!r}"
            data = _collect_bytes(name, _file_chunks(name, source), reading)
        else:
            remedy = "give a path, bytes, a binary file object or an array."
            raise MediaError(f"Cannot take a {type(source).__name__} as {modality}; {remedy}")
        if not data:
            raise MediaError(f"{name} is empty; if it is a file that was read before, seek(0) first.")
        reading.media_limits.check(name, "max_memory_bytes", len(data), "bytes")
        return cls(name, reading, data=data)

    @classmethod
    def _from_path(cls, modality: str, path: str, reading: ReadOptions) -> "MediaSource":
        name = f"{modality} {path[:1000]!r}"
        path = local_path(name, path)
        if _HTTP_URL.match(path):
            raise MediaError(
                f"{name}: URLs are not fetched; download the file first and give its path, or give `allow_urls=True`."
            )
        if _URL.match(path):
            raise MediaError(f"{name}: URLs are not fetched; download the file first and give its path.")
        size = file_size(name, path)
        reading.media_limits.check(name, "max_file_bytes", size, "bytes")
        return cls(name, reading, path=os.path.abspath(path))

    @property
    def path_or_file(self) -> str | io.BytesIO:
        """What Pillow opens: it closes only what it has opened itself."""
        return io.BytesIO(self.data) if self.path is None else self.path

    def open(self) -> BinaryIO:
        """Opens the file, or the bytes as a file, for reading."""
        return io.BytesIO(self.data) if self.path is None else open(self.path, "rb")

    def report(self, what: str) -> None:
        """Refuses a damaged medium, or notes what is wrong with it if the caller keeps what is whole."""
        if self.reading.on_damage == "raise":
            raise MediaError(f'{self.name} {what}; get a complete copy, or keep what is whole: on_damage="warn".')
        self.note(what)

    def note(self, what: str) -> None:
        """Notes something that is wrong with the medium, to be logged once with the rest."""
        if what not in self.damage:
            self.damage.append(what)

    def log_damage(self) -> None:
        """Logs all that was noted."""
        if self.damage:
            logger.warning(f"{self.name} {', '.join(self.damage)}. What is whole was kept.")
            self.damage.clear()


def read_options(loader: Callable, arguments: Mapping[str, Any]) -> ReadOptions:
    """Makes options of reading from the arguments that a loader has no parameter for, and refuses unknown ones."""
    parameters = inspect.signature(loader).parameters.keys() - {"source", "reading"}
    refuse_unknown(loader.__name__, arguments, ReadOptions.__dataclass_fields__, also=parameters)
    reading = ReadOptions(**arguments)
    check_options(arguments, READ_OPTIONS)
    return reading


def local_path(name: str, path: str) -> str:
    """Returns the path that a `file:` URL of this machine stands for; other paths as they are."""
    if (url := _FILE_URL.fullmatch(path)) is None:
        return path
    if (url["host"] or "").lower() not in ("", "localhost"):
        raise MediaError(f"{name} is a file of another machine, {url['host']!r}; copy it here and give its path.")
    return url2pathname(url["path"])


def base64_url(data: Any) -> str:
    """Makes a `data:` URL of bare base64; one that it is already stays as it is."""
    if not isinstance(data, str):
        raise MediaError(f"`data` must be a string in base64, got a {type(data).__name__}.")
    return data if data[:5].lower() == "data:" else f"data:application/octet-stream;base64,{data}"


def decode_data_url(name: str, url: str) -> bytes:
    """Decodes a `data:` URL in base64: with line breaks, in the alphabet for URLs, or without its padding, too."""
    head = _DATA_URL.match(url)
    if head is None:
        raise MediaError(f"{name}: write a data: URL as data:<type>;base64,<data>.")
    data = url[head.end() :]
    data = (unquote(data) if "%" in data else data).translate(_URL_SAFE).rstrip("=")
    try:
        return base64.b64decode(data + "=" * (-len(data) % 4), validate=True)
    except ValueError as error:
        raise MediaError(f"{name}: broken base64 ({error}); encode it again.") from error


# -- Dictionaries, decoders, arrays and lists


def plain_source(modality: str, source: Any) -> Any:
    """Returns what a dictionary or a decoder holds as a source of a medium; everything else as it is.

    Raises:
        MediaError: for a dictionary that holds no such medium, or a decoder that fails.
    """
    if isinstance(source, Mapping):
        return _from_mapping(modality, source)
    if modality == "audio" and hasattr(source, "get_all_samples"):  # torchcodec's AudioDecoder
        try:
            samples = source.get_all_samples()
        except RuntimeError as error:
            raise MediaError(f"The audio of a {type(source).__name__} cannot be decoded ({error}).") from error
        return {"array": samples.data, "sampling_rate": samples.sample_rate}
    return (_stored_file(source) or source) if is_video_decoder(source) else source


def _from_mapping(modality: str, mapping: Mapping) -> Any:
    entries = {name: value for name, value in mapping.items() if value is not None}
    forms = '"bytes" or "path"' + (', or "array" and "sampling_rate"' if modality == "audio" else "")
    refusal = f"The {modality} in a dictionary with {sorted(map(str, entries))} cannot be read; it needs {forms}."
    if entries.keys() - (ENTRIES | AUDIO_ENTRIES if modality == "audio" else ENTRIES):
        raise MediaError(refusal)
    if AUDIO_ENTRIES <= entries.keys():
        return {name: entries[name] for name in AUDIO_ENTRIES}
    if "array" in entries:
        raise MediaError(refusal)
    if "bytes" in entries:  # a path beside them only names them
        data = entries["bytes"]
        if not isinstance(data, (bytes, bytearray, memoryview)):
            raise MediaError(f'"bytes" of {modality} in a dictionary must be bytes, got a {type(data).__name__}.')
        return bytes(data)
    for name in ("path", "url"):
        if name in entries:
            return entries[name]
    if "data" in entries:  # OpenAI's `input_audio`; the "format" beside it is not needed, the file itself tells it
        return base64_url(entries["data"])
    raise MediaError(refusal)


def is_video_decoder(source: Any) -> bool:
    """Whether it behaves as torchcodec's VideoDecoder."""
    return hasattr(source, "get_frames_at") and hasattr(source, "metadata")


def _stored_file(decoder: Any) -> Any:
    """Returns the file that `datasets` keeps beside a decoder: it has the audio, too, and the stamps of all frames."""
    stored = getattr(decoder, "_hf_encoded", None) or {}
    path = stored.get("path")
    return stored.get("bytes") or (path if path is not None and os.path.isfile(path) else None)


def is_array(source: Any) -> bool:
    """Whether it is a NumPy array or a tensor."""
    return isinstance(source, (np.ndarray, torch.Tensor))


def to_numpy(array: Any) -> np.ndarray:
    """Makes a NumPy array of a tensor or a list."""
    if not isinstance(array, torch.Tensor):
        return np.asarray(array)
    array = array.detach().cpu()
    return (array.float() if array.dtype == torch.bfloat16 else array).numpy()


def flatten(modality: str, items: Any) -> list:
    """Makes a flat list of one medium, a list, or a list per text.

    A pair of samples and their rate is one audio clip, a list of numbers too, and a list of images is one video.
    """
    if items is None:
        return []
    if not isinstance(items, Sequence) or isinstance(items, (str, bytes, bytearray, memoryview, range)):
        return [items]
    if modality == "audio" and _is_one_audio(items):
        return [items if isinstance(items, tuple) else np.asarray(items)]
    if modality == "video" and len(items) > 0 and all(map(_is_image, items)):
        return [list(items)]
    return [medium for item in items for medium in flatten(modality, item)]


def _is_one_audio(items: Sequence) -> bool:
    if isinstance(items, tuple):
        return len(items) == 2 and isinstance(items[1], Real)
    return len(items) > 0 and isinstance(items[0], Real)


def _is_image(item: Any) -> bool:
    return isinstance(item, Image.Image) or getattr(item, "ndim", None) == 3


# -- Bytes that arrive slowly: of file objects and of http(s) URLs


MIN_BYTES_PER_SEC = 100_000  # slower sources of bytes are given up
MAX_REDIRECTS = 5
HTTP_CHUNK_BYTES = 1 << 16
# IPv6 ranges whose addresses carry an IPv4 address that a gateway would connect to
_TRANSLATED = tuple(ipaddress.ip_network(net) for net in ("64:ff9b::/96", "64:ff9b:1::/48", "2002::/16", "2001::/32"))


def _file_chunks(name: str, file: Any) -> Iterator[bytes]:
    """Reads a file object chunk by chunk."""
    if getattr(file, "closed", False):
        raise MediaError(f"{name} is closed; open it again.")
    while chunk := file.read(FILE_CHUNK_BYTES):
        if not isinstance(chunk, bytes):
            raise MediaError(f"{name} gives {type(chunk).__name__}, not bytes; open it in binary mode.")
        yield chunk


def _collect_bytes(
    name: str, chunks: Iterator[bytes], reading: ReadOptions, give_up: Callable[[], None] = lambda: None
) -> bytes:
    """Joins all chunks, read in a thread of its own, since a read that blocks cannot be interrupted.

    Args:
        give_up: called when the time is over or too much comes, to wake the thread. A file object that ignores its
            `close` leaves a sleeping daemon thread behind.
    """
    arrived: queue.SimpleQueue[bytes | BaseException | None] = queue.SimpleQueue()  # None: the end
    stop = threading.Event()

    def read() -> None:
        try:
            for chunk in chunks:
                arrived.put(chunk)
                if stop.is_set():
                    return
            arrived.put(None)
        except BaseException as error:  # raised again in the caller's thread
            arrived.put(error)

    threading.Thread(target=read, name="omnivinci-read", daemon=True).start()
    data, start = bytearray(), time.monotonic()
    try:
        while True:
            allowed_sec = reading.timeout_sec + len(data) / MIN_BYTES_PER_SEC
            try:
                chunk = arrived.get(timeout=max(0, start + allowed_sec - time.monotonic()))
            except queue.Empty:
                raise MediaError(
                    f"{name} gave only {len(data)} bytes in {allowed_sec:.3g} s; save it to a file first, or raise "
                    "`timeout_sec`."
                ) from None
            if chunk is None:
                return bytes(data)
            if isinstance(chunk, BaseException):
                raise chunk
            data += chunk
            reading.media_limits.check(name, "max_memory_bytes", len(data), "bytes (at least)")
    except BaseException:
        stop.set()
        give_up()
        raise


def _fetch(name: str, url: str, reading: ReadOptions) -> bytes:
    """Fetches `url`. Proxies of the environment are not used: they would connect to unchecked addresses."""
    download = _Download(name, url, reading)
    try:
        return _collect_bytes(name, download.chunks(), reading, give_up=download.close)
    except MediaError:
        raise
    except (OSError, http.client.HTTPException, ValueError) as error:
        raise MediaError(f"{name} cannot be fetched ({error}); check the address and the connection.") from error


class _Download:
    """A download is one http(s) URL that is fetched, with its redirects, from addresses that are checked."""

    def __init__(self, name: str, url: str, reading: ReadOptions):
        self.name, self.url, self.reading = name, url, reading
        self.socket: socket.socket | None = None

    def close(self) -> None:
        """Ends the connection, which wakes a thread that waits for it, too."""
        if self.socket is not None:
            try:
                self.socket.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass  # it is closed already

    def chunks(self) -> Iterator[bytes]:
        """Follows redirects and yields the body chunk by chunk."""
        url = self.url
        for _ in range(MAX_REDIRECTS + 1):
            parts = self._checked_parts(url)
            connection = self._connect(parts)
            response = self._request(connection, parts)
            if response.status not in (301, 302, 303, 307, 308):
                break
            target = urljoin(url, response.getheader("Location") or "")
            if not self.reading.allow_redirects:
                raise MediaError(f"{self.name} redirects to {target[:200]!r}; give that, or `allow_redirects=True`.")
            connection.close()
            url = target
        else:
            raise MediaError(f"{self.name} redirects more than {MAX_REDIRECTS} times; give the final address.")
        try:
            yield from self._body(response)
        finally:
            connection.close()

    def _body(self, response: http.client.HTTPResponse) -> Iterator[bytes]:
        if response.status != 200:
            raise MediaError(f"{self.name}: the server answers {response.status} {response.reason}; check the address.")
        encoding = response.getheader("Content-Encoding", "identity")
        if encoding != "identity":
            raise MediaError(f"{self.name} comes packed as {encoding!r}, which was not asked for; download it first.")
        expected, received = response.length, 0
        if expected is not None:
            self.reading.media_limits.check(self.name, "max_memory_bytes", expected, "bytes")
        while chunk := response.read1(HTTP_CHUNK_BYTES):
            received += len(chunk)
            yield chunk
        if expected is not None and received < expected:
            raise MediaError(f"{self.name} was cut off after {received} of {expected} bytes; try again.")

    def _checked_parts(self, url: str) -> SplitResult:
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise MediaError(f"{self.name} leads to {url[:200]!r}; only http and https URLs are fetched.")
        return parts

    def _request(self, connection: http.client.HTTPConnection, parts: SplitResult) -> http.client.HTTPResponse:
        target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        headers = {"User-Agent": "omnivinci-hf", "Accept-Encoding": "identity", "Connection": "close"}
        connection.request("GET", target, headers=headers)
        return connection.getresponse()

    def _connect(self, parts: SplitResult) -> http.client.HTTPConnection:
        """Connects to an address that was checked: a second look-up of the name could give another one."""
        host, is_secure = parts.hostname or "", parts.scheme == "https"
        port = parts.port or (443 if is_secure else 80)
        timeout = self.reading.timeout_sec
        try:
            addresses = [str(entry[4][0]) for entry in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)]
        except (socket.gaierror, UnicodeError) as error:
            raise MediaError(
                f"{self.name} cannot be fetched: {host} has no address ({error}); check the address and the connection."
            ) from error
        if not self.reading.allow_private_addresses:
            for address in addresses:
                if not is_public(address):
                    raise MediaError(
                        f"{self.name}: {host} is at {address}, which is not a public address; if that is "
                        "meant, give `allow_private_addresses=True`."
                    )
        connection_type = http.client.HTTPSConnection if is_secure else http.client.HTTPConnection
        connection = connection_type(host, port, timeout=timeout)
        connected = socket.create_connection((addresses[0], port), timeout=timeout)
        if is_secure:
            connected = ssl.create_default_context().wrap_socket(connected, server_hostname=host)
        connection.sock = self.socket = connected  # the connection forgets it when the answer is the last one
        return connection


def is_public(address: str) -> bool:
    """Whether an IP address is on the public internet, also by way of the IPv4 address in it."""
    ip = ipaddress.ip_address(address.partition("%")[0])
    ip = getattr(ip, "ipv4_mapped", None) or ip
    return ip.is_global and not ip.is_multicast and not any(ip in net for net in _TRANSLATED)
