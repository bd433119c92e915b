"""This module asks models on behalf of the stages: each request once, until the reply is in the right form."""

import threading
from collections import defaultdict
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from typing import Any, TypeVar

from .backends import Model, RequestRefused, cost_of, make_model
from .config import Backend, EngineConfig, OpenAIBackend, StageOptions
from .prompts import BadReply, Prompts
from .records import ReplyLog
from .requests import Medium, Request


T = TypeVar("T")


class ItemFailed(ValueError):
    """A segment or a question cannot go on; its record says why."""


class NotAsked(Exception):
    """A reply is not there yet, and nothing is asked during an estimate."""


@dataclass
class Origin:
    """An origin says where a record comes from.

    Args:
        model: that was asked last.
        prompt: hash of its template.
        cost: of all replies; None if a price or a count of tokens is missing.
        trace: of the reasoning.
    """

    model: str = ""
    prompt: str = ""
    cost: float | None = 0.0
    trace: str = ""

    def as_dict(self) -> dict[str, Any]:
        """Returns the origin as keys of a record."""
        return asdict(self)


@dataclass
class Missing:
    """This counts requests that an estimate found unanswered, and what they hold."""

    requests: int = 0
    prompt_characters: int = 0
    media_sec: float = 0.0
    frames: int = 0


@dataclass
class Asker:
    """Asks the models of a configuration, and keeps every reply in the log.

    Args:
        dry: send nothing, and count in `missing` what would be sent.
    """

    config: EngineConfig
    prompts: Prompts
    log: ReplyLog
    dry: bool = False
    missing: dict[str, Missing] = field(default_factory=lambda: defaultdict(Missing))
    num_asked: int = 0
    cost: float = 0.0

    def __post_init__(self) -> None:
        self._models: dict[str, Model] = {}
        self._lock = threading.Lock()
        self._key_locks: dict[str, threading.Lock] = {}
        self._counted: set[str] = set()

    def backend(self, options: StageOptions) -> Backend:
        """Returns the backend of a stage."""
        return self.config.backends[options.backend]

    def ask(
        self,
        stage: str,
        options: StageOptions,
        variables: dict[str, Any],
        read: Callable[[str], T],
        medium: Medium | None = None,
        prompt: str = "",
    ) -> tuple[T, Origin]:
        """Asks until `read` takes the reply, and returns what it read.

        Args:
            prompt: name of the template; by default that of the stage's options, or the stage's own name.

        Raises:
            ItemFailed: when the model refuses the request, or never replies in the right form.
            NotAsked: in an estimate.
            OSError, ValueError: when the model cannot be asked at all.
        """
        name = prompt or options.prompt or stage
        backend = self.backend(options)
        words = self.prompts.render(name, **variables)
        origin = Origin(backend.model, self.prompts.hash(name))
        problem: BadReply | None = None
        request = Request(stage, words, medium)
        for attempt in range(self.config.attempts):
            if problem is not None:
                request = replace(request, prompt=f"{words}\n\nYour last reply could not be used: {problem}")
            entry = self._entry(request, options.backend, attempt)
            cost = cost_of(backend, entry)
            origin.cost = None if cost is None or origin.cost is None else origin.cost + cost
            origin.trace = entry["trace"]
            try:
                return read(entry["text"]), origin
            except BadReply as error:
                problem = error
        raise ItemFailed(f"{stage}: {self.config.attempts} replies could not be used, the last for: {problem}")

    def _entry(self, request: Request, backend_name: str, attempt: int) -> dict[str, Any]:
        """Returns the entry of a request in the log, asked if it is not there; equal requests wait for each other."""
        backend = self.config.backends[backend_name]
        key = request.key(backend.identity(), attempt)
        with self._lock:
            lock = self._key_locks.setdefault(key, threading.Lock())
        try:
            with lock:
                entry = self.log.get(key)
                if entry is not None:
                    return entry
                if self.dry:
                    self._count(key, request, backend)
                    raise NotAsked
                try:
                    reply = self._model(backend_name).ask(request)
                except RequestRefused as error:
                    raise ItemFailed(f"{request.stage}: {error}") from error
                entry = {"stage": request.stage, "backend": backend_name, "model": backend.model, **asdict(reply)}
                self.log.add(key, entry)
        finally:
            with self._lock:
                self._key_locks.pop(key, None)
        with self._lock:
            self.num_asked += 1
            self.cost += cost_of(backend, entry) or 0.0
        return entry

    def _model(self, name: str) -> Model:
        with self._lock:
            if name not in self._models:
                self._models[name] = make_model(name, self.config.backends[name], self.config.folder)
            return self._models[name]

    def _count(self, key: str, request: Request, backend: Backend) -> None:
        with self._lock:
            if key in self._counted:
                return
            self._counted.add(key)
            missing = self.missing[request.stage]
            missing.requests += 1
            missing.prompt_characters += len(request.prompt)
            if request.medium is not None and request.medium.modality == "audio":
                missing.media_sec += request.medium.end_sec - request.medium.start_sec
            elif request.medium is not None:
                missing.frames += backend.num_frames if isinstance(backend, OpenAIBackend) else 0
