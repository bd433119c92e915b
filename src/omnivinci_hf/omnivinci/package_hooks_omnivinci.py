"""This module declares the hooks by which the installed package adds what a checkpoint's copy of the code never runs.

`save_pretrained` copies the modules of this folder beside a checkpoint, so that it loads without the package
`omnivinci_hf`. Reading the original layout and writing model cards stay in the package, whose `registration` fills
[`HOOKS`] when it is imported. In a copy the hooks are empty: the original layout is an error there, and cards are
left to Transformers.
"""

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol


class OriginalLayout(Protocol):
    """This is what reads the original five-folder layout; `omnivinci_hf.original_layout.loading` implements it."""

    def config_arguments(
        self, original: dict[str, Any], name_or_path: str, hub_options: Mapping[str, Any]
    ) -> dict[str, Any]:
        """Translates an original `config.json` into arguments of `OmniVinciConfig`."""

    def config_arguments_of_dict(
        self, original: dict[str, Any], name_or_path: str | None, commit: str | None
    ) -> dict[str, Any]:
        """As `config_arguments`, for `AutoConfig`, which does not pass on how it fetched the file."""

    def load_model(
        self, model_class: type, name_or_path: str | os.PathLike, config: Any, options: Mapping[str, Any]
    ) -> Any:
        """Returns what `model_class.from_pretrained` returns; `config` is None or given by the caller."""

    def load_processor(
        self,
        processor_class: type,
        name_or_path: str,
        original: dict[str, Any],
        hub_options: Mapping[str, Any],
        tokenizer_options: Mapping[str, Any],
        options: Mapping[str, Any],
    ) -> Any:
        """Returns a processor that fits the original `config.json`; `options` override what that says."""


class ModelCards(Protocol):
    """This is what writes model cards; `omnivinci_hf.hub.cards` implements it."""

    def complete_model_card(
        self,
        folder: str | os.PathLike,
        repo_id: str,
        model: Any = None,
        revision: str | None = None,
        token: str | bool | None = None,
    ) -> None:
        """Replaces the empty card in a folder that is about to be pushed."""


@dataclass
class Hooks:
    """Each hook is None, or a function that imports and returns the implementation when it is first needed."""

    original_layout: Callable[[], OriginalLayout] | None = None
    model_cards: Callable[[], ModelCards] | None = None


HOOKS = Hooks()


def original_layout(name_or_path: Any) -> OriginalLayout:
    """Returns what reads the original layout, of which `name_or_path` is a checkpoint.

    Raises:
        ImportError: in a checkpoint's copy of the code.
    """
    if HOOKS.original_layout is None:
        raise ImportError(
            f"{name_or_path} is in the original five-folder layout (`model_type` 'vila'), which code that came with a "
            "checkpoint cannot read: install the package omnivinci_hf and load it with the classes of that."
        )
    return HOOKS.original_layout()


class ModelCardMixin:
    """A model, processor or pipeline of this class is pushed with a fitting card, not Transformers' empty one."""

    def _upload_modified_files(self, working_dir: str | os.PathLike, repo_id: str, *args: Any, **kwargs: Any) -> Any:
        # This private method of Transformers 5.20 to 5.24 is the one place that `push_to_hub` and
        # `save_pretrained(push_to_hub=True)` pass between writing their card and uploading it. It can go when
        # Transformers lets a class make its own card.
        if HOOKS.model_cards is not None:
            model = self if hasattr(self, "num_parameters") else getattr(self, "model", None)
            cards = HOOKS.model_cards()
            cards.complete_model_card(working_dir, repo_id, model, kwargs.get("revision"), kwargs.get("token"))
        return super()._upload_modified_files(working_dir, repo_id, *args, **kwargs)  # type: ignore[misc]
