"""This module reads single values of the original files, which may be strings where they should be something else."""

import json
import re
from collections.abc import Mapping
from types import NoneType
from typing import Any

import torch


ABSENT: Any = object()  # stands for a null in the place of a key that must have a value
NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?")
NOTHING = ("None", "none", "null", "")


def flag(value: Any) -> bool:
    """Reads a boolean, or one of the strings that original files hold in its place.

    Raises:
        ValueError: when it is neither.
    """
    if value in (True, False):
        return bool(value)
    if value in ("True", "true"):
        return True
    if value in ("False", "false", "None"):
        return False
    raise ValueError(f"Expected a boolean, got {value!r:.100}.")


def number(value: Any) -> float | None:
    """Reads a number, or the string that an original file holds in its place; "None" gives None.

    Raises:
        ValueError: when it is neither.
    """
    read = plain(value.strip()) if isinstance(value, str) else value
    if read is None or (isinstance(read, (int, float)) and not isinstance(read, bool)):
        return read
    raise ValueError(f"Expected a number, got {value!r:.100}.")


def whole(value: Any) -> int | None:
    """Reads a whole number, or the string that an original file holds in its place; "None" gives None.

    Raises:
        ValueError: when it is neither.
    """
    read = number(value)
    if read is None:
        return None
    if not float(read).is_integer():
        raise ValueError(f"Expected a whole number, got {value!r}.")
    return int(read)


def scales(value: Any) -> list[int]:
    """Reads the sides of the scales of S2, in pixels: a list, or a string with commas; the smallest comes first.

    Raises:
        ValueError: when it is neither.
    """
    parts = value.split(",") if isinstance(value, str) else value
    sides = [whole(part) or 0 for part in parts] if isinstance(parts, (list, tuple)) else []
    if not sides or min(sides) < 1:
        raise ValueError(f"Expected the sides of the scales in pixels, such as '448,896,1344', got {value!r:.100}.")
    return sorted(sides)


def none(value: Any) -> Any:
    """Returns a value, or None for the strings that original files hold in its place."""
    return None if value in ("None", "") else value


def plain(value: Any) -> Any:
    """Returns what a string of an original file stands for: None, a boolean, a number, or the string itself."""
    if not isinstance(value, str):
        return value
    if value in NOTHING:
        return None
    if value in ("True", "true", "False", "false"):
        return value in ("True", "true")
    if NUMBER.fullmatch(value):
        return int(value) if value.lstrip("+-").isdigit() else float(value)
    return value


def clean_nested(value: Any) -> Any:
    """Returns a value with all strings in it made plain, also those in lists and dictionaries; see [`plain`]."""
    if isinstance(value, Mapping):
        return {key: clean_nested(part) for key, part in value.items()}
    if isinstance(value, list):
        return [clean_nested(part) for part in value]
    return plain(value)


def typed(value: Any, types: tuple) -> Any:
    """Returns a value as one of the types that a configuration class declares for it, `ABSENT` for a null otherwise.

    Raises:
        ValueError: when it cannot be.
    """
    if not (isinstance(value, str) and str in types and value not in NOTHING):
        value = clean_nested(value)
    if value is None:
        return None if NoneType in types else ABSENT
    if type(value) in types:
        return value
    if bool in types and value in (0, 1):
        return bool(value)
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        if int in types and value == int(value):
            return int(value)
        if float in types:
            return float(value)
    if _is_one_of(value, types):
        return value
    raise ValueError(f"Expected one of {types}, got {value!r}.")


def _is_one_of(value: Any, types: tuple) -> bool:
    """Says whether a value that is no number has one of the types."""
    return any(isinstance(value, kind) for kind in types if isinstance(kind, type) and kind not in (int, float))


def dtype_name(value: Any) -> str:
    """Returns the name of a dtype without the word "torch".

    Raises:
        ValueError: when PyTorch has none of that name.
    """
    name = str(value).removeprefix("torch.")
    if not isinstance(getattr(torch, name, None), torch.dtype):
        raise ValueError(f"Expected the name of a dtype, such as 'bfloat16', got {value!r:.100}.")
    return name


def with_dtype_names(value: Any) -> Any:
    """Returns a copy of nested entries in which names of dtypes have no word "torch" before them."""
    if isinstance(value, Mapping):
        return {key: with_dtype_names(part) for key, part in value.items()}
    if isinstance(value, list):
        return [with_dtype_names(part) for part in value]
    return value.removeprefix("torch.") if isinstance(value, str) and value.startswith("torch.") else value


def parsed(description: Any, name: str) -> dict[str, Any]:
    """Returns an encoder description as a dictionary; some files hold it as JSON in a string.

    Raises:
        ValueError: when it is neither.
    """
    if isinstance(description, str) and description not in NOTHING:
        try:
            description = json.loads(description)
        except ValueError as error:
            raise ValueError(f"The original option {name}={description!r:.100} is no JSON ({error}).") from error
    description = none(description) or {}
    if not isinstance(description, Mapping):
        raise ValueError(f"The original option {name} must be a dictionary, got {description!r:.100}.")
    return dict(description)
