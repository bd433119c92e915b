"""This module declares the hooks by which the installed package adds what a checkpoint's copy of the code never runs.

`save_pretrained` copies the modules of this folder beside a checkpoint, so that it loads without the package
`omnivinci_hf`. Reading the original layout and writing model cards stay in the package, whose `registration` fills
[`HOOKS`] when it is imported. In a copy the hooks are empty: the original layout is an error there, and the text of
cards is left to Transformers.
"""

import importlib.util
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol


class OriginalLayout(Protocol):
    """This is what reads NVIDIA's own layouts; `omnivinci_hf.original_layout.loading` implements it."""

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

    def card_of_model(self, model: Any, repo_id: str, **options: Any) -> Any:
        """Renders the `huggingface_hub.ModelCard` that fits a model which is about to be pushed."""


@dataclass
class Hooks:
    """Each hook is None, or a function that imports and returns the implementation when it is first needed."""

    original_layout: Callable[[], OriginalLayout] | None = None
    model_cards: Callable[[], ModelCards] | None = None


HOOKS = Hooks()


def original_layout(name_or_path: Any) -> OriginalLayout:
    """Returns what reads the original layout, of which `name_or_path` is a checkpoint; None if it has no name.

    Raises:
        ImportError: in a checkpoint's copy of the code.
    """
    if HOOKS.original_layout is None:
        checkpoint = "This config" if name_or_path is None else name_or_path
        remedy = (
            "the package omnivinci_hf, which can, is installed: `import omnivinci_hf` and load it with the classes of "
            "that, or with Auto classes without `trust_remote_code=True`."
            if _is_package_installed()
            else "install the package omnivinci_hf and load it with the classes of that."
        )
        raise ImportError(
            f"{checkpoint} is in the original layout (`model_type` 'vila', or 'audiovisualflamingo'), which code that "
            f"came with a checkpoint cannot read: {remedy}"
        )
    return HOOKS.original_layout()


def _is_package_installed() -> bool:
    try:
        return importlib.util.find_spec("omnivinci_hf") is not None
    except ImportError:  # a finder may refuse it
        return False
