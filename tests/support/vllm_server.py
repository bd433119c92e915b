"""This module starts vLLM's server with `omnivinci-hf serve`, for tests and benchmarks."""

import contextlib
import os
import re
import shlex
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tests.support.paths import PYTHONPATH


START_SEC = 300
SETTINGS = (
    *("--dtype", "float32", "--enforce-eager", "--gpu-memory-utilization", "0.05"),
    *("--kv-cache-memory-bytes", str(256 << 20), "--block-size", "32", "--max-num-seqs", "16"),
    *("--served-model-name", "model"),
)
ENVIRONMENT = {
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
    "VLLM_NO_USAGE_STATS": "1",
    "VLLM_LOGGING_LEVEL": "WARNING",
    "TORCHDYNAMO_DISABLE": "1",
    "PYTHONPATH": PYTHONPATH,
}


@dataclass
class Server:
    url: str
    log: Path
    process: subprocess.Popen

    def get(self, path: str) -> str:
        with urllib.request.urlopen(self.url + path) as response:
            return response.read().decode()

    def metric(self, name: str) -> float:
        """Returns the sum of a counter of vLLM's metrics."""
        lines = re.findall(rf"^vllm:{name}(?:{{.*}})? (\S+)$", self.get("/metrics"), re.MULTILINE)
        return sum(map(float, lines))

    def first_request(self) -> list[str]:
        """Returns the words of the command that `omnivinci-hf serve` printed when the server was up."""
        while "Try:\n\ncurl" not in (text := self.log.read_text(encoding="utf-8")):
            time.sleep(0.1)
        return shlex.split(text.partition("Try:\n\n")[2].partition("\n")[0])


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@contextlib.contextmanager
def running_server(model: str | Path, folder: Path, *options: str) -> Iterator[Server]:
    """Starts a server, waits until it answers, and ends it.

    Args:
        folder: for its log.
        options: of vLLM, behind `SETTINGS`.
    """
    port, log = free_port(), folder / "server.log"
    command = [sys.executable, "-m", "omnivinci_hf", "serve", str(model), "--port", str(port), *SETTINGS, *options]
    with open(log, "wb") as stream:
        process = subprocess.Popen(command, stdout=stream, stderr=stream, env={**os.environ, **ENVIRONMENT})
    server = Server(f"http://127.0.0.1:{port}", log, process)
    try:
        _wait(server)
        yield server
    finally:
        process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(30)
        process.kill()


def _wait(server: Server) -> None:
    end = time.monotonic() + START_SEC
    while time.monotonic() < end:
        with contextlib.suppress(urllib.error.URLError, ConnectionError):
            server.get("/health")
            return
        if server.process.poll() is not None:
            break
        time.sleep(0.5)
    raise RuntimeError(f"The server did not start: {server.log.read_text(encoding='utf-8')[-5000:]}")
