"""This module reads the weights of the original layout, and of its successor's, lazily, under this package's names."""

import os
import re
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from transformers.utils import SAFE_WEIGHTS_INDEX_NAME, SAFE_WEIGHTS_NAME

from ..omnivinci.checkpoint_files_omnivinci import component_file, read_config, read_weight_index
from .config import COMPONENTS
from .successor import language_model_folder


# what safetensors files call the dtypes that weights may have
SAFETENSORS_NAMES = {torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16"}

# These rules translate `folder/name` of an original tensor into its name here; the first that matches is taken.
NAMES = (
    (r"llm/model\.(.+)", r"model.language_model.\1"),
    (r"llm/lm_head\.(.+)", r"lm_head.\1"),
    (r"vision_tower/(?:vision_tower\.)?vision_model\.(.+)", r"model.vision_tower.\1"),
    (r"vision_tower/(?:vision_tower\.)?((?:embeddings|encoder|post_layernorm|head)\..+)", r"model.vision_tower.\1"),
    (r"sound_tower/(?:audio_tower\.)?(.+)", r"model.audio_tower.\1"),
    (r"mm_projector/layers\.1\.(.+)", r"model.vision_projector.norm.\1"),
    (r"mm_projector/layers\.2\.(.+)", r"model.vision_projector.linear_1.\1"),
    (r"mm_projector/layers\.4\.(.+)", r"model.vision_projector.linear_2.\1"),
    (r"sound_mm_projector/layers\.0\.(.+)", r"model.audio_projector.linear_1.\1"),
    (r"sound_mm_projector/layers\.2\.(.+)", r"model.audio_projector.linear_2.\1"),
)

# These buffers are worked out, and Transformers drops them, too, where older versions have saved them.
BUFFERS = re.compile(r"(.+\.)?(position_ids|inv_freq)")


def new_name(name: str) -> str:
    """Translates the name of an original tensor, given as `folder/name`; where no rule fits, it stays as it is."""
    for pattern, replacement in NAMES:
        if re.fullmatch(pattern, name):
            return re.sub(pattern, replacement, name)
    return name


class OriginalStateDict(dict):
    """A state dict under this package's names, whose values are lazy slices of safetensors files.

    Building it maps the files into memory; a tensor is read when its slice is taken.

    Raises:
        ValueError: when a file is missing or damaged; it is named.
    """

    def __init__(self, name_or_path: str | os.PathLike, hub_options: Mapping[str, Any] | None = None):
        super().__init__()
        name_or_path, hub_options = str(name_or_path), hub_options or {}
        in_folders = language_model_folder(read_config(name_or_path, hub_options) or {}, name_or_path, hub_options)
        for component in COMPONENTS if in_folders else ("",):
            for file in _weight_files(name_or_path, component, hub_options):
                try:
                    opened = safe_open(file, framework="pt")
                except SafetensorError as error:
                    raise ValueError(f"{file} is damaged ({error}); get it again.") from error
                for name in opened.keys():  # noqa: SIM118 (a safetensors file is no mapping)
                    if BUFFERS.fullmatch(name):
                        continue
                    # in one folder, the name of the component begins the name of the tensor
                    place = f"{component}/{name}" if component else name.replace(".", "/", 1)
                    self[new_name(place)] = opened.get_slice(name)

    def find_tied_words(self) -> None:
        """Takes the head for the embeddings of words, where the file has one tensor for both under the head's name.

        safetensors' `save_model` leaves out all but the first name of a tensor.
        """
        if "lm_head.weight" in self:
            self.setdefault("model.language_model.embed_tokens.weight", self["lm_head.weight"])

    def keep_base_model(self, ignored: Iterable[str] = ()) -> None:
        """Leaves the head out, and what fits one of the `ignored` patterns; names the rest as without a head."""
        kept = {name.removeprefix("model."): value for name, value in self.items() if name.startswith("model.")}
        kept = {name: value for name, value in kept.items() if not any(re.match(one, name) for one in ignored)}
        self.clear()
        self.update(kept)


def _weight_files(name_or_path: str, component: str, hub_options: Mapping[str, Any]) -> list[str]:
    if single := component_file(name_or_path, component, SAFE_WEIGHTS_NAME, hub_options):
        return [single]
    index = component_file(name_or_path, component, SAFE_WEIGHTS_INDEX_NAME, hub_options)
    if index is None:
        folder, remedy = component and f"{component}/", ", only pickles perhaps: have them saved anew."
        if component:
            remedy = ": the original layout needs safetensors weights in each of " + ", ".join(COMPONENTS) + "."
        raise ValueError(
            f"{name_or_path} has no {folder}{SAFE_WEIGHTS_NAME} nor {folder}{SAFE_WEIGHTS_INDEX_NAME}{remedy}"
        )
    shards = sorted(set(read_weight_index(index)["weight_map"].values()))
    files = {shard: component_file(name_or_path, component, shard, hub_options) for shard in shards}
    if missing := [shard for shard, file in files.items() if file is None]:
        raise ValueError(
            f"{name_or_path} lacks the shards {missing} that {os.path.join(component, SAFE_WEIGHTS_INDEX_NAME)} names."
        )
    return [file for file in files.values() if file is not None]


def check_tensors(
    expected: Mapping[str, torch.Tensor], state_dict: Mapping[str, Any], tied: set[str], ignore_shapes: bool = False
) -> None:
    """Compares names and shapes of the tensors that a model has with those of a checkpoint.

    Args:
        expected: the state dict of the model, whose values are not read.
        state_dict: lazy slices, by the same names.
        tied: tensors that the checkpoint may leave out, since they are others once more.
        ignore_shapes: whether Transformers will make new tensors of those that are misshapen.

    Raises:
        ValueError: when tensors are missing, surplus or misshapen; the first 20 are named.
    """
    expected = {name: tensor for name, tensor in expected.items() if name not in tied}
    problems = [f"missing: {name}" for name in sorted(set(expected) - set(state_dict))]
    problems += [f"surplus: {name}" for name in sorted(set(state_dict) - set(expected) - tied)]
    for name in sorted(set(expected) & set(state_dict)) if not ignore_shapes else ():
        shape = tuple(state_dict[name].get_shape())
        if shape != tuple(expected[name].shape):
            problems.append(f"misshapen: {name} is {shape}, expected {tuple(expected[name].shape)}")
    if problems:
        shown = "\n  ".join(problems[:20]) + (f"\n  ... and {len(problems) - 20} more" if len(problems) > 20 else "")
        raise ValueError(f"The checkpoint does not fit its configuration:\n  {shown}")
