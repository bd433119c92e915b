"""This module makes batches for training: conversations with media become the model's inputs and labels."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch.nn.utils.rnn import pad_sequence
from torch.utils.data import get_worker_info
from transformers.utils import logging

from ..omnivinci.configuration_omnivinci import MODALITIES
from ..omnivinci.generation_omnivinci import check_context
from ..omnivinci.modeling_omnivinci import IGNORE_INDEX
from ..omnivinci.options_omnivinci import TEXT_OPTIONS
from ..omnivinci.outputs_omnivinci import MEDIA_INPUTS, PAIR_INPUTS
from ..omnivinci.processing_omnivinci import OmniVinciProcessor
from .data import ROW_ERRORS, RowError, normalize_row


logger = logging.get_logger(__name__)
MEDIA_TENSORS = (*MEDIA_INPUTS, *PAIR_INPUTS)
PADDING = -1  # the number of the row that padding belongs to
MAX_WORKERS = 255
MAX_BAD_ROWS_AT_START = 100  # if none before them is good, the data are wrong


@dataclass(frozen=True)
class EncodedRow:
    """An encoded row is what the model reads of a row, before it is put into a batch.

    Conversations about the same media share what comes before them: branch 0. What each adds is a branch of its own,
    1, 2, ..., which begins at the same position.

    Args:
        ids `(length,)`: with placeholders for the media.
        labels `(length,)`: the ids that are learned, `IGNORE_INDEX` elsewhere.
        positions `(length,)`: position ids.
        branches `(length,)`: number of the branch.
        media: the processor's tensors of the row's media, by name.
    """

    ids: torch.Tensor
    labels: torch.Tensor
    positions: torch.Tensor
    branches: torch.Tensor
    media: Mapping[str, torch.Tensor]


class OmniVinciDataCollator:
    """
    Turns rows (see `training/data.py`) into batches for any Transformers trainer.

    Labels are the assistant's words and the token that ends its turn, as the chat template marks them; media, the
    user's words and padding have none.

    Args:
        processor ([`OmniVinciProcessor`]): its chat template must mark the assistant's words (`{% generation %}`).
        context_length (`int`, *optional*): a row, or one of its conversations, with more tokens than that counts as
            bad; the model's `max_position_embeddings`, which refuses it, too.
        max_length (`int`, *optional*): words that make a row, or one of its conversations, longer are cut off at its
            end. A row whose media alone are longer, or that would lose all its labels, counts as bad.
        packing (`bool`, defaults to False): put all rows of a batch into one sequence instead of padding them. Rows do
            not see each other: their positions begin anew, which Transformers' attention functions understand, or,
            where rows have several conversations, a mask says so.
        dummy_media (`bool`, defaults to True): a batch without image, video or audio gets one tile, one frame or one
            window of silence that nothing attends to. Data-parallel processes wait for each other's gradients, and
            those that share out weights for each other's calls: all must run all parts of the model, equally often.
        on_error ("raise" or "skip"): what a row does that cannot be used (a broken file, no assistant's turn, ...). If
            skipped, it is logged and counted in `num_skipped`; a row without words or labels, which costs nothing,
            stays in its place, so that every batch has as many rows as others wait for.
        only_needed_logits (`bool`, defaults to True): let the model, in training, compute logits only where there are
            labels, which saves most of the memory where media are long. Metrics see all logits whatever is chosen.
        media_root (`str`, *optional*): where relative paths of media begin, of rows that `load_rows` did not read.
        processor_options: options of a call of the processor, such as `num_frames`, `fps` or `max_audio_sec`.

    Rows with several conversations become a batch with a mask `(batch_size, 1, length, length)`, which attention
    implementations `sdpa` and `eager` take.
    """

    def __init__(
        self,
        processor: OmniVinciProcessor,
        *,
        max_length: int | None = None,
        context_length: int | None = None,
        packing: bool = False,
        dummy_media: bool = True,
        on_error: str = "raise",
        only_needed_logits: bool = True,
        media_root: str | None = None,
        **processor_options: Any,
    ):
        if on_error not in ("raise", "skip"):
            raise ValueError(f"`on_error` must be 'raise' or 'skip', got {on_error!r}.")
        if of_text := sorted(processor_options.keys() & TEXT_OPTIONS.keys()):
            raise TypeError(f"{of_text} are set by the collator itself: give `max_length` or `packing`.")
        processor.resolve_options(("as an argument", processor_options))
        if processor.tokenizer.pad_token_id is None:
            raise ValueError("The tokenizer has no `pad_token`, which batches need: set one.")
        self.processor = processor
        self.max_length = max_length
        self.context_length = context_length
        self.packing = packing
        self.on_error = on_error
        self.only_needed_logits = only_needed_logits
        self.media_root = media_root
        self.processor_options = processor_options
        self.dummies = self._make_dummies() if dummy_media else {}
        # good and bad rows of each process of a DataLoader, and of this one
        self._counts = torch.zeros(MAX_WORKERS + 1, 2, dtype=torch.int64).share_memory_()

    @property
    def num_skipped(self) -> int:
        """The number of bad rows that were left out so far, by all workers of this process's DataLoader."""
        return int(self._counts[:, 1].sum())

    @property
    def num_used(self) -> int:
        """The number of good rows so far, of all workers of this process's DataLoader."""
        return int(self._counts[:, 0].sum())

    def __call__(self, rows: Sequence[Mapping[str, Any] | EncodedRow]) -> dict[str, Any]:
        """Makes one batch of rows, encoded already or not.

        Returns:
            `input_ids`, `labels` `(batch_size, length)`, and what tells rows apart: `attention_mask (batch_size,
            length)`, or with `packing` `position_ids (1, length)`, or where a row has several conversations both, with
            a boolean mask `(batch_size, 1, length, length)`; `only_needed_logits`; and the media of all rows, as the
            processor returns them.

        Raises:
            RowError, MediaError: for a bad row, with `on_error="raise"`.
        """
        padding = torch.tensor([self.processor.tokenizer.pad_token_id])
        empty_row = join_branches([(padding, torch.zeros(1, dtype=torch.bool), 0)], {})
        encoded = [self._encode_or_skip(row) or empty_row for row in rows]
        present = {name for row in encoded for name in row.media}
        dummies = [row for name, row in self.dummies.items() if name not in present]
        media = {}
        for name in MEDIA_TENSORS:
            if parts := [row.media[name] for row in (*encoded, *dummies) if name in row.media]:
                media[name] = torch.cat(parts)
        for name in PAIR_INPUTS:
            media.setdefault(name, torch.zeros(0, dtype=torch.bool))
        batch = {**self._rows_to_batch(encoded, dummies), **media}
        return {**batch, "only_needed_logits": True} if self.only_needed_logits else batch

    def encode(self, row: Mapping[str, Any]) -> EncodedRow:
        """Encodes one row with its media; a collator may also be called with the result.

        Raises:
            RowError: when the row is wrong, or too long.
            MediaError: when a medium cannot be read.
        """
        row = normalize_row(row, self.media_root)
        try:
            return self._encode(row["conversations"])
        except RowError as error:
            error.place = error.place or (f"Row {row['id']!r}" if row.get("id") is not None else "")
            raise

    def encode_prompt(self, messages: list[dict], num_new: int = 0, asked_by: str = "max_new_tokens") -> EncodedRow:
        """Encodes messages with their media up to where the assistant will answer; nothing is learned from them.

        Args:
            num_new: so many tokens of an answer must have room in the context, as `asked_by` says.

        Raises:
            RowError: when the context has no room.
            MediaError: when a medium cannot be read.
        """
        inputs = self.processor.apply_chat_template(
            messages,
            tokenize=True,
            return_dict=True,
            return_tensors="pt",
            add_generation_prompt=True,
            processor_kwargs=self.processor_options,
        )
        ids = inputs["input_ids"][0]
        try:
            check_context(len(ids), self.context_length or len(ids) + num_new, num_new, asked_by)
        except ValueError as error:
            raise RowError(str(error)) from None
        media = {name: inputs[name] for name in MEDIA_TENSORS if name in inputs}
        return join_branches([(ids, torch.zeros_like(ids, dtype=torch.bool), 0)], media)

    def _encode(self, conversations: list[list[dict]]) -> EncodedRow:
        first, *others = conversations
        inputs = self.processor.apply_chat_template(
            first,
            tokenize=True,
            return_dict=True,
            return_tensors="pt",
            return_assistant_tokens_mask=True,
            processor_kwargs=self.processor_options,
        )
        ids, spoken = inputs["input_ids"][0], inputs["assistant_masks"][0].bool()
        num_shared = len(ids) - len(self.processor.encode_after_media(first)[0])
        branches = [(ids[num_shared:], spoken[num_shared:])]
        for conversation in others:
            words, marks = (torch.tensor(values) for values in self.processor.encode_after_media(conversation))
            branches.append((words, marks.bool()))
        branches = self._shortened(branches, num_shared)
        # What the assistant says before the last medium is learned, too.
        if not all(marks.any() for _, marks in branches) and (others or not spoken[:num_shared].any()):
            raise RowError(self._explain_no_label())
        numbers = range(1, len(branches) + 1) if others else [0]
        parts = [(words, marks, number) for (words, marks), number in zip(branches, numbers, strict=True)]
        media = {name: inputs[name] for name in MEDIA_TENSORS if name in inputs}
        encoded = join_branches([(ids[:num_shared], spoken[:num_shared], 0), *parts], media)
        self._check_context(encoded)
        return encoded

    def _shortened(
        self, branches: list[tuple[torch.Tensor, torch.Tensor]], num_shared: int
    ) -> list[tuple[torch.Tensor, torch.Tensor]]:
        """Cuts words off the end of each branch so that it fits into `max_length` behind what all share."""
        if self.max_length is None:
            return branches
        room = self.max_length - num_shared
        if room < 1:
            raise RowError(
                f"Its media and what comes before them take {num_shared} tokens, which `max_length`={self.max_length} "
                "would cut: raise it, or take fewer frames or seconds of audio."
            )
        return [(words[:room], marks[:room]) for words, marks in branches]

    def _check_context(self, encoded: EncodedRow) -> None:
        if self.context_length is None:
            return
        try:
            check_context(int(encoded.positions.max()) + 1, self.context_length)
        except ValueError as error:
            raise RowError(str(error)) from None

    def _explain_no_label(self) -> str:
        template: Any = self.processor.chat_template
        if "generation" not in (template if isinstance(template, str) else template["default"]):
            return "The chat template marks no assistant's words: it needs {% generation %} around them."
        return f"No word of the assistant is left to learn from within `max_length`={self.max_length}."

    def _encode_or_skip(self, row: Mapping[str, Any] | EncodedRow) -> EncodedRow | None:
        if isinstance(row, EncodedRow):
            return row
        worker = get_worker_info()
        counts = self._counts[0 if worker is None else worker.id + 1]
        try:
            encoded = self.encode(row)
            counts[0] += 1
            return encoded
        except ROW_ERRORS as error:
            if self.on_error == "raise":
                raise
            counts[1] += 1
            if counts[0] == 0 and counts[1] == MAX_BAD_ROWS_AT_START:
                raise RowError(
                    f"The first {MAX_BAD_ROWS_AT_START} rows are all bad, the last because: {error}"
                ) from error
            name = row.get("id") if isinstance(row, Mapping) else None
            logger.warning("Skipped %s: %s", "a bad row" if name is None else f"row {name!r}", error)
            return None

    def _is_media(self, ids: torch.Tensor) -> torch.Tensor:
        media_ids = [getattr(self.processor, f"{modality}_token_id") for modality in MODALITIES]
        return torch.isin(ids, torch.tensor(media_ids))

    def _make_dummies(self) -> dict[str, EncodedRow]:
        """Encodes an image, a video of one frame and one embedding of silence, by the input that they stand in for."""
        tile = {"type": "image", "image": np.zeros((8, 8, 3), np.uint8)}
        frame = {"type": "video", "video": np.zeros((1, 8, 8, 3), np.uint8), "video_metadata": {"fps": 1.0}}
        silence = {"type": "audio", "audio": np.zeros(1, np.float32)}
        silence["sampling_rate"] = self.processor.feature_extractor.sampling_rate
        dummies = {}
        for name, part in (("pixel_values", tile), ("pixel_values_videos", frame), ("input_features", silence)):
            inputs = self.processor.apply_chat_template(
                [{"role": "user", "content": [part]}],
                tokenize=True,
                return_dict=True,
                return_tensors="pt",
                processor_kwargs={"num_frames": 1},
            )
            ids = inputs["input_ids"][0]
            ids = ids[self._is_media(ids)]
            if "audio_num_embeds" in inputs:
                ids, inputs["audio_num_embeds"] = ids[:1], torch.ones(1, dtype=torch.long)
            media = {name: inputs[name] for name in MEDIA_TENSORS if name in inputs}
            dummies[name] = join_branches([(ids, torch.zeros_like(ids, dtype=torch.bool), 0)], media)
        return dummies

    def _rows_to_batch(self, encoded: list[EncodedRow], dummies: list[EncodedRow]) -> dict[str, torch.Tensor]:
        rows = [list(enumerate(encoded))] if self.packing else [[(0, row)] for row in encoded]
        packed = self.packing and not any(row.branches.any() for row in encoded)
        # They are rows of their own in a packed sequence, and padding otherwise.
        rows[0] += [(len(encoded) + number if packed else PADDING, row) for number, row in enumerate(dummies)]
        joined = {
            name: pad_sequence(
                [torch.cat([getattr(part, name) for _, part in row]) for row in rows],
                batch_first=True,
                padding_value=padding,
            )
            for name, padding in (
                ("ids", self.processor.tokenizer.pad_token_id),
                ("labels", IGNORE_INDEX),
                ("positions", 0),
                ("branches", 0),
            )
        }
        batch = {"input_ids": joined["ids"], "labels": joined["labels"]}
        if packed:
            return {**batch, "position_ids": joined["positions"]}
        numbers = pad_sequence(
            [torch.cat([torch.full_like(part.ids, number) for number, part in row]) for row in rows],
            batch_first=True,
            padding_value=PADDING,
        )
        if not joined["branches"].any():
            return {**batch, "attention_mask": (numbers != PADDING).long()}
        mask = _visible(numbers, joined["branches"])
        return {**batch, "position_ids": joined["positions"], "attention_mask": mask}


def join_branches(parts: list[tuple[torch.Tensor, torch.Tensor, int]], media: Mapping[str, torch.Tensor]) -> EncodedRow:
    """Joins parts `(ids, which of them are learned, branch)` to one row; every branch follows branch 0."""
    shared = sum(len(ids) for ids, _, branch in parts if branch == 0)
    ids = torch.cat([ids for ids, _, _ in parts])
    marks = torch.cat([marks for _, marks, _ in parts])
    branches = torch.cat([torch.full_like(ids, branch) for ids, _, branch in parts])
    starts, position = [], 0
    for part, _, branch in parts:
        first = position if branch == 0 else shared
        starts.append(torch.arange(first, first + len(part)))
        position += len(part)
    return EncodedRow(ids, ids.masked_fill(~marks, IGNORE_INDEX), torch.cat(starts), branches, media)


def _visible(numbers: torch.Tensor, branches: torch.Tensor) -> torch.Tensor:
    """Makes the attention mask `(batch_size, 1, length, length)` of packed rows and of rows with branches.

    A token sees what came before it in the same row, in its own branch or in what all branches share.
    """
    seen, seeing = branches[:, None, :], branches[:, :, None]
    visible = (numbers[:, None, :] == numbers[:, :, None]) & ((seen == 0) | (seen == seeing))
    return visible.tril()[:, None]
