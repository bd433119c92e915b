"""This module checks values: options one by one, and the settings of a configuration, which have to fit one another.

A check of an option also describes the values that it takes, for the documentation.
"""

import difflib
import math
import sys
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from numbers import Integral, Real
from typing import Any, Protocol

from .media_reading_omnivinci import MediaLimits


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
MAX_FLOAT = sys.float_info.max  # whole numbers may be larger
# Callers and files of other models set these options; here, nothing but these values is true.
FIXED_OPTIONS = {
    "do_resize": True,
    "do_rescale": True,
    "rescale_factor": 1 / 255,
    "do_normalize": True,
    "do_convert_rgb": True,
    "do_center_crop": False,
    "do_pad": False,
    "resample": 3,  # bicubic
    "default_to_square": True,
    "padding_value": 0.0,
    "return_metadata": False,
    "do_sample_frames": True,
}


def check_number(name: str, value: Any, whole: bool = False, least: float = 0) -> None:
    """Refuses everything but a finite number above `least`, or a whole one of at least that; booleans are none.

    Raises:
        ValueError: it names the setting and its value.
    """
    wanted = int if whole else (int, float)
    if isinstance(value, bool) or not isinstance(value, wanted) or not abs(value) <= MAX_FLOAT:
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


# -- Options: which values each can have, and unknown names


class Check(Protocol):
    """A check knows which values an option can have; its string describes them for the documentation."""

    def check(self, name: str, value: Any) -> None:
        """Raises a ValueError that names the option if it cannot have the value."""


@dataclass(frozen=True)
class Number:
    """The value is a finite number within bounds, and no boolean."""

    least: float = -math.inf
    most: float = math.inf
    above: float = -math.inf
    whole: bool = False
    optional: bool = False

    def check(self, name: str, value: Any) -> None:
        """Raises a ValueError unless the value is a number within the bounds, or None where that is allowed."""
        if value is None and self.optional:
            return
        if not _is_number(value, self.whole):
            wanted = "a whole number" if self.whole else "a finite number"
            raise ValueError(f"`{name}` must be {wanted}{' or None' * self.optional}, got {value!r}.")
        if value <= self.above:
            raise ValueError(f"`{name}` must be more than {self.above:g}, got {value!r}.")
        if value < self.least:
            raise ValueError(f"`{name}` must be at least {self.least:g}, got {value!r}.")
        if value > self.most:
            raise ValueError(f"`{name}` must be at most {self.most:,g}, got {value!r}.")

    def __str__(self) -> str:
        bounds = [(self.above, "above"), (self.least, "from"), (self.most, "to")]
        texts = ["whole number" if self.whole else "number"]
        texts += [f"{word} {bound:,g}" for bound, word in bounds if math.isfinite(bound)]
        return " ".join(texts) + _or_none(self.optional)


@dataclass(frozen=True)
class Choice:
    """The value is one of a few; `description` replaces their list where it depends on other packages."""

    values: tuple
    optional: bool = False
    description: str = ""

    def check(self, name: str, value: Any) -> None:
        """Raises a ValueError unless the value is one of the known ones, or None where that is allowed."""
        if value is None and self.optional:
            return
        if not any(value is known or (isinstance(known, str) and value == known) for known in self.values):
            known = [repr(known) for known in self.values]
            raise ValueError(f"`{name}` must be {' or '.join(known)}{' or None' * self.optional}, got {value!r}.")

    def __str__(self) -> str:
        values = [f'"{value}"' if isinstance(value, str) else str(value) for value in self.values]
        return (self.description or " or ".join(values)) + _or_none(self.optional)


@dataclass(frozen=True)
class Numbers:
    """The value is a list of numbers, or of such lists."""

    entry: "Number | Numbers"
    least: int = 1
    most: int = 8

    def check(self, name: str, value: Any) -> None:
        """Raises a ValueError unless the value is a list of so many entries, each of which its own check takes."""
        if not isinstance(value, (list, tuple)) or not self.least <= len(value) <= self.most:
            raise ValueError(f"`{name}` must be a list of {self._count} entries, got {value!r:.100}.")
        for entry in value:
            self.entry.check(f"{name}[...]", entry)

    def __str__(self) -> str:
        return f"list of {self._count}: {self.entry}"

    @property
    def _count(self) -> str:
        return f"{self.least}" if self.least == self.most else f"{self.least} to {self.most}"


@dataclass(frozen=True)
class Ascending:
    """The value is a list of numbers that never get smaller, as positions or times in a video are given."""

    whole: bool = False

    def check(self, name: str, value: Any) -> None:
        """Raises a ValueError unless the value is None or an ascending list of finite numbers from 0 on."""
        if value is None:
            return
        import numpy as np  # what the command line is built from imports nothing heavy

        try:
            values = np.asarray(value)
        except (ValueError, TypeError):  # ragged, or no numbers
            values = np.array(None)
        if values.ndim != 1 or values.dtype.kind not in ("iu" if self.whole else "iuf") or not len(values):
            raise ValueError(f"`{name}` must be a list of {'whole ' * self.whole}numbers, got {value!r:.100}.")
        if not (values[0] >= 0 and (np.diff(values) >= 0).all() and np.isfinite(values).all()):
            raise ValueError(f"`{name}` must be finite, not negative and ascending, got {values.tolist()}.")

    def __str__(self) -> str:
        return f"ascending list of {'whole ' * self.whole}numbers or None"


@dataclass(frozen=True)
class Limits:
    """The value is a [`MediaLimits`], or a dictionary of some of its fields."""

    def check(self, name: str, value: Any) -> None:
        """Raises a ValueError unless the value is a [`MediaLimits`], None, or a dictionary that one can be made of."""
        MediaLimits.of(value)

    def __str__(self) -> str:
        return "`MediaLimits`, dictionary or None"


@dataclass(frozen=True)
class CheckedLater:
    """The value is a table or a medium; the place that uses it checks it before any medium is decoded."""

    description: str

    def check(self, name: str, value: Any) -> None:
        """Takes every value; the place that uses it refuses those that are wrong."""

    def __str__(self) -> str:
        return self.description


def refuse_unknown(
    owner: str,
    given: Iterable[str],
    known: Iterable[str],
    error: Callable[[str], Exception] = TypeError,
    also: Iterable[str] = (),
) -> None:
    """Raises an error for names that are not known, with the nearest known ones, or with all if none is near.

    Args:
        also: more names for the hint, of what is given in another way.
    """
    known = sorted(name for name in map(str, known) if not name.startswith("_"))
    if unknown := sorted(str(name) for name in given if name not in known):
        near = [difflib.get_close_matches(name, [*known, *also], n=1) for name in unknown]
        hint = f" (did you mean {', '.join(match[0] for match in near if match)}?)" if any(near) else ""
        rest = "" if all(near) else f"; it has {', '.join(known)}"
        raise error(f"{owner} has no option {unknown}{hint}{rest}.")


def refuse_fixed(owner: str, given: Mapping[str, Any]) -> None:
    """Raises an error for options of other models, unless they say what is true of this one anyway."""
    for name, value in given.items():
        if name in FIXED_OPTIONS and value is not None and value != FIXED_OPTIONS[name]:
            raise ValueError(f"{owner} cannot do `{name}`={value!r}: it is always {FIXED_OPTIONS[name]!r}.")


def plain_value(value: Any, check: Any) -> Any:
    """Turns NumPy's numbers into Python's, also in lists: they are compared with `is` and written to JSON."""
    import numpy as np

    if isinstance(check, Numbers) and isinstance(value, (list, tuple, np.ndarray)):
        return [plain_value(entry, check.entry) for entry in value]
    return value.item() if isinstance(value, np.generic) else value


def _is_number(value: Any, whole: bool) -> bool:
    """Tells whether a value is a number that fits into a float; nobody can compute with larger ones."""
    wanted: Any = Integral if whole else Real
    return isinstance(value, wanted) and not isinstance(value, bool) and bool(abs(value) <= MAX_FLOAT)


def _or_none(optional: bool) -> str:
    return " or None" if optional else ""
