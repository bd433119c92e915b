"""This module looks up what the command line names before anything heavy is imported: a wrong path costs no seconds."""

import argparse
import os
from collections.abc import Iterable
from pathlib import Path

from ..omnivinci.media_reading_omnivinci import file_size


DATA_FILES = (".jsonl", ".ndjson", ".json", ".parquet")


def check_files(arguments: argparse.Namespace) -> None:
    """Looks up the files of media and data and the model's folder, as far as the command has them and they are local.

    Raises:
        ValueError, OSError: when one is not there.
    """
    for path in getattr(arguments, "media", None) or ():
        _check_medium(path)
    if getattr(arguments, "model", None) is not None:
        check_folder(arguments.model)
    for data in (getattr(arguments, "data", None), getattr(arguments, "eval_data", None)):
        if not isinstance(data, Path):  # a folder of the command itself
            _check_data([data] if isinstance(data, str) else data or ())
    media_root = getattr(arguments, "media_root", None)
    if media_root is not None and not os.path.isdir(media_root):
        raise NotADirectoryError(f"--media-root {media_root} is not a folder.")
    if arguments.command == "engine" and arguments.action != "prompts" and not arguments.file.is_file():
        raise FileNotFoundError(f"{arguments.file} is no file; give the configuration of the engine.")
    if arguments.command == "convert":
        check_folder(arguments.src)
    if arguments.command == "doctor":
        check_name(arguments.checkpoint)


def _check_medium(path: str) -> None:
    """Looks up the file of a medium; what is written as a URL of data or of a file passes."""
    if path[:5].lower() in ("data:", "file:"):
        return  # reading it will tell what is wrong with it
    if "://" in path:
        raise ValueError(f"file {path[:1000]!r}: URLs are not fetched; download the file first and give its path.")
    file_size(f"file {path[:1000]!r}", path)


def _check_data(paths: Iterable[str]) -> None:
    """Looks up files of rows; what may be the name of a dataset on the Hub passes."""
    for path in paths:
        if path.endswith(DATA_FILES) and not os.path.exists(path):
            raise FileNotFoundError(f"{path} does not exist; check the path.")


def check_folder(model: str) -> None:
    """Looks up the folder of a checkpoint or an adapter; what may be a name on the Hub passes.

    Raises:
        FileNotFoundError: when there is no such folder, or neither in it.
    """
    check_name(model)
    if os.path.isdir(model) and not {"config.json", "adapter_config.json"} & set(os.listdir(model)):
        raise FileNotFoundError(f"{model} holds no checkpoint (no config.json).")


def check_name(model: str) -> None:
    """Looks up a folder; what may be a name on the Hub passes.

    Raises:
        FileNotFoundError: when there is no such folder.
        NotADirectoryError: when it is a file.
    """
    if os.path.isfile(model):
        raise NotADirectoryError(f"{model} is a file; give the folder of a checkpoint, or a Hub id.")
    if not os.path.isdir(model) and (os.path.isabs(model) or model.startswith(".") or model.count("/") > 1):
        raise FileNotFoundError(f"{model} does not exist; give the folder of a checkpoint, or a Hub id.")
