"""This module says what a benchmark is here: its questions, its media, its settings and its owners' rule of scoring.

It imports nothing heavy, as the command line lists the benchmarks before anything else is loaded.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any


LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
LETTER_PROMPT = "{question}\n{options}\nAnswer with the letter of the right option alone."
TEXT_PROMPT = "{question}\n{options}\nAnswer with the words of the right option alone, exactly as they stand above."
VIDEO_OPTIONS = {"num_frames": 128, "load_audio_from_video": True, "max_audio_sec": 3600.0}
SILENT_VIDEO_OPTIONS = {"num_frames": 128, "load_audio_from_video": False}
AUDIO_OPTIONS = {"max_audio_sec": 3600.0}
MAX_NEW_TOKENS = 1024


@dataclass(frozen=True)
class Medium:
    """A medium belongs to a question; it is opened when the question is asked.

    Args:
        modality: "image", "video" or "audio".
        name: what results call it: its path below the folder of the data, or its place in a parquet file.
        source: a file, several files (the frames of a video), a function that gives the bytes of a file, or None where
            the medium is not there.
        options: of the processor, for this medium alone.
    """

    modality: str
    name: str
    source: Path | list[Path] | Callable[[], bytes] | None
    options: Mapping[str, Any] = field(default_factory=dict)

    def part(self) -> dict[str, Any]:
        """Makes the content part of a message."""
        source: Any = self.source
        if callable(source):
            source = source()
        elif isinstance(source, list):
            source = [str(path) for path in source]
        else:
            source = str(source)
        return {"type": self.modality, self.modality: source, **self.options}


@dataclass(frozen=True)
class Question:
    """A question has options, of which one is right.

    Args:
        id: of its own within the benchmark.
        media: in the order in which the model gets them.
        question: its words.
        options: the words of the options, without letters.
        answer: the letter of the right one; None where it is withheld, or where it is none of the options.
        groups: the parts of the benchmark that it counts for, by the name of the division.
        row: as its owners distribute it.
    """

    id: str
    media: tuple[Medium, ...]
    question: str
    options: tuple[str, ...]
    answer: str | None
    groups: Mapping[str, Sequence[str]]
    row: Mapping[str, Any]

    @property
    def clip(self) -> tuple:
        """Tells which media it asks about: questions of one clip share an encoding."""
        return tuple((medium.modality, medium.name, repr(sorted(medium.options.items()))) for medium in self.media)

    @property
    def missing(self) -> list[str]:
        """Names the media that are not there."""
        return [medium.name for medium in self.media if medium.source is None]

    def prompt(self, template: str) -> str:
        """Writes the question into a template with the places `{question}` and `{options}`."""
        options = "\n".join(f"{letter}. {option}" for letter, option in zip(LETTERS, self.options, strict=False))
        before, _, after = template.partition("{question}")
        return before.replace("{options}", options) + self.question + after.replace("{options}", options)


@dataclass(frozen=True)
class OfficialRule:
    """This is how the owners of a benchmark score, which stands beside the strict rule in every result.

    Args:
        summary: the rule in one sentence, with what it guesses.
        verdict: tells of an answer whether it is right; None leaves it out of the denominator.
        counts_failures: whether a question without an answer stays in the denominator.
    """

    summary: str
    verdict: Callable[[str, Question], bool | None]
    counts_failures: bool = True


@dataclass(frozen=True)
class Task:
    """A task is a benchmark, declared once.

    Args:
        name: on the command line.
        title: in reports.
        layout: which files are expected where, for errors and documentation.
        num_questions: that the owners publish.
        read: makes the questions of the folder with the data.
        official: the owners' rule.
        export: makes the files that the owners' scorers take, by name, from questions that were asked and the answer to
            each, None where there is none.
        options: of the processor.
        prompt: the template of a question.
        has_answers: whether the owners distribute the right answers.
    """

    name: str
    title: str
    layout: str
    num_questions: int
    read: Callable[[Path], list[Question]]
    official: OfficialRule
    export: Callable[[Sequence[Question], Mapping[str, str | None]], dict[str, str]]
    options: Mapping[str, Any]
    prompt: str = LETTER_PROMPT
    has_answers: bool = True
