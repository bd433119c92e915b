"""OmniVinci: SigLIP vision, Audio Flamingo 3 / Qwen2-Audio hearing, and Qwen2.5 (arXiv 2510.15870)."""

import torch
import torch.nn.functional as F
from torch import nn
from transformers import Qwen2Model
from transformers.cache_utils import Cache
from transformers.processing_utils import Unpack
from transformers.utils import (
    TransformersKwargs,
    can_return_tuple,
    is_torchdynamo_compiling,
    is_torchdynamo_exporting,
    logging,
)

from .configuration_omnivinci import MEDIA_INPUTS, MODALITIES, OmniVinciConfig
from .encoders_omnivinci import AUDIO_TOWERS, OmniVinciAudioProjector, OmniVinciVisionProjector, OmniVinciVisionTower
from .generation_omnivinci import OmniVinciGenerationMixin, check_rows, context_length, refuse
from .media_encoder_omnivinci import TENSORS, OmniVinciMediaMixin
from .omni_align_omnivinci import OmniAlignNet
from .outputs_omnivinci import (
    CACHE,
    OmniEmbeddingsOutput,
    OmniVinciCausalLMOutputWithPast,
    OmniVinciModelOutputWithPast,
    the_cache,
)
from .pretrained_omnivinci import OmniVinciPreTrainedModel
from .time_embedding_omnivinci import build_time_embedding


logger = logging.get_logger(__name__)
IGNORE_INDEX = -100
COUNTED_PLACEHOLDERS = (
    "`labels` hold placeholders of media, which the model does not predict, but the trainer has counted them in "
    "`num_items_in_batch`: the loss would be divided by far too much. Set labels to -100 where `input_ids` is "
    "`config.image_token_id`, `video_token_id` or `audio_token_id`, or let an OmniVinciDataCollator make them (TRL: "
    "`assistant_only_loss=True`, or rows of prompt and completion)."
)


class OmniVinciModel(OmniVinciMediaMixin, OmniVinciPreTrainedModel):
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
        self.omni_align_net = config.omni_align_config and OmniAlignNet(config.omni_align_config, hidden_size)
        self.post_init()

    def train(self, mode: bool = True):
        """As [`nn.Module.train`], but towers that learn nothing stay in evaluation mode."""
        super().train(mode)
        for tower in (self.vision_tower, self.audio_tower):
            if not any(parameter.requires_grad for parameter in tower.parameters()):
                tower.eval()
        return self

    def get_input_embeddings(self):
        return self.language_model.get_input_embeddings()

    def set_input_embeddings(self, value):
        self.language_model.set_input_embeddings(value)

    def get_omni_embeddings(
        self,
        pixel_values_videos: torch.Tensor | None = None,
        video_num_frames: torch.Tensor | None = None,
        video_frame_times_ns: torch.Tensor | None = None,
        input_features: torch.Tensor | None = None,
        audio_num_windows: torch.Tensor | None = None,
        audio_durations_ns: torch.Tensor | None = None,
        audio_num_embeds: torch.Tensor | None = None,
        **kwargs,
    ) -> OmniEmbeddingsOutput:
        """Unit vectors for search across sound and picture, in the shared space of OmniAlignNet.

        Takes what the processor returns: one vector for each video and for each sound (those of videos included), in
        order; what has no part in it (words, images) is ignored.

        Raises:
            ValueError: when the model has no OmniAlignNet.
        """
        if self.omni_align_net is None:
            raise ValueError(
                "This model has no OmniAlignNet: load it with `from_pretrained(..., omni_align_config={})` and train."
            )
        media = {
            "pixel_values_videos": pixel_values_videos,
            "video_num_frames": video_num_frames,
            "video_frame_times_ns": video_frame_times_ns,
            "input_features": input_features,
            "audio_num_windows": audio_num_windows,
            "audio_durations_ns": audio_durations_ns,
            "audio_num_embeds": audio_num_embeds,
        }
        projected = self._project(media)
        video, audio = projected.get("video"), projected.get("audio")
        return OmniEmbeddingsOutput(
            vision_embeds=None if video is None else self.omni_align_net.vision(video),
            audio_embeds=None if audio is None else self.omni_align_net.audio(audio),
        )

    def _paired_embeddings(self, found, video_has_audio, audio_from_video) -> OmniEmbeddingsOutput:
        """Of the clips that have both picture and sound; the others take no part."""
        clips, stand_ins = {}, {}
        for kind, taken in (("video", video_has_audio), ("audio", audio_from_video)):
            projected = found.get(kind, ())
            taken = [False] * len(projected) if taken is None else taken.tolist()
            clips[kind] = [clip for clip, pair in zip(projected, taken, strict=True) if pair]
            stand_ins[kind] = projected[0][:1] if projected else None
        if len(clips["video"]) != len(clips["audio"]):
            raise ValueError(
                f"`video_has_audio` speaks of {len(clips['video'])} clips but `audio_from_video` of "
                f"{len(clips['audio'])}; the processor returns the two together."
            )
        return OmniEmbeddingsOutput(
            vision_embeds=self.omni_align_net.vision(clips["video"], stand_ins["video"]),
            audio_embeds=self.omni_align_net.audio(clips["audio"], stand_ins["audio"]),
        )

    @can_return_tuple
    def forward(
        self,
        input_ids: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        position_ids: torch.Tensor | None = None,
        cache: Cache | None = None,
        inputs_embeds: torch.Tensor | None = None,
        use_cache: bool | None = None,
        pixel_values: torch.Tensor | None = None,
        image_grids: torch.Tensor | None = None,
        pixel_values_videos: torch.Tensor | None = None,
        video_num_frames: torch.Tensor | None = None,
        video_frame_times_ns: torch.Tensor | None = None,
        video_kept_embeds: torch.Tensor | None = None,
        input_features: torch.Tensor | None = None,
        audio_num_windows: torch.Tensor | None = None,
        audio_durations_ns: torch.Tensor | None = None,
        audio_num_embeds: torch.Tensor | None = None,
        video_has_audio: torch.Tensor | None = None,
        audio_from_video: torch.Tensor | None = None,
        past_key_values: Cache | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> OmniVinciModelOutputWithPast:
        """
        Media as in the `get_..._features`, the rest as in `Qwen2Model`. Media given with `inputs_embeds` take the
        places where these hold the embeddings of placeholder tokens.

        Args:
            video_has_audio (`torch.BoolTensor` of shape `(num_videos,)`, *optional*), audio_from_video
            (`torch.BoolTensor` of shape `(num_sounds,)`, *optional*): which videos and which sounds, in the same
                order, are clips of both; OmniAlignNet's pairs.
            past_key_values (`Cache`, *optional*): the name of `cache` before Transformers 5.24.
        """
        kwargs.update(the_cache(cache, past_key_values))
        if (input_ids is None) == (inputs_embeds is None):
            raise ValueError("Give either `input_ids` or `inputs_embeds`, not both and not neither.")
        align_net, projected = self.omni_align_net, None
        # in training, all processes must take part or none; a net that does not learn has no part in what others learn
        learns = align_net is not None and align_net.logit_scale.requires_grad
        if learns and (self.training or video_has_audio is not None) and not is_torchdynamo_exporting():
            projected = {}
        tensors = (
            *(pixel_values, image_grids),
            *(pixel_values_videos, video_num_frames, video_frame_times_ns, video_kept_embeds),
            *(input_features, audio_num_windows, audio_durations_ns, audio_num_embeds),
        )
        has_media = any(medium is not None for medium in (pixel_values, pixel_values_videos, input_features))
        if self.training and not _is_continued(input_ids if inputs_embeds is None else inputs_embeds, kwargs[CACHE]):
            self.check_learned(input_ids, inputs_embeds, attention_mask, position_ids, has_media)
        if has_media:
            media = dict(zip(MEDIA_INPUTS, tensors, strict=True))
            if is_torchdynamo_exporting():
                inputs_embeds = self._embed_in_graph(input_ids, inputs_embeds, media)
            else:
                inputs_embeds = self._embed(input_ids, inputs_embeds, media, projected=projected)
        elif inputs_embeds is None:
            # words that were generated may hold placeholders too, if the model is untrained
            told = self.training or is_torchdynamo_compiling() or _is_continued(input_ids, kwargs[CACHE])
            if not told and (missing := self._missing(input_ids)):
                logger.warning_once(
                    f"{missing}: they are read as mere words. Pass on everything that the processor returned."
                )
            inputs_embeds = self._embed_words(input_ids)
        if isinstance(attention_mask, torch.Tensor) and attention_mask.ndim == 4 and attention_mask.dtype == torch.bool:
            attention_mask = self._full_mask(attention_mask, inputs_embeds)
        outputs = self.language_model(
            attention_mask=attention_mask,
            position_ids=position_ids,
            inputs_embeds=inputs_embeds,
            use_cache=use_cache,
            return_dict=True,
            **kwargs,
        )
        omni_embeds = None
        if projected is not None:
            omni_embeds = self._paired_embeddings(projected, video_has_audio, audio_from_video)
        return OmniVinciModelOutputWithPast(**outputs, omni_embeds=omni_embeds)

    def _full_mask(self, mask: torch.Tensor, inputs_embeds: torch.Tensor) -> torch.Tensor:
        """A boolean mask `(batch_size, 1, length, length)` as the attention implementation takes it."""
        implementation = self.language_model.config._attn_implementation
        if implementation not in ("sdpa", "eager"):
            raise ValueError(f"Masks of four dimensions need attention 'sdpa' or 'eager', not {implementation!r}.")
        if implementation == "sdpa":
            return mask
        return inputs_embeds.new_zeros(()).masked_fill(~mask, torch.finfo(inputs_embeds.dtype).min)

    def check_learned(self, input_ids, inputs_embeds, attention_mask, position_ids, has_media: bool) -> None:
        """What is learned from, or measured against labels, must be whole.

        Raises:
            ValueError: when a row is longer than the context, or when placeholders are given without any media.
        """
        length = (input_ids if inputs_embeds is None else inputs_embeds).shape[1]
        check_rows(length, context_length(self.config.text_config), attention_mask, position_ids)
        if has_media:
            return
        if is_torchdynamo_compiling():
            found = torch.stack([self._placeholders(kind, input_ids, inputs_embeds) for kind in MODALITIES]).any()
            refuse(found, "`input_ids` has placeholders of media but no media were given.")
        elif missing := self._missing(input_ids, inputs_embeds):
            raise ValueError(
                f"{missing}, so that the model would learn from words alone: they were lost between the processor and "
                "the model. A trainer must pass on everything that the processor returns "
                "(`remove_unused_columns=False`); where its own collator does not, as TRL's do of images alone, give "
                "it an OmniVinciDataCollator."
            )

    def _missing(self, input_ids: torch.Tensor | None, inputs_embeds: torch.Tensor | None = None) -> str:
        """Says which media have placeholders; "" for none."""
        masks = torch.stack([self._placeholders(kind, input_ids, inputs_embeds).any() for kind in MODALITIES])
        kinds = [kind for kind, found in zip(MODALITIES, masks.tolist(), strict=True) if found]
        lost = [TENSORS[kind] for kind in kinds]
        return f"`input_ids` has placeholders of {kinds} but no media were given ({lost})" if kinds else ""


class OmniVinciForConditionalGeneration(OmniVinciPreTrainedModel, OmniVinciGenerationMixin):
    """
    This is OmniVinci with its language-model head, which answers.

    `torch.compile` makes one graph of the language model; media are encoded before it, outside of any graph, so that
    `fullgraph=True` takes words alone. `torch.export` takes media, but not OmniAlignNet's pairs; `image_grids` of
    images of several tiles, and counts that differ from medium to medium, are given to it as lists.
    """

    _tied_weights_keys = {"lm_head.weight": "model.language_model.embed_tokens.weight"}
    _tp_plan = {"lm_head": "colwise_gather_output"}

    def __init__(self, config: OmniVinciConfig):
        super().__init__(config)
        self.model = OmniVinciModel(config)
        self.lm_head = nn.Linear(config.text_config.hidden_size, config.text_config.vocab_size, bias=False)
        self.post_init()

    def add_remote_code_entries(self) -> None:
        # the import also tells Transformers to copy that file
        from .pipeline_omnivinci import OmniQAPipeline

        pipeline = f"{OmniQAPipeline.__module__.split('.')[-1]}.{OmniQAPipeline.__name__}"
        self.config.auto_map = {**type(self.config).auto_map}
        self.config.custom_pipelines = {"omni-qa": {"impl": pipeline, "pt": ["AutoModel"], "type": "multimodal"}}

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

    def get_omni_embeddings(self, *args, **kwargs) -> OmniEmbeddingsOutput:
        return self.model.get_omni_embeddings(*args, **kwargs)

    @can_return_tuple
    def forward(
        self,
        input_ids: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        position_ids: torch.Tensor | None = None,
        cache: Cache | None = None,
        inputs_embeds: torch.Tensor | None = None,
        labels: torch.Tensor | None = None,
        use_cache: bool | None = None,
        logits_to_keep: int | torch.Tensor = 0,
        pixel_values: torch.Tensor | None = None,
        image_grids: torch.Tensor | None = None,
        pixel_values_videos: torch.Tensor | None = None,
        video_num_frames: torch.Tensor | None = None,
        video_frame_times_ns: torch.Tensor | None = None,
        video_kept_embeds: torch.Tensor | None = None,
        input_features: torch.Tensor | None = None,
        audio_num_windows: torch.Tensor | None = None,
        audio_durations_ns: torch.Tensor | None = None,
        audio_num_embeds: torch.Tensor | None = None,
        video_has_audio: torch.Tensor | None = None,
        audio_from_video: torch.Tensor | None = None,
        mm_token_type_ids: torch.Tensor | None = None,
        only_needed_logits: bool = False,
        past_key_values: Cache | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> OmniVinciCausalLMOutputWithPast:
        """
        Args:
            labels (`torch.Tensor` of shape `(batch_size, seq_len)`, *optional*):
                Token ids to predict, -100 where there is no loss. Placeholders of media are never learned: without
                `num_items_in_batch` they are skipped, with it they are an error, as somebody has counted them.
            shift_labels (`torch.Tensor` of shape `(batch_size, seq_len)`, *optional*):
                In place of `labels`: what each position shall predict, already shifted by one.
            logits_to_keep (`int` or `torch.Tensor`, defaults to 0):
                Compute logits, and the loss, for only so many last positions, or for these; 0 means all.
            only_needed_logits (`bool`, defaults to False):
                In training, compute only the logits that `labels` are compared with: `(num_labels, vocab_size)`, row
                by row. Most positions are media, and logits of all of them would take most of the memory. In
                evaluation they are `(batch_size, seq_len, vocab_size)` all the same: trainers gather them by rows.
            mm_token_type_ids (`torch.Tensor` of shape `(batch_size, seq_len)`, *optional*):
                Taken because processors may return it; the ids say the same.
            past_key_values (`Cache`, *optional*): the name of `cache` before Transformers 5.24.
        """
        targets = self._targets(labels, kwargs.pop("shift_labels", None), kwargs.get("num_items_in_batch"))
        if targets is not None:
            if use_cache is None:
                use_cache = False  # with one, packed rows would not be told apart
            # the model looks in training alone, and not where a cache comes along, as in prefix tuning
            has_media = any(medium is not None for medium in (pixel_values, pixel_values_videos, input_features))
            self.model.check_learned(input_ids, inputs_embeds, attention_mask, position_ids, has_media)
        outputs = self.model(
            input_ids=input_ids,
            attention_mask=attention_mask,
            position_ids=position_ids,
            cache=cache,
            past_key_values=past_key_values,
            inputs_embeds=inputs_embeds,
            use_cache=use_cache,
            pixel_values=pixel_values,
            image_grids=image_grids,
            pixel_values_videos=pixel_values_videos,
            video_num_frames=video_num_frames,
            video_frame_times_ns=video_frame_times_ns,
            video_kept_embeds=video_kept_embeds,
            input_features=input_features,
            audio_num_windows=audio_num_windows,
            audio_durations_ns=audio_durations_ns,
            audio_num_embeds=audio_num_embeds,
            video_has_audio=video_has_audio,
            audio_from_video=audio_from_video,
            return_dict=True,
            **kwargs,
        )
        hidden_states = outputs.last_hidden_state
        kept = slice(-logits_to_keep, None) if isinstance(logits_to_keep, int) else logits_to_keep
        hidden_states = hidden_states[:, kept]
        targets = None if targets is None else targets[:, kept].contiguous()
        if only_needed_logits and self.training and targets is not None:
            counts = targets != IGNORE_INDEX
            hidden_states, targets = hidden_states[counts.to(hidden_states.device)], targets[counts]
        logits = self.lm_head(hidden_states)
        losses = {} if targets is None else self._losses(logits, targets, outputs.omni_embeds, **kwargs)
        return OmniVinciCausalLMOutputWithPast(
            **losses,
            logits=logits,
            **{CACHE: outputs.get(CACHE)},
            hidden_states=outputs.hidden_states,
            attentions=outputs.attentions,
        )

    def _targets(self, labels, shift_labels, num_items_in_batch) -> torch.Tensor | None:
        """What each position shall predict, `(batch_size, seq_len)`, -100 for nothing; None without labels."""
        if labels is None and shift_labels is None:
            return None
        targets = F.pad(labels, (0, 1), value=IGNORE_INDEX)[:, 1:] if shift_labels is None else shift_labels
        is_medium = sum(targets == getattr(self.config, f"{kind}_token_id") for kind in MODALITIES).bool()
        if num_items_in_batch is not None:
            refuse(is_medium.any(), COUNTED_PLACEHOLDERS)
        return targets.masked_fill(is_medium, IGNORE_INDEX)

    def _losses(self, logits, targets, omni_embeds, num_items_in_batch=None, **kwargs) -> dict[str, torch.Tensor]:
        """The language loss of logits that shall predict `targets`, that of OmniAlignNet, and what is trained.

        Where a step has several batches, `num_items_in_batch` counts the labels of all and the losses of the batches
        are summed up: OmniAlignNet's then counts by the share of labels that the batch has.
        """
        num_items = (targets != IGNORE_INDEX).sum()
        # a batch without any label gives zero
        total = num_items if num_items_in_batch is None else torch.as_tensor(num_items_in_batch, device=targets.device)
        total = total.clamp(min=1)
        loss = language_loss = self.loss_function(
            logits=logits,
            labels=None,
            shift_labels=targets,
            vocab_size=self.config.text_config.vocab_size,
            num_items_in_batch=total,
            **kwargs,
        )
        if omni_embeds is None:
            return {"loss": loss, "language_loss": language_loss}
        align_net = self.model.omni_align_net
        omni_align_loss = align_net.loss(omni_embeds.vision_embeds, omni_embeds.audio_embeds)
        share = 1.0 if num_items_in_batch is None else (num_items / total).to(omni_align_loss.device)
        loss = language_loss + (align_net.config.loss_weight * share * omni_align_loss).to(language_loss.device)
        return {"loss": loss, "language_loss": language_loss, "omni_align_loss": omni_align_loss}


def _is_continued(inputs: torch.Tensor, cache: Cache | None) -> bool:
    """Whether these ids or embeddings follow others that are in the cache."""
    return cache is not None and (inputs.shape[1] == 1 or bool(cache.get_seq_length()))
