"""This module reads the files of benchmarks: rows of JSON, JSON lines and parquet, and the media beside them."""

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

from .scoring import plain
from .task import LETTERS


class Row(dict):
    """A row knows its place: a key that it lacks is an error that names both."""

    def __init__(self, values: dict[str, Any], place: str):
        super().__init__(values)
        self.place = place

    def __missing__(self, key: str) -> Any:
        raise ValueError(f"{self.place} has no {key!r}; it has {', '.join(map(repr, self))}.")


def find_files(data: Path, patterns: Sequence[str], layout: str) -> list[Path]:
    """Finds the files of the first pattern that has any.

    Args:
        patterns: paths below the folder, with `*`.
        layout: what is expected there, for the error.

    Raises:
        FileNotFoundError: when there are none.
    """
    for pattern in patterns:
        if files := sorted(data.glob(pattern)):
            return files
    raise FileNotFoundError(f"{data} holds no {' or '.join(patterns)}. Expected is: {layout}")


def find_medium(data: Path, *candidates: str) -> Path | None:
    """Finds the first of some files that is there, among their paths below the folder."""
    return next((data / name for name in candidates if (data / name).exists()), None)


def read_json(file: Path) -> Any:
    """Reads a file of JSON, or of JSON lines.

    Raises:
        ValueError: when it is broken.
    """
    text = file.read_text(encoding="utf-8-sig")
    try:
        if file.suffix == ".jsonl":
            return [json.loads(line) for line in text.splitlines() if line.strip()]
        return json.loads(text)
    except json.JSONDecodeError as error:
        raise ValueError(f"{file} is no valid JSON ({error}); get it again.") from error


def read_rows(files: Iterable[Path], blobs: Sequence[str] = ()) -> list[Row]:
    """Reads the rows of files of JSON, JSON lines or parquet.

    Args:
        blobs: columns of parquet files with media, which become functions that give their bytes.

    Raises:
        ValueError: when a file is broken, or does not hold rows.
        ImportError: for parquet, when pyarrow is not there.
    """
    rows = []
    for file in files:
        values = _read_parquet(file, blobs) if file.suffix == ".parquet" else read_json(file)
        if isinstance(values, dict):
            values = list(values.values())
        if not isinstance(values, list) or not all(isinstance(value, dict) for value in values):
            raise ValueError(f"{file} does not hold a list of rows; get it again.")
        rows += [Row(value, f"{file}, row {number}") for number, value in enumerate(values)]
    return rows


def _read_parquet(file: Path, blobs: Sequence[str]) -> list[dict[str, Any]]:
    """Reads all columns but those with media, of which nothing is decoded: no torchcodec is needed."""
    try:
        from pyarrow import ArrowInvalid
        from pyarrow.parquet import ParquetFile
    except ImportError as error:
        raise ImportError(f"{file} needs the package pyarrow: pip install pyarrow") from error
    try:
        parquet = ParquetFile(file)
    except ArrowInvalid as error:
        raise ValueError(f"{file} is no valid parquet file ({error}); get it again.") from error
    names = [name for name in parquet.schema_arrow.names if name not in blobs]
    rows = []
    for group in range(parquet.num_row_groups):
        for place, row in enumerate(parquet.read_row_group(group, columns=names).to_pylist()):
            row.update({name: partial(_read_blob, file, group, place, name) for name in blobs})
            rows.append(row)
    return rows


def _read_blob(file: Path, group: int, place: int, name: str) -> bytes:
    """Reads the bytes of one medium."""
    blob = _read_column(file, group, name)[place].as_py()
    content = blob.get("bytes") if isinstance(blob, dict) else blob
    if not content:
        raise ValueError(f"{file}: column {name!r} has no bytes in row {place} of group {group}; get the file again.")
    return content


@lru_cache(maxsize=4)
def _read_column(file: Path, group: int, name: str) -> Any:
    from pyarrow.parquet import ParquetFile

    return ParquetFile(file).read_row_group(group, columns=[name]).column(name)


def bare_options(choices: Sequence[Any]) -> tuple[str, ...]:
    """Takes the letters off options such as "A. a dog" or "(A) a dog", where all have theirs."""
    texts = [str(choice).strip() for choice in choices]
    matches = [
        re.fullmatch(rf"(?:\({letter}\)|{letter}[.):])\s*(.*)", text, re.DOTALL)
        for letter, text in zip(LETTERS, texts, strict=False)
    ]
    return tuple(match[1].strip() for match in matches if match) if all(matches) else tuple(texts)


def letter_of(answer: Any, choices: Sequence[Any]) -> str | None:
    """Finds the letter of an option by its words, as they stand or without its letter.

    Returns:
        None where the answer is none of the options, or several.
    """
    given, answer = [str(choice).strip() for choice in choices], str(answer).strip()
    if answer in given:
        return LETTERS[given.index(answer)]
    options = enumerate(bare_options(choices))
    matching = [LETTERS[number] for number, option in options if plain(option) == plain(answer)]
    return matching[0] if len(matching) == 1 else None


def known_letter(row: Row, key: str, options: Sequence[str]) -> str:
    """Reads the letter of the right option.

    Raises:
        ValueError: when it is no letter of an option.
    """
    letter = str(row[key]).strip().upper()
    if len(letter) != 1 or letter not in LETTERS[: len(options)]:
        raise ValueError(f"{row.place}: {key!r} must be the letter of one of {len(options)} options, got {row[key]!r}.")
    return letter


def groups_of(row: Row, **keys: str) -> dict[str, list[str]]:
    """Reads the parts of a benchmark that a row counts for: division -> key of the row."""
    found = {}
    for division, key in keys.items():
        value = row.get(key)
        values = value if isinstance(value, (list, tuple)) else [value]
        found[division.replace("_", " ")] = [str(one) for one in values if one is not None]
    return found


def as_json(rows: Any) -> str:
    """Writes rows as the scorers of benchmarks read them."""
    return json.dumps(rows, ensure_ascii=False, indent=2) + "\n"


def without_blobs(row: Mapping[str, Any]) -> dict[str, Any]:
    """Copies a row without its media."""
    return {name: value for name, value in row.items() if not callable(value)}
