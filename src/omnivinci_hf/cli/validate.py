"""This module is the command `validate`: it prints bad rows of training data, and a summary."""

import argparse
import json
import sys
from collections.abc import Mapping
from dataclasses import asdict, replace
from functools import partial
from typing import Any

from tqdm import tqdm

from ..training.collator import EncodedRow, OmniVinciDataCollator
from ..training.data import load_rows, read_row
from ..training.prompts import read_prompt
from ..training.recipe import Recipe, load_recipe
from ..training.rewards import load_rewards
from ..training.run import make_collator
from ..training.validation import BadRow, Validation, validate_rows
from .commands import check_model, processor_options
from .error_text import in_words_of_options
from .train import with_rewards


DEFAULT_COMPLETION_LENGTH = 512  # of `trl.GRPOConfig`, a package that this command does without


def validate_data(arguments: argparse.Namespace) -> bool:
    """Prints what is wrong, and tells whether all rows are good.

    The summary goes to stderr, so that `--json` stays JSON.
    """
    try:
        rows = load_rows(arguments.data, arguments.split, arguments.media_root)
    except ImportError as error:  # the optional package; said in one line
        raise ValueError(str(error)) from error
    counts = Validation()
    recipe = _recipe(arguments)
    collator = _collator(arguments, recipe)
    encode = None if collator is None else collator.encode
    read = read_row
    if recipe is not None and recipe.rewards is not None:
        read = partial(read_prompt, rewards=load_rewards(recipe.rewards)[0])
        encode = None if collator is None else partial(_encode_prompt, collator, _completion_length(arguments, recipe))
    checks = validate_rows(rows, counts, read_media=not arguments.no_media, read=read, encode=encode)
    try:
        with tqdm(checks, total=len(rows), unit="row", leave=False, disable=not sys.stderr.isatty()) as bar:
            for bad in bar:
                if bad is not None:
                    bar.clear()  # an interrupt within tqdm's own `write` would end as an error about its lock
                    bad = replace(bad, problems=[in_words_of_options(text, arguments.options) for text in bad.problems])
                    print(json.dumps(asdict(bad)) if arguments.json else _format(arguments.data, bad), flush=True)
                    bar.refresh()
    except KeyboardInterrupt:
        print(f"omnivinci-hf: stopped; until then {counts}", file=sys.stderr)
        raise
    print(counts, file=sys.stderr)
    return counts.num_bad == 0


def _collator(arguments: argparse.Namespace, recipe: Recipe | None) -> OmniVinciDataCollator | None:
    """The collator of the training of `--model`, with the options that training would have."""
    options = processor_options(arguments)
    if arguments.max_length is not None:
        options["max_length"] = arguments.max_length
    if arguments.model is None:
        # a recipe with rewards says what form the rows have
        if options or (recipe is not None and recipe.rewards is None):
            raise ValueError("Options of a training need --model, the checkpoint that will be trained.")
        return None
    if arguments.no_media:
        raise ValueError("--model and --no-media cannot be combined: rows are as long as their media make them.")
    check_model(arguments.model)
    return make_collator(arguments.model, **{**(recipe.processor_options if recipe else {}), **options})


def _recipe(arguments: argparse.Namespace) -> Recipe | None:
    """Loads the recipe of the training, with the rewards of the command.

    Raises:
        ValueError: for options of reinforcement without its recipe.
    """
    recipe = None if arguments.recipe is None else load_recipe(arguments.recipe)
    if arguments.reward and recipe is None:
        raise ValueError("--reward needs --recipe, the recipe with rewards of that training.")
    if arguments.max_completion_length is not None and (recipe is None or recipe.rewards is None):
        raise ValueError("--max-completion-length is for recipes with rewards, such as grpo.")
    return None if recipe is None else with_rewards(recipe, arguments.reward)


def _completion_length(arguments: argparse.Namespace, recipe: Recipe) -> int:
    """Returns how many tokens an answer may have in the training: by the command, the recipe, or as TRL has it."""
    if arguments.max_completion_length is not None:
        return arguments.max_completion_length
    return recipe.arguments.get("max_completion_length", DEFAULT_COMPLETION_LENGTH)


def _encode_prompt(collator: OmniVinciDataCollator, num_new: int, row: Mapping[str, Any]) -> EncodedRow:
    """Encodes the prompt of a row as reinforcement does, with room for an answer."""
    return collator.encode_prompt(row["conversations"][0], num_new, "max_completion_length")


def _format(data: str, bad: BadRow) -> str:
    name = f" ({bad.id})" if bad.id is not None else ""
    return "\n".join(f"{data}:{bad.line}{name}: {' '.join(problem.split())}" for problem in bad.problems)
