"""Which files a checkpoint's weights are read from: safetensors of its own folder, whatever its files name."""

import json
import os
import re
from collections.abc import Mapping
from typing import Any

from transformers.utils import SAFE_WEIGHTS_INDEX_NAME

from .released_config_omnivinci import component_file


# no folder, no way out of the own one, and nothing that would be read as a pickle
_OWN_FILE = re.compile(r"[^/\\:]+\.safetensors")


def read_weight_index(path: str | os.PathLike) -> dict[str, Any]:
    """The index of weights that lie in several files.

    Raises:
        ValueError: when it is damaged, or names what is no safetensors file beside it.
    """
    with open(path, "rb") as file:
        text = file.read()
    try:
        index = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is no JSON ({error}); get it again.") from error
    files = index.get("weight_map") if isinstance(index, dict) else None
    if not isinstance(files, dict) or not files:
        raise ValueError(f"{path} is no index of weights: it needs an object `weight_map`, the file of each tensor.")
    if not isinstance(index.get("metadata", {}), dict):
        raise ValueError(f"{path} is no index of weights: its `metadata` must be an object.")
    for tensor, name in files.items():
        if not isinstance(name, str) or not _OWN_FILE.fullmatch(name):
            raise ValueError(
                f"{path} names {name!r} for the tensor {tensor}: only safetensors files beside it are read, never "
                "pickles. Have the weights saved anew with `save_pretrained`."
            )
    return index


def check_weight_files(name_or_path: str, hub_options: Mapping[str, Any], variant: str | None = None) -> None:
    """Look at what Transformers is about to read a checkpoint from, before it does.

    Raises:
        ValueError: when that could be anything but safetensors, or the index is damaged.
    """
    named = None
    if config := component_file(name_or_path, "", "config.json", hub_options):
        with open(config, encoding="utf-8") as file:
            named = json.load(file).get("transformers_weights")
    if named is not None and not (
        isinstance(named, str) and named.endswith((".safetensors", ".safetensors.index.json"))
    ):
        raise ValueError(f"{config} names the weights {named!r}, but only safetensors files are read, never pickles.")
    ending = ".json" if variant is None else f".{variant}.json"
    name = named or SAFE_WEIGHTS_INDEX_NAME.replace(".json", ending)
    if name.endswith(".json") and (index := component_file(name_or_path, "", name, hub_options)):
        if "metadata" not in read_weight_index(index):
            raise ValueError(f"{index} has no `metadata`, which Transformers needs: add an empty object.")
