"""This module encodes media: towers and projectors run in chunks, so that memory stays bounded.

What comes out of a chunk is pooled and stamped with its times, and can be written to where it belongs before the next
chunk runs; neither the tower's output for a whole medium nor a second copy of the embeddings is ever there, unless
gradients need them. What a GPU holds of counts and sizes is read in one small transfer before anything runs.

An `OmniVinciMediaEncoder` has the parts, and no language model. Each call makes one encoding per modality, which checks
the inputs and knows how many embeddings there will be; its blocks are the embeddings, one run of a chunk after another.
"""

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import accumulate, chain, islice, pairwise
from operator import attrgetter, itemgetter
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from torch import nn
from transformers.modeling_outputs import BaseModelOutput
from transformers.processing_utils import Unpack
from transformers.utils import can_return_tuple, torch_compilable_check

from .configuration_omnivinci import OmniVinciConfig, check_number
from .encoders_omnivinci import (
    AUDIO_TOWERS,
    OmniVinciAudioProjector,
    OmniVinciVisionProjector,
    OmniVinciVisionTower,
    VideoPool,
    merge_scales,
    stitch,
)
from .outputs_omnivinci import MEDIA_INPUTS, OmniVinciFeaturesOutput, OmniVinciMediaInputs
from .pretrained_omnivinci import OmniVinciPreTrainedModel
from .time_embedding_omnivinci import build_time_embedding


# the input that holds the media of a modality, and those that must come with it
TENSORS = {"image": "pixel_values", "video": "pixel_values_videos", "audio": "input_features"}
COMPANIONS = {
    "image": (),
    "video": ("video_num_frames", "video_frame_times_ns"),
    "audio": ("audio_num_windows", "audio_durations_ns"),
}
# the inputs that are needed as Python numbers
COUNTS = ("image_grids", "video_num_frames", "audio_num_windows", "audio_num_embeds")
# patches, or steps of audio, that a tower reads at once, unless the config says how many tiles or windows: a CPU is
# fastest while they stay in its caches, an accelerator needs enough of them to be busy
CHUNK_POSITIONS_ON_CPU = 2**10
CHUNK_POSITIONS = 2**14
CHUNK_POSITIONS_OFFLOADED = 2**17  # weights that lie on the host or the disk are fetched anew for each chunk
BATCHES = 'Pipelines of Transformers batch images alone: set `batch_size=1`, or use `pipeline("omni-qa")`.'


class OmniVinciMediaEncoder(OmniVinciPreTrainedModel):
    """
    This is the part of OmniVinci that encodes media: both towers, their projectors and the time embeddings.

    It works without a language model, for instance in a serving engine that has its own. Its weights have the names
    that they have in [`OmniVinciModel`], which is built on it, and `from_pretrained` reads them alone from a whole
    checkpoint.
    """

    has_language_model = False
    # the rest of a whole checkpoint
    _keys_to_ignore_on_load_unexpected: list[str] | None = [r"language_model\.", r"lm_head\.", r"omni_align_net\."]

    def __init__(self, config: OmniVinciConfig):
        super().__init__(config)
        self.build_parts(config)
        self.post_init()

    def build_parts(self, config: OmniVinciConfig) -> None:
        """Builds the modules; [`OmniVinciModel`] adds its own to them."""
        layer, num_layers = config.vision_feature_layer, config.vision_config.num_hidden_layers
        self.vision_tower = OmniVinciVisionTower._from_config(
            config.vision_config, num_layers=layer if layer >= 0 else num_layers + 1 + layer
        )
        self.audio_tower = AUDIO_TOWERS[config.audio_config.model_type]._from_config(config.audio_config)
        self.vision_projector = OmniVinciVisionProjector(config)
        self.audio_projector = OmniVinciAudioProjector(config)
        hidden_size = config.text_config.hidden_size
        self.video_time_embedding = build_time_embedding(config.video_time_embedding, hidden_size, "video")
        self.audio_time_embedding = build_time_embedding(config.audio_time_embedding, hidden_size, "audio")

    def train(self, mode: bool = True):
        """Does as [`nn.Module.train`], but towers that learn nothing stay in evaluation mode."""
        super().train(mode)
        for tower in (self.vision_tower, self.audio_tower):
            if not any(parameter.requires_grad for parameter in tower.parameters()):
                tower.eval()
        return self

    @can_return_tuple
    def get_image_features(self, pixel_values: torch.Tensor, image_grids: torch.Tensor | None = None, **kwargs):
        """Encodes images.

        Args:
            pixel_values (`torch.Tensor` of shape `(num_tiles, 3, size, size)`): tiles of all images, in order.
            image_grids (`torch.Tensor` of shape `(num_images, 2)`): rows and columns of the tiles of each image's
                largest scale; 0 for an image of one tile, which all are by default.
            kwargs: `output_hidden_states`, `output_attentions`: also those of all layers of the tower.

        Returns:
            [`OmniVinciFeaturesOutput`]: `last_hidden_state (num_tiles, patches, hidden_size)` of the tower and
            `pooler_output`, of each image `(num_embeds, hidden_size)`, what stands in the sequence.

        Raises:
            ValueError: when `image_grids` do not have as many tiles as `pixel_values`.
        """
        return self._features("image", kwargs, pixel_values=pixel_values, image_grids=image_grids)

    @can_return_tuple
    def get_video_features(
        self,
        pixel_values_videos: torch.Tensor,
        video_num_frames: torch.Tensor,
        video_frame_times_ns: torch.Tensor,
        video_kept_embeds: torch.Tensor | None = None,
        **kwargs,
    ):
        """Encodes the frames of videos.

        Args:
            pixel_values_videos (`torch.Tensor` of shape `(num_frames, 3, size, size)`): frames of all videos.
            video_num_frames (`torch.Tensor` of shape `(num_videos,)`).
            video_frame_times_ns (`torch.Tensor` of shape `(num_frames,)`): moments in nanoseconds.
            video_kept_embeds (`torch.BoolTensor` of shape `(embeddings of all frames,)`, *optional*): which of them
                stand in the sequence. All by default.
            kwargs: `output_hidden_states`, `output_attentions`: also those of all layers of the tower.

        Returns:
            [`OmniVinciFeaturesOutput`]: `last_hidden_state (num_frames, patches, hidden_size)` of the tower,
            `pooler_output`, of each video `(num_embeds, hidden_size)`, and `projected`.

        Raises:
            ValueError: when the inputs contradict each other in number.
        """
        return self._features(
            "video",
            kwargs,
            pixel_values_videos=pixel_values_videos,
            video_num_frames=video_num_frames,
            video_frame_times_ns=video_frame_times_ns,
            video_kept_embeds=video_kept_embeds,
        )

    @can_return_tuple
    def get_audio_features(
        self,
        input_features: torch.Tensor,
        audio_num_windows: torch.Tensor,
        audio_durations_ns: torch.Tensor,
        audio_num_embeds: torch.Tensor | None = None,
        **kwargs,
    ):
        """Encodes audio clips.

        Args:
            input_features (`torch.Tensor` of shape `(num_windows, mel_bins, frames)`): windows of all clips.
            audio_num_windows (`torch.Tensor` of shape `(num_audios,)`).
            audio_durations_ns (`torch.Tensor` of shape `(num_audios,)`): padded lengths in nanoseconds.
            audio_num_embeds (`torch.Tensor` of shape `(num_audios,)`, *optional*): how many embeddings of each clip
                to keep, from its start. All by default.
            kwargs: `output_hidden_states`, `output_attentions`: also those of all layers of the tower.

        Returns:
            [`OmniVinciFeaturesOutput`]: `last_hidden_state (num_windows, embeds, hidden_size)` of the tower,
            `pooler_output`, of each clip `(num_embeds, hidden_size)`, and `projected`.

        Raises:
            ValueError: when the inputs contradict each other in number.
        """
        return self._features(
            "audio",
            kwargs,
            input_features=input_features,
            audio_num_windows=audio_num_windows,
            audio_durations_ns=audio_durations_ns,
            audio_num_embeds=audio_num_embeds,
        )

    def _features(
        self, modality: str, tower_options: Mapping[str, Any], **inputs: Unpack[OmniVinciMediaInputs]
    ) -> OmniVinciFeaturesOutput:
        """Encodes all media of a modality, and returns what its tower gave beside the embeddings."""
        media = whole_media_inputs(inputs)
        encoding = self._encoding(modality, media, read_numbers({name: media[name] for name in COUNTS}))
        outputs = list(encoding.run_tower(**tower_options))
        keep_projected = modality != "image" and self.config.omni_align_config is not None
        embeds, projected = encoding.gather(outputs, keep_projected=keep_projected)
        return OmniVinciFeaturesOutput(
            **_joined(outputs), pooler_output=embeds.split(encoding.counts), projected=tuple(projected) or None
        )

    def project(self, modality: str, media: Mapping[str, Any]) -> list[torch.Tensor]:
        """Returns what OmniAlignNet reads of each video or audio clip, `(num_embeds, hidden_size)`: no times in it."""
        encoding = self._encoding(modality, media, read_numbers({name: media[name] for name in COUNTS}))
        return encoding.join_projected([block.without_embeds() for block in encoding.blocks()])

    def _encoding(self, modality: str, media: Mapping[str, Any], numbers: Mapping[str, Any]) -> "Encoding":
        """Checks the media of a modality, and returns how they are encoded; nothing runs yet."""
        if missing := [name for name in COMPANIONS[modality] if media[name] is None]:
            raise ValueError(f"{missing} must be given too; the processor returns them together with the media.")
        return ENCODINGS[modality](self, media, numbers)

    def _chunk_size(self, modality: str, inputs: torch.Tensor) -> int:
        """Returns how many tiles, or windows of audio, run at once."""
        name = "audio_chunk_size" if modality == "audio" else "vision_chunk_size"
        if (size := getattr(self.config, name)) is not None:
            check_number(name, size, whole=True, least=1)
            return size
        tower = self.audio_tower if modality == "audio" else self.vision_tower
        if self._runs_once(tower):
            return max(1, len(inputs))
        at_once = CHUNK_POSITIONS_ON_CPU if inputs.device.type == "cpu" else CHUNK_POSITIONS
        if any(parameter.is_meta for parameter in tower.parameters()):
            at_once = CHUNK_POSITIONS_OFFLOADED
        positions = inputs.shape[-1] // 2 if modality == "audio" else self.patches_on_side(inputs) ** 2
        return max(1, at_once // max(1, positions))

    def _runs_once(self, tower: nn.Module) -> bool:
        """Says whether all processes must run a tower, and what follows it, equally often: where they share out
        weights, and where a tower learns, whose gradients DDP takes for complete after one run.
        """
        if not (dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1):
            return False
        learns = torch.is_grad_enabled() and any(parameter.requires_grad for parameter in tower.parameters())
        return learns or _is_sharded(self)

    def patches_on_side(self, pixel_values: torch.Tensor) -> int:
        """Returns how many patches lie on a side of a tile."""
        return pixel_values.shape[-1] // self.config.vision_config.patch_size

    def embeds_on_side(self, pixel_values: torch.Tensor) -> int:
        """Returns how many embeddings lie on a side of a tile, after squares of patches were joined."""
        return math.ceil(self.patches_on_side(pixel_values) / self.config.spatial_merge_size)


class Block(NamedTuple):
    """A block is a run of adjacent embeddings of one medium.

    Args:
        medium: number of the medium in its modality.
        first: number of its first embedding, among all of the modality that stand in the sequence.
        embeds: what stands in the sequence, `(length, hidden_size)`.
        first_projected: number of its first projected vector, among all of the modality.
        projected: the same vectors without times, `(length, hidden_size)`, those that do not stand in the sequence
            included; None for images, which have no times.
    """

    medium: int
    first: int
    embeds: torch.Tensor
    first_projected: int = 0
    projected: torch.Tensor | None = None

    def without_embeds(self) -> "Block":
        """Returns the block without what stands in the sequence, so that the memory of that is given back."""
        return self._replace(embeds=self.embeds.new_empty(0))


class Encoding:
    """An encoding is how all media of one modality become embeddings, chunk by chunk; this is the base class.

    Building one checks the inputs against each other and runs nothing. A subclass sets `counts`.

    Args:
        encoder: has the tower, the projector and the time embedding.
        media: the inputs by name, those that are not given are None.
        numbers: what the inputs in `COUNTS` hold, as Python numbers.
    """

    modality: str
    counts: list[int]  # how many embeddings of each medium stand in the sequence

    def __init__(self, encoder: OmniVinciMediaEncoder, media: Mapping[str, Any], numbers: Mapping[str, Any]):
        self.encoder = encoder
        self.inputs: torch.Tensor = media[TENSORS[self.modality]]
        self.at_once = encoder._chunk_size(self.modality, self.inputs)

    @property
    def num_embeds(self) -> int:
        """How many embeddings of all media stand in the sequence."""
        return sum(self.counts)

    def run_tower(self, **options) -> Iterator[BaseModelOutput]:
        """Yields the tower's output of one chunk of tiles or windows after the other."""
        encoder = self.encoder
        tower = encoder.audio_tower if self.modality == "audio" else encoder.vision_tower
        for chunk in self.inputs.split(self.at_once) if len(self.inputs) else ():
            yield tower(chunk.to(tower.dtype), return_dict=True, **options)

    def blocks(self, outputs: Iterable[BaseModelOutput] | None = None) -> Iterator[Block]:
        """Yields all embeddings, from the tower's outputs if it has run already."""
        outputs = self.run_tower() if outputs is None else outputs
        return self._blocks(output["last_hidden_state"] for output in outputs)

    def _blocks(self, chunks: Iterable[torch.Tensor]) -> Iterator[Block]:
        """Yields all embeddings, from chunks `(tiles or windows, positions, channels)` of the tower's features."""
        raise NotImplementedError

    def gather(
        self, outputs: Iterable[BaseModelOutput] | None = None, keep_projected: bool = False
    ) -> tuple[torch.Tensor, list[torch.Tensor]]:
        """Returns all embeddings `(num_embeds, hidden_size)` and, if wanted, what was projected of each medium."""
        kept: list[Block] = []
        parts: list[tuple[int, torch.Tensor]] = []
        gathered = None
        for block in self.blocks(outputs):
            if keep_projected:
                kept.append(block.without_embeds())
            if torch.is_grad_enabled():
                parts.append((block.first, block.embeds))
                continue
            if gathered is None:
                gathered = block.embeds.new_empty(self.num_embeds, block.embeds.shape[1])
            gathered[block.first : block.first + len(block.embeds)] = block.embeds
        if parts:
            gathered = torch.cat([embeds for _, embeds in sorted(parts, key=itemgetter(0))])
        if gathered is None:
            hidden_size = self.encoder.config.text_config.hidden_size
            gathered = torch.empty(0, hidden_size, device=self.inputs.device, dtype=self.encoder.dtype)
        return gathered, self.join_projected(kept) if keep_projected else []

    def join_projected(self, blocks: Iterable[Block]) -> list[torch.Tensor]:
        """Returns what was projected of each medium, `(num_embeds, hidden_size)`, from all blocks."""
        parts: list[list[torch.Tensor]] = [[] for _ in self.counts]
        for block in sorted(blocks, key=attrgetter("first_projected")):
            if block.projected is not None:
                parts[block.medium].append(block.projected)
        return [torch.cat(part) for part in parts]


class ImageEncoding(Encoding):
    """Images are tiles of several scales, whose maps are brought to one size and joined on channels (Dynamic-S2)."""

    modality = "image"

    def __init__(self, encoder: OmniVinciMediaEncoder, media: Mapping[str, Any], numbers: Mapping[str, Any]):
        super().__init__(encoder, media, numbers)
        self.scales, image_grids = encoder.config.s2_scales, numbers["image_grids"]
        fixed = [(scale // self.scales[0],) * 2 for scale in self.scales[:-1]]
        if image_grids is None:
            image_grids = [(0, 0)] * len(self.inputs)
        # rows and columns of tiles of each scale, and of the map that the image ends up with
        self.grids = [[*fixed, (rows, columns)] if rows else [(1, 1)] for rows, columns in image_grids]
        output_scale = encoder.config.s2_output_scale_index
        self.shapes = [(1, 1) if len(grid) == 1 else grid[output_scale] for grid in self.grids]
        self.num_tiles = [sum(rows * columns for rows, columns in grid) for grid in self.grids]
        if sum(self.num_tiles) != len(self.inputs):
            raise ValueError(
                f"`image_grids` speaks of {sum(self.num_tiles)} tiles but `pixel_values` has {len(self.inputs)}."
            )
        self.num_parts = [rows * columns for rows, columns in self.shapes]
        self.counts = [count * encoder.embeds_on_side(self.inputs) ** 2 for count in self.num_parts]

    def _blocks(self, chunks: Iterable[torch.Tensor]) -> Iterator[Block]:
        first = 0
        for images, features in _whole_media(chunks, self.num_tiles):
            tiles = _as_squares(features).split(self.num_tiles[images])
            maps = torch.cat(
                [
                    image.repeat(1, 1, 1, len(self.scales)) if len(grid) == 1 else merge_scales(image, grid, shape)
                    for image, grid, shape in zip(tiles, self.grids[images], self.shapes[images], strict=True)
                ]
            )
            maps = torch.cat([self.encoder.vision_projector(part) for part in maps.split(self.at_once)])
            parts = zip(maps.split(self.num_parts[images]), self.shapes[images], strict=True)
            for medium, (image, shape) in enumerate(parts, images.start):
                embeds = stitch(image, *shape).flatten(0, 1)
                yield Block(medium, first, embeds)
                first += len(embeds)


class VideoEncoding(Encoding):
    """Videos are frames that are pooled over time and places, once for each of `video_pool_sizes`."""

    modality = "video"

    def __init__(self, encoder: OmniVinciMediaEncoder, media: Mapping[str, Any], numbers: Mapping[str, Any]):
        super().__init__(encoder, media, numbers)
        times_ns, self.num_frames = media["video_frame_times_ns"], numbers["video_num_frames"]
        if not sum(self.num_frames) == len(self.inputs) == len(times_ns):
            raise ValueError(
                f"`video_num_frames` speaks of {sum(self.num_frames)} frames, but `pixel_values_videos` has "
                f"{len(self.inputs)} and `video_frame_times_ns` {len(times_ns)}. {BATCHES}"
            )
        side, first = encoder.embeds_on_side(self.inputs), 0
        # of each video: a pool for each size, and the number of its first embedding
        self.pools: list[list[tuple[int, VideoPool]]] = []
        self.counts = []
        for times in (times_ns.double() / 1e9).split(self.num_frames):
            pools, before = [], first
            for size in encoder.config.video_pool_sizes:
                pools.append((first, VideoPool(times, side, size)))
                first += math.prod(pools[-1][1].shape)
            self.pools.append(pools)
            self.counts.append(first - before)
        kept = media["video_kept_embeds"]
        self.kept = None if kept is None else KeptEmbeds(kept, self.counts)
        if self.kept is not None:
            self.counts = self.kept.counts

    def _blocks(self, chunks: Iterable[torch.Tensor]) -> Iterator[Block]:
        encoder, copies = self.encoder, (1, 1, 1, len(self.encoder.config.s2_scales))
        maps = (encoder.vision_projector(_as_squares(features).repeat(copies)) for features in chunks)
        for video, _, frames in _pieces(maps, self.num_frames):
            for start, pool in self.pools[video]:
                for step, pooled, times in pool.add(frames):
                    embeds = encoder.video_time_embedding(pooled.flatten(1, 2), times[:, None], (step, 0), pool.shape)
                    embeds, row = embeds.flatten(0, 1), start + step * pool.shape[1]
                    first, kept = (row, embeds) if self.kept is None else self.kept.select(row, embeds)
                    yield Block(video, first, kept, row, pooled.flatten(0, 2))


class KeptEmbeds:
    """It selects the embeddings that stand in the sequence, where others were left out.

    Args:
        mask (`torch.BoolTensor` of shape `(num_embeds,)`): which of all embeddings are kept.
        counts: how many embeddings each medium has before that.
    """

    def __init__(self, mask: torch.Tensor, counts: list[int]):
        if len(mask) != sum(counts):
            raise ValueError(
                f"`video_kept_embeds` speaks of {len(mask)} embeddings but the videos give {sum(counts)}; pass on "
                "everything that the processor returned."
            )
        on_host = mask.bool().cpu()  # sizes follow from it
        self.rows = on_host.nonzero()[:, 0].to(mask.device)  # before anything runs, so that no block waits
        self.num_before = [0, *on_host.cumsum(0).tolist()]
        ends = [self.num_before[end] for end in accumulate(counts, initial=0)]
        self.counts = [end - begin for begin, end in pairwise(ends)]

    def select(self, first: int, embeds: torch.Tensor) -> tuple[int, torch.Tensor]:
        """Returns those of `embeds`, of which `first` is the number of the first, that are kept, with their number."""
        begin, end = self.num_before[first], self.num_before[first + len(embeds)]
        return begin, embeds[(self.rows[begin:end] - first).to(embeds.device)]


class AudioEncoding(Encoding):
    """Audio clips are windows, of which the embeddings of padding behind the last are left out."""

    modality = "audio"

    def __init__(self, encoder: OmniVinciMediaEncoder, media: Mapping[str, Any], numbers: Mapping[str, Any]):
        super().__init__(encoder, media, numbers)
        self.durations, self.num_windows = media["audio_durations_ns"], numbers["audio_num_windows"]
        if sum(self.num_windows) != len(self.inputs):
            raise ValueError(
                f"`audio_num_windows` speaks of {sum(self.num_windows)} windows but `input_features` has "
                f"{len(self.inputs)}. {BATCHES}"
            )
        self.per_window = self.inputs.shape[-1] // 4 // encoder.config.audio_merge_size
        self.totals = [count * self.per_window for count in self.num_windows]
        kept = numbers["audio_num_embeds"]
        self.counts = self.totals if kept is None else [min(pair) for pair in zip(kept, self.totals, strict=True)]
        self.first_rows = [0, *accumulate(self.counts)]

    def _blocks(self, chunks: Iterable[torch.Tensor]) -> Iterator[Block]:
        windows = (self.encoder.audio_projector(features) for features in chunks)
        for audio, window, projected in _pieces(windows, self.num_windows):
            step = window * self.per_window
            projected = projected.flatten(0, 1)[: max(0, self.counts[audio] - step)]
            # an empty block is behind the last embedding that is kept
            embeds = self._with_times(audio, step, projected) if len(projected) else projected
            row = self.first_rows[audio] + min(step, self.counts[audio])
            yield Block(audio, row, embeds, row, projected)

    def _with_times(self, audio: int, step: int, embeds: torch.Tensor) -> torch.Tensor:
        """Tells `embeds (length, hidden_size)` of a clip, of which the first has the number `step`, their moments."""
        steps = torch.arange(step, step + len(embeds), dtype=torch.float64, device=embeds.device)
        # the original code computes the middle of each embedding in double and keeps it in single precision
        duration, total = self.durations[audio].to(steps), self.totals[audio]
        times = ((steps + 0.5) * (duration / 1e9) / total).float()
        return self.encoder.audio_time_embedding(embeds[None], times[None], (0, step), (1, total))[0]


ENCODINGS: dict[str, type[Encoding]] = {
    encoding.modality: encoding for encoding in (ImageEncoding, VideoEncoding, AudioEncoding)
}


def whole_media_inputs(inputs: Mapping[str, Any]) -> dict[str, Any]:
    """Returns all media inputs by name, with None for those that are not given.

    Raises:
        TypeError: when there is another name among them.
    """
    if unknown := sorted(set(inputs) - set(MEDIA_INPUTS)):
        raise TypeError(f"{unknown} are no inputs of media; these are {MEDIA_INPUTS}.")
    return {name: inputs.get(name) for name in MEDIA_INPUTS}


def read_numbers(tensors: Mapping[str, Any]) -> dict[str, Any]:
    """Reads whole numbers as lists, of lists where a tensor has two dimensions, in one transfer from each device.

    What is a list already stays.
    """
    given = {name: tensor for name, tensor in tensors.items() if isinstance(tensor, torch.Tensor)}
    numbers: dict[str, Any] = {name: None if name in given else value for name, value in tensors.items()}
    for device in {tensor.device for tensor in given.values()}:
        there = {name: tensor for name, tensor in given.items() if tensor.device == device}
        flat = iter(torch.cat([tensor.flatten().long() for tensor in there.values()]).tolist())
        for name, tensor in there.items():
            width = tensor.shape[-1]
            row = [list(islice(flat, width)) for _ in range(tensor.numel() // width if width else 0)]
            numbers[name] = row if tensor.ndim > 1 else [*chain(*row)]
    return numbers


def numbers_of_shapes(media: Mapping[str, Any]) -> dict[str, Any]:
    """Does as `read_numbers` while `torch.export` traces, where tensors cannot be read.

    Media share the rows out evenly, which the exported program checks; lists may say otherwise.
    """
    numbers: dict[str, Any] = {name: None if isinstance(media[name], torch.Tensor) else media[name] for name in COUNTS}
    for modality, name in (("image", "image_grids"), ("video", "video_num_frames"), ("audio", "audio_num_windows")):
        if not isinstance(counts := media[name], torch.Tensor):
            continue
        share, rest = divmod(len(media[TENSORS[modality]]), max(1, len(counts)))
        if rest or (modality == "image" and share > 1):
            raise ValueError(f"`torch.export` does not see what `{name}` holds: give it as a list, `{name}.tolist()`.")
        if modality != "image":  # an image of one tile has no grid
            torch_compilable_check((counts == share).all(), f"`{name}` is not as exported.")
            numbers[name] = [share] * len(counts)
    return numbers


def kept_in_graph(modality: str, media: Mapping[str, Any], numbers: Mapping[str, Any], count: int) -> torch.Tensor:
    """Says which of the `count` embeddings of a modality stand in the sequence, `(count,)`, without reading tensors."""
    if modality == "video" and media["video_kept_embeds"] is not None:
        return media["video_kept_embeds"].bool()
    if modality == "audio" and isinstance(limits := media["audio_num_embeds"], torch.Tensor):
        num_windows = numbers["audio_num_windows"]
        per_window = count // max(1, sum(num_windows))
        steps = [torch.arange(number * per_window, device=limits.device) for number in num_windows]
        return torch.cat([step < limit for step, limit in zip(steps, limits, strict=True)])
    return torch.ones(count, dtype=torch.bool)


def _is_sharded(module: nn.Module) -> bool:
    """Says whether each process holds a part of the weights: by FSDP, tensor parallelism, or DeepSpeed's ZeRO-3."""
    return any(getattr(part, "_is_fsdp_managed_module", False) for part in module.modules()) or any(
        hasattr(parameter, "ds_id") or hasattr(parameter, "device_mesh") for parameter in module.parameters()
    )


def _whole_media(chunks: Iterable[torch.Tensor], counts: list[int]) -> Iterator[tuple[slice, torch.Tensor]]:
    """Cuts rows that come in chunks anew where media of `counts` rows end: yields which media, and all their rows."""
    first = 0
    waiting: list[torch.Tensor] = []
    for chunk in chunks:
        waiting.append(chunk)
        there, last = sum(len(part) for part in waiting), first
        while last < len(counts) and counts[last] <= there:
            there -= counts[last]
            last += 1
        if last > first:
            rows = torch.cat(waiting) if len(waiting) > 1 else chunk
            yield slice(first, last), rows[: len(rows) - there]
            first, waiting = last, [rows[len(rows) - there :]] if there else []


def _pieces(chunks: Iterable[torch.Tensor], counts: list[int]) -> Iterator[tuple[int, int, torch.Tensor]]:
    """Cuts rows that come in chunks further where media of `counts` rows end: medium, number of its first row, rows."""
    medium, first = 0, 0
    for chunk in chunks:
        while len(chunk):
            while first == counts[medium]:
                medium, first = medium + 1, 0
            length = min(len(chunk), counts[medium] - first)
            yield medium, first, chunk[:length]
            chunk, first = chunk[length:], first + length


def _as_squares(features: torch.Tensor) -> torch.Tensor:
    """Turns `(tiles, patches, channels)` into `(tiles, side, side, channels)`."""
    side = math.isqrt(features.shape[1])
    return features.unflatten(1, (side, side))


def _joined(outputs: Sequence[BaseModelOutput]) -> dict[str, Any]:
    """Joins what a tower gave for each chunk, as if it had run once; nothing if there were no media."""
    joined: dict[str, Any] = {}
    if not outputs:
        return joined
    joined["last_hidden_state"] = torch.cat([output["last_hidden_state"] for output in outputs])
    for name in ("hidden_states", "attentions"):
        layers = [getattr(output, name, None) for output in outputs]
        if layers[0] is not None:
            # layers that were not asked for are None
            joined[name] = tuple(None if one[0] is None else torch.cat(one) for one in zip(*layers, strict=True))
    return joined
