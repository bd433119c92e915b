"""This module keeps what the engine writes: a log of replies that survives any end, and files of records."""

import filecmp
import json
import os
import threading
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from transformers.utils import logging


logger = logging.get_logger(__name__)


class ReplyLog:
    """A log holds all replies that ever came, by a key of what was asked; each is written as soon as it is there.

    A line that an end of the process cut off is removed when the log is opened again. One process writes at a time.

    Args:
        read_only: for an estimate or a report: nothing is written or mended.
        key_name: what the key is called in the lines.
        again: says in warnings and errors what becomes of a lost line.

    Raises:
        ValueError: when a line within the file is damaged.
    """

    def __init__(
        self,
        file: Path,
        read_only: bool = False,
        key_name: str = "key",
        again: str = "its request will be sent again",
    ):
        self.file, self.key_name, self.again = file, key_name, again
        self._places: dict[str, int] = {}  # key -> where its line begins
        self._lock = threading.Lock()
        self._stream = open(file, "rb" if read_only else "a+b") if not read_only or file.exists() else None
        self._end = self._index() if self._stream else 0
        if not read_only and self._stream is not None and self._end < os.path.getsize(file):
            logger.warning(f"{file}: the last line is cut off and is removed; {again}.")
            self._stream.truncate(self._end)

    def __contains__(self, key: str) -> bool:
        return key in self._places

    def get(self, key: str) -> dict[str, Any] | None:
        """Returns the entry of a request, or None."""
        with self._lock:
            if key not in self._places or self._stream is None:
                return None
            self._stream.seek(self._places[key])
            return json.loads(self._stream.readline())

    def add(self, key: str, entry: dict[str, Any]) -> None:
        """Writes an entry to the disk, before it returns."""
        line = json.dumps({self.key_name: key, **entry}, ensure_ascii=True).encode() + b"\n"
        with self._lock:
            assert self._stream is not None
            self._stream.seek(0, os.SEEK_END)
            place = self._stream.tell()
            self._stream.write(line)
            self._stream.flush()
            os.fsync(self._stream.fileno())
            self._places[key] = place

    def entries(self) -> Iterator[dict[str, Any]]:
        """Yields all entries, in the order in which they came."""
        for key in list(self._places):
            entry = self.get(key)
            assert entry is not None
            yield entry

    def close(self) -> None:
        """Closes the file."""
        if self._stream is not None:
            self._stream.close()

    def _index(self) -> int:
        """Notes where each line begins; returns where the last whole one ends."""
        assert self._stream is not None
        self._stream.seek(0)
        place = 0
        for number, line in enumerate(self._stream, 1):
            try:
                if not line.endswith(b"\n"):
                    return place
                self._places[json.loads(line)[self.key_name]] = place
            except (ValueError, KeyError, TypeError) as error:
                if place + len(line) == os.path.getsize(self.file):
                    return place
                raise ValueError(f"{self.file}: line {number} is damaged; delete it, and {self.again}.") from error
            place += len(line)
        return place


def write_records(file: Path, records: Iterable[dict[str, Any]], later: Iterable[Path] = ()) -> bool:
    """Writes JSON lines; the file appears when it is complete.

    Args:
        later: files that rest on this one: if it changes, they are deleted first.

    Returns:
        whether such files were deleted.
    """
    unfinished = file.with_name(f".{file.name}.unfinished")
    with open(unfinished, "w", encoding="utf-8") as stream:
        for record in records:
            stream.write(json.dumps(record, ensure_ascii=False) + "\n")
        stream.flush()
        os.fsync(stream.fileno())
    stale = [path for path in later if path.exists()]
    if file.exists() and filecmp.cmp(file, unfinished, shallow=False):
        stale = []
    for path in stale:
        path.unlink()
    os.replace(unfinished, file)
    return bool(stale)


def read_records(file: Path) -> Iterator[dict[str, Any]]:
    """Yields the records of a file that [`write_records`] wrote."""
    with open(file, encoding="utf-8") as stream:
        for line in stream:
            yield json.loads(line)
