"""The command `train`: a recipe, data, and every option of Transformers' trainer."""

import argparse
from dataclasses import fields

from transformers import HfArgumentParser, TrainingArguments

from ..training.recipe import load_recipe, recipe_names
from ..training.run import StageOptions, train_stage


class _TrainerOptions(HfArgumentParser):
    def error(self, message: str):
        raise ValueError(f"{message} (options of `transformers.TrainingArguments` follow those of train --help)")


def run_train(arguments: argparse.Namespace) -> None:
    if arguments.list_recipes:
        for name in recipe_names():
            print(f"{name:30} {load_recipe(name).summary}")
        return
    missing = [name for name in ("recipe", "model", "data") if not getattr(arguments, name)]
    if missing:
        raise ValueError(f"train needs --{missing[0]} (see omnivinci-hf train --help)")
    recipe = load_recipe(arguments.recipe)
    training = parse_training_arguments(recipe, arguments.rest)
    if any(option.split("=")[0] in ("--learning_rate", "--learning-rate") for option in arguments.rest):
        # one rate for all that learns
        recipe.learn.update(dict.fromkeys(recipe.learn, training.learning_rate))
    names = {entry.name for entry in fields(StageOptions)} - {"processor_options"}
    options = StageOptions(
        **{name: getattr(arguments, name) for name in names},
        processor_options={
            name: getattr(arguments, name)
            for name in ("num_frames", "fps", "max_audio_sec")
            if getattr(arguments, name) is not None
        },
    )
    train_stage(recipe, options, training)


def parse_training_arguments(recipe, words: list[str]) -> TrainingArguments:
    """[`TrainingArguments`] from the words of the command line, the recipe's where they are silent.

    Raises:
        ValueError: for an option that there is not, or a value that does not fit.
    """
    parser = _TrainerOptions(TrainingArguments, prog="omnivinci-hf train", add_help=False)
    known = {entry.name for entry in fields(TrainingArguments)}
    if unknown := sorted(set(recipe.arguments) - known):
        raise ValueError(f"Recipe {recipe.name!r}: `arguments` has no {unknown}; see `transformers.TrainingArguments`.")
    parser.set_defaults(**recipe.arguments)
    (training,) = parser.parse_args_into_dataclasses(args=words)
    return training
