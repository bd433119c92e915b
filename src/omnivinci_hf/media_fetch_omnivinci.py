"""http(s) URLs, fetched into memory, for callers who allow it. FFmpeg itself never opens a connection."""

import http.client
import ipaddress
import socket
import ssl
from collections.abc import Iterator
from urllib.parse import SplitResult, urljoin, urlsplit

from .media_limits_omnivinci import MediaError
from .media_reading_omnivinci import ReadOptions, collect_bytes


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
