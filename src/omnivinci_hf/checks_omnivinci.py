"""What a call of the model must fulfil beside its shapes: it fits into the context, and what is learned is counted."""

import torch
from transformers import PreTrainedConfig
from transformers.utils import is_torchdynamo_compiling


def refuse(bad: torch.Tensor, words: str) -> None:
    """An error where `bad ()` is True; in a compiled graph, which cannot look at it, the device raises it.

    Raises:
        ValueError: with these words.
    """
    if is_torchdynamo_compiling():
        torch._assert_async(~bad, words)
    elif bad:
        raise ValueError(words)


def context_length(text_config: PreTrainedConfig) -> int:
    """How many positions the language model was made for, scaled rotary embeddings included."""
    limit, rope = text_config.max_position_embeddings, text_config.rope_parameters or {}
    original = rope.get("original_max_position_embeddings", limit)
    return max(limit, int(original * rope.get("factor", 1.0)))


def check_context(num_tokens: int, limit: int, num_new: int = 0, asked_by: str = "max_new_tokens") -> None:
    """Sees to it that a sequence, and the new tokens that an option asks for, have room in the context.

    Raises:
        ValueError: with both numbers, and what can be lowered.
    """
    if num_tokens + num_new <= limit:
        return
    asked = f" and {num_new} new ones are asked for" if num_new else ""
    lower = f"`{asked_by}`, " if num_new else ""
    raise ValueError(
        f"The sequence has {num_tokens} tokens{asked}, but the model's context (`max_position_embeddings`) has room "
        f"for {limit}: lower {lower}`num_frames`, `fps` or `max_audio_sec`, or take a shorter range (`start_sec`, "
        "`end_sec`)."
    )


def check_rows(
    length: int, limit: int, attention_mask: torch.Tensor | None = None, position_ids: torch.Tensor | None = None
) -> None:
    """As `check_context`, for a batch of padded or packed rows; the device is asked only where `length` is above."""
    if length <= limit:
        return
    longest = longest_row(length, attention_mask, position_ids)
    if isinstance(longest, torch.Tensor) and is_torchdynamo_compiling():
        refuse(longest > limit, f"A row is longer than the context of {limit} tokens.")
    else:
        check_context(int(longest), limit)


def longest_row(
    length: int, attention_mask: torch.Tensor | None, position_ids: torch.Tensor | None
) -> torch.Tensor | int:
    """How many tokens the longest row of a batch has without its padding, and without the rows packed beside it."""
    if position_ids is not None:
        return position_ids.max() + 1
    if attention_mask is not None and attention_mask.ndim == 2:
        return attention_mask.sum(-1).max()
    return length
