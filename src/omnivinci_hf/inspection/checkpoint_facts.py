"""This module describes a checkpoint: its files, the headers of its weights, and the parts that load from it."""

import json
import math
import os
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from transformers.utils import ADAPTER_CONFIG_NAME, CONFIG_NAME, SAFE_WEIGHTS_INDEX_NAME, SAFE_WEIGHTS_NAME

from ..omnivinci.checkpoint_files_omnivinci import is_original_config, read_weight_index
from ..omnivinci.configuration_omnivinci import MEDIA_TOKENS, TIME_EMBEDDINGS, OmniVinciConfig
from ..original_layout.config import COMPONENTS
from ..original_layout.successor import is_successor, language_model_folder
from .checkpoint_outline import Outline
from .diagnosis import WeightPart


# These say nothing that is not told in fewer words, and a page with them is megabytes long.
LONG_FILES = ("tokenizer.json", "vocab.json", SAFE_WEIGHTS_INDEX_NAME)
# what names of tensors begin with where all lie in one folder -> entry of the main configuration
PARTS_OF_CONFIG = {
    "language_model": "text_config",
    "llm": "text_config",
    "vision_tower": "vision_config",
    "audio_tower": "audio_config",
    "sound_tower": "audio_config",
}
PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl")
# stands in place of the content of a file that cannot be read, with the error
DAMAGED = "(damaged)"
LFS_POINTER = b"version https://git-lfs"


def read_configurations(outline: Outline) -> dict[str, Any]:
    """Reads the configurations and chat templates; in place of one that is damaged stands the error."""
    paths = [path for path in outline.small_files if path.endswith((".json", ".jinja"))]
    return {path: _read(Path(outline.folder, path)) for path in paths if os.path.basename(path) not in LONG_FILES}


def _read(path: Path) -> Any:
    try:
        text = path.read_text(encoding="utf-8")
        return json.loads(text) if path.suffix == ".json" else text
    except (ValueError, RecursionError) as error:
        return {DAMAGED: str(error)}


def read_tensors(outline: Outline) -> dict[str, dict[str, Any]]:
    """Reads the headers of the weight files: dtype and shape by file and tensor; of a damaged one, the error."""
    return {path: _read_shapes(Path(outline.folder, path)) for path in outline.weight_files}


def _read_shapes(path: Path) -> dict[str, Any]:
    try:
        with safe_open(path, framework="pt") as file:
            slices = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118 (it is no mapping)
            return {name: [one.get_dtype(), one.get_shape()] for name, one in slices.items()}
    except SafetensorError as error:
        return {DAMAGED: str(error)}


def weight_parts(files: Mapping[str, Any], tensors: Mapping[str, Mapping[str, Any]]) -> list[WeightPart]:
    """Sums up the tensors of each component: of each folder, or of what the names of tensors begin with."""
    parts: dict[str, list[tuple[str, str, list[int]]]] = {}
    for path, of_file in tensors.items():
        for name, (dtype, shape) in () if DAMAGED in of_file else of_file.items():
            parts.setdefault(os.path.dirname(path) or _prefix(name), []).append((path, dtype, shape))
    return [_weight_part(name, rows, files) for name, rows in parts.items()]


def _prefix(name: str) -> str:
    """Returns what tensors of one component have in common: "model.vision_tower", or "llm"."""
    parts = name.split(".")
    return ".".join(parts[:2] if parts[0] == "model" else parts[:1])


def _weight_part(name: str, rows: list[tuple[str, str, list[int]]], files: Mapping[str, Any]) -> WeightPart:
    counts: Counter[str] = Counter()
    for _, dtype, shape in rows:
        counts[dtype] += math.prod(shape)
    config = files.get(f"{name}/{CONFIG_NAME}")
    if config is None and isinstance(files.get(CONFIG_NAME), dict):
        config = files[CONFIG_NAME].get(PARTS_OF_CONFIG.get(name.removeprefix("model.")))
    return WeightPart(
        name=name,
        model_type=config.get("model_type") if isinstance(config, dict) else None,
        num_files=len({path for path, _, _ in rows}),
        num_tensors=len(rows),
        num_bytes=sum(count * _bits(dtype) // 8 for dtype, count in counts.items()),
        num_parameters=dict(counts.most_common()),
    )


def _bits(dtype: str) -> int:
    number = re.search(r"\d+", dtype)  # BF16, F8_E4M3; a BOOL has a byte
    return int(number[0]) if number else 8


def describe_layout(outline: Outline, files: Mapping[str, Any]) -> str:
    """Says in words which layout a checkpoint has."""
    config, adapter = files.get(CONFIG_NAME), files.get(ADAPTER_CONFIG_NAME)
    if isinstance(config, dict) and DAMAGED not in config:
        model_type = config.get("model_type")
        if is_original_config(config):
            origin = "of Audio-Visual Flamingo" if is_successor(config, outline.folder) else "original"
            folders = "in five folders" if language_model_folder(config, outline.folder) else "in one folder"
            return f"{origin}, {folders} (`model_type` {model_type!r})"
        if model_type == OmniVinciConfig.model_type:
            alone = config.get("architectures") == ["OmniVinciMediaEncoder"]
            return "of Transformers, the media encoder alone" if alone else "of Transformers, as this package writes it"
        return f"something else (`model_type` {model_type!r})"
    if isinstance(adapter, dict):
        rank = f", rank {adapter['r']}" if adapter.get("r") else ""
        return f"an adapter ({adapter.get('peft_type')}{rank}) of {adapter.get('base_model_name_or_path')}"
    if not outline.sizes:
        return "none: the folder is empty"
    return f"none: there is no {CONFIG_NAME}" if config is None else f"unknown: {CONFIG_NAME} cannot be read"


# -- what is unusual about the files


def unusual_files(
    outline: Outline, files: Mapping[str, Any], tensors: Mapping[str, Mapping[str, Any]]
) -> Iterator[str]:
    """Goes through what is unusual about the files, whether or not it keeps the checkpoint from loading."""
    for path, content in files.items():
        if isinstance(content, dict) and DAMAGED in content:
            yield f"{path} cannot be read ({content[DAMAGED]}); get it again."
    for path, of_file in tensors.items():
        if DAMAGED in of_file:
            yield f"{path}: {_damage(Path(outline.folder, path), str(of_file[DAMAGED]))}"
    for folder in ("", *COMPONENTS):
        yield from _unusual_weights(outline, folder, tensors)
    config = files.get(CONFIG_NAME)
    if isinstance(config, dict) and config.get("quantization_config"):
        return
    dtypes = {dtype for of_file in tensors.values() if DAMAGED not in of_file for dtype, _ in of_file.values()}
    if len(dtypes) > 1:
        yield f"The weights have several dtypes: {', '.join(sorted(dtypes))}."


def _damage(path: Path, error: str) -> str:
    with open(path, "rb") as file:
        if file.read(len(LFS_POINTER)) == LFS_POINTER:
            return "This is a pointer of Git LFS in place of the weights: `git lfs pull` gets them."
    return f"The header cannot be read ({error}); get the file again."


def _unusual_weights(outline: Outline, folder: str, tensors: Mapping[str, Mapping[str, Any]]) -> Iterator[str]:
    def place(name: str) -> str:
        return f"{folder}/{name}" if folder else name

    here = {os.path.basename(path): path for path in outline.sizes if os.path.dirname(path) == folder}
    for name in here:
        if name.endswith(PICKLES):
            yield f"{place(name)} is a pickle, which is never read."
    if SAFE_WEIGHTS_INDEX_NAME not in here:
        return
    try:
        weight_map = read_weight_index(Path(outline.folder, place(SAFE_WEIGHTS_INDEX_NAME)))["weight_map"]
    except ValueError as error:
        yield str(error)
        return
    if SAFE_WEIGHTS_NAME in here:
        yield f"{place(SAFE_WEIGHTS_NAME)} is read, so {place(SAFE_WEIGHTS_INDEX_NAME)} and its files are not."
        return
    named = set(weight_map.values())
    for name in sorted(named - here.keys()):
        yield f"{place(name)} is not there, and the index names it."
    for name in sorted(here.keys() - named):
        if name.startswith("model-") and place(name) in tensors:
            yield f"{place(name)} is not read: the index does not name it."


# -- what loads


def describe_settings(config: OmniVinciConfig) -> dict[str, str]:
    """Says in words what the model is built with, subject by subject."""
    vision, audio, text = config.vision_config, config.audio_config, config.text_config
    scales = ", ".join(map(str, config.s2_scales))
    settings = {
        "vision tower": f"{vision.num_hidden_layers} layers, width {vision.hidden_size}, {vision.num_attention_heads} "
        f"heads; images of {vision.image_size} x {vision.image_size} in patches of {vision.patch_size}",
        "tiles": f"Dynamic-S2 at {scales}, at most {config.max_tiles}" if len(config.s2_scales) > 1 else "one an image",
        "vision features": f"hidden state {config.vision_feature_layer}; {config.spatial_merge_size} x "
        f"{config.spatial_merge_size} joined; videos pooled by {config.video_pool_sizes}",
        "audio tower": f"{audio.num_hidden_layers} layers, width {config.audio_feature_size}; {audio.num_mel_bins} mel "
        f"bins, windows of {config.audio_window_frames} frames",
        "language model": f"{text.num_hidden_layers} layers, width {text.hidden_size}, {text.num_attention_heads} "
        f"heads, {text.num_key_value_heads} for keys and values; vocabulary {text.vocab_size}, context "
        f"{text.max_position_embeddings}",
        "rotary positions": _listed(text.rope_parameters or {}),
        "time of videos": _time_embedding(config.video_time_embedding),
        "time of audio": _time_embedding(config.audio_time_embedding),
        "time groups": "none" if config.group_duration_sec is None else f"{config.group_duration_sec:g} s",
        "boundary tokens": _listed(config.boundary_tokens or {}),
        "tied embeddings": "yes" if config.tie_word_embeddings else "no",
        "dtype": str(config.dtype).removeprefix("torch."),
    }
    if config.omni_align_config is not None:
        settings["OmniAlignNet"] = _listed(config.omni_align_config.to_diff_dict())
    if (quantization := getattr(config, "quantization_config", None)) is not None:
        settings["quantization"] = _listed(quantization if isinstance(quantization, dict) else quantization.to_dict())
    return settings


def _time_embedding(config: Any) -> str:
    return _listed({name: getattr(config, name) for name in ("type", *TIME_EMBEDDINGS[config.type].settings)})


def _listed(values: Mapping[str, Any]) -> str:
    left_out = ("transformers_version", "model_type")
    told = {name: value for name, value in values.items() if name not in left_out and value is not None}
    return ", ".join(f"{name}={value!r}" for name, value in told.items()) or "none"


def describe_tokenizer(tokenizer: Any) -> dict[str, Any]:
    """Returns facts about a tokenizer by name."""
    return {
        "class": type(tokenizer).__name__,
        "num_tokens": len(tokenizer),
        "media_tokens": {token: tokenizer.convert_tokens_to_ids(token) for token in MEDIA_TOKENS.values()},
        "end_token": tokenizer.eos_token,
        "padding_token": tokenizer.pad_token,
        "padding_side": tokenizer.padding_side,
        "max_length": tokenizer.model_max_length,
    }


def describe_generation(generation_config: Any, tokenizer: Any) -> dict[str, Any]:
    """Returns the stop tokens by id, and whatever else a generation config sets."""
    options = generation_config.to_diff_dict()
    options = {name: value for name, value in options.items() if name != "transformers_version" and name[0] != "_"}
    ids = options.pop("eos_token_id", None)
    ids = [] if ids is None else ids if isinstance(ids, list) else [ids]
    words = [None if tokenizer is None else tokenizer.convert_ids_to_tokens(one) for one in ids]
    return {"stop_tokens": dict(zip(map(str, ids), words, strict=True)), **options}


def describe_processor(processor: Any) -> dict[str, Any]:
    """Returns the options of a processor and its parts by name."""
    options: dict[str, Any] = {}
    for name, value in processor.to_dict().items():
        options.update(value if name in ("image_processor", "video_processor", "feature_extractor") else {name: value})
    left_out = ("_type", "_class", "auto_map")
    return {name: value for name, value in sorted(options.items()) if not name.endswith(left_out)}
