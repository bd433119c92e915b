"""The processor: conversations, images, videos and sounds to the tensors that the model reads."""

import copy
import inspect
import json
import math
import re
from functools import partial
from typing import Any

import numpy as np
import torch
from transformers.feature_extraction_utils import BatchFeature
from transformers.processing_utils import ProcessorMixin
from transformers.utils import PROCESSOR_NAME, logging
from transformers.utils.chat_template_utils import render_jinja_template

from .adapters_omnivinci import place_of
from .configuration_omnivinci import MEDIA_INPUTS, PAIR_INPUTS, OmniVinciConfig, check_boundary_tokens, check_number
from .conversation_omnivinci import CHAT_TEMPLATE, collect_media, flatten, flatten_videos
from .feature_extraction_omnivinci import OmniVinciFeatureExtractor
from .image_processing_omnivinci import OmniVinciImageProcessor, OmniVinciVideoProcessor
from .layout_omnivinci import LayoutRules, MediumLayout
from .media_inputs_omnivinci import FRAME_OPTIONS, RANGE_OPTIONS, READ_OPTIONS, load_media
from .model_card_omnivinci import ModelCardMixin
from .released_config_omnivinci import (
    HUB_OPTIONS,
    MEDIA_TOKENS,
    component_file,
    is_released_config,
    load_released_tokenizer,
    map_released_config,
    map_released_processor_options,
)
from .stillness_omnivinci import moving_embeds


logger = logging.get_logger(__name__)
PARTS = {
    "image_processor": OmniVinciImageProcessor,
    "video_processor": OmniVinciVideoProcessor,
    "feature_extractor": OmniVinciFeatureExtractor,
}
MODALITY_BOUNDARIES = {kind: (f"<|{name}_bos|>", f"<|{name}_eos|>") for kind, name in
                       (("image", "image"), ("video", "video"), ("audio", "sound"))}  # fmt: skip
TEXT_OPTIONS = ("add_special_tokens", "max_length", "pad_to_multiple_of", "padding", "padding_side", "truncation")
# what Transformers passes on to every part of a checkpoint that it loads
LOADER_OPTIONS = ("code_revision", "config", "device_map", "dtype", "proxies", "trust_remote_code", "use_fast")
# callers set these for every processor; here they change nothing: decoding always samples, masks are always returned
IGNORED_OPTIONS = ("do_sample_frames", "return_attention_mask", "return_metadata", "verbose")
# options of the processor itself that a call may override
CALL_OPTIONS = (
    "load_audio_from_video",
    "align_audio_start",
    "video_audio_downmix",
    "max_audio_sec",
    "group_duration_sec",
    "still_threshold",
)


class OmniVinciProcessor(ModelCardMixin, ProcessorMixin):
    r"""
    Prepares text, images, videos and sounds for [`OmniVinciForConditionalGeneration`].

    Every option can be set when the processor is built or loaded, and those marked with * for a single call.

    Args:
        image_processor ([`OmniVinciImageProcessor`]), video_processor ([`OmniVinciVideoProcessor`]),
        feature_extractor ([`OmniVinciFeatureExtractor`]), tokenizer: the parts.
        chat_template (`str`, *optional*): Jinja template; the default writes the released checkpoint's prompt.
        load_audio_from_video* (`bool`, defaults to True): hear the sound track of videos that have one.
        align_audio_start* (`bool`, defaults to True): put a sound track that starts later (or earlier) than the
            picture at its true place. The released checkpoint takes its first sample as second 0.
        video_audio_downmix* (`"mean"` or `"sum"`): how several channels of a video's sound become one. "sum" is the
            unnormalised sum that the released checkpoint heard (stereo comes out `sqrt(2)` louder).
        max_audio_sec* (`float`, *optional*): only so many seconds of a sound are heard.
        group_duration_sec* (`float`, *optional*), boundary_tokens, use_modality_boundary_tokens, video_pool_sizes,
        audio_merge_size, spatial_merge_size, s2_output_scale_index: as in [`OmniVinciConfig`]; they decide how many
            placeholders stand where and must be the model's.
        still_threshold* (`float`, *optional*): leave out embeddings of squares of a video that differ from what was
            there before by less than so many of 255 levels on average, see [`moving_embeds`]. None, the default, keeps
            all, as models were trained. Not with pooled frames (`video_pool_sizes`).
        patch_size (`int`): side of a patch of the vision tower in pixels.
    """

    model_input_names = ["input_ids", "attention_mask", *MEDIA_INPUTS, *PAIR_INPUTS]

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
        for name in ("load_audio_from_video", "align_audio_start", "use_modality_boundary_tokens"):
            if not isinstance(getattr(self, name), bool):
                raise ValueError(f"`{name}` must be True or False, got {getattr(self, name)!r}.")
        if video_audio_downmix not in ("mean", "sum"):
            raise ValueError(f"`video_audio_downmix` must be 'mean' or 'sum', got {video_audio_downmix!r}.")
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

    @classmethod
    def from_model_config(cls, config: OmniVinciConfig, tokenizer, **options) -> "OmniVinciProcessor":
        """A processor that fits a model; `options` go to this class and its parts by name."""
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
        rate, hop = arguments.get("sampling_rate", 16000), arguments.get("hop_length", 160)
        arguments.setdefault("chunk_length", config.audio_window_frames * hop / rate)
        parts = {name: part(**_arguments_of(part, arguments)) for name, part in PARTS.items()}
        used = set().union(*(_arguments_of(part, arguments) for part in PARTS.values()))
        rest = {name: value for name, value in arguments.items() if name not in used}
        return cls(**parts, tokenizer=tokenizer, **rest)

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path, **kwargs) -> "OmniVinciProcessor":
        """As [`ProcessorMixin.from_pretrained`]; also takes the released five-folder layout, and for an adapter
        without a processor that of its base model.

        From the released layout, options that the checkpoint was trained with are on: the louder downmix of video
        sound, and sound tracks taken from their first sample (`align_audio_start=False`).
        """
        hub_options = {name: kwargs[name] for name in HUB_OPTIONS if kwargs.get(name) is not None}
        name_or_path = str(pretrained_model_name_or_path)
        file = component_file(name_or_path, "", "config.json", hub_options)
        if file is None:
            base, base_options = place_of(name_or_path, PROCESSOR_NAME, kwargs)
            if base != name_or_path:
                return cls.from_pretrained(base, **base_options)
        released = {}
        if file is not None:
            with open(file, encoding="utf-8") as stream:
                released = json.load(stream)
        if not is_released_config(released):
            return super().from_pretrained(pretrained_model_name_or_path, **kwargs)
        known = _option_names(cls)
        given = {name: value for name, value in kwargs.items() if name in known}
        loader = {*HUB_OPTIONS, *LOADER_OPTIONS}
        if unknown := sorted(name for name in kwargs.keys() - known - loader if not name.startswith("_")):
            logger.warning("%s has no option %s; ignored.", cls.__name__, unknown)
        options = {
            "align_audio_start": False,
            "video_audio_downmix": "sum",
            "chunk_length": 30,  # whatever the hop
            **map_released_processor_options(released),
            **given,
        }
        config = OmniVinciConfig(**map_released_config(released, name_or_path, **hub_options))
        return cls.from_model_config(config, load_released_tokenizer(name_or_path, **hub_options), **options)

    @classmethod
    def _get_arguments_from_pretrained(cls, pretrained_model_name_or_path, processor_dict=None, **kwargs):
        # the Auto classes of images and videos demand torchvision in some Transformers versions
        parts = [
            part(**{**((processor_dict or {}).get(name) or {}), **_arguments_of(part, kwargs)})
            for name, part in PARTS.items()
        ]
        hub_options = {name: value for name, value in kwargs.items() if name not in _option_names(cls)}
        return [*parts, cls._load_tokenizer_from_pretrained("tokenizer", pretrained_model_name_or_path, **hub_options)]

    def check_argument_for_proper_class(self, argument_name, argument):
        # some Transformers versions demand a torchvision class for videos
        if argument_name != "video_processor":
            return super().check_argument_for_proper_class(argument_name, argument)
        if not isinstance(argument, OmniVinciVideoProcessor):
            raise TypeError(f"Expected an OmniVinciVideoProcessor as `video_processor`, got {type(argument).__name__}.")
        return OmniVinciVideoProcessor

    def __call__(self, images=None, text=None, videos=None, audio=None, **kwargs) -> BatchFeature:
        """
        Args:
            images, videos, audio: one medium, a list, or a list per text; each a path, file object, bytes, array,
                tensor or PIL image (a video may be a list of frames), in the order of their placeholders in `text`.
            text (`str` or `list[str]`): prompts with `<image>`, `<vila/video>` and `<sound>` where media stand.
            kwargs: options marked with * in the class, `num_frames`, `fps`, `video_metadata` (of arrays: frame rate
                or times), `sampling_rate` (of sound arrays), `padding`, `padding_side`, `truncation`, `max_length`,
                `return_tensors`, `return_mm_token_type_ids`; `start_sec`, `end_sec`, `frame_indices`, `frame_times` as
                in [`load_video`], `resize_backend`; for this call only `media_limits`, `on_damage`, `timeout_sec`,
                `progress`, `allow_urls`, `allow_redirects`, `allow_private_addresses` as in `ReadOptions`;
                also grouped as `text_kwargs`, `videos_kwargs`, ...

        Returns:
            `input_ids`, `attention_mask` of final length, and for the media of the batch, flat and in order of
            appearance: `pixel_values`, `image_grids`, `pixel_values_videos`, `video_num_frames`,
            `video_frame_times_ns`, `video_kept_embeds` (with `still_threshold`, which embeddings of all frames have a
            placeholder), `input_features`, `audio_num_windows`, `audio_durations_ns`, `audio_num_embeds`
            (how many embeddings of each sound are kept), `video_has_audio`, `audio_from_video` (which videos and
            sounds are clips of both).

        Raises:
            ValueError: when placeholders and media do not match, or truncation would cut a medium.
            MediaError: when a medium cannot be read.
        """
        return self._process(images, text, videos, audio, kwargs)

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
        """As [`ProcessorMixin.apply_chat_template`], for one conversation or a list of them.

        A content part holds its medium under `path`, `url` or its type's name (`{"type": "video", "video": frames,
        "video_metadata": {"fps": 25}}`, `{"type": "audio", "audio": samples, "sampling_rate": 48000}`). A video part
        may bring its sound along under `audio` (and `sampling_rate`), as frames have none of their own. Options of
        [`~OmniVinciProcessor.__call__`] go into `processor_kwargs` or stand beside the others. Placeholder strings in
        the words of a message are removed, so that they cannot pass for media.
        """
        batched = not isinstance(conversation[0], dict)
        conversations = conversation if batched else [conversation]
        if continue_final_message and (add_generation_prompt or return_assistant_tokens_mask):
            raise ValueError(
                "`continue_final_message` cannot be combined with `add_generation_prompt` or "
                "`return_assistant_tokens_mask`."
            )
        media = {"image": [], "video": [], "audio": []}
        conversations = [[collect_media(message, media) for message in messages] for messages in conversations]
        template = self._template(chat_template)
        if tools and "tools" not in template:
            logger.warning_once("The chat template has no place for `tools`: the model will not see them.")
        variables = {name: kwargs.pop(name) for name in list(kwargs) if re.search(rf"\b{name}\b", template)}
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
        options = {**kwargs, **(processor_kwargs or {})}
        if load_audio_from_video is not None:
            options["load_audio_from_video"] = load_audio_from_video
        if return_tensors is not None:
            options["return_tensors"] = return_tensors
        videos = [part for part, _ in media["video"]]
        metadata = [metadata for _, metadata in media["video"]]
        if any(entry is not None for entry in metadata):
            options.setdefault("video_metadata", metadata)
        output = self._process(
            media["image"], prompts, videos, media["audio"], options, spans if return_assistant_tokens_mask else None
        )
        return output if return_dict else output["input_ids"]

    def describe(self, images=None, videos=None, audio=None, **kwargs) -> list[MediumLayout]:
        """What the model will see of each medium (images first, then videos, then sounds), without encoding it."""
        options = self._options(kwargs)
        images, videos, audio = self._load_media(images, videos, audio, options, self.video_processor.squash)
        rules, layouts = self.layout_rules, []
        for image in images:
            tiled = len(images) == 1 and len(self.image_processor.s2_scales) > 1
            layouts.append(rules.image(self.image_processor.grid(image) if tiled else (0, 0)))
        layouts.extend(self._video_layout(clip, rules, options) for clip in videos)
        layouts.extend(rules.audio(clip) for clip in audio)
        return layouts

    @property
    def call_option_names(self) -> set[str]:
        """Names of the options that a call takes."""
        return {*self._options({}), *TEXT_OPTIONS, *IGNORED_OPTIONS} - {"text"}

    def encode_after_media(self, conversation: list[dict]) -> tuple[list[int], list[int]]:
        """Ids of what follows the last medium of a conversation, all of it if there is none, and 1 for each of them
        that the assistant speaks. The media are not read.
        """
        media = {"image": [], "video": [], "audio": []}
        prompts, spans = render_jinja_template(
            conversations=[[collect_media(message, media) for message in conversation]],
            chat_template=self._template(None),
            return_assistant_tokens_mask=True,
            **self.tokenizer.special_tokens_map,
        )
        ids, offsets = self._tokenize(prompts[0], self._options({}))
        first = self._end_of_media(ids)
        return ids[first:].tolist(), _span_mask(offsets, spans[0])[first:].tolist()

    def words_after_media(self, prompt: str) -> list[int]:
        """Ids of what follows the last placeholder of a prompt; of all of it if there is none."""
        ids, _ = self._tokenize(prompt, self._options({}))
        return ids[self._end_of_media(ids) :].tolist()

    def join(self, inputs: list[BatchFeature], padding_side: str = "left") -> BatchFeature:
        """Several outputs of this processor, made with `return_tensors="pt"`, as one batch."""
        rows = [
            row[mask.bool()]
            for one in inputs
            for row, mask in zip(one["input_ids"], one["attention_mask"], strict=True)
        ]
        data = self._pad(
            [row.cpu().numpy() for row in rows], None, self._options({"padding": True, "padding_side": padding_side})
        )
        for name in self.model_input_names:
            if name not in data and (parts := [one[name] for one in inputs if name in one]):
                data[name] = torch.cat(parts)
        return BatchFeature(data, tensor_type="pt")

    # -- a call, step by step ------------------------------------------------------------------------------------

    def _process(self, images, text, videos, audio, kwargs, generation_spans=None) -> BatchFeature:
        if text is None:
            raise ValueError("`text` is needed: a prompt with a placeholder for every medium.")
        texts = [text] if isinstance(text, str) else list(text)
        options = self._options(kwargs)
        rows = [self._tokenize(prompt, options) for prompt in texts]
        self._check_rows(rows, {"image": images, "video": videos, "audio": audio})
        images, videos, audio = flatten(images), flatten_videos(videos), flatten(audio)
        self._check_counts(rows, {"image": images, "video": videos, "audio": audio})
        images, videos, audio = self._load_media(images, videos, audio, options, self.video_processor.frame_pixels)

        rules, layouts, image_inputs = self.layout_rules, {"image": []}, {}
        if images:
            counts = [int((ids == self.image_token_id).sum()) for ids, _ in rows]
            tile = [count == 1 for count in counts for _ in range(count)]
            image_inputs = self.image_processor(images, tile=tile, resize_backend=options["resize_backend"])
            layouts["image"] = [rules.image(tuple(grid)) for grid in image_inputs["image_grids"].tolist()]
        video_inputs = self.video_processor(videos, resize_backend=options["resize_backend"]) if videos else {}
        layouts["video"] = [self._video_layout(clip, rules, options) for clip in videos]
        layouts["audio"] = [rules.audio(clip) for clip in audio]

        remaining = {kind: iter(items) for kind, items in layouts.items()}
        expanded, masks, sounds = [], [], []
        for index, (ids, offsets) in enumerate(rows):
            spans = None if generation_spans is None else generation_spans[index]
            new_ids, mask = self._expand(ids, offsets, remaining, sounds, spans)
            expanded.append(new_ids)
            masks.append(mask)
        data = self._pad(expanded, None if generation_spans is None else masks, options)
        data.update(image_inputs)
        if videos:
            data.update(video_inputs)
            if options["still_threshold"] is not None:
                kept = np.concatenate([layout.kept_embeds for layout in layouts["video"]])
                data["video_kept_embeds"] = torch.from_numpy(kept)
            data["video_has_audio"] = torch.tensor([layout.audio is not None for layout in layouts["video"]])
        if sounds:
            data.update(self.feature_extractor([layout.audio.samples for layout in sounds]))
            data["audio_num_embeds"] = torch.tensor([layout.num_audio_embeds for layout in sounds])
            data["audio_from_video"] = torch.tensor([layout.kind == "video" for layout in sounds])
        return BatchFeature(data, tensor_type=options["return_tensors"])

    def _options(self, kwargs: dict[str, Any]) -> dict[str, Any]:
        """Stored options overridden by those of the call; an unknown name is an error."""
        flat = {}
        for name, value in kwargs.items():
            if name in ("text_kwargs", "images_kwargs", "videos_kwargs", "audio_kwargs", "common_kwargs"):
                flat.update(value or {})
            else:
                flat[name] = value
        options = {name: getattr(self, name) for name in CALL_OPTIONS}
        options.update(
            num_frames=self.video_processor.num_frames,
            fps=self.video_processor.fps,
            video_metadata=None,
            sampling_rate=None,
            return_tensors=None,
            return_mm_token_type_ids=False,
            resize_backend=None,
        )
        options.update(dict.fromkeys((*RANGE_OPTIONS, *FRAME_OPTIONS, *READ_OPTIONS)))
        unknown = sorted(set(flat) - set(options) - set(TEXT_OPTIONS) - set(IGNORED_OPTIONS))
        if unknown:
            known = sorted({*options, *TEXT_OPTIONS})
            raise TypeError(f"{type(self).__name__} has no option {unknown}; it has {known}.")
        if flat.get("fps") is not None and "num_frames" not in flat:
            options["num_frames"] = None
        if any(flat.get(name) is not None for name in FRAME_OPTIONS):
            options["num_frames"] = options["fps"] = None
        options.update({name: value for name, value in flat.items() if name in options})
        check_boundary_tokens(self.boundary_tokens, options["group_duration_sec"])
        options["text"] = {name: flat[name] for name in TEXT_OPTIONS if name in flat}
        return options

    def _load_media(self, images, videos, audio, options, transform):
        transform = partial(transform, resize_backend=options["resize_backend"])
        return load_media(images, videos, audio, options, transform, self.feature_extractor.sampling_rate)

    def _video_layout(self, clip, rules: LayoutRules, options) -> MediumLayout:
        kept, threshold = None, options["still_threshold"]
        if threshold is not None:
            check_number("still_threshold", threshold)
            if self.video_pool_sizes != [[1, 1, 1]]:
                raise ValueError(
                    f"`still_threshold`={threshold} needs embeddings of single frames, but `video_pool_sizes` is "
                    f"{self.video_pool_sizes}."
                )
            levels = map(self.video_processor.levels, clip.frames)
            kept = moving_embeds(levels, threshold, self.patch_size, self.spatial_merge_size).flatten().numpy()
        return rules.video(clip, options["group_duration_sec"], kept)

    def _end_of_media(self, ids: np.ndarray) -> int:
        media_ids = [self.image_token_id, self.video_token_id, self.audio_token_id]
        positions = np.flatnonzero(np.isin(ids, media_ids))
        return positions[-1] + 1 if len(positions) else 0

    def _tokenize(self, prompt: str, options) -> tuple[np.ndarray, np.ndarray]:
        settings = {name: value for name, value in options["text"].items() if name == "add_special_tokens"}
        encoding = self.tokenizer(prompt, return_offsets_mapping=True, **settings)
        ids = np.array(encoding["input_ids"], dtype=np.int64)
        offsets = np.array(encoding["offset_mapping"], dtype=np.int64).reshape(-1, 2)
        if self.tokenizer.pad_token_id == self.tokenizer.eos_token_id:
            return ids, offsets
        # a literal padding token in the words is dropped, as in the released code
        keep = ids != self.tokenizer.pad_token_id
        return ids[keep], offsets[keep]

    def _check_rows(self, rows, media) -> None:
        """Where media come as a list per text, each text must hold as many placeholders as its list media."""
        for kind, items in media.items():
            nested = isinstance(items, list) and len(items) == len(rows) and all(isinstance(row, list) for row in items)
            if not nested or len(rows) == 1:
                continue
            for index, ((ids, _), own) in enumerate(zip(rows, items, strict=True)):
                found = int((ids == getattr(self, f"{kind}_token_id")).sum())
                given = len(flatten_videos(own) if kind == "video" else flatten(own))
                if found != given:
                    raise ValueError(
                        f"Text {index} has {found} {getattr(self, f'{kind}_token')!r} placeholders but its list holds "
                        f"{given} {kind} inputs; they must match 1:1."
                    )

    def _check_counts(self, rows, media) -> None:
        for kind, items in media.items():
            token, token_id = getattr(self, f"{kind}_token"), getattr(self, f"{kind}_token_id")
            found = sum(int((ids == token_id).sum()) for ids, _ in rows)
            if found != len(items):
                raise ValueError(
                    f"Got {found} {token!r} placeholders in the text but {len(items)} {kind} inputs; they must match "
                    "1:1. Write one placeholder for every medium, or use `apply_chat_template`."
                )

    def _expand(self, ids, offsets, remaining, sounds, spans) -> tuple[np.ndarray, np.ndarray]:
        """Put every medium's ids in the place of its placeholder; `sounds` collects what is heard, in order."""
        kinds = {getattr(self, f"{kind}_token_id"): kind for kind in remaining}
        positions = np.flatnonzero(np.isin(ids, list(kinds)))
        events = []  # [position of the placeholder, kind, ids that stand there]
        for position in positions:
            kind = kinds[int(ids[position])]
            layout = next(remaining[kind])
            if layout.audio is not None:
                sounds.append(layout)
            if kind == "video" and layout.audio is not None:
                events.append([position, "audio", layout.sound_ids])
            events.append([position, kind, layout.ids])
        if self.use_modality_boundary_tokens:
            for kind, (bos, eos) in MODALITY_BOUNDARIES.items():
                own = [event for event in events if event[1] == kind]
                if own:
                    own[0][2] = np.concatenate([self._text_ids(bos), own[0][2]])
                    own[-1][2] = np.concatenate([own[-1][2], self._text_ids(eos)])
        mask = _span_mask(offsets, spans)
        pieces, masks, done = [], [], 0
        for position in positions:
            inserted = np.concatenate([event[2] for event in events if event[0] == position])
            pieces += [ids[done:position], inserted]
            masks += [mask[done:position], np.zeros(len(inserted), dtype=np.int64)]
            done = position + 1
        return np.concatenate([*pieces, ids[done:]]), np.concatenate([*masks, mask[done:]])

    def _pad(self, rows: list[np.ndarray], masks: list[np.ndarray] | None, options) -> dict[str, Any]:
        text = options["text"]
        if text.get("truncation"):
            kept = [self._kept(row, text.get("max_length") or self.tokenizer.model_max_length) for row in rows]
            rows = [row[part] for row, part in zip(rows, kept, strict=True)]
            masks = None if masks is None else [mask[part] for mask, part in zip(masks, kept, strict=True)]
        padding, side = text.get("padding", False), text.get("padding_side") or self.tokenizer.padding_side
        data = self.tokenizer.pad(
            {"input_ids": [row.tolist() for row in rows]},
            padding=padding,
            padding_side=side,
            max_length=text.get("max_length"),
            pad_to_multiple_of=text.get("pad_to_multiple_of"),
            return_attention_mask=True,
        )
        data = dict(data)
        if options["return_mm_token_type_ids"]:
            data["mm_token_type_ids"] = self.create_mm_token_type_ids(data["input_ids"])
        if masks is not None:
            missing = [len(ids) - len(mask) for ids, mask in zip(data["input_ids"], masks, strict=True)]
            data["assistant_masks"] = [
                [0] * gap * (side == "left") + mask.tolist() + [0] * gap * (side == "right")
                for gap, mask in zip(missing, masks, strict=True)
            ]
        return data

    def _kept(self, row: np.ndarray, max_length: int) -> slice:
        """The part of a row that truncation leaves, on the tokenizer's side."""
        left = self.tokenizer.truncation_side == "left"
        kept = slice(max(0, len(row) - max_length), None) if left else slice(None, max_length)
        media_ids = [self.image_token_id, self.video_token_id, self.audio_token_id]
        if np.isin(row, media_ids).sum() != np.isin(row[kept], media_ids).sum():
            raise ValueError(
                f"`max_length`={max_length} would cut a medium in a sequence of {len(row)} tokens: raise it, or take "
                "fewer frames or seconds of sound."
            )
        return kept

    @property
    def layout_rules(self) -> LayoutRules:
        """What decides which ids stand in place of a medium."""
        patches = self.image_processor.size // self.patch_size
        return LayoutRules(
            image_token_id=self.image_token_id,
            video_token_id=self.video_token_id,
            audio_token_id=self.audio_token_id,
            boundaries={name: self._text_ids(text) for name, text in self.boundary_tokens.items()},
            tile_side=math.ceil(patches / self.spatial_merge_size),
            s2_scales=self.image_processor.s2_scales,
            s2_output_scale_index=self.s2_output_scale_index,
            video_pool_sizes=self.video_pool_sizes,
            audio_merge_size=self.audio_merge_size,
            feature_extractor=self.feature_extractor,
        )

    def _text_ids(self, text: str | None) -> list[int]:
        return self.tokenizer(text, add_special_tokens=False)["input_ids"] if text else []

    def _template(self, chat_template: str | None) -> str:
        templates = self.chat_template
        if isinstance(templates, dict):
            return templates.get(chat_template or "default", chat_template)
        return chat_template or templates


def _arguments_of(part: type, options: dict[str, Any]) -> dict[str, Any]:
    names = inspect.signature(part.__init__).parameters
    return {name: value for name, value in options.items() if name in names}


def _option_names(processor: type) -> set[str]:
    return {name for part in (processor, *PARTS.values()) for name in inspect.signature(part.__init__).parameters}


def _span_mask(offsets: np.ndarray, spans) -> np.ndarray:
    """1 for tokens that overlap one of the character spans."""
    mask = np.zeros(len(offsets), dtype=np.int64)
    for start, end in spans or []:
        mask |= (offsets[:, 0] < end) & (offsets[:, 1] > start)
    return mask
