"""What the command line names is looked up before anything heavy is imported: a wrong path costs no seconds."""

import argparse
import os

from ..media_limits_omnivinci import file_size


def check_files(arguments: argparse.Namespace) -> None:
    """Look up the files of media and the model's folder, as far as the command has them and they are local.

    Raises:
        ValueError, OSError: when one is not there.
    """
    for path in getattr(arguments, "media", None) or ():
        if not path[:5].lower() == "data:" and "://" not in path:  # reading it will tell what is wrong with these
            file_size(f"file {path[:1000]!r}", path)
    if arguments.command in ("ask", "inspect") and arguments.model is not None:
        check_folder(arguments.model)
    if arguments.command == "convert":
        check_folder(arguments.src)


def check_folder(model: str) -> None:
    """Look up the folder of a checkpoint or an adapter; what may be a name on the Hub passes.

    Raises:
        FileNotFoundError: when there is no such folder, or neither in it.
    """
    if not os.path.isdir(model) and (os.path.isabs(model) or model.startswith(".") or model.count("/") > 1):
        raise FileNotFoundError(f"{model} does not exist; give the folder of a checkpoint, or a Hub id.")
    if os.path.isdir(model) and not {"config.json", "adapter_config.json"} & set(os.listdir(model)):
        raise FileNotFoundError(f"{model} holds no checkpoint (no config.json).")
