"""This module asks a model the questions of a benchmark, clip by clip, and writes answers, scores and exports."""

import hashlib
import json
import platform
import sys
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from itertools import groupby
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from .._version import __version__
from ..omnivinci.generation_omnivinci import context_length
from ..omnivinci.options_omnivinci import TEXT_OPTIONS
from ..omnivinci.session_omnivinci import Session
from .answers import AnswerFile, open_answers, write_whole
from .files import as_json
from .scoring import read_answer, score
from .task import MAX_NEW_TOKENS, Question, Task


SCORES = "scores.json"
HOPELESS = 5  # clips that fail before any succeeds end a run
# a medium that cannot be read, a sequence beyond the context, a clip for which the device is too small
FAILURES = (ValueError, OSError, torch.OutOfMemoryError)
PACKAGES = ("transformers", "torch", "av")
# settings of the processor that its call has, but that decide nothing about what the model gets
UNRECORDED = ("num_threads", "progress", "timeout_sec", "return_tensors", "return_mm_token_type_ids")


@dataclass(frozen=True)
class AskOptions:
    """These options say how questions are asked.

    Args:
        prompt: the template of a question, with the places `{question}` and `{options}`; None: the task's.
        system: the system prompt; None: the chat template's own.
        max_new_tokens: of an answer.
        processor_options: in place of the task's.
    """

    prompt: str | None = None
    system: str | None = None
    max_new_tokens: int = MAX_NEW_TOKENS
    processor_options: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self):
        if self.prompt is not None and "{question}" not in self.prompt:
            raise ValueError(f"`prompt` must have the place {{question}}, got {self.prompt!r}.")


def read_questions(task: Task, data: Path) -> list[Question]:
    """Reads all questions of a benchmark, those about one clip next to each other.

    Raises:
        FileNotFoundError, ValueError, ImportError: when they cannot be read.
    """
    if not data.is_dir():
        raise NotADirectoryError(f"{data} is not a folder. Expected is one with: {task.layout}")
    by_clip: dict[tuple, list[Question]] = defaultdict(list)
    for question in task.read(data):
        by_clip[question.clip].append(question)
    questions = [question for asked in by_clip.values() for question in asked]
    if len({question.id for question in questions}) < len(questions):
        raise ValueError(f"{data}: several questions have the same id; get the files again.")
    return questions


def evaluate(
    task: Task,
    questions: Sequence[Question],
    model,
    processor,
    output: Path,
    *,
    model_name: str,
    limit: int | None = None,
    ask: AskOptions = AskOptions(),  # noqa: B008 (it is frozen)
    note: Callable[[str], None] = print,
) -> dict[str, Any]:
    """Asks questions that were not asked before, and scores all that were.

    Args:
        questions: of the benchmark, as [`read_questions`] gives them.
        model ([`OmniVinciForConditionalGeneration`]).
        processor ([`OmniVinciProcessor`]).
        output: the folder with answers, settings, scores and exports; a run that was ended goes on there.
        model_name: for the settings.
        limit: of questions, from the first on.
        note: is told what happens, line by line.

    Returns:
        the scores.

    Raises:
        ValueError: when the folder has answers under other settings, or nothing succeeds.
    """
    asked = questions[:limit]
    settings = run_settings(task, questions, model, processor, model_name, ask)
    with open_answers(output, settings) as answers:
        _tell_missing(asked, task.layout, note)
        if waiting := [question for question in asked if question.id not in answers]:
            if len(waiting) < len(asked):
                note(f"{len(asked) - len(waiting)} questions have an answer in {output}; {len(waiting)} are asked now.")
            _Asker(task, model, processor, ask, answers).ask_all(waiting)
        entries = {entry["id"]: entry for entry in answers.entries()}
        given = {key: entry["answer"] for key, entry in entries.items()}
        scores = score(task, questions, given)
        scores["media_failed"] = _failed_media(entries.values(), "failed")
        scores["media_missing"] = _failed_media(entries.values(), "missing")
        scores["settings"] = settings
        write_whole(output / SCORES, as_json(scores))
        with_answer = [question for question in questions if question.id in entries]
        for name, text in task.export(with_answer, given).items():
            (output / "export").mkdir(exist_ok=True)
            write_whole(output / "export" / name, text)
    return scores


def run_settings(
    task: Task, questions: Sequence[Question], model, processor, model_name: str, ask: AskOptions
) -> dict[str, Any]:
    """Gathers everything that an answer depends on, as plain data."""
    options = processor.resolve_options(("as an argument", _options(task, ask)))
    options = {name: value for name, value in options.items() if name not in {*UNRECORDED, *TEXT_OPTIONS}}
    content = [(question.id, question.question, question.options, question.answer) for question in questions]
    return {
        "task": task.name,
        "data": _digest(json.dumps(content)),
        "model": model_name,
        "revision": getattr(model.config, "_commit_hash", None),
        "weights": _weights_digest(model),
        "dtype": str(model.dtype).removeprefix("torch."),
        "device": str(model.device.type),
        "context": context_length(model.config.get_text_config()),
        "prompt": ask.prompt or task.prompt,
        "system": ask.system,
        "max_new_tokens": ask.max_new_tokens,
        "options": json.loads(json.dumps(options, default=str)),
        "versions": {
            "omnivinci_hf": __version__,
            "python": platform.python_version(),
            **{package: version(package) for package in PACKAGES},
        },
    }


def _options(task: Task, ask: AskOptions) -> dict[str, Any]:
    """The task's options of the processor, with those of the call in their place."""
    given = dict(ask.processor_options)
    options = dict(task.options)
    if {"fps", "frame_indices", "frame_times"} & given.keys():
        options.pop("num_frames", None)
    return {**options, **given}


def _digest(text: str) -> str:
    return hashlib.blake2b(text.encode(), digest_size=8).hexdigest()


def _weights_digest(model: torch.nn.Module) -> str:
    """Makes a digest of the first values of each weight, which a training or an adapter changes."""
    digest = hashlib.blake2b(digest_size=8)
    for name, weight in model.state_dict().items():
        digest.update(name.encode())
        if not weight.is_meta:
            first = weight.detach().flatten()[:8].cpu().contiguous()
            digest.update(first.view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def _tell_missing(questions: Sequence[Question], layout: str, note: Callable[[str], None]) -> None:
    """Names the media that are not there; their questions count as failed.

    Raises:
        FileNotFoundError: when all are missing.
    """
    missing = {name: None for question in questions for name in question.missing}
    if missing and all(question.missing for question in questions):
        raise FileNotFoundError(
            f"None of the media is there, {next(iter(missing))} to begin with. Expected is: {layout}"
        )
    if missing:
        num_questions = sum(bool(question.missing) for question in questions)
        names = ", ".join(list(missing)[:5]) + (", ..." if len(missing) > 5 else "")
        note(
            f"{len(missing)} media are missing, for {num_questions} questions, which count as failed: {names} "
            f"(`media_missing` of {SCORES} lists all)"
        )


def _failed_media(entries, kind: str) -> list[str]:
    return list(dict.fromkeys(name for entry in entries if entry["error_kind"] == kind for name in entry["media"]))


class _Asker:
    """An asker encodes each clip once and asks all questions about it."""

    def __init__(self, task: Task, model, processor, ask: AskOptions, answers: AnswerFile):
        self.model, self.processor, self.ask, self.answers = model, processor, ask, answers
        self.template = ask.prompt or task.prompt
        self.options = _options(task, ask)
        self.has_succeeded = False
        self.errors: list[str] = []  # of the clips that failed before any succeeded
        self.waiting: list[dict[str, Any]] = []  # entries that are written when one has

    def ask_all(self, questions: Sequence[Question]) -> None:
        """Asks questions, of which those about one clip stand next to each other.

        Raises:
            ValueError: when the first clips fail, or all: the settings are to blame then, and nothing is written.
        """
        with tqdm(total=len(questions), unit="question", disable=not sys.stderr.isatty()) as bar:
            for _, group in groupby(questions, key=lambda question: question.clip):
                about_clip = list(group)
                self._ask_about_clip(about_clip)
                bar.update(len(about_clip))
        if self.errors:
            self._give_up()
        self._write_waiting()

    def _ask_about_clip(self, questions: list[Question]) -> None:
        if missing := questions[0].missing:
            for question in questions:
                self._write(question, error=f"not there: {', '.join(missing)}", kind="missing")
            return
        errors = []
        try:
            session = self._session(questions[0])
        except FAILURES as error:
            errors = [self._write_failure(question, error) for question in questions]
        else:
            for question in questions:
                try:
                    answer = session.ask(
                        question.prompt(self.template), max_new_tokens=self.ask.max_new_tokens, do_sample=False
                    )
                except FAILURES as error:
                    errors.append(self._write_failure(question, error))
                else:
                    self.has_succeeded, self.errors = True, []
                    self._write(question, answer)
        if errors and not self.has_succeeded:
            self.errors.append(errors[0])
            if len(self.errors) == HOPELESS:
                self._give_up()

    def _give_up(self) -> None:
        raise ValueError(
            f"The first {len(self.errors)} clips that are there failed, so the run ends here, and nothing was written. "
            f"The first error: {self.errors[0]}"
        )

    def _session(self, question: Question) -> Session:
        content = [medium.part() for medium in question.media]
        return Session(
            self.model,
            self.processor,
            messages=[{"role": "user", "content": content}],
            system=self.ask.system,
            keep_media=False,
            **self.options,
        )

    def _write_failure(self, question: Question, error: Exception) -> str:
        words = " ".join(str(error).split())
        self._write(question, error=words, kind="failed")
        return words

    def _write(
        self, question: Question, answer: str | None = None, error: str | None = None, kind: str | None = None
    ) -> None:
        entry = {
            "id": question.id,
            "media": [medium.name for medium in question.media],
            "question": question.question,
            "options": list(question.options),
            "expected": question.answer,
            "answer": answer,
            "read": None if answer is None else read_answer(answer, question.options),
            "error": error,
            "error_kind": kind,
        }
        self.waiting.append(entry)
        if self.has_succeeded:
            self._write_waiting()

    def _write_waiting(self) -> None:
        for entry in self.waiting:
            self.answers.add(entry["id"], entry)
        self.waiting = []
