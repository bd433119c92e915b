"""This module reads rows of training data: their one schema, and the files and datasets that they come from.

A row is a conversation in the usual chat form:

    {"id": "clip-7",                               # optional
     "messages": [
        {"role": "system", "content": "You are brief."},
        {"role": "user", "content": [
            {"type": "video", "path": "clips/7.mp4", "start_sec": 5, "end_sec": 20},
            {"type": "text", "text": "What happens, and what is said?"}]},
        {"role": "assistant", "content": "A dog barks at a man, who says hello."}]}

`content` is a string or a list of parts, each a text, image, video or audio, as the processor's `apply_chat_template`
takes them: a medium under `path`, `url` or the name of its type, and options of its own beside it. Also understood:

- `conversations` instead of `messages`: a list of conversations that begin with the same media, and the same words
  before the last medium. They are trained together, with the media encoded once.
- `prompt` and `completion`, two lists of messages, which are joined; or `prompt` and `answer`, a string.
- lists `images`, `videos` and `audios` beside the messages: the n-th part of a type that has no medium of its own takes
  the n-th entry of the list. Entries are what a part may hold (paths, PIL images, arrays) or what `datasets` stores
  (`{"bytes", "path"}`, `{"array", "sampling_rate"}`). In `conversations`, each one takes the list from its start.
- keys whose value is None, which Arrow puts wherever another row has something.

Every other column is ignored.
"""

import copy
import json
import os
import re
from array import array
from bisect import bisect_right
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.data import ChainDataset, ConcatDataset, Dataset

from ..omnivinci.configuration_omnivinci import MEDIA_TOKENS
from ..omnivinci.conversation_omnivinci import ROLES, SOURCE_KEYS, MediaPart, check_source, parse_part, shown
from ..omnivinci.sequence_layout_omnivinci import is_text


COLUMNS = {"image": "images", "video": "videos", "audio": "audios"}
JSON_LINES = (".jsonl", ".ndjson", ".json")
# Reading a row and its media may raise these when the row is bad.
ROW_ERRORS = (ValueError, TypeError, OSError)

_URL = re.compile(r"data:|file:/|[a-z][a-z0-9+.-]*://", re.IGNORECASE)


class RowError(ValueError):
    """A row cannot be used. `problems` says everything that is wrong with it, `place` where the row is."""

    def __init__(self, *problems: str, place: str = ""):
        super().__init__(*problems)
        self.place = place

    @property
    def problems(self) -> list[str]:
        """Everything that is wrong with the row, one sentence or two for each problem."""
        return list(self.args)

    def __str__(self) -> str:
        return (f"{self.place}: " if self.place else "") + " ".join(self.args)


def normalize_row(row: Mapping, media_root: str | os.PathLike | None = None) -> dict[str, Any]:
    """Brings a row into the one form that training reads: `{"id": str | None, "conversations": [[message, ...], ...]}`.

    Every media part holds its medium, and relative paths begin at `media_root`. The row itself is left as it is. What
    comes out may be given again and stays the same.

    Raises:
        RowError: with everything that is wrong with the row; also the one that a dataset put in the place of a bad
            row (`on_bad_row="return"`).
    """
    if isinstance(row, Mapping) and isinstance(row.get("error"), RowError):
        raise row["error"]
    normalized, problems = read_row(row, media_root)
    if problems:
        raise RowError(*problems)
    return normalized


def read_row(row: Mapping, media_root: str | os.PathLike | None = None) -> tuple[dict[str, Any], list[str]]:
    """Brings a row into the form of [`normalize_row`] as far as it can, and tells all that is wrong with it."""
    reader = RowReader(media_root)
    return reader.read(row), reader.problems


class RowReader:
    """The reader of one row notes what is wrong and goes on, so that one look tells all of it."""

    needs_answer = True  # whether every conversation must have a turn of the assistant, to be learned

    def __init__(self, media_root: str | os.PathLike | None):
        self.media_root = media_root
        self.problems: list[str] = []

    def read(self, row: Mapping) -> dict[str, Any]:
        """Reads a row as [`normalize_row`] returns it."""
        if not isinstance(row, Mapping):
            self.problems.append(f"A row must be an object with `messages`, got {shown(row)}.")
            return {"id": None, "conversations": []}
        row = _without_none(row)
        columns = {modality: self._column(row, name) for modality, name in COLUMNS.items()}
        conversations = [self._conversation(place, messages, columns) for place, messages in self._conversations(row)]
        if not self.problems:
            self._check_beginnings(conversations)
        name = row.get("id")
        if isinstance(name, bool) or not isinstance(name, (str, int, type(None))):
            self.problems.append(f"`id` must be a string, got {shown(name)}.")
        elif not is_text(str(name)):
            self.problems.append(f"`id` is {shown(name)}, which is no text: it holds half of a character.")
            name = None
        return {"id": None if name is None else str(name), "conversations": conversations}

    def _conversations(self, row: dict) -> list[tuple[str, Any]]:
        """Returns the conversations of a row, each with the name of its place in the row."""
        forms = [form for form in ("messages", "conversations", "prompt") if form in row]
        if len(forms) != 1:
            present = " and ".join(f"`{form}`" for form in forms) or f"only {sorted(map(str, row))}"
            self.problems.append(
                f"A row holds its words under one of `messages`, `conversations`, or `prompt` and `completion`; this "
                f"one has {present}."
            )
            return []
        if forms == ["messages"]:
            return [("messages", row["messages"])]
        if forms == ["prompt"]:
            return self._prompt_and_completion(row["prompt"], self._completion(row))
        return self._several_conversations(row["conversations"])

    def _completion(self, row: dict) -> Any:
        """Returns the messages that follow the prompt of a row: its `completion`, or else its `answer`."""
        if "completion" in row:
            return row["completion"]
        answer = row.get("answer")
        if isinstance(answer, str) and self.needs_answer:
            return [{"role": "assistant", "content": answer}]
        return None if self.needs_answer else []

    def _prompt_and_completion(self, prompt: Any, completion: Any) -> list[tuple[str, Any]]:
        if not all(isinstance(part, (list, tuple)) for part in (prompt, completion)):
            what = "`prompt` and `completion` must both be lists" if self.needs_answer else "`prompt` must be a list"
            also = f" and {shown(completion)}" if self.needs_answer else ""
            self.problems.append(
                f'{what} of messages, got {shown(prompt)}{also}; write the words as [{{"role": ..., "content": ...}}].'
            )
            return []
        return [("prompt + completion" if completion else "prompt", [*prompt, *completion])]

    def _several_conversations(self, conversations: Any) -> list[tuple[str, Any]]:
        if not isinstance(conversations, (list, tuple)) or not conversations:
            self.problems.append(f"`conversations` must be a list of lists of messages, got {shown(conversations)}.")
            return []
        if any(isinstance(entry, Mapping) for entry in conversations):
            self.problems.append(
                "`conversations` must be a list of conversations, each a list of messages with `role` and `content`, "
                "but it holds messages; put a single conversation under `messages`."
            )
            return []
        return [(f"conversations[{number}]", messages) for number, messages in enumerate(conversations)]

    def _conversation(self, place: str, messages: Any, columns: dict[str, list]) -> list[dict]:
        if not isinstance(messages, (list, tuple)) or not messages:
            self.problems.append(f"`{place}` must be a list of messages, got {shown(messages)}.")
            return []
        num_used = dict.fromkeys(columns, 0)
        read = [
            self._message(f"{place}[{number}]", message, columns, num_used) for number, message in enumerate(messages)
        ]
        if self.needs_answer and not any(message.get("role") == "assistant" for message in read):
            self.problems.append(f"`{place}` has no assistant turn: there is nothing to learn; add the answer.")
        for modality, entries in columns.items():
            if num_used[modality] != len(entries):
                self.problems.append(
                    f"`{COLUMNS[modality]}` has {len(entries)} entries but `{place}` has {num_used[modality]} "
                    f"{modality} parts without a medium of their own; write one "
                    f'{{"type": "{modality}"}} part for every entry.'
                )
        return read

    def _message(self, place: str, message: Any, columns: dict[str, list], num_used: dict[str, int]) -> dict:
        if not isinstance(message, Mapping):
            self.problems.append(f"`{place}` must be an object with `role` and `content`, got {shown(message)}.")
            return {}
        message = _without_none(message)
        role, content = message.get("role"), message.get("content")
        if role not in ROLES:
            self.problems.append(f"`{place}` has the role {shown(role)}; known are {', '.join(ROLES)}.")
        if isinstance(content, (list, tuple)):
            parts = [
                self._part(f"{place}.content[{number}]", part, columns, num_used) for number, part in enumerate(content)
            ]
            content = [part for part in parts if part]
            if role == "assistant" and any(part["type"] != "text" for part in content):
                self.problems.append(f"`{place}` is an assistant turn with media; answers are text, so move them.")
        elif not isinstance(content, str):
            self.problems.append(f"`{place}.content` must be a string or a list of parts, got {shown(content)}.")
            content = []
        self._check_words(place, role, content)
        return {**message, "content": content}

    def _check_words(self, place: str, role: Any, content: str | list[dict]) -> None:
        texts = [content] if isinstance(content, str) else [part["text"] for part in content if part["type"] == "text"]
        words = "".join(texts)
        if role == "assistant" and not words.strip():
            self.problems.append("An assistant turn is empty; write the answer, or leave the row out.")
        if not is_text(words):
            self.problems.append(f"The words of `{place}` are no text: they hold half of a character (a surrogate).")
        for token in MEDIA_TOKENS.values():
            if token in words:
                self.problems.append(
                    f"The words of a turn of role {role!r} hold {token!r}, which is removed before training; put the "
                    "medium there as a part of its own."
                )

    def _part(self, place: str, part: Any, columns: dict[str, list], num_used: dict[str, int]) -> dict | None:
        try:
            parsed = parse_part(part, f"`{place}`", needs_medium=False)
            if isinstance(parsed, str):
                return {"type": "text", "text": parsed}
            return self._medium(place, parsed, columns, num_used)
        except ValueError as error:
            self.problems.append(str(error))
            return None

    def _medium(self, place: str, part: MediaPart, columns: dict[str, list], num_used: dict[str, int]) -> dict | None:
        source, modality = part.source, part.modality
        if source is None:
            number, entries = num_used[modality], columns[modality]
            if not entries:
                raise ValueError(
                    f"`{place}` has no medium: put it under one of {', '.join((modality, *SOURCE_KEYS))}, or into the "
                    f"list `{COLUMNS[modality]}` of the row."
                )
            num_used[modality] += 1
            if number >= len(entries):
                return None  # the conversation tells once how many are missing
            source = check_source(f"`{COLUMNS[modality]}[{number}]`", modality, entries[number])
        if isinstance(source, str) and not is_text(source):
            raise ValueError(f"`{place}` has the path {shown(source)}, which is no text: it holds half of a character.")
        options = dict(part.options)
        if "audio" in options:
            options["audio"] = self._placed(options["audio"])
        return MediaPart(modality, self._placed(source), options).as_dict()

    def _column(self, row: dict, name: str) -> list:
        entries = row.get(name, [])
        if isinstance(entries, (list, tuple)):
            return list(entries)
        self.problems.append(f"`{name}` must be a list with one entry per part, got {shown(entries)}.")
        return []

    def _placed(self, source: Any) -> Any:
        """Lets the path of a medium, or those of its frames, begin at the media root."""
        if isinstance(source, (str, os.PathLike)):
            return self._path(os.fspath(source))
        return [self._placed(frame) for frame in source] if isinstance(source, list) else source

    def _path(self, path: str) -> str:
        if self.media_root is None or _URL.match(path):
            return path
        return os.path.abspath(os.path.join(self.media_root, path))

    def _check_beginnings(self, conversations: list[list[dict]]) -> None:
        first, *others = map(_beginning, conversations or [[]])
        for number, other in enumerate(others, 1):
            if not _is_same(first, other):
                self.problems.append(
                    f"`conversations[{number}]` does not begin with the same media, and the same words before the last "
                    "medium, as `conversations[0]`; write it as a row of its own."
                )


def _beginning(messages: list[dict]) -> list:
    """Lists what stands up to the last medium: roles, the words between, and the media parts."""
    turns, end = [], 0
    for message in messages:
        content, words = message["content"], ""
        turns.append(message["role"])
        for part in [{"type": "text", "text": content}] if isinstance(content, str) else content:
            if part["type"] == "text":
                words += part["text"]
            else:
                turns += [words, part]
                words, end = "", len(turns)
        turns.append(words)
    return turns[:end]


def _is_same(one: Any, other: Any) -> bool:
    if one is other:
        return True
    if type(one) is not type(other):
        return False
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(_is_same(one[key], other[key]) for key in one)
    if isinstance(one, (list, tuple)):
        return len(one) == len(other) and all(map(_is_same, one, other))
    if isinstance(one, (np.ndarray, torch.Tensor)):
        return one.shape == other.shape and one.dtype == other.dtype and bool((one == other).all())
    return bool(one == other)


def _without_none(mapping: Mapping) -> dict:
    return {key: value for key, value in mapping.items() if value is not None}


class RowDataset(Dataset):
    """A dataset gives rows by their number, as [`normalize_row`] returns them.

    Args:
        media_root: where relative paths of media begin.
        on_bad_row: "raise" the [`RowError`] of a row that cannot be used, or "return" it as `{"error": RowError}` in
            the row's place, which [`normalize_row`] raises: then whoever collates rows decides whether to skip it.
        normalize: what brings a row into its form: [`normalize_row`], or another function of a row and the media root.
    """

    def __init__(
        self,
        media_root: str | os.PathLike | None = None,
        on_bad_row: str = "raise",
        normalize: Callable[..., dict[str, Any]] = normalize_row,
    ):
        if on_bad_row not in ("raise", "return"):
            raise ValueError(f'`on_bad_row` must be "raise" or "return", got {on_bad_row!r}.')
        self.media_root, self.on_bad_row, self.normalize = media_root, on_bad_row, normalize

    def __len__(self) -> int:
        raise NotImplementedError

    def raw(self, index: int) -> Mapping:
        """Returns the row as it was written."""
        raise NotImplementedError

    def line_number(self, index: int) -> int:
        """Tells where a row stands, counted from 1."""
        return index + 1

    def place(self, index: int) -> str:
        """Tells where a row stands, in the words of an error."""
        raise NotImplementedError

    def __getitem__(self, index: int) -> dict[str, Any]:
        index = range(len(self))[index]  # also from the end; IndexError outside
        try:
            return self.normalize(self.raw(index), self.media_root)
        except RowError as error:
            error.place = error.place or self.place(index)
            if self.on_bad_row == "return":
                return {"error": error}
            raise


class JsonlDataset(RowDataset):
    """The dataset reads the rows of a JSON-lines file; blank lines are skipped.

    Only the places of the lines are held in memory, 16 bytes a row, and nothing is copied to a cache. `datasets` reads
    such files too, but stops at the first broken line and does not know the lines' numbers, and before its `Json` type
    it could not hold a `content` that is a string in one row and a list in the next.

    Raises:
        RowError: for a file without rows; from a row that is no JSON, with file and line number.
    """

    def __init__(
        self,
        path: str | os.PathLike,
        media_root: str | os.PathLike | None = None,
        on_bad_row: str = "raise",
        normalize: Callable[..., dict[str, Any]] = normalize_row,
    ):
        super().__init__(media_root, on_bad_row, normalize)
        self.path = os.fspath(path)
        self._offsets, self._line_numbers = array("Q"), array("Q")
        offset = 0
        with open(self.path, "rb") as file:
            for number, line in enumerate(file, 1):
                if line.strip():
                    self._offsets.append(offset)
                    self._line_numbers.append(number)
                offset += len(line)
        if not self._offsets:
            raise RowError("It has no rows; write one JSON object per line.", place=self.path)

    def __len__(self) -> int:
        return len(self._offsets)

    def line_number(self, index: int) -> int:
        """Tells the number of a row's line in the file, counted from 1; blank lines count."""
        return self._line_numbers[index]

    def place(self, index: int) -> str:
        """Tells where a row stands: the path of the file and the line."""
        return f"{self.path}, line {self.line_number(index)}"

    def raw(self, index: int) -> Mapping:
        """Reads a row from the file as it was written.

        Raises:
            RowError: for a line that is no JSON, with file and line number.
        """
        # The file is opened anew each time: forked workers would share the position of an open one.
        with open(self.path, "rb") as file:
            file.seek(self._offsets[index])
            line = file.readline()
        try:
            return json.loads(line)
        except (ValueError, RecursionError) as error:
            problem = f"This is no JSON ({error}); every line must be one whole JSON object in UTF-8."
            raise RowError(problem, place=self.place(index)) from error


class _StoredDataset(RowDataset):
    """The dataset gives rows of a `datasets.Dataset`, with media left undecoded: the processor reads them."""

    def __init__(self, dataset, name: str, media_root=None, on_bad_row: str = "raise", normalize=normalize_row):
        super().__init__(media_root, on_bad_row, normalize)
        self.name = name
        self.features = _undecoded(dataset.features)
        self.table = dataset.with_format("arrow")

    def __len__(self) -> int:
        return len(self.table)

    def place(self, index: int) -> str:
        return f"{self.name}, row {self.line_number(index)}"

    def raw(self, index: int) -> Mapping:
        return self.features.decode_example(self.table[index].to_pylist()[0])


def load_rows(
    data: str | os.PathLike | Sequence[str | os.PathLike],
    split: str = "train",
    media_root: str | os.PathLike | None = None,
    streaming: bool = False,
    on_bad_row: str = "raise",
    normalize: Callable[..., dict[str, Any]] = normalize_row,
):
    """Makes a dataset of rows in the form of [`normalize_row`].

    Args:
        data: a JSON-lines file (`.jsonl`, `.ndjson`, `.json`), a parquet file, a folder that `datasets` wrote
            (`save_to_disk`) or can read, or the name of a dataset on the Hub; or several of these, which are joined.
        split: of a folder or a dataset of the Hub.
        media_root: where relative paths of media begin.
        streaming: read parquet files, folders and the Hub from front to back, as a `datasets.IterableDataset`. A
            JSON-lines file is never held in memory, so it stays as it is, and cannot be joined with streams.
        on_bad_row, normalize: as in [`RowDataset`].

    Raises:
        ValueError: for files that are of no known kind or cannot be joined, or a missing split.
        TypeError: for what is no path, such as bytes.
        FileNotFoundError: for a path that does not exist.
        RowError: for a JSON-lines file without rows.
    """
    if isinstance(data, Sequence) and not isinstance(data, (str, bytes)):
        if not data:
            raise ValueError("`data` is an empty list; name at least one file, folder or dataset.")
        return _joined([load_rows(one, split, media_root, streaming, on_bad_row, normalize) for one in data])
    name = os.fspath(data)
    if Path(name).suffix in JSON_LINES:
        return JsonlDataset(name, media_root, on_bad_row, normalize)
    is_local = os.path.isabs(name) or name.startswith(".") or name.count("/") > 1 or name.endswith(".parquet")
    if is_local and not os.path.exists(name):
        raise FileNotFoundError(f"{name} does not exist; give a file, a folder or the name of a dataset on the Hub.")
    dataset = _load_stored(name, split, streaming)
    if not streaming:
        return _StoredDataset(dataset, name, media_root, on_bad_row, normalize)
    columns = dataset.column_names or list(next(iter(dataset.take(1)), {}))
    if dataset.features is not None:
        dataset = dataset.cast(_undecoded(dataset.features))
    return dataset.map(
        partial(_usable, media_root=media_root, on_bad_row=on_bad_row, place=f"A row of {name}", normalize=normalize),
        remove_columns=columns,
    )


def _load_stored(name: str, split: str, streaming: bool):
    try:
        import datasets
    except ImportError as error:
        raise ImportError(f"{name} needs the package datasets: pip install datasets") from error
    folder = Path(name)
    if (folder / "state.json").is_file() or (folder / "dataset_dict.json").is_file():
        dataset = datasets.load_from_disk(name)
        if isinstance(dataset, datasets.DatasetDict):
            if split not in dataset:
                raise ValueError(f"{name} has no split {split!r}; it has {', '.join(dataset)}.")
            dataset = dataset[split]
        return dataset.to_iterable_dataset() if streaming else dataset
    if folder.suffix == ".parquet":
        return datasets.load_dataset("parquet", data_files=name, split="train", streaming=streaming)
    if folder.is_file():
        raise ValueError(f"{name} is of no known kind; give JSON lines ({', '.join(JSON_LINES)}) or .parquet.")
    return datasets.load_dataset(name, split=split, streaming=streaming)


def place_of(rows, index: int) -> str:
    """Tells where a row of a dataset of [`load_rows`], or of a list, stands."""
    if isinstance(rows, ConcatDataset):
        number = bisect_right(rows.cumulative_sizes, index)
        return place_of(rows.datasets[number], index - (rows.cumulative_sizes[number - 1] if number else 0))
    return rows.place(index) if isinstance(rows, RowDataset) else f"row {index + 1}"


def _joined(parts: list):
    streams = [part for part in parts if not isinstance(part, RowDataset)]
    if not streams:
        return ConcatDataset(parts) if len(parts) > 1 else parts[0]
    if len(streams) < len(parts):
        raise ValueError("JSON-lines files and streams cannot be joined; leave out `streaming`, or give one kind.")
    # `datasets` would try to make Arrow tables of the rows, which hold anything
    return ChainDataset(streams) if len(streams) > 1 else streams[0]


def _usable(
    row: Mapping, media_root=None, on_bad_row: str = "raise", place: str = "", normalize=normalize_row
) -> dict[str, Any]:
    try:
        return normalize(row, media_root)
    except RowError as error:
        error.place = error.place or place
        if on_bad_row == "return":
            return {"error": error}
        raise


def _undecoded(feature):
    """Returns the same features of `datasets`, with images, audio and videos as stored bytes and paths."""
    from datasets import Audio, Image, LargeList, List, Video

    if isinstance(feature, dict):
        return type(feature)({name: _undecoded(value) for name, value in feature.items()})
    if isinstance(feature, (List, LargeList)):
        feature = copy.copy(feature)
        feature.feature = _undecoded(feature.feature)
    elif isinstance(feature, (Audio, Image, Video)):
        feature = copy.copy(feature)
        feature.decode = False
    return feature
