"""This module declares every option of the processor in one table, and refuses options that are unknown or wrong.

A value is checked wherever it is given (a file that was downloaded, `from_pretrained`, a call, a content part) and
before any medium is read. The bounds keep a file from asking for more memory or time than a machine has. The command
line takes its options from the table, too, so nothing heavy is imported here.
"""

import inspect
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from .checks_omnivinci import (
    FIXED_OPTIONS,
    MODALITIES,
    Ascending,
    Check,
    CheckedLater,
    Choice,
    Limits,
    Number,
    Numbers,
    plain_value,
    refuse_fixed,
    refuse_unknown,
)
from .media_reading_omnivinci import MediaLimits


MAX_PIXEL_BYTES = 5 * 2**30  # of the tiles of one image, or of the frames of one video, as float32
MAX_TILE_EMBEDS = 4096
MAX_MEL_VALUES = 100_000  # per second of audio

AS_BY_DEFAULT: Any = object()  # stands for an original value that is the default
OptionGroup = Literal[
    "frames", "positions", "range", "given", "audio", "images", "sequence", "reading", "text", "output"
]


@dataclass(frozen=True)
class Option:
    """An option of the processor is declared once, in a row of [`OPTIONS`].

    Args:
        name: the same wherever the option is given.
        check: which values it can have.
        summary: what it does, in one line.
        group: the subject that it belongs to; some groups are handled together, such as the options of the text.
        stored_by: the parts of the processor ("processor", "image_processor", "video_processor", "feature_extractor")
            that take it when they are loaded and store it in their files.
        stored_check: which values it can have there, if not the same.
        in_call: whether one call of the processor takes it.
        in_parts: the modalities whose content parts take it.
        default: what signatures have; None where the checkpoint, the tokenizer or the medium decides.
        original: its value for the original checkpoint, where that is not the default.
        loaders: the modalities whose loader (`load_image`, ...) obeys it, under the same name but for
            `input_sampling_rate` of [`load_audio`], whose `sampling_rate` is that of its result.
    """

    name: str
    check: Check
    summary: str
    group: OptionGroup
    stored_by: tuple[str, ...] = ()
    stored_check: Check | None = None
    in_call: bool = False
    in_parts: tuple[str, ...] = ()
    default: Any = None
    original: Any = AS_BY_DEFAULT
    loaders: tuple[str, ...] = ()


_FLAG, _FLAG_OR_NONE = Choice((True, False)), Choice((True, False), optional=True)
_SECONDS = Number(above=0, optional=True)
# These are the values of Transformers' `PaddingStrategy`, `TruncationStrategy` and `TensorType`.
_PADDING = ("longest", "max_length", "do_not_pad")
_TRUNCATION = ("only_first", "only_second", "longest_first", "do_not_truncate")
_TENSORS = ("pt", "np", "mlx")
_LIMITS = MediaLimits()
_FRAME_PARTS = ("image_processor", "video_processor")


def _reading(name: str, check: Check, summary: str, default: Any = None) -> Option:
    """Declares an option of reading. No file stores it: what was downloaded can open no connections, lift no limits."""
    return Option(name, check, summary, "reading", in_call=True, default=default, loaders=MODALITIES)


def _text(name: str, check: Check, summary: str) -> Option:
    """Declares an option of the tokenizer, whose stored value is the default."""
    return Option(name, check, summary, "text", in_call=True)


def _sequence(name: str, check: Check, summary: str, default: Any = None) -> Option:
    """Declares an option that must be the model's: it decides how many placeholders stand where."""
    return Option(name, check, summary, "sequence", stored_by=("processor",), default=default)


OPTIONS = (
    Option(
        "num_frames",
        Number(least=1, whole=True, optional=True),
        "frames of a video, spread evenly; a shorter video repeats frames; with `fps` at most so many; None: all",
        "frames",
        stored_by=("video_processor",),
        stored_check=Number(least=1, most=_LIMITS.max_frames, whole=True, optional=True),
        in_call=True,
        in_parts=("video",),
        default=64,
        loaders=("video",),
    ),
    Option(
        "fps",
        Number(above=0, optional=True),
        "frames of a video per second, in place of `num_frames`",
        "frames",
        stored_by=("video_processor",),
        stored_check=Number(above=0, most=1000, optional=True),
        in_call=True,
        in_parts=("video",),
        loaders=("video",),
    ),
    Option(
        "frame_indices",
        Ascending(whole=True),
        "the frames with these numbers, counted from 0, in place of `num_frames` and `fps`",
        "positions",
        in_call=True,
        in_parts=("video",),
        loaders=("video",),
    ),
    Option(
        "frame_times",
        Ascending(),
        "the frames that are shown at these seconds of the video, in place of `num_frames` and `fps`",
        "positions",
        in_call=True,
        in_parts=("video",),
        loaders=("video",),
    ),
    Option(
        "start_sec",
        Number(least=0, optional=True),
        "the second at which a video or an audio clip begins to be read; its times begin at 0 there",
        "range",
        in_call=True,
        in_parts=("video", "audio"),
        loaders=("video", "audio"),
    ),
    Option(
        "end_sec",
        _SECONDS,
        "the second at which reading a video or an audio clip stops",
        "range",
        in_call=True,
        in_parts=("video", "audio"),
        loaders=("video", "audio"),
    ),
    Option(
        "video_metadata",
        CheckedLater("dictionary or `VideoMetadata`"),
        '`{"fps": ...}` or `{"times": [...]}` of a video given as frames; a list of them for several videos',
        "given",
        in_call=True,
        in_parts=("video",),
        loaders=("video",),
    ),
    Option(
        "audio",
        CheckedLater("audio clip"),
        "the audio of a video, in place of that in its file",
        "given",
        in_parts=("video",),
    ),
    Option(
        "sampling_rate",
        Number(above=0, optional=True),
        "samples per second of audio given as samples; on loading: of what the encoder hears",
        "given",
        stored_by=("feature_extractor",),
        stored_check=Number(least=100, most=192_000, whole=True),
        in_call=True,
        in_parts=("video", "audio"),
        default=16000,
        loaders=("audio",),
    ),
    Option(
        "do_sample_frames",
        _FLAG_OR_NONE,
        "False keeps all frames of a video, as those that were sampled already",
        "given",
        in_call=True,
    ),
    Option(
        "load_audio_from_video",
        _FLAG,
        "hear the audio of videos that have some",
        "audio",
        stored_by=("processor",),
        in_call=True,
        in_parts=("video",),
        default=True,
        loaders=("video",),
    ),
    Option(
        "align_audio_start",
        _FLAG,
        "put audio that starts later or earlier than the picture at its true time; else its first sample is second 0",
        "audio",
        stored_by=("processor",),
        in_call=True,
        default=True,
        original=False,
        loaders=("video",),
    ),
    Option(
        "video_audio_downmix",
        Choice(("mean", "sum")),
        'how several channels of a video\'s audio become one; "sum" is not normalised (stereo: `sqrt(2)` louder)',
        "audio",
        stored_by=("processor",),
        in_call=True,
        default="mean",
        original="sum",
        loaders=("video",),
    ),
    Option(
        "max_audio_sec",
        Number(above=0, optional=True),
        "only so many seconds of an audio clip are heard",
        "audio",
        stored_by=("processor",),
        stored_check=Number(above=0, most=_LIMITS.max_audio_sec, optional=True),
        in_call=True,
        in_parts=("video", "audio"),
        default=3600.0,
        loaders=("video", "audio"),
    ),
    Option(
        "feature_size",
        Number(least=1, most=512, whole=True),
        "mel bins",
        "audio",
        stored_by=("feature_extractor",),
        default=128,
    ),
    Option(
        "hop_length",
        Number(least=1, most=192_000, whole=True),
        "samples from one mel frame to the next",
        "audio",
        stored_by=("feature_extractor",),
        default=160,
    ),
    Option(
        "n_fft",
        Number(least=2, most=8192, whole=True),
        "samples of a Fourier window",
        "audio",
        stored_by=("feature_extractor",),
        default=400,
    ),
    Option(
        "chunk_length",
        Number(above=0, most=600),
        "seconds to whose multiples an audio clip is padded",
        "audio",
        stored_by=("feature_extractor",),
        default=30,
        original=30,  # whatever the hop; for another model the length of its encoder's window
    ),
    Option(
        "window_frames",
        Number(least=2, most=60_000, whole=True),
        "mel frames that the encoder hears at once",
        "audio",
        stored_by=("feature_extractor",),
        default=3000,
    ),
    Option(
        "size",
        Number(least=1, most=1024, whole=True),
        "side of a tile in pixels",
        "images",
        stored_by=_FRAME_PARTS,
        default=448,
    ),
    Option(
        "image_mean",
        Numbers(Number(least=-100, most=100), 3, 3),
        "subtracted from each channel of pixels in [0, 1]; None: 0.5",
        "images",
        stored_by=_FRAME_PARTS,
    ),
    Option(
        "image_std",
        Numbers(Number(above=0, most=100), 3, 3),
        "divides each channel after `image_mean` was subtracted; None: 0.5",
        "images",
        stored_by=_FRAME_PARTS,
    ),
    Option(
        "s2_scales",
        Numbers(Number(least=1, most=16 * 1024, whole=True)),
        "sides in pixels at which a single image is cut into tiles, from `size` on; None: 1, 2 and 3 times `size`",
        "images",
        stored_by=("image_processor",),
    ),
    Option(
        "max_tiles",
        Number(least=1, most=256, whole=True),
        "most tiles at the largest of these scales",
        "images",
        stored_by=("image_processor",),
        default=12,
    ),
    Option(
        "resize_backend",
        Choice(("pil", "torch"), optional=True),
        '"torch" is faster and differs from "pil" by 2 of 255 levels at most',
        "images",
        stored_by=_FRAME_PARTS,
        stored_check=Choice(("pil", "torch")),
        in_call=True,
        default="pil",
    ),
    Option(
        "still_threshold",
        Number(above=0, most=255, optional=True),
        "leave out squares of a video's frames that changed by less than so many of 255 levels; None: keep all",
        "images",
        stored_by=("processor",),
        in_call=True,
    ),
    Option(
        "group_duration_sec",
        Number(least=0.05, optional=True),
        "`T_G` of Temporal Embedding Grouping; None: all audio of a video, then all its frames",
        "sequence",
        stored_by=("processor",),
        in_call=True,
        default=30.0,
    ),
    _sequence(
        "boundary_tokens",
        CheckedLater("dictionary of strings or None"),
        r'texts around embeddings, as in `OmniVinciConfig`; None: `"\n"` after images, audio clips and time groups',
    ),
    _sequence("use_modality_boundary_tokens", _FLAG, "start and end tokens around all media of a modality", False),
    _sequence(
        "video_pool_sizes",
        Numbers(Numbers(Number(least=1, most=64, whole=True), 3, 3)),
        "frames, rows and columns of embeddings that are pooled to one; None: `[[1, 1, 1]]`",
    ),
    _sequence(
        "audio_merge_size", Number(least=1, most=1000, whole=True), "adjacent audio embeddings that become one", 1
    ),
    _sequence(
        "spatial_merge_size", Number(least=1, most=64, whole=True), "patches along the side of an embedding's square", 2
    ),
    _sequence(
        "s2_output_scale_index", Number(least=-8, most=7, whole=True), "the scale whose grid the embeddings have", 0
    ),
    _sequence("patch_size", Number(least=1, most=1024, whole=True), "side of a patch in pixels", 14),
    _sequence("chat_template", CheckedLater("Jinja template or None"), "the prompt's form; None: the original one"),
    _reading("media_limits", Limits(), "bounds on one medium; what is above one is an error that names it"),
    _reading(
        "on_damage",
        Choice(("raise", "warn"), optional=True),
        'what a damaged medium does: an error, or with "warn" what is whole is kept and the log says what is missing',
        "raise",
    ),
    _reading("timeout_sec", _SECONDS, "seconds that opening a medium and every read of a packet may take", 20.0),
    _reading("progress", _FLAG_OR_NONE, "show a progress bar; None: of media of five minutes and more on a terminal"),
    _reading("allow_urls", _FLAG_OR_NONE, "fetch http(s) URLs", False),
    _reading("allow_redirects", _FLAG_OR_NONE, "follow their redirects", False),
    _reading("allow_private_addresses", _FLAG_OR_NONE, "fetch from addresses that are not public, too", False),
    _text("add_special_tokens", _FLAG, "let the tokenizer put its special tokens around a prompt"),
    _text("max_length", Number(least=1, whole=True, optional=True), "most tokens, with `truncation` or `padding`"),
    _text("pad_to_multiple_of", Number(least=1, whole=True, optional=True), "pad to a multiple of so many tokens"),
    _text(
        "padding",
        Choice((True, False, *_PADDING), optional=True, description="as in Transformers"),
        "pad the prompts of a batch to one length",
    ),
    _text("padding_side", Choice(("left", "right"), optional=True), "where padding stands; the original has it left"),
    _text(
        "truncation",
        Choice((True, False, *_TRUNCATION), optional=True, description="as in Transformers"),
        "cut prompts to `max_length`, but never a medium",
    ),
    _text("verbose", _FLAG, "let the tokenizer warn about what it does"),
    Option(
        "return_tensors",
        Choice(_TENSORS, optional=True, description='"pt" or "np"'),
        "the kind of tensors that are returned; None: lists of ids",
        "output",
        in_call=True,
    ),
    Option(
        "return_mm_token_type_ids",
        _FLAG_OR_NONE,
        "also return `mm_token_type_ids`: 1 for an image, 2 for a video, 3 for audio, 0 for words",
        "output",
        in_call=True,
    ),
    Option("return_attention_mask", _FLAG_OR_NONE, "False leaves `attention_mask` out", "output", in_call=True),
)


def option_checks(*groups: OptionGroup) -> dict[str, Check]:
    """Returns the checks of all options of some groups, by name."""
    return {option.name: option.check for option in OPTIONS if option.group in groups}


def part_options(modality: str) -> dict[str, Check]:
    """Returns the checks of the options that a content part of this modality takes, by name."""
    return {option.name: option.check for option in OPTIONS if modality in option.in_parts}


def loader_arguments(modality: str) -> dict[str, str]:
    """Maps the options that reading a medium of this modality obeys to the arguments of its loader."""
    names = [option.name for option in OPTIONS if modality in option.loaders]
    return {name: "input_sampling_rate" if name == "sampling_rate" else name for name in names}


# The processor and its parts store these in a checkpoint's files.
STORED_OPTIONS = {option.name: option.stored_check or option.check for option in OPTIONS if option.stored_by}
# One call of the processor takes these.
CALL_OPTIONS = {option.name: option.check for option in OPTIONS if option.in_call}
# A checkpoint in the original layout is loaded with these values in place of the defaults.
ORIGINAL_OPTIONS = {option.name: option.original for option in OPTIONS if option.original is not AS_BY_DEFAULT}
RANGE_OPTIONS, READ_OPTIONS, TEXT_OPTIONS = option_checks("range"), option_checks("reading"), option_checks("text")
POSITION_OPTIONS = option_checks("positions")  # say which frames are taken, one by one
FRAME_OPTIONS = option_checks("frames", "positions")  # all that choose frames

# -- What else stands in calls, in files, and among the arguments of Transformers' loaders


MEDIA_ARGUMENTS = ("images", "videos", "audio")  # under which a call takes media
GROUPS = ("text_kwargs", "images_kwargs", "videos_kwargs", "audio_kwargs", "common_kwargs")
MEDIA_PLACES = ("in `images_kwargs`", "in `videos_kwargs`", "in `audio_kwargs`")
# Transformers notes these in the files of a processor and its parts; they change nothing.
FILE_ENTRIES = (
    *("auto_map", "processor_class", "_processor_class", "image_processor_type", "video_processor_type"),
    *("feature_extractor_type", "transformers_version", "_commit_hash", "name_or_path"),
    *("padding_side", "return_attention_mask"),  # feature extractors of this package had them, and used neither
    *("data_format", "input_data_format", "return_tensors", "device", "disable_grouping", "backend"),
    "model_input_names",
)
# Transformers passes these on to every part of a checkpoint that it loads, options of the model among them.
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


def check_options(given: Mapping[str, Any], checks: Mapping[str, Check] = CALL_OPTIONS) -> dict[str, Any]:
    """Checks the options that have a check and leaves the others alone; returns all, NumPy's numbers as Python's.

    Raises:
        ValueError: for a value that its option cannot have.
    """
    checked = dict(given)
    for name in given.keys() & checks.keys():
        checked[name] = plain_value(given[name], checks[name])
        checks[name].check(name, checked[name])
    return checked


def asking_entries(given: Mapping[str, Any]) -> set[str]:
    """Names the entries of a file that ask for something: not what Transformers notes for itself, or leaves empty."""
    named = {name for name, value in given.items() if value is not None and not name.startswith("_")}
    return named - set(FILE_ENTRIES)


def take_arguments(owner: str, known: Iterable[str], given: Mapping[str, Any], of_a_file: bool = False) -> None:
    """Refuses arguments that a part of the processor has no parameter for, but for those that change nothing."""
    asked = asking_entries(given) if of_a_file else given.keys()
    refuse_unknown(owner, asked - FIXED_OPTIONS.keys(), known, also=FIXED_OPTIONS)
    refuse_fixed(owner, given)


def flat_options(owner: str, *sources: tuple[str, Mapping[str, Any]]) -> dict[str, Any]:
    """Collects the options of one call, also those in groups such as `videos_kwargs`, and checks them.

    Args:
        sources: where options were given, in the words of an error ("as an argument"), and the options.

    Raises:
        TypeError: for an unknown name.
        ValueError: for an option that is given twice or in the wrong group, or that cannot have its value.
    """
    flat: dict[str, Any] = {}
    places: dict[str, str] = {}
    for place, options in _ungrouped(sources):
        for name, value in options.items():
            if name in flat:
                raise ValueError(f"`{name}` is given twice, {places[name]} and {place}: give it once.")
            flat[name], places[name] = value, place
    also = (*GROUPS, *FIXED_OPTIONS, *MEDIA_ARGUMENTS)
    refuse_unknown(owner, flat.keys() - FIXED_OPTIONS.keys(), CALL_OPTIONS, also=also)
    given = {name: value for name, value in flat.items() if name in CALL_OPTIONS}
    refuse_fixed(owner, {name: value for name, value in flat.items() if name not in given})
    return check_options(given)


def _ungrouped(sources: Iterable[tuple[str, Mapping[str, Any]]]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Goes through the options that stand in no group, then through each group, with the words for its place."""
    for source, given in sources:
        yield source, {name: value for name, value in given.items() if name not in GROUPS}
        for group in (name for name in GROUPS if name in given):
            place, options = f"in `{group}`", given[group] or {}
            if not isinstance(options, Mapping):
                raise TypeError(f"The options {place} must be a dictionary, got a {type(options).__name__}.")
            if place in MEDIA_PLACES and (misplaced := sorted(options.keys() & TEXT_OPTIONS.keys())):
                raise ValueError(f"{misplaced} {place} are options of the text: give them in `text_kwargs`.")
            yield place, options


class StrictArguments:
    """This base of the processor's parts refuses arguments that nothing obeys, whichever way they come.

    The parts' other bases, of Transformers, each have another name for the first argument of `from_dict`, which all
    callers there give by position; hence the parts' `type: ignore`.
    """

    def __init__(self, **kwargs):
        names = [name for name in inspect.signature(type(self).__init__).parameters if name not in ("self", "kwargs")]
        take_arguments(type(self).__name__, names, kwargs, of_a_file=True)
        # the next copy needs to know where the code is
        super().__init__(**{name: value for name, value in kwargs.items() if name == "auto_map"})

    @classmethod
    def from_dict(cls, values: Mapping[str, Any], **kwargs: Any) -> Any:
        """Builds the part from the entries of a file; options in `kwargs` come before those.

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
        """Checks all options once they are set."""
        vars(self).update(check_options(vars(self), STORED_OPTIONS))
