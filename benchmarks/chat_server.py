"""An OpenAI-compatible server on loopback that answers by a rule, and fails now and then where that is wanted.

Every request and what became of it is kept in `ChatServer.requests`.
"""

import hashlib
import json
import random
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


FAULTS = ("429", "cut JSON", "hang", "500")
HANG_SEC = 30


@dataclass
class Seen:
    """A request that came: a hash of its body, and the fault that it met, or "" if it was answered."""

    key: str
    fault: str
    body: dict[str, Any] = field(repr=False)
    key_given: str | None = None

    @property
    def prompt(self) -> str:
        return prompt_of(self.body)


class ChatServer:
    """Use as a context manager; it serves from its beginning to its end.

    Args:
        rule: makes the reply of a request's body.
        fault_rate: share of requests that meet one of `FAULTS`, at random.
        delay_sec: of each reply.
    """

    def __init__(self, rule: Callable[[dict[str, Any]], str], fault_rate: float = 0.0, delay_sec: float = 0.0):
        self.rule, self.fault_rate, self.delay_sec = rule, fault_rate, delay_sec
        self.requests: list[Seen] = []
        self.usage: dict[str, int] | None = {"prompt_tokens": 100, "completion_tokens": 10}
        self.faults: Iterator[str] | None = None  # of the next requests, instead of those at random
        self.status: tuple[int, str] | None = None  # instead of every answer
        self._random, self._lock, self._end = random.Random(0), threading.Lock(), threading.Event()

    def __enter__(self) -> "ChatServer":
        server = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self):
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                server.answer(self, body)

            def log_message(self, *arguments):
                pass

        self._http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._http.daemon_threads = True
        threading.Thread(target=self._http.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *exception):
        self._end.set()
        self._http.shutdown()
        self._http.server_close()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._http.server_port}/v1"

    def answered(self) -> list[str]:
        """Keys of the requests that were answered, in order."""
        return [seen.key for seen in self.requests if not seen.fault]

    def answer(self, handler: BaseHTTPRequestHandler, body: dict[str, Any]) -> None:
        assert handler.path == "/v1/chat/completions"
        with self._lock:
            fault = self._random.choice(FAULTS) if self._random.random() < self.fault_rate else ""
            fault = fault if self.faults is None else next(self.faults)
            key = hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()
            self.requests.append(Seen(key, fault, body, handler.headers.get("Authorization")))
        if fault == "hang":
            self._end.wait(HANG_SEC)
            handler.close_connection = True
            return
        if self.status is not None or fault.isdigit():
            status, words = self.status or (int(fault), "try again")
            send(handler, status, words.encode(), {"Retry-After": "0"} if fault else {})
            return
        time.sleep(self.delay_sec)
        reply = {"choices": [{"message": {"role": "assistant", "content": self.rule(body)}}]}
        if self.usage is not None:
            reply["usage"] = self.usage
        data = json.dumps(reply).encode()
        send(handler, 200, data[: len(data) // 2] if fault == "cut JSON" else data, {})


def send(handler: BaseHTTPRequestHandler, status: int, data: bytes, headers: dict[str, str]) -> None:
    try:
        handler.send_response(status)
        for name, value in headers.items():
            handler.send_header(name, value)
        handler.send_header("Content-Length", str(len(data)))
        handler.end_headers()
        handler.wfile.write(data)
    except (BrokenPipeError, ConnectionResetError):  # the client was killed
        handler.close_connection = True


def prompt_of(body: dict[str, Any]) -> str:
    """The words of a request."""
    content = body["messages"][-1]["content"]
    return content if isinstance(content, str) else content[-1]["text"]
