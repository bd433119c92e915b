"""This module keeps the states of a training in safetensors and JSON files, where Transformers' trainers use pickle.

It also refuses the pickles of others: neither states nor weights are ever read from one.
"""

import json
import random
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from transformers.utils import (
    ADAPTER_SAFE_WEIGHTS_NAME,
    ADAPTER_WEIGHTS_NAME,
    SAFE_WEIGHTS_INDEX_NAME,
    SAFE_WEIGHTS_NAME,
    WEIGHTS_INDEX_NAME,
    WEIGHTS_NAME,
)

from ..omnivinci.checkpoint_files_omnivinci import read_weight_index


# A trainer writes each of these states to a .json and a .safetensors file.
STATES = ("optimizer", "scheduler", "scaler", "rng_state_*")
# Transformers' trainers, DeepSpeed, FSDP and others write files of these names with pickle.
PICKLES = ("*.bin", "*.pt", "*.pth", "*.pkl", "*.pickle", "*.ckpt", "*.joblib", "*.distcp", ".metadata")
PICKLED_STATES = ("optimizer.pt", "optimizer.bin", "scheduler.pt", "scaler.pt")
# Pickled weights would be read unless one of the files on the right is there.
PICKLED_WEIGHTS = {
    WEIGHTS_NAME: (SAFE_WEIGHTS_NAME,),
    WEIGHTS_INDEX_NAME: (SAFE_WEIGHTS_NAME, SAFE_WEIGHTS_INDEX_NAME),
    ADAPTER_WEIGHTS_NAME: (ADAPTER_SAFE_WEIGHTS_NAME,),
    f"*/{ADAPTER_WEIGHTS_NAME}": (ADAPTER_SAFE_WEIGHTS_NAME,),
}


def refuse_pickled_weights(checkpoint: Path) -> None:
    """Refuses a checkpoint whose weights, or those of an adapter in it, would be read from a pickle.

    Raises:
        ValueError: it names the file.
    """
    if (index := checkpoint / SAFE_WEIGHTS_INDEX_NAME).exists():
        read_weight_index(index)
    for pattern, readable in PICKLED_WEIGHTS.items():
        for path in checkpoint.glob(pattern):
            if not any(path.with_name(name).exists() for name in readable):
                raise ValueError(
                    f"{path} is a pickle, which is never read, and there is no {' or '.join(readable)} beside it: have "
                    "the weights saved anew with `save_pretrained`, or go on with the trainer that wrote them."
                )


def refuse_pickled_states(checkpoint: Path) -> None:
    """Refuses a checkpoint in which another trainer left its states.

    Raises:
        ValueError: it names the files.
    """
    if names := [name for name in PICKLED_STATES if (checkpoint / name).exists()]:
        raise ValueError(
            f"{checkpoint} was written by another trainer: its {names} are pickles, which are never read. Go on "
            "with that trainer, or start anew from the checkpoint's weights."
        )


def save_state(state: Any, path: Path) -> None:
    """Saves nested dictionaries, lists and tuples: tensors to `path.safetensors`, everything else to `path.json`.

    Raises:
        TypeError: when there is anything that only pickle could keep.
    """
    tensors: dict[str, torch.Tensor] = {}

    def plain(node: Any, is_key: bool = False) -> Any:
        if isinstance(node, torch.Tensor) and not is_key:
            tensors[str(len(tensors))] = node.detach().cpu().clone().contiguous()
            return {"tensor": str(len(tensors) - 1)}
        if isinstance(node, Mapping):
            return {"dict": [[plain(key, is_key=True), plain(value)] for key, value in node.items()]}
        if isinstance(node, tuple):
            return {"tuple": [plain(value, is_key) for value in node]}
        if isinstance(node, list):
            return [plain(value) for value in node]
        if node is None or isinstance(node, (bool, int, float, str)):
            return node
        if isinstance(node, np.generic):
            return node.item()
        raise TypeError(
            f"A {type(node).__name__} in the state `{path.name}` cannot be saved without pickle: keep it out of the "
            "`state_dict`, or set `save_only_model=True` and do without resuming."
        )

    text = json.dumps(plain(state))
    path.with_suffix(".json").write_text(text, encoding="utf-8")
    save_file(tensors, path.with_suffix(".safetensors"))


def has_state(path: Path) -> bool:
    """Says whether [`save_state`] wrote a state there."""
    return path.with_suffix(".json").exists()


def load_state(path: Path) -> Any:
    """Returns what [`save_state`] wrote."""
    tensors = load_file(path.with_suffix(".safetensors"))

    def rebuilt(node: Any) -> Any:
        if isinstance(node, list):
            return [rebuilt(value) for value in node]
        if not isinstance(node, dict):
            return node
        ((kind, value),) = node.items()
        if kind == "tensor":
            return tensors[value]
        if kind == "tuple":
            return tuple(rebuilt(part) for part in value)
        return {rebuilt(key): rebuilt(part) for key, part in value}

    return rebuilt(json.loads(path.with_suffix(".json").read_text(encoding="utf-8")))


def random_states() -> dict[str, Any]:
    """Returns the states of all random number generators of this process, in a form for [`save_state`]."""
    numpy_state: Any = np.random.get_state()
    algorithm, words, *rest = numpy_state
    return {
        "python": random.getstate(),
        "numpy": [algorithm, words.tolist(), *rest],
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
    }


def restore_random_states(states: Mapping[str, Any]) -> None:
    """Sets the random number generators of this process to what [`random_states`] returned.

    Those of GPUs are left alone if their number has changed.
    """
    random.setstate(states["python"])
    np.random.set_state(tuple(states["numpy"]))
    torch.set_rng_state(states["torch"])
    if len(states["cuda"]) == torch.cuda.device_count():
        torch.cuda.set_rng_state_all(states["cuda"])
