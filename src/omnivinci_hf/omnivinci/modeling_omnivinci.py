"""This module holds the models of OmniVinci (arXiv 2510.15870): media encoder, Qwen2.5, and its head.

Media become embeddings in `media_encoder_omnivinci`; here these are written into those of the words, where placeholder
tokens stand.
"""

from collections.abc import Mapping
from typing import Any

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
    torch_compilable_check,
)

from .configuration_omnivinci import MODALITIES, OmniVinciConfig
from .generation_omnivinci import OmniVinciGenerationMixin, check_rows, context_length, refuse
from .media_encoder_omnivinci import (
    COUNTS,
    TENSORS,
    Encoding,
    OmniVinciMediaEncoder,
    kept_in_graph,
    numbers_of_shapes,
    read_numbers,
    whole_media_inputs,
)
from .omni_align_omnivinci import OmniAlignNet
from .outputs_omnivinci import (
    CACHE,
    MEDIA_INPUTS,
    PAIR_INPUTS,
    OmniEmbeddingsOutput,
    OmniVinciCausalLMOutputWithPast,
    OmniVinciMediaInputs,
    OmniVinciModelInputs,
    OmniVinciModelOutputWithPast,
    the_cache,
)
from .pretrained_omnivinci import OmniVinciPreTrainedModel


logger = logging.get_logger(__name__)
IGNORE_INDEX = -100
ONE_OF_TWO = "Give either `input_ids` or `inputs_embeds`, not both and not neither."
COUNTED_PLACEHOLDERS = (
    "`labels` hold placeholders of media, which the model does not predict, but the trainer has counted them in "
    "`num_items_in_batch`: the loss would be divided by far too much. Set labels to -100 where `input_ids` is "
    "`config.image_token_id`, `video_token_id` or `audio_token_id`, or let an OmniVinciDataCollator make them (TRL: "
    "`assistant_only_loss=True`, or rows of prompt and completion)."
)


class OmniVinciModel(OmniVinciMediaEncoder):
    """
    This is OmniVinci without its head: the media encoder, the language model and, if the config has one, OmniAlignNet.
    """

    has_language_model = True
    _keys_to_ignore_on_load_unexpected = None  # it takes all that it is given

    def build_parts(self, config: OmniVinciConfig) -> None:
        """Builds the media encoder's parts, the language model, and OmniAlignNet if the config has one."""
        super().build_parts(config)
        self.language_model = Qwen2Model._from_config(config.text_config)
        align_config, hidden_size = config.omni_align_config, config.text_config.hidden_size
        self.omni_align_net = None if align_config is None else OmniAlignNet(align_config, hidden_size)

    def get_input_embeddings(self):
        return self.language_model.get_input_embeddings()

    def set_input_embeddings(self, value):
        self.language_model.set_input_embeddings(value)

    def get_omni_embeddings(self, **inputs: Unpack[OmniVinciMediaInputs]) -> OmniEmbeddingsOutput:
        """Returns unit vectors for search across audio and picture, in the shared space of OmniAlignNet.

        Takes what the processor returns: one vector for each video and for each audio clip (those of videos included),
        in order; what has no part in it (words, images) is ignored.

        Raises:
            ValueError: when the model has no OmniAlignNet.
        """
        align_net = self._get_align_net()
        media = {name: inputs.get(name) for name in MEDIA_INPUTS}
        video = None if media[TENSORS["video"]] is None else self.project("video", media)
        audio = None if media[TENSORS["audio"]] is None else self.project("audio", media)
        return OmniEmbeddingsOutput(
            vision_embeds=None if video is None else align_net.vision(video),
            audio_embeds=None if audio is None else align_net.audio(audio),
        )

    def _get_align_net(self) -> OmniAlignNet:
        if self.omni_align_net is None:
            raise ValueError(
                "This model has no OmniAlignNet: load it with `from_pretrained(..., omni_align_config={})` and train."
            )
        return self.omni_align_net

    def _paired_embeddings(
        self,
        projected: Mapping[str, list[torch.Tensor]],
        video_has_audio: torch.Tensor | None,
        audio_from_video: torch.Tensor | None,
    ) -> OmniEmbeddingsOutput:
        """Returns the vectors of the clips that have both picture and audio; the others take no part."""
        align_net = self._get_align_net()
        clips, stand_ins = {}, {}
        for modality, mask in (("video", video_has_audio), ("audio", audio_from_video)):
            media = projected.get(modality, [])
            is_pair = [False] * len(media) if mask is None else mask.tolist()
            clips[modality] = [clip for clip, pair in zip(media, is_pair, strict=True) if pair]
            stand_ins[modality] = media[0][:1] if media else None
        if len(clips["video"]) != len(clips["audio"]):
            raise ValueError(
                f"`video_has_audio` speaks of {len(clips['video'])} clips but `audio_from_video` of "
                f"{len(clips['audio'])}; the processor returns the two together."
            )
        return OmniEmbeddingsOutput(
            vision_embeds=align_net.vision(clips["video"], stand_ins["video"]),
            audio_embeds=align_net.audio(clips["audio"], stand_ins["audio"]),
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
        past_key_values: Cache | None = None,
        **kwargs: Unpack[OmniVinciModelInputs],
    ) -> OmniVinciModelOutputWithPast:
        """
        Media are given as [`OmniVinciMediaInputs`] names them, and [`OmniVinciPairInputs`]; the rest is as in
        `Qwen2Model`. Media given with `inputs_embeds` take the places where these hold the embeddings of placeholder
        tokens.

        Args:
            past_key_values (`Cache`, *optional*): the name of `cache` before Transformers 5.24.

        Raises:
            ValueError: when media and placeholders do not match, or the inputs contradict each other.
        """
        if (input_ids is None) == (inputs_embeds is None):
            raise ValueError(ONE_OF_TWO)
        options: dict[str, Any] = {**kwargs, **the_cache(cache, past_key_values)}
        media = {name: options.pop(name, None) for name in MEDIA_INPUTS}
        video_has_audio, audio_from_video = (options.pop(name, None) for name in PAIR_INPUTS)
        if self.training and not _is_continued(input_ids, inputs_embeds, options[CACHE]):
            self.check_learned(input_ids, inputs_embeds, attention_mask, position_ids, has_media(media))
        is_aligned = self._is_aligned(video_has_audio)
        projected: dict[str, list[torch.Tensor]] = {}
        if not has_media(media):
            inputs_embeds = self._embed_words_alone(input_ids, inputs_embeds, options[CACHE])
        elif is_torchdynamo_exporting():
            inputs_embeds = self._embed_in_graph(input_ids, inputs_embeds, media)
        else:
            inputs_embeds, projected = self._embed(input_ids, inputs_embeds, media, keep_projected=is_aligned)
        outputs = self.language_model(
            attention_mask=self._full_mask(attention_mask, inputs_embeds),
            position_ids=position_ids,
            inputs_embeds=inputs_embeds,
            use_cache=use_cache,
            return_dict=True,
            **options,
        )
        omni_embeds = self._paired_embeddings(projected, video_has_audio, audio_from_video) if is_aligned else None
        return OmniVinciModelOutputWithPast(**outputs, omni_embeds=omni_embeds)

    def _is_aligned(self, video_has_audio: torch.Tensor | None) -> bool:
        """Says whether OmniAlignNet runs: in training on all processes or on none."""
        # a net that does not learn has no part in what others learn
        if self.omni_align_net is None or not self.omni_align_net.logit_scale.requires_grad:
            return False
        return (self.training or video_has_audio is not None) and not is_torchdynamo_exporting()

    # -- media among the words -----------------------------------------------------------------------------------

    def embed_inputs(
        self,
        input_ids: torch.Tensor | None = None,
        inputs_embeds: torch.Tensor | None = None,
        past_length: int = 0,
        **media: Unpack[OmniVinciMediaInputs],
    ) -> torch.Tensor:
        """Returns word embeddings `(batch_size, seq_len - past_length, hidden_size)` with the media in their places.

        Args:
            inputs_embeds (`torch.Tensor` of shape `(batch_size, seq_len, hidden_size)`, *optional*):
                In place of `input_ids`: embeddings of the words, and of the placeholder tokens where media shall stand.
            past_length (`int`, defaults to 0):
                So many first positions are in a cache and left out. Media that stand there may be given or not.
            media: see [`OmniVinciMediaInputs`].

        Raises:
            ValueError: when the placeholders of a modality do not match its embeddings in number.
        """
        return self._embed(input_ids, inputs_embeds, whole_media_inputs(media), past_length)[0]

    # sizes follow from what the inputs hold, and a compiler would stop at each: it takes the language model alone
    @torch.compiler.disable
    def _embed(
        self,
        input_ids: torch.Tensor | None,
        inputs_embeds: torch.Tensor | None,
        media: Mapping[str, Any],
        past_length: int = 0,
        keep_projected: bool = False,
    ) -> tuple[torch.Tensor, dict[str, list[torch.Tensor]]]:
        """Does as `embed_inputs`, and returns what OmniAlignNet reads of each video and audio clip, if wanted."""
        masks = {modality: self._placeholders(modality, input_ids, inputs_embeds) for modality in MODALITIES}
        encodings, places = self._match(media, masks, past_length)
        embeds = self._embed_words(input_ids) if inputs_embeds is None else inputs_embeds
        if encodings and inputs_embeds is not None and not torch.is_grad_enabled():
            embeds = embeds.clone()  # it is written to
        projected = {}
        for modality, encoding in encodings.items():
            embeds, projected[modality] = _write(encoding, embeds, places[modality], keep_projected)
        return embeds[:, past_length:] if past_length else embeds, projected

    def _match(
        self, media: Mapping[str, Any], masks: Mapping[str, torch.Tensor], past_length: int
    ) -> tuple[dict[str, Encoding], dict[str, torch.Tensor]]:
        """Checks media against their placeholders, and returns how each modality is encoded, and its positions."""
        new_masks = {modality: mask[:, past_length:] for modality, mask in masks.items()}
        counted = torch.stack([mask.sum() for mask in (*masks.values(), *new_masks.values())])
        numbers = read_numbers({**{name: media[name] for name in COUNTS}, "placeholders": counted})
        num_all, num_new = numbers["placeholders"][:3], numbers["placeholders"][3:]
        encodings: dict[str, Encoding] = {}
        places: dict[str, torch.Tensor] = {}
        for modality, total, new in zip(MODALITIES, num_all, num_new, strict=True):
            num_embeds = 0
            if media[TENSORS[modality]] is not None and (new or not past_length):
                encodings[modality] = self._encoding(modality, media, numbers)
                num_embeds = encodings[modality].num_embeds
            if num_embeds not in (total, new):  # what stands in the cache may be given again or not
                raise ValueError(
                    f"`input_ids` has {new} {modality} placeholders but the {modality} inputs give {num_embeds} "
                    "embeddings; they must match. Were the ids truncated, or made by a processor with other options?"
                )
            mask = masks[modality] if num_embeds == total else F.pad(new_masks[modality], (past_length, 0))
            places[modality] = _positions(mask.flatten(), num_embeds)
        return encodings, places

    def _embed_in_graph(
        self,
        input_ids: torch.Tensor | None,
        inputs_embeds: torch.Tensor | None,
        media: Mapping[str, Any],
    ) -> torch.Tensor:
        """Does as `embed_inputs` for `torch.export`, which knows shapes but not what tensors hold."""
        numbers = numbers_of_shapes(media)
        embeds = self._embed_words(input_ids) if inputs_embeds is None else inputs_embeds
        for modality in MODALITIES:
            if media[TENSORS[modality]] is None:
                continue
            # all are encoded, and those that do not count put last
            encoding = self._encoding(modality, {**media, "video_kept_embeds": None}, numbers)
            features = encoding.gather()[0].to(embeds.device, embeds.dtype)
            kept = kept_in_graph(modality, media, numbers, len(features)).to(embeds.device)
            mask = self._placeholders(modality, input_ids, inputs_embeds)
            torch_compilable_check(mask.sum() == kept.sum(), f"The {modality} placeholders do not match the inputs.")
            embeds = embeds.masked_scatter(mask[..., None], features[_positions(kept, len(kept))])
        return embeds

    def _embed_words_alone(
        self, input_ids: torch.Tensor | None, inputs_embeds: torch.Tensor | None, cache: Cache | None
    ) -> torch.Tensor:
        """Embeds a batch without media, and warns where its ids have placeholders of some."""
        if inputs_embeds is not None:
            return inputs_embeds
        # words that were generated may hold placeholders too, if the model is untrained
        is_checked = self.training or is_torchdynamo_compiling() or _is_continued(input_ids, None, cache)
        if not is_checked and (missing := self._missing(input_ids)):
            logger.warning_once(
                f"{missing}: they are read as mere words. Pass on everything that the processor returned."
            )
        return self._embed_words(input_ids)

    def _embed_words(self, input_ids: torch.Tensor | None) -> torch.Tensor:
        """Embeds token ids, also those of placeholders that lie outside of the vocabulary."""
        if input_ids is None:
            raise ValueError(ONE_OF_TWO)
        vocab_size = self.config.text_config.vocab_size
        if max(getattr(self.config, f"{modality}_token_id") for modality in MODALITIES) >= vocab_size:
            # outside a vocabulary that was not enlarged for them
            input_ids = input_ids.masked_fill(input_ids >= vocab_size, 0)
        return self.get_input_embeddings()(input_ids)

    def _placeholders(
        self, modality: str, input_ids: torch.Tensor | None, inputs_embeds: torch.Tensor | None
    ) -> torch.Tensor:
        """Finds where the embeddings of a modality belong, `(batch_size, seq_len)`."""
        token_id = getattr(self.config, f"{modality}_token_id")
        if inputs_embeds is None:
            return input_ids == token_id
        if token_id >= self.config.text_config.vocab_size:
            return torch.zeros(inputs_embeds.shape[:2], dtype=torch.bool, device=inputs_embeds.device)
        token = self.get_input_embeddings()(torch.full((1,), token_id, device=inputs_embeds.device))
        return (inputs_embeds == token).all(-1)

    # -- checks --------------------------------------------------------------------------------------------------

    def _full_mask(self, mask: torch.Tensor | None, inputs_embeds: torch.Tensor) -> torch.Tensor | None:
        """Turns a boolean mask `(batch_size, 1, length, length)` into what the attention implementation takes."""
        if not isinstance(mask, torch.Tensor) or mask.ndim != 4 or mask.dtype != torch.bool:
            return mask
        implementation = self.language_model.config._attn_implementation
        if implementation not in ("sdpa", "eager"):
            raise ValueError(f"Masks of four dimensions need attention 'sdpa' or 'eager', not {implementation!r}.")
        if implementation == "sdpa":
            return mask
        return inputs_embeds.new_zeros(()).masked_fill(~mask, torch.finfo(inputs_embeds.dtype).min)

    def check_learned(
        self,
        input_ids: torch.Tensor | None,
        inputs_embeds: torch.Tensor | None,
        attention_mask: torch.Tensor | None,
        position_ids: torch.Tensor | None,
        has_media: bool,
    ) -> None:
        """Checks that what is learned from, or measured against labels, is whole.

        Raises:
            ValueError: when a row is longer than the context, or when placeholders are given without any media.
        """
        length = _num_positions(input_ids, inputs_embeds)
        check_rows(length, context_length(self.config.text_config), attention_mask, position_ids)
        if has_media:
            return
        if is_torchdynamo_compiling():
            masks = [self._placeholders(modality, input_ids, inputs_embeds) for modality in MODALITIES]
            refuse(torch.stack(masks).any(), "`input_ids` has placeholders of media but no media were given.")
        elif missing := self._missing(input_ids, inputs_embeds):
            raise ValueError(
                f"{missing}, so that the model would learn from words alone: they were lost between the processor and "
                "the model. A trainer must pass on everything that the processor returns "
                "(`remove_unused_columns=False`); where its own collator does not, as TRL's do of images alone, give "
                "it an OmniVinciDataCollator."
            )

    def _missing(self, input_ids: torch.Tensor | None, inputs_embeds: torch.Tensor | None = None) -> str:
        """Says which media have placeholders; "" for none."""
        masks = torch.stack([self._placeholders(modality, input_ids, inputs_embeds).any() for modality in MODALITIES])
        missing = [modality for modality, is_there in zip(MODALITIES, masks.tolist(), strict=True) if is_there]
        lost = [TENSORS[modality] for modality in missing]
        return f"`input_ids` has placeholders of {missing} but no media were given ({lost})" if missing else ""


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
        """Notes in the config where the code of the classes and of the pipeline lies in a saved folder."""
        # the import also tells Transformers to copy that file
        from .pipeline_omnivinci import OmniQAPipeline

        pipeline = f"{OmniQAPipeline.__module__.split('.')[-1]}.{OmniQAPipeline.__name__}"
        config_class: Any = type(self.config)
        self.config.auto_map = {**config_class.auto_map}
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
        """Does as [`OmniVinciMediaEncoder.get_image_features`]."""
        return self.model.get_image_features(*args, **kwargs)

    def get_video_features(self, *args, **kwargs):
        """Does as [`OmniVinciMediaEncoder.get_video_features`]."""
        return self.model.get_video_features(*args, **kwargs)

    def get_audio_features(self, *args, **kwargs):
        """Does as [`OmniVinciMediaEncoder.get_audio_features`]."""
        return self.model.get_audio_features(*args, **kwargs)

    def get_omni_embeddings(self, *args, **kwargs) -> OmniEmbeddingsOutput:
        """Does as [`OmniVinciModel.get_omni_embeddings`]."""
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
        Takes the media as [`OmniVinciMediaInputs`] and [`OmniVinciPairInputs`] describe them, one by one because
        `generate` and trainers read this signature.

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
        media: OmniVinciMediaInputs = {
            "pixel_values": pixel_values,
            "image_grids": image_grids,
            "pixel_values_videos": pixel_values_videos,
            "video_num_frames": video_num_frames,
            "video_frame_times_ns": video_frame_times_ns,
            "video_kept_embeds": video_kept_embeds,
            "input_features": input_features,
            "audio_num_windows": audio_num_windows,
            "audio_durations_ns": audio_durations_ns,
            "audio_num_embeds": audio_num_embeds,
        }
        targets = self._targets(labels, kwargs.pop("shift_labels", None), kwargs.get("num_items_in_batch"))
        if targets is not None:
            if use_cache is None:
                use_cache = False  # with one, packed rows would not be told apart
            # the model looks in training alone, and not where a cache comes along, as in prefix tuning
            self.model.check_learned(input_ids, inputs_embeds, attention_mask, position_ids, has_media(media))
        outputs = self.model(
            input_ids=input_ids,
            attention_mask=attention_mask,
            position_ids=position_ids,
            cache=cache,
            past_key_values=past_key_values,
            inputs_embeds=inputs_embeds,
            use_cache=use_cache,
            video_has_audio=video_has_audio,
            audio_from_video=audio_from_video,
            return_dict=True,
            **media,
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
        losses: dict[str, Any] = {} if targets is None else self._losses(logits, targets, outputs.omni_embeds, **kwargs)
        return OmniVinciCausalLMOutputWithPast(
            **losses,
            logits=logits,
            **{CACHE: outputs.get(CACHE)},
            hidden_states=outputs.hidden_states,
            attentions=outputs.attentions,
        )

    def _targets(self, labels, shift_labels, num_items_in_batch) -> torch.Tensor | None:
        """Returns what each position shall predict, `(batch_size, seq_len)`, -100 for nothing; None without labels."""
        if labels is None and shift_labels is None:
            return None
        targets = F.pad(labels, (0, 1), value=IGNORE_INDEX)[:, 1:] if shift_labels is None else shift_labels
        placeholders = [targets == getattr(self.config, f"{modality}_token_id") for modality in MODALITIES]
        is_medium = torch.stack(placeholders).any(0)
        if num_items_in_batch is not None:
            refuse(is_medium.any(), COUNTED_PLACEHOLDERS)
        return targets.masked_fill(is_medium, IGNORE_INDEX)

    def _losses(self, logits, targets, omni_embeds, num_items_in_batch=None, **kwargs) -> dict[str, torch.Tensor]:
        """Returns the language loss of logits that shall predict `targets`, that of OmniAlignNet, and their sum.

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


def has_media(inputs: Mapping[str, Any]) -> bool:
    """Says whether there are media among the inputs."""
    return any(inputs.get(name) is not None for name in TENSORS.values())


def _num_positions(input_ids: torch.Tensor | None, inputs_embeds: torch.Tensor | None) -> int:
    """Returns how many positions each row has."""
    inputs = input_ids if inputs_embeds is None else inputs_embeds
    if inputs is None:
        raise ValueError(ONE_OF_TWO)
    return inputs.shape[1]


def _is_continued(input_ids: torch.Tensor | None, inputs_embeds: torch.Tensor | None, cache: Cache | None) -> bool:
    """Says whether these ids or embeddings follow others that are in the cache."""
    return cache is not None and (_num_positions(input_ids, inputs_embeds) == 1 or bool(cache.get_seq_length()))


def _write(
    encoding: Encoding, embeds: torch.Tensor, places: torch.Tensor, keep_projected: bool
) -> tuple[torch.Tensor, list[torch.Tensor]]:
    """Writes media into `embeds (batch_size, seq_len, hidden_size)`, in place unless gradients are wanted.

    Returns them, and what was projected of each medium if that is wanted of videos or audio clips.
    """
    keep_projected = keep_projected and encoding.modality != "image"
    flat = embeds.flatten(0, 1)
    places = places.to(flat.device)
    if torch.is_grad_enabled():
        gathered, projected = encoding.gather(keep_projected=keep_projected)
        flat = flat.index_copy(0, places, gathered.to(flat.device, flat.dtype))
        return flat.view(embeds.shape), projected
    kept = []
    for block in encoding.blocks():
        where = places[block.first : block.first + len(block.embeds)]
        flat.index_copy_(0, where, block.embeds.to(flat.device, flat.dtype))
        if keep_projected:
            kept.append(block.without_embeds())
    return flat.view(embeds.shape), encoding.join_projected(kept) if keep_projected else []


def _positions(mask: torch.Tensor, count: int) -> torch.Tensor:
    """Finds where `mask (length,)` is True, in order, `(count,)`; unlike `nonzero` without waiting for the device."""
    # of those that are not True, all are written behind the end
    slots = torch.where(mask, mask.cumsum(0) - 1, count)
    positions = torch.arange(len(mask), device=mask.device)
    return torch.zeros(count + 1, dtype=torch.long, device=mask.device).scatter_(0, slots, positions)[:count]
