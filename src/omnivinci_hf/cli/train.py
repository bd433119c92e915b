"""This module is the command `train`: a recipe, data, and every option of Transformers' trainer."""

import argparse
from dataclasses import fields, replace
from typing import Any, cast

import torch
from transformers import HfArgumentParser, TrainingArguments
from transformers.hf_argparser import string_to_bool

from ..omnivinci.configuration_omnivinci import OmniVinciConfig
from ..training.estimate import estimate_memory, format_estimate
from ..training.recipe import Recipe, load_recipe, recipe_names
from ..training.run import StageOptions, train_stage
from .commands import processor_options


# names of Trainer's `optim` that differ from AdamW in what they hold
ESTIMATED_OPTIMIZERS = {
    "adamw_8bit": "adamw_8bit",
    "adamw_bnb_8bit": "adamw_8bit",
    "paged_adamw_8bit": "adamw_8bit",
    "sgd": "sgd",
}


class _TrainerOptions(HfArgumentParser):
    """The parser takes a flag without a value for true, also where the default is None, as of `GRPOConfig.bf16`."""

    def add_argument(self, *names: Any, **options: Any):
        if options.get("type") is string_to_bool:
            options = {"nargs": "?", "const": True, **options}
        return super().add_argument(*names, **options)

    def error(self, message: str):
        name = _public_name(cast(Any, self.dataclass_types)[0])
        raise ValueError(f"{message} (options of `{name}` follow those of train --help)")


def _public_name(kind: type) -> str:
    """Names a class by the package that exports it."""
    return f"{kind.__module__.partition('.')[0]}.{kind.__name__}"


def run_train(arguments: argparse.Namespace) -> None:
    """Trains by a recipe, lists the recipes, or estimates the memory of a run."""
    if arguments.list_recipes:
        for name in recipe_names():
            print(f"{name:30} {load_recipe(name).summary}")
        return
    if arguments.estimate:
        if not arguments.recipe:
            raise ValueError("train --estimate needs --recipe (see omnivinci-hf train --help)")
        print_estimate(arguments)
        return
    missing = [name for name in ("recipe", "model", "data") if not getattr(arguments, name)]
    if missing:
        raise ValueError(f"train needs --{missing[0]} (see omnivinci-hf train --help)")
    recipe = with_rewards(load_recipe(arguments.recipe), arguments.reward)
    training = parse_training_arguments(recipe, arguments.rest)
    if any(option.split("=")[0] in ("--learning_rate", "--learning-rate") for option in arguments.rest):
        # one rate for all that learns
        recipe.learning_rates.update(dict.fromkeys(recipe.learning_rates, training.learning_rate))
    names = {entry.name for entry in fields(StageOptions)} - {"processor_options"}
    options = StageOptions(
        **{name: getattr(arguments, name) for name in names},
        processor_options=processor_options(arguments),
    )
    train_stage(recipe, options, training)


def print_estimate(arguments: argparse.Namespace) -> None:
    """Prints the memory that a run would need, from the configuration alone.

    Raises:
        ValueError: for a recipe with rewards.
    """
    recipe = load_recipe(arguments.recipe)
    if recipe.rewards is not None:
        raise ValueError(f"--estimate does not know the rollouts of recipe {recipe.name!r}: leave it out.")
    # the machine of the estimate needs no accelerator
    training = parse_training_arguments(recipe, [*arguments.rest, "--use_cpu", "true"])
    config = _estimated_config(recipe, arguments.model)
    trainable = [*recipe.trainable_parts, *(["lm_head"] if "language_model" in recipe.trainable_parts else [])]
    is_full = _has_full_weights(recipe, arguments, config)
    dtype = "bfloat16" if not is_full else "mixed" if training.bf16 else "float32"
    estimate = estimate_memory(
        config,
        trainable,
        dtype=dtype,
        batch_size=training.per_device_train_batch_size,
        num_frames=arguments.num_frames or 0,
        audio_sec=arguments.audio_sec,
        text_tokens=arguments.text_tokens,
        gradient_checkpointing=bool(training.gradient_checkpointing),
        optimizer=ESTIMATED_OPTIMIZERS.get(str(getattr(training.optim, "value", training.optim)), "adamw"),
        lora_rank=None if recipe.lora is None else recipe.lora.get("r", 8),
        quantization=recipe.quantization,
        num_processes=arguments.num_processes,
        sharding=arguments.sharding,
    )
    print(
        f"recipe {recipe.name}, {dtype} weights; {training.per_device_train_batch_size} rows of "
        f"{arguments.num_frames or 0} frames, {arguments.audio_sec:g} s of audio and {arguments.text_tokens} tokens"
    )
    print(format_estimate(estimate))


def _estimated_config(recipe: Recipe, model: str | None) -> OmniVinciConfig:
    """Returns the configuration that a run would train: the checkpoint's or the default one, with the recipe's part."""
    config = OmniVinciConfig.from_pretrained(model) if model else OmniVinciConfig()
    if recipe.omni_align_config is not None and config.omni_align_config is None:
        config = OmniVinciConfig.from_dict(config.to_dict(), omni_align_config=recipe.omni_align_config)
    return config


def _has_full_weights(recipe: Recipe, arguments: argparse.Namespace, config: OmniVinciConfig) -> bool:
    """Tells whether a run would hold its weights in float32."""
    weights = arguments.dtype or ("float32" if recipe.lora is None else "auto")
    return weights == "float32" or (
        weights == "auto" and config.dtype in (None, torch.float32) and bool(arguments.model)
    )


def with_rewards(recipe: Recipe, words: list[str] | None) -> Recipe:
    """Gives a recipe the rewards of the command line, `NAME` or `NAME=WEIGHT` each, with the options that it has.

    Raises:
        ValueError: for a recipe without rewards, or a weight that is no number.
    """
    if not words:
        return recipe
    if recipe.rewards is None:
        raise ValueError(f"--reward is for recipes with rewards, such as grpo, and {recipe.name!r} has none.")
    rewards: dict[str, Any] = {}
    for word in words:
        name, mark, weight = word.rpartition("=") if "=" in word else (word, "", "")
        options = recipe.rewards.get(name)
        rewards[name] = dict(options) if isinstance(options, dict) else {"weight": 1.0 if options is None else options}
        if mark:
            try:
                rewards[name]["weight"] = float(weight)
            except ValueError:
                raise ValueError(f"--reward {word}: the weight must be a number, got {weight!r}.") from None
    return replace(recipe, rewards=rewards)


def arguments_class(recipe: Recipe) -> type[TrainingArguments]:
    """Returns the class of a run's arguments: `trl.GRPOConfig` for a recipe with rewards.

    Raises:
        ValueError: when that needs a package which is not there.
    """
    if recipe.rewards is None:
        return TrainingArguments
    try:
        from trl import GRPOConfig
    except ImportError as error:
        raise ValueError(f"Recipe {recipe.name!r} needs the package trl (pip install '.[grpo]'): {error}") from error
    return GRPOConfig


def parse_training_arguments(recipe: Recipe, words: list[str]) -> TrainingArguments:
    """Reads a run's arguments from the words of the command line, and the recipe's where they are silent.

    Raises:
        ValueError: for an option that there is not, or a value that does not fit.
    """
    kind = arguments_class(recipe)
    # Transformers has a name for any dataclass, which type checkers take for one class
    parser = _TrainerOptions(cast(Any, kind), prog="omnivinci-hf train", add_help=False)
    known = {entry.name for entry in fields(kind)}
    if unknown := sorted(set(recipe.arguments) - known):
        raise ValueError(f"Recipe {recipe.name!r}: `arguments` has no {unknown}; see `{_public_name(kind)}`.")
    parser.set_defaults(**recipe.arguments)
    (training,) = parser.parse_args_into_dataclasses(args=words)
    return training
