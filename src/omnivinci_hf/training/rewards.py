"""This module rewards answers of a model: by comparing them with the right ones, by their form, by a judge, by code.

A reward is a function in the form of TRL's: it takes `completions` and the columns of their rows, lists of one length,
and returns a number for each completion, or None where a row is not rewarded by it. [`load_rewards`] makes the
functions of a table, such as a recipe has:

    rewards:
      letter: 1.0                                # a name and its weight
      format: {weight: 0.2}
      numeric: {weight: 1.0, tolerance: 0.5}     # with options
      judge: {url: "http://localhost:8000/v1", model: qwen}
      my_rewards.py:brevity: 0.1                 # a function of one's own
"""

import importlib
import importlib.util
import inspect
import math
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, ClassVar

from torch import nn


NUMBER = re.compile(  # a sign begins a word, and commas part thousands: "3-5" has 3 and 5, "1,2" has 1 and 2
    r"(?:(?<![\w.,)])[-+])?(?:(?:\d{1,3}(?:,\d{3})+(?!\d)|\d+)(?:\.\d+)?|(?<!\d)\.\d+)(?:[eE][-+]?\d+)?"
)
LETTER = re.compile(
    r"(?:(?:the )?(?:correct |right )?(?:answer|option|choice)(?: is)?:? ?)?\(?([a-z])"
    r"(?:\s*[).:,].*|\s*\n.*|\s+[-–—]\s.*)?",
    re.DOTALL | re.IGNORECASE,
)
THOUGHT_AND_ANSWER = re.compile(r"\s*<think>(.*)</think>\s*<answer>(.*)</answer>\s*", re.DOTALL)
ANSWER = re.compile(r"<answer>(.*?)</answer>", re.DOTALL)
TAGS = ("<think>", "</think>", "<answer>", "</answer>")


def answer_of(completion: str) -> str:
    """Takes the answer out of a completion: the last `<answer>`, or what follows `</think>`, or all of it."""
    if marked := ANSWER.findall(completion):
        return marked[-1].strip()
    return completion.rpartition("</think>")[2].strip()


def text_of(message: Any) -> str:
    """Returns the words of a completion, which TRL gives as a string or as a list of messages."""
    if isinstance(message, str):
        return message
    content = message[-1]["content"]
    return content if isinstance(content, str) else "".join(part.get("text") or "" for part in content)


@dataclass
class Reward:
    """
    A reward scores completions; subclasses say how.

    Args:
        name (`str`): of the table of rewards; a row that has `rewards` is scored by those that it names alone.
    """

    name: str
    needs_answer: ClassVar[bool] = True

    @property
    def __name__(self) -> str:
        """Is the name by which TRL logs the reward."""
        return self.name

    def problem_of(self, answers: Sequence[str]) -> str | None:
        """Says why a row with these right answers cannot be rewarded; None if it can."""
        if self.needs_answer and not answers:
            return f"It has no `answer`, which the reward {self.name!r} compares with."
        return None

    def score(self, completion: str, answers: Sequence[str]) -> float:
        """Scores one completion, from 0 to 1."""
        raise NotImplementedError

    def score_all(self, completions: Sequence[Any], columns: Mapping[str, Any]) -> Sequence[float | None]:
        """Scores completions as TRL gives them, with the columns of their rows."""
        answers = map(as_answers, columns["answer"])
        return [self.score(text_of(one), right) for one, right in zip(completions, answers, strict=True)]

    def __call__(self, completions: Sequence[Any], **columns: Any) -> list[float | None]:
        """Scores the completions whose rows ask for it, in the form that TRL calls rewards in."""
        count = len(completions)
        columns.setdefault("answer", [None] * count)
        asked = columns.get("rewards") or [None] * count
        chosen = [number for number in range(count) if asked[number] is None or self.name in asked[number]]
        part = _columns_of(columns, chosen, count)
        scores: list[float | None] = [None] * count
        values = self.score_all([completions[number] for number in chosen], part) if chosen else []
        for number, value in zip(chosen, values, strict=True):
            scores[number] = value
        return scores


@dataclass
class ExactReward(Reward):
    """It gives 1 to the right answer, white space, case and a full stop at its end aside."""

    def score(self, completion: str, answers: Sequence[str]) -> float:
        """Compares the answer with each of the right ones."""
        return float(_plain(answer_of(completion)) in map(_plain, answers))


@dataclass
class LetterReward(Reward):
    """It gives 1 to the letter of the right choice: `B`, `(b)`, `B. blue`, `The answer is B`."""

    def problem_of(self, answers: Sequence[str]) -> str | None:
        """Says which right answer begins with no letter of a choice."""
        wrong = [answer for answer in answers if letter_of(answer) is None]
        missing = f"Its answer {wrong[0]!r} is no letter of a choice, such as 'B' or 'B. blue'." if wrong else None
        return super().problem_of(answers) or missing

    def score(self, completion: str, answers: Sequence[str]) -> float:
        """Compares the letters."""
        letter = letter_of(answer_of(completion))
        return float(letter is not None and letter in map(letter_of, answers))


@dataclass
class NumericReward(Reward):
    """
    It gives 1 to a number that is near enough to the right one; of several numbers in an answer, the last counts.

    Args:
        tolerance (`float`): how far it may be away.
        relative_tolerance (`float`): as a share of the right number; the larger of both counts.
    """

    tolerance: float = 0.0
    relative_tolerance: float = 0.0

    def __post_init__(self):
        for name in ("tolerance", "relative_tolerance"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value < math.inf:
                raise ValueError(f"`rewards.{self.name}.{name}` must be a number, 0 or more, got {value!r}.")

    def problem_of(self, answers: Sequence[str]) -> str | None:
        """Says which right answer holds no number."""
        wrong = [answer for answer in answers if number_of(answer) is None]
        missing = f"Its answer {wrong[0]!r} holds no number." if wrong else None
        return super().problem_of(answers) or missing

    def score(self, completion: str, answers: Sequence[str]) -> float:
        """Compares the numbers."""
        number = number_of(answer_of(completion))
        right = [value for value in map(number_of, answers) if value is not None]
        is_near = number is not None and any(
            math.isclose(number, value, rel_tol=0.0, abs_tol=max(self.tolerance, self.relative_tolerance * abs(value)))
            for value in right
        )
        return float(is_near)


@dataclass
class FormatReward(Reward):
    """It gives 1 to a completion of the form `<think>...</think> <answer>...</answer>`, with words in both."""

    needs_answer = False

    def score(self, completion: str, answers: Sequence[str]) -> float:
        """Looks at the form alone."""
        match = THOUGHT_AND_ANSWER.fullmatch(completion)
        is_whole = match is not None and all(part.strip() for part in match.groups())
        return float(is_whole and all(completion.count(tag) == 1 for tag in TAGS))


@dataclass
class FunctionReward(Reward):
    """
    It calls a function of the user's, which takes what TRL gives to rewards and returns numbers, or None for no reward.

    Args:
        function (`Callable`): it takes lists of one length by their names: `prompts` and `completions` (each of them a
            list of messages), `answer` and the other columns of the rows, and has `**columns` for what it leaves out.
    """

    function: Callable[..., Sequence[float | None]] | None = None
    needs_answer = False

    def score_all(self, completions: Sequence[Any], columns: Mapping[str, Any]) -> Sequence[float | None]:
        """Calls the function, and checks what it returns.

        Raises:
            TypeError: when that is no list of as many numbers.
        """
        assert self.function is not None
        values: Any = self.function(completions=list(completions), **columns)
        values = values.tolist() if hasattr(values, "tolist") else values  # arrays and tensors
        is_list = isinstance(values, Sequence) and len(values) == len(completions)
        values = [value.item() if hasattr(value, "item") else value for value in values] if is_list else values
        if not is_list or not all(value is None or isinstance(value, (int, float)) for value in values):
            raise TypeError(
                f"The reward {self.name!r} must return a list of {len(completions)} numbers, one for each completion "
                f"(None for no reward), got {values!r:.200}."
            )
        return values


def _columns_of(columns: Mapping[str, Any], chosen: Sequence[int], count: int) -> dict[str, Any]:
    """Takes the `chosen` of `count` completions out of their columns; what is no list of them stays as it is."""
    part = {
        name: [values[number] for number in chosen] if isinstance(values, list) and len(values) == count else values
        for name, values in columns.items()
    }
    if "log_extra" in columns:
        part["log_extra"] = _log_extra_of_all(columns["log_extra"], chosen, count)
    return part


def _log_extra_of_all(log_extra: Callable[[str, list], None], chosen: Sequence[int], count: int):
    """Lets a function that scores the `chosen` of `count` completions log columns of all, with None for the others."""

    def log_extra_of_chosen(column: str, values: Sequence[Any]) -> None:
        of_all = dict(zip(chosen, values, strict=True))
        log_extra(column, [of_all.get(number) for number in range(count)])

    return log_extra_of_chosen


def as_answers(answer: Any) -> list[str]:
    """Lists the right answers of a row, which has one, several, or none."""
    if answer is None:
        return []
    return [str(one) for one in answer] if isinstance(answer, (list, tuple)) else [str(answer)]


def letter_of(text: str) -> str | None:
    """Finds the letter of a choice at the beginning of a text."""
    match = LETTER.fullmatch(text.replace("*", "").strip())
    return match[1].upper() if match else None


def number_of(text: str) -> float | None:
    """Finds the last number of a text."""
    numbers = numbers_of(text)
    return numbers[-1] if numbers else None


def numbers_of(text: str) -> list[float]:
    """Finds the numbers of a text, in their order."""
    return [float(number.replace(",", "")) for number in NUMBER.findall(text)]


def _plain(text: str) -> str:
    return " ".join(text.split()).casefold().removesuffix(".")


def reward_classes() -> dict[str, type[Reward]]:
    """Returns the rewards that come with the package, by their names."""
    from .judge import JudgeReward  # it is built on this module

    return {
        "exact": ExactReward,
        "letter": LetterReward,
        "numeric": NumericReward,
        "format": FormatReward,
        "judge": JudgeReward,
    }


def load_reward(name: str, **options: Any) -> Reward:
    """Makes a reward.

    Args:
        name: `exact`, `letter`, `numeric`, `format`, `judge`, or where a function of one's own is: `file.py:function`
            or `package.module:function`.
        options: of the reward's class.

    Raises:
        ValueError: for an unknown name or option, or a function that is not there.
    """
    if ":" in name:
        if options:
            raise ValueError(
                f"The reward {name!r} is a function and takes no options but `weight`, got {sorted(options)}."
            )
        return FunctionReward(name.rpartition(":")[2], load_function(name))
    classes = reward_classes()
    if name not in classes:
        raise ValueError(
            f"There is no reward {name!r}: there are {', '.join(classes)}, or give a function of your own as "
            "`file.py:function` or `package.module:function`."
        )
    known = {entry.name for entry in fields(classes[name])} - {"name"}
    if unknown := sorted(set(options) - known):
        has = f"has {', '.join(sorted(known))}" if known else "has none"
        raise ValueError(f"The reward {name!r} has no option {unknown}; beside `weight` it {has}.")
    return classes[name](name, **options)


def as_reward(given: Any) -> Reward:
    """Makes a [`Reward`] of a function, which then scores the rows that ask for it.

    Raises:
        TypeError: for a coroutine function, a reward model or its name, and what cannot be called.
    """
    if isinstance(given, Reward):
        return given
    if isinstance(given, nn.Module) or not callable(given):
        raise TypeError(
            f"A reward must be a function or made by `load_reward`, got {type(given).__name__}: call a reward model in "
            "a function of your own, which gives it the words in its form."
        )
    name = getattr(given, "__name__", type(given).__name__)
    if inspect.iscoroutinefunction(given):
        raise TypeError(f"The reward {name!r} is a coroutine function; give an ordinary one.")
    return FunctionReward(name, given)


def load_function(place: str) -> Callable[..., Sequence[float | None]]:
    """Imports a function from `file.py:function` or `package.module:function`.

    Raises:
        ValueError: when there is no such file, module or function.
    """
    source, _, name = place.rpartition(":")
    try:
        module = _load_file(Path(source)) if source.endswith(".py") else importlib.import_module(source)
    except (ImportError, OSError) as error:
        raise ValueError(f"The reward {place!r} cannot be imported: {error}") from error
    function = getattr(module, name, None)
    if not callable(function) or inspect.iscoroutinefunction(function):
        raise ValueError(f"The reward {place!r}: {source} has no ordinary function {name!r}.")
    return function


def _load_file(path: Path):
    if not path.is_file():
        raise FileNotFoundError(f"{path} does not exist")
    name = f"omnivinci_hf_reward_{path.stem}"  # not that of another module
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses look there
    spec.loader.exec_module(module)
    return module


def load_rewards(table: Mapping[str, Any]) -> tuple[list[Reward], list[float]]:
    """Makes the rewards of a table, and lists their weights.

    Args:
        table: names, as in [`load_reward`], with weights or with options, `weight` (1 by default) among them.

    Raises:
        ValueError: when the table is empty, or a name, a weight or an option is wrong.
    """
    if not isinstance(table, Mapping) or not table:
        raise ValueError(f"`rewards` must be a mapping of names to weights or options, and not empty; got {table!r}.")
    rewards, weights = [], []
    for name, value in table.items():
        options = dict(value) if isinstance(value, Mapping) else {"weight": 1.0 if value is None else value}
        weight = options.pop("weight", 1.0)
        if isinstance(weight, bool) or not isinstance(weight, (int, float)) or not math.isfinite(weight):
            raise ValueError(f"`rewards.{name}` must be a weight or a mapping with `weight`, got {weight!r}.")
        rewards.append(load_reward(str(name), **options))
        weights.append(float(weight))
    check_names(rewards)
    return rewards, weights


def check_names(rewards: Sequence[Reward]) -> None:
    """Checks that each reward has a name of its own, by which it is logged and asked for.

    Raises:
        ValueError: when two have one name.
    """
    names = [reward.name for reward in rewards]
    if len(set(names)) < len(names):
        raise ValueError(f"Two rewards have one name: {names}; rename the function.")
