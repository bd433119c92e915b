"""This module writes folders that are whole or not there, whatever stops the process that writes them."""

import ctypes
import os
import re
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout


# Uploads to the Hub leave out names that begin with "_", and no trainer takes them for checkpoints.
UNFINISHED = "_unfinished-"
# These weights would be read in place of new ones that lie in files of other names.
STALE_WEIGHTS = re.compile(r"model(-\d{5}-of-\d{5})?\.safetensors|model\.safetensors\.index\.json")


def unfinished_folder(folder: str | os.PathLike) -> Path:
    """Returns where [`whole_folder`] writes before `folder` is whole."""
    folder = Path(os.path.realpath(folder))
    return folder.with_name(UNFINISHED + folder.name) / "new" / folder.name


@contextmanager
def whole_folder(folder: str | os.PathLike, *, overwrite: bool = False, keep_others: bool = True) -> Iterator[Path]:
    """Gives a new folder to write to, beside `folder`, whose place it takes at the end in one step; a link stays one.

    An error deletes the new folder. What a killed process left of it lies in `_unfinished-NAME`, until the next process
    that writes the same folder deletes it.

    Args:
        overwrite: replace files of the same names that are there at the end.
        keep_others: leave all other files where they are, but for the weights of a model; False: delete them.

    Raises:
        FileExistsError: when another process is writing the same folder, or without `overwrite` a file of the same name
            has come to be there; it stays.
        OSError: when it is a mount point.
    """
    folder = Path(os.path.realpath(folder))
    if os.path.ismount(folder):
        raise OSError(f"{folder} is a mount point, which no folder can take the place of: give a folder inside it.")
    folder.parent.mkdir(parents=True, exist_ok=True)
    new = unfinished_folder(folder)
    with _sole_writer(folder, new.parents[1]) as old:
        new.mkdir(parents=True)
        yield new
        _take_place(new, folder, old, overwrite, keep_others)


def delete_unfinished(parent: str | os.PathLike, names: str) -> None:
    """Deletes what killed processes left of folders whose names fit a pattern; what is being written now stays."""
    for work in Path(os.path.realpath(parent)).glob(UNFINISHED + names):
        with suppress(FileExistsError), _sole_writer(work.with_name(work.name.removeprefix(UNFINISHED)), work):
            pass


@contextmanager
def _sole_writer(folder: Path, work: Path) -> Iterator[Path]:
    """Locks the folder `work`, and empties it of what a killed process left; gives a place in it for the old folder."""
    work.mkdir(exist_ok=True)
    lock, new, old = FileLock(work / "lock"), work / "new", work / "old"
    try:
        lock.acquire(blocking=False)
    except Timeout as error:
        raise FileExistsError(f"Another process is writing {folder} at this moment, in {work}.") from error
    try:
        if old.exists() and not folder.exists():
            old.rename(folder)  # a process was killed between the two steps of `_take_place`
        for leftover in (new, old):
            if leftover.exists():
                shutil.rmtree(leftover)
        yield old
    finally:
        for leftover in (new, old):
            shutil.rmtree(leftover, ignore_errors=True)
        Path(lock.lock_file).unlink(missing_ok=True)
        lock.release()
        with suppress(OSError):  # another process has begun to write there
            work.rmdir()


def _take_place(new: Path, folder: Path, old: Path, overwrite: bool, keep_others: bool) -> None:
    try:
        new.rename(folder)  # also in the place of an empty folder
        return
    except OSError:
        if not folder.is_dir():
            raise
    if not overwrite and (both := sorted({*os.listdir(new)} & {*os.listdir(folder)})):
        raise FileExistsError(f"Meanwhile {folder} has got {', '.join(both)}, which stay; give another folder.")
    if keep_others:
        _carry_over(folder, new)
    if _exchange(new, folder):
        old = new
    else:
        folder.rename(old)
        try:
            new.rename(folder)
        except OSError:
            old.rename(folder)
            raise
    if keep_others:
        _carry_over(old, folder)  # what came in the last moment


def _carry_over(old: Path, new: Path) -> None:
    """Links all files of `old` into `new` that `new` does not have, but for weights."""

    def left_out(folder: str, names: list[str]) -> list[str]:
        twin = new / os.path.relpath(folder, old)
        there = {name for name in names if os.path.lexists(twin / name)}
        both_folders = {name for name in there if (twin / name).is_dir() and not (twin / name).is_symlink()}
        stale = {name for name in names if STALE_WEIGHTS.fullmatch(name)} if Path(folder) == old else set()
        return [*(there - both_folders), *stale]

    shutil.copytree(old, new, symlinks=True, ignore=left_out, copy_function=_link, dirs_exist_ok=True)


def _link(source: str, target: str) -> None:
    try:
        os.link(source, target, follow_symlinks=False)
    except OSError:  # a file system without such links
        shutil.copy2(source, target)


def _exchange(one: Path, other: Path) -> bool:
    """Swaps two folders in one step, or returns False where the system or the file system cannot."""
    if not sys.platform.startswith("linux"):
        return False
    swap = getattr(ctypes.CDLL(None), "renameat2", None)
    current, exchange = -100, 2  # AT_FDCWD, RENAME_EXCHANGE
    return swap is not None and swap(current, os.fsencode(one), current, os.fsencode(other), exchange) == 0
