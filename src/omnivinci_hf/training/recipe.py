"""Recipes: which parts of the model learn in a stage of training, and how fast."""

from dataclasses import dataclass, field, fields
from importlib import resources
from pathlib import Path
from typing import Any

import yaml
from torch import nn
from transformers.utils import ADAPTER_SAFE_WEIGHTS_NAME

from ..omnivinci.configuration_omnivinci import check_number
from ..omnivinci.original_config_omnivinci import component_file


# what a recipe may name, and where it lies in the model
MODULES = {
    "vision_tower": ("model.vision_tower.",),
    "vision_projector": ("model.vision_projector.", "model.video_time_embedding."),
    "audio_tower": ("model.audio_tower.",),
    "audio_projector": ("model.audio_projector.", "model.audio_time_embedding."),
    "language_model": ("model.language_model.", "lm_head."),
    "omni_align_net": ("model.omni_align_net.",),
}
LORA = "lora"
QUANTIZATIONS = ("int8", "nf4")
# of peft's LoraConfig: how a new adapter begins
NEW_ADAPTERS_ONLY = ("init_lora_weights",)


@dataclass(frozen=True)
class Recipe:
    """
    A stage of training, as plain data. Parts of the model that `learn` does not name keep every bit.

    Args:
        name (`str`): of the file that it came from.
        learn (`dict[str, float]`): learning rate of each part that learns: `vision_tower`, `vision_projector`,
            `audio_tower`, `audio_projector` (each projector with the time embedding behind it, if that has weights),
            `language_model` (with its head), `omni_align_net`, and `lora` for the adapter.
        summary, data (`str`): what happens, and on what kind of data.
        follows (`str`, *optional*): the recipe whose result this one starts from.
        omni_align_config (`dict`, *optional*): adds OmniAlignNet to a checkpoint that lacks it.
        lora (`dict`, *optional*): arguments of [`peft.LoraConfig`].
        quantization (`"int8"` or `"nf4"`, *optional*): of the weights below an adapter.
        processor_options (`dict`): options of a call of the processor.
        arguments (`dict`): [`TrainingArguments`] that differ from the defaults; the command line has the last word.
    """

    name: str
    learn: dict[str, float]
    summary: str = ""
    data: str = ""
    follows: str | None = None
    omni_align_config: dict[str, Any] | None = None
    lora: dict[str, Any] | None = None
    quantization: str | None = None
    processor_options: dict[str, Any] = field(default_factory=dict)
    arguments: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self):
        if not self.learn:
            raise ValueError(f"Recipe {self.name!r} lets nothing `learn`; name at least one of {[*MODULES, LORA]}.")
        if unknown := sorted(set(self.learn) - {*MODULES, LORA}):
            raise ValueError(f"Recipe {self.name!r}: `learn` has no {unknown}; it has {[*MODULES, LORA]}.")
        for module, rate in self.learn.items():
            check_number(f"learn.{module}", rate)
        if (self.lora is None) != (LORA not in self.learn):
            raise ValueError(f"Recipe {self.name!r}: `lora` and `learn.lora` (its learning rate) go together.")
        for name in ("processor_options", "arguments"):
            if not isinstance(getattr(self, name), dict):
                raise ValueError(f"Recipe {self.name!r}: `{name}` must be a mapping, got {getattr(self, name)!r}.")
        for name in ("lora", "omni_align_config"):
            if not isinstance(getattr(self, name), (dict, type(None))):
                raise ValueError(f"Recipe {self.name!r}: `{name}` must be a mapping, got {getattr(self, name)!r}.")
        if "learning_rate" in self.arguments:
            raise ValueError(f"Recipe {self.name!r}: learning rates stand in `learn`, not in `arguments`.")
        if self.quantization not in (None, *QUANTIZATIONS):
            raise ValueError(f"Recipe {self.name!r}: `quantization` must be one of {QUANTIZATIONS}.")
        if self.quantization and (self.lora is None or "language_model" in self.learn):
            raise ValueError(f"Recipe {self.name!r}: quantized weights cannot learn; use `lora`.")

    @property
    def parts(self) -> list[str]:
        """The parts of the model that learn themselves, without the adapter."""
        return [part for part in self.learn if part != LORA]


def recipe_names() -> list[str]:
    """Names of the recipes that come with the package."""
    return sorted(entry.name.removesuffix(".yaml") for entry in _folder().iterdir() if entry.name.endswith(".yaml"))


def load_recipe(name: str | Path) -> Recipe:
    """A recipe by its name, or from a YAML file of one's own.

    Raises:
        ValueError: when there is no such recipe, or its file is wrong.
    """
    source = Path(name)
    is_file = source.suffix in (".yaml", ".yml")
    if not is_file and str(name) not in recipe_names():
        raise ValueError(
            f"There is no recipe {str(name)!r}; there are {', '.join(recipe_names())}, or give a .yaml file."
        )
    text = (source if is_file else _folder() / f"{name}.yaml").read_text(encoding="utf-8")
    try:
        values = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ValueError(f"{name} is no YAML: {error}") from error
    if not isinstance(values, dict) or not isinstance(values.get("learn"), dict):
        raise ValueError(f"{name} must be a mapping with `learn`: learning rates by part of the model.")
    values["learn"] = {part: _as_number(rate) for part, rate in values["learn"].items()}
    known = {entry.name for entry in fields(Recipe)} - {"name"}
    if unknown := sorted(set(values) - known):
        raise ValueError(f"{name} has unknown keys {unknown}; known are {sorted(known)}.")
    return Recipe(name=source.stem if is_file else str(name), **values)


def _as_number(rate: Any) -> Any:
    try:
        return float(rate)  # YAML takes 1e-3, without a point, for a word
    except (TypeError, ValueError):
        return rate


def module_of(parameter_name: str) -> str | None:
    """The part of the model that a parameter belongs to, in the terms of `Recipe.learn`; peft's names too."""
    name = parameter_name.removeprefix("base_model.model.")
    if ".lora_" in name:
        return LORA
    return next((part for part, prefixes in MODULES.items() if name.startswith(prefixes)), None)


def apply_recipe(model: nn.Module, recipe: Recipe, adapter: str | None = None) -> nn.Module:
    """Freeze what does not learn and put the adapter on, a new one or the saved `adapter`, whose training goes on;
    returns the model to train, a [`PeftModel`] with `lora`.

    It only ever freezes: what the classes freeze themselves (parts that are never run, tables of sinusoids) stays so,
    hence start each stage from a model that was just loaded.

    Raises:
        ValueError: when the model has no part that shall learn, or the recipe contradicts the saved adapter.
    """
    kept = [name for name, parameter in model.named_parameters() if parameter.requires_grad]
    for part in recipe.parts:
        if not any(module_of(name) == part for name in kept):
            raise ValueError(
                f"Recipe {recipe.name!r} trains {part!r}, but this model has no such weights that can learn."
            )
    learned = {name for name in kept if module_of(name) in recipe.parts}
    if recipe.lora is not None:
        model = _with_adapter(model, recipe, adapter)
    for name, parameter in model.named_parameters():
        # peft trains copies of whole modules, which it saves with the adapter
        own_name = name.removeprefix("base_model.model.").replace(".modules_to_save.default.", ".")
        parameter.requires_grad_(module_of(name) == LORA or own_name in learned)
    return model


def load_adapter(model: nn.Module, adapter: str | Path, is_trainable: bool = False):
    """A [`PeftModel`] of the model with a saved adapter; both are left as they are until it is trained or merged.

    Raises:
        ValueError: when the adapter's weights are a pickle.
    """
    from peft import PeftModel

    if component_file(str(adapter), "", ADAPTER_SAFE_WEIGHTS_NAME, {}) is None:
        raise ValueError(f"{adapter} has no {ADAPTER_SAFE_WEIGHTS_NAME}, and pickled adapters are never read.")
    return PeftModel.from_pretrained(model, str(adapter), is_trainable=is_trainable)


def merge_saved_adapter(model: nn.Module, adapter: str | Path) -> nn.Module:
    """The model with a saved adapter in its weights, of which the same can learn as before."""
    learnable = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    merged = load_adapter(model, adapter).merge_and_unload()
    for name, parameter in merged.named_parameters():
        parameter.requires_grad_(name in learnable)
    return merged


def _with_adapter(model: nn.Module, recipe: Recipe, adapter: str | None):
    try:
        from peft import LoraConfig, PeftConfig, get_peft_model
    except ImportError as error:
        raise ImportError("LoRA needs the package peft: pip install peft") from error
    whole = [prefix.removeprefix("model.").removesuffix(".") for part in recipe.parts for prefix in MODULES[part]]
    present = {
        name.rpartition(".")[2] for name, module in model.named_modules() if any(True for _ in module.parameters())
    }
    options = dict(recipe.lora)
    whole = [*(options.pop("modules_to_save", None) or ()), *(name for name in whole if name in present)]
    try:
        config = LoraConfig(modules_to_save=whole or None, **options)
    except TypeError as error:
        raise ValueError(f"Recipe {recipe.name!r}: `lora` does not fit peft's LoraConfig: {error}") from error
    if adapter is None:
        return get_peft_model(model, config)
    saved = PeftConfig.from_pretrained(adapter)
    for name in (*options, "modules_to_save"):
        found, wanted = (_comparable(getattr(one, name, None)) for one in (saved, config))
        if name not in NEW_ADAPTERS_ONLY and found != wanted and wanted != "all-linear":
            raise ValueError(
                f"Recipe {recipe.name!r} contradicts the adapter {adapter}, whose training would go on: `{name}` is "
                f"{wanted!r} there and {found!r} here. Take the adapter's own, or merge it first (`train --merge` "
                "writes the folder `merged`) and begin a new adapter on the result."
            )
    return load_adapter(model, adapter, is_trainable=True)


def _comparable(value: Any) -> Any:
    return sorted(value) if isinstance(value, (list, tuple, set)) else value or None


def _folder():
    return resources.files(__package__) / "recipes"
