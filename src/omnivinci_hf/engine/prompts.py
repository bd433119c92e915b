"""This module fills in the templates of prompts, and reads what models reply to them."""

import json
import re
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import jinja2

from .requests import digest


TEMPLATES = Path(__file__).parent / "templates"
SOURCES = ("seen", "heard", "both")
VERDICTS = ("kept", "corrected", "dropped", "contradicts")
IN_CAPTION = ("kept", "corrected")  # verdicts of sentences that make up the omni caption
TIME_SLACK_SEC = 1.0  # that a model's times may lie behind the end
SENTENCE_END = re.compile(r"(?<=[.!?])\s+|\n+")
FENCE = re.compile(r"```(?:json)?\s*(.*?)```", re.DOTALL)

Sentence = dict[str, Any]


class BadReply(ValueError):
    """A reply is not in the form that was asked for; the model is told why and asked again."""


class Prompts:
    """Templates of prompts: those of a folder, and the package's where it has none.

    Raises:
        FileNotFoundError: when there is no such folder.
    """

    def __init__(self, folder: Path | None = None):
        if folder is not None and not folder.is_dir():
            raise FileNotFoundError(
                f"`prompts`: {folder} is no folder; `omnivinci-hf engine prompts {folder}` makes it."
            )
        folders = [TEMPLATES] if folder is None else [folder, TEMPLATES]
        self._environment = jinja2.Environment(
            loader=jinja2.FileSystemLoader(folders), undefined=jinja2.StrictUndefined, trim_blocks=True,
            lstrip_blocks=True, autoescape=False,
        )  # fmt: skip

    def check(self, name: str) -> None:
        """Raises ValueError when there is no such template, or its syntax is wrong."""
        self._load(name)

    def render(self, name: str, **variables: Any) -> str:
        """Fills in a template.

        Raises:
            ValueError: when there is no such template, or it is wrong.
        """
        try:
            return self._load(name).render(**variables).strip()
        except jinja2.TemplateError as error:
            known = ", ".join(sorted(variables))
            raise ValueError(f"Prompt {name}.jinja: {error}; its variables are {known}.") from error

    def hash(self, name: str) -> str:
        """Returns a hash of a template's text."""
        self._load(name)
        assert self._environment.loader is not None
        return digest(self._environment.loader.get_source(self._environment, f"{name}.jinja")[0])

    def _load(self, name: str) -> jinja2.Template:
        try:
            return self._environment.get_template(f"{name}.jinja")
        except jinja2.TemplateNotFound as error:
            names = sorted(path.stem for path in TEMPLATES.glob("*.jinja"))
            raise ValueError(
                f"There is no prompt {name}.jinja; the package has {', '.join(names)}, others stand in `prompts`."
            ) from error
        except jinja2.TemplateSyntaxError as error:
            raise ValueError(f"Prompt {name}.jinja, line {error.lineno}: {error}") from error


# -- Replies


def read_caption(text: str, prefix: str, source: str, duration_sec: float) -> list[Sentence]:
    """Reads a caption of one sense: a JSON list of `{"start", "end", "text"}`, or plain sentences about all of it.

    Args:
        prefix: of the sentences' ids.
        source: "seen" or "heard".

    Raises:
        BadReply: when it is neither.
    """
    if _looks_like_json(text):
        entries = [_entry(entry, {"text": str}, "sentence") for entry in _json_list(text)]
        spans = [_span(entry, duration_sec) for entry in entries]
        texts = [entry["text"].strip() for entry in entries]
    else:
        texts = [part.strip(" -*\t") for part in SENTENCE_END.split(text)]
        texts = [part for part in texts if part]
        spans = [(0.0, duration_sec)] * len(texts)
        if not texts:
            raise BadReply("The reply is empty.")
    return [
        {"id": f"{prefix}{number}", "text": words, "start": start, "end": end}
        | {"source": source, "verdict": "kept", "from": []}
        for number, (words, (start, end)) in enumerate(zip(texts, spans, strict=True))
    ]


def read_omni_caption(text: str, captions: Iterable[Sentence], duration_sec: float) -> list[Sentence]:
    """Reads an omni caption, and adds sentences of the captions that it does not mention, as dropped.

    Raises:
        BadReply: when it is no JSON list of sentences with source, verdict and the ids of what they come from.
    """
    known = {sentence["id"]: sentence for sentence in captions}
    sentences = [
        {"id": f"o{number}", **_omni_sentence(given, known, duration_sec)}
        for number, given in enumerate(_json_list(text))
    ]
    mentioned = {name for sentence in sentences for name in sentence["from"]}
    unmentioned = [name for name in known if name not in mentioned]
    for number, name in enumerate(unmentioned, len(sentences)):
        dropped = {"id": f"o{number}", "verdict": "dropped", "from": [name], "note": "not mentioned"}
        sentences.append({**known[name], **dropped})
    return sentences


def _omni_sentence(given: Any, known: Mapping[str, Sentence], duration_sec: float) -> Sentence:
    """Reads a sentence of an omni caption, without its id.

    Args:
        known: sentences of the captions that it may come from, by their ids.
    """
    entry = _entry(given, {"text": str, "source": str, "verdict": str, "from": list}, "sentence")
    for key, choices in (("source", SOURCES), ("verdict", VERDICTS)):
        if entry[key] not in choices:
            raise BadReply(f"`{key}` must be one of {', '.join(choices)}, got {entry[key]!r}.")
    if not entry["from"] or not set(map(str, entry["from"])) <= known.keys():
        raise BadReply(f"`from` must name ids of the captions, got {entry['from']!r}.")
    start, end = _span(entry, duration_sec)
    sentence = {"text": entry["text"].strip(), "start": start, "end": end}
    return sentence | {key: entry[key] for key in ("source", "verdict", "from")}


def read_questions(text: str, most: int) -> list[dict[str, Any]]:
    """Reads a JSON list of `{"question", "answer", "reasoning", "from"}`.

    Raises:
        BadReply: when it is none.
    """
    questions = []
    for given in _json_list(text)[:most]:
        entry = _entry({"reasoning": "", **given} if isinstance(given, dict) else given, QUESTION_KEYS, "question")
        if not (entry["question"].strip() and entry["answer"].strip()):
            raise BadReply("A question or an answer is empty.")
        questions.append({key: entry[key] for key in QUESTION_KEYS})
    return questions


QUESTION_KEYS: dict[str, type] = {"question": str, "answer": str, "reasoning": str, "from": list}


def read_yes_or_no(text: str) -> bool:
    """Reads "yes" or "no" at the beginning of a reply.

    Raises:
        BadReply: when neither is there.
    """
    match = re.match(r"\W*(yes|no)\b", text, re.IGNORECASE)
    if match is None:
        raise BadReply("The reply must be yes or no.")
    return match[1].lower() == "yes"


def read_answer(text: str) -> str:
    """Reads an answer: all of the reply.

    Raises:
        BadReply: when it is empty.
    """
    if not text.strip():
        raise BadReply("The reply is empty.")
    return text.strip()


def _looks_like_json(text: str) -> bool:
    match = FENCE.search(text)
    return match is not None or text.lstrip().startswith(("[", "{"))


def _json_list(text: str) -> list:
    """Returns the JSON list that a reply holds, if need be behind words or between fences."""
    match = FENCE.search(text)
    text = match[1] if match else text
    begin, end = text.find("["), text.rfind("]")
    try:
        value = json.loads(text[begin : end + 1])
    except ValueError as error:
        raise BadReply(f"The reply holds no JSON list: {error}") from error
    return value


def _entry(value: Any, types: Mapping[str, type], name: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise BadReply(f"A {name} must be an object, got {str(value)[:80]!r}.")
    for key, kind in types.items():
        if not isinstance(value.get(key), kind):
            raise BadReply(f"A {name} needs `{key}` ({kind.__name__}), got {str(value.get(key))[:80]!r}.")
    return value


def _span(entry: Mapping[str, Any], duration_sec: float) -> tuple[float, float]:
    """Returns beginning and end of a sentence, which is about all of the segment if it has none."""
    start, end = entry.get("start", 0.0), entry.get("end", duration_sec)
    is_number: Callable[[Any], bool] = lambda one: isinstance(one, (int, float)) and not isinstance(one, bool)  # noqa: E731
    if not (is_number(start) and is_number(end) and 0 <= start <= end <= duration_sec + TIME_SLACK_SEC):
        raise BadReply(f"`start` and `end` must be seconds from 0 to {duration_sec:g}, got {start!r} and {end!r}.")
    return min(float(start), duration_sec), min(float(end), duration_sec)
