"""This package trains: data, recipes, a trainer, and an estimate of the memory that a run will need."""

from .collator import EncodedRow, OmniVinciDataCollator
from .data import RowError, load_rows, normalize_row
from .recipe import Recipe, apply_recipe, load_recipe, recipe_names
from .trainer import OmniVinciTrainer


__all__ = [
    "EncodedRow",
    "OmniVinciDataCollator",
    "OmniVinciTrainer",
    "Recipe",
    "RowError",
    "apply_recipe",
    "load_recipe",
    "load_rows",
    "normalize_row",
    "recipe_names",
]
