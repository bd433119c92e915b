"""From media to embeddings in their places: towers and projectors run in chunks, so that memory stays bounded.

What comes out of a chunk is pooled, stamped with its times and written to where it belongs before the next chunk runs;
neither the tower's output for a whole medium nor a second copy of the embeddings is ever there, unless gradients need
them or the caller gave `inputs_embeds`. What a GPU holds of counts and sizes is read in one small transfer before
anything runs.
"""

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate, chain, islice, pairwise
from operator import itemgetter
from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import nn
from transformers.modeling_outputs import BaseModelOutput
from transformers.utils import can_return_tuple, torch_compilable_check

from .configuration_omnivinci import MEDIA_INPUTS, MODALITIES, check_number
from .encoders_omnivinci import VideoPool, merge_scales, stitch
from .outputs_omnivinci import OmniVinciFeaturesOutput


TENSORS = {"image": "pixel_values", "video": "pixel_values_videos", "audio": "input_features"}
COMPANIONS = {
    "image": (),
    "video": ("video_num_frames", "video_frame_times_ns"),
    "audio": ("audio_num_windows", "audio_durations_ns"),
}
# the inputs that are needed as Python numbers
COUNTS = ("image_grids", "video_num_frames", "audio_num_windows", "audio_num_embeds")
# patches, or steps of sound, that a tower reads at once, unless the config says how many tiles or windows: a CPU is
# fastest while they stay in its caches, an accelerator needs enough of them to be busy
CHUNK_POSITIONS_ON_CPU = 2**10
CHUNK_POSITIONS = 2**14
CHUNK_POSITIONS_OFFLOADED = 2**17  # weights that lie on the host or the disk are fetched anew for each chunk
BATCHES = 'Pipelines of Transformers batch images alone: set `batch_size=1`, or use `pipeline("omni-qa")`.'


@dataclass
class Encoding:
    """It encodes all media of one kind, chunk by chunk.

    Args:
        counts: how many embeddings each medium has.
        blocks: the chunks of all embeddings, each with the number of its first row.
    """

    counts: list[int]
    blocks: Iterator[tuple[int, torch.Tensor]]

    @property
    def num_embeds(self) -> int:
        return sum(self.counts)

    def only(self, kept: torch.Tensor) -> "Encoding":
        """It then has only the embeddings where `kept (num_embeds,)` is True."""
        if len(kept) != self.num_embeds:
            raise ValueError(
                f"`video_kept_embeds` speaks of {len(kept)} embeddings but the videos give {self.num_embeds}; pass on "
                "everything that the processor returned."
            )
        on_host = kept.bool().cpu()  # sizes follow from it
        rows = on_host.nonzero()[:, 0].to(kept.device)  # before anything runs, so that no block waits
        num_before = [0, *on_host.cumsum(0).tolist()]

        def blocks():
            for first, block in self.blocks:
                begin, end = num_before[first], num_before[first + len(block)]
                yield begin, block[(rows[begin:end] - first).to(block.device)]

        ends = [num_before[end] for end in accumulate(self.counts, initial=0)]
        return Encoding([end - begin for begin, end in pairwise(ends)], blocks())


class OmniVinciMediaMixin:
    """A model with towers, projectors and time embeddings encodes media with it and puts them among the words."""

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
            `pooler_output`, of each image `(num_embeds, hidden_size)`, what stands in the sequence.
        """
        return self._features("image", {"pixel_values": pixel_values, "image_grids": image_grids}, kwargs)

    @can_return_tuple
    def get_video_features(
        self,
        pixel_values_videos: torch.Tensor,
        video_num_frames: torch.Tensor,
        video_frame_times_ns: torch.Tensor,
        video_kept_embeds: torch.Tensor | None = None,
        **kwargs,
    ):
        """
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
        """
        media = {
            "pixel_values_videos": pixel_values_videos,
            "video_num_frames": video_num_frames,
            "video_frame_times_ns": video_frame_times_ns,
            "video_kept_embeds": video_kept_embeds,
        }
        return self._features("video", media, kwargs)

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
            `pooler_output`, of each sound `(num_embeds, hidden_size)`, and `projected`.
        """
        media = {
            "input_features": input_features,
            "audio_num_windows": audio_num_windows,
            "audio_durations_ns": audio_durations_ns,
            "audio_num_embeds": audio_num_embeds,
        }
        return self._features("audio", media, kwargs)

    def embed_inputs(
        self,
        input_ids: torch.Tensor | None = None,
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
        media = (
            *(pixel_values, image_grids),
            *(pixel_values_videos, video_num_frames, video_frame_times_ns, video_kept_embeds),
            *(input_features, audio_num_windows, audio_durations_ns, audio_num_embeds),
        )
        return self._embed(input_ids, inputs_embeds, dict(zip(MEDIA_INPUTS, media, strict=True)), past_length)

    # -- into the sequence ---------------------------------------------------------------------------------------

    # sizes follow from what the inputs hold, and a compiler would stop at each: it takes the language model alone
    @torch.compiler.disable
    def _embed(
        self,
        input_ids: torch.Tensor | None,
        inputs_embeds: torch.Tensor | None,
        media: Mapping[str, torch.Tensor | None],
        past_length: int = 0,
        projected: dict[str, list[torch.Tensor]] | None = None,
    ) -> torch.Tensor:
        """As `embed_inputs`; what OmniAlignNet reads of each video and sound is put into `projected`, if given."""
        masks = {kind: self._placeholders(kind, input_ids, inputs_embeds) for kind in MODALITIES}
        after = {kind: mask[:, past_length:] for kind, mask in masks.items()}
        counted = torch.stack([mask.sum() for mask in (*masks.values(), *after.values())])
        numbers = read_numbers({**{name: media[name] for name in COUNTS}, "placeholders": counted})
        totals = dict(zip(MODALITIES, numbers["placeholders"][:3], strict=True))
        new = dict(zip(MODALITIES, numbers["placeholders"][3:], strict=True))
        encodings, places = {}, {}
        for kind in MODALITIES:
            num_embeds = 0
            if media[TENSORS[kind]] is not None and (new[kind] or not past_length):
                encodings[kind] = self._encoding(kind, media, numbers, projected=projected)
                num_embeds = encodings[kind].num_embeds
            # what stands in the cache may be given again or not
            has_all = num_embeds == totals[kind]
            if not has_all and num_embeds != new[kind]:
                raise ValueError(
                    f"`input_ids` has {new[kind]} {kind} placeholders but the {kind} inputs give {num_embeds} "
                    "embeddings; they must match. Were the ids truncated, or made by a processor with other options?"
                )
            mask = masks[kind] if has_all else F.pad(after[kind], (past_length, 0))
            places[kind] = _positions(mask.flatten(), num_embeds)
        embeds = self._embed_words(input_ids) if inputs_embeds is None else inputs_embeds
        if encodings and inputs_embeds is not None and not torch.is_grad_enabled():
            embeds = embeds.clone()  # it is written to
        for kind, encoding in encodings.items():
            embeds = self._write(encoding, embeds, places[kind])
        return embeds[:, past_length:] if past_length else embeds

    def _embed_in_graph(
        self,
        input_ids: torch.Tensor | None,
        inputs_embeds: torch.Tensor | None,
        media: Mapping[str, torch.Tensor | None],
    ) -> torch.Tensor:
        """As `_embed`, for `torch.export`, which knows shapes but not what tensors hold."""
        numbers = numbers_of_shapes(media)
        embeds = self._embed_words(input_ids) if inputs_embeds is None else inputs_embeds
        for kind in MODALITIES:
            if media[TENSORS[kind]] is None:
                continue
            # all are encoded, and those that do not count put last
            encoding = self._encoding(kind, {**media, "video_kept_embeds": None}, numbers)
            features = self._gather(encoding, embeds.device).to(embeds.device, embeds.dtype)
            kept = self._kept(kind, media, numbers, len(features)).to(embeds.device)
            mask = self._placeholders(kind, input_ids, inputs_embeds)
            torch_compilable_check(mask.sum() == kept.sum(), f"The {kind} placeholders do not match the inputs.")
            embeds = embeds.masked_scatter(mask[..., None], features[_positions(kept, len(kept))])
        return embeds

    def _kept(self, kind: str, media: Mapping[str, Any], numbers: Mapping[str, Any], num_embeds: int) -> torch.Tensor:
        """Which embeddings of a kind stand in the sequence, `(num_embeds,)`."""
        if kind == "video" and media["video_kept_embeds"] is not None:
            return media["video_kept_embeds"].bool()
        if kind == "audio" and isinstance(limits := media["audio_num_embeds"], torch.Tensor):
            counts = numbers["audio_num_windows"]
            per_window = num_embeds // max(1, sum(counts))
            steps = [torch.arange(count * per_window, device=limits.device) for count in counts]
            return torch.cat([own < limit for own, limit in zip(steps, limits, strict=True)])
        return torch.ones(num_embeds, dtype=torch.bool)

    def _write(self, encoding: Encoding, embeds: torch.Tensor, places: torch.Tensor) -> torch.Tensor:
        """Media into `embeds (batch_size, seq_len, hidden_size)`, in place unless gradients are wanted."""
        flat = embeds.flatten(0, 1)
        places = places.to(flat.device)
        if torch.is_grad_enabled():
            flat = flat.index_copy(0, places, self._gather(encoding, flat.device).to(flat.device, flat.dtype))
        else:
            for first, block in encoding.blocks:
                flat.index_copy_(0, places[first : first + len(block)], block.to(flat.device, flat.dtype))
        return flat.view(embeds.shape)

    def _gather(self, encoding: Encoding, device: torch.device) -> torch.Tensor:
        """All embeddings of a kind, `(num_embeds, hidden_size)`."""
        if torch.is_grad_enabled():
            blocks = [block for _, block in sorted(encoding.blocks, key=itemgetter(0))]
            gathered = torch.cat(blocks) if blocks else None
        else:
            gathered = None
            for first, block in encoding.blocks:
                if gathered is None:
                    gathered = block.new_empty(encoding.num_embeds, block.shape[1])
                gathered[first : first + len(block)] = block
        if gathered is None:
            return torch.empty(0, self.config.text_config.hidden_size, device=device, dtype=self.dtype)
        return gathered

    def _embed_words(self, input_ids: torch.Tensor) -> torch.Tensor:
        vocab_size = self.config.text_config.vocab_size
        if max(getattr(self.config, f"{kind}_token_id") for kind in MODALITIES) >= vocab_size:
            # outside a vocabulary that was not enlarged for them
            input_ids = input_ids.masked_fill(input_ids >= vocab_size, 0)
        return self.get_input_embeddings()(input_ids)

    def _placeholders(
        self, kind: str, input_ids: torch.Tensor | None, inputs_embeds: torch.Tensor | None
    ) -> torch.Tensor:
        """Where the embeddings of a modality belong, `(batch_size, seq_len)`."""
        token_id = getattr(self.config, f"{kind}_token_id")
        if inputs_embeds is None:
            return input_ids == token_id
        if token_id >= self.config.text_config.vocab_size:
            return torch.zeros(inputs_embeds.shape[:2], dtype=torch.bool, device=inputs_embeds.device)
        token = self.get_input_embeddings()(torch.full((1,), token_id, device=inputs_embeds.device))
        return (inputs_embeds == token).all(-1)

    # -- from media to embeddings --------------------------------------------------------------------------------

    def _features(self, kind: str, media: Mapping[str, Any], kwargs: Mapping[str, Any]) -> OmniVinciFeaturesOutput:
        """The public features of a kind: also what its tower gave."""
        outputs: list[BaseModelOutput] = []
        projected = None if self.omni_align_net is None else {}
        encoding = self._encoding(
            kind, media, read_numbers({name: media.get(name) for name in COUNTS}), outputs, projected, **kwargs
        )
        embeds = self._gather(encoding, media[TENSORS[kind]].device).split(encoding.counts)
        return OmniVinciFeaturesOutput(
            **_joined(outputs), pooler_output=embeds, projected=tuple((projected or {}).get(kind, ())) or None
        )

    def _project(self, media: Mapping[str, Any]) -> dict[str, list[torch.Tensor]]:
        """What OmniAlignNet reads of each video and sound; their embeddings are dropped."""
        projected: dict[str, list[torch.Tensor]] = {}
        numbers = read_numbers({name: media.get(name) for name in COUNTS})
        for kind in ("video", "audio"):
            if media[TENSORS[kind]] is not None:
                for _ in self._encoding(kind, media, numbers, projected=projected).blocks:
                    pass
        return projected

    def _encoding(
        self,
        kind: str,
        media: Mapping[str, Any],
        numbers: Mapping[str, Any],
        outputs: list[BaseModelOutput] | None = None,
        projected: dict[str, list[torch.Tensor]] | None = None,
        **kwargs,
    ) -> Encoding:
        """Checks the media of a kind and says how they are encoded; nothing runs before the blocks are asked for.

        Then the tower's outputs are put into `outputs`, and what OmniAlignNet reads into `projected[kind]`, where these
        are given.
        """
        if missing := [name for name in COMPANIONS[kind] if media[name] is None]:
            raise ValueError(f"{missing} must be given too; the processor returns them together with the media.")
        chunks = self._run_tower(kind, media[TENSORS[kind]], outputs, kwargs)
        if kind == "image":
            return self._images(media["pixel_values"], numbers, chunks)
        encode = self._videos if kind == "video" else self._sounds
        return encode(media, numbers, chunks, projected)

    def _run_tower(self, kind: str, inputs: torch.Tensor, outputs: list | None, kwargs) -> Iterator[torch.Tensor]:
        """The tower's output, so many tiles or windows at a time."""
        tower = self.audio_tower if kind == "audio" else self.vision_tower
        for chunk in inputs.split(self._chunk_size(kind, inputs)) if len(inputs) else ():
            output = tower(chunk.to(tower.dtype), return_dict=True, **kwargs)
            if outputs is not None:
                outputs.append(output)
            yield output.last_hidden_state

    def _chunk_size(self, kind: str, inputs: torch.Tensor) -> int:
        """How many tiles, or windows of sound, run at once."""
        name = "audio_chunk_size" if kind == "audio" else "vision_chunk_size"
        if (size := getattr(self.config, name)) is not None:
            check_number(name, size, whole=True, least=1)
            return size
        tower = self.audio_tower if kind == "audio" else self.vision_tower
        if self._runs_once(tower):
            return max(1, len(inputs))
        at_once = CHUNK_POSITIONS_ON_CPU if inputs.device.type == "cpu" else CHUNK_POSITIONS
        if any(parameter.is_meta for parameter in tower.parameters()):
            at_once = CHUNK_POSITIONS_OFFLOADED
        positions = inputs.shape[-1] // 2 if kind == "audio" else self._map_side(inputs) ** 2
        return max(1, at_once // max(1, positions))

    def _runs_once(self, tower: nn.Module) -> bool:
        """Whether all processes must run a tower, and what follows it, equally often: where they share out weights, and
        where a tower learns, whose gradients DDP takes for complete after one run.
        """
        if not (dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1):
            return False
        learns = torch.is_grad_enabled() and any(parameter.requires_grad for parameter in tower.parameters())
        return learns or _is_sharded(self)

    def _map_side(self, pixel_values: torch.Tensor) -> int:
        """Patches on a side of a tile."""
        return pixel_values.shape[-1] // self.config.vision_config.patch_size

    def _projected_side(self, pixel_values: torch.Tensor) -> int:
        return math.ceil(self._map_side(pixel_values) / self.config.spatial_merge_size)

    def _images(self, pixel_values: torch.Tensor, numbers: Mapping[str, Any], chunks: Iterable) -> Encoding:
        scales, image_grids = self.config.s2_scales, numbers["image_grids"]
        fixed = [(scale // scales[0],) * 2 for scale in scales[:-1]]
        if image_grids is None:
            image_grids = [(0, 0)] * len(pixel_values)
        grids = [[*fixed, (rows, columns)] if rows else [(1, 1)] for rows, columns in image_grids]
        shapes = [(1, 1) if len(grid) == 1 else grid[self.config.s2_output_scale_index] for grid in grids]
        counts = [sum(rows * columns for rows, columns in grid) for grid in grids]
        if sum(counts) != len(pixel_values):
            raise ValueError(f"`image_grids` speaks of {sum(counts)} tiles but `pixel_values` has {len(pixel_values)}.")
        num_tiles = [rows * columns for rows, columns in shapes]
        at_once = self._chunk_size("image", pixel_values)

        def blocks():
            row = 0
            for images, features in _whole_media(chunks, counts):
                tiles = _as_squares(features).split(counts[images])
                maps = [
                    image.repeat(1, 1, 1, len(scales)) if len(grid) == 1 else merge_scales(image, grid, shape)
                    for image, grid, shape in zip(tiles, grids[images], shapes[images], strict=True)
                ]
                maps = torch.cat([self.vision_projector(part) for part in torch.cat(maps).split(at_once)])
                for image, shape in zip(maps.split(num_tiles[images]), shapes[images], strict=True):
                    embeds = stitch(image, *shape).flatten(0, 1)
                    yield row, embeds
                    row += len(embeds)

        return Encoding([count * self._projected_side(pixel_values) ** 2 for count in num_tiles], blocks())

    def _videos(self, media: Mapping[str, Any], numbers: Mapping[str, Any], chunks: Iterable, projected) -> Encoding:
        pixel_values, times_ns = media["pixel_values_videos"], media["video_frame_times_ns"]
        counts = numbers["video_num_frames"]
        if not sum(counts) == len(pixel_values) == len(times_ns):
            raise ValueError(
                f"`video_num_frames` speaks of {sum(counts)} frames, but `pixel_values_videos` has {len(pixel_values)} "
                f"and `video_frame_times_ns` {len(times_ns)}. {BATCHES}"
            )
        side, pools, embeds_of, row = self._projected_side(pixel_values), [], [], 0
        for times in (times_ns.double() / 1e9).split(counts):
            pools.append([])
            for size in self.config.video_pool_sizes:
                pools[-1].append((row, VideoPool(times, side, size)))
                row += math.prod(pools[-1][-1][1].shape)
            embeds_of.append(row - pools[-1][0][0])

        def blocks():
            copies = 1, 1, 1, len(self.config.s2_scales)
            maps = (self.vision_projector(_as_squares(features).repeat(copies)) for features in chunks)
            before = [[[] for _ in sizes] for sizes in pools]
            for video, _, frames in _pieces(maps, counts):
                for number, (first, pool) in enumerate(pools[video]):
                    for step, pooled, times in pool.add(frames):
                        if projected is not None:
                            before[video][number].append(pooled.flatten(0, 2))
                        embeds = self.video_time_embedding(pooled.flatten(1, 2), times[:, None], (step, 0), pool.shape)
                        yield first + step * pool.shape[1], embeds.flatten(0, 1)
            if projected is not None:
                projected["video"] = [torch.cat([*chain(*sizes)]) for sizes in before]

        encoding, kept = Encoding(embeds_of, blocks()), media.get("video_kept_embeds")
        return encoding if kept is None else encoding.only(kept)

    def _sounds(self, media: Mapping[str, Any], numbers: Mapping[str, Any], chunks: Iterable, projected) -> Encoding:
        features, durations = media["input_features"], media["audio_durations_ns"]
        counts = numbers["audio_num_windows"]
        if sum(counts) != len(features):
            raise ValueError(
                f"`audio_num_windows` speaks of {sum(counts)} windows but `input_features` has {len(features)}. "
                f"{BATCHES}"
            )
        per_window = features.shape[-1] // 4 // self.config.audio_merge_size
        totals = [count * per_window for count in counts]
        kept = numbers["audio_num_embeds"]
        kept = totals if kept is None else [min(pair) for pair in zip(kept, totals, strict=True)]
        rows = [0, *accumulate(kept)]

        def blocks():
            windows = (self.audio_projector(features) for features in chunks)
            before = [[] for _ in counts]
            for sound, window, embeds in _pieces(windows, counts):
                first = window * per_window
                embeds = embeds.flatten(0, 1)[: max(0, kept[sound] - first)]
                if projected is not None:
                    before[sound].append(embeds)
                if not len(embeds):
                    continue
                steps = torch.arange(first, first + len(embeds), dtype=torch.float64, device=embeds.device)
                # the original code computes the middle of each embedding in double and keeps it in single precision
                duration = durations[sound].to(steps)
                times = ((steps + 0.5) * (duration / 1e9) / totals[sound]).float()
                stamped = self.audio_time_embedding(embeds[None], times[None], (0, first), (1, totals[sound]))
                yield rows[sound] + first, stamped[0]
            if projected is not None:
                projected["audio"] = [torch.cat(parts) for parts in before]

        return Encoding(kept, blocks())


def read_numbers(tensors: Mapping[str, torch.Tensor | None]) -> dict[str, list | None]:
    """Whole numbers as lists, of lists where a tensor has two dimensions: in one transfer from each device. What is a
    list already stays.
    """
    given = {name: tensor for name, tensor in tensors.items() if isinstance(tensor, torch.Tensor)}
    numbers: dict[str, list | None] = {name: None if name in given else value for name, value in tensors.items()}
    for device in {tensor.device for tensor in given.values()}:
        there = {name: tensor for name, tensor in given.items() if tensor.device == device}
        flat = iter(torch.cat([tensor.flatten().long() for tensor in there.values()]).tolist())
        for name, tensor in there.items():
            width = tensor.shape[-1]
            row = [list(islice(flat, width)) for _ in range(tensor.numel() // width if width else 0)]
            numbers[name] = row if tensor.ndim > 1 else [*chain(*row)]
    return numbers


def numbers_of_shapes(media: Mapping[str, Any]) -> dict[str, list | None]:
    """As `read_numbers`, of what tensors cannot tell while `torch.export` traces: media share the rows out evenly,
    which the exported program checks. Lists say it otherwise.
    """
    numbers = {name: None if isinstance(media[name], torch.Tensor) else media[name] for name in COUNTS}
    for kind, name in (("image", "image_grids"), ("video", "video_num_frames"), ("audio", "audio_num_windows")):
        if not isinstance(counts := media[name], torch.Tensor):
            continue
        share, rest = divmod(len(media[TENSORS[kind]]), max(1, len(counts)))
        if rest or (kind == "image" and share > 1):
            raise ValueError(f"`torch.export` does not see what `{name}` holds: give it as a list, `{name}.tolist()`.")
        if kind != "image":  # an image of one tile has no grid
            torch_compilable_check((counts == share).all(), f"`{name}` is not as exported.")
            numbers[name] = [share] * len(counts)
    return numbers


def _is_sharded(module: nn.Module) -> bool:
    """Whether each process holds a part of the weights alone: by FSDP, tensor parallelism, or DeepSpeed's ZeRO-3."""
    return any(getattr(part, "_is_fsdp_managed_module", False) for part in module.modules()) or any(
        hasattr(parameter, "ds_id") or hasattr(parameter, "device_mesh") for parameter in module.parameters()
    )


def _positions(mask: torch.Tensor, count: int) -> torch.Tensor:
    """Where `mask (length,)` is True, in order, `(count,)`; unlike `nonzero` without waiting for the device."""
    # of those that are not True, all are written behind the end
    slots = torch.where(mask, mask.cumsum(0) - 1, count)
    positions = torch.arange(len(mask), device=mask.device)
    return torch.zeros(count + 1, dtype=torch.long, device=mask.device).scatter_(0, slots, positions)[:count]


def _whole_media(chunks: Iterable[torch.Tensor], counts: list[int]) -> Iterator[tuple[slice, torch.Tensor]]:
    """Rows that come in chunks, cut anew where media of `counts` rows end: of which media, and all their rows."""
    first, waiting = 0, []
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
    """Rows that come in chunks, cut further where media of `counts` rows end: medium, number of its first row, rows."""
    medium, first = 0, 0
    for chunk in chunks:
        while len(chunk):
            while first == counts[medium]:
                medium, first = medium + 1, 0
            length = min(len(chunk), counts[medium] - first)
            yield medium, first, chunk[:length]
            chunk, first = chunk[length:], first + length


def _as_squares(features: torch.Tensor) -> torch.Tensor:
    """`(tiles, patches, channels)` to `(tiles, side, side, channels)`."""
    side = math.isqrt(features.shape[1])
    return features.unflatten(1, (side, side))


def _joined(outputs: Sequence[BaseModelOutput]) -> dict[str, Any]:
    """What a tower gave for each chunk, as if it had run once; nothing if there were no media."""
    if not outputs:
        return {}
    joined = {"last_hidden_state": torch.cat([output.last_hidden_state for output in outputs])}
    for name in ("hidden_states", "attentions"):
        layers = [getattr(output, name, None) for output in outputs]
        if layers[0] is not None:
            # layers that were not asked for are None
            joined[name] = tuple(None if one[0] is None else torch.cat(one) for one in zip(*layers, strict=True))
    return joined
