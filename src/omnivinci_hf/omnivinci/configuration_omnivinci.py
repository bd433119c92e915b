"""This module declares the configuration of OmniVinci: its encoders, its language model, and what joins them."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, TypeAlias

from transformers import CONFIG_MAPPING, AutoConfig, PreTrainedConfig, Qwen2Config
from transformers.utils import CONFIG_NAME, logging

from .checkpoint_files_omnivinci import hub_options_of, is_original_config, place_of
from .checks_omnivinci import MODALITIES as MODALITIES
from .checks_omnivinci import (
    check_audio,
    check_boundary_tokens,
    check_number,
    check_parts,
    check_placeholders,
    check_time_embeddings,
    check_values,
    check_vision,
)
from .package_hooks_omnivinci import original_layout


logger = logging.get_logger(__name__)
# name of a placeholder's id in the config -> the token that the tokenizer has for it
MEDIA_TOKENS = {"image_token_id": "<image>", "video_token_id": "<vila/video>", "audio_token_id": "<sound>"}
# Transformers itself puts these into the dictionary of a config; up to 4.46 with all options of generation.
BASE_ENTRIES = frozenset(
    """
    _attn_implementation_autoset _commit_hash _name_or_path add_cross_attention architectures attn_implementation
    auto_map bad_words_ids begin_suppress_tokens bos_token_id chunk_size_feed_forward cross_attention_hidden_size
    decoder_start_token_id diversity_penalty do_sample dtype early_stopping encoder_no_repeat_ngram_size eos_token_id
    experts_implementation exponential_decay_length_penalty finetuning_task forced_bos_token_id forced_eos_token_id
    id2label is_decoder is_encoder_decoder label2id length_penalty max_length min_length model_type name_or_path
    no_repeat_ngram_size num_beam_groups num_beams num_return_sequences output_attentions output_hidden_states
    output_scores pad_token_id prefix problem_type pruned_heads remove_invalid_values repetition_penalty return_dict
    return_dict_in_generate sep_token_id suppress_tokens task_specific_params temperature tf_legacy_loss
    tie_encoder_decoder tie_word_embeddings tokenizer_class top_k top_p torch_dtype torchscript transformers_version
    typical_p use_bfloat16
    """.split()
)
REMOTE_CODE_ENTRIES = ("auto_map", "custom_pipelines")


# The fields of a config may be given as the types on the right; a type checker cannot see what `__post_init__` makes of
# them: a config of a dictionary, a list of None.
if TYPE_CHECKING:
    SubConfig: TypeAlias = Any
    Scales: TypeAlias = Any
    PoolSizes: TypeAlias = Any
else:
    SubConfig = dict[str, Any] | PreTrainedConfig | None
    Scales = list[int] | None
    PoolSizes = list[list[int]] | None


@dataclass(frozen=True)
class AudioEncoderEntry:
    """An entry of `AUDIO_ENCODERS` says all that is known of one audio encoder, beside the code of its tower.

    Its configuration must have `hidden_size`, `num_hidden_layers`, `num_attention_heads`, `intermediate_size`,
    `num_mel_bins` and `max_source_positions` (half the mel frames of a window), under these names or by its
    `attribute_map`.

    Args:
        tower: name of the class in `encoders_omnivinci`.
        output_size: which setting of its configuration is the width of its output.
        chunk_size: which setting must divide `max_source_positions`, if there is one.
        small_settings: what else a small one needs; the tests build one of each encoder.
    """

    tower: str
    output_size: str = "hidden_size"
    chunk_size: str | None = None
    small_settings: Mapping[str, Any] = field(default_factory=dict)


# each by the `model_type` of its configuration; a new one is an entry here and a class in `encoders_omnivinci`
AUDIO_ENCODERS = {
    "qwen2_audio_encoder": AudioEncoderEntry("OmniVinciQwen2AudioTower"),
    "audioflamingo3_encoder": AudioEncoderEntry("OmniVinciAudioFlamingo3Tower"),
    "qwen2_5_omni_audio_encoder": AudioEncoderEntry(
        "OmniVinciQwen2_5OmniAudioTower",
        output_size="output_dim",
        chunk_size="n_window",
        small_settings={"n_window": 10, "output_dim": 24},
    ),
}


def _all_channels(dim: int | None, hidden_size: int) -> int:
    return dim or hidden_size


def _channels_of_two_axes(dim: int | None, hidden_size: int) -> int:
    return 2 * (dim or hidden_size // 2)


def _half_of_dim(dim: int | None, hidden_size: int) -> int:
    return dim // 2 if dim else hidden_size


@dataclass(frozen=True)
class TimeEmbeddingEntry:
    """An entry of `TIME_EMBEDDINGS` says all that is known of one time embedding, beside the code of its module.

    Args:
        description: what it does, in a line or two.
        module: name of the class in `time_embedding_omnivinci`.
        settings: which settings of [`OmniVinciTimeEmbeddingConfig`] it reads; it warns of others that are given.
        needs_max_time: whether it cannot do without `max_time`.
        max_time_replaces_theta: whether it ignores `theta` where `max_time` is given.
        dim_multiple_of: what must divide `dim`.
        num_channels: how many channels it rotates, from `dim` and the hidden size; None if it rotates none.
    """

    description: str
    module: str
    settings: tuple[str, ...] = ()
    needs_max_time: bool = False
    max_time_replaces_theta: bool = False
    dim_multiple_of: int = 2
    num_channels: Callable[[int | None, int], int] | None = None


def _pixel(description: str) -> TimeEmbeddingEntry:
    return TimeEmbeddingEntry(
        f"the original code's rotation by evenly spaced frequencies of step and token, times {description}",
        module="AxialTimeEmbedding",
        settings=("dim", "max_time"),
        num_channels=_channels_of_two_axes,
    )


def _lang(description: str) -> TimeEmbeddingEntry:
    return TimeEmbeddingEntry(
        f"the original code's rotation by geometric frequencies of step and token, times {description}",
        module="AxialTimeEmbedding",
        settings=("dim", "max_time", "theta"),
        max_time_replaces_theta=True,
        num_channels=_channels_of_two_axes,
    )


def _multi_period(description: str) -> TimeEmbeddingEntry:
    return TimeEmbeddingEntry(
        f"the original code's rotation by the moment alone, with {description}; channels of a pair turn differently",
        module="MultiPeriodTimeEmbedding",
        settings=("dim", "max_time"),
        needs_max_time=True,
        dim_multiple_of=4,
        num_channels=_half_of_dim,
    )


# each by its `type`; a new one is an entry here and a class in `time_embedding_omnivinci`
TIME_EMBEDDINGS = {
    "none": TimeEmbeddingEntry("no time embedding", module="NoTimeEmbedding"),
    "crte": TimeEmbeddingEntry(
        "Constrained Rotary Time Embedding as the paper defines it (arXiv 2510.15870): rotation by the moment in "
        "seconds times the frequencies `2 pi / (max_time * theta ** (i / C))`",
        module="ConstrainedRotaryTimeEmbedding",
        settings=("dim", "max_time", "theta"),
        needs_max_time=True,
        num_channels=_all_channels,
    ),
    "rote": TimeEmbeddingEntry(
        "the frequencies of `crte` without `max_time`",
        module="RotaryTimeEmbeddingWithoutLimit",
        settings=("dim", "theta"),
        num_channels=_all_channels,
    ),
    "learned": TimeEmbeddingEntry(
        "a table of `num_time_bins` vectors over `[0, max_time]` seconds, interpolated and added",
        module="LearnedTimeEmbedding",
        settings=("max_time", "num_time_bins"),
        needs_max_time=True,
    ),
    "pixel_periodic": _pixel("the moment as a fraction of `max_time`"),
    "pixel_seconds": _pixel("the negated seconds"),
    "lang_periodic": _lang("the moment as a fraction of `max_time`"),
    "lang_seconds": _lang("the negated seconds"),
    "mtct_shortest": _multi_period("`max_time` as the shortest period"),
    "mtct_longest": _multi_period("`max_time` as the longest period"),
}


class OmniVinciTimeEmbeddingConfig(PreTrainedConfig):
    r"""
    Configuration of the time embedding of one modality: how embeddings are told the moment that they stand for.

    Args:
        type (`str`, defaults to `"none"`):
            One of `TIME_EMBEDDINGS`, whose entries say what each does and which of the settings below it reads.
        dim (`int`, *optional*):
            Width parameter of the rotation. `crte` and `rote` rotate `dim` channels, the `pixel` and `lang` modes
            `2 * dim` (the original `trope_dim`), the `mtct` modes `dim // 2`. None: all channels.
        max_time (`float`, *optional*): `T_max` in seconds. `crte`, `learned` and the `mtct` modes need it.
        theta (`float`, *optional*):
            Base of the geometric frequencies of `crte`, `rote` and, without `max_time`, the `lang` modes; 10000 if
            None.
        num_time_bins (`int`, defaults to 64): rows of the learned table.
    """

    model_type = "omnivinci_time_embedding"

    type: str = "none"
    dim: int | None = None
    max_time: float | int | None = None
    theta: float | int | None = None
    num_time_bins: int = 64

    def __post_init__(self, **kwargs):
        unknown = sorted(set(kwargs) - BASE_ENTRIES)
        if unknown:
            raise ValueError(f"A time embedding has no {unknown}; it has type, dim, max_time, theta and num_time_bins.")
        super().__post_init__(**kwargs)
        if self.type not in TIME_EMBEDDINGS:
            raise ValueError(f"`type`={self.type!r} is no time embedding; choose one of {tuple(TIME_EMBEDDINGS)}.")
        entry = TIME_EMBEDDINGS[self.type]
        if entry.needs_max_time and not self.max_time:
            raise ValueError(f"`type`={self.type!r} needs `max_time` in seconds, got `max_time`={self.max_time}.")
        for name in ("max_time", "theta"):
            if getattr(self, name) is not None:
                check_number(name, getattr(self, name))
        if self.dim is not None:
            check_number("dim", self.dim, whole=True, least=2)
            if self.dim % 2:
                raise ValueError(f"`dim` must be even, got {self.dim}.")
            if "dim" in entry.settings and self.dim % entry.dim_multiple_of:
                raise ValueError(
                    f"`type`={self.type!r} needs a `dim` that is a multiple of {entry.dim_multiple_of}, got "
                    f"`dim`={self.dim}."
                )
        if "num_time_bins" in entry.settings:
            check_number("num_time_bins", self.num_time_bins, whole=True, least=2)
        for name in self._ignored_settings(entry):
            logger.warning_once(f"A time embedding of `type`={self.type!r} ignores `{name}`={getattr(self, name)}.")

    def _ignored_settings(self, entry: TimeEmbeddingEntry) -> list[str]:
        """Returns the settings that were given and are not read."""
        given = [name for name in ("theta", "max_time", "dim") if getattr(self, name) is not None]
        read = set(entry.settings)
        if entry.max_time_replaces_theta and self.max_time is not None:
            read.discard("theta")
        return [name for name in given if name not in read]

    def num_channels(self, hidden_size: int) -> int:
        """Returns how many of the `hidden_size` channels, from the first on, the rotation turns; 0 without rotation."""
        count = TIME_EMBEDDINGS[self.type].num_channels
        return count(self.dim, hidden_size) if count is not None else 0


class OmniAlignNetConfig(PreTrainedConfig):
    r"""
    Configuration of OmniAlignNet (arXiv 2510.15870), which aligns the audio and the picture of clips while training.

    Args:
        embed_dim (`int`, defaults to 768): width of the network and of its vectors.
        num_layers (`int`, defaults to 3): self-attention layers.
        num_attention_heads (`int`, defaults to 12).
        intermediate_size (`int`, *optional*): width of the feed-forward layers; four times `embed_dim` by default.
        num_queries (`int`, defaults to 1): learned queries per modality. The paper has one.
        temperature (`float`, defaults to 0.07): where the learnable temperature starts.
        loss_weight (`float`, defaults to 1.0): the alignment loss is multiplied by it and added to the language loss.
    """

    model_type = "omnivinci_omni_align_net"

    embed_dim: int = 768
    num_layers: int = 3
    num_attention_heads: int = 12
    intermediate_size: int | None = None
    num_queries: int = 1
    temperature: float = 0.07
    loss_weight: float | int = 1.0

    def __post_init__(self, **kwargs):
        if unknown := sorted(set(kwargs) - BASE_ENTRIES):
            raise ValueError(f"`omni_align_config` has no {unknown}; it has {sorted(self.__dataclass_fields__)}.")
        super().__post_init__(**kwargs)
        for name in ("embed_dim", "num_layers", "num_attention_heads", "num_queries"):
            check_number(name, getattr(self, name), whole=True, least=1)
        if self.intermediate_size is None:
            self.intermediate_size = 4 * self.embed_dim
        check_number("intermediate_size", self.intermediate_size, whole=True, least=1)
        check_number("temperature", self.temperature)
        check_number("loss_weight", self.loss_weight)
        if self.embed_dim % self.num_attention_heads:
            raise ValueError(
                f"`num_attention_heads`={self.num_attention_heads} must divide `embed_dim`={self.embed_dim}."
            )


class OmniVinciConfig(PreTrainedConfig):
    r"""
    Configuration of [`OmniVinciForConditionalGeneration`]. Sub-configs may be given as dictionaries or as objects. It
    is plain data, checked once when it is built, and read-only after that.

    Args:
        vision_config ([`SiglipVisionConfig`]): the SigLIP tower.
        audio_config: configuration of one of the `AUDIO_ENCODERS`.
        text_config ([`Qwen2Config`]): the language model.
        video_time_embedding, audio_time_embedding ([`OmniVinciTimeEmbeddingConfig`]): one per modality.
        image_token_id, video_token_id, audio_token_id (`int`): placeholder ids in `input_ids`.
        vision_feature_layer (`int`, defaults to -2):
            Which hidden state of the tower is used, counted as Transformers counts them (0 is the output of the
            patch embeddings, -1 that of the last layer). No layer norm is applied to it.
        spatial_merge_size (`int`, defaults to 2): side of the square of patches that becomes one embedding.
        s2_scales (`list[int]`): sides in pixels of the Dynamic-S2 scales, ascending; the first is the tile size. One
            entry switches Dynamic-S2 off.
        s2_output_scale_index (`int`, defaults to 0): the scale whose feature map size the image ends up with.
        max_tiles (`int`, defaults to 12): most tiles in the largest scale.
        video_pool_sizes (`list[list[int]]`): `[frames, rows, columns]` mean pooling windows; the results of several
            are put one after the other.
        audio_merge_size (`int`, defaults to 1): how many adjacent embeddings of an audio clip are joined before the
            audio projector. The original checkpoint joins none.
        group_duration_sec (`float`, *optional*, defaults to 30):
            `T_G` of Temporal Embedding Grouping: frames and audio of the same window of so many seconds stand next to
            each other. None puts the whole audio before the whole video (plain concatenation).
        boundary_tokens (`dict[str, str | None]`): texts that stand around embeddings: `{image,video,audio}_start`,
            `{image,video,audio}_end`, `video_sep` (after each pool size) and `group_end` (after each half of a time
            group).
        use_modality_boundary_tokens (`bool`, defaults to False): put `<|image_bos|>` ... `<|image_eos|>` around all
            images of a conversation, and likewise for videos and audio clips.
        omni_align_config ([`OmniAlignNetConfig`], *optional*): adds OmniAlignNet, for training and for search across
            audio and picture. An empty dictionary takes its defaults; None, the default, leaves it out.
        vision_chunk_size (`int`, *optional*): how many tiles of images, or frames of videos, the vision tower and its
            projector read at once. It bounds memory and never changes results. None: chosen from the sizes. This and
            the next alone may be changed at any time: `model.config.vision_chunk_size = 4`.
        audio_chunk_size (`int`, *optional*): likewise how many windows of audio.
    """

    model_type = "omnivinci"
    keys_to_ignore_at_inference = ["cache", "past_key_values", "language_loss", "omni_align_loss"]
    sub_configs: ClassVar[dict[str, type]] = {
        "vision_config": AutoConfig,
        "audio_config": AutoConfig,
        "text_config": AutoConfig,
    }
    # where a machine without this package finds the classes of a folder; TRL also asks it of a config that is loaded
    auto_map: ClassVar[dict[str, str]] = {
        "AutoConfig": "configuration_omnivinci.OmniVinciConfig",
        **dict.fromkeys(
            ("AutoModel", "AutoModelForMultimodalLM", "AutoModelForImageTextToText"),
            "modeling_omnivinci.OmniVinciForConditionalGeneration",
        ),
    }

    base_model_tp_plan: ClassVar[dict[str, str]] = {
        f"language_model.{name}": plan for name, plan in Qwen2Config.base_model_tp_plan.items()
    }

    vision_config: SubConfig = None
    audio_config: SubConfig = None
    text_config: SubConfig = None
    video_time_embedding: SubConfig = None
    audio_time_embedding: SubConfig = None
    image_token_id: int = 151665
    video_token_id: int = 151666
    audio_token_id: int = 151667
    vision_feature_layer: int = -2
    spatial_merge_size: int = 2
    s2_scales: Scales = None
    s2_output_scale_index: int = 0
    max_tiles: int = 12
    video_pool_sizes: PoolSizes = None
    audio_merge_size: int = 1
    group_duration_sec: float | int | None = 30.0
    boundary_tokens: dict[str, str | None] | None = None
    use_modality_boundary_tokens: bool = False
    omni_align_config: SubConfig = None
    vision_chunk_size: int | None = None
    audio_chunk_size: int | None = None
    tie_word_embeddings: bool = False
    initializer_range: float = 0.02

    def __post_init__(self, **kwargs):
        self.vision_config = _sub_config(self.vision_config, "siglip_vision_model", SIGLIP_SO400M_448)
        self.audio_config = _sub_config(self.audio_config, "qwen2_audio_encoder", {})
        self.text_config = _sub_config(self.text_config, "qwen2", QWEN2_5_7B)
        self.video_time_embedding = _time_config(self.video_time_embedding)
        self.audio_time_embedding = _time_config(self.audio_time_embedding)
        if isinstance(self.omni_align_config, dict):
            self.omni_align_config = OmniAlignNetConfig(**self.omni_align_config)
        if self.s2_scales is None:
            side = self.vision_config.image_size
            self.s2_scales = [side, 2 * side, 3 * side]
        self.s2_scales = list(self.s2_scales)
        self.video_pool_sizes = [list(size) for size in self.video_pool_sizes or [[1, 1, 1]]]
        self.boundary_tokens = check_boundary_tokens(self.boundary_tokens, self.group_duration_sec)
        # Either config may ask for tied embeddings.
        self.tie_word_embeddings = bool(self.tie_word_embeddings or self.text_config.tie_word_embeddings)
        super().__post_init__(**kwargs)
        check_parts(self, tuple(AUDIO_ENCODERS))
        check_vision(self)
        check_values(self)
        check_audio(self, AUDIO_ENCODERS[self.audio_config.model_type].chunk_size)
        check_time_embeddings(self)
        check_placeholders(self)

    @classmethod
    def from_dict(cls, config_dict: dict[str, Any], **kwargs):
        """Builds a config from a dictionary of this class, of the original checkpoint, or of Audio-Visual Flamingo."""
        if is_original_config(config_dict):
            name_or_path = kwargs.get("name_or_path") or config_dict.get("name_or_path")
            commit = config_dict.get("_commit_hash")
            config_dict = original_layout(name_or_path).config_arguments_of_dict(config_dict, name_or_path, commit)
        if not cls.__module__.startswith("transformers_modules."):
            # These entries are for machines without this package; with it, `pipeline` would demand remote code.
            config_dict = {name: value for name, value in config_dict.items() if name not in REMOTE_CODE_ENTRIES}
        if "omni_align_config" in kwargs:
            # Here a dictionary becomes a config and is checked; Transformers would set it as it is.
            config_dict = {**config_dict, "omni_align_config": kwargs.pop("omni_align_config")}
        return super().from_dict(config_dict, **kwargs)

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path, **kwargs):
        """As [`PreTrainedConfig.from_pretrained`]; also takes the original layouts, and adapters.

        Raises:
            OSError: when there is no config.
            ValueError: when it is one of another kind of model.
        """
        # This does not call the base class, which would warn of the other `model_type` of original files.
        config_dict, options = cls.get_config_dict(pretrained_model_name_or_path, **kwargs)
        if not config_dict:  # there is no such file
            base, base_options = place_of(str(pretrained_model_name_or_path), CONFIG_NAME, kwargs)
            if base != str(pretrained_model_name_or_path):
                return cls.from_pretrained(base, **base_options)
            raise OSError(f"{pretrained_model_name_or_path} holds no checkpoint (no {CONFIG_NAME}).")
        if is_original_config(config_dict):
            layout, name_or_path = original_layout(pretrained_model_name_or_path), str(pretrained_model_name_or_path)
            config_dict = layout.config_arguments(config_dict, name_or_path, hub_options_of(kwargs))
        if (given := config_dict.get("model_type")) not in (None, cls.model_type, OmniVinciConfig.model_type):
            raise ValueError(
                f"{pretrained_model_name_or_path} is a checkpoint of `model_type` {given!r}, not of OmniVinci: load it "
                "with the Auto classes."
            )
        return cls.from_dict(config_dict, **options)

    def save_pretrained(self, save_directory, **kwargs):
        """As [`PreTrainedConfig.save_pretrained`]; what the file says for remote code is not kept in the object."""
        before = {name: self.__dict__[name] for name in REMOTE_CODE_ENTRIES if name in self.__dict__}
        self.__dict__.setdefault("auto_map", {"AutoConfig": self.auto_map["AutoConfig"]})
        super().save_pretrained(save_directory, **kwargs)
        for name in REMOTE_CODE_ENTRIES:
            self.__dict__.pop(name, None)
        self.__dict__.update(before)

    # Transformers (5.20 to 5.24) hands this setting on to `sub_configs` alone, and warns of sub-configs that no model
    # belongs to; its own tests expect all parts to agree. This can go when such parts may be declared without warning.
    @PreTrainedConfig._attn_implementation.setter  # type: ignore[attr-defined]  # mypy takes it for a function
    def _attn_implementation(self, value):
        PreTrainedConfig._attn_implementation.fset(self, value)  # type: ignore[attr-defined]
        for part in (self.video_time_embedding, self.audio_time_embedding, self.omni_align_config):
            if isinstance(part, PreTrainedConfig):
                part._attn_implementation = self._attn_implementation

    def __repr__(self) -> str:
        """Tells in a few lines what the parts are; `to_json_string()` has every setting."""
        vision, audio, text = self.vision_config, self.audio_config, self.text_config
        towers = [
            f"{name}: {part.model_type}, {part.num_hidden_layers} layers of width {part.hidden_size}"
            for name, part in (("vision tower", vision), ("audio tower", audio), ("language model", text))
        ]
        groups = f"groups of {self.group_duration_sec:g} s" if self.group_duration_sec else "no groups"
        lines = [
            f"{type(self).__name__} (every setting: config.to_json_string())",
            f"{towers[0]}, tiles of {vision.image_size} x {vision.image_size} pixels in scales of {self.s2_scales}",
            f"{towers[1]}, windows of {self.audio_window_frames} mel frames",
            f"{towers[2]}, {text.vocab_size} tokens, context of {text.max_position_embeddings}",
            f"time: {groups}; {self.video_time_embedding.type} of video, {self.audio_time_embedding.type} of audio",
            f"OmniAlignNet: {'yes' if self.omni_align_config is not None else 'no'}",
        ]
        return "\n  ".join(lines)

    @property
    def vision_feature_size(self) -> int:
        """Returns the width of what the vision projector reads before patches are merged: one copy per scale."""
        return self.vision_config.hidden_size * len(self.s2_scales)

    @property
    def audio_feature_size(self) -> int:
        """Returns the width of the audio tower's output."""
        return getattr(self.audio_config, AUDIO_ENCODERS[self.audio_config.model_type].output_size)

    @property
    def audio_window_frames(self) -> int:
        """Returns the mel frames of one window of audio, which the audio tower reads at once."""
        return 2 * self.audio_config.max_source_positions

    @property
    def audio_window_embeds(self) -> int:
        """Returns the embeddings of one window of audio, after `audio_merge_size` adjacent ones were joined."""
        return self.audio_window_frames // 4 // self.audio_merge_size


# These are the sizes of the original checkpoint's parts. Those of its audio encoder are the defaults of its config.
SIGLIP_SO400M_448 = {
    "hidden_size": 1152,
    "intermediate_size": 4304,
    "num_hidden_layers": 27,
    "num_attention_heads": 16,
    "image_size": 448,
    "patch_size": 14,
    "vision_use_head": False,
}
QWEN2_5_7B = {
    "vocab_size": 152064,
    "hidden_size": 3584,
    "intermediate_size": 18944,
    "num_hidden_layers": 28,
    "num_attention_heads": 28,
    "num_key_value_heads": 4,
    "max_position_embeddings": 32768,
    "rms_norm_eps": 1e-6,
    "rope_parameters": {"rope_type": "default", "rope_theta": 1000000.0},
}


def _sub_config(value, default_type: str, defaults: dict) -> PreTrainedConfig:
    if isinstance(value, PreTrainedConfig):
        return value
    if value is None:
        return CONFIG_MAPPING[default_type](**defaults)
    value = dict(value)
    return CONFIG_MAPPING[value.pop("model_type", default_type)](**value)


def _time_config(value) -> OmniVinciTimeEmbeddingConfig:
    if isinstance(value, OmniVinciTimeEmbeddingConfig):
        return value
    if value is not None and not isinstance(value, dict):
        raise ValueError(f'A time embedding must be a dictionary, such as {{"type": "crte"}}, got {value!r}.')
    return OmniVinciTimeEmbeddingConfig(**(value if value is not None else {"type": "crte", "max_time": 3600.0}))
