"""This module translates the original checkpoint's `config.json` (`model_type` "vila") into the words of this package.

`nvidia/omnivinci` describes itself with the options of its training code: strings such as "None" and "True", nested
encoder descriptions, one folder per component. This file is the only one that knows those names.
"""

import json
import os
from collections.abc import Callable, Mapping
from typing import Any

from huggingface_hub import try_to_load_from_cache
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from ..omnivinci.checkpoint_files_omnivinci import ORIGINAL_MODEL_TYPE, component_file
from ..omnivinci.configuration_omnivinci import MEDIA_TOKENS


def flag(value: Any) -> bool:
    """Reads a boolean, or one of the strings that original files hold in its place."""
    if value in (True, False):
        return bool(value)
    if value in ("True", "true"):
        return True
    if value in ("False", "false", "None"):
        return False
    raise ValueError(f"Expected a boolean in the original config, got {value!r}.")


def number(value: Any) -> float | None:
    """Reads a number, or the string that an original file holds in its place; "None" gives None."""
    return float(value) if isinstance(value, str) and value not in ("None", "") else _none(value)


def whole(value: Any) -> int | None:
    """Reads a whole number, or the string that an original file holds in its place; "None" gives None."""
    value = number(value)
    return None if value is None else int(value)


COMPONENTS = ("llm", "vision_tower", "mm_projector", "sound_tower", "sound_mm_projector")

# original name -> name in OmniVinciConfig, and what mends the type of the value
CONFIG_NAMES: dict[str, tuple[str, Callable[[Any], Any]]] = {
    "mm_vision_select_layer": ("vision_feature_layer", whole),
    "s2_resize_output_to_scale_idx": ("s2_output_scale_index", whole),
    "max_tiles": ("max_tiles", whole),
    "mm_use_bos_eos_tokens": ("use_modality_boundary_tokens", flag),
    "torch_dtype": ("dtype", str),
}
# original name -> option of OmniVinciProcessor, and what mends the type of the value
PROCESSOR_NAMES: dict[str, tuple[str, Callable[[Any], Any]]] = {
    "load_audio_in_video": ("load_audio_from_video", flag),
    "num_video_frames": ("num_frames", whole),
    "audio_sampling_rate": ("sampling_rate", whole),
    "audio_hop_length": ("hop_length", whole),
}
# The original code takes these values where the file lacks the key.
ORIGINAL_DEFAULTS = {
    "interleaved_vis_aud_in_video": True,
    "interleaved_video_segment_duration": 30,
    "load_audio_in_video": True,
    "audio_sampling_rate": 16000,
    "audio_hop_length": 60,
    "audio_chunk_length": 120,
}
# (encoder description, its key) -> key of `boundary_tokens`, and what the original code takes when the key is absent
BOUNDARY_NAMES = {
    ("image_encoder", "start_tokens"): ("image_start", None),
    ("image_encoder", "end_tokens"): ("image_end", "\n"),
    ("video_encoder", "start_tokens"): ("video_start", None),
    ("video_encoder", "end_tokens"): ("video_end", "\n"),
    ("video_encoder", "sep_tokens"): ("video_sep", None),
    ("sound_encoder", "start_tokens"): ("audio_start", None),
    ("sound_encoder", "end_tokens"): ("audio_end", "\n"),
}


def map_original_config(original: dict[str, Any], name_or_path: str | None = None, **hub_options) -> dict[str, Any]:
    """Translate an original `config.json` into arguments of `OmniVinciConfig`; the input is left as it is.

    Args:
        original: the parsed file.
        name_or_path: folder or hub id of the checkpoint. Each component is read from its folder, as the original code
            does; its copy in `original`, which may be stale, a path or a name, stands in where that has no
            config. The placeholder ids are read from the tokenizer, and keep their defaults without `name_or_path`.

    Raises:
        ValueError: for another VILA checkpoint, or a mode that this package does not have.
    """
    missing = [name for name in COMPONENTS if not original.get(f"{name}_cfg")]
    if missing:
        raise ValueError(
            f"This is a VILA checkpoint (`model_type`={ORIGINAL_MODEL_TYPE!r}) without {' and '.join(missing)}: "
            "only the omni-modal one, nvidia/omnivinci, can be loaded. Use NVIDIA's VILA code for the others."
        )
    original = {**ORIGINAL_DEFAULTS, **original}
    components = {name: _component(original, name, name_or_path, hub_options) for name in COMPONENTS}
    _refuse_unknown_modes(original, components)

    config = _renamed(original, CONFIG_NAMES)
    if "dtype" in config:
        config["dtype"] = config["dtype"].removeprefix("torch.")
    config["vision_config"] = _clean(components["vision_tower"])
    config["audio_config"] = _clean(components["sound_tower"])
    config["text_config"] = _clean(components["llm"])
    side = config["vision_config"]["image_size"]
    config["s2_scales"] = _scales(original, side)
    config["max_tiles"] = max(config.get("max_tiles", 12), (config["s2_scales"][-1] // side) ** 2)
    encoders = {name: _parsed(original.get(name)) for name in ("image_encoder", "video_encoder", "sound_encoder")}
    hidden_size = config["text_config"]["hidden_size"]
    config["video_time_embedding"] = _time_embedding(encoders["video_encoder"], "video", hidden_size)
    config["audio_time_embedding"] = _time_embedding(encoders["sound_encoder"], "audio", hidden_size)
    config["video_pool_sizes"] = encoders["video_encoder"].get("pool_sizes") or [[1, 1, 1]]
    config["boundary_tokens"] = {
        new: _none(encoders[encoder].get(key, default)) for (encoder, key), (new, default) in BOUNDARY_NAMES.items()
    }
    interleaved = flag(original["interleaved_vis_aud_in_video"])
    config["group_duration_sec"] = number(original["interleaved_video_segment_duration"]) if interleaved else None
    config["architectures"] = ["OmniVinciForConditionalGeneration"]
    if original.get("quantization_config") is not None:
        config["quantization_config"] = original["quantization_config"]
    if name_or_path:
        config.update(media_token_ids(name_or_path, **hub_options))
    # `from_dict` and Transformers put these into the dictionary.
    for name in (
        "name_or_path",
        "attn_implementation",
        "output_attentions",
        "experts_implementation",
        "dtype",
    ):
        if name in original:
            config[name] = original[name]
    return config


def map_original_processor_options(original: dict[str, Any]) -> dict[str, Any]:
    """Translates those options of an original `config.json` that are options of the processor here.

    Returns `load_audio_from_video`, `num_frames`, `fps`, `sampling_rate`, `hop_length` and `max_audio_sec` (None: no
    limit), as far as they are set.
    """
    original = {**ORIGINAL_DEFAULTS, **original}
    options = _renamed(original, PROCESSOR_NAMES)
    if fps := number(original.get("fps")):
        options["fps"] = float(fps)
    limit = _none(original["audio_chunk_length"])
    if limit is not None:
        # "max" keeps the whole audio; "max_N" and a bare number keep its first N seconds
        limit = str(limit).removeprefix("max").removeprefix("_")
        options["max_audio_sec"] = float(limit) if limit else None
    return options


def map_bare_config(original: dict[str, Any], name_or_path: str | None, commit: str | None) -> dict[str, Any]:
    """As [`map_original_config`], for `AutoConfig`, which passes the file on but not how it was fetched.

    The placeholder ids keep their defaults where the tokenizer cannot be read without a token, a subfolder or another
    cache; `from_pretrained` of the model knows these and sets the ids.
    """
    hub_options = {}
    if name_or_path and not os.path.isdir(name_or_path):
        hub_options["revision"] = commit
        elsewhere = commit and not isinstance(try_to_load_from_cache(name_or_path, "config.json", revision=commit), str)
        if elsewhere and all(_is_described(original, name) for name in COMPONENTS):
            return map_original_config(original)  # it lies in another cache, so nothing is put into this one
    try:
        return map_original_config(original, name_or_path, **hub_options)
    except OSError:
        return map_original_config(original)


def media_token_ids(name_or_path: str, **hub_options) -> dict[str, int]:
    """Returns the ids of the media placeholders in the tokenizer, by the names that the config has for them."""
    tokenizer = load_original_tokenizer(name_or_path, **hub_options)
    vocabulary = tokenizer.get_vocab()
    return {name: vocabulary[token] for name, token in MEDIA_TOKENS.items()}


def load_original_tokenizer(name_or_path: str, **hub_options) -> PreTrainedTokenizerBase:
    """Loads the tokenizer of the `llm` folder and adds the media placeholders where the files lack them.

    Raises:
        ValueError: when files of the tokenizer are missing.
    """
    folder = "/".join(filter(None, (hub_options.pop("subfolder", None), "llm")))
    tokenizer = AutoTokenizer.from_pretrained(name_or_path, subfolder=folder, **{"padding_side": "left", **hub_options})
    known = tokenizer.get_vocab()
    if not {"<|im_start|>", "<|im_end|>"} <= known.keys() or not tokenizer("words")["input_ids"]:
        # Transformers makes an empty tokenizer where files are missing.
        raise ValueError(
            f"{name_or_path} has no usable tokenizer in its folder llm, only {len(known)} tokens. Are tokenizer.json, "
            "or vocab.json and merges.txt, missing?"
        )
    tokenizer.add_tokens([token for token in MEDIA_TOKENS.values() if token not in known], special_tokens=True)
    return tokenizer


def _component(
    original: dict[str, Any], name: str, name_or_path: str | None, hub_options: Mapping[str, Any]
) -> dict[str, Any]:
    if name_or_path and (file := component_file(name_or_path, name, "config.json", hub_options)):
        with open(file, encoding="utf-8") as stream:
            return json.load(stream)
    if not _is_described(original, name):
        raise ValueError(
            f"{name_or_path or 'The original config'} does not describe {name}: there is no {name}/config.json, and "
            f"`{name}_cfg` is only {original[f'{name}_cfg']!r}. Get the whole checkpoint, and load it by its folder."
        )
    return original[f"{name}_cfg"]


def _is_described(original: dict[str, Any], name: str) -> bool:
    """Says whether the main file holds a component's options, not only where they once lay."""
    copy = original.get(f"{name}_cfg")
    return isinstance(copy, dict) and bool(copy.keys() - {"_name_or_path"})


def _renamed(original: dict[str, Any], names: Mapping[str, tuple[str, Callable]]) -> dict[str, Any]:
    values = {new: kind(original[old]) for old, (new, kind) in names.items() if original.get(old) is not None}
    return {new: value for new, value in values.items() if value is not None}


def _refuse_unknown_modes(original: dict[str, Any], components: dict[str, dict]) -> None:
    supported = {
        "mm_projector_cfg.mm_projector_type": (
            components["mm_projector"].get("mm_projector_type"),
            ("mlp_downsample",),
        ),
        "sound_mm_projector_cfg.sound_mm_projector_type": (
            components["sound_mm_projector"].get("sound_mm_projector_type"),
            ("mlp",),
        ),
        "image_aspect_ratio": (original.get("image_aspect_ratio"), ("dynamic_s2", "resize", None)),
        "mm_vision_select_feature": (original.get("mm_vision_select_feature"), ("cls_patch", None)),
        "num_time_tokens": (original.get("num_time_tokens") or 0, (0,)),
    }
    for name, (value, known) in supported.items():
        if value not in known:
            raise ValueError(f"The original option {name}={value!r} is not supported; known are {known}.")


def _scales(original: dict[str, Any], side: int) -> list[int]:
    if not flag(original.get("dynamic_s2") or False):
        return [side]
    scales = original["s2_scales"]
    return sorted(int(scale) for scale in (scales.split(",") if isinstance(scales, str) else scales))


def _time_embedding(encoder: dict[str, Any], modality: str, hidden_size: int) -> dict[str, Any]:
    embed_time = encoder.get("embed_time", "False" if modality == "video" else "True")
    # For videos only the string switches it off; a boolean False means on there.
    if embed_time == "False" or (modality == "audio" and embed_time is False):
        return {"type": "none"}
    kind, period_fix = encoder.get("time_embed_type", "pixel"), encoder.get("period_fix", False)
    if kind not in ("pixel", "lang"):
        raise ValueError(
            f"The original {modality} option time_embed_type={kind!r} is not supported: the original code has no "
            "weights for it. Known are 'pixel' and 'lang'."
        )
    if period_fix in ("MTCT", "shortest", "longest"):
        kind = "mtct_longest" if period_fix == "longest" else "mtct_shortest"
    else:
        # In the original code only the string "True" is true.
        kind += "_periodic" if period_fix == "True" else "_seconds"
    dim = whole(encoder.get("trope_dim"))
    if dim is None:
        dim = hidden_size // 2 if embed_time == "True" and "time_embed_type" in encoder else 128
    config = {"type": kind, "dim": dim, "max_time": number(encoder.get("max_time"))}
    if kind.startswith("lang") and config["max_time"] is None:
        # With `max_time` the original code takes the base from that.
        config["theta"] = number(encoder.get("trope_theta", 50000 if modality == "video" else 10000))
    return config


def _clean(component: dict[str, Any]) -> dict[str, Any]:
    dropped = ("_name_or_path", "architectures", "transformers_version", "torch_dtype", "dtype", "auto_map")
    return {name: value for name, value in component.items() if name not in dropped}


def _parsed(encoder: Any) -> dict[str, Any]:
    # Some files hold the description as JSON in a string.
    return (json.loads(encoder) if isinstance(encoder, str) else encoder) or {}


def _none(value: Any) -> Any:
    return None if value in ("None", "") else value
