"""This module says which values an option can have, and refuses the others and unknown names.

A check also describes the values that it takes, for the documentation.
"""

import difflib
import math
import sys
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from numbers import Integral, Real
from typing import Any, Protocol

import numpy as np

from .media_reading_omnivinci import MediaLimits


MAX_FLOAT = sys.float_info.max  # whole numbers may be larger
# Callers and files of other models set these options; here, nothing but these values is true.
FIXED_OPTIONS = {
    "do_resize": True,
    "do_rescale": True,
    "rescale_factor": 1 / 255,
    "do_normalize": True,
    "do_convert_rgb": True,
    "do_center_crop": False,
    "do_pad": False,
    "resample": 3,  # bicubic
    "default_to_square": True,
    "padding_value": 0.0,
    "return_metadata": False,
    "do_sample_frames": True,
}


class Check(Protocol):
    """A check knows which values an option can have; its string describes them for the documentation."""

    def check(self, name: str, value: Any) -> None:
        """Raises a ValueError that names the option if it cannot have the value."""


@dataclass(frozen=True)
class Number:
    """The value is a finite number within bounds, and no boolean."""

    least: float = -math.inf
    most: float = math.inf
    above: float = -math.inf
    whole: bool = False
    optional: bool = False

    def check(self, name: str, value: Any) -> None:
        """Raises a ValueError unless the value is a number within the bounds, or None where that is allowed."""
        if value is None and self.optional:
            return
        if not _is_number(value, self.whole):
            wanted = "a whole number" if self.whole else "a finite number"
            raise ValueError(f"`{name}` must be {wanted}{' or None' * self.optional}, got {value!r}.")
        if value <= self.above:
            raise ValueError(f"`{name}` must be more than {self.above:g}, got {value!r}.")
        if value < self.least:
            raise ValueError(f"`{name}` must be at least {self.least:g}, got {value!r}.")
        if value > self.most:
            raise ValueError(f"`{name}` must be at most {self.most:,g}, got {value!r}.")

    def __str__(self) -> str:
        bounds = [(self.above, "above"), (self.least, "from"), (self.most, "to")]
        texts = ["whole number" if self.whole else "number"]
        texts += [f"{word} {bound:,g}" for bound, word in bounds if math.isfinite(bound)]
        return " ".join(texts) + _or_none(self.optional)


@dataclass(frozen=True)
class Choice:
    """The value is one of a few; `description` replaces their list where it depends on other packages."""

    values: tuple
    optional: bool = False
    description: str = ""

    def check(self, name: str, value: Any) -> None:
        """Raises a ValueError unless the value is one of the known ones, or None where that is allowed."""
        if value is None and self.optional:
            return
        if not any(value is known or (isinstance(known, str) and value == known) for known in self.values):
            known = [repr(known) for known in self.values]
            raise ValueError(f"`{name}` must be {' or '.join(known)}{' or None' * self.optional}, got {value!r}.")

    def __str__(self) -> str:
        values = [f'"{value}"' if isinstance(value, str) else str(value) for value in self.values]
        return (self.description or " or ".join(values)) + _or_none(self.optional)


@dataclass(frozen=True)
class Numbers:
    """The value is a list of numbers, or of such lists."""

    entry: "Number | Numbers"
    least: int = 1
    most: int = 8

    def check(self, name: str, value: Any) -> None:
        """Raises a ValueError unless the value is a list of so many entries, each of which its own check takes."""
        if not isinstance(value, (list, tuple)) or not self.least <= len(value) <= self.most:
            raise ValueError(f"`{name}` must be a list of {self._count} entries, got {value!r:.100}.")
        for entry in value:
            self.entry.check(f"{name}[...]", entry)

    def __str__(self) -> str:
        return f"list of {self._count}: {self.entry}"

    @property
    def _count(self) -> str:
        return f"{self.least}" if self.least == self.most else f"{self.least} to {self.most}"


@dataclass(frozen=True)
class Ascending:
    """The value is a list of numbers that never get smaller, as positions or times in a video are given."""

    whole: bool = False

    def check(self, name: str, value: Any) -> None:
        """Raises a ValueError unless the value is None or an ascending list of finite numbers from 0 on."""
        if value is None:
            return
        try:
            values = np.asarray(value)
        except (ValueError, TypeError):  # ragged, or no numbers
            values = np.array(None)
        if values.ndim != 1 or values.dtype.kind not in ("iu" if self.whole else "iuf") or not len(values):
            raise ValueError(f"`{name}` must be a list of {'whole ' * self.whole}numbers, got {value!r:.100}.")
        if not (values[0] >= 0 and (np.diff(values) >= 0).all() and np.isfinite(values).all()):
            raise ValueError(f"`{name}` must be finite, not negative and ascending, got {values.tolist()}.")

    def __str__(self) -> str:
        return f"ascending list of {'whole ' * self.whole}numbers or None"


@dataclass(frozen=True)
class Limits:
    """The value is a [`MediaLimits`], or a dictionary of some of its fields."""

    def check(self, name: str, value: Any) -> None:
        """Raises a ValueError unless the value is a [`MediaLimits`], None, or a dictionary that one can be made of."""
        MediaLimits.of(value)

    def __str__(self) -> str:
        return "`MediaLimits`, dictionary or None"


@dataclass(frozen=True)
class CheckedLater:
    """The value is a table or a medium; the place that uses it checks it before any medium is decoded."""

    description: str

    def check(self, name: str, value: Any) -> None:
        """Takes every value; the place that uses it refuses those that are wrong."""

    def __str__(self) -> str:
        return self.description


def refuse_unknown(
    owner: str,
    given: Iterable[str],
    known: Iterable[str],
    error: Callable[[str], Exception] = TypeError,
    also: Iterable[str] = (),
) -> None:
    """Raises an error for names that are not known, with the nearest known ones, or with all if none is near.

    Args:
        also: more names for the hint, of what is given in another way.
    """
    known = sorted(name for name in map(str, known) if not name.startswith("_"))
    if unknown := sorted(str(name) for name in given if name not in known):
        near = [difflib.get_close_matches(name, [*known, *also], n=1) for name in unknown]
        hint = f" (did you mean {', '.join(match[0] for match in near if match)}?)" if any(near) else ""
        rest = "" if all(near) else f"; it has {', '.join(known)}"
        raise error(f"{owner} has no option {unknown}{hint}{rest}.")


def refuse_fixed(owner: str, given: Mapping[str, Any]) -> None:
    """Raises an error for options of other models, unless they say what is true of this one anyway."""
    for name, value in given.items():
        if name in FIXED_OPTIONS and value is not None and value != FIXED_OPTIONS[name]:
            raise ValueError(f"{owner} cannot do `{name}`={value!r}: it is always {FIXED_OPTIONS[name]!r}.")


def plain_value(value: Any, check: Any) -> Any:
    """Turns NumPy's numbers into Python's, also in lists: they are compared with `is` and written to JSON."""
    if isinstance(check, Numbers) and isinstance(value, (list, tuple, np.ndarray)):
        return [plain_value(entry, check.entry) for entry in value]
    return value.item() if isinstance(value, np.generic) else value


def _is_number(value: Any, whole: bool) -> bool:
    """Tells whether a value is a number that fits into a float; nobody can compute with larger ones."""
    wanted: Any = Integral if whole else Real
    return isinstance(value, wanted) and not isinstance(value, bool) and bool(abs(value) <= MAX_FLOAT)


def _or_none(optional: bool) -> str:
    return " or None" if optional else ""
