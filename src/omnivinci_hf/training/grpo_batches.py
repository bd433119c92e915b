"""This module groups the rows of a generation by their prompts, and orders the prompts of an epoch, for GRPO."""

import copy
from collections.abc import Sequence
from typing import Any, Protocol

import torch
from torch.utils.data import Sampler
from trl.trainer.utils import RepeatSampler

from ..omnivinci.conversation_omnivinci import MediaPart, parse_part
from .collator import EncodedRow, join_branches


class _Trained(Protocol):
    train_epoch: int


class EpochSampler(Sampler):
    """The sampler seeds TRL's for each epoch, which it asks the trainer for when it begins."""

    def __init__(self, sampler: RepeatSampler, trainer: _Trained):
        self.sampler, self.trainer = sampler, trainer

    def __len__(self) -> int:
        return len(self.sampler)

    def __iter__(self):
        if self.sampler.shuffle:
            self.sampler.generator.manual_seed((self.sampler.seed or 0) + self.trainer.train_epoch)
        return iter(self.sampler)


def frozen_copy(model: torch.nn.Module) -> torch.nn.Module:
    """Copies what learns of a model, and shares the rest."""
    shared: dict[int, torch.Tensor] = {id(value): value for value in model.parameters() if not value.requires_grad}
    shared |= {id(value): value for value in model.buffers()}
    return copy.deepcopy(model, shared).requires_grad_(False).eval()


def group_by_prompt(prompts: Sequence[EncodedRow]) -> list[list[int]]:
    """Groups rows by their prompt, in the order in which the prompts first come."""
    groups: dict[int, list[int]] = {}
    for row, prompt in enumerate(prompts):
        groups.setdefault(id(prompt), []).append(row)
    return list(groups.values())


def join_completions(
    prompts: list[EncodedRow], group: list[int], completions: torch.Tensor, mask: torch.Tensor
) -> EncodedRow:
    """Joins a prompt and the completions of the rows of a group; each begins with the last token of the prompt."""
    prompt = prompts[group[0]]
    head, last = prompt.ids[:-1], prompt.ids[-1:]
    parts = [(head, torch.zeros_like(head, dtype=torch.bool), 0)]
    for number, row in enumerate(group, 1):
        answer = completions[row][mask[row]].cpu()
        ids = torch.cat((last, answer))
        parts.append((ids, torch.arange(len(ids)) > 0, number))
    return join_branches(parts, prompt.media)


def regroup_by_prompt(batches: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Regroups the rows of several batches, prompt by prompt in the order in which these first come."""
    prompts = [prompt for batch in batches for prompt in batch["row_prompts"]]
    order = sum(group_by_prompt(prompts), [])
    size = len(prompts) // len(batches)
    regrouped: list[dict[str, Any]] = [{} for _ in batches]
    for name, value in batches[0].items():
        if isinstance(value, torch.Tensor) and value.ndim == 0:
            parts: Any = [value] * len(batches)
        elif isinstance(value, torch.Tensor):
            parts = torch.cat([batch[name] for batch in batches])[order].split(size)
        else:
            flat = [one for batch in batches for one in batch[name]]
            parts = [[flat[row] for row in order[start : start + size]] for start in range(0, len(order), size)]
        for batch, part in zip(regrouped, parts, strict=True):
            batch[name] = part
    return regrouped


def strip_media(messages: list[dict]) -> list[dict]:
    """Leaves of the media of a prompt only their paths: TRL copies and gathers prompts.

    Every content becomes a list of parts: a table of completions has one type in a column.
    """
    return [{**message, "content": _strip_content(message["content"])} for message in messages]


def _strip_content(content: Any) -> list[dict]:
    parts = [content] if isinstance(content, str) else [parse_part(part) for part in content]
    return [
        {"type": part.modality, "path": part.source if isinstance(part.source, str) else None}
        if isinstance(part, MediaPart)
        else {"type": "text", "text": part}
        for part in parts
    ]
