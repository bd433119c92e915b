"""Prompts: from words with placeholders to ids of final length, padded or truncated."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from .media_forms_omnivinci import flatten


MODALITY_BOUNDARIES = {kind: (f"<|{name}_bos|>", f"<|{name}_eos|>") for kind, name in
                       (("image", "image"), ("video", "video"), ("audio", "sound"))}  # fmt: skip


def is_text(words: str) -> bool:
    """Whether it can be written as UTF-8: JSON may hold halves of characters, which no tokenizer takes."""
    return not any("\ud800" <= character <= "\udfff" for character in words)


@dataclass(frozen=True)
class PromptEncoder:
    """Makes ids of prompts, and puts those of every medium in the place of its placeholder.

    Args:
        tokenizer: for the words.
        placeholders: kind of medium -> its token and the token's id.
        use_modality_boundary_tokens: as in [`OmniVinciProcessor`].
    """

    tokenizer: Any
    placeholders: Mapping[str, tuple[str, int]]
    use_modality_boundary_tokens: bool

    @property
    def media_ids(self) -> list[int]:
        return [token_id for _, token_id in self.placeholders.values()]

    def text_ids(self, text: str | None) -> list[int]:
        return self.tokenizer(text, add_special_tokens=False)["input_ids"] if text else []

    def tokenize(self, prompt: str, text: Mapping[str, Any] | None = None) -> tuple[np.ndarray, np.ndarray]:
        """Ids of a prompt, placeholders as they are, and the characters `(length, 2)` that each stands for."""
        if not is_text(prompt):
            raise ValueError("The words hold half of a character (a surrogate), which is no text; are they UTF-8?")
        settings = {name: value for name, value in (text or {}).items() if name == "add_special_tokens"}
        encoding = self.tokenizer(prompt, return_offsets_mapping=True, **settings)
        ids = np.array(encoding["input_ids"], dtype=np.int64)
        offsets = np.array(encoding["offset_mapping"], dtype=np.int64).reshape(-1, 2)
        if self.tokenizer.pad_token_id == self.tokenizer.eos_token_id:
            return ids, offsets
        # a literal padding token in the words is dropped, as in the released code
        keep = ids != self.tokenizer.pad_token_id
        return ids[keep], offsets[keep]

    def end_of_media(self, ids: np.ndarray) -> int:
        positions = np.flatnonzero(np.isin(ids, self.media_ids))
        return positions[-1] + 1 if len(positions) else 0

    def check_counts(self, rows: list[tuple[np.ndarray, np.ndarray]], media: Mapping[str, Any]) -> None:
        """Placeholders and media must match, row by row where media come as a list per text."""
        for kind, items in media.items():
            token, token_id = self.placeholders[kind]
            found = [int((ids == token_id).sum()) for ids, _ in rows]
            given = len(flatten(kind, items))
            nested = isinstance(items, list) and len(items) == len(rows) and all(isinstance(row, list) for row in items)
            for index, own in enumerate(items if nested and len(rows) > 1 else ()):
                if found[index] != len(flatten(kind, own)):
                    raise ValueError(
                        f"Text {index} has {found[index]} {token!r} placeholders but its list holds "
                        f"{len(flatten(kind, own))} {kind} inputs; they must match 1:1."
                    )
            if sum(found) != given:
                raise ValueError(
                    f"Got {sum(found)} {token!r} placeholders in the text but {given} {kind} inputs; they must match "
                    "1:1. Write one placeholder for every medium, or use `apply_chat_template`."
                )

    def expand(self, ids, offsets, remaining: Mapping[str, Any], sounds: list, spans) -> tuple[np.ndarray, np.ndarray]:
        """Put every medium's ids in the place of its placeholder.

        Args:
            remaining: kind -> iterator over the layouts of the media that are still to come.
            sounds: collects the layouts of what is heard, in order.
            spans: characters of the prompt that the mask, which is returned too, marks.
        """
        kinds = {self.placeholders[kind][1]: kind for kind in remaining}
        positions = np.flatnonzero(np.isin(ids, list(kinds)))
        events = []  # [position of the placeholder, kind, ids that stand there]
        for position in positions:
            kind = kinds[int(ids[position])]
            layout = next(remaining[kind])
            if layout.audio is not None:
                sounds.append(layout)
            if kind == "video" and layout.audio is not None:
                events.append([position, "audio", layout.sound_ids])
            events.append([position, kind, layout.ids])
        if self.use_modality_boundary_tokens:
            for kind, (bos, eos) in MODALITY_BOUNDARIES.items():
                own = [event for event in events if event[1] == kind]
                if own:
                    own[0][2] = np.concatenate([self.text_ids(bos), own[0][2]])
                    own[-1][2] = np.concatenate([own[-1][2], self.text_ids(eos)])
        mask = span_mask(offsets, spans)
        pieces, masks, done = [], [], 0
        for position in positions:
            inserted = np.concatenate([event[2] for event in events if event[0] == position])
            pieces += [ids[done:position], inserted]
            masks += [mask[done:position], np.zeros(len(inserted), dtype=np.int64)]
            done = position + 1
        return np.concatenate([*pieces, ids[done:]]), np.concatenate([*masks, mask[done:]])

    def pad(self, rows: list[np.ndarray], masks: list[np.ndarray] | None, text: Mapping[str, Any]) -> dict[str, Any]:
        """`input_ids` and `attention_mask` of a batch, and `assistant_masks` if there are masks."""
        if text.get("truncation") not in (None, False, "do_not_truncate"):
            kept = [self._kept(row, text.get("max_length") or self.tokenizer.model_max_length) for row in rows]
            rows = [row[part] for row, part in zip(rows, kept, strict=True)]
            masks = None if masks is None else [mask[part] for mask, part in zip(masks, kept, strict=True)]
        side = text.get("padding_side") or self.tokenizer.padding_side
        data = self.tokenizer.pad(
            {"input_ids": [row.tolist() for row in rows]},
            padding=text.get("padding") or False,
            padding_side=side,
            max_length=text.get("max_length"),
            pad_to_multiple_of=text.get("pad_to_multiple_of"),
            return_attention_mask=True,
            verbose=text.get("verbose", True),
        )
        data = dict(data)
        if masks is not None:
            missing = [len(ids) - len(mask) for ids, mask in zip(data["input_ids"], masks, strict=True)]
            data["assistant_masks"] = [
                [0] * gap * (side == "left") + mask.tolist() + [0] * gap * (side == "right")
                for gap, mask in zip(missing, masks, strict=True)
            ]
        return data

    def _kept(self, row: np.ndarray, max_length: int) -> slice:
        """The part of a row that truncation leaves, on the tokenizer's side."""
        left = self.tokenizer.truncation_side == "left"
        kept = slice(max(0, len(row) - max_length), None) if left else slice(None, max_length)
        if np.isin(row, self.media_ids).sum() != np.isin(row[kept], self.media_ids).sum():
            raise ValueError(
                f"`max_length`={max_length} would cut a medium in a sequence of {len(row)} tokens: raise it, or take "
                "fewer frames or seconds of sound."
            )
        return kept


def span_mask(offsets: np.ndarray, spans) -> np.ndarray:
    """1 for tokens that overlap one of the character spans."""
    mask = np.zeros(len(offsets), dtype=np.int64)
    for start, end in spans or []:
        mask |= (offsets[:, 0] < end) & (offsets[:, 1] > start)
    return mask
