"""OmniVinci: SigLIP vision, Audio Flamingo 3 / Qwen2-Audio hearing, and Qwen2.5 (arXiv 2510.15870)."""

import copy
import math
from dataclasses import dataclass

import torch
from torch import nn
from transformers import (
    GenerationMixin,
    PreTrainedModel,
    Qwen2Model,
)
from transformers.cache_utils import Cache
from transformers.modeling_outputs import BaseModelOutputWithPast, BaseModelOutputWithPooling, ModelOutput
from transformers.utils import can_return_tuple

from .configuration_omnivinci import OmniVinciConfig
from .encoders_omnivinci import (
    AUDIO_TOWERS,
    OmniVinciAudioProjector,
    OmniVinciVisionProjector,
    OmniVinciVisionTower,
    merge_scales,
    pool_frames,
    stitch,
)
from .released_checkpoint_omnivinci import is_released_checkpoint, load_released_checkpoint
from .time_embedding_omnivinci import build_time_embedding


# what bitsandbytes leaves in full precision unless `llm_int8_skip_modules` says otherwise
NOT_QUANTIZED = [
    "model.vision_tower",
    "model.audio_tower",
    "model.vision_projector",
    "model.audio_projector",
    "lm_head",
]
MEDIA_INPUTS = (
    "pixel_values",
    "image_grids",
    "pixel_values_videos",
    "video_num_frames",
    "video_frame_times_ns",
    "input_features",
    "audio_num_windows",
    "audio_durations_ns",
    "audio_num_embeds",
)


@dataclass
class OmniVinciCausalLMOutputWithPast(ModelOutput):
    """
    Args:
        loss (`torch.Tensor` of shape `()`): next-token loss, with `labels`.
        logits (`torch.Tensor` of shape `(batch_size, seq_len, vocab_size)`).
        past_key_values (`Cache`).
        hidden_states, attentions: of the language model, where asked for.
    """

    loss: torch.Tensor | None = None
    logits: torch.Tensor | None = None
    past_key_values: Cache | None = None
    hidden_states: tuple[torch.Tensor, ...] | None = None
    attentions: tuple[torch.Tensor, ...] | None = None


class OmniVinciPreTrainedModel(PreTrainedModel):
    config_class = OmniVinciConfig
    base_model_prefix = "model"
    input_modalities = ("image", "video", "audio", "text")
    supports_gradient_checkpointing = True
    _no_split_modules = [
        "SiglipEncoderLayer",
        "SiglipVisionEmbeddings",
        "SiglipMultiheadAttentionPoolingHead",
        "Qwen2AudioEncoderLayer",
        "AudioFlamingo3EncoderLayer",
        "Qwen2_5OmniAudioEncoderLayer",
        "Qwen2DecoderLayer",
    ]
    _skip_keys_device_placement = ["past_key_values"]
    _supports_sdpa = True
    _supports_flash_attn = True
    _supports_attention_backend = True
    _can_compile_fullgraph = True

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path=None, *args, config=None, state_dict=None, **kwargs):
        """As [`PreTrainedModel.from_pretrained`]; also takes the released five-folder layout, local or hub id.

        Its weights are read lazily, component by component, so they are never held twice; `dtype`, `device_map` and
        `quantization_config` work as usual. bitsandbytes quantizes the language model alone, unless its
        `llm_int8_skip_modules` is set.

        Raises:
            ValueError: when tensors of the released layout are missing, surplus or misshapen; it names them.
        """
        quantization = kwargs.get("quantization_config")
        if getattr(quantization, "llm_int8_skip_modules", False) is None:
            quantization = copy.deepcopy(quantization)
            quantization.llm_int8_skip_modules = list(NOT_QUANTIZED)
            kwargs["quantization_config"] = quantization
        if (
            pretrained_model_name_or_path is None
            or state_dict is not None
            or not is_released_checkpoint(pretrained_model_name_or_path, kwargs)
        ):
            return super().from_pretrained(
                pretrained_model_name_or_path, *args, config=config, state_dict=state_dict, **kwargs
            )
        return load_released_checkpoint(cls, pretrained_model_name_or_path, config, kwargs)


class OmniVinciModel(OmniVinciPreTrainedModel):
    """Both towers, their projectors, the time embeddings and the language model, without head."""

    def __init__(self, config: OmniVinciConfig):
        super().__init__(config)
        layer, layers = config.vision_feature_layer, config.vision_config.num_hidden_layers
        self.vision_tower = OmniVinciVisionTower._from_config(
            config.vision_config, num_layers=layer if layer >= 0 else layers + 1 + layer
        )
        self.audio_tower = AUDIO_TOWERS[config.audio_config.model_type]._from_config(config.audio_config)
        self.vision_projector = OmniVinciVisionProjector(config)
        self.audio_projector = OmniVinciAudioProjector(config)
        hidden_size = config.text_config.hidden_size
        self.video_time_embedding = build_time_embedding(config.video_time_embedding, hidden_size, "video")
        self.audio_time_embedding = build_time_embedding(config.audio_time_embedding, hidden_size, "audio")
        self.language_model = Qwen2Model._from_config(config.text_config)
        self.post_init()

    def get_input_embeddings(self):
        return self.language_model.get_input_embeddings()

    def set_input_embeddings(self, value):
        self.language_model.set_input_embeddings(value)

    def get_image_features(self, pixel_values: torch.Tensor, image_grids: torch.Tensor | None = None, **kwargs):
        """
        Args:
            pixel_values (`torch.Tensor` of shape `(num_tiles, 3, size, size)`): tiles of all images, in order.
            image_grids (`torch.Tensor` of shape `(num_images, 2)`): rows and columns of the tiles of each image's
                largest scale; 0 for an image of one tile, which all are by default.

        Returns:
            [`BaseModelOutputWithPooling`]: `last_hidden_state (num_tiles, patches, hidden_size)` of the tower and
            `pooler_output (num_embeds, hidden_size)`, what stands in the sequence.
        """
        features = self._encode_tiles(pixel_values)
        if image_grids is None:
            image_grids = torch.zeros(len(pixel_values), 2, dtype=torch.long)
        scales, side = self.config.s2_scales, features.shape[1]
        fixed = [(scale // scales[0],) * 2 for scale in scales[:-1]]
        grids = [[*fixed, (rows, columns)] if rows else [(1, 1)] for rows, columns in image_grids.tolist()]
        counts = [sum(rows * columns for rows, columns in grid) for grid in grids]
        if sum(counts) != len(features):
            raise ValueError(f"`image_grids` speaks of {sum(counts)} tiles but `pixel_values` has {len(features)}.")
        blocks, shapes = [], []
        for tiles, grid in zip(features.split(counts), grids, strict=True):
            if len(grid) == 1:
                blocks.append(tiles.repeat(1, 1, 1, len(scales)))
                shapes.append((1, 1))
            else:
                shapes.append(grid[self.config.s2_output_scale_index])
                blocks.append(merge_scales(tiles, grid, shapes[-1]))
        projected = self.vision_projector(torch.cat(blocks)).split([rows * columns for rows, columns in shapes])
        embeds = [stitch(tiles, *shape).flatten(0, 1) for tiles, shape in zip(projected, shapes, strict=True)]
        return BaseModelOutputWithPooling(
            last_hidden_state=features.view(len(features), side * side, -1), pooler_output=torch.cat(embeds)
        )

    def get_video_features(
        self,
        pixel_values_videos: torch.Tensor,
        video_num_frames: torch.Tensor,
        video_frame_times_ns: torch.Tensor,
        **kwargs,
    ):
        """
        Args:
            pixel_values_videos (`torch.Tensor` of shape `(num_frames, 3, size, size)`): frames of all videos.
            video_num_frames (`torch.Tensor` of shape `(num_videos,)`).
            video_frame_times_ns (`torch.Tensor` of shape `(num_frames,)`): moments in nanoseconds.

        Returns:
            [`BaseModelOutputWithPooling`]: `last_hidden_state (num_frames, patches, hidden_size)` of the tower and
            `pooler_output (num_embeds, hidden_size)`.
        """
        features = self._encode_tiles(pixel_values_videos)
        counts = video_num_frames.tolist()
        if not sum(counts) == len(features) == len(video_frame_times_ns):
            raise ValueError(
                f"`video_num_frames` speaks of {sum(counts)} frames, but `pixel_values_videos` has {len(features)} and "
                f"`video_frame_times_ns` {len(video_frame_times_ns)}."
            )
        maps = self.vision_projector(features.repeat(1, 1, 1, len(self.config.s2_scales)))
        times = video_frame_times_ns.to(maps.device).double() / 1e9
        embeds = []
        for video, moments in zip(maps.split(counts), times.split(counts), strict=True):
            for size in self.config.video_pool_sizes:
                pooled, pooled_times = pool_frames(video, moments, size)
                embeds.append(self.video_time_embedding(pooled.flatten(1, 2), pooled_times[:, None]).flatten(0, 1))
        return BaseModelOutputWithPooling(last_hidden_state=features.flatten(1, 2), pooler_output=torch.cat(embeds))

    def get_audio_features(
        self,
        input_features: torch.Tensor,
        audio_num_windows: torch.Tensor,
        audio_durations_ns: torch.Tensor,
        audio_num_embeds: torch.Tensor | None = None,
        **kwargs,
    ):
        """
        Args:
            input_features (`torch.Tensor` of shape `(num_windows, mel_bins, frames)`): windows of all sounds.
            audio_num_windows (`torch.Tensor` of shape `(num_sounds,)`).
            audio_durations_ns (`torch.Tensor` of shape `(num_sounds,)`): padded lengths in nanoseconds.
            audio_num_embeds (`torch.Tensor` of shape `(num_sounds,)`, *optional*): how many embeddings of each sound
                to keep, from its start. All by default.

        Returns:
            [`BaseModelOutputWithPooling`]: `last_hidden_state (num_windows, embeds, hidden_size)` of the tower and
            `pooler_output (num_embeds, hidden_size)`.
        """
        input_features = input_features.to(self.audio_projector.linear_2.bias.dtype)
        hidden_states = self.audio_tower(input_features).last_hidden_state
        windows = self.audio_projector(hidden_states)
        counts = audio_num_windows.tolist()
        if sum(counts) != len(windows):
            raise ValueError(
                f"`audio_num_windows` speaks of {sum(counts)} windows but `input_features` has {len(windows)}."
            )
        kept = [None] * len(counts) if audio_num_embeds is None else audio_num_embeds.tolist()
        embeds = []
        for sound, duration_ns, keep in zip(windows.split(counts), audio_durations_ns.tolist(), kept, strict=True):
            sound = sound.flatten(0, 1)[None]  # (1, embeds, hidden_size)
            steps = torch.arange(sound.shape[1], dtype=torch.float64, device=sound.device)
            # the released code computes the middle of each embedding in double and keeps it in single precision
            times = ((steps + 0.5) * (duration_ns / 1e9) / sound.shape[1]).float()
            embeds.append(self.audio_time_embedding(sound, times[None])[0, :keep])
        return BaseModelOutputWithPooling(last_hidden_state=hidden_states, pooler_output=torch.cat(embeds))

    def embed_inputs(
        self,
        input_ids: torch.Tensor,
        pixel_values: torch.Tensor | None = None,
        image_grids: torch.Tensor | None = None,
        pixel_values_videos: torch.Tensor | None = None,
        video_num_frames: torch.Tensor | None = None,
        video_frame_times_ns: torch.Tensor | None = None,
        input_features: torch.Tensor | None = None,
        audio_num_windows: torch.Tensor | None = None,
        audio_durations_ns: torch.Tensor | None = None,
        audio_num_embeds: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Word embeddings `(batch_size, seq_len, hidden_size)` with those of the media in their places.

        Raises:
            ValueError: when the placeholders of a modality do not match its embeddings in number.
        """
        features = {}
        if pixel_values is not None:
            features["image"] = self.get_image_features(pixel_values, image_grids)
        if pixel_values_videos is not None:
            _check_companions(video_num_frames=video_num_frames, video_frame_times_ns=video_frame_times_ns)
            features["video"] = self.get_video_features(pixel_values_videos, video_num_frames, video_frame_times_ns)
        if input_features is not None:
            _check_companions(audio_num_windows=audio_num_windows, audio_durations_ns=audio_durations_ns)
            features["audio"] = self.get_audio_features(
                input_features, audio_num_windows, audio_durations_ns, audio_num_embeds
            )
        inputs_embeds = self._embed_words(input_ids)
        for kind in ("image", "video", "audio"):
            mask = input_ids == getattr(self.config, f"{kind}_token_id")
            embeds = features[kind].pooler_output if kind in features else inputs_embeds[0, :0]
            _check_placeholders(kind, mask, len(embeds))
            if kind in features:
                embeds = embeds.to(inputs_embeds.device, inputs_embeds.dtype)
                inputs_embeds = inputs_embeds.masked_scatter(mask[..., None].to(inputs_embeds.device), embeds)
        return inputs_embeds

    @can_return_tuple
    def forward(
        self,
        input_ids: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        position_ids: torch.Tensor | None = None,
        past_key_values: Cache | None = None,
        inputs_embeds: torch.Tensor | None = None,
        use_cache: bool | None = None,
        pixel_values: torch.Tensor | None = None,
        image_grids: torch.Tensor | None = None,
        pixel_values_videos: torch.Tensor | None = None,
        video_num_frames: torch.Tensor | None = None,
        video_frame_times_ns: torch.Tensor | None = None,
        input_features: torch.Tensor | None = None,
        audio_num_windows: torch.Tensor | None = None,
        audio_durations_ns: torch.Tensor | None = None,
        audio_num_embeds: torch.Tensor | None = None,
        **kwargs,
    ) -> BaseModelOutputWithPast:
        """
        Media as in [`~OmniVinciModel.embed_inputs`], the rest as in `Qwen2Model`. With `inputs_embeds` no media may be
        given: they are in there already.
        """
        if (input_ids is None) == (inputs_embeds is None):
            raise ValueError("Give either `input_ids` or `inputs_embeds`, not both and not neither.")
        has_media = any(medium is not None for medium in (pixel_values, pixel_values_videos, input_features))
        if has_media and inputs_embeds is not None:
            raise ValueError("Media cannot be combined with `inputs_embeds`: use `embed_inputs` to put them there.")
        if inputs_embeds is None and not has_media and _is_continued(input_ids, past_key_values):
            # words that were generated; an untrained model may generate placeholders too
            inputs_embeds = self._embed_words(input_ids)
        if inputs_embeds is None:
            inputs_embeds = self.embed_inputs(
                input_ids,
                pixel_values,
                image_grids,
                pixel_values_videos,
                video_num_frames,
                video_frame_times_ns,
                input_features,
                audio_num_windows,
                audio_durations_ns,
                audio_num_embeds,
            )
        return self.language_model(
            attention_mask=attention_mask,
            position_ids=position_ids,
            past_key_values=past_key_values,
            inputs_embeds=inputs_embeds,
            use_cache=use_cache,
            return_dict=True,
            **kwargs,
        )

    def _embed_words(self, input_ids: torch.Tensor) -> torch.Tensor:
        # placeholder ids may lie outside a vocabulary that was not enlarged for them
        return self.get_input_embeddings()(input_ids.masked_fill(input_ids >= self.config.text_config.vocab_size, 0))

    def _encode_tiles(self, pixel_values: torch.Tensor) -> torch.Tensor:
        """`(tiles, 3, size, size)` to `(tiles, side, side, channels)`."""
        dtype = self.vision_projector.norm.weight.dtype
        features = self.vision_tower(pixel_values.to(dtype))
        side = math.isqrt(features.shape[1])
        return features.unflatten(1, (side, side))


class OmniVinciForConditionalGeneration(OmniVinciPreTrainedModel, GenerationMixin):
    """OmniVinci with its language-model head: what answers."""

    _tied_weights_keys = {"lm_head.weight": "model.language_model.embed_tokens.weight"}
    _tp_plan = {"lm_head": "colwise_gather_output"}

    def __init__(self, config: OmniVinciConfig):
        super().__init__(config)
        self.model = OmniVinciModel(config)
        self.lm_head = nn.Linear(config.text_config.hidden_size, config.text_config.vocab_size, bias=False)
        self.post_init()

    def add_remote_code_entries(self) -> None:
        """Note in the config where a machine without this package finds the classes, and the pipeline, of a folder."""
        # the import also tells Transformers to copy that file
        from .pipeline_omnivinci import OmniQAPipeline

        name = f"{__name__.split('.')[-1]}.{type(self).__name__}"
        pipeline = f"{OmniQAPipeline.__module__.split('.')[-1]}.{OmniQAPipeline.__name__}"
        self.config.auto_map = {
            "AutoConfig": f"{type(self.config).__module__.split('.')[-1]}.{type(self.config).__name__}",
            **dict.fromkeys(("AutoModel", "AutoModelForMultimodalLM", "AutoModelForImageTextToText"), name),
        }
        self.config.custom_pipelines = {"omni-qa": {"impl": pipeline, "pt": ["AutoModel"], "type": "multimodal"}}

    def save_pretrained(self, save_directory, **kwargs):
        """As [`PreTrainedModel.save_pretrained`]; the code goes along, so that the folder also loads without this
        package (`trust_remote_code=True`), `pipeline("omni-qa")` included.
        """
        self.add_remote_code_entries()
        super().save_pretrained(save_directory, **kwargs)

    def get_input_embeddings(self):
        return self.model.get_input_embeddings()

    def set_input_embeddings(self, value):
        self.model.set_input_embeddings(value)

    def get_output_embeddings(self):
        return self.lm_head

    def set_output_embeddings(self, value):
        self.lm_head = value

    def get_image_features(self, *args, **kwargs):
        return self.model.get_image_features(*args, **kwargs)

    def get_video_features(self, *args, **kwargs):
        return self.model.get_video_features(*args, **kwargs)

    def get_audio_features(self, *args, **kwargs):
        return self.model.get_audio_features(*args, **kwargs)

    @can_return_tuple
    def forward(
        self,
        input_ids: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        position_ids: torch.Tensor | None = None,
        past_key_values: Cache | None = None,
        inputs_embeds: torch.Tensor | None = None,
        labels: torch.Tensor | None = None,
        use_cache: bool | None = None,
        logits_to_keep: int | torch.Tensor = 0,
        pixel_values: torch.Tensor | None = None,
        image_grids: torch.Tensor | None = None,
        pixel_values_videos: torch.Tensor | None = None,
        video_num_frames: torch.Tensor | None = None,
        video_frame_times_ns: torch.Tensor | None = None,
        input_features: torch.Tensor | None = None,
        audio_num_windows: torch.Tensor | None = None,
        audio_durations_ns: torch.Tensor | None = None,
        audio_num_embeds: torch.Tensor | None = None,
        mm_token_type_ids: torch.Tensor | None = None,
        **kwargs,
    ) -> OmniVinciCausalLMOutputWithPast:
        """
        Args:
            labels (`torch.Tensor` of shape `(batch_size, seq_len)`, *optional*):
                Token ids to predict, -100 where there is no loss. Positions of media placeholders never count.
            logits_to_keep (`int` or `torch.Tensor`, defaults to 0):
                Compute logits, and the loss, for only so many last positions, or for these; 0 means all.
            mm_token_type_ids (`torch.Tensor` of shape `(batch_size, seq_len)`, *optional*):
                Taken because processors may return it; the ids say the same.
        """
        outputs = self.model(
            input_ids=input_ids,
            attention_mask=attention_mask,
            position_ids=position_ids,
            past_key_values=past_key_values,
            inputs_embeds=inputs_embeds,
            use_cache=use_cache,
            pixel_values=pixel_values,
            image_grids=image_grids,
            pixel_values_videos=pixel_values_videos,
            video_num_frames=video_num_frames,
            video_frame_times_ns=video_frame_times_ns,
            input_features=input_features,
            audio_num_windows=audio_num_windows,
            audio_durations_ns=audio_durations_ns,
            audio_num_embeds=audio_num_embeds,
            return_dict=True,
            **kwargs,
        )
        kept = slice(-logits_to_keep, None) if isinstance(logits_to_keep, int) else logits_to_keep
        logits = self.lm_head(outputs.last_hidden_state[:, kept])
        loss = None
        if labels is not None:
            if input_ids is not None:
                media_ids = [getattr(self.config, f"{kind}_token_id") for kind in ("image", "video", "audio")]
                is_media = torch.isin(input_ids, torch.tensor(media_ids, device=input_ids.device))
                labels = labels.masked_fill(is_media.to(labels.device), -100)
            labels = labels[:, kept]
            loss = self.loss_function(
                logits=logits, labels=labels, vocab_size=self.config.text_config.vocab_size, **kwargs
            )
        return OmniVinciCausalLMOutputWithPast(
            loss=loss,
            logits=logits,
            past_key_values=outputs.past_key_values,
            hidden_states=outputs.hidden_states,
            attentions=outputs.attentions,
        )

    def prepare_inputs_for_generation(
        self, input_ids, inputs_embeds=None, is_first_iteration=False, use_cache=True, **kwargs
    ):
        if not is_first_iteration and inputs_embeds is not None and not use_cache:
            # every step runs the whole sequence: the encoded prompt, then the words that were generated since
            words = self.get_input_embeddings()(input_ids[:, inputs_embeds.shape[1] :])
            inputs_embeds, is_first_iteration = torch.cat((inputs_embeds, words), dim=1), True
        inputs = super().prepare_inputs_for_generation(
            input_ids,
            inputs_embeds=inputs_embeds,
            is_first_iteration=is_first_iteration,
            use_cache=use_cache,
            **kwargs,
        )
        if not is_first_iteration and use_cache:
            # the media are in the cache
            inputs = {name: value for name, value in inputs.items() if name not in MEDIA_INPUTS}
        return inputs

    def _expand_inputs_for_generation(self, expand_size=1, is_encoder_decoder=False, input_ids=None, **model_kwargs):
        # media are flat over the batch and cannot be repeated row by row: encode them once, then repeat the result
        media = {name: model_kwargs.pop(name) for name in MEDIA_INPUTS if model_kwargs.get(name) is not None}
        if expand_size > 1 and media:
            model_kwargs["inputs_embeds"] = self.model.embed_inputs(input_ids, **media)
        else:
            model_kwargs.update(media)
        return super()._expand_inputs_for_generation(expand_size, is_encoder_decoder, input_ids, **model_kwargs)


def _is_continued(input_ids: torch.Tensor, past_key_values: Cache | None) -> bool:
    """Whether these ids follow others that are in the cache."""
    return past_key_values is not None and (input_ids.shape[1] == 1 or bool(past_key_values.get_seq_length()))


def _check_companions(**tensors: torch.Tensor | None) -> None:
    missing = [name for name, tensor in tensors.items() if tensor is None]
    if missing:
        raise ValueError(f"{missing} must be given too; the processor returns them together with the media.")


def _check_placeholders(kind: str, mask: torch.Tensor, num_embeds: int) -> None:
    num_placeholders = int(mask.sum())
    if num_placeholders != num_embeds:
        raise ValueError(
            f"`input_ids` has {num_placeholders} {kind} placeholders but the {kind} inputs give {num_embeds} "
            "embeddings; they must match. Were the ids truncated, or made by a processor with other options?"
        )
