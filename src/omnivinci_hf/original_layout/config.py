"""This module translates the original checkpoint's `config.json` (`model_type` "vila") into the words of this package.

`nvidia/omnivinci` describes itself with the options of its training code: strings such as "None" and "True", nested
encoder descriptions, one folder per component. `keys` lists the names of these options, `components` reads the folders.
"""

import os
from collections.abc import Callable, Mapping
from typing import Any

from huggingface_hub import try_to_load_from_cache
from transformers import PreTrainedTokenizerBase

from ..omnivinci.checkpoint_files_omnivinci import ORIGINAL_MODEL_TYPE, SUCCESSOR_MODEL_TYPE, component_file
from .components import COMPONENTS as COMPONENTS
from .components import is_described, judge_key, read_component, sub_config
from .findings import Findings
from .keys import (
    ASSUMED_VALUES,
    ENCODER_CLASSES,
    ENCODER_KEYS,
    FLAGS,
    MAIN_KEYS,
    ORIGINAL_DEFAULTS,
    SWITCHES,
    is_off,
)
from .tokenizer import load_original_tokenizer as load_original_tokenizer
from .tokenizer import media_token_ids, placeholder_ids
from .values import clean_nested, dtype_name, flag, none, number, parsed, scales, whole, with_dtype_names


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
    reads_image_encoder: bool = False,
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
        reads_image_encoder: whether the code of the checkpoint reads the options of its `image_encoder`. OmniVinci's
            does not: each image ends in a line break.

    Raises:
        ValueError: for another VILA checkpoint, or a mode that this package does not have.
    """
    findings = Findings() if findings is None else findings
    findings.checkpoint = findings.checkpoint or name_or_path
    original = with_defaults(original, findings)
    _check_components(original, name_or_path, hub_options, findings)
    check_main_keys(original, findings)
    config = _renamed(original, CONFIG_NAMES, findings)
    for name, part in (("vision_tower", "vision_config"), ("sound_tower", "audio_config"), ("llm", "text_config")):
        values, place = _component(original, name, name_or_path, hub_options, findings)
        config[part] = sub_config(name, values, place, findings)
    for name in PROJECTOR_TYPES:
        values, place = _component(original, name, name_or_path, hub_options, findings)
        _check_projector(name, values, place, original, findings)
    _take_scales(config, original, findings)
    encoders = {name: encoder_description(original, name, findings) for name in ("video_encoder", "sound_encoder")}
    encoders["image_encoder"] = {}
    if reads_image_encoder:
        encoders["image_encoder"] = encoder_description(original, "image_encoder", findings)
    else:
        _ignore_image_encoder(original, findings)
    hidden_size = config["text_config"].get("hidden_size", 4096)
    config["video_time_embedding"] = _time_embedding(encoders["video_encoder"], "video", hidden_size, findings)
    config["audio_time_embedding"] = _time_embedding(encoders["sound_encoder"], "audio", hidden_size, findings)
    config["video_pool_sizes"] = clean_nested(encoders["video_encoder"].get("pool_sizes")) or [[1, 1, 1]]
    config["boundary_tokens"] = {
        new: none(encoders[encoder].get(key, default)) for (encoder, key), (new, default) in BOUNDARY_NAMES.items()
    }
    seconds = _read(number, original, "interleaved_video_segment_duration", findings)
    interleaved = _read(flag, original, "interleaved_vis_aud_in_video", findings)
    config["group_duration_sec"] = seconds if interleaved else None
    config["architectures"] = ["OmniVinciForConditionalGeneration"]
    config.update(_loading_entries(original, findings))
    findings.settle()
    if tokenizer is not None:
        config.update(placeholder_ids(tokenizer))
    elif name_or_path:
        config.update(media_token_ids(name_or_path, **hub_options))
    return config


def map_original_processor_options(original: dict[str, Any], findings: Findings | None = None) -> dict[str, Any]:
    """Translates those options of an original `config.json` that are options of the processor here.

    Returns `load_audio_from_video`, `num_frames`, `sampling_rate`, `hop_length` and `max_audio_sec` (None: no limit),
    as far as they are set.

    Raises:
        ValueError: for a limit of audio that this package does not have.
    """
    findings = Findings() if findings is None else findings
    original = with_defaults(original, findings)
    options = _renamed(original, PROCESSOR_NAMES, findings)
    if _read(number, original, "fps", findings):
        sentence = (
            f"config.json has fps={original['fps']!r}, which the original code does not read: it takes "
            "`num_video_frames` frames of each video. Give `fps=` to the processor for frames by their rate."
        )
        findings.add("unusual", "", "fps", original["fps"], sentence)
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
        if elsewhere and (original.get("text_config") or all(is_described(original, name) for name in COMPONENTS)):
            return map_config(original)  # it lies in another cache, so nothing is put into this one
    try:
        return map_config(original, name_or_path, **hub_options)
    except OSError:
        return map_config(original)


def present(original: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the entries of a main file that say something: a null stands for an absent key, or for a false flag."""
    values = {key: False if key in FLAGS and is_off(value) else value for key, value in original.items()}
    return {key: value for key, value in values.items() if value is not None and value != "None"}


def with_defaults(original: Mapping[str, Any], findings: Findings) -> dict[str, Any]:
    """Returns what [`present`] does, with the values that the original code takes where a main file lacks the key."""
    for key in FLAGS:
        if key in original and original[key] in (None, "None"):
            sentence = (
                f"config.json has {key}={original[key]!r}; as in the original code that is false, not the default."
            )
            findings.add("unusual", "", key, original[key], sentence)
    values = present(original)
    for key, value in {**ORIGINAL_DEFAULTS, **ASSUMED_VALUES}.items():
        if key not in values:
            values[key] = value
            lack = f"has {key}={original[key]!r}" if key in original else f"has no {key}"
            taken = "as in the original code it is" if key in ORIGINAL_DEFAULTS else "it is assumed to be"
            findings.add("assumed", "", key, value, f"config.json {lack}; {taken} {value!r}.")
    return values


def check_main_keys(original: Mapping[str, Any], findings: Findings) -> None:
    """Adds findings on all keys of a main file: those that ask for what is not here, and those that nothing reads."""
    for key, value in original.items():
        if key in SWITCHES:
            known, sentence = SWITCHES[key]
            if not is_off(value) and clean_nested(value) not in known:
                text = f"The original option {key}={value!r:.100} is not supported; known are {known}: {sentence}."
                findings.add("refused", "", key, value, text)
        elif key not in MAIN_KEYS:
            judge_key("", key, value, "config.json", findings)
    dynamic = _read(flag, original, "dynamic_s2", findings)
    if _read(flag, original, "s2", findings) and not dynamic:
        text = "The original option s2=True is not supported without dynamic_s2: plain S2 scales are not here."
        findings.add("refused", "", "s2", original["s2"], text)
    if tiles_images(original) and not dynamic:
        text = "config.json has image_aspect_ratio='dynamic_s2' but not dynamic_s2=true; images are squashed to a tile."
        findings.add("unusual", "", "dynamic_s2", original.get("dynamic_s2"), text)


def encoder_description(original: Mapping[str, Any], name: str, findings: Findings) -> dict[str, Any]:
    """Returns an encoder description as a dictionary without nulls that stand for absent keys, after checking its keys.

    Args:
        name: "image_encoder", "video_encoder" or "sound_encoder".
    """
    description = _parsed(original, name, findings)
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
        kind, model_type = "a VILA checkpoint", original.get("model_type", ORIGINAL_MODEL_TYPE)
        remedy = "only the omni-modal one, nvidia/omnivinci, can be loaded. Use NVIDIA's VILA code for the others."
        if model_type == SUCCESSOR_MODEL_TYPE:
            kind = "a checkpoint of Audio-Visual Flamingo"
            remedy = "each must have a folder with a config.json, or a description in the main one. Are files missing?"
        sentence = f"This is {kind} (`model_type`={model_type!r}) without {' and '.join(missing)}: {remedy}"
        findings.add("refused", "", f"{missing[0]}_cfg", None, sentence)
    findings.settle()


def _parsed(original: Mapping[str, Any], name: str, findings: Findings) -> dict[str, Any]:
    try:
        return parsed(original.get(name), name)
    except ValueError as error:
        findings.add("refused", "", name, original[name], str(error))
        return {}


def _ignore_image_encoder(original: Mapping[str, Any], findings: Findings) -> None:
    """Adds findings on the options of images, which OmniVinci's code does not read."""
    defaults = {"start_tokens": None, "end_tokens": "\n"}
    for key, value in _parsed(original, "image_encoder", findings).items():
        level = "unusual" if key in defaults and none(value) != defaults[key] else "ignored"
        text = f"config.json has image_encoder.{key}={value!r:.100}, which OmniVinci's code does not read: "
        findings.add(level, "", f"image_encoder.{key}", value, text + "each image ends in a line break.")


def _component(
    original: Mapping[str, Any],
    name: str,
    name_or_path: str | None,
    hub_options: Mapping[str, Any],
    findings: Findings,
) -> tuple[dict[str, Any], str]:
    try:
        return read_component(original, name, name_or_path, hub_options)
    except ValueError as error:
        findings.add("refused", name, f"{name}_cfg", original.get(f"{name}_cfg"), str(error))
        findings.settle()
        raise


def _check_projector(
    name: str, values: Mapping[str, Any], place: str, original: Mapping[str, Any], findings: Findings
) -> None:
    key, known = PROJECTOR_TYPES[name]
    in_folder = none(values.get(key))
    # Where the main file has the type of the audio projector, the original code takes that one.
    in_main_file = none(original.get(name)) if name == "sound_mm_projector" else None
    component, option, kind = ("", name, in_main_file) if in_main_file else (name, f"{name}_cfg.{key}", in_folder)
    if kind not in (known, None):
        text = f"The original option {option}={kind!r:.100} is not supported; known are {(known,)}: "
        findings.add(
            "refused", component, key if component else name, kind, text + "projectors of other shapes are not here."
        )
    elif in_folder not in (kind, None):
        text = (
            f"{place} has {key}={in_folder!r:.100}; as in the original code, {name}={kind!r} of config.json is taken."
        )
        findings.add("unusual", name, key, in_folder, text)
    if kind is None:
        findings.add("assumed", name, key, known, f"{place} has no {key}; {known!r} is assumed.")
    for other, value in values.items():
        if other != key:
            judge_key(name, other, value, place, findings)


def _read(kind: Callable[[Any], Any], values: Mapping[str, Any], key: str, findings: Findings, name: str = "") -> Any:
    """Returns the value of a key as another type; None if it has none, or one that is refused.

    Args:
        kind: a function of `values`.
        name: of the entry of the main file that holds `values`, if they are not those of the main file.
    """
    value = values.get(key)
    if value is None:
        return None
    try:
        return kind(value)
    except ValueError as error:
        path = f"{name}.{key}" if name else key
        findings.add("refused", "", path, value, f"The option {path} of config.json cannot be read. {error}")
        return None


def _renamed(original: dict[str, Any], names: Mapping[str, tuple[str, Callable]], findings: Findings) -> dict[str, Any]:
    values = {new: _read(kind, original, old, findings) for old, (new, kind) in names.items()}
    return {new: value for new, value in values.items() if value is not None}


def _loading_entries(original: Mapping[str, Any], findings: Findings) -> dict[str, Any]:
    """Returns the entries that `from_dict` and Transformers read themselves: dtype, quantization, attention."""
    entries = {
        name: original[name]
        for name in ("name_or_path", "attn_implementation", "output_attentions", "experts_implementation")
        if name in original
    }
    dtypes = {key: _read(dtype_name, original, key, findings) for key in ("dtype", "torch_dtype", "model_dtype")}
    if dtypes := {key: dtype for key, dtype in dtypes.items() if dtype is not None}:
        key, entries["dtype"] = next(iter(dtypes.items()))
        if dtypes.get("model_dtype", entries["dtype"]) != entries["dtype"]:
            sentence = (
                f"config.json has {key}={original[key]!r}, but model_dtype={original['model_dtype']!r}, in which the "
                f"original code computes; {key} is taken. Give `dtype=` to choose."
            )
            findings.add("unusual", "", "model_dtype", original["model_dtype"], sentence)
    if "quantization_config" in original:
        entries["quantization_config"] = with_dtype_names(original["quantization_config"])
    return entries


def _take_scales(config: dict[str, Any], original: Mapping[str, Any], findings: Findings) -> None:
    """Adds the scales of Dynamic-S2, and as many tiles as the largest needs."""
    side = config["vision_config"].get("image_size", 224)
    config["s2_scales"] = [side]
    if not _read(flag, original, "dynamic_s2", findings):
        return
    if is_off(original.get("s2_scales")):
        sentence = "config.json has dynamic_s2=true but no s2_scales: the sides of the scales, in pixels."
        findings.add("refused", "", "s2_scales", original.get("s2_scales"), sentence)
        return
    config["s2_scales"] = _read(scales, original, "s2_scales", findings) or [side]
    needed, max_tiles = (config["s2_scales"][-1] // side) ** 2, config.get("max_tiles", ORIGINAL_DEFAULTS["max_tiles"])
    if max_tiles < needed and tiles_images(original):
        sentence = (
            f"config.json has max_tiles={max_tiles}, but the largest of s2_scales={original['s2_scales']!r} needs "
            f"{needed} tiles: make max_tiles larger or leave out scales, in a copy of the checkpoint."
        )
        findings.add("refused", "", "max_tiles", max_tiles, sentence)
    config["max_tiles"] = max(max_tiles, needed)


def _time_embedding(encoder: dict[str, Any], modality: str, hidden_size: int, findings: Findings) -> dict[str, Any]:
    name = "video_encoder" if modality == "video" else "sound_encoder"
    embed_time = encoder.get("embed_time", "False" if modality == "video" else "True")
    # For videos only the string switches it off; a boolean False means on there.
    if embed_time == "False" or (modality == "audio" and embed_time is False):
        return {"type": "none"}
    kind = _time_embedding_type(encoder, modality, name, findings)
    if kind == "none":
        return {"type": "none"}
    dim = _read(whole, encoder, "trope_dim", findings, name)
    if dim is None:
        dim = hidden_size // 2 if embed_time == "True" and "time_embed_type" in encoder else 128
    config = {"type": kind, "dim": dim, "max_time": _read(number, encoder, "max_time", findings, name)}
    # With `max_time` the original code takes the base from that.
    takes_theta = kind.startswith("lang") and config["max_time"] is None
    theta = _theta(encoder, modality, name, takes_theta, findings)
    return {**config, "theta": theta} if takes_theta else config


def _theta(encoder: dict[str, Any], modality: str, name: str, is_used: bool, findings: Findings) -> float:
    """Returns the base of rotary frequencies of a time embedding."""
    theta = _read(number, encoder, "trope_theta", findings, name)
    if modality == "audio" and theta not in (None, 10000):
        # The original code passes it on for videos alone.
        sentence = f"config.json has {name}.trope_theta={theta:g}, which the original code does not use: it is 10000."
        findings.add("unusual" if is_used else "ignored", "", f"{name}.trope_theta", theta, sentence)
    return 10000 if modality == "audio" else 50000 if theta is None else theta


def _time_embedding_type(encoder: dict[str, Any], modality: str, name: str, findings: Findings) -> str:
    """Returns the type, in the words of `OmniVinciConfig`, of a time embedding that is switched on."""
    kind, period_fix = encoder.get("time_embed_type", "pixel"), encoder.get("period_fix", False)
    if kind not in ("pixel", "lang"):
        sentence = (
            f"The original {modality} option time_embed_type={kind!r} is not supported: the original code has no "
            "weights for it. Known are 'pixel' and 'lang'."
        )
        findings.add("refused", "", f"{name}.time_embed_type", kind, sentence)
        return "none"
    if period_fix in ("MTCT", "shortest", "longest"):
        return "mtct_longest" if period_fix == "longest" else "mtct_shortest"
    # In the original code only the string "True" is true.
    return f"{kind}_periodic" if period_fix == "True" else f"{kind}_seconds"
