"""This module translates checkpoints of Audio-Visual Flamingo (arXiv 2607.16107), OmniVinci's successor.

Its architecture is OmniVinci's, and it has two layouts: the original five folders, and one folder for the classes of
Transformers' pull request 45586 (`model_type` "audiovisualflamingo"). The options of the latter are rewritten in the
words of the original `config.json`, so that one translation, [`map_original_config`], serves both.
"""

import math
from collections.abc import Callable, Mapping
from typing import Any

from transformers import PreTrainedTokenizerBase, Qwen2Config
from transformers.utils import PROCESSOR_NAME

from ..hub.cards import SUCCESSOR_NAME
from ..omnivinci.checkpoint_files_omnivinci import SUCCESSOR_MODEL_TYPE, component_file, read_json_object
from .config import map_original_config, present
from .findings import Findings
from .keys import ENCODER_KEYS
from .tokenizer import media_token_ids
from .values import flag, parsed, plain, scales, whole


# name of a part in one folder -> its name in the original `config.json`, which older files have, and its usual kind
PARTS = {
    "text_config": ("llm_cfg", "qwen2"),
    "vision_config": ("vision_tower_cfg", "siglip_vision_model"),
    "audio_config": ("sound_tower_cfg", "qwen2_audio_encoder"),
}
PROJECTORS = {
    "mm_projector_cfg": {"mm_projector_type": "mlp_downsample"},
    "sound_mm_projector_cfg": {"sound_mm_projector_type": "mlp"},
}
# Only the classes of the one folder write these.
ONE_FOLDER_KEYS = ("media_token_ids", "encoder_text_token_ids", "projector_bias", "multimodal_projector_bias")
KEYS_OF_ENCODERS = frozenset().union(*ENCODER_KEYS.values())
# These stand in `processor_config.json`, and in older files in `config.json`, too.
PROCESSOR_KEYS = frozenset(
    ("image_aspect_ratio", "s2_scales", "max_tiles", "num_video_frames", "load_audio_in_video")
    + ("interleaved_vis_aud_in_video", "interleaved_video_segment_duration", "mm_use_bos_eos_tokens")
    + ("audio_sampling_rate", "audio_chunk_length", "audio_hop_length")
)
PLACEHOLDERS = {"image": "image_token_id", "video": "video_token_id", "sound": "audio_token_id"}
# key -> the value that the successor's classes have; they know no other, or give other numbers with it
FIXED = {
    "dynamic_s2": True,
    "image_aspect_ratio": "dynamic_s2",
    "projector_bias": True,
    "multimodal_projector_bias": True,
}
# These are read apart from the others, and the original `config.json` has none of them.
OWN_KEYS = ("media_token_ids", "encoder_text_token_ids", "model_max_length", "padding_side", *FIXED)


def is_successor(original: Mapping[str, Any], name_or_path: str | None = None) -> bool:
    """Says whether a `config.json` is one of Audio-Visual Flamingo.

    Its five folders may have OmniVinci's `model_type` ("vila"); then the names of its classes tell it.

    Args:
        name_or_path: folder or repository. Where it is given, its name, and that of the model that the file was
            written from, count too; anybody may rename a folder, so no number may depend on them.
    """
    words = [original.get("model_type"), *(original.get("architectures") or ())]
    words += (original.get("auto_map") or {}).values()
    if name_or_path:
        words += [original.get("_name_or_path"), str(name_or_path).rstrip("/").rpartition("/")[2]]
    return any(SUCCESSOR_NAME.search(str(word)) for word in words)


def language_model_folder(
    original: Mapping[str, Any], name_or_path: str | None = None, hub_options: Mapping[str, Any] | None = None
) -> str:
    """Returns the folder of the language model and its tokenizer: "llm" of five, or "" where all lies in one folder.

    The file itself tells it, or else the folders that there are. An old file of one folder tells it by neither where
    `name_or_path` is missing; then it counts as one of five, as it describes the projectors like these.
    """
    if original.get("model_type") != SUCCESSOR_MODEL_TYPE:
        return "llm"
    if isinstance(original.get("text_config"), Mapping) or any(
        original.get(name) is not None for name in ONE_FOLDER_KEYS
    ):
        return ""
    if name_or_path:
        return "llm" if component_file(name_or_path, "llm", "config.json", hub_options or {}) else ""
    return "llm" if any(original.get(name) for name in PROJECTORS) else ""


def map_config(
    original: dict[str, Any],
    name_or_path: str | None = None,
    *,
    findings: Findings | None = None,
    tokenizer: PreTrainedTokenizerBase | None = None,
    **hub_options,
) -> dict[str, Any]:
    """Translates a `config.json` into arguments of `OmniVinciConfig`, see [`map_original_config`].

    It may be one of the original checkpoint or of Audio-Visual Flamingo, in either layout; the input is left as it is.

    Raises:
        ValueError: for an option that would change numbers and that this package does not have; it is named.
    """
    findings = Findings() if findings is None else findings
    if language_model_folder(original, name_or_path, hub_options):
        arguments = map_original_config(original, name_or_path, findings=findings, tokenizer=tokenizer, **hub_options)
        if not is_successor(original):
            _note_context(arguments["text_config"], original.get("model_max_length"), findings)
            return arguments
    else:
        processor = read_json(name_or_path, PROCESSOR_NAME, hub_options) if name_or_path else {}
        arguments = map_original_config(
            to_original_words(original, processor, findings), findings=findings, reads_image_encoder=True
        )
        ids = {PLACEHOLDERS[name]: token_id for name, token_id in noted_media_ids(original).items()}
        if name_or_path and ids.keys() < set(PLACEHOLDERS.values()):
            arguments.update(media_token_ids(name_or_path, folder="", **hub_options))
        arguments.update(ids)
    arguments["text_config"] = scale_positions(arguments["text_config"], original.get("model_max_length"))
    return arguments


def noted_media_ids(original: Mapping[str, Any]) -> dict[str, int]:
    """Returns the ids that a `config.json` notes for the placeholders "image", "video" and "sound"; some may lack."""
    ids = original.get("media_token_ids") or {}
    return {name: token_id for name in PLACEHOLDERS if (token_id := whole(ids.get(name))) is not None}


def scale_positions(text_config: dict[str, Any], model_max_length: Any) -> dict[str, Any]:
    """Returns the options of a language model that reads up to `model_max_length` tokens, as the successor's code does.

    Where that is more than `max_position_embeddings`, the rotary positions are divided by the ceiling of the ratio,
    in place of any other scaling.
    """
    factor = _scaling_factor(text_config, model_max_length)
    if factor == 1:
        return text_config
    theta = _language_model(text_config).rope_parameters["rope_theta"]
    kept = {name: value for name, value in text_config.items() if name not in ("rope_scaling", "rope_theta")}
    return {**kept, "rope_parameters": {"rope_type": "linear", "factor": float(factor), "rope_theta": theta}}


def to_original_words(
    config: Mapping[str, Any], processor: Mapping[str, Any], findings: Findings | None = None
) -> dict[str, Any]:
    """Rewrites the options of a checkpoint in one folder in the words of the original `config.json`.

    Args:
        config: the parsed `config.json`.
        processor: the parsed `processor_config.json`, or an empty dictionary. Its options come first.
        findings: a list that grows by what is refused or not read.

    Raises:
        ValueError: for an option that this package does not have, or that the two files contradict each other about.
    """
    findings = Findings() if findings is None else findings
    config = present(config)
    options = {name: value for name, value in present(processor).items() if name in PROCESSOR_KEYS}
    _refuse_contradictions(config, options, findings)
    words = {**config, **options}
    for name, value in FIXED.items():
        if plain(words.get(name, value)) != value:
            sentence = f"The option {name}={words[name]!r} is not supported; the successor's classes have {value!r}."
            findings.add("refused", "", name, words[name], sentence)
    if words.pop("quantization_config", None):
        sentence = (
            "The weights are quantized, which cannot be read from this layout: load the checkpoint that they were made "
            "from, and give `quantization_config` to `from_pretrained`."
        )
        findings.add("refused", "", "quantization_config", config["quantization_config"], sentence)
    if fps := words.pop("fps", None):
        findings.add(
            "unusual", "", "fps", fps, f"config.json has fps={fps}, which the successor's classes do not read."
        )
    for name in OWN_KEYS:
        words.pop(name, None)
    for name, (older_name, kind) in PARTS.items():
        part = words.pop(name, None) or words.get(older_name) or {}
        if not isinstance(part, Mapping):
            key = name if config.get(name) else older_name
            sentence = (
                f"config.json has {key}={part!r:.100}, but a checkpoint in one folder describes each part there, as a "
                "dictionary. If this is one in five folders, its folder llm has no config.json."
            )
            findings.add("refused", "", key, part, sentence)
            part = {}
        words[older_name] = {"model_type": kind, **part}
    findings.settle()
    words.update({name: _encoder(name, words.get(name), findings) for name in ENCODER_KEYS})
    fixed = {"dynamic_s2": True, "image_aspect_ratio": "dynamic_s2"}
    return {**PROJECTORS, **words, **fixed, "model_type": SUCCESSOR_MODEL_TYPE}


def read_json(name_or_path: str, file_name: str, hub_options: Mapping[str, Any]) -> dict[str, Any]:
    """Returns what a JSON file of a checkpoint's main folder holds; nothing if it has no such file."""
    file = component_file(name_or_path, "", file_name, hub_options)
    return {} if file is None else read_json_object(file)


def _refuse_contradictions(config: Mapping[str, Any], options: Mapping[str, Any], findings: Findings) -> None:
    """Refuses options of the processor that contradict the model, which reads the other file."""
    same: dict[str, Callable[[Any], Any]] = {
        "s2_scales": scales,
        "interleaved_vis_aud_in_video": flag,
        # A processor may leave out the audio that the model would interleave, but not the other way round.
        "load_audio_in_video": lambda value: flag(value) or not flag(options["load_audio_in_video"]),
    }
    for name, kind in same.items():
        if name in config and name in options and kind(config[name]) != kind(options[name]):
            sentence = (
                f"config.json has {name}={config[name]!r}, but {PROCESSOR_NAME} has {options[name]!r}: make them equal "
                "in a copy of the checkpoint."
            )
            findings.add("refused", "", name, options[name], sentence)


def _encoder(name: str, description: Any, findings: Findings) -> dict[str, Any]:
    """Returns the description of an encoder with the values that the successor's classes take for absent keys."""
    encoder = parsed(description, name)
    for key in sorted(encoder.keys() & KEYS_OF_ENCODERS - ENCODER_KEYS[name]):
        sentence = f"{name}.{key} belongs to other encoders; the successor's classes do not read it."
        findings.add("ignored", "", f"{name}.{key}", encoder.pop(key), sentence)
    if name == "image_encoder":
        return encoder
    encoder["embed_time"] = "True" if encoder.get("embed_time") in ("True", True) else "False"
    if encoder["embed_time"] == "True" and (mode := encoder.get("period_fix")) in ("MTCT", "shortest", "longest"):
        sentence = (
            f"config.json has {name}.period_fix={mode!r}, for which the successor's classes compute other angles of "
            "time in some releases than in others; those of OmniVinci's code are taken."
        )
        findings.add("unusual", "", f"{name}.period_fix", mode, sentence)
    if encoder.get("trope_dim") is None:
        encoder["trope_dim"] = 128
    return encoder


def _language_model(text_config: Mapping[str, Any]) -> Any:
    return Qwen2Config(**{name: value for name, value in text_config.items() if name != "model_type"})


def _scaling_factor(text_config: Mapping[str, Any], model_max_length: Any) -> int:
    longest = whole(model_max_length)
    return max(1, math.ceil(longest / _language_model(text_config).max_position_embeddings)) if longest else 1


def _note_context(text_config: Mapping[str, Any], model_max_length: Any, findings: Findings) -> None:
    if (factor := _scaling_factor(text_config, model_max_length)) > 1:
        sentence = (
            f"config.json has model_max_length={model_max_length}, {factor} times the language model's "
            "max_position_embeddings. OmniVinci's code takes no notice, and so it is done here; that of Audio-Visual "
            'Flamingo scales its positions. If this is such a checkpoint, put `model_type` "audiovisualflamingo" into '
            "its config.json."
        )
        findings.add("unusual", "", "model_max_length", model_max_length, sentence)
        findings.settle()
