"""The processor's options: each is declared once, with what it may be, and an unknown one is an error.

A value is checked wherever it is given (a file that was downloaded, `from_pretrained`, a call, a content part) and
before any medium is read. The bounds keep a file from asking for more memory or time than a machine has.
"""

import difflib
import inspect
import math
import sys
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from numbers import Integral, Real
from typing import Any

import numpy as np
from transformers.tokenization_utils_base import PaddingStrategy, TruncationStrategy
from transformers.utils import TensorType

from .media_limits_omnivinci import MediaLimits


MAX_FLOAT = sys.float_info.max  # whole numbers may be larger
MAX_PIXEL_BYTES = 5 * 2**30  # of the tiles of one image, or of the frames of one video, as float32
MAX_TILE_EMBEDS = 4096
MAX_MEL_VALUES = 100_000  # per second of sound


@dataclass(frozen=True)
class Number:
    """A finite number within bounds; booleans are none. `most_stored` bounds what is stored, not what a call asks."""

    least: float = -math.inf
    most: float = math.inf
    above: float = -math.inf
    whole: bool = False
    optional: bool = False
    most_stored: float = math.inf

    def check(self, name: str, value: Any, stored: bool = False) -> None:
        if value is None and self.optional:
            return
        wanted = Integral if self.whole else Real
        if isinstance(value, bool) or not isinstance(value, wanted) or not abs(value) <= MAX_FLOAT:
            kind = "a whole number" if self.whole else "a finite number"
            raise ValueError(f"`{name}` must be {kind}{' or None' * self.optional}, got {value!r}.")
        most = min(self.most, self.most_stored) if stored else self.most
        if value <= self.above:
            raise ValueError(f"`{name}` must be more than {self.above:g}, got {value!r}.")
        if value < self.least:
            raise ValueError(f"`{name}` must be at least {self.least:g}, got {value!r}.")
        if value > most:
            raise ValueError(f"`{name}` must be at most {most:,g}, got {value!r}.")


@dataclass(frozen=True)
class Choice:
    """One of some values."""

    values: tuple
    optional: bool = False

    def check(self, name: str, value: Any, stored: bool = False) -> None:
        if value is None and self.optional:
            return
        if not any(value is known or (isinstance(known, str) and value == known) for known in self.values):
            known = [repr(known) for known in self.values]
            raise ValueError(f"`{name}` must be {' or '.join(known)}{' or None' * self.optional}, got {value!r}.")


@dataclass(frozen=True)
class Numbers:
    """A list of as many numbers, or of as many lists of them."""

    entry: "Number | Numbers"
    least: int = 1
    most: int = 8
    optional: bool = False

    def check(self, name: str, value: Any, stored: bool = False) -> None:
        if value is None and self.optional:
            return
        if not isinstance(value, (list, tuple)) or not self.least <= len(value) <= self.most:
            count = f"{self.least}" if self.least == self.most else f"{self.least} to {self.most}"
            raise ValueError(f"`{name}` must be a list of {count} entries, got {value!r:.100}.")
        for entry in value:
            self.entry.check(f"{name}[...]", entry, stored)


@dataclass(frozen=True)
class Ascending:
    """A list of numbers that do not get smaller, as places or times in a video are given."""

    whole: bool = False

    def check(self, name: str, value: Any, stored: bool = False) -> None:
        if value is None:
            return
        try:
            values = np.asarray(value)
        except (ValueError, TypeError):  # ragged, or no numbers
            values = np.array(None)
        if values.ndim != 1 or values.dtype.kind not in ("iu" if self.whole else "iuf") or not len(values):
            raise ValueError(f"`{name}` must be a list of {'whole ' * self.whole}numbers, got {value!r:.100}.")
        if not (values[0] >= 0 and (np.diff(values) >= 0).all() and np.isfinite(values).all()):
            raise ValueError(f"`{name}` must be finite, not negative and ascending, got {values.tolist()}.")


@dataclass(frozen=True)
class Limits:
    """What [`MediaLimits`] takes."""

    def check(self, name: str, value: Any, stored: bool = False) -> None:
        MediaLimits.of(value)


@dataclass(frozen=True)
class Anything:
    """What is checked where it is used, as a table or a medium, and before any medium is decoded."""

    def check(self, name: str, value: Any, stored: bool = False) -> None:
        pass


_FLAG, _MAYBE = Choice((True, False)), Choice((True, False), optional=True)
_COUNT = Number(least=1, whole=True)
_SECONDS = Number(above=0, optional=True)
_LIMITS = MediaLimits()

# of the processor and its parts, stored in a checkpoint's files
STORED_OPTIONS = {
    "size": Number(least=1, most=1024, whole=True),
    "image_mean": Numbers(Number(least=-100, most=100), 3, 3),
    "image_std": Numbers(Number(above=0, most=100), 3, 3),
    "s2_scales": Numbers(Number(least=1, most=16 * 1024, whole=True)),
    "max_tiles": Number(least=1, most=256, whole=True),
    "resize_backend": Choice(("pil", "torch")),
    "num_frames": Number(least=1, whole=True, optional=True, most_stored=_LIMITS.max_frames),
    "fps": Number(above=0, optional=True, most_stored=1000),
    "feature_size": Number(least=1, most=512, whole=True),
    "sampling_rate": Number(least=100, most=192_000, whole=True),
    "hop_length": Number(least=1, most=192_000, whole=True),
    "n_fft": Number(least=2, most=8192, whole=True),
    "chunk_length": Number(above=0, most=600),
    "window_frames": Number(least=2, most=60_000, whole=True),
    "load_audio_from_video": _FLAG,
    "align_audio_start": _FLAG,
    "video_audio_downmix": Choice(("mean", "sum")),
    "max_audio_sec": Number(above=0, optional=True, most_stored=_LIMITS.max_audio_sec),
    "group_duration_sec": Number(least=0.05, optional=True),
    "still_threshold": Number(above=0, most=255, optional=True),
    "use_modality_boundary_tokens": _FLAG,
    "video_pool_sizes": Numbers(Numbers(Number(least=1, most=64, whole=True), 3, 3)),
    "audio_merge_size": Number(least=1, most=1000, whole=True),
    "spatial_merge_size": Number(least=1, most=64, whole=True),
    "s2_output_scale_index": Number(least=-8, most=7, whole=True),
    "patch_size": Number(least=1, most=1024, whole=True),
}
# of a call that decide what is read of a medium; a content part may have them for its own
FRAME_OPTIONS = {"frame_indices": Ascending(whole=True), "frame_times": Ascending()}
RANGE_OPTIONS = {"start_sec": Number(least=0, optional=True), "end_sec": _SECONDS}
# of a call alone: no configuration that was downloaded can open connections or lift limits
READ_OPTIONS = {
    "timeout_sec": _SECONDS,
    "media_limits": Limits(),
    "on_damage": Choice(("raise", "warn"), optional=True),
    "progress": _MAYBE,
    "allow_urls": _MAYBE,
    "allow_redirects": _MAYBE,
    "allow_private_addresses": _MAYBE,
}
TEXT_OPTIONS = {
    "add_special_tokens": _FLAG,
    "max_length": Number(least=1, whole=True, optional=True),
    "pad_to_multiple_of": Number(least=1, whole=True, optional=True),
    "padding": Choice((True, False, *(strategy.value for strategy in PaddingStrategy)), optional=True),
    "padding_side": Choice(("left", "right"), optional=True),
    "truncation": Choice((True, False, *(strategy.value for strategy in TruncationStrategy)), optional=True),
    "verbose": _FLAG,
}
OUTPUT_OPTIONS = {
    "return_tensors": Choice(tuple(kind.value for kind in TensorType), optional=True),
    "return_mm_token_type_ids": _MAYBE,
    "return_attention_mask": _MAYBE,
}
_OF_A_CALL = ("load_audio_from_video", "align_audio_start", "video_audio_downmix", "max_audio_sec")
_OF_A_CALL = (*_OF_A_CALL, "group_duration_sec", "still_threshold", "num_frames", "fps")
CALL_OPTIONS = {
    **{name: STORED_OPTIONS[name] for name in _OF_A_CALL},
    **FRAME_OPTIONS,
    **RANGE_OPTIONS,
    **READ_OPTIONS,
    **TEXT_OPTIONS,
    **OUTPUT_OPTIONS,
    "resize_backend": Choice(("pil", "torch"), optional=True),
    "video_metadata": Anything(),
    "sampling_rate": Number(above=0, optional=True),
    "do_sample_frames": _MAYBE,
}
MEDIA = ("images", "videos", "audio")  # arguments of a call
GROUPS = ("text_kwargs", "images_kwargs", "videos_kwargs", "audio_kwargs", "common_kwargs")
MEDIA_DOORS = ("in `images_kwargs`", "in `videos_kwargs`", "in `audio_kwargs`")
# what callers and files of other models set, and what alone is true of this one
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
# what Transformers notes in the files of a processor and its parts; it changes nothing
FILE_ENTRIES = (
    *("auto_map", "processor_class", "_processor_class", "image_processor_type", "video_processor_type"),
    *("feature_extractor_type", "transformers_version", "_commit_hash", "name_or_path"),
    *("padding_side", "return_attention_mask"),  # feature extractors of this package had them, and used neither
    *("data_format", "input_data_format", "return_tensors", "device", "disable_grouping", "backend"),
    "model_input_names",
)
# what Transformers passes on to every part of a checkpoint that it loads, options of the model among it
LOADER_OPTIONS = (
    *(
        "code_revision",
        "commit_hash",
        "config",
        "proxies",
        "return_unused_kwargs",
        "trust_remote_code",
        "use_auth_token",
    ),
    *("use_fast", "user_agent", "backend", "dtype", "torch_dtype", "device_map", "attn_implementation"),
    *("experts_implementation", "quantization_config", "max_memory", "offload_folder", "offload_buffers"),
    *("low_cpu_mem_usage", "use_safetensors", "weights_only", "variant", "state_dict", "key_mapping"),
    *("ignore_mismatched_sizes", "output_loading_info", "generation_config", "gguf_file", "adapter_kwargs"),
    *("adapter_name", "tp_plan", "tp_size", "device_mesh", "distributed_config", "use_kernels", "kernel_config"),
    "fix_mistral_regex",
)


def check_options(
    given: Mapping[str, Any], table: Mapping[str, Any] = CALL_OPTIONS, stored: bool = False
) -> dict[str, Any]:
    """The options with NumPy's scalars as Python's; a value that an option of the table cannot have is an error.

    Names that are not in the table are left alone.
    """
    checked = dict(given)
    for name in given.keys() & table.keys():
        checked[name] = _plain(given[name], table[name])
        table[name].check(name, checked[name], stored)
    return checked


def _plain(value: Any, option: Any) -> Any:
    """Numbers of NumPy as Python's, as they are written to JSON and compared with `is`; the same for lists of them."""
    if isinstance(option, Numbers) and isinstance(value, (list, tuple, np.ndarray)):
        return [_plain(entry, option.entry) for entry in value]
    return value.item() if isinstance(value, np.generic) else value


def refuse_unknown(
    owner: str,
    given: Iterable[str],
    known: Iterable[str],
    error: Callable[[str], Exception] = TypeError,
    also: Iterable[str] = (),
) -> None:
    """An error for names that are not among the known ones, with the nearest of these, or all if none is near.

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
    """An error for options of other models, unless they say what is true of this one anyway."""
    for name, value in given.items():
        if name in FIXED_OPTIONS and value is not None and value != FIXED_OPTIONS[name]:
            raise ValueError(f"{owner} cannot do `{name}`={value!r}: it is always {FIXED_OPTIONS[name]!r}.")


def asking_entries(given: Mapping[str, Any]) -> set[str]:
    """The entries of a file that ask for something: not what Transformers notes for itself, or leaves empty."""
    named = {name for name, value in given.items() if value is not None and not name.startswith("_")}
    return named - set(FILE_ENTRIES)


def take_arguments(owner: str, known: Iterable[str], given: Mapping[str, Any], of_a_file: bool = False) -> None:
    """Refuse arguments that a part of the processor has no parameter for, but for those that change nothing."""
    asked = asking_entries(given) if of_a_file else given.keys()
    refuse_unknown(owner, asked - FIXED_OPTIONS.keys(), known, also=FIXED_OPTIONS)
    refuse_fixed(owner, given)


def flat_options(owner: str, *doors: tuple[str, Mapping[str, Any]]) -> dict[str, Any]:
    """The options of a call from all doors by which they come, groups such as `videos_kwargs` undone.

    Args:
        doors: the words that an error has for a door ("as an argument"), and what came through it.
    """
    flat, found = {}, {}
    for door, given in doors:
        groups = {name: given[name] or {} for name in GROUPS if name in given}
        rest = {name: value for name, value in given.items() if name not in GROUPS}
        for place, options in ((door, rest), *((f"in `{name}`", group) for name, group in groups.items())):
            if not isinstance(options, Mapping):
                raise TypeError(f"The options {place} must be a dictionary, got a {type(options).__name__}.")
            if place in MEDIA_DOORS and (misplaced := sorted(options.keys() & TEXT_OPTIONS.keys())):
                raise ValueError(f"{misplaced} {place} are options of the text: give them in `text_kwargs`.")
            for name, value in options.items():
                if name in flat:
                    raise ValueError(f"`{name}` is given twice, {found[name]} and {place}: give it once.")
                flat[name], found[name] = value, place
    refuse_unknown(owner, flat.keys() - FIXED_OPTIONS.keys(), CALL_OPTIONS, also=(*GROUPS, *FIXED_OPTIONS, *MEDIA))
    given = {name: value for name, value in flat.items() if name in CALL_OPTIONS}
    refuse_fixed(owner, {name: value for name, value in flat.items() if name not in given})
    return check_options(given)


class StrictArguments:
    """For parts of the processor: arguments that nothing obeys are refused, whichever way they come."""

    def __init__(self, **kwargs):
        names = [name for name in inspect.signature(type(self).__init__).parameters if name not in ("self", "kwargs")]
        take_arguments(type(self).__name__, names, kwargs, of_a_file=True)
        # the next copy needs to know where the code is
        super().__init__(**{name: value for name, value in kwargs.items() if name == "auto_map"})

    @classmethod
    def from_dict(cls, values: Mapping[str, Any], **kwargs):
        """Built from the entries of a file; options in `kwargs` come before those.

        With `return_unused_kwargs=True` also returns what is no option, in place of refusing it.
        """
        returns_unused, unused = kwargs.pop("return_unused_kwargs", False), {}
        options = {name: value for name, value in kwargs.items() if name not in LOADER_OPTIONS}
        if returns_unused:
            names = {*inspect.signature(cls.__init__).parameters, *FIXED_OPTIONS}
            unused = {name: options.pop(name) for name in options.keys() - names}
        part = cls(**{**values, **options})
        return (part, unused) if returns_unused else part

    def _check(self) -> None:
        """Check all options once they are set."""
        vars(self).update(check_options(vars(self), STORED_OPTIONS, stored=True))
