"""This module loads config, model and processor of a checkpoint in the original layout, or of Audio-Visual Flamingo.

It is what `registration` puts into the hook `original_layout` of `package_hooks_omnivinci`.
"""

import copy
import dataclasses
import os
from collections.abc import Mapping
from typing import Any

import torch
from transformers import GenerationConfig, PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerBase
from transformers.utils import GENERATION_CONFIG_NAME

from ..omnivinci.checkpoint_files_omnivinci import (
    HUB_OPTIONS,
    SUCCESSOR_MODEL_TYPE,
    component_file,
    hub_options_of,
    read_config,
    read_json_object,
)
from ..omnivinci.configuration_omnivinci import MEDIA_TOKENS, OmniVinciConfig
from ..omnivinci.conversation_omnivinci import CHAT_TEMPLATE
from ..omnivinci.options_omnivinci import ORIGINAL_OPTIONS
from .config import map_bare_config, map_original_processor_options, tiles_images
from .findings import Findings
from .preprocessor import image_options
from .successor import language_model_folder, map_config
from .successor_processor import check_token_ids, one_folder_processor_options, stored_padding_side
from .tokenizer import (
    load_original_tokenizer,
    original_chat_template,
    original_generation_config,
    placeholder_ids,
    stated_chat_template,
)
from .weights import SAFETENSORS_NAMES, OriginalStateDict, check_tensors


INCOMPLETE = "_from_main_file_alone"  # attribute of a config that was made without the other files of its checkpoint
TORCH_DTYPES = {name: dtype for dtype, name in SAFETENSORS_NAMES.items()}


def config_arguments(original: dict[str, Any], name_or_path: str, hub_options: Mapping[str, Any]) -> dict[str, Any]:
    """Translates a `config.json` into arguments of `OmniVinciConfig`, see [`map_config`]."""
    return map_config(original, name_or_path, **hub_options)


def config_arguments_of_dict(original: dict[str, Any], name_or_path: str | None, commit: str | None) -> dict[str, Any]:
    """As [`config_arguments`], for `AutoConfig`, see [`map_bare_config`].

    What comes from the file of one folder alone is marked, since other files may say more.
    """

    def mapping(original: dict[str, Any], place: str | None = None, **hub_options: Any) -> dict[str, Any]:
        mark = {INCOMPLETE: True} if place is None and original.get("model_type") == SUCCESSOR_MODEL_TYPE else {}
        return {**map_config(original, place, **hub_options), **mark}

    return map_bare_config(original, name_or_path, commit, mapping)


def load_processor(
    processor_class: Any,
    name_or_path: str,
    original: dict[str, Any],
    hub_options: Mapping[str, Any],
    tokenizer_options: Mapping[str, Any],
    options: Mapping[str, Any],
) -> Any:
    """Builds the processor that fits a `config.json`, with the tokenizer that lies beside the language model.

    Args:
        tokenizer_options, options: of the caller; `options` of the processor and its parts override the checkpoint's.
    """
    folder = language_model_folder(original, name_or_path, hub_options)
    if not folder:
        tokenizer_options = {**stored_padding_side(name_or_path, hub_options), **tokenizer_options}
    tokenizer = load_original_tokenizer(name_or_path, folder, **hub_options, **tokenizer_options)
    config = OmniVinciConfig(**map_config(original, name_or_path, tokenizer=tokenizer, **hub_options))
    if folder:
        stored = _five_folder_processor_options(original, config, name_or_path, tokenizer, hub_options)
    else:
        stored = one_folder_processor_options(original, config, name_or_path, hub_options, options)
        check_token_ids(original, tokenizer)
    return processor_class.from_model_config(config, tokenizer, **{**ORIGINAL_OPTIONS, **stored, **options})


def load_model(
    model_class: Any,
    name_or_path: str | os.PathLike,
    config: PreTrainedConfig | None,
    options: Mapping[str, Any],
) -> PreTrainedModel | tuple[PreTrainedModel, dict[str, Any]]:
    """Does what `model_class.from_pretrained` does, for the class with a head or the one without.

    Raises:
        ValueError: when tensors are missing, surplus or misshapen; it names them.
    """
    name_or_path = str(name_or_path)
    hub_options = hub_options_of(options)
    options = {name: value for name, value in options.items() if name not in (*HUB_OPTIONS, "trust_remote_code")}
    output_loading_info = options.pop("output_loading_info", False)
    original = read_config(name_or_path, hub_options) or {}
    folder = language_model_folder(original, name_or_path, hub_options)
    # A config of one folder may note what would be asked of its tokenizer.
    tokenizer = load_original_tokenizer(name_or_path, folder, **hub_options) if folder else None
    config = _config_to_load(model_class, name_or_path, original, config, tokenizer, hub_options, options)
    state_dict = OriginalStateDict(name_or_path, hub_options)
    if config.tie_word_embeddings:
        state_dict.find_tied_words()
    if config.dtype is None:
        # Transformers cannot tell it from lazy slices.
        config.dtype = TORCH_DTYPES.get(next(iter(state_dict.values())).get_dtype(), torch.float32)
    _fit_tensors(state_dict, model_class, config, ignore_shapes=bool(options.get("ignore_mismatched_sizes")))
    tensors: Mapping[str, Any] = state_dict
    if str(options.get("device_map")) == "meta":
        # Slices would map pages of every file into memory, only to be dropped.
        tensors = {name: _without_data(lazy_slice) for name, lazy_slice in state_dict.items()}
    model, info = model_class.from_pretrained(
        None, config=config, state_dict=tensors, output_loading_info=True, **options
    )
    file = component_file(name_or_path, folder, GENERATION_CONFIG_NAME, hub_options) if model.can_generate() else None
    if model.can_generate() and tokenizer is not None:
        model.generation_config = _generation_config(file, original, name_or_path, tokenizer, hub_options)
    elif file is not None:
        model.generation_config = GenerationConfig.from_pretrained(*os.path.split(file))
    model.config._name_or_path = model.name_or_path = name_or_path
    return (model, info) if output_loading_info else model


def _fit_tensors(state_dict: OriginalStateDict, model_class: Any, config: Any, ignore_shapes: bool) -> None:
    """Leaves out tensors that a class of models ignores, and checks that the others are those that it has."""
    with torch.device("meta"):
        expected = model_class(config).state_dict()
    if "lm_head.weight" not in expected:
        # the media encoder alone ignores the language model
        state_dict.keep_base_model(model_class._keys_to_ignore_on_load_unexpected or ())
    # OmniAlignNet, where it is asked for, begins with new weights.
    expected = {name: tensor for name, tensor in expected.items() if "omni_align_net." not in name}
    tied = {"lm_head.weight"} if config.tie_word_embeddings else set()
    check_tensors(expected, state_dict, tied, ignore_shapes=ignore_shapes)


def _without_data(lazy_slice: Any) -> torch.Tensor:
    dtype = TORCH_DTYPES.get(lazy_slice.get_dtype(), torch.float32)  # others become the model's in any case
    return torch.empty(lazy_slice.get_shape(), dtype=dtype, device="meta")


def _config_to_load(
    model_class: Any,
    name_or_path: str,
    original: dict[str, Any],
    config: PreTrainedConfig | None,
    tokenizer: PreTrainedTokenizerBase | None,
    hub_options: Mapping[str, Any],
    options: dict[str, Any],
) -> Any:
    """Returns the config of the checkpoint, with those `options` that are its fields, which are taken out of them."""
    config_class = model_class.config_class
    if config is None:
        fields = {field.name for field in dataclasses.fields(config_class)} - {"dtype"}
        overrides = {name: options.pop(name) for name in fields & options.keys()}
        arguments = map_config(original, name_or_path, tokenizer=tokenizer, **hub_options)
        return config_class.from_dict(arguments, **overrides)
    if getattr(config, INCOMPLETE, False):
        return _completed(config, original, map_config(original, name_or_path, tokenizer=tokenizer, **hub_options))
    if tokenizer is not None and all(getattr(config, name) == getattr(config_class, name) for name in MEDIA_TOKENS):
        # The config may be from `AutoConfig`, which may have been unable to read the tokenizer.
        config = copy.deepcopy(config)
        for name, token_id in placeholder_ids(tokenizer).items():
            setattr(config, name, token_id)
    return config


def _completed(config: PreTrainedConfig, original: dict[str, Any], arguments: dict[str, Any]) -> PreTrainedConfig:
    """Returns a config that `AutoConfig` made of the main file alone, with what all files say.

    Args:
        arguments: what all files say. What the user changed in `config` stays.
    """
    before, after = OmniVinciConfig(**map_config(original)), OmniVinciConfig(**arguments)
    config = copy.deepcopy(config)
    delattr(config, INCOMPLETE)
    for field in dataclasses.fields(OmniVinciConfig):
        old, new = getattr(before, field.name), getattr(after, field.name)
        if old != new and getattr(config, field.name) == old:
            setattr(config, field.name, new)
    return config


def _five_folder_processor_options(
    original: dict[str, Any],
    config: OmniVinciConfig,
    name_or_path: str,
    tokenizer: PreTrainedTokenizerBase,
    hub_options: Mapping[str, Any],
) -> dict[str, Any]:
    """Returns the options of the processor that the files of five folders say."""
    findings = Findings()
    findings.checkpoint = name_or_path
    options = map_original_processor_options(original, findings)
    options.update(image_options(name_or_path, hub_options, findings))
    template = original_chat_template(original, name_or_path, tokenizer, hub_options, findings)
    if template != CHAT_TEMPLATE:
        options["chat_template"] = template
    if "num_frames" not in options:
        frames = ORIGINAL_OPTIONS["num_frames"]
        findings.add(
            "assumed", "", "num_video_frames", frames, f"config.json has no num_video_frames; {frames} is assumed."
        )
    if not tiles_images(original):
        options.update(s2_scales=config.s2_scales[:1], s2_output_scale_index=0)
    findings.settle()
    return options


def _generation_config(
    file: str | None,
    original: Mapping[str, Any],
    name_or_path: str,
    tokenizer: PreTrainedTokenizerBase,
    hub_options: Mapping[str, Any],
) -> GenerationConfig:
    findings = Findings()
    findings.checkpoint = name_or_path
    template = stated_chat_template(original, name_or_path, tokenizer, hub_options)
    values = {} if file is None else read_json_object(file)
    config = original_generation_config(values, tokenizer, template, findings)
    findings.settle()
    return config
