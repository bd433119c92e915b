"""This module decides which model card a push has: one that somebody wrote, one that fits the model, or none.

The text of the fitting one comes from the installed package (`omnivinci_hf.hub.cards`), through a hook. In a
checkpoint's copy of the code a model keeps Transformers' empty card.
"""

import os
import re
from pathlib import Path
from typing import Any

from huggingface_hub import HfApi, ModelCard, ModelCardData
from huggingface_hub.errors import EntryNotFoundError, RevisionNotFoundError

from .package_hooks_omnivinci import HOOKS


# `push_to_hub` of Transformers puts this into the empty card that it writes.
PLACEHOLDER = (
    "This is the model card of a 🤗 transformers model that has been pushed on the Hub. This model card has been "
    "automatically generated."
)


class ModelCardMixin:
    """A model, processor or pipeline of this class is pushed with a fitting card, not Transformers' empty one."""

    def _upload_modified_files(self, working_dir: str | os.PathLike, repo_id: str, *args: Any, **kwargs: Any) -> Any:
        # This private method of Transformers 5.20 to 5.24 is the one place that `push_to_hub` and
        # `save_pretrained(push_to_hub=True)` pass between writing their card and uploading it. It can go when
        # Transformers lets a class make its own card.
        model = self if hasattr(self, "num_parameters") else getattr(self, "model", None)
        complete_model_card(working_dir, repo_id, model, kwargs.get("revision"), kwargs.get("token"))
        return super()._upload_modified_files(working_dir, repo_id, *args, **kwargs)  # type: ignore[misc]


def complete_model_card(
    folder: str | os.PathLike,
    repo_id: str,
    model: Any = None,
    revision: str | None = None,
    token: str | bool | None = None,
) -> None:
    """Replaces Transformers' empty card in a `folder` that is about to be pushed by one that fits the model.

    A card that somebody wrote is left alone, also on another branch, where Transformers does not look for one. Without
    `model` (a processor is pushed) the empty card is deleted.
    """
    path = Path(folder) / "README.md"
    card = ModelCard.load(path, ignore_metadata_errors=True) if path.exists() else None
    if card is not None and not is_placeholder(card):
        return
    if card is not None and (model is None or _has_written_card(repo_id, revision, token)):
        path.unlink()
    elif model is not None and HOOKS.model_cards is not None:
        HOOKS.model_cards().card_of_model(model, repo_id, tags=card and card.data.tags or []).save(path)


def is_placeholder(card: ModelCard) -> bool:
    """Says whether this is the empty card that Transformers or PEFT writes, with nothing added."""
    empty = [ModelCard.from_template(ModelCardData(), **more) for more in ({"model_description": PLACEHOLDER}, {})]
    text = re.sub(r"### Framework versions\s+- PEFT \S+\s*$", "", card.text)
    metadata = card.data.to_dict()
    written_by_libraries = {"tags", "library_name"}
    if metadata.get("library_name") == "peft":
        written_by_libraries |= {"base_model", "pipeline_tag"}
    return metadata.keys() <= written_by_libraries and text.split() in [other.text.split() for other in empty]


def pushed_card(repo_id: str, revision: str | None, token: str | bool | None) -> ModelCard | None:
    """Returns the card that a repository has, or None if it has none."""
    try:
        file = HfApi().hf_hub_download(repo_id, "README.md", revision=revision, token=token)
    except (EntryNotFoundError, RevisionNotFoundError):
        return None
    return ModelCard(Path(file).read_text(encoding="utf-8"), ignore_metadata_errors=True)


def _has_written_card(repo_id: str, revision: str | None, token: str | bool | None) -> bool:
    """Says whether a branch of the repository has a card that is not empty."""
    if revision is None:
        return False  # Transformers looked at the main branch
    card = pushed_card(repo_id, revision, token)
    return card is not None and not is_placeholder(card)
