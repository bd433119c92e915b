"""This module keeps the answers of a run, a line each, and the settings with which they were made."""

import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from ..engine.records import ReplyLog


ANSWERS, SETTINGS = "answers.jsonl", "settings.json"


class AnswerFile(ReplyLog):
    """The file has a line for each question that was asked, by its id, on the disk before the next one is asked.

    Args:
        file: of JSON lines, made if it is not there.
    """

    def __init__(self, file: Path):
        super().__init__(file, key_name="id", again="its question will be asked again")


@contextmanager
def open_answers(folder: Path, settings: Mapping[str, Any]) -> Iterator[AnswerFile]:
    """Opens the answers in a folder, for one process at a time.

    Args:
        settings: of this run, plain data; those of an earlier run in the folder must be the same.

    Raises:
        ValueError: when they differ, with the names of what differs, or another process writes there.
    """
    folder.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(folder / ".lock", timeout=0):
            answers = AnswerFile(folder / ANSWERS)
            try:
                _check_settings(folder / SETTINGS, settings, is_first=next(answers.entries(), None) is None)
                yield answers
            finally:
                answers.close()
    except Timeout as error:
        raise ValueError(f"Another process writes to {folder}; wait for its end, or give another `output`.") from error


def write_whole(file: Path, text: str) -> None:
    """Writes a file that is there as a whole or not at all."""
    unfinished = file.with_name(f".{file.name}.unfinished")
    unfinished.write_text(text, encoding="utf-8")
    os.replace(unfinished, file)


def _check_settings(file: Path, settings: Mapping[str, Any], is_first: bool) -> None:
    """Writes the settings of a first run, and compares those of a later one."""
    if is_first:
        write_whole(file, json.dumps(settings, indent=2, ensure_ascii=False) + "\n")
        return
    if not file.exists():
        raise ValueError(
            f"{file.parent} has answers without {SETTINGS}, so that nobody can go on; give another `output`."
        )
    before, now = _flat(json.loads(file.read_text(encoding="utf-8"))), _flat(json.loads(json.dumps(settings)))
    names = [name for name in {**before, **now} if before.get(name) != now.get(name)]
    if names:
        differences = "; ".join(f"{name} was {before.get(name)!r} and is {now.get(name)!r}" for name in names)
        raise ValueError(
            f"{file.parent} has answers that were made with other settings: {differences}. Go on with the settings of "
            "before, or give another `output`."
        )


def _flat(settings: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in settings.items():
        flat.update(_flat(value, f"{prefix}{name}.") if isinstance(value, dict) else {f"{prefix}{name}": value})
    return flat
