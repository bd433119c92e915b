"""This module says what a model is asked: a prompt, with a medium or without, and what it replies."""

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any


TRACE = re.compile(r"^\s*(?:<think>)?(.*?)</think>\s*", re.DOTALL)


@dataclass(frozen=True)
class Medium:
    """A medium is the picture or the audio of a segment.

    Args:
        path: of the file.
        modality: "video", the picture without its audio, or "audio".
        start_sec, end_sec: of the segment, in seconds of the file.
        digest: of the file's content.
    """

    path: str
    modality: str
    start_sec: float
    end_sec: float
    digest: str


@dataclass(frozen=True)
class Request:
    """A request is a question to a model.

    Args:
        stage: that asks: "vision", "audio", "speech", "omni", "qa", "answer" or "agree".
        prompt: the words.
        medium: that they are about.
    """

    stage: str
    prompt: str
    medium: Medium | None = None

    def key(self, identity: Mapping[str, Any], attempt: int) -> str:
        """Returns a hash of all that the reply depends on; where the file lies is no part of it."""
        medium = None if self.medium is None else {**asdict(self.medium), "path": ""}
        return digest([self.prompt, medium, dict(identity), attempt])


@dataclass(frozen=True)
class Reply:
    """A reply is what a model wrote.

    Args:
        text: without the trace.
        trace: the reasoning that stood between `<think>` and `</think>`.
        prompt_tokens, completion_tokens: as the backend counted them, if it did.
    """

    text: str
    trace: str = ""
    prompt_tokens: int | None = None
    completion_tokens: int | None = None


def split_trace(text: str) -> tuple[str, str]:
    """Returns the text behind a `<think>` block, and the block's content; servers may leave the opening mark out."""
    match = TRACE.match(text)
    if match is None:
        return text.strip(), ""
    return text[match.end() :].strip(), match[1].strip()


def digest(value: Any) -> str:
    """Returns a short hash of what can be written as JSON."""
    text = json.dumps(value, sort_keys=True, ensure_ascii=False)
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:24]
