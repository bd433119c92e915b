"""This module makes the outline of a checkpoint: its small files whole, of its weight files the headers alone.

A repository on the Hub becomes a folder in which weight files have their headers and their sizes but no data: they are
sparse files, which take no room. What loads from it on PyTorch's meta device is checked as in a real load, and a few
megabytes have been fetched.
"""

import glob
import os
import shutil
import struct
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from huggingface_hub import HfApi, HfFileSystem, is_offline_mode, snapshot_download
from huggingface_hub.hf_api import RepoFile
from transformers.utils import ADAPTER_CONFIG_NAME, CONFIG_NAME

from ..omnivinci.checkpoint_files_omnivinci import component_file
from ..original_layout.config import COMPONENTS


# Loading looks for files in these folders.
PLACES = ("", *COMPONENTS, "additional_chat_templates")
SMALL_FILES = (".json", ".jinja", ".txt", ".model")
MAX_SMALL_FILE = 64 * 2**20
WEIGHTS = ".safetensors"
MAX_HEADER = 100_000_000  # safetensors itself reads no longer one
BLOCK = 2**17  # bytes that are fetched at once; nearly all headers are shorter


@dataclass
class Outline:
    """This is a folder from which a checkpoint can be examined.

    Args:
        name: of the checkpoint as the user knows it.
        folder: where the files lie; `name` itself for a local folder.
        commit: of a repository on the Hub.
        sizes: of all files that loading may look at, in bytes, by their paths in the folder.
        from_cache: whether it is only what the cache holds of a repository.
    """

    name: str
    folder: str
    commit: str | None
    sizes: dict[str, int]
    from_cache: bool = False

    @property
    def weight_files(self) -> list[str]:
        """The paths of the safetensors files."""
        return [path for path in self.sizes if path.endswith(WEIGHTS)]

    @property
    def small_files(self) -> list[str]:
        """The paths of the files that are there as a whole."""
        return [path for path, size in self.sizes.items() if is_small(path, size)]

    @property
    def num_bytes_read(self) -> int:
        """The bytes of the small files, and of the headers."""
        headers = (len(read_header(os.path.join(self.folder, path))) for path in self.weight_files)
        return sum(self.sizes[path] for path in self.small_files) + sum(headers)


def is_small(path: str, size: int) -> bool:
    """Says whether a file is of those that are read as a whole."""
    return path.endswith(SMALL_FILES) and size <= MAX_SMALL_FILE


@contextmanager
def open_outline(name: str, revision: str | None = None) -> Iterator[Outline]:
    """Gives the outline of a local folder or of a repository on the Hub; offline, of what the cache has of it.

    Raises:
        OSError: when there is no such folder or repository, it cannot be reached, or the user has no access.
        ValueError: for a revision of a local folder, or a name that no repository can have.
    """
    if os.path.isdir(name):
        if revision is not None:
            raise ValueError(f"{name} is a folder, which has no revisions: leave `revision` out.")
        yield Outline(name, name, None, _local_sizes(name))
        return
    if os.path.exists(name):
        raise NotADirectoryError(f"{name} is a file; give the folder of the checkpoint.")
    # Transformers says best what is wrong with a name, an access or a connection.
    options = {} if revision is None else {"revision": revision}
    config = component_file(name, "", CONFIG_NAME, options) or component_file(name, "", ADAPTER_CONFIG_NAME, options)
    if is_offline_mode() and config is None:
        raise FileNotFoundError(f"{name} has no {CONFIG_NAME} in the cache, and offline the Hub is not asked.")
    with tempfile.TemporaryDirectory(prefix="omnivinci-") as parent:
        # The name of the repository may tell how it is to be read, so the folder has it too.
        folder = Path(parent, name.rpartition("/")[2])
        if is_offline_mode():
            snapshot = Path(str(config)).parent
            outline = Outline(name, str(folder), snapshot.name, _local_sizes(snapshot), from_cache=True)
            _copy(outline, snapshot, lambda path: open(snapshot / path, "rb"))
        else:
            outline = Outline(name, str(folder), *_remote_sizes(name, revision))
            patterns = [glob.escape(path) for path in outline.small_files]
            snapshot = Path(snapshot_download(name, revision=outline.commit, allow_patterns=patterns))
            place, files = f"{name}@{outline.commit}", HfFileSystem()
            _copy(outline, snapshot, lambda path: files.open(f"{place}/{path}", block_size=BLOCK))
        yield outline


def read_header(path: str | os.PathLike) -> bytes:
    """Reads the header of a safetensors file with the 8 bytes before it; less where the file is damaged."""
    with open(path, "rb") as file:
        return _read_header(file, os.path.getsize(path))


def _read_header(file: BinaryIO, size: int) -> bytes:
    start = file.read(8)
    length = struct.unpack("<Q", start)[0] if len(start) == 8 else 0
    return start + file.read(length if length <= min(size, MAX_HEADER) else BLOCK)


def _local_sizes(folder: str | Path) -> dict[str, int]:
    files = sorted(path for place in PLACES for path in Path(folder, place).glob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): path.stat().st_size for path in files}


def _remote_sizes(name: str, revision: str | None) -> tuple[str, dict[str, int]]:
    api = HfApi()
    commit = api.model_info(name, revision=revision).sha
    entries = api.list_repo_tree(name, recursive=True, revision=commit)
    files = sorted((entry.path, entry.size) for entry in entries if isinstance(entry, RepoFile))
    return str(commit), {path: size for path, size in files if os.path.dirname(path) in PLACES}


def _copy(outline: Outline, small_files: Path, open_weights: Callable[[str], Any]) -> None:
    """Fills the folder of an outline; files that are neither small nor weights are there by name and size."""
    os.makedirs(outline.folder)
    for path, size in outline.sizes.items():
        target = Path(outline.folder, path)
        target.parent.mkdir(parents=True, exist_ok=True)
        if is_small(path, size):
            shutil.copyfile(small_files / path, target)
            continue
        with open(target, "wb") as copy:
            if path.endswith(WEIGHTS):
                with open_weights(path) as weights:
                    copy.write(_read_header(weights, size))
            copy.truncate(size)
