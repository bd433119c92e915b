"""This module asks models: behind OpenAI-compatible servers, as local checkpoints, or as functions in Python."""

import importlib
import json
import os
import random
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping
from dataclasses import replace
from http.client import HTTPException
from pathlib import Path
from typing import Any, Protocol

from transformers.utils import logging

from .config import Backend, OpenAIBackend, PythonBackend, TransformersBackend
from .media import message_parts
from .requests import Reply, Request, split_trace


logger = logging.get_logger(__name__)

TEMPORARY_STATUS = (408, 409, 425, 429)  # and all of 500 and above
REFUSED_STATUS = (400, 413, 415, 422)  # of one request; others concern all of them
FIRST_WAIT_SEC, LONGEST_WAIT_SEC = 0.5, 30.0
LONGEST_ERROR = 300  # characters of a server's words


class RequestRefused(ValueError):
    """A model cannot answer one request, such as one that is too long; others may still be answered."""


class Model(Protocol):
    """A model answers requests; it is called from several threads."""

    def ask(self, request: Request) -> Reply:
        """Answers a request.

        Raises:
            RequestRefused: when it cannot answer this one.
            OSError, ValueError: when it can answer none.
        """


def make_model(name: str, backend: Backend, folder: Path) -> Model:
    """Makes the model of a backend.

    Args:
        folder: where relative paths of checkpoints begin, and where modules are looked for, too.

    Raises:
        ValueError, OSError: for a function or a folder that is not there.
    """
    if isinstance(backend, OpenAIBackend):
        return _Server(name, backend)
    if isinstance(backend, TransformersBackend):
        return _Checkpoint(name, backend, folder)
    return _Function(name, backend, folder)


class _Server:
    """Asks OpenAI-compatible servers, each time the one with the fewest requests."""

    def __init__(self, name: str, backend: OpenAIBackend):
        self.name, self.backend = name, backend
        self.key = os.environ.get(backend.api_key_env, "") if backend.api_key_env else ""
        self._busy = dict.fromkeys(backend.urls, 0)
        self._lock = threading.Lock()

    def ask(self, request: Request) -> Reply:
        """Answers a request. After a fault of the line or the server it is sent again, if possible to another URL."""
        backend = self.backend
        parts = [] if request.medium is None else _parts(request, backend)
        content: Any = [*parts, {"type": "text", "text": request.prompt}] if parts else request.prompt
        body = {
            **backend.parameters,
            "model": backend.model,
            "messages": [{"role": "user", "content": content}],
        }
        data, failed = json.dumps(body).encode(), ""
        wait = FIRST_WAIT_SEC
        for trial in range(backend.retries + 1):
            url = self._take(failed)
            try:
                return _reply(self._post(url, data))
            except _Temporary as fault:
                failed, last = url, fault
            finally:
                self._give_back(url)
            if trial < backend.retries:
                logger.info(f"{failed}: {last}; the request is sent again.")
                time.sleep(last.wait_sec if last.wait_sec is not None else wait * random.uniform(0.5, 1))
                wait = min(2 * wait, LONGEST_WAIT_SEC)
        raise OSError(
            f"Backend {self.name!r}, {failed}: {last}, {backend.retries + 1} times in a row. Look after the server and "
            "start again: what came is kept."
        )

    def _take(self, failed: str) -> str:
        with self._lock:
            url = min(self._busy, key=lambda one: (one == failed, self._busy[one]))
            self._busy[url] += 1
            return url

    def _give_back(self, url: str) -> None:
        with self._lock:
            self._busy[url] -= 1

    # The client of huggingface_hub, which the judge of rewards uses, will not do: it sends nothing while HF_HUB_OFFLINE
    # is set, as it is where models lie on disk, and beyond 100 connections at a time requests wait as if a server hung.
    def _post(self, url: str, data: bytes) -> Any:
        headers = {"Content-Type": "application/json"}
        if self.key:
            headers["Authorization"] = f"Bearer {self.key}"
        request = urllib.request.Request(f"{url.rstrip('/')}/chat/completions", data, headers)
        try:
            with urllib.request.urlopen(request, timeout=self.backend.timeout_sec) as response:
                return json.loads(response.read())
        except urllib.error.HTTPError as error:
            words = error.read().decode(errors="replace")[:LONGEST_ERROR]
            if error.code in TEMPORARY_STATUS or error.code >= 500:
                raise _Temporary(f"status {error.code}", _seconds(error.headers.get("Retry-After"))) from error
            if error.code in REFUSED_STATUS:
                raise RequestRefused(f"The server refused the request with status {error.code}: {words}") from error
            raise ValueError(
                f"Backend {self.name!r}, {url}: status {error.code}: {words} (check `urls`, `model`, `api_key_env`)"
            ) from error
        except json.JSONDecodeError as error:
            raise _Temporary("the reply is no whole JSON") from error
        except TimeoutError as error:
            raise _Temporary(f"nothing came within {self.backend.timeout_sec:g} s") from error
        except (OSError, HTTPException) as error:
            raise _Temporary(str(getattr(error, "reason", error)) or type(error).__name__) from error


class _Temporary(Exception):
    """A fault that may be gone when the request is sent again."""

    def __init__(self, message: str, wait_sec: float | None = None):
        super().__init__(message)
        self.wait_sec = wait_sec


def _seconds(text: str | None) -> float | None:
    """Reads the header Retry-After, if it is a number."""
    try:
        return max(0.0, float(text)) if text else None
    except ValueError:
        return None


def _parts(request: Request, backend: OpenAIBackend) -> list[dict[str, Any]]:
    assert request.medium is not None
    return message_parts(request.medium, backend.video, backend.audio, backend.num_frames)


def _reply(answer: Any) -> Reply:
    """Reads the reply of a server, in which reasoning may stand apart or within the text."""
    try:
        message = answer["choices"][0]["message"]
        text, trace = split_trace(message["content"] or "")
    except (LookupError, TypeError) as error:
        raise _Temporary(f"the reply has no message: {str(answer)[:LONGEST_ERROR]}") from error
    trace = message.get("reasoning_content") or message.get("reasoning") or trace
    usage = answer.get("usage") or {}
    return Reply(text, trace, usage.get("prompt_tokens"), usage.get("completion_tokens"))


class _Checkpoint:
    """Asks a checkpoint through `pipeline("omni-qa")`, one request at a time."""

    def __init__(self, name: str, backend: TransformersBackend, folder: Path):
        path = folder / os.path.expanduser(backend.model)
        if not path.is_dir() and backend.model.startswith((".", "/", "~")):
            raise FileNotFoundError(f"`backends.{name}.model`: {path} is no folder; give a checkpoint, or a Hub id.")
        self.backend = replace(backend, model=str(path)) if path.is_dir() else backend
        self._lock = threading.Lock()
        self._pipe: Any = None  # it is loaded for the first request

    def ask(self, request: Request) -> Reply:
        """Answers a request."""
        content: list[dict[str, Any]] = [{"type": "text", "text": request.prompt}]
        if request.medium is not None:
            medium = request.medium
            part: dict[str, Any] = {"type": medium.modality, "path": medium.path}
            part |= {"start_sec": medium.start_sec, "end_sec": medium.end_sec}
            if medium.modality == "video":
                part["load_audio_from_video"] = False
            content.insert(0, part)
        with self._lock:
            if self._pipe is None:
                self._pipe = _load_pipeline(self.backend)
            (record,) = self._pipe(
                [{"role": "user", "content": content}], return_token_counts=True, **self.backend.options
            )
        text, trace = split_trace(record["answer"])
        return Reply(text, trace, record["prompt_tokens"], record["new_tokens"])


def _load_pipeline(backend: TransformersBackend) -> Any:
    from ..omnivinci.modeling_omnivinci import OmniVinciForConditionalGeneration  # heavy, as the next two are
    from ..omnivinci.pipeline_omnivinci import OmniQAPipeline
    from ..omnivinci.processing_omnivinci import OmniVinciProcessor

    place = {"device_map": backend.device_map} if backend.device_map else {}
    model = OmniVinciForConditionalGeneration.from_pretrained(backend.model, dtype=backend.dtype, **place)
    return OmniQAPipeline(model, processor=OmniVinciProcessor.from_pretrained(backend.model))


class _Function:
    """Asks a function in Python."""

    def __init__(self, name: str, backend: PythonBackend, folder: Path):
        self.function = _import_function(name, backend.function, folder)
        self.where = f"Backend {name!r}, {backend.function}"

    def ask(self, request: Request) -> Reply:
        """Answers a request."""
        reply = self.function(request)
        if isinstance(reply, Reply):
            return reply
        if not isinstance(reply, str):
            raise ValueError(f"{self.where} must return a string, got {type(reply).__name__}.")
        return Reply(*split_trace(reply))


def _import_function(name: str, function: str, folder: Path) -> Callable[[Request], Any]:
    module, _, attribute = function.partition(":")
    sys.path.insert(0, str(folder))
    try:
        found = getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError) as error:
        raise ValueError(f"`backends.{name}.function` {function!r} cannot be imported: {error}") from error
    finally:
        sys.path.remove(str(folder))
    if not callable(found):
        raise ValueError(f"`backends.{name}.function` {function!r} is no function.")
    return found


def cost_of(backend: Backend, entry: Mapping[str, Any]) -> float | None:
    """Returns what a reply cost; None without a price or a count of tokens."""
    prompt, completion = entry["prompt_tokens"], entry["completion_tokens"]
    if backend.price is None or prompt is None or completion is None:
        return None
    return (prompt * backend.price.prompt + completion * backend.price.completion) / 1e6
