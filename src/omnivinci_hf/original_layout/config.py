"""This module translates the original checkpoint's `config.json` (`model_type` "vila") into the words of this package.

`nvidia/omnivinci` describes itself with the options of its training code: strings such as "None" and "True", nested
encoder descriptions, one folder per component. `keys` lists the names of these options, `components` reads the folders.
"""

import os
from collections.abc import Callable, Mapping
from typing import Any

from huggingface_hub import try_to_load_from_cache
from transformers import PreTrainedTokenizerBase

from ..omnivinci.checkpoint_files_omnivinci import ORIGINAL_MODEL_TYPE, component_file
from .components import COMPONENTS as COMPONENTS
from .components import is_described, judge_key, read_component, sub_config
from .findings import Findings
from .keys import (
    ENCODER_CLASSES,
    ENCODER_KEYS,
    IDLE_MAIN_KEYS,
    MAIN_KEYS,
    SWITCHES,
    TRAINING,
    TRAINING_KEYS,
    TRANSFORMERS_KEYS,
    is_off,
)
from .tokenizer import load_original_tokenizer as load_original_tokenizer
from .tokenizer import media_token_ids, placeholder_ids
from .values import clean_nested, dtype_name, flag, none, number, parsed, whole, with_dtype_names


# original name -> name in OmniVinciConfig, and what mends the type of the value
CONFIG_NAMES: dict[str, tuple[str, Callable[[Any], Any]]] = {
    "mm_vision_select_layer": ("vision_feature_layer", whole),
    "s2_resize_output_to_scale_idx": ("s2_output_scale_index", whole),
    "max_tiles": ("max_tiles", whole),
    "mm_use_bos_eos_tokens": ("use_modality_boundary_tokens", flag),
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
# In an encoder description, a null of these differs from an absent key.
MEANT_AS_NULL = ("start_tokens", "end_tokens", "sep_tokens", "embed_time")
# component -> key of its type, and the one type that is here
PROJECTOR_TYPES = {
    "mm_projector": ("mm_projector_type", "mlp_downsample"),
    "sound_mm_projector": ("sound_mm_projector_type", "mlp"),
}


def map_original_config(
    original: dict[str, Any],
    name_or_path: str | None = None,
    *,
    findings: Findings | None = None,
    tokenizer: PreTrainedTokenizerBase | None = None,
    **hub_options,
) -> dict[str, Any]:
    """Translate an original `config.json` into arguments of `OmniVinciConfig`; the input is left as it is.

    Args:
        original: the parsed file.
        name_or_path: folder or hub id of the checkpoint. Each component is read from its folder, as the original code
            does; its copy in `original`, which may be stale, a path or a name, stands in where that has no
            config. The placeholder ids are read from the tokenizer, and keep their defaults without `name_or_path`.
        findings: a list that grows by what the files assume, leave unused or hold that is unusual; also by all that is
            refused, before the error is raised.
        tokenizer: of the checkpoint, where it is at hand; it is loaded otherwise.

    Raises:
        ValueError: for another VILA checkpoint, or a mode that this package does not have.
    """
    findings = Findings() if findings is None else findings
    original = present(original)
    _check_components(original, name_or_path, hub_options, findings)
    assume_defaults(original, findings)
    check_main_keys(original, findings)
    config = _renamed(original, CONFIG_NAMES)
    for name, part in (("vision_tower", "vision_config"), ("sound_tower", "audio_config"), ("llm", "text_config")):
        values, place = read_component(original, name, name_or_path, hub_options)
        config[part] = sub_config(name, values, place, findings)
    for name in PROJECTOR_TYPES:
        values, place = read_component(original, name, name_or_path, hub_options)
        _check_projector(name, values, place, original, findings)
    findings.settle()

    side = config["vision_config"].get("image_size", 224)
    config["s2_scales"] = _scales(original, side)
    config["max_tiles"] = max(config.get("max_tiles", 12), (config["s2_scales"][-1] // side) ** 2)
    encoders = {name: encoder_description(original, name, findings) for name in ENCODER_KEYS}
    findings.settle()
    hidden_size = config["text_config"].get("hidden_size", 4096)
    config["video_time_embedding"] = _time_embedding(encoders["video_encoder"], "video", hidden_size)
    config["audio_time_embedding"] = _time_embedding(encoders["sound_encoder"], "audio", hidden_size)
    config["video_pool_sizes"] = clean_nested(encoders["video_encoder"].get("pool_sizes")) or [[1, 1, 1]]
    config["boundary_tokens"] = {
        new: none(encoders[encoder].get(key, default)) for (encoder, key), (new, default) in BOUNDARY_NAMES.items()
    }
    interleaved = flag(original["interleaved_vis_aud_in_video"])
    config["group_duration_sec"] = number(original["interleaved_video_segment_duration"]) if interleaved else None
    config["architectures"] = ["OmniVinciForConditionalGeneration"]
    config.update(_loading_entries(original, findings))
    if tokenizer is not None:
        config.update(placeholder_ids(tokenizer))
    elif name_or_path:
        config.update(media_token_ids(name_or_path, **hub_options))
    return config


def map_original_processor_options(original: dict[str, Any], findings: Findings | None = None) -> dict[str, Any]:
    """Translates those options of an original `config.json` that are options of the processor here.

    Returns `load_audio_from_video`, `num_frames`, `fps`, `sampling_rate`, `hop_length` and `max_audio_sec` (None: no
    limit), as far as they are set.

    Raises:
        ValueError: for a limit of audio that this package does not have.
    """
    findings = Findings() if findings is None else findings
    original = present(original)
    assume_defaults(original, findings)
    options = _renamed(original, PROCESSOR_NAMES)
    if fps := number(original.get("fps")):
        options["fps"] = float(fps)
    # "max" keeps the whole audio; "max_N" and a bare number keep its first N seconds
    given = str(original["audio_chunk_length"])
    limit = given.removeprefix("max").removeprefix("_")
    try:
        options["max_audio_sec"] = float(limit) if limit else None
    except ValueError:
        sentence = (
            f"The original option audio_chunk_length={given!r} is not supported; known are 'max', 'max_N' and a number "
            "of seconds."
        )
        findings.add("refused", "", "audio_chunk_length", given, sentence)
    if "random_audio_sample" in original and not given.startswith("max"):
        sentence = (
            "The original option random_audio_sample makes the original code hear a random part of audio longer than "
            f"{given} seconds; here it is the first part."
        )
        findings.add("unusual", "", "random_audio_sample", original["random_audio_sample"], sentence)
    findings.settle()
    return options


def tiles_images(original: Mapping[str, Any]) -> bool:
    """Says whether a single image is cut into the tiles of Dynamic-S2; otherwise each is squashed to one tile."""
    return original.get("image_aspect_ratio") == "dynamic_s2"


def map_bare_config(
    original: dict[str, Any],
    name_or_path: str | None,
    commit: str | None,
    map_config: Callable[..., dict[str, Any]] = map_original_config,
) -> dict[str, Any]:
    """As `map_config`, for `AutoConfig`, which passes the file on but not how it was fetched.

    The placeholder ids keep their defaults where the tokenizer cannot be read without a token, a subfolder or another
    cache; `from_pretrained` of the model knows these and sets the ids.
    """
    hub_options: dict[str, Any] = {}
    if name_or_path and not os.path.isdir(name_or_path):
        hub_options["revision"] = commit
        elsewhere = commit and not isinstance(try_to_load_from_cache(name_or_path, "config.json", revision=commit), str)
        if elsewhere and ("text_config" in original or all(is_described(original, name) for name in COMPONENTS)):
            return map_config(original)  # it lies in another cache, so nothing is put into this one
    try:
        return map_config(original, name_or_path, **hub_options)
    except OSError:
        return map_config(original)


def present(original: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the entries of a main file that say something: a null stands for an absent key."""
    return {key: value for key, value in original.items() if value is not None and value != "None"}


def assume_defaults(original: dict[str, Any], findings: Findings) -> None:
    """Adds the values that the original code takes where a main file lacks the key."""
    for key, value in ORIGINAL_DEFAULTS.items():
        if key not in original:
            original[key] = value
            sentence = f"config.json has no {key}; as in the original code it is {value!r}."
            findings.add("assumed", "", key, value, sentence)


def check_main_keys(original: Mapping[str, Any], findings: Findings) -> None:
    """Adds findings on all keys of a main file: those that ask for what is not here, and those that nothing reads."""
    for key, value in original.items():
        if key in SWITCHES:
            known, sentence = SWITCHES[key]
            if clean_nested(value) not in known:
                text = f"The original option {key}={value!r:.100} is not supported; known are {known}: {sentence}."
                findings.add("refused", "", key, value, text)
        elif key in TRANSFORMERS_KEYS or key in IDLE_MAIN_KEYS:
            findings.add("ignored", "", key, value, f"config.json has {key}, which the original code does not read.")
        elif key in TRAINING_KEYS or TRAINING.fullmatch(key):
            findings.add("ignored", "", key, value, f"config.json has {key}, an option of training.")
        elif key not in MAIN_KEYS:
            judge_key("", key, value, "config.json", findings)
    for key, value in (("image_aspect_ratio", "None"), ("mm_vision_select_feature", "'cls_patch'")):
        if key not in original:
            findings.add("assumed", "", key, value, f"config.json has no {key}; {value} is assumed.")
    if _flag_of(original, "s2") and not _flag_of(original, "dynamic_s2"):
        text = "The original option s2=True is not supported without dynamic_s2: plain S2 scales are not here."
        findings.add("refused", "", "s2", original["s2"], text)
    if tiles_images(original) and not _flag_of(original, "dynamic_s2"):
        text = "config.json has image_aspect_ratio='dynamic_s2' but not dynamic_s2=true; images are squashed to a tile."
        findings.add("unusual", "", "dynamic_s2", original.get("dynamic_s2"), text)


def encoder_description(original: Mapping[str, Any], name: str, findings: Findings) -> dict[str, Any]:
    """Returns an encoder description as a dictionary without nulls that stand for absent keys, after checking its keys.

    Args:
        name: "image_encoder", "video_encoder" or "sound_encoder".
    """
    description = parsed(original.get(name), name)
    for key, value in description.items():
        if key in ENCODER_KEYS[name] or is_off(value):
            continue
        text = f"The original option {name}.{key}={value!r:.100} is not known here and could change numbers."
        findings.add("refused", "", f"{name}.{key}", value, text)
    target = description.get("_target_")
    if not is_off(target) and str(target).rsplit(".", 1)[-1] not in ENCODER_CLASSES[name]:
        text = (
            f"The original option {name}._target_={target!r:.100} is not supported; known are {ENCODER_CLASSES[name]}: "
            "encoders of other names are not here."
        )
        findings.add("refused", "", f"{name}._target_", target, text)
    return {key: value for key, value in description.items() if value is not None or key in MEANT_AS_NULL}


def _check_components(
    original: dict[str, Any], name_or_path: str | None, hub_options: Mapping[str, Any], findings: Findings
) -> None:
    """Refuses a checkpoint that lacks a component: the main file names those that there are, or a folder has it."""
    missing = []
    for name in COMPONENTS:
        if original.get(f"{name}_cfg"):
            continue
        if name_or_path and component_file(name_or_path, name, "config.json", hub_options):
            sentence = f"config.json has no `{name}_cfg`; the folder {name} has a configuration, which is taken."
            findings.add("assumed", "", f"{name}_cfg", name, sentence)
        else:
            missing.append(name)
    if missing:
        sentence = (
            f"This is a VILA checkpoint (`model_type`={ORIGINAL_MODEL_TYPE!r}) without {' and '.join(missing)}: "
            "only the omni-modal one, nvidia/omnivinci, can be loaded. Use NVIDIA's VILA code for the others."
        )
        findings.add("refused", "", f"{missing[0]}_cfg", None, sentence)
    findings.settle()


def _check_projector(
    name: str, values: Mapping[str, Any], place: str, original: Mapping[str, Any], findings: Findings
) -> None:
    key, known = PROJECTOR_TYPES[name]
    kinds = {f"{name}_cfg.{key}": none(values.get(key))}
    if name == "sound_mm_projector":
        kinds[name] = none(original.get(name))  # where the main file has it, the original code takes this one
    for option, kind in kinds.items():
        if kind not in (known, None):
            text = f"The original option {option}={kind!r} is not supported; known are {(known,)}: "
            findings.add("refused", name, key, kind, text + "projectors of other shapes are not here.")
    if not any(kinds.values()):
        findings.add("assumed", name, key, known, f"{place} has no {key}; {known!r} is assumed.")
    for other, value in values.items():
        if other != key:
            judge_key(name, other, value, place, findings)


def _flag_of(original: Mapping[str, Any], key: str) -> bool:
    return flag(original.get(key) or False)


def _renamed(original: dict[str, Any], names: Mapping[str, tuple[str, Callable]]) -> dict[str, Any]:
    values = {new: kind(original[old]) for old, (new, kind) in names.items() if original.get(old) is not None}
    return {new: value for new, value in values.items() if value is not None}


def _loading_entries(original: Mapping[str, Any], findings: Findings) -> dict[str, Any]:
    """Returns the entries that `from_dict` and Transformers read themselves: dtype, quantization, attention."""
    entries = {
        name: original[name]
        for name in ("name_or_path", "attn_implementation", "output_attentions", "experts_implementation")
        if name in original
    }
    dtypes = {key: dtype_name(original[key]) for key in ("dtype", "torch_dtype", "model_dtype") if key in original}
    if dtypes:
        key, entries["dtype"] = next(iter(dtypes.items()))
        if dtypes.get("model_dtype", entries["dtype"]) != entries["dtype"]:
            sentence = (
                f"config.json has {key}={original[key]!r}, but model_dtype={original['model_dtype']!r}, in which the "
                f"original code computes; {key} is taken. Give `dtype=` to choose."
            )
            findings.add("unusual", "", "model_dtype", original["model_dtype"], sentence)
            findings.settle()
    if "quantization_config" in original:
        entries["quantization_config"] = with_dtype_names(original["quantization_config"])
    return entries


def _scales(original: dict[str, Any], side: int) -> list[int]:
    if not _flag_of(original, "dynamic_s2"):
        return [side]
    if is_off(original.get("s2_scales")):
        raise ValueError("config.json has dynamic_s2=true but no s2_scales: the sides of the scales, in pixels.")
    scales = original["s2_scales"]
    return sorted(int(number(scale) or 0) for scale in (scales.split(",") if isinstance(scales, str) else scales))


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
