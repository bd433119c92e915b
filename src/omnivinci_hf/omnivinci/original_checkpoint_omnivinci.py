"""Weights of the original five-folder layout, read lazily under this package's names."""

import copy
import dataclasses
import json
import os
import re
from collections.abc import Mapping
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from transformers import PreTrainedConfig
from transformers.utils import SAFE_WEIGHTS_INDEX_NAME, SAFE_WEIGHTS_NAME

from .checkpoint_files_omnivinci import read_weight_index
from .original_config_omnivinci import (
    COMPONENTS,
    HUB_OPTIONS,
    MEDIA_TOKENS,
    component_file,
    is_original_config,
    media_token_ids,
)


TORCH_DTYPES = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
# (folder, pattern of the component's own name) -> name here, as ordered rules; the first that matches is taken
NAMES = (
    (r"llm/model\.(.+)", r"model.language_model.\1"),
    (r"llm/lm_head\.(.+)", r"lm_head.\1"),
    (r"vision_tower/(?:vision_tower\.)?vision_model\.(.+)", r"model.vision_tower.\1"),
    (r"sound_tower/(.+)", r"model.audio_tower.\1"),
    (r"mm_projector/layers\.1\.(.+)", r"model.vision_projector.norm.\1"),
    (r"mm_projector/layers\.2\.(.+)", r"model.vision_projector.linear_1.\1"),
    (r"mm_projector/layers\.4\.(.+)", r"model.vision_projector.linear_2.\1"),
    (r"sound_mm_projector/layers\.0\.(.+)", r"model.audio_projector.linear_1.\1"),
    (r"sound_mm_projector/layers\.2\.(.+)", r"model.audio_projector.linear_2.\1"),
)


def new_name(name: str) -> str:
    """Name here of an original tensor, given as `folder/name`; unchanged where no rule fits."""
    for pattern, replacement in NAMES:
        if re.fullmatch(pattern, name):
            return re.sub(pattern, replacement, name)
    return name


def is_original_checkpoint(name_or_path: str | os.PathLike, options: Mapping[str, Any]) -> bool:
    hub = {name: options[name] for name in HUB_OPTIONS if options.get(name) is not None}
    file = component_file(name_or_path, "", "config.json", hub)
    if file is None:
        return False
    with open(file, encoding="utf-8") as stream:
        return is_original_config(json.load(stream))


def load_original_checkpoint(cls, name_or_path: str | os.PathLike, config: PreTrainedConfig | None, options: dict):
    """`cls.from_pretrained` on the original layout, for the class with a head or the one without."""
    options = dict(options)
    hub = {name: options.pop(name) for name in HUB_OPTIONS if name in options}
    hub = {name: value for name, value in hub.items() if value is not None}
    output_loading_info = options.pop("output_loading_info", False)
    options.pop("trust_remote_code", None)
    if config is None:
        fields = {field.name for field in dataclasses.fields(cls.config_class)} - {"dtype"}
        overrides = {name: options.pop(name) for name in fields & options.keys()}
        config = cls.config_class.from_pretrained(name_or_path, **hub, **overrides)
    elif all(getattr(config, name) == getattr(cls.config_class, name) for name in MEDIA_TOKENS):
        # from an `AutoConfig`, which may have been unable to read the tokenizer
        config = copy.deepcopy(config)
        for name, token_id in media_token_ids(name_or_path, **hub).items():
            setattr(config, name, token_id)
    state_dict = OriginalStateDict(name_or_path, hub)
    if config.dtype is None:
        # Transformers cannot tell it from lazy slices
        config.dtype = TORCH_DTYPES.get(next(iter(state_dict.values())).get_dtype(), torch.float32)
    with torch.device("meta"):
        expected = cls(config).state_dict()
    if "lm_head.weight" not in expected:
        state_dict.keep_base_model()
    # OmniAlignNet, where it is asked for, begins anew
    expected = {name: tensor for name, tensor in expected.items() if "omni_align_net." not in name}
    _check_tensors(expected, state_dict, tied={"lm_head.weight"} if config.tie_word_embeddings else set())
    model, info = cls.from_pretrained(None, config=config, state_dict=state_dict, output_loading_info=True, **options)
    if model.can_generate() and (file := component_file(name_or_path, "llm", "generation_config.json", hub)):
        folder, name = os.path.split(file)
        model.generation_config = type(model.generation_config).from_pretrained(folder, name)
    model.config._name_or_path = model.name_or_path = str(name_or_path)
    return (model, info) if output_loading_info else model


class OriginalStateDict(dict):
    """New name -> lazy safetensors slice. Opening the files maps them; a tensor is read when it is taken."""

    def __init__(self, name_or_path: str | os.PathLike, hub_options: Mapping[str, Any] | None = None):
        super().__init__()
        for component in COMPONENTS:
            for file in _weight_files(str(name_or_path), component, hub_options or {}):
                try:
                    opened = safe_open(file, framework="pt")
                except SafetensorError as error:
                    raise ValueError(f"{file} is damaged ({error}); get it again.") from error
                for name in opened.keys():  # noqa: SIM118 (a safetensors file is no mapping)
                    self[new_name(f"{component}/{name}")] = opened.get_slice(name)

    def keep_base_model(self) -> None:
        """Leave the head out and name the rest as the model without head does."""
        kept = {name.removeprefix("model."): value for name, value in self.items() if name.startswith("model.")}
        self.clear()
        self.update(kept)


def _weight_files(name_or_path: str, component: str, hub_options: Mapping[str, Any]) -> list[str]:
    if single := component_file(name_or_path, component, SAFE_WEIGHTS_NAME, hub_options):
        return [single]
    index = component_file(name_or_path, component, SAFE_WEIGHTS_INDEX_NAME, hub_options)
    if index is None:
        raise ValueError(
            f"{name_or_path} has no {component}/{SAFE_WEIGHTS_NAME} nor {component}/{SAFE_WEIGHTS_INDEX_NAME}: the "
            "original layout needs safetensors weights in each of " + ", ".join(COMPONENTS) + "."
        )
    shards = sorted(set(read_weight_index(index)["weight_map"].values()))
    files = [component_file(name_or_path, component, shard, hub_options) for shard in shards]
    missing = [shard for shard, file in zip(shards, files, strict=True) if file is None]
    if missing:
        raise ValueError(f"{name_or_path} lacks the shards {missing} that {component}/{SAFE_WEIGHTS_INDEX_NAME} names.")
    return files


def _check_tensors(expected: Mapping[str, torch.Tensor], state_dict: Mapping[str, Any], tied: set[str]) -> None:
    expected = {name: tensor for name, tensor in expected.items() if name not in tied}
    problems = [f"missing: {name}" for name in sorted(set(expected) - set(state_dict))]
    problems += [f"surplus: {name}" for name in sorted(set(state_dict) - set(expected) - tied)]
    for name in sorted(set(expected) & set(state_dict)):
        found = tuple(state_dict[name].get_shape())
        if found != tuple(expected[name].shape):
            problems.append(f"misshapen: {name} is {found}, expected {tuple(expected[name].shape)}")
    if problems:
        shown = "\n  ".join(problems[:20]) + (f"\n  ... and {len(problems) - 20} more" if len(problems) > 20 else "")
        raise ValueError(f"The original checkpoint does not fit its configuration:\n  {shown}")
