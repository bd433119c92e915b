"""This module reads recipes, which say what parts of the model learn in a stage of training, and how fast."""

import re
from dataclasses import dataclass, field, fields
from importlib import resources
from pathlib import Path
from typing import Any, TypeVar

import yaml
from torch import nn
from transformers.utils import ADAPTER_SAFE_WEIGHTS_NAME

from ..omnivinci.checkpoint_files_omnivinci import component_file
from ..omnivinci.checks_omnivinci import check_number
from ..omnivinci.options_omnivinci import CALL_OPTIONS, flat_options, option_checks


# the parts of the model that a recipe may name, and how the names of their parameters begin
PART_PREFIXES = {
    "vision_tower": ("model.vision_tower.",),
    "vision_projector": ("model.vision_projector.", "model.video_time_embedding."),
    "audio_tower": ("model.audio_tower.",),
    "audio_projector": ("model.audio_projector.", "model.audio_time_embedding."),
    "language_model": ("model.language_model.", "lm_head."),
    "omni_align_net": ("model.omni_align_net.",),
}
LORA = "lora"
ModelT = TypeVar("ModelT", bound=nn.Module)
QUANTIZATIONS = ("int8", "nf4")
# options of the processor that the collator sets itself
COLLATOR_OPTIONS = option_checks("text", "output")
# arguments of peft's LoraConfig that say how a new adapter begins, and nothing about a saved one
NEW_ADAPTERS_ONLY = ("init_lora_weights",)


@dataclass(frozen=True)
class Recipe:
    """
    A recipe is a stage of training as plain data. What `learning_rates` does not name of a model keeps every bit.

    Args:
        name (`str`): of the file that it came from.
        learning_rates (`dict[str, float]`): learning rate of each part that learns: `vision_tower`, `vision_projector`,
            `audio_tower`, `audio_projector` (each projector with the time embedding behind it, if that has weights),
            `language_model` (with its head), `omni_align_net`, and `lora` for the adapter.
        summary, data (`str`): what happens, and on what kind of data.
        follows (`str`, *optional*): the recipe whose result this one starts from.
        omni_align_config (`dict`, *optional*): adds OmniAlignNet to a checkpoint that lacks it.
        lora (`dict`, *optional*): arguments of [`peft.LoraConfig`].
        quantization (`"int8"` or `"nf4"`, *optional*): of the weights below an adapter.
        processor_options (`dict`): options of a call of the processor, but for those of the text and of the result.
        arguments (`dict`): [`TrainingArguments`] that differ from the defaults; the command line has the last word.
        rewards (`dict`, *optional*): makes the stage one of reinforcement by GRPO: names of rewards with their weights
            or options, see [`training.rewards.load_rewards`]. `arguments` are those of `trl.GRPOConfig` then.
    """

    name: str
    learning_rates: dict[str, float]
    summary: str = ""
    data: str = ""
    follows: str | None = None
    omni_align_config: dict[str, Any] | None = None
    lora: dict[str, Any] | None = None
    quantization: str | None = None
    processor_options: dict[str, Any] = field(default_factory=dict)
    arguments: dict[str, Any] = field(default_factory=dict)
    rewards: dict[str, Any] | None = None

    def __post_init__(self):
        self._check_learning_rates()
        self._check_mappings()
        self._check_processor_options()
        if "learning_rate" in self.arguments:
            raise ValueError(f"Recipe {self.name!r}: learning rates stand in `learning_rates`, not in `arguments`.")
        self._check_quantization()
        self._check_rewards()

    def _check_learning_rates(self) -> None:
        """Raises ValueError for parts that the model does not have, and for rates that are none."""
        if not self.learning_rates:
            raise ValueError(
                f"Recipe {self.name!r} lets nothing learn; name at least one of "
                f"{[*PART_PREFIXES, LORA]} in `learning_rates`."
            )
        if unknown := sorted(set(self.learning_rates) - {*PART_PREFIXES, LORA}):
            raise ValueError(
                f"Recipe {self.name!r}: `learning_rates` has no {unknown}; it has {[*PART_PREFIXES, LORA]}."
            )
        for part, rate in self.learning_rates.items():
            check_number(f"learning_rates.{part}", rate)
        if (self.lora is None) != (LORA not in self.learning_rates):
            raise ValueError(f"Recipe {self.name!r}: `lora` and `learning_rates.lora` (its learning rate) go together.")

    def _check_mappings(self) -> None:
        """Raises ValueError for a field that must be a mapping and is none."""
        for name in ("processor_options", "arguments"):
            if not isinstance(getattr(self, name), dict):
                raise ValueError(f"Recipe {self.name!r}: `{name}` must be a mapping, got {getattr(self, name)!r}.")
        for name in ("lora", "omni_align_config", "rewards"):
            if not isinstance(getattr(self, name), (dict, type(None))):
                raise ValueError(f"Recipe {self.name!r}: `{name}` must be a mapping, got {getattr(self, name)!r}.")

    def _check_quantization(self) -> None:
        """Raises ValueError for an unknown quantization, and for quantized weights that would have to learn."""
        if self.quantization not in (None, *QUANTIZATIONS):
            raise ValueError(f"Recipe {self.name!r}: `quantization` must be one of {QUANTIZATIONS}.")
        if self.quantization and (self.lora is None or "language_model" in self.learning_rates):
            raise ValueError(f"Recipe {self.name!r}: quantized weights cannot learn; use `lora`.")

    def _check_rewards(self) -> None:
        """Raises ValueError for what reinforcement cannot train."""
        if self.rewards is None:
            return
        if "omni_align_net" in self.learning_rates or self.omni_align_config is not None:
            raise ValueError(f"Recipe {self.name!r}: rewards do not train an OmniAlignNet; leave it out.")
        if self.quantization is not None:
            raise ValueError(f"Recipe {self.name!r}: `rewards` do not train above quantized weights; leave one out.")

    def _check_processor_options(self) -> None:
        """Raises ValueError for an option of the processor that is unknown, wrong, or not a recipe's to set."""
        try:
            options = flat_options("`processor_options`", ("in `processor_options`", self.processor_options))
        except (TypeError, ValueError) as error:
            text = re.sub(r"`(\w+)`", _as_recipe_key, str(error))
            raise ValueError(f"Recipe {self.name!r}: {text}") from error
        if refused := sorted(options.keys() & COLLATOR_OPTIONS.keys()):
            raise ValueError(
                f"Recipe {self.name!r}: `processor_options` cannot have {refused}, which the collator sets itself: "
                "leave them out, and give `max_length` or `packing` with the training."
            )

    @property
    def trainable_parts(self) -> list[str]:
        """Names the parts of the model whose own weights learn, without the adapter."""
        return [part for part in self.learning_rates if part != LORA]


def recipe_names() -> list[str]:
    """Lists the names of the recipes that come with the package."""
    return sorted(entry.name.removesuffix(".yaml") for entry in _folder().iterdir() if entry.name.endswith(".yaml"))


def load_recipe(name: str | Path) -> Recipe:
    """Reads a recipe by its name, or from a YAML file of one's own.

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
    if isinstance(values, dict) and "learn" in values:
        raise ValueError(f"{name}: the key `learn` is called `learning_rates` now; rename it.")
    if not isinstance(values, dict) or not isinstance(values.get("learning_rates"), dict):
        raise ValueError(f"{name} must be a mapping with `learning_rates`: learning rates by part of the model.")
    values["learning_rates"] = {part: _as_number(rate) for part, rate in values["learning_rates"].items()}
    known = {entry.name for entry in fields(Recipe)} - {"name"}
    if unknown := sorted(set(values) - known):
        raise ValueError(f"{name} has unknown keys {unknown}; known are {sorted(known)}.")
    return Recipe(name=source.stem if is_file else str(name), **values)


def _as_recipe_key(match: re.Match) -> str:
    """Names an option of the processor as it stands in a recipe."""
    return f"`processor_options.{match[1]}`" if match[1] in CALL_OPTIONS else match[0]


def _as_number(rate: Any) -> Any:
    try:
        return float(rate)  # YAML takes 1e-3, without a point, for a word
    except (TypeError, ValueError):
        return rate


def part_of(parameter_name: str) -> str | None:
    """Tells to which part of the model a parameter belongs, in the terms of `Recipe.learning_rates`.

    Names that peft gives are understood too; None stands for a parameter of no part.
    """
    name = parameter_name.removeprefix("base_model.model.")
    if ".lora_" in name:
        return LORA
    return next((part for part, prefixes in PART_PREFIXES.items() if name.startswith(prefixes)), None)


def apply_recipe(model: nn.Module, recipe: Recipe, adapter: str | None = None) -> nn.Module:
    """Freezes what does not learn, and puts the adapter on: a new one, or a saved one whose training goes on.

    Args:
        adapter: folder or Hub id of the saved adapter.

    Returns:
        the model to train, a [`PeftModel`] if the recipe has `lora`.

    It only ever freezes: what the classes freeze themselves (parts that are never run, tables of sinusoids) stays so,
    hence start each stage from a model that was just loaded.

    Raises:
        ValueError: when the model has no part that shall learn, or the recipe contradicts the saved adapter.
    """
    can_learn = [name for name, parameter in model.named_parameters() if parameter.requires_grad]
    for part in recipe.trainable_parts:
        if not any(part_of(name) == part for name in can_learn):
            raise ValueError(
                f"Recipe {recipe.name!r} trains {part!r}, but this model has no such weights that can learn."
            )
    trainable = {name for name in can_learn if part_of(name) in recipe.trainable_parts}
    if recipe.lora is not None:
        model = _with_adapter(model, recipe, adapter)
    for name, parameter in model.named_parameters():
        # peft trains copies of whole modules, which it saves with the adapter
        name_in_model = name.removeprefix("base_model.model.").replace(".modules_to_save.default.", ".")
        parameter.requires_grad_(part_of(name) == LORA or name_in_model in trainable)
    return model


def load_adapter(model: nn.Module, adapter: str | Path, is_trainable: bool = False):
    """Makes a [`PeftModel`] of a model and a saved adapter, which stay apart until it is trained or merged.

    Raises:
        ValueError: when the adapter's weights are a pickle.
    """
    from peft import PeftModel

    if component_file(str(adapter), "", ADAPTER_SAFE_WEIGHTS_NAME, {}) is None:
        raise ValueError(f"{adapter} has no {ADAPTER_SAFE_WEIGHTS_NAME}, and pickled adapters are never read.")
    return PeftModel.from_pretrained(model, str(adapter), is_trainable=is_trainable)


def merge_saved_adapter(model: ModelT, adapter: str | Path) -> ModelT:
    """Merges a saved adapter into a model's weights; the same of them can learn as before."""
    trainable = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    merged = load_adapter(model, adapter).merge_and_unload()
    for name, parameter in merged.named_parameters():
        parameter.requires_grad_(name in trainable)
    return merged


def _with_adapter(model: nn.Module, recipe: Recipe, adapter: str | None) -> nn.Module:
    """Puts a new adapter on a model, or a saved one that the recipe does not contradict."""
    try:
        from peft import PeftConfig, get_peft_model
    except ImportError as error:
        raise ImportError("LoRA needs the package peft: pip install peft") from error
    config = _lora_config(model, recipe)
    if adapter is None:
        return get_peft_model(model, config)
    saved = PeftConfig.from_pretrained(adapter)
    for name in {**(recipe.lora or {}), "modules_to_save": None}:
        in_adapter, in_recipe = (_comparable(getattr(one, name, None)) for one in (saved, config))
        if name not in NEW_ADAPTERS_ONLY and in_adapter != in_recipe and in_recipe != "all-linear":
            raise ValueError(
                f"Recipe {recipe.name!r} contradicts the adapter {adapter}, whose training would go on: `{name}` is "
                f"{in_recipe!r} there and {in_adapter!r} here. Take the adapter's own, or merge it first (`train "
                "--merge` writes the folder `merged`) and begin a new adapter on the result."
            )
    return load_adapter(model, adapter, is_trainable=True)


def _lora_config(model: nn.Module, recipe: Recipe):
    """The [`LoraConfig`] of a recipe: parts that learn themselves are trained whole, and saved with the adapter."""
    from peft import LoraConfig

    with_weights = {
        name.rpartition(".")[2] for name, module in model.named_modules() if any(True for _ in module.parameters())
    }
    prefixes = [prefix for part in recipe.trainable_parts for prefix in PART_PREFIXES[part]]
    names = [prefix.removeprefix("model.").removesuffix(".") for prefix in prefixes]
    options = dict(recipe.lora or {})
    whole = [*(options.pop("modules_to_save", None) or ()), *(name for name in names if name in with_weights)]
    try:
        return LoraConfig(modules_to_save=whole or None, **options)
    except TypeError as error:
        raise ValueError(f"Recipe {recipe.name!r}: `lora` does not fit peft's LoraConfig: {error}") from error


def _comparable(value: Any) -> Any:
    """A value of a LoraConfig so that lists compare as sets, and what is empty as what is absent."""
    return sorted(value) if isinstance(value, (list, tuple, set)) else value or None


def _folder():
    return resources.files(__package__) / "recipes"
