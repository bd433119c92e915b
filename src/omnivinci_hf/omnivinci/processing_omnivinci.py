"""This module holds the processor, which turns conversations and their media into the tensors that the model reads."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from transformers.feature_extraction_utils import BatchFeature
from transformers.utils import logging
from transformers.utils.chat_template_utils import render_jinja_template

from .checkpoint_files_omnivinci import ModelCardMixin
from .configuration_omnivinci import MEDIA_TOKENS, MODALITIES, check_boundary_tokens
from .conversation_omnivinci import CHAT_TEMPLATE, MediaPart, collect_all_media, load_media, template_variables
from .frame_sampling_omnivinci import check_choice
from .options_omnivinci import (
    CALL_OPTIONS,
    FIXED_OPTIONS,
    GROUPS,
    MAX_TILE_EMBEDS,
    POSITION_OPTIONS,
    STORED_OPTIONS,
    TEXT_OPTIONS,
    check_options,
    flat_options,
    option_checks,
)
from .outputs_omnivinci import MEDIA_INPUTS, PAIR_INPUTS
from .processor_loading_omnivinci import ProcessorLoadingMixin
from .sequence_layout_omnivinci import (
    MODALITY_BOUNDARIES,
    LayoutRules,
    MediumLayout,
    PromptEncoder,
    Spans,
    span_mask,
)
from .video_media_omnivinci import VideoClip
from .video_processing_omnivinci import moving_embeds


logger = logging.get_logger(__name__)


@dataclass
class EncodedMedium:
    """An encoded medium is what the model reads of one medium, whatever stands around it in a prompt.

    Args:
        layout ([`MediumLayout`]): which ids stand in the place of its placeholder, and how they came about.
        tensors (`dict[str, torch.Tensor]`): the model's inputs, with the names and shapes that
            [`~OmniVinciProcessor.__call__`] returns for a prompt with this medium alone. An image has `pixel_values`
            and `image_grids`; a video `pixel_values_videos`, `video_num_frames`, `video_frame_times_ns`,
            `video_has_audio`, and with `still_threshold` `video_kept_embeds`; an audio clip, and a video with audio,
            `input_features`, `audio_num_windows`, `audio_durations_ns`, `audio_num_embeds` and `audio_from_video`.
    """

    layout: MediumLayout
    tensors: dict[str, torch.Tensor]

    @property
    def modality(self) -> str:
        """The modality: "image", "video" or "audio"."""
        return self.layout.modality

    @property
    def input_ids(self) -> torch.Tensor:
        """The ids `(length,)` that stand in the place of the placeholder.

        With `use_modality_boundary_tokens`, a prompt has a token more before the first and after the last medium of
        each modality.
        """
        return torch.from_numpy(np.concatenate([self.layout.audio_ids, self.layout.ids]))


def join_media(media: Sequence[EncodedMedium]) -> dict[str, torch.Tensor]:
    """Joins the tensors of all media of a batch, each along its first dimension, in the order of the media.

    The media stay as they are and share no memory with the result, so that they can be kept and joined again.

    Args:
        media: in the order of their placeholders in the batch.

    Returns:
        The model's inputs for these media, with the names and shapes that [`~OmniVinciProcessor.__call__`] returns.
    """
    return {name: torch.cat(parts) for name, parts in _parts_by_name(media).items()}


def _join_and_release(media: Sequence[EncodedMedium]) -> dict[str, torch.Tensor]:
    """Joins media as [`join_media`] does, and holds no tensor twice: those of the media become parts of the result.

    It is for the media that a call has just read and that nobody keeps.
    """
    joined = {}
    for name, parts in _parts_by_name(media).items():
        joined[name] = parts[0]
        if len(parts) > 1:
            joined[name] = torch.empty(sum(map(len, parts)), *parts[0].shape[1:], dtype=parts[0].dtype)
            for part, room in zip(parts, joined[name].split([*map(len, parts)]), strict=True):
                part.set_(room.copy_(part))  # whoever holds the part now holds this piece, and its memory is free
    return joined


def _parts_by_name(media: Sequence[EncodedMedium]) -> dict[str, list[torch.Tensor]]:
    """Collects the tensors of media by the input of the model that they belong to."""
    names = dict.fromkeys(name for medium in media for name in medium.tensors)
    return {name: [medium.tensors[name] for medium in media if name in medium.tensors] for name in names}


class OmniVinciProcessor(ModelCardMixin, ProcessorLoadingMixin):
    r"""
    Prepares text, images, videos and audio for [`OmniVinciForConditionalGeneration`].

    Every option can be set when the processor is built or loaded, and those marked with * for a single call.
    The page "Options of the processor" of the documentation lists all of them.

    Args:
        image_processor ([`OmniVinciImageProcessor`]), video_processor ([`OmniVinciVideoProcessor`]),
        feature_extractor ([`OmniVinciFeatureExtractor`]), tokenizer: the parts.
        chat_template (`str`, *optional*): Jinja template; the default writes the original checkpoint's prompt.
        load_audio_from_video* (`bool`, defaults to True): hear the audio of videos that have some.
        align_audio_start* (`bool`, defaults to True): put audio that starts later (or earlier) than the picture at its
            true time. The original checkpoint takes its first sample as second 0.
        video_audio_downmix* (`"mean"` or `"sum"`): how several channels of a video's audio become one. "sum" is the
            unnormalised sum that the original checkpoint heard (stereo comes out `sqrt(2)` louder).
        max_audio_sec* (`float`, *optional*): only so many seconds of an audio clip are heard.
        group_duration_sec* (`float`, *optional*), boundary_tokens, use_modality_boundary_tokens, video_pool_sizes,
        audio_merge_size, spatial_merge_size, s2_output_scale_index: as in [`OmniVinciConfig`]; they decide how many
            placeholders stand where and must be the model's.
        still_threshold* (`float`, *optional*): leave out embeddings of squares of a video that differ from what was
            there before by less than so many of 255 levels on average, see [`moving_embeds`]. None, the default, keeps
            all, as models were trained. Not with pooled frames (`video_pool_sizes`).
        patch_size (`int`): side of a patch of the vision tower in pixels.
    """

    model_input_names = ["input_ids", "attention_mask", *MEDIA_INPUTS, *PAIR_INPUTS]
    # set from the tokenizer
    image_token: str
    image_token_id: int
    video_token: str
    video_token_id: int
    audio_token: str
    audio_token_id: int

    def __init__(
        self,
        image_processor=None,
        video_processor=None,
        feature_extractor=None,
        tokenizer=None,
        chat_template=None,
        load_audio_from_video: bool = True,
        align_audio_start: bool = True,
        video_audio_downmix: str = "mean",
        max_audio_sec: float | None = 3600.0,
        group_duration_sec: float | None = 30.0,
        boundary_tokens: dict[str, str | None] | None = None,
        use_modality_boundary_tokens: bool = False,
        video_pool_sizes: list[list[int]] | None = None,
        audio_merge_size: int = 1,
        spatial_merge_size: int = 2,
        s2_output_scale_index: int = 0,
        patch_size: int = 14,
        still_threshold: float | None = None,
    ):
        super().__init__(
            image_processor, video_processor, feature_extractor, tokenizer, chat_template=chat_template or CHAT_TEMPLATE
        )
        self.load_audio_from_video = load_audio_from_video
        self.align_audio_start = align_audio_start
        self.video_audio_downmix = video_audio_downmix
        self.max_audio_sec = max_audio_sec
        self.group_duration_sec = group_duration_sec
        self.boundary_tokens = check_boundary_tokens(boundary_tokens, group_duration_sec)
        self.use_modality_boundary_tokens = use_modality_boundary_tokens
        self.video_pool_sizes = video_pool_sizes or [[1, 1, 1]]
        self.audio_merge_size = audio_merge_size
        self.spatial_merge_size = spatial_merge_size
        self.s2_output_scale_index = s2_output_scale_index
        self.patch_size = patch_size
        self.still_threshold = still_threshold
        vars(self).update(check_options(vars(self), STORED_OPTIONS))
        self._check_sizes()
        if use_modality_boundary_tokens:
            words = {word for pair in MODALITY_BOUNDARIES.values() for word in pair}
            if missing := sorted(words - tokenizer.get_vocab().keys()):
                raise ValueError(f"`use_modality_boundary_tokens`=True, but the tokenizer lacks the tokens {missing}.")
        for name, token in MEDIA_TOKENS.items():
            token_id = tokenizer.convert_tokens_to_ids(token)
            if token_id is None or token_id == tokenizer.unk_token_id:
                raise ValueError(f"The tokenizer lacks the placeholder {token!r}: add it as a special token.")
            setattr(self, name.removesuffix("_id"), token)
            setattr(self, name, token_id)

    def __repr__(self) -> str:
        """Tells in a few lines what is read and how; `to_json_string()` has every option."""
        side, video, extractor = self.image_processor.size, self.video_processor, self.feature_extractor
        window_sec = extractor.window_frames * extractor.hop_length / extractor.sampling_rate
        frames = f"{video.num_frames or 'all'} frames"
        if video.fps:
            frames = f"{video.fps:g} frames a second" + (f", at most {frames}," if video.num_frames else "")
        heard = "heard" if self.load_audio_from_video else "not heard"
        lines = [
            f"{type(self).__name__} (every option: processor.to_json_string())",
            f"tokenizer: {type(self.tokenizer).__name__}, {len(self.tokenizer)} tokens",
            f"images: tiles of {side} x {side} pixels in scales of {self.image_processor.s2_scales}",
            f"video: {frames} of {side} x {side} pixels; its audio is {heard}",
            f"audio: {extractor.sampling_rate} Hz, {extractor.feature_size} mel bins, windows of {window_sec:g} s",
            f"time: groups of {self.group_duration_sec:g} s" if self.group_duration_sec else "time: no groups",
        ]
        return "\n  ".join(lines)

    def _check_sizes(self) -> None:
        """Refuses sizes of the parts that do not fit together, or make a tile of too many embeddings."""
        side, patch = self.image_processor.size, self.patch_size
        if self.video_processor.size != side:
            raise ValueError(
                f"Images have `size`={side} but frames of videos {self.video_processor.size}; make them equal."
            )
        if patch > side:
            raise ValueError(f"`patch_size`={patch} is more than `size`={side}.")
        embeds = math.ceil(side // patch / self.spatial_merge_size) ** 2
        if embeds > MAX_TILE_EMBEDS:
            raise ValueError(
                f"`patch_size`={patch} and `spatial_merge_size`={self.spatial_merge_size} make {embeds:,} embeddings "
                f"of a tile of `size`={side}, more than {MAX_TILE_EMBEDS:,}."
            )
        num_scales = len(self.image_processor.s2_scales)
        if not -num_scales <= self.s2_output_scale_index < num_scales:
            raise ValueError(
                f"`s2_output_scale_index`={self.s2_output_scale_index} is none of {num_scales} `s2_scales`."
            )

    def __call__(self, images=None, text=None, videos=None, audio=None, **kwargs) -> BatchFeature:
        """Turns prompts and their media into one batch of the model's inputs.

        Args:
            images, videos, audio: one medium, a list, or a list per text; each what `load_image`, `load_video` or
                `load_audio` takes (a path, file object, bytes, array, PIL image, ...), in the order of their
                placeholders in `text`.
            text (`str` or `list[str]`): prompts with `<image>`, `<vila/video>` and `<sound>` where media stand.
            kwargs: options marked with * in the class, `num_frames`, `fps`, `video_metadata` (of arrays: frame rate
                or times), `sampling_rate` (of audio arrays), `padding`, `padding_side`, `truncation`, `max_length`,
                `return_tensors`, `return_attention_mask`, `return_mm_token_type_ids`; `start_sec`, `end_sec`,
                `frame_indices`, `frame_times` as in [`load_video`], `do_sample_frames=False` (all frames are kept),
                `resize_backend`; for this call only `media_limits`, `on_damage`, `timeout_sec`,
                `progress`, `allow_urls`, `allow_redirects`, `allow_private_addresses` as in `ReadOptions`;
                also grouped as `text_kwargs`, `videos_kwargs`, ... An option is given once.

        Returns:
            `input_ids`, `attention_mask` `(batch_size, length)`, and for the media of the batch, flat and in order of
            appearance: `pixel_values (num_tiles, 3, size, size)`, `image_grids (num_images, 2)` (rows and columns of
            tiles, 0 for a single tile); `pixel_values_videos (frames of all videos, 3, size, size)`, `video_num_frames
            (num_videos,)`, `video_frame_times_ns (frames of all videos,)`, `video_kept_embeds (embeddings of all
            frames,)` (with `still_threshold`: which of them have a placeholder), `video_has_audio (num_videos,)`;
            `input_features (num_windows, feature_size, window_frames)`, `audio_num_windows (num_audios,)`,
            `audio_durations_ns (num_audios,)`, `audio_num_embeds (num_audios,)` (how many embeddings of each audio clip
            are kept), `audio_from_video (num_audios,)`. The audio of videos counts among the audio clips.

        Raises:
            ValueError: when placeholders and media do not match, or truncation would cut a medium.
            MediaError: when a medium cannot be read.
        """
        options = self.resolve_options(("as an argument", kwargs))
        return self._process({"image": images, "video": videos, "audio": audio}, text, options)

    def encode_medium(self, modality: str, source: Any, *, tile: bool | None = None, **options: Any) -> EncodedMedium:
        """Encodes one medium independently of what stands around it in a prompt.

        A call of the processor encodes each medium in the same way: its tensors are those of its media joined, see
        [`join_media`], and its ids those of the words with `input_ids` of each medium in the place of its placeholder.

        Args:
            modality: "image", "video" or "audio".
            source: what `load_image`, `load_video` or `load_audio` takes, or a [`MediaPart`].
            tile: whether an image is cut into tiles, as it is by default; of images only. A call cuts an image into
                tiles where it is the only one of its prompt.
            options: of [`~OmniVinciProcessor.__call__`], but for those of the text and of the output.

        Raises:
            ValueError: for an unknown modality, a part of another one or with an unknown option, or an option that
                cannot have its value.
            TypeError: for an option that does not concern media, or `tile` of a video or an audio clip.
            MediaError: when the medium cannot be read.
        """
        if modality not in MODALITIES:
            raise ValueError(f"`modality` must be one of {', '.join(MODALITIES)}, got {modality!r}.")
        if tile is not None and modality != "image":
            raise TypeError(f"`tile`={tile!r} is an option of images, but `modality` is {modality!r}: leave it out.")
        if not isinstance(tile, (bool, type(None))):
            raise ValueError(f"`tile` must be True, False or None, got {tile!r}.")
        names = {*options, *(name for group in GROUPS for name in options.get(group) or {})}
        if others := sorted(names & option_checks("text", "output").keys()):
            raise TypeError(f"{others} are options of a prompt, and `encode_medium` makes none.")
        resolved = self.resolve_options(("as an argument", options))
        part = source if isinstance(source, MediaPart) else MediaPart(modality, source)
        media = self._load_media({modality: [part]}, resolved, self.video_processor.frame_pixels)
        return self._encode(modality, media[modality][0], tile is not False, resolved, self.layout_rules)

    def apply_chat_template(
        self,
        conversation,
        chat_template=None,
        tools=None,
        documents=None,
        add_generation_prompt=False,
        continue_final_message=False,
        return_assistant_tokens_mask=False,
        tokenize=False,
        return_tensors=None,
        return_dict=False,
        load_audio_from_video=None,
        processor_kwargs=None,
        **kwargs,
    ):
        """Writes the prompt of a conversation, or of each in a list; with `tokenize=True` encodes it with its media.

        The arguments are those of [`ProcessorMixin.apply_chat_template`].

        A content part holds its medium under `path`, `url`, `base64` or its type's name (`{"type": "video", "video":
        frames, "video_metadata": {"fps": 25}}`, `{"type": "audio", "audio": samples, "sampling_rate": 48000}`), with
        options of its own beside it, see [`parse_part`]. A video part may bring its audio along under `audio` (and
        `sampling_rate`), as frames have none of their own. Options of [`~OmniVinciProcessor.__call__`] go into
        `processor_kwargs` or stand beside the others. Placeholder strings in the words of a message are removed, so
        that they cannot pass for media.
        """
        if not conversation:
            raise ValueError("A conversation is a list of messages, got an empty one.")
        if continue_final_message and (add_generation_prompt or return_assistant_tokens_mask):
            raise ValueError(
                "`continue_final_message` cannot be combined with `add_generation_prompt` or "
                "`return_assistant_tokens_mask`."
            )
        batched = not isinstance(conversation[0], dict)
        conversations, media = collect_all_media(conversation if batched else [conversation])
        template = self._template(chat_template)
        variables = _pop_variables(kwargs, template, tools)
        named = {"load_audio_from_video": load_audio_from_video, "return_tensors": return_tensors}
        kwargs.update({name: value for name, value in named.items() if value is not None})
        options = self.resolve_options(("as an argument", kwargs), ("in `processor_kwargs`", processor_kwargs or {}))
        prompts, spans = render_jinja_template(
            conversations=conversations,
            tools=tools,
            documents=documents,
            chat_template=template,
            return_assistant_tokens_mask=return_assistant_tokens_mask,
            continue_final_message=continue_final_message,
            add_generation_prompt=add_generation_prompt,
            **{**self.tokenizer.special_tokens_map, **variables},
        )
        if not tokenize:
            return prompts if batched else prompts[0]
        output = self._process(media, prompts, options, spans if return_assistant_tokens_mask else None)
        return output if return_dict else output["input_ids"]

    def describe(self, images=None, videos=None, audio=None, **kwargs) -> list[MediumLayout]:
        """Tells what the model will see of each medium (images first, then videos, then audio), without encoding it.

        Takes the media and options of [`~OmniVinciProcessor.__call__`], and raises the same errors.
        """
        options = self.resolve_options(("as an argument", kwargs))
        given = {"image": images, "video": videos, "audio": audio}
        media = self._load_media(given, options, self.video_processor.squash)
        rules = self.layout_rules
        tiled = len(media["image"]) == 1 and len(self.image_processor.s2_scales) > 1
        layouts = [rules.image(self.image_processor.grid(image) if tiled else (0, 0)) for image in media["image"]]
        layouts += [self._video_layout(clip, rules, options) for clip in media["video"]]
        return layouts + [rules.audio(clip) for clip in media["audio"]]

    @property
    def call_option_names(self) -> set[str]:
        """The names of the options that a call takes, and of the groups in which they may stand."""
        return {*CALL_OPTIONS, *FIXED_OPTIONS, *GROUPS}

    def resolve_options(self, *sources: tuple[str, dict[str, Any]]) -> dict[str, Any]:
        """Returns all options of a call: the stored ones, overridden by what is given.

        Args:
            sources: where options were given, in the words of an error ("as an argument"), and the options.

        Raises:
            TypeError: for an unknown name, with the nearest known one.
            ValueError: for an option that is given twice, or that cannot have its value.
        """
        given = flat_options(type(self).__name__, *sources)
        options = {name: getattr(self, name, None) for name in CALL_OPTIONS}
        options.update(num_frames=self.video_processor.num_frames, fps=self.video_processor.fps)
        options.update(self._text_defaults())
        if given.get("fps") is not None and "num_frames" not in given:
            options["num_frames"] = None
        if any(given.get(name) is not None for name in POSITION_OPTIONS):
            options["num_frames"] = options["fps"] = None
        if given.get("do_sample_frames") is False:
            if chosen := sorted(name for name in ("num_frames", "fps") if given.get(name) is not None):
                raise ValueError(
                    f"`do_sample_frames`=False keeps all frames, but {chosen} ask for some: leave one out."
                )
            options["num_frames"] = options["fps"] = None
        options.update(given)
        check_choice(options)
        check_boundary_tokens(self.boundary_tokens, options["group_duration_sec"])
        return options

    def _text_defaults(self) -> dict[str, Any]:
        """Returns the options of the text with which the tokenizer was saved or built, as other processors do, too."""
        stored = self.tokenizer.init_kwargs
        defaults = {name: getattr(self.tokenizer, name, stored[name]) for name in TEXT_OPTIONS if name in stored}
        check_options(defaults)
        return defaults

    def encode_after_media(self, conversation: list[dict]) -> tuple[list[int], list[int]]:
        """Encodes what follows the last medium of a conversation, or all of it if it has none; no medium is read.

        Returns:
            The ids, and for each 1 if the assistant speaks it, else 0.
        """
        rendered: Any = render_jinja_template(
            conversations=collect_all_media([conversation])[0],
            chat_template=self._template(None),
            return_assistant_tokens_mask=True,
            **self.tokenizer.special_tokens_map,
        )
        prompts, spans = rendered
        ids, offsets = self._prompts.tokenize(prompts[0])
        first = self._prompts.end_of_media(ids)
        return ids[first:].tolist(), span_mask(offsets, spans[0])[first:].tolist()

    def words_after_media(self, prompt: str) -> list[int]:
        """Returns the ids of what follows the last placeholder of a prompt, or of all of it if it has none."""
        ids, _ = self._prompts.tokenize(prompt)
        return ids[self._prompts.end_of_media(ids) :].tolist()

    def join(self, inputs: list[BatchFeature], padding_side: str = "left") -> BatchFeature:
        """Joins several outputs of this processor, made with `return_tensors="pt"`, to one batch.

        Raises:
            ValueError: for an output of several rows without `attention_mask`, which would tell what padding is.
        """
        if any("attention_mask" not in one and len(one["input_ids"]) > 1 for one in inputs):
            raise ValueError("`join` needs the `attention_mask` of outputs of several rows: leave it on.")
        rows = []
        for one in inputs:
            masks = one.get("attention_mask", torch.ones_like(one["input_ids"]))
            rows += [row[mask.bool()].cpu().numpy() for row, mask in zip(one["input_ids"], masks, strict=True)]
        data = self._prompts.pad(rows, None, {"padding": True, "padding_side": padding_side})
        for name in self.model_input_names:
            if name not in data and (parts := [one[name] for one in inputs if name in one]):
                data[name] = torch.cat(parts)
        return BatchFeature(data, tensor_type="pt")

    # -- a call, step by step

    def _process(
        self,
        media: Mapping[str, Any],
        text: str | Sequence[str] | None,
        options: Mapping[str, Any],
        generation_spans: Sequence[Spans | None] | None = None,
    ) -> BatchFeature:
        if text is None:
            raise ValueError("`text` is needed: a prompt with a placeholder for every medium.")
        prompts = self._prompts
        text_options = {name: options[name] for name in TEXT_OPTIONS if options[name] is not None}
        rows = [prompts.tokenize(prompt, text_options) for prompt in ([text] if isinstance(text, str) else text)]
        prompts.check_counts(rows, media)
        encoded = self._encode_all([ids for ids, _ in rows], media, options)
        expanded, masks = [], []
        for (ids, offsets), row, spans in zip(rows, encoded, generation_spans or [None] * len(rows), strict=True):
            new_ids, mask = prompts.expand(ids, offsets, [medium.layout for medium in row], spans)
            expanded.append(new_ids)
            masks.append(mask)
        data = prompts.pad(expanded, None if generation_spans is None else masks, text_options)
        if options["return_mm_token_type_ids"]:
            data["mm_token_type_ids"] = self.create_mm_token_type_ids(data["input_ids"])
        if options["return_attention_mask"] is False:
            del data["attention_mask"]
        data.update(_join_and_release([medium for row in encoded for medium in row]))
        return BatchFeature(data, tensor_type=options["return_tensors"])

    def _encode_all(
        self, rows: list[np.ndarray], media: Mapping[str, Any], options: Mapping[str, Any]
    ) -> list[list[EncodedMedium]]:
        """Loads and encodes all media of a call; returns those of each row, in the order of its placeholders."""
        loaded = self._load_media(media, options, self.video_processor.frame_pixels)
        counts = [int((ids == self.image_token_id).sum()) for ids in rows]
        tile = [count == 1 for count in counts for _ in range(count)]
        rules, encoded = self.layout_rules, {}
        for modality, clips in loaded.items():
            flags = tile if modality == "image" else [False] * len(clips)
            encoded[modality] = iter(
                [self._encode(modality, clip, flag, options, rules) for clip, flag in zip(clips, flags, strict=True)]
            )
        return [[next(encoded[modality]) for modality in self._prompts.modalities(ids)] for ids in rows]

    def _encode(
        self, modality: str, medium: Any, tile: bool, options: Mapping[str, Any], rules: LayoutRules
    ) -> EncodedMedium:
        """Encodes one medium that is loaded: a PIL image, a [`VideoClip`] or an [`AudioClip`]."""
        backend = options["resize_backend"]
        if modality == "image":
            tensors = dict(self.image_processor([medium], tile=tile, resize_backend=backend))
            rows, columns = tensors["image_grids"][0].tolist()
            return EncodedMedium(rules.image((rows, columns)), tensors)
        if modality == "audio":
            layout, tensors = rules.audio(medium), {}
        else:
            tensors = dict(self.video_processor([medium], resize_backend=backend))
            layout = self._video_layout(medium, rules, options)
            if layout.kept_embeds is not None:
                tensors["video_kept_embeds"] = torch.from_numpy(layout.kept_embeds)
            tensors["video_has_audio"] = torch.tensor([layout.audio is not None])
        if layout.audio is not None:
            tensors.update(self.feature_extractor([layout.audio.samples]))
            tensors["audio_num_embeds"] = torch.tensor([layout.num_audio_embeds])
            tensors["audio_from_video"] = torch.tensor([modality == "video"])
        return EncodedMedium(layout, tensors)

    def _load_media(self, media: Mapping[str, Any], options: Mapping[str, Any], transform) -> dict[str, list]:
        transform = partial(transform, resize_backend=options["resize_backend"])
        return load_media(media, options, transform, self.feature_extractor.sampling_rate)

    def _video_layout(self, clip: VideoClip, rules: LayoutRules, options: Mapping[str, Any]) -> MediumLayout:
        kept, threshold = None, options["still_threshold"]
        if threshold is not None:
            if self.video_pool_sizes != [[1, 1, 1]]:
                raise ValueError(
                    f"`still_threshold`={threshold} needs embeddings of single frames, but `video_pool_sizes` is "
                    f"{self.video_pool_sizes}."
                )
            levels = map(self.video_processor.levels, clip.frames)
            kept = moving_embeds(levels, threshold, self.patch_size, self.spatial_merge_size).flatten().numpy()
        return rules.video(clip, options["group_duration_sec"], kept)

    @property
    def _prompts(self) -> PromptEncoder:
        placeholders = {
            modality: (getattr(self, f"{modality}_token"), getattr(self, f"{modality}_token_id"))
            for modality in MODALITIES
        }
        return PromptEncoder(self.tokenizer, placeholders, self.use_modality_boundary_tokens)

    @property
    def layout_rules(self) -> LayoutRules:
        """The rules that decide which ids stand in the place of a medium."""
        patches = self.image_processor.size // self.patch_size
        return LayoutRules(
            image_token_id=self.image_token_id,
            video_token_id=self.video_token_id,
            audio_token_id=self.audio_token_id,
            boundaries={name: self._prompts.text_ids(text) for name, text in self.boundary_tokens.items()},
            tile_side=math.ceil(patches / self.spatial_merge_size),
            s2_scales=self.image_processor.s2_scales,
            s2_output_scale_index=self.s2_output_scale_index,
            video_pool_sizes=self.video_pool_sizes,
            audio_merge_size=self.audio_merge_size,
            feature_extractor=self.feature_extractor,
        )

    def _template(self, chat_template: str | None) -> str:
        """Returns the chat template that is meant: by its name, as it is given, or the stored one."""
        stored: Any = self.chat_template
        if isinstance(stored, dict):
            stored, chat_template = stored.get(chat_template or "default", chat_template), None
        return chat_template or stored


def _pop_variables(kwargs: dict[str, Any], template: str, tools: Any) -> dict[str, Any]:
    """Takes the variables of a template out of the arguments of a call."""
    names = template_variables(template)
    if tools and "tools" not in names:
        logger.warning_once("The chat template has no place for `tools`: the model will not see them.")
    return {name: kwargs.pop(name) for name in kwargs.keys() & names - CALL_OPTIONS.keys()}
