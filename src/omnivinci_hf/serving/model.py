"""This module holds the model that vLLM runs: OmniVinci's media encoder, and vLLM's own Qwen2."""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import torch
from torch import nn
from vllm.model_executor.models.interfaces import SupportsLoRA, SupportsMultiModal, SupportsPP
from vllm.model_executor.models.module_mapping import MultiModelKeys
from vllm.model_executor.models.utils import (
    AutoWeightsLoader,
    WeightsMapper,
    init_vllm_registered_model,
    maybe_prefix,
)
from vllm.multimodal import MULTIMODAL_REGISTRY

from ..omnivinci.checkpoint_files_omnivinci import is_original_checkpoint
from ..omnivinci.configuration_omnivinci import MEDIA_TOKENS, MODALITIES
from ..omnivinci.media_encoder_omnivinci import (
    COUNTS,
    OmniVinciMediaEncoder,
    read_numbers,
    whole_media_inputs,
)
from ..original_layout.weights import OriginalStateDict
from .processing import FIELDS, OmniVinciDummyInputs, OmniVinciInfo, OmniVinciServingProcessor
from .tokenizer import hub_options


@MULTIMODAL_REGISTRY.register_processor(
    OmniVinciServingProcessor, info=OmniVinciInfo, dummy_inputs=OmniVinciDummyInputs
)
class OmniVinciVLLMModel(nn.Module, SupportsMultiModal, SupportsPP, SupportsLoRA):
    """This model gives media the embeddings of [`OmniVinciMediaEncoder`], and has vLLM's Qwen2 for the sequence.

    Under tensor parallelism the language model is split, and each process has the whole media encoder. LoRA is applied
    to the language model alone.
    """

    hf_to_vllm_mapper = WeightsMapper(
        orig_to_new_prefix={
            "model.omni_align_net.": None,  # is for training
            "lm_head.": "language_model.lm_head.",
            "model.language_model.": "language_model.model.",
            "model.": "media_encoder.",
        }
    )
    packed_modules_mapping = {"qkv_proj": ["q_proj", "k_proj", "v_proj"], "gate_up_proj": ["gate_proj", "up_proj"]}

    @classmethod
    def get_placeholder_str(cls, modality: str, i: int) -> str | None:
        """Returns the placeholder of a modality."""
        return MEDIA_TOKENS[f"{modality}_token_id"]

    def __init__(self, *, vllm_config: Any, prefix: str = ""):
        super().__init__()
        settings = vllm_config.model_config
        self.config = settings.hf_config
        self.place = (settings.model, hub_options(vllm_config))
        with self._mark_tower_model(vllm_config, set(MODALITIES)):  # type: ignore[operator]  # of a base that is vLLM's
            self.media_encoder = OmniVinciMediaEncoder(self.config).eval()
        with self._mark_language_model(vllm_config):  # type: ignore[operator]
            self.language_model = init_vllm_registered_model(
                vllm_config=vllm_config,
                hf_config=self.config.text_config,
                prefix=maybe_prefix(prefix, "language_model"),
                architectures=["Qwen2ForCausalLM"],
            )
        self.make_empty_intermediate_tensors = self.language_model.make_empty_intermediate_tensors

    def load_weights(self, weights: Iterable[tuple[str, torch.Tensor]]) -> set[str]:
        """Loads the weights of either layout; vLLM finds those of the original one, in folders, not itself."""
        if is_original_checkpoint(*self.place):
            weights = _original_weights(*self.place)
        return AutoWeightsLoader(self).load_weights(weights, mapper=self.hf_to_vllm_mapper)

    def get_mm_mapping(self) -> MultiModelKeys:
        """Tells the parts of the model apart."""
        return MultiModelKeys.from_string_field(
            language_model="language_model",
            connector=["media_encoder.vision_projector", "media_encoder.audio_projector"],
            tower_model=["media_encoder.vision_tower", "media_encoder.audio_tower"],
        )

    def embed_multimodal(self, **kwargs: Any) -> list[torch.Tensor]:
        """Returns the embeddings `(num_embeds, hidden_size)` of each medium, those of a video's audio among its own.

        Each medium runs alone, so that its embeddings are the same whatever runs beside it.
        """
        embeds = []
        for modality, names in FIELDS.items():
            ids_of_media = kwargs.get(f"{modality}_ids")
            for index in range(0 if ids_of_media is None else len(ids_of_media)):
                medium = {name: kwargs[name][index] for name in names}
                embeds.append(self._embed(modality, medium))
        return embeds

    def _embed(self, modality: str, medium: Mapping[str, torch.Tensor]) -> torch.Tensor:
        if modality == "image":
            inputs = {"pixel_values": medium["pixel_values"], "image_grids": [medium["image_grids"].tolist()]}
            return self._run("image", inputs)
        if modality == "audio":
            return self._run("audio", _audio_inputs(medium, "audio"))
        kept = medium["video_kept_embeds"]
        frames = self._run(
            "video",
            {
                "pixel_values_videos": medium["pixel_values_videos"],
                "video_num_frames": [len(medium["pixel_values_videos"])],
                "video_frame_times_ns": medium["video_frame_times_ns"],
                "video_kept_embeds": kept if len(kept) else None,
            },
        )
        if not len(medium["video_audio_features"]):
            return frames
        audio = self._run("audio", _audio_inputs(medium, "video_audio"))
        ids = medium["video_ids"].cpu()
        ids = ids[(ids == self.config.video_token_id) | (ids == self.config.audio_token_id)]
        is_frame = (ids == self.config.video_token_id).to(frames.device)
        assert int(is_frame.sum()) == len(frames) and len(ids) == len(frames) + len(audio)
        embeds = frames.new_empty(len(ids), frames.shape[1])
        embeds[is_frame], embeds[~is_frame] = frames, audio
        return embeds

    def _run(self, modality: str, inputs: dict[str, Any]) -> torch.Tensor:
        """Runs the media encoder for one medium; nothing of the tower's own output is kept."""
        media = whole_media_inputs(inputs)
        encoding = self.media_encoder._encoding(modality, media, read_numbers({name: media[name] for name in COUNTS}))
        return encoding.gather()[0]

    def forward(
        self,
        input_ids: torch.Tensor | None,
        positions: torch.Tensor,
        intermediate_tensors: Any = None,
        inputs_embeds: torch.Tensor | None = None,
        **kwargs: Any,
    ) -> Any:
        """Runs the language model over a batch of sequences that vLLM has packed."""
        if intermediate_tensors is not None:
            inputs_embeds = None
        return self.language_model.model(input_ids, positions, intermediate_tensors, inputs_embeds=inputs_embeds)

    def compute_logits(self, hidden_states: torch.Tensor) -> torch.Tensor | None:
        """Returns the logits of the next tokens."""
        return self.language_model.compute_logits(hidden_states)


def _audio_inputs(medium: Mapping[str, torch.Tensor], prefix: str) -> dict[str, Any]:
    features = medium[f"{prefix}_features"]
    num_windows, duration_ns, num_embeds = medium[f"{prefix}_numbers"].tolist()
    return {
        "input_features": features,
        "audio_num_windows": [num_windows],
        "audio_durations_ns": torch.tensor([duration_ns], device=features.device),
        "audio_num_embeds": [num_embeds],
    }


def _original_weights(name_or_path: str, options: Mapping[str, Any]) -> Iterator[tuple[str, torch.Tensor]]:
    """Reads the tensors of the original layout one by one."""
    for name, tensor in OriginalStateDict(name_or_path, options).items():
        yield name, tensor[:]
