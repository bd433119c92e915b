"""PEFT adapters as checkpoints: which model one belongs to, and where files are that an adapter alone lacks."""

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from transformers.utils import find_adapter_config_file

from .released_config_omnivinci import HUB_OPTIONS, component_file


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
