"""This module finds the files of a checkpoint, and decides which model card a push of one has.

Its weights are safetensors alone, and an adapter has a base model. The text of a fitting card comes from the installed
package (`omnivinci_hf.hub.cards`), through a hook; in a checkpoint's copy of the code, cards are left to Transformers.
"""

import json
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from huggingface_hub import HfApi, ModelCard, ModelCardData
from huggingface_hub.errors import EntryNotFoundError, RevisionNotFoundError
from transformers.utils import CONFIG_NAME, SAFE_WEIGHTS_INDEX_NAME, cached_file, find_adapter_config_file

from .package_hooks_omnivinci import HOOKS


ORIGINAL = "nvidia/omnivinci"  # the original checkpoint on the Hub
ORIGINAL_MODEL_TYPE = "vila"
SUCCESSOR_MODEL_TYPE = "audiovisualflamingo"  # NVIDIA's Audio-Visual Flamingo has the same architecture
# options of loading that say where and how files are fetched
HUB_OPTIONS = ("cache_dir", "force_download", "local_files_only", "token", "revision", "subfolder")
# A file of this name lies beside the index that names it, and is never read as a pickle.
_SIBLING = re.compile(r"[^/\\:]+\.safetensors")
# `push_to_hub` of Transformers puts this into the empty card that it writes.
EMPTY_CARD = (
    "This is the model card of a 🤗 transformers model that has been pushed on the Hub. This model card has been "
    "automatically generated."
)


def hub_options_of(options: Mapping[str, Any]) -> dict[str, Any]:
    """Returns those options that say where and how files are fetched, as far as they are set."""
    return {name: options[name] for name in HUB_OPTIONS if options.get(name) is not None}


def component_file(
    name_or_path: str | os.PathLike, component: str, name: str, hub_options: Mapping[str, Any]
) -> str | None:
    """Returns the local path of a file of a component's folder ("" for the main one), or None if it is not there.

    A file on the Hub is fetched unless it lies in the cache.
    """
    hub_options = dict(hub_options)
    folder = "/".join(filter(None, (hub_options.pop("subfolder", None), component)))
    return cached_file(name_or_path, name, subfolder=folder, _raise_exceptions_for_missing_entries=False, **hub_options)


def read_config(name_or_path: str | os.PathLike, hub_options: Mapping[str, Any]) -> dict[str, Any] | None:
    """Returns what `config.json` of a checkpoint holds, or None if it has no such file.

    Raises:
        ValueError: when it is damaged.
    """
    file = component_file(name_or_path, "", CONFIG_NAME, hub_options)
    return None if file is None else read_json_object(file)


def read_json_object(path: str | os.PathLike) -> dict[str, Any]:
    """Reads a JSON file that holds an object.

    Raises:
        ValueError: when it does not; the file is named.
    """
    with open(path, "rb") as file:
        text = file.read()
    try:
        content = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is no JSON ({error}); get it again.") from error
    if not isinstance(content, dict):
        raise ValueError(f"{path} must hold a JSON object, but is {type(content).__name__}; get it again.")
    return content


def is_original_config(config: Mapping[str, Any] | None) -> bool:
    """Says whether a `config.json` is of a layout of NVIDIA's, which the installed package reads."""
    return config is not None and config.get("model_type") in (ORIGINAL_MODEL_TYPE, SUCCESSOR_MODEL_TYPE)


def is_original_checkpoint(name_or_path: str | os.PathLike, options: Mapping[str, Any]) -> bool:
    """Says whether a folder or a repository holds a checkpoint in the original layout."""
    return is_original_config(read_config(name_or_path, hub_options_of(options)))


def read_weight_index(path: str | os.PathLike) -> dict[str, Any]:
    """Reads the index of weights that lie in several files.

    Raises:
        ValueError: when it is damaged, or names anything but safetensors files beside it.
    """
    index = read_json_object(path)
    files = index.get("weight_map")
    if not isinstance(files, dict) or not files:
        raise ValueError(f"{path} is no index of weights: it needs an object `weight_map`, the file of each tensor.")
    if not isinstance(index.get("metadata", {}), dict):
        raise ValueError(f"{path} is no index of weights: its `metadata` must be an object.")
    for tensor, name in files.items():
        if not isinstance(name, str) or not _SIBLING.fullmatch(name):
            raise ValueError(
                f"{path} names {name!r} for the tensor {tensor}: only safetensors files beside it are read, never "
                "pickles. Have the weights saved anew with `save_pretrained`."
            )
    return index


def check_weight_files(name_or_path: str, hub_options: Mapping[str, Any], variant: str | None = None) -> None:
    """Looks at the files from which Transformers is about to read weights, before it does.

    Raises:
        ValueError: when they could be anything but safetensors, or their index is damaged.
    """
    named = (read_config(name_or_path, hub_options) or {}).get("transformers_weights")
    if named is not None and not (
        isinstance(named, str) and named.endswith((".safetensors", ".safetensors.index.json"))
    ):
        raise ValueError(
            f"{CONFIG_NAME} of {name_or_path} names the weights {named!r}, but only safetensors files are read, never "
            "pickles."
        )
    ending = ".json" if variant is None else f".{variant}.json"
    name = named or SAFE_WEIGHTS_INDEX_NAME.replace(".json", ending)
    if name.endswith(".json") and (index := component_file(name_or_path, "", name, hub_options)):
        if "metadata" not in read_weight_index(index):
            raise ValueError(f"{index} has no `metadata`, which Transformers needs: add an empty object.")


# -- PEFT adapters as checkpoints


@dataclass
class Adapted:
    """This is a PEFT adapter and the model that it belongs to, each with the options to fetch it from the Hub."""

    adapter: str
    adapter_options: dict[str, Any]
    base: str
    base_options: dict[str, Any]


def find_adapter(name_or_path: str, options: Mapping[str, Any]) -> Adapted | None:
    """Returns the adapter that `name_or_path` holds, and its base model; None if it holds none.

    Where a model lies beside the adapter, that is its base.
    """
    hub_options = hub_options_of(options)
    adapter_options = {**hub_options, **(options.get("adapter_kwargs") or {})}
    adapter = adapter_options.pop("_adapter_model_path", None)
    if adapter is not None:  # an Auto class came across the adapter, and gives the name and options of its base
        return Adapted(str(adapter), adapter_options, name_or_path, hub_options)
    if (file := find_adapter_config_file(name_or_path, **adapter_options)) is None:
        return None
    config = read_json_object(file)
    base = config.get("base_model_name_or_path")
    if base is None or os.path.isfile(os.path.join(name_or_path, CONFIG_NAME)):
        return Adapted(name_or_path, adapter_options, name_or_path, hub_options)
    base_options = {name: value for name, value in hub_options.items() if name not in ("revision", "subfolder")}
    if config.get("revision") is not None:
        base_options["revision"] = config["revision"]
    return Adapted(name_or_path, adapter_options, base, base_options)


def place_of(name_or_path: str, file: str, options: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    """Returns the name of the checkpoint that has a file, and the options to load it with.

    It is that of the base model for an adapter that has no such file itself.
    """
    if component_file(name_or_path, "", file, hub_options_of(options)) is None:
        adapted = find_adapter(name_or_path, options)
        if adapted is not None and adapted.base != name_or_path:
            others = {name: value for name, value in options.items() if name not in HUB_OPTIONS}
            return adapted.base, {**others, **adapted.base_options}
    return name_or_path, dict(options)


# -- The model card of a push


class ModelCardMixin:
    """A model, processor or pipeline of this class is pushed with a fitting card, not Transformers' empty one."""

    def _upload_modified_files(self, working_dir: str | os.PathLike, repo_id: str, *args: Any, **kwargs: Any) -> Any:
        # This private method of Transformers 5.20 to 5.24 is the one place that `push_to_hub` and
        # `save_pretrained(push_to_hub=True)` pass between writing their card and uploading it. It can go when
        # Transformers lets a class make its own card.
        model = self if hasattr(self, "num_parameters") else getattr(self, "model", None)
        complete_model_card(working_dir, repo_id, model, kwargs.get("revision"), kwargs.get("token"))
        return super()._upload_modified_files(working_dir, repo_id, *args, **kwargs)  # type: ignore[misc]


def complete_model_card(
    folder: str | os.PathLike,
    repo_id: str,
    model: Any = None,
    revision: str | None = None,
    token: str | bool | None = None,
) -> None:
    """Replaces Transformers' empty card in a `folder` that is about to be pushed by one that fits the model.

    A card that somebody wrote is left alone, also on another branch, where Transformers does not look for one. Without
    `model` (a processor is pushed) the empty card is deleted.
    """
    path = Path(folder) / "README.md"
    card = ModelCard.load(path, ignore_metadata_errors=True) if path.exists() else None
    if card is not None and not is_placeholder(card):
        return
    if card is not None and (model is None or _has_written_card(repo_id, revision, token)):
        path.unlink()
    elif model is not None and HOOKS.model_cards is not None:
        HOOKS.model_cards().card_of_model(model, repo_id, tags=card and card.data.tags or []).save(path)


def is_placeholder(card: ModelCard) -> bool:
    """Says whether this is the empty card that Transformers or PEFT writes, with nothing added."""
    empty = [ModelCard.from_template(ModelCardData(), **more) for more in ({"model_description": EMPTY_CARD}, {})]
    text = re.sub(r"### Framework versions\s+- PEFT \S+\s*$", "", card.text)
    metadata = card.data.to_dict()
    written_by_libraries = {"tags", "library_name"}
    if metadata.get("library_name") == "peft":
        written_by_libraries |= {"base_model", "pipeline_tag"}
    return metadata.keys() <= written_by_libraries and text.split() in [other.text.split() for other in empty]


def pushed_card(repo_id: str, revision: str | None, token: str | bool | None) -> ModelCard | None:
    """Returns the card that a repository has, or None if it has none."""
    try:
        file = HfApi().hf_hub_download(repo_id, "README.md", revision=revision, token=token)
    except (EntryNotFoundError, RevisionNotFoundError):
        return None
    return ModelCard(Path(file).read_text(encoding="utf-8"), ignore_metadata_errors=True)


def _has_written_card(repo_id: str, revision: str | None, token: str | bool | None) -> bool:
    """Says whether a branch of the repository has a card that is not empty."""
    if revision is None:
        return False  # Transformers looked at the main branch
    card = pushed_card(repo_id, revision, token)
    return card is not None and not is_placeholder(card)
