"""This module reads the configurations of the five components, and gives each key the type that its class declares."""

import dataclasses
import typing
from collections.abc import Mapping
from types import NoneType
from typing import Any

from transformers import CONFIG_MAPPING
from transformers.utils import CONFIG_NAME

from ..omnivinci.checkpoint_files_omnivinci import component_file, read_json_object
from ..omnivinci.configuration_omnivinci import AUDIO_ENCODERS
from .findings import Findings
from .keys import IDLE_KEYS, TRANSFORMERS_KEYS, changes_numbers, is_off, is_training
from .values import ABSENT, clean_nested, typed


COMPONENTS = ("llm", "vision_tower", "mm_projector", "sound_tower", "sound_mm_projector")
# component -> the kinds that can be loaded; the first is taken where a file does not say
MODEL_TYPES = {
    "llm": ("qwen2",),
    "vision_tower": ("siglip_vision_model",),
    "sound_tower": tuple(AUDIO_ENCODERS),
}
# component -> key of its part in the configuration of a whole model, and kind of the model -> kind of the part
WHOLE_MODELS = {
    "vision_tower": ("vision_config", {"siglip": "siglip_vision_model", "siglip_model": "siglip_vision_model"}),
    "sound_tower": ("audio_config", {"qwen2_audio": "qwen2_audio_encoder"}),
}
# component -> keys that its class takes beside its fields, with their types, and fields that all classes have
EXTRA_FIELDS: dict[str, dict[str, tuple]] = {
    "llm": {"rope_theta": (float,), "head_dim": (int, NoneType), "rope_scaling": (dict, NoneType)},
    "vision_tower": {"vision_use_head": (bool,)},
}
COMMON_FIELDS = {"llm": ("tie_word_embeddings", "use_cache", "bos_token_id", "eos_token_id", "pad_token_id")}


def read_component(
    original: Mapping[str, Any], name: str, name_or_path: str | None, hub_options: Mapping[str, Any]
) -> tuple[dict[str, Any], str]:
    """Returns what describes a component, and the words that name that place.

    Its folder rules; the entry of the main file stands in where the folder has no configuration.

    Raises:
        ValueError: when neither describes it.
    """
    if name_or_path and (file := component_file(name_or_path, name, "config.json", hub_options)):
        return read_json_object(file), f"{name}/config.json"
    if not is_described(original, name):
        raise ValueError(
            f"{name_or_path or 'The original config'} does not describe {name}: there is no {name}/config.json, and "
            f"`{name}_cfg` is only {original.get(f'{name}_cfg')!r}. Get the whole checkpoint, and load it by its "
            "folder."
        )
    return original[f"{name}_cfg"], f"`{name}_cfg`"


def is_described(original: Mapping[str, Any], name: str) -> bool:
    """Says whether the main file holds a component's options, not only where they once lay."""
    copy = original.get(f"{name}_cfg")
    return isinstance(copy, dict) and bool(copy.keys() - {"_name_or_path"})


def sub_config(name: str, values: Mapping[str, Any], place: str, findings: Findings) -> dict[str, Any]:
    """Translates the description of the language model or of a tower into the arguments of its configuration.

    Keys that no model reads are left out, numbers that are strings become numbers, and a null stands for an absent key
    unless the class declares it.

    Args:
        name: of the component.
        values: what describes it.
        place: the words that name where it does.
        findings: it grows by what is unusual, assumed, ignored or refused.
    """
    values = _part_of_whole(name, values, place, findings)
    kind = values.get("model_type")
    if is_off(kind):
        kind = MODEL_TYPES[name][0]
        findings.add("assumed", name, "model_type", kind, f"{place} has no `model_type`; {kind!r} is assumed.")
    if kind not in MODEL_TYPES[name]:
        known = " or ".join(map(repr, MODEL_TYPES[name]))
        sentence = f"{place} describes a {kind!r} (`model_type`), which is not here; {name} can be {known}."
        findings.add("refused", name, "model_type", kind, sentence)
        return {"model_type": MODEL_TYPES[name][0]}
    config_class: Any = CONFIG_MAPPING[kind]
    dropped = TRANSFORMERS_KEYS - set(COMMON_FIELDS.get(name, ()))
    fields = [field for field in dataclasses.fields(config_class) if field.name not in dropped]
    types = EXTRA_FIELDS.get(name, {}) | {field.name: _types_of(field.type) for field in fields}
    arguments: dict[str, Any] = {"model_type": kind}
    for key, value in values.items():
        target = _target(config_class, key, types)
        if target is None:
            judge_key(name, key, value, place, findings)
        elif target != key and values.get(target) is not None:
            if value is not None and clean_nested(value) != clean_nested(values[target]):
                sentence = f"{place} has {key}={value!r} beside {target}={values[target]!r}; {target} is taken."
                findings.add("unusual", name, key, value, sentence)
        else:
            _take(arguments, name, target, value, types[target], place, findings)
    return arguments


def judge_key(name: str, key: str, value: Any, place: str, findings: Findings, file: str = CONFIG_NAME) -> None:
    """Adds the finding that fits a key which nothing here reads: ignored, refused or unusual."""
    level, text = "ignored", f"{place} has {key}, which no model here reads."
    if key in TRANSFORMERS_KEYS or key in IDLE_KEYS.get(name, ()):
        pass
    elif is_training(key):
        text = f"{place} has {key}, an option of training."
    elif is_off(value):
        text = f"{place} has {key}, which is not known here, but off."
    elif changes_numbers(key):
        level, text = "refused", f"{place} has {key}={value!r:.100}, which is not known here and could change numbers."
    else:
        level, text = "unusual", f"{place} has {key}={value!r:.100}, which is not known here; it is ignored."
    findings.add(level, name, key, value, text, file)


def _part_of_whole(name: str, values: Mapping[str, Any], place: str, findings: Findings) -> dict[str, Any]:
    """Returns the description of a tower also where the file is that of the whole model it was taken from."""
    values = dict(values)
    key, kinds = WHOLE_MODELS.get(name, ("", {}))
    nested = values.pop(key, None)
    if isinstance(values.get("model_type"), str):
        values["model_type"] = kinds.get(values["model_type"], values["model_type"])
    if not isinstance(nested, Mapping):
        return values
    given = {entry: value for entry, value in values.items() if value is not None}
    differing = [
        entry
        for entry in given.keys() & nested.keys() - TRANSFORMERS_KEYS
        if nested[entry] is not None and clean_nested(nested[entry]) != clean_nested(given[entry])
    ]
    for entry in sorted(differing):
        sentence = f"{place} has {entry}={given[entry]!r}, but {nested[entry]!r} in its {key}; the former is taken."
        findings.add("unusual", name, f"{key}.{entry}", nested[entry], sentence)
    return {**values, **{entry: value for entry, value in nested.items() if value is not None}, **given}


def _target(config_class: Any, key: str, types: Mapping[str, Any]) -> str | None:
    """Returns the field that a key stands for, or None."""
    target = key if key in types else config_class.attribute_map.get(key)
    return target if target in types else None


def _take(
    arguments: dict[str, Any], name: str, key: str, value: Any, types: tuple, place: str, findings: Findings
) -> None:
    try:
        value = typed(value, types)
    except ValueError:
        sentence = f"{place} has {key}={value!r:.100}, which is no value that it can have."
        findings.add("refused", name, key, value, sentence)
        return
    if value is ABSENT:
        findings.add("assumed", name, key, None, f"{place} has no value for {key}; that of its class is taken.")
    else:
        arguments[key] = value


def _types_of(annotation: Any) -> tuple:
    """Returns the types of which an annotation names one; a generic one counts as the type that it is made of."""
    parts = typing.get_args(annotation) if typing.get_origin(annotation) not in (list, dict, tuple) else ()
    parts = parts or (annotation,)
    return tuple(typing.get_origin(part) or part for part in parts)
