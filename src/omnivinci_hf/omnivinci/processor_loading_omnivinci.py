"""This module builds the processor from a checkpoint's files, a model's configuration or the original layout."""

import copy
import inspect
from collections.abc import Mapping
from typing import Any

from transformers import PreTrainedTokenizerBase
from transformers.processing_utils import ProcessorMixin
from transformers.utils import PROCESSOR_NAME

from .checkpoint_files_omnivinci import (
    HUB_OPTIONS,
    hub_options_of,
    is_original_config,
    place_of,
    read_config,
)
from .configuration_omnivinci import OmniVinciConfig
from .feature_extraction_omnivinci import OmniVinciFeatureExtractor
from .image_processing_omnivinci import OmniVinciImageProcessor
from .options_omnivinci import (
    FILE_ENTRIES,
    FIXED_OPTIONS,
    LOADER_OPTIONS,
    TEXT_OPTIONS,
    asking_entries,
    refuse_fixed,
    refuse_unknown,
)
from .package_hooks_omnivinci import original_layout
from .video_processing_omnivinci import OmniVinciVideoProcessor


PARTS = {
    "image_processor": OmniVinciImageProcessor,
    "video_processor": OmniVinciVideoProcessor,
    "feature_extractor": OmniVinciFeatureExtractor,
}
TOKENIZER_OPTIONS = (
    *PreTrainedTokenizerBase.SPECIAL_TOKENS_ATTRIBUTES,
    *("additional_special_tokens", "extra_special_tokens", "add_bos_token", "add_eos_token", "add_prefix_space"),
    *("clean_up_tokenization_spaces", "model_max_length", "split_special_tokens", "truncation_side"),
    *TEXT_OPTIONS,
)
# The file of a processor holds these beside its options.
PROCESSOR_ENTRIES = (*FILE_ENTRIES, *PARTS, "tokenizer", "audio_tokenizer")


class ProcessorLoadingMixin(ProcessorMixin):
    """A processor with this mixin loads with its parts; an option that neither it nor a part has is an error."""

    @classmethod
    def from_model_config(cls, config: OmniVinciConfig, tokenizer, **options):
        """Builds a processor that fits a model.

        Args:
            config: of the model.
            tokenizer: it is taken as it is.
            options: of the processor and its parts, by name; they override what the config says.

        Raises:
            TypeError: for an option that neither the processor nor a part of it has.
        """
        refuse_unknown(cls.__name__, options, _option_names(cls))
        shared = ("group_duration_sec", "boundary_tokens", "use_modality_boundary_tokens", "video_pool_sizes",
                  "audio_merge_size", "spatial_merge_size", "s2_output_scale_index")  # fmt: skip
        size = config.vision_config.image_size
        arguments = {
            **{name: copy.deepcopy(getattr(config, name)) for name in shared},
            "patch_size": config.vision_config.patch_size,
            "size": size,
            "s2_scales": list(config.s2_scales),
            "max_tiles": config.max_tiles,
            "feature_size": config.audio_config.num_mel_bins,
            "window_frames": config.audio_window_frames,
            **options,
        }
        if "chunk_length" not in arguments:
            probe = OmniVinciFeatureExtractor(**_arguments_of(OmniVinciFeatureExtractor, arguments))
            arguments["chunk_length"] = config.audio_window_frames * probe.hop_length / probe.sampling_rate
        parts = {name: part(**_arguments_of(part, arguments)) for name, part in PARTS.items()}
        used = set().union(*(_arguments_of(part, arguments) for part in PARTS.values()))
        rest = {name: value for name, value in arguments.items() if name not in used}
        return cls(**parts, tokenizer=tokenizer, **rest)

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path, **kwargs):
        """As [`ProcessorMixin.from_pretrained`]; also takes the original layouts, and for an adapter
        without a processor that of its base model.

        From the original layout, options that the checkpoint was trained with are on: the louder downmix of the
        audio of videos, and audio tracks taken from their first sample (`align_audio_start=False`).

        Raises:
            TypeError: for an option that neither the processor nor a part of it has.
        """
        options = _loading_options(cls, kwargs)
        name_or_path, hub_options = str(pretrained_model_name_or_path), hub_options_of(kwargs)
        config = read_config(name_or_path, hub_options)
        if config is None:
            base, base_options = place_of(name_or_path, PROCESSOR_NAME, kwargs)
            if base != name_or_path:
                return cls.from_pretrained(base, **base_options)
        if config is None or not is_original_config(config):
            return super().from_pretrained(pretrained_model_name_or_path, **kwargs)
        of_tokenizer = {name: value for name, value in options.items() if name in TOKENIZER_OPTIONS}
        of_processor = {name: value for name, value in options.items() if name in _option_names(cls)}
        layout = original_layout(name_or_path)
        return layout.load_processor(cls, name_or_path, config, hub_options, of_tokenizer, of_processor)

    @classmethod
    def _get_arguments_from_pretrained(cls, pretrained_model_name_or_path, processor_dict=None, **kwargs):
        # Transformers (5.20 to 5.24) loads every part by its Auto class, and those of images and videos demand
        # torchvision, which nothing here uses. There is no public way to say how a part is loaded. This can go when
        # these classes do without torchvision.
        stored = processor_dict or {}
        known = _parameters_of(cls)
        asked = asking_entries(stored) - set(PROCESSOR_ENTRIES) - FIXED_OPTIONS.keys()
        refuse_unknown("The processor's file", asked, known, ValueError, also=_option_names(cls))
        refuse_fixed("The processor's file", stored)
        for name in PARTS:
            if not isinstance(stored.get(name), Mapping):
                raise ValueError(
                    f"{PROCESSOR_NAME} of {pretrained_model_name_or_path} holds no options of `{name}`: save the whole "
                    "processor with `save_pretrained`."
                )
        parts = [part(**{**stored[name], **_arguments_of(part, kwargs)}) for name, part in PARTS.items()]
        of_processor = _option_names(cls) | FIXED_OPTIONS.keys()
        hub_options = {name: value for name, value in kwargs.items() if name not in of_processor}
        return [*parts, cls._load_tokenizer_from_pretrained("tokenizer", pretrained_model_name_or_path, **hub_options)]

    def check_argument_for_proper_class(self, argument_name, argument):
        """Checks that a part of the processor has the class that it must have, and returns that class.

        Raises:
            TypeError: for a part of another class.
        """
        # Transformers (5.20 to 5.24) demands a class for videos that is derived from one of torchvision's. This can go
        # when it does not.
        if argument_name != "video_processor":
            return super().check_argument_for_proper_class(argument_name, argument)
        if not isinstance(argument, OmniVinciVideoProcessor):
            raise TypeError(f"Expected an OmniVinciVideoProcessor as `video_processor`, got {type(argument).__name__}.")
        return OmniVinciVideoProcessor


def _loading_options(processor: type, given: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the options that are not for Transformers' loader.

    Unknown names are refused before anything is read or fetched.
    """
    options = {
        name: value
        for name, value in given.items()
        if name not in (*HUB_OPTIONS, *LOADER_OPTIONS) and not name.startswith("_")
    }
    known = {*_option_names(processor), *TOKENIZER_OPTIONS}
    also = (*FIXED_OPTIONS, *HUB_OPTIONS, *LOADER_OPTIONS)
    refuse_unknown(processor.__name__, options.keys() - FIXED_OPTIONS.keys(), known, also=also)
    refuse_fixed(processor.__name__, options)
    return options


def _parameters_of(part: Any) -> Mapping[str, inspect.Parameter]:
    return inspect.signature(part.__init__).parameters


def _arguments_of(part: type, options: Mapping[str, Any]) -> dict[str, Any]:
    names = _parameters_of(part)
    return {name: value for name, value in options.items() if name in names}


def _option_names(processor: type) -> set[str]:
    """Returns the names of all options that the processor and its parts have."""
    parameters = [item for part in (processor, *PARTS.values()) for item in _parameters_of(part).values()]
    names = {item.name for item in parameters if item.kind != item.VAR_KEYWORD}
    return names - {"self", "tokenizer", *PARTS}
