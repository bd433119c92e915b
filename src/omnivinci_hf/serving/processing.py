"""This module has vLLM's steps before the model: what OmniVinci takes, dummy media, and the processor's call.

Each medium is encoded alone by the processor, so that what is kept of it holds whatever stands around it in a prompt.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import fields
from typing import Any

import numpy as np
import torch
from PIL import Image
from transformers.feature_extraction_utils import BatchFeature
from vllm.multimodal.hasher import MultiModalHasher
from vllm.multimodal.inputs import MultiModalFieldConfig
from vllm.multimodal.processing import (
    BaseDummyInputsBuilder,
    BaseMultiModalProcessor,
    BaseProcessingInfo,
    PromptReplacement,
    PromptUpdateDetails,
)
from vllm.utils.cache import LRUCache

from ..omnivinci.configuration_omnivinci import MODALITIES
from ..omnivinci.conversation_omnivinci import MediaPart
from ..omnivinci.media_reading_omnivinci import MediaError, MediaLimits
from ..omnivinci.processing_omnivinci import EncodedMedium, OmniVinciProcessor
from .connector import refuse_io_options
from .media import MediaParser, ServedMedium
from .options import check_request_options, check_server_options, in_words_of_a_server, options_of_modality
from .plugin import MODE
from .tokenizer import load_processor


# What the model reads of a medium, by modality; `ids` are those that stand in the place of its placeholder. The audio
# of a video is part of the video: `video_audio_features` has no windows for a silent one.
FIELDS = {
    "image": ("pixel_values", "image_grids", "image_ids"),
    "video": (
        *("pixel_values_videos", "video_frame_times_ns", "video_kept_embeds", "video_ids"),
        *("video_audio_features", "video_audio_numbers"),
    ),
    "audio": ("audio_features", "audio_numbers", "audio_ids"),
}


NUM_UUIDS = 1 << 16  # that a server remembers


class OmniVinciInfo(BaseProcessingInfo):
    """This class says what media OmniVinci takes in vLLM, and with which options."""

    def __init__(self, ctx: Any):
        super().__init__(ctx)
        settings = ctx.model_config
        mm_config = ctx.get_mm_config()
        if settings.tokenizer_mode != MODE:
            raise ValueError(
                f"OmniVinci needs --tokenizer-mode {MODE} (in Python `tokenizer_mode={MODE!r}`), which loads its "
                "tokenizer and chat template; `omnivinci-hf serve` sets it."
            )
        self.server_options = check_server_options(mm_config.mm_processor_kwargs)
        refuse_io_options(mm_config.media_io_kwargs)
        if mm_config.enable_mm_embeds:
            raise ValueError("--enable-mm-embeds is not supported: the embeddings of media would have no times.")
        if self.get_hf_processor().use_modality_boundary_tokens:
            raise ValueError(
                "A checkpoint with `use_modality_boundary_tokens`=True cannot be served: where these tokens stand "
                "depends on the other media of a prompt, and vLLM keeps each medium alone. Use `generate`."
            )

    def get_hf_processor(self, **kwargs: Any) -> OmniVinciProcessor:
        """Returns the processor of the checkpoint; the options come with each call of it."""
        settings = self.ctx.model_config
        return load_processor(settings.model, settings.revision)

    def get_supported_mm_limits(self) -> Mapping[str, int | None]:
        """Returns that a prompt has any number of media."""
        return dict.fromkeys(MODALITIES)

    def get_data_parser(self) -> MediaParser:
        """Returns what takes the media of a prompt."""
        return MediaParser()

    def get_default_tok_params(self) -> Any:
        """Returns that no tokens are put around a prompt: the chat template has them."""
        return super().get_default_tok_params().with_kwargs(add_special_tokens=False)

    def get_mm_max_tokens_per_item(self, seq_len: int, mm_counts: Mapping[str, int]) -> Mapping[str, int]:
        """Returns the most tokens that one medium can have: requests choose how long videos and audio are, so these
        may fill the context, which bounds all.
        """
        most = {"image": min(seq_len, len(self.image_ids(self.most_tiles(seq_len))))}
        return {modality: most.get(modality, seq_len) for modality in mm_counts}

    def most_tiles(self, seq_len: int) -> int:
        """Returns how many tiles an image can have at its largest scale, 0 if it is not cut; it fits the context."""
        images = self.get_hf_processor().image_processor
        if len(images.s2_scales) == 1:
            return 0
        counts = range(images.max_tiles, 0, -1)
        return next((count for count in counts if len(self.image_ids(count)) <= seq_len), 0)

    def image_ids(self, num_tiles: int) -> np.ndarray:
        """Returns the ids of an image with a row of so many tiles, or with a single tile for 0."""
        return self.get_hf_processor().layout_rules.image((1, num_tiles) if num_tiles else (0, 0)).ids

    def options_of(self, medium: ServedMedium, request: Mapping[str, Any]) -> Mapping[str, Any]:
        """Returns the options that encoding a medium obeys."""
        if medium.options is not None:
            return medium.options
        return options_of_modality(medium.modality, self.server_options, check_request_options(request))

    def encode(self, medium: ServedMedium, options: Mapping[str, Any]) -> EncodedMedium:
        """Encodes one medium."""
        return self.get_hf_processor().encode_medium(medium.modality, medium.source, tile=medium.tile, **options)


class OmniVinciDummyInputs(BaseDummyInputsBuilder):
    """This class makes the largest media that a prompt can have, with which vLLM measures memory."""

    def get_dummy_text(self, mm_counts: Mapping[str, int]) -> str:
        """Writes a prompt of placeholders alone."""
        processor = self.info.get_hf_processor()
        return "".join(getattr(processor, f"{modality}_token") * count for modality, count in mm_counts.items())

    def get_dummy_mm_data(self, seq_len: int, mm_counts: Mapping[str, int], mm_options: Any) -> dict[str, Any]:
        """Makes media that fill a context of `seq_len` tokens, if a single one can within the limits of the server."""
        makers = {"image": self._image, "video": self._video, "audio": self._audio}
        without = {"media_limits": {limit.name: math.inf for limit in fields(MediaLimits)}}
        dummies: dict[str, Any] = {}
        for modality, count in mm_counts.items():
            options = {**without, "max_audio_sec": self._max_audio_sec()} if modality == "audio" else without
            tile = True if modality == "image" else None
            dummies[modality] = [ServedMedium(modality, makers[modality](seq_len), tile, "", options)] * count
        return {modality: media for modality, media in dummies.items() if media}

    def _limits(self) -> MediaLimits:
        return MediaLimits.of(self.info.server_options.get("media_limits"))

    def _max_audio_sec(self) -> float | None:
        """Returns where audio is cut off, which no request can change."""
        return self.info.server_options.get("max_audio_sec", self.info.get_hf_processor().max_audio_sec)

    def _image(self, seq_len: int) -> Any:
        side = self.info.get_hf_processor().image_processor.size
        return Image.new("RGB", (side * max(1, self.info.most_tiles(seq_len)), side))

    def _video(self, seq_len: int) -> Any:
        processor = self.info.get_hf_processor()
        side = processor.video_processor.size
        # frames that are pooled take less
        per_frame = len(processor.encode_medium("video", _frames(1, side), load_audio_from_video=False).layout.ids)
        num_frames = max(1, min(seq_len // per_frame, math.floor(min(seq_len, self._limits().max_frames))))
        return _frames(num_frames, side)

    def _audio(self, seq_len: int) -> Any:
        extractor = self.info.get_hf_processor().feature_extractor
        rules = self.info.get_hf_processor().layout_rules
        per_window = extractor.window_frames // 4 // rules.audio_merge_size
        window_samples = extractor.window_frames * extractor.hop_length
        limit = min(self._max_audio_sec() or math.inf, self._limits().max_audio_sec)
        most = max(1, seq_len // per_window) * window_samples
        samples = max(1, math.floor(min(most, limit * extractor.sampling_rate)))
        return (np.zeros(samples, dtype=np.float32), extractor.sampling_rate)


def _media_of(inputs: Any) -> Iterator[tuple[str, Any, int, str | None]]:
    """Yields the media of a prompt: modality, all items of it, the index of the medium, its UUID."""
    uuids = inputs.mm_uuid_items or {}
    for modality, items in inputs.mm_data_items.items():
        for index, uuid in enumerate(uuids.get(modality) or [None] * len(items)):
            yield modality, items, index, uuid


def _unknown_uuid(name: str) -> MediaError:
    return MediaError(
        f"The server does not have the {name} by its `uuid` alone; it has one with the same options, and for an image "
        "alone or among others as before, until its cache is full: send it again."
    )


def _frames(num_frames: int, side: int) -> MediaPart:
    """Makes a video of black frames, all of which are taken."""
    frames = np.zeros((num_frames, side, side, 3), dtype=np.uint8)
    return MediaPart("video", frames, {"video_metadata": {"fps": 1.0}, "num_frames": num_frames})


class OmniVinciServingProcessor(BaseMultiModalProcessor):
    """This processor encodes each medium alone, and says which ids stand in its place."""

    def __init__(self, *args: Any, **kwargs: Any):
        super().__init__(*args, **kwargs)
        # a medium by its UUID alone -> its key, which is of its bytes too
        self._keys: LRUCache[str, str] = LRUCache(NUM_UUIDS)

    def apply(self, inputs: Any, timing_ctx: Any) -> Any:
        """Encodes the media of a prompt, and puts their ids into it."""
        try:
            encoded = super().apply(inputs, timing_ctx)
        except ValueError as error:
            if "but data is not provided" in str(error):  # the cache has let it go
                raise _unknown_uuid("medium") from error
            raise
        self._remember(inputs, encoded["mm_hashes"])
        return encoded

    def _get_mm_hashes(self, inputs: Any) -> dict[str, list[str]]:
        """Names each medium by its bytes and its UUID, by its options, and by whether it is cut into tiles."""
        hashes: dict[str, list[str]] = {modality: [] for modality in inputs.mm_data_items}
        for modality, items, index, uuid in _media_of(inputs):
            medium = items.data[index]
            if medium.source is not None:
                key = self._key(medium, items.get_item_for_hash(index), uuid, inputs)
            elif (by_uuid := self._key(medium, None, uuid, inputs)) in self._keys:
                key = self._keys[by_uuid]
            else:
                raise _unknown_uuid(medium.name or modality)
            hashes[modality].append(key)
        return hashes

    def _remember(self, inputs: Any, hashes: Mapping[str, Sequence[str]]) -> None:
        """Remembers the UUIDs of media that could be read."""
        for modality, items, index, uuid in _media_of(inputs):
            if uuid is not None:
                self._keys[self._key(items.data[index], None, uuid, inputs)] = hashes[modality][index]

    def _key(self, medium: ServedMedium, value: Any, uuid: str | None, inputs: Any) -> str:
        return MultiModalHasher.hash_kwargs(
            self.info.ctx.get_mm_config().mm_hasher_algorithm,
            model_id=self.info.model_id,
            modality=medium.modality,
            medium=value,
            uuid=str(uuid),
            tile=str(medium.tile),
            options=repr(self.info.options_of(medium, inputs.hf_processor_mm_kwargs)),
        )

    def _call_hf_processor(self, hf_data: Mapping[str, Any], hf_kwargs: Mapping[str, Any]) -> BatchFeature:
        """Encodes the media; a medium that cannot be read is an error in the processor's own words."""
        encoded: dict[str, list[Any]] = {}
        for media in hf_data.values():
            for medium in media:
                try:
                    values = self._values(self.info.encode(medium, self.info.options_of(medium, hf_kwargs)))
                except ValueError as error:
                    text = in_words_of_a_server(str(error))
                    raise MediaError(f"{medium.name}: {text}" if medium.name else text) from error
                for name, value in values.items():
                    encoded.setdefault(name, []).append(value)
        return BatchFeature(encoded)

    def _values(self, medium: EncodedMedium) -> dict[str, torch.Tensor]:
        """Returns what the model reads of a medium, by the names of `FIELDS`."""
        modality, tensors = medium.modality, medium.tensors
        values = {f"{modality}_ids": medium.input_ids}
        if modality == "image":
            values.update(pixel_values=tensors["pixel_values"], image_grids=tensors["image_grids"][0])
        else:
            prefix = "audio" if modality == "audio" else "video_audio"
            mel_bins = self.info.get_hf_processor().feature_extractor.feature_size
            frames = self.info.get_hf_processor().feature_extractor.window_frames
            values[f"{prefix}_features"] = tensors.get("input_features", torch.zeros(0, mel_bins, frames))
            numbers = ("audio_num_windows", "audio_durations_ns", "audio_num_embeds")
            values[f"{prefix}_numbers"] = torch.tensor(
                [int(tensors[name]) if name in tensors else 0 for name in numbers]
            )
        if modality == "video":
            values.update({name: tensors[name] for name in ("pixel_values_videos", "video_frame_times_ns")})
            values["video_kept_embeds"] = tensors.get("video_kept_embeds", torch.zeros(0, dtype=torch.bool))
        dtype = self.info.ctx.model_config.dtype
        return {name: value.to(dtype) if value.is_floating_point() else value for name, value in values.items()}

    def _get_mm_fields_config(
        self, hf_inputs: BatchFeature, hf_processor_mm_kwargs: Mapping[str, Any]
    ) -> Mapping[str, MultiModalFieldConfig]:
        on_host = ("image_grids", "video_audio_numbers", "audio_numbers", "image_ids", "video_ids", "audio_ids")
        return {
            name: MultiModalFieldConfig.batched(modality, keep_on_cpu=name in on_host)
            for modality, names in FIELDS.items()
            for name in names
        }

    def _get_prompt_updates(
        self, mm_items: Any, hf_processor_mm_kwargs: Mapping[str, Any], out_mm_kwargs: Any
    ) -> Sequence[PromptReplacement]:
        processor = self.info.get_hf_processor()
        token_ids = {modality: getattr(processor, f"{modality}_token_id") for modality in MODALITIES}

        def replacement(modality: str) -> Any:
            def details(index: int) -> PromptUpdateDetails:
                ids = out_mm_kwargs[modality][index][f"{modality}_ids"].data.tolist()
                return PromptUpdateDetails.select_token_ids(ids, [*token_ids.values()])

            return details

        return [
            PromptReplacement(modality=modality, target=[token_ids[modality]], replacement=replacement(modality))
            for modality in mm_items
        ]
