"""OmniVinci: SigLIP vision, Audio Flamingo 3 / Qwen2-Audio hearing, and Qwen2.5 (arXiv 2510.15870)."""

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import nn
from transformers import Qwen2Model
from transformers.cache_utils import Cache
from transformers.modeling_outputs import BaseModelOutput
from transformers.utils import can_return_tuple, is_torchdynamo_compiling, logging

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
from .generation_omnivinci import OmniVinciGenerationMixin
from .omni_align_omnivinci import OmniAlignNet
from .outputs_omnivinci import (
    OmniEmbeddingsOutput,
    OmniVinciCausalLMOutputWithPast,
    OmniVinciFeaturesOutput,
    OmniVinciModelOutputWithPast,
)
from .pretrained_omnivinci import OmniVinciPreTrainedModel
from .time_embedding_omnivinci import build_time_embedding


logger = logging.get_logger(__name__)
NO_LABEL = -100


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

    @can_return_tuple
    def get_image_features(self, pixel_values: torch.Tensor, image_grids: torch.Tensor | None = None, **kwargs):
        """
        Args:
            pixel_values (`torch.Tensor` of shape `(num_tiles, 3, size, size)`): tiles of all images, in order.
            image_grids (`torch.Tensor` of shape `(num_images, 2)`): rows and columns of the tiles of each image's
                largest scale; 0 for an image of one tile, which all are by default.
            kwargs: `output_hidden_states`, `output_attentions`: also those of all layers of the tower.

        Returns:
            [`OmniVinciFeaturesOutput`]: `last_hidden_state (num_tiles, patches, hidden_size)` of the tower and
            `pooler_output (num_embeds, hidden_size)`, what stands in the sequence.
        """
        output = self._encode_tiles(pixel_values, **kwargs)
        features = _as_squares(output.last_hidden_state)
        if image_grids is None:
            image_grids = torch.zeros(len(pixel_values), 2, dtype=torch.long)
        scales = self.config.s2_scales
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
        return _with_embeds(output, embeds)

    @can_return_tuple
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
            kwargs: `output_hidden_states`, `output_attentions`: also those of all layers of the tower.

        Returns:
            [`OmniVinciFeaturesOutput`]: `last_hidden_state (num_frames, patches, hidden_size)` of the tower,
            `pooler_output (num_embeds, hidden_size)`, and `projected`.
        """
        output = self._encode_tiles(pixel_values_videos, **kwargs)
        features = _as_squares(output.last_hidden_state)
        counts = video_num_frames.tolist()
        if not sum(counts) == len(features) == len(video_frame_times_ns):
            raise ValueError(
                f"`video_num_frames` speaks of {sum(counts)} frames, but `pixel_values_videos` has {len(features)} and "
                f"`video_frame_times_ns` {len(video_frame_times_ns)}."
            )
        maps = self.vision_projector(features.repeat(1, 1, 1, len(self.config.s2_scales)))
        times = video_frame_times_ns.to(maps.device).double() / 1e9
        embeds, projected = [], []
        for video, moments in zip(maps.split(counts), times.split(counts), strict=True):
            pools = [pool_frames(video, moments, size) for size in self.config.video_pool_sizes]
            if self.omni_align_net is not None:
                projected.append(torch.cat([pooled.flatten(0, 2) for pooled, _ in pools]))
            for pooled, pooled_times in pools:
                embeds.append(self.video_time_embedding(pooled.flatten(1, 2), pooled_times[:, None]).flatten(0, 1))
        return _with_embeds(output, embeds, projected)

    @can_return_tuple
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
            kwargs: `output_hidden_states`, `output_attentions`: also those of all layers of the tower.

        Returns:
            [`OmniVinciFeaturesOutput`]: `last_hidden_state (num_windows, embeds, hidden_size)` of the tower,
            `pooler_output (num_embeds, hidden_size)`, and `projected`.
        """
        input_features = input_features.to(self.audio_tower.dtype)
        output = self.audio_tower(input_features, return_dict=True, **kwargs)
        windows = self.audio_projector(output.last_hidden_state)
        counts = audio_num_windows.tolist()
        if sum(counts) != len(windows):
            raise ValueError(
                f"`audio_num_windows` speaks of {sum(counts)} windows but `input_features` has {len(windows)}."
            )
        kept = [None] * len(counts) if audio_num_embeds is None else audio_num_embeds.tolist()
        embeds, projected = [], []
        for sound, duration_ns, keep in zip(windows.split(counts), audio_durations_ns.tolist(), kept, strict=True):
            sound = sound.flatten(0, 1)[None]  # (1, embeds, hidden_size)
            steps = torch.arange(sound.shape[1], dtype=torch.float64, device=sound.device)
            # the released code computes the middle of each embedding in double and keeps it in single precision
            times = ((steps + 0.5) * (duration_ns / 1e9) / sound.shape[1]).float()
            embeds.append(self.audio_time_embedding(sound, times[None])[0, :keep])
            if self.omni_align_net is not None:
                projected.append(sound[0, :keep])
        return _with_embeds(output, embeds, projected)

    def embed_inputs(
        self,
        input_ids: torch.Tensor | None = None,
        pixel_values: torch.Tensor | None = None,
        image_grids: torch.Tensor | None = None,
        pixel_values_videos: torch.Tensor | None = None,
        video_num_frames: torch.Tensor | None = None,
        video_frame_times_ns: torch.Tensor | None = None,
        input_features: torch.Tensor | None = None,
        audio_num_windows: torch.Tensor | None = None,
        audio_durations_ns: torch.Tensor | None = None,
        audio_num_embeds: torch.Tensor | None = None,
        inputs_embeds: torch.Tensor | None = None,
        past_length: int = 0,
    ) -> torch.Tensor:
        """Word embeddings `(batch_size, seq_len - past_length, hidden_size)` with those of the media in their places.

        Args:
            inputs_embeds (`torch.Tensor` of shape `(batch_size, seq_len, hidden_size)`, *optional*):
                In place of `input_ids`: embeddings of the words, and of the placeholder tokens where media shall stand.
            past_length (`int`, defaults to 0):
                So many first positions are in a cache and left out. Media that stand there may be given or not.

        Raises:
            ValueError: when the placeholders of a modality do not match its embeddings in number.
        """
        masks = {kind: self._placeholders(kind, input_ids, inputs_embeds) for kind in ("image", "video", "audio")}
        wanted = {kind for kind, mask in masks.items() if not past_length or bool(mask[:, past_length:].any())}
        features = self._encode_media(
            pixel_values if "image" in wanted else None,
            image_grids,
            pixel_values_videos if "video" in wanted else None,
            video_num_frames,
            video_frame_times_ns,
            input_features if "audio" in wanted else None,
            audio_num_windows,
            audio_durations_ns,
            audio_num_embeds,
        )
        if inputs_embeds is None:
            inputs_embeds = self._embed_words(input_ids)
        return self._place(features, masks, inputs_embeds, past_length)

    def _encode_media(
        self,
        pixel_values,
        image_grids,
        pixel_values_videos,
        video_num_frames,
        video_frame_times_ns,
        input_features,
        audio_num_windows,
        audio_durations_ns,
        audio_num_embeds,
    ) -> dict[str, OmniVinciFeaturesOutput]:
        """The features of each kind of media that is given."""
        features = {}
        if pixel_values is not None:
            features["image"] = self.get_image_features(pixel_values, image_grids, return_dict=True)
        if pixel_values_videos is not None:
            _check_companions(video_num_frames=video_num_frames, video_frame_times_ns=video_frame_times_ns)
            features["video"] = self.get_video_features(
                pixel_values_videos, video_num_frames, video_frame_times_ns, return_dict=True
            )
        if input_features is not None:
            _check_companions(audio_num_windows=audio_num_windows, audio_durations_ns=audio_durations_ns)
            features["audio"] = self.get_audio_features(
                input_features, audio_num_windows, audio_durations_ns, audio_num_embeds, return_dict=True
            )
        return features

    def _place(self, features, masks, inputs_embeds: torch.Tensor, past_length: int = 0) -> torch.Tensor:
        """Put the features of each kind where its mask `(batch_size, seq_len)` is True."""
        inputs_embeds = inputs_embeds[:, past_length:]
        for kind, mask in masks.items():
            embeds = features[kind].pooler_output if kind in features else inputs_embeds[0, :0]
            if past_length and len(embeds) == mask.sum():
                embeds = embeds[(mask.nonzero()[:, 1] >= past_length).to(embeds.device)]
            mask = mask[:, past_length:]
            _check_placeholders(kind, mask, len(embeds))
            if kind in features:
                embeds = embeds.to(inputs_embeds.device, inputs_embeds.dtype)
                inputs_embeds = inputs_embeds.masked_scatter(mask[..., None].to(inputs_embeds.device), embeds)
        return inputs_embeds

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
        features = self._encode_media(
            None,
            None,
            pixel_values_videos,
            video_num_frames,
            video_frame_times_ns,
            input_features,
            audio_num_windows,
            audio_durations_ns,
            audio_num_embeds,
        )
        video, audio = features.get("video"), features.get("audio")
        return OmniEmbeddingsOutput(
            vision_embeds=None if video is None else self.omni_align_net.vision(video.projected),
            audio_embeds=None if audio is None else self.omni_align_net.audio(audio.projected),
        )

    def _paired_embeddings(self, features, video_has_audio, audio_from_video) -> OmniEmbeddingsOutput:
        """Of the clips that have both picture and sound; the others take no part."""
        clips, stand_ins = {}, {}
        for kind, taken in (("video", video_has_audio), ("audio", audio_from_video)):
            projected = features[kind].projected if kind in features else ()
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
        video_has_audio: torch.Tensor | None = None,
        audio_from_video: torch.Tensor | None = None,
        **kwargs,
    ) -> OmniVinciModelOutputWithPast:
        """
        Media as in the `get_..._features`, the rest as in `Qwen2Model`. Media given with `inputs_embeds` take the
        places where these hold the embeddings of placeholder tokens.

        Args:
            video_has_audio (`torch.BoolTensor` of shape `(num_videos,)`, *optional*), audio_from_video
            (`torch.BoolTensor` of shape `(num_sounds,)`, *optional*): which videos and which sounds, in the same
                order, are clips of both; OmniAlignNet's pairs.
        """
        if (input_ids is None) == (inputs_embeds is None):
            raise ValueError("Give either `input_ids` or `inputs_embeds`, not both and not neither.")
        has_media = any(medium is not None for medium in (pixel_values, pixel_values_videos, input_features))
        features = {}
        if has_media:
            masks = {kind: self._placeholders(kind, input_ids, inputs_embeds) for kind in ("image", "video", "audio")}
            features = self._encode_media(
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
            words = self._embed_words(input_ids) if inputs_embeds is None else inputs_embeds
            inputs_embeds = self._place(features, masks, words)
        elif inputs_embeds is None:
            # words that were generated may hold placeholders too, if the model is untrained
            if not is_torchdynamo_compiling() and not _is_continued(input_ids, past_key_values):
                self._warn_of_missing_media(input_ids)
            inputs_embeds = self._embed_words(input_ids)
        if isinstance(attention_mask, torch.Tensor) and attention_mask.ndim == 4 and attention_mask.dtype == torch.bool:
            attention_mask = self._full_mask(attention_mask, inputs_embeds)
        outputs = self.language_model(
            attention_mask=attention_mask,
            position_ids=position_ids,
            past_key_values=past_key_values,
            inputs_embeds=inputs_embeds,
            use_cache=use_cache,
            return_dict=True,
            **kwargs,
        )
        omni_embeds, align_net = None, self.omni_align_net
        # in training, all processes must take part or none; a net that does not learn has no part in what others learn
        learns = align_net is not None and align_net.logit_scale.requires_grad
        if learns and (self.training or video_has_audio is not None):
            omni_embeds = self._paired_embeddings(features, video_has_audio, audio_from_video)
        return OmniVinciModelOutputWithPast(**outputs, omni_embeds=omni_embeds)

    def _full_mask(self, mask: torch.Tensor, inputs_embeds: torch.Tensor) -> torch.Tensor:
        """A boolean mask `(batch_size, 1, length, length)` as the attention implementation takes it."""
        implementation = self.language_model.config._attn_implementation
        if implementation not in ("sdpa", "eager"):
            raise ValueError(f"Masks of four dimensions need attention 'sdpa' or 'eager', not {implementation!r}.")
        if implementation == "sdpa":
            return mask
        return inputs_embeds.new_zeros(()).masked_fill(~mask, torch.finfo(inputs_embeds.dtype).min)

    def _warn_of_missing_media(self, input_ids: torch.Tensor) -> None:
        kinds = [kind for kind in ("image", "video", "audio") if self._placeholders(kind, input_ids, None).any()]
        if kinds:
            logger.warning_once(
                f"`input_ids` has placeholders of {kinds} but no media were given: they are read as mere words. Pass "
                "on everything that the processor returned."
            )

    def _embed_words(self, input_ids: torch.Tensor) -> torch.Tensor:
        # placeholder ids may lie outside a vocabulary that was not enlarged for them
        return self.get_input_embeddings()(input_ids.masked_fill(input_ids >= self.config.text_config.vocab_size, 0))

    def _placeholders(
        self, kind: str, input_ids: torch.Tensor | None, inputs_embeds: torch.Tensor | None
    ) -> torch.Tensor:
        """Where the embeddings of a modality belong, `(batch_size, seq_len)`."""
        token_id = getattr(self.config, f"{kind}_token_id")
        if inputs_embeds is None:
            return input_ids == token_id
        if token_id >= self.config.text_config.vocab_size:
            return torch.zeros(inputs_embeds.shape[:2], dtype=torch.bool, device=inputs_embeds.device)
        token = self.get_input_embeddings()(torch.tensor([token_id], device=inputs_embeds.device))
        return (inputs_embeds == token).all(-1)

    def _encode_tiles(self, pixel_values: torch.Tensor, **kwargs) -> BaseModelOutput:
        return self.vision_tower(pixel_values.to(self.vision_tower.dtype), return_dict=True, **kwargs)


class OmniVinciForConditionalGeneration(OmniVinciPreTrainedModel, OmniVinciGenerationMixin):
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

    def get_omni_embeddings(self, *args, **kwargs) -> OmniEmbeddingsOutput:
        return self.model.get_omni_embeddings(*args, **kwargs)

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
        video_has_audio: torch.Tensor | None = None,
        audio_from_video: torch.Tensor | None = None,
        mm_token_type_ids: torch.Tensor | None = None,
        only_needed_logits: bool = False,
        **kwargs,
    ) -> OmniVinciCausalLMOutputWithPast:
        """
        Args:
            labels (`torch.Tensor` of shape `(batch_size, seq_len)`, *optional*):
                Token ids to predict, -100 where there is no loss. Positions of media placeholders never count.
            logits_to_keep (`int` or `torch.Tensor`, defaults to 0):
                Compute logits, and the loss, for only so many last positions, or for these; 0 means all.
            only_needed_logits (`bool`, defaults to False):
                Compute only the logits that `labels` are compared with: `(num_labels, vocab_size)`, row by row. In
                training most positions are media, and logits of all of them would take most of the memory.
            mm_token_type_ids (`torch.Tensor` of shape `(batch_size, seq_len)`, *optional*):
                Taken because processors may return it; the ids say the same.
        """
        if use_cache is None and labels is not None:
            use_cache = False  # with one, packed rows would not be told apart
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
            video_has_audio=video_has_audio,
            audio_from_video=audio_from_video,
            return_dict=True,
            **kwargs,
        )
        hidden_states = outputs.last_hidden_state
        if labels is not None and input_ids is not None:
            media_ids = [getattr(self.config, f"{kind}_token_id") for kind in ("image", "video", "audio")]
            is_media = torch.isin(input_ids, torch.tensor(media_ids, device=input_ids.device))
            labels = labels.masked_fill(is_media.to(labels.device), NO_LABEL)
        if only_needed_logits and labels is not None:
            predicted = labels[:, 1:]
            counts = predicted != NO_LABEL
            hidden_states, targets = hidden_states[:, :-1][counts.to(hidden_states.device)], predicted[counts]
        else:
            kept = slice(-logits_to_keep, None) if isinstance(logits_to_keep, int) else logits_to_keep
            hidden_states = hidden_states[:, kept]
            targets = None if labels is None else F.pad(labels, (0, 1), value=NO_LABEL)[:, 1:][:, kept].contiguous()
        logits = self.lm_head(hidden_states)
        losses = {} if targets is None else self._losses(logits, targets, outputs.omni_embeds, **kwargs)
        return OmniVinciCausalLMOutputWithPast(
            **losses,
            logits=logits,
            past_key_values=outputs.past_key_values,
            hidden_states=outputs.hidden_states,
            attentions=outputs.attentions,
        )

    def _losses(self, logits, targets, omni_embeds, num_items_in_batch=None, **kwargs) -> dict[str, torch.Tensor]:
        """The language loss of logits that shall predict `targets`, that of OmniAlignNet, and what is trained.

        Where a step has several batches, `num_items_in_batch` counts the labels of all and the losses of the batches
        are summed up: OmniAlignNet's then counts by the share of labels that the batch has.
        """
        num_items = (targets != NO_LABEL).sum()
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


def _as_squares(features: torch.Tensor) -> torch.Tensor:
    """`(tiles, patches, channels)` to `(tiles, side, side, channels)`."""
    side = math.isqrt(features.shape[1])
    return features.unflatten(1, (side, side))


def _with_embeds(
    output: BaseModelOutput, embeds: list[torch.Tensor], projected: Sequence[torch.Tensor] = ()
) -> OmniVinciFeaturesOutput:
    """A tower's output and what became of it: the embeddings of all media."""
    return OmniVinciFeaturesOutput(
        last_hidden_state=output.last_hidden_state,
        pooler_output=torch.cat(embeds),
        hidden_states=output.hidden_states,
        attentions=output.attentions,
        projected=tuple(projected) or None,
    )


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
