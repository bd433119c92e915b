"""This module finds the files of a checkpoint: its weights, which are safetensors alone, and the base model of an
adapter."""

import json
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from transformers.utils import SAFE_WEIGHTS_INDEX_NAME, find_adapter_config_file

from .original_config_omnivinci import HUB_OPTIONS, component_file


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


# -- PEFT adapters as checkpoints: which model one belongs to, and where files are that an adapter alone lacks


@dataclass
class Adapted:
    """A PEFT adapter and the model that it belongs to, each with the options to fetch it from the Hub."""

    adapter: str
    adapter_options: dict[str, Any]
    base: str
    base_options: dict[str, Any]


def hub_options_of(options: Mapping[str, Any]) -> dict[str, Any]:
    return {name: options[name] for name in HUB_OPTIONS if options.get(name) is not None}


def find_adapter(name_or_path: str, options: Mapping[str, Any]) -> Adapted | None:
    """What `name_or_path` is an adapter of; None if it is none."""
    hub = hub_options_of(options)
    adapter_options = {**hub, **(options.get("adapter_kwargs") or {})}
    adapter = adapter_options.pop("_adapter_model_path", None)
    if adapter is not None:  # an Auto class has found it, and `name_or_path` and `hub` are the base's
        return Adapted(str(adapter), adapter_options, name_or_path, hub)
    if (file := find_adapter_config_file(name_or_path, **adapter_options)) is None:
        return None
    with open(file, encoding="utf-8") as stream:
        config = json.load(stream)
    base = config.get("base_model_name_or_path")
    if base is None or os.path.isfile(os.path.join(name_or_path, "config.json")):
        return Adapted(name_or_path, adapter_options, name_or_path, hub)
    base_options = {name: value for name, value in hub.items() if name not in ("revision", "subfolder")}
    if config.get("revision") is not None:
        base_options["revision"] = config["revision"]
    return Adapted(name_or_path, adapter_options, base, base_options)


def place_of(name_or_path: str, file: str, options: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    """Name and options of where a checkpoint's file is: an adapter that has none of its own takes its base model's."""
    if component_file(name_or_path, "", file, hub_options_of(options)) is None:
        adapted = find_adapter(name_or_path, options)
        if adapted is not None and adapted.base != name_or_path:
            others = {name: value for name, value in options.items() if name not in HUB_OPTIONS}
            return adapted.base, {**others, **adapted.base_options}
    return name_or_path, dict(options)
