"""This module finds every bad row of training data and tells everything that is wrong with it, media included."""

import hashlib
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from ..omnivinci.configuration_omnivinci import MODALITIES
from ..omnivinci.conversation_omnivinci import MediaPart, load_medium, parse_part
from ..omnivinci.media_reading_omnivinci import MediaError
from ..omnivinci.options_omnivinci import POSITION_OPTIONS
from .collator import OmniVinciDataCollator
from .data import ROW_ERRORS, RowDataset, RowError, read_row


NUM_FRAMES = 2  # of a video are decoded; its other packets are counted only


@dataclass(frozen=True)
class BadRow:
    """A bad row cannot be used for training: its number in the file, counted from 1, and all that is wrong with it."""

    line: int
    id: str | None
    problems: list[str]


@dataclass
class Validation:
    """A validation counts what was checked: all rows, bad rows, and the distinct media of each modality."""

    num_rows: int = 0
    num_bad: int = 0
    media: Counter = field(default_factory=Counter)

    @property
    def num_good(self) -> int:
        """The number of rows that can be used."""
        return self.num_rows - self.num_bad

    def __str__(self) -> str:
        media = ", ".join(f"{modality}: {self.media[modality]}" for modality in MODALITIES)
        return f"rows: {self.num_rows}, good: {self.num_good}, bad: {self.num_bad}; distinct media: {media}"


def validate_rows(
    rows: RowDataset,
    counts: Validation,
    read_media: bool = True,
    collator: OmniVinciDataCollator | None = None,
    read: Callable[..., tuple[dict[str, Any], list[str]]] = read_row,
    encode: Callable[[dict[str, Any]], Any] | None = None,
) -> Iterator[BadRow | None]:
    """Checks all rows, and yields for each a [`BadRow`], or None if it is good. `counts` is kept up to date.

    Rows are read as training reads them. Media are really read, each distinct one once: images and audio to their end,
    of videos all packets and two frames. With the `collator` of a training, rows are also encoded as it does, so that
    what is good here is trained there: this tells rows that are too long for the model. `read` and `encode` read rows
    of another form, such as those with rewards.
    """
    encode = collator.encode if encode is None and collator is not None else encode
    media = _MediaCheck(counts.media, read_media)
    for index in range(len(rows)):
        name: str | None = None
        problems: list[str] = []
        try:
            normalized, problems = read(rows.raw(index), rows.media_root)
            name = normalized["id"]
            messages = [message for messages in normalized["conversations"] for message in messages]
            bad_media = [problem for message in messages for problem in media.check(message)]
            problems += dict.fromkeys(bad_media)  # the conversations of a row share their media
            if encode is not None and not problems:
                encode(normalized)
        except RowError as error:
            problems = error.problems
        except ROW_ERRORS as error:
            problems = [str(error)]
        counts.num_rows += 1
        counts.num_bad += bool(problems)
        yield BadRow(rows.line_number(index), name, problems) if problems else None


class _MediaCheck:
    """A media check reads each distinct medium of the rows once."""

    def __init__(self, counts: Counter, read_media: bool):
        self.counts, self.read_media = counts, read_media
        self.answers: dict[bytes, str | None] = {}  # digest -> what is wrong with the medium

    def check(self, message: Mapping) -> Iterator[str]:
        """Tells what is wrong with each medium of a message that cannot be used."""
        content = message.get("content", [])
        for part in () if isinstance(content, str) else content:
            medium = parse_part(part)
            if isinstance(medium, MediaPart) and (problem := self._check(medium)):
                yield problem

    def _check(self, part: MediaPart) -> str | None:
        digest = _digest(part)
        if digest is None or digest not in self.answers:
            self.counts[part.modality] += 1
            problem = _read(part) if self.read_media else None
            if digest is None:
                return problem
            self.answers[digest] = problem
        return self.answers[digest]


def _read(part: MediaPart) -> str | None:
    """Reads a medium as the processor does, but only a few frames of a video, and tells what is wrong with it."""
    few = {} if part.options.keys() & POSITION_OPTIONS.keys() else {"num_frames": NUM_FRAMES}
    part = replace(part, options={**part.options, **few}) if part.modality == "video" else part
    try:
        load_medium(part, {"load_audio_from_video": True, "progress": False})
    except MediaError as error:
        return str(error)
    except ROW_ERRORS as error:
        return f"A part's options {sorted(part.options)} cannot be used: {error}"
    return None


def _digest(part: MediaPart) -> bytes | None:
    """Makes a digest that is the same for the same medium; None for one without a short name, such as an array."""
    source = part.source
    if isinstance(source, bytes):
        source = hashlib.blake2b(source, digest_size=16).digest()
    if not isinstance(source, (str, bytes)):
        return None
    return hashlib.blake2b(
        repr((part.modality, source, sorted(part.options.items()))).encode(), digest_size=16
    ).digest()
