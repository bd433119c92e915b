"""This module says what a configuration must fulfil: single values, and settings that have to fit one another."""

import sys
from typing import Any


MODALITIES = ("image", "video", "audio")  # here, so that options need not import configurations, and models with them
MAX_BOUNDARY_CHARACTERS = 1000
BOUNDARY_TOKENS = {
    "image_start": None,
    "image_end": "\n",
    "video_start": None,
    "video_end": None,
    "video_sep": None,
    "audio_start": None,
    "audio_end": "\n",
    "group_end": "\n",
}
PLACEHOLDER_IDS = ("image_token_id", "video_token_id", "audio_token_id")


def check_number(name: str, value: Any, whole: bool = False, least: float = 0) -> None:
    """Refuses everything but a finite number above `least`, or a whole one of at least that; booleans are none.

    Raises:
        ValueError: it names the setting and its value.
    """
    wanted = int if whole else (int, float)
    if isinstance(value, bool) or not isinstance(value, wanted) or not abs(value) <= sys.float_info.max:
        raise ValueError(f"`{name}` must be a {'whole' if whole else 'finite'} number, got {value!r}.")
    if value < least or (not whole and value == least):
        raise ValueError(f"`{name}` must be {'at least' if whole else 'more than'} {least}, got {value}.")


def check_boundary_tokens(tokens: dict[str, str | None] | None, group_duration_sec: float | None) -> dict:
    """Fills in the defaults and refuses what cannot be laid out; the model's config and the processor share it.

    Raises:
        ValueError: for unknown keys, texts that are none or too long, and for what time groups have no place for.
    """
    if not isinstance(tokens, (dict, type(None))):
        raise ValueError(f"`boundary_tokens` must be a dictionary or None, got {tokens!r:.100}.")
    tokens = {**BOUNDARY_TOKENS, **(tokens or {})}
    if unknown := sorted(set(tokens) - set(BOUNDARY_TOKENS)):
        raise ValueError(f"`boundary_tokens` has unknown keys {unknown}; known are {sorted(BOUNDARY_TOKENS)}.")
    wrong = {name: text for name, text in tokens.items() if text is not None and not isinstance(text, str)}
    if wrong:
        raise ValueError(f"`boundary_tokens` must be strings or None, got {wrong}.")
    if long := sorted(name for name, text in tokens.items() if text and len(text) > MAX_BOUNDARY_CHARACTERS):
        raise ValueError(f"`boundary_tokens` {long} are longer than {MAX_BOUNDARY_CHARACTERS} characters.")
    if group_duration_sec is not None:
        check_number("group_duration_sec", group_duration_sec)
    if group_duration_sec is not None and tokens["video_end"]:
        raise ValueError(
            f"`boundary_tokens['video_end']`={tokens['video_end']!r} cannot be combined with "
            f"`group_duration_sec`={group_duration_sec}: frames inside a time group carry no end tokens. "
            "Set one of the two to None."
        )
    return tokens


# -- Each of the following looks at one subject of an `OmniVinciConfig`, and raises a ValueError that names settings
# -- and values.


def check_parts(config: Any, audio_encoders: tuple[str, ...]) -> None:
    """Refuses sub-configs of kinds that this model is not built from, or whose heads do not divide their widths."""
    if config.vision_config.model_type != "siglip_vision_model":
        raise ValueError(
            f"`vision_config.model_type`={config.vision_config.model_type!r} is not supported; "
            "choose 'siglip_vision_model'."
        )
    if config.audio_config.model_type not in audio_encoders:
        raise ValueError(
            f"`audio_config.model_type`={config.audio_config.model_type!r} is not supported; "
            f"choose one of {audio_encoders}."
        )
    if config.text_config.model_type != "qwen2":
        raise ValueError(f"`text_config.model_type`={config.text_config.model_type!r}: only 'qwen2' is supported.")
    for part, whole in (
        ("vision_config.num_attention_heads", "vision_config.hidden_size"),
        ("text_config.num_attention_heads", "text_config.hidden_size"),
        ("text_config.num_key_value_heads", "text_config.num_attention_heads"),
    ):
        sub_config = getattr(config, part.split(".")[0])
        number, total = (getattr(sub_config, name.split(".")[1]) for name in (part, whole))
        if total % number:
            raise ValueError(f"`{part}`={number} must divide `{whole}`={total}.")


def check_vision(config: Any) -> None:
    """Refuses Dynamic-S2 scales that are no grids of tiles, and a layer that the vision tower does not have."""
    scales, side = config.s2_scales, config.vision_config.image_size
    if not scales or scales[0] != side:
        raise ValueError(
            f"`s2_scales`={scales} must begin with `vision_config.image_size`={side}: it is the size of a tile."
        )
    if any(scale % side for scale in scales) or scales != sorted(set(scales)):
        raise ValueError(f"`s2_scales`={scales} must be ascending multiples of `vision_config.image_size`={side}.")
    if not -len(scales) <= config.s2_output_scale_index < len(scales):
        raise ValueError(
            f"`s2_output_scale_index`={config.s2_output_scale_index} is out of range for `s2_scales`={scales}."
        )
    if config.max_tiles < (scales[-1] // side) ** 2:
        raise ValueError(
            f"`max_tiles`={config.max_tiles} is less than the {(scales[-1] // side) ** 2} tiles that the largest of "
            f"`s2_scales`={scales} needs."
        )
    layers = config.vision_config.num_hidden_layers
    if not -layers - 1 <= config.vision_feature_layer <= layers:
        raise ValueError(
            f"`vision_feature_layer`={config.vision_feature_layer} does not exist: "
            f"`vision_config.num_hidden_layers`={layers}."
        )


def check_values(config: Any) -> None:
    """Refuses single settings that cannot have their value."""
    if any(len(size) != 3 for size in config.video_pool_sizes):
        raise ValueError(f"`video_pool_sizes`={config.video_pool_sizes} must hold triples of whole numbers.")
    for number in (number for size in config.video_pool_sizes for number in size):
        check_number("video_pool_sizes", number, whole=True, least=1)
    for name in ("spatial_merge_size", "audio_merge_size", "max_tiles"):
        check_number(name, getattr(config, name), whole=True, least=1)
    for name in PLACEHOLDER_IDS:
        check_number(name, getattr(config, name), whole=True)
    for name in ("vision_chunk_size", "audio_chunk_size"):
        if getattr(config, name) is not None:
            check_number(name, getattr(config, name), whole=True, least=1)
    if not isinstance(config.use_modality_boundary_tokens, bool):
        raise ValueError(
            f"`use_modality_boundary_tokens` must be True or False, got {config.use_modality_boundary_tokens!r}."
        )


def check_audio(config: Any, chunk_size: str | None) -> None:
    """Refuses windows of audio that cannot be cut into the chunks of the encoder or joined by `audio_merge_size`.

    Args:
        chunk_size: which setting of `audio_config` is the size of a chunk, if the encoder works in chunks.
    """
    positions, window = config.audio_config.max_source_positions, config.audio_window_frames // 4
    if window % config.audio_merge_size:
        raise ValueError(
            f"`audio_merge_size`={config.audio_merge_size} must divide the {window} embeddings of a window "
            f"(`audio_config.max_source_positions`={positions})."
        )
    if chunk_size is not None and positions % (size := getattr(config.audio_config, chunk_size)):
        raise ValueError(
            f"`audio_config.max_source_positions`={positions} must be a multiple of `audio_config.{chunk_size}`={size}."
        )


def check_time_embeddings(config: Any) -> None:
    """Refuses rotations of more channels than there are."""
    hidden_size = config.text_config.hidden_size
    for name in ("video_time_embedding", "audio_time_embedding"):
        embedding = getattr(config, name)
        width = embedding.num_channels(hidden_size)
        if width > hidden_size:
            raise ValueError(
                f"`{name}.dim`={embedding.dim} with `{name}.type`={embedding.type!r} rotates "
                f"{width} channels, more than `text_config.hidden_size`={hidden_size}."
            )


def check_placeholders(config: Any) -> None:
    """Refuses one id for two placeholders."""
    ids = {name: getattr(config, name) for name in PLACEHOLDER_IDS}
    if len(set(ids.values())) < len(ids):
        raise ValueError(f"The placeholder ids must differ, got {ids}.")
