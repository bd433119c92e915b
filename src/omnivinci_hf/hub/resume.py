"""This module finds the checkpoints of a training run from which it can go on, because they are whole."""

import json
import re
from pathlib import Path

from safetensors import SafetensorError, safe_open
from transformers.trainer import TRAINER_STATE_NAME
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR
from transformers.utils import SAFE_WEIGHTS_INDEX_NAME, logging

from ..omnivinci.checkpoint_files_omnivinci import read_weight_index
from .atomic_folders import UNFINISHED
from .training_states import STATES


logger = logging.get_logger(__name__)
# One of these lies in a checkpoint of a model, of adapters, of FSDP or of DeepSpeed.
WEIGHT_FILES = ("*model*.safetensors", "*model*.bin*", "*/adapter_model.*", "pytorch_model_fsdp*", "global_step*")


def last_whole_checkpoint(output_dir: str | Path) -> str | None:
    """Returns the newest checkpoint of a run that is whole; a newer one that is not is logged."""
    output_dir = Path(output_dir)
    name = re.compile(rf"({UNFINISHED})?{PREFIX_CHECKPOINT_DIR}-(\d+)")
    checkpoints = [
        (int(match[2]), match[1] is None, path)
        for path in (output_dir.iterdir() if output_dir.is_dir() else ())
        if path.is_dir() and (match := name.fullmatch(path.name))
    ]
    for _, has_its_name, path in sorted(checkpoints, reverse=True):
        fault = find_fault(path) if has_its_name else "the process that wrote it was stopped"
        if fault is None:
            return str(path)
        logger.warning("%s is left out, since it is not whole: %s.", path, fault)
    return None


def find_fault(checkpoint: str | Path) -> str | None:
    """Says what is missing in a checkpoint that any of Transformers' trainers wrote; None if it is whole.

    Trainers write their own state last.
    """
    checkpoint = Path(checkpoint)
    states = [path for name in STATES for path in checkpoint.glob(f"{name}.json")]
    needed = {TRAINER_STATE_NAME, *(path.with_suffix(".safetensors").name for path in states)}
    path = checkpoint / SAFE_WEIGHTS_INDEX_NAME
    try:
        if path.exists():
            needed.update(read_weight_index(path)["weight_map"].values())
        if missing := sorted(name for name in needed if not (checkpoint / name).is_file()):
            return f"it has no {', '.join(missing)}"
        for path in (checkpoint / TRAINER_STATE_NAME, *states):
            json.loads(path.read_bytes())
        for path in checkpoint.rglob("*.safetensors"):
            with safe_open(path, framework="pt"):  # this compares the size of the file with what its head says
                pass
    except (ValueError, OSError, SafetensorError) as error:
        return f"{path.name} is damaged ({error})"
    return None if any(any(checkpoint.glob(pattern)) for pattern in WEIGHT_FILES) else "it has no weights"


def find_checkpoint(wish: str | bool | None, output_dir: str | Path) -> str | None:
    """Returns the checkpoint that `resume_from_checkpoint` means.

    Args:
        wish: None or False for none, True or "true" for the last one that is whole, or the folder of one.

    Raises:
        ValueError: when there is none to go on from, or the folder is not whole.
    """
    name = str(wish)
    if wish is None or name.lower() in ("false", "no"):
        return None
    if name.lower() not in ("true", "yes", "last"):
        if Path(name).is_dir() and (fault := find_fault(name)):
            raise ValueError(f"{name} cannot be resumed from, since it is not whole: {fault}.")
        return name
    last = last_whole_checkpoint(output_dir)
    if last is None:
        raise ValueError(f"{output_dir} has no checkpoint to resume from that is whole.")
    return last
