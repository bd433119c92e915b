"""This module reads rows for reinforcement: a prompt with media, and what its answers are compared with.

    {"id": "clip-7",                                # optional
     "prompt": [{"role": "user", "content": [
        {"type": "video", "path": "clips/7.mp4"},
        {"type": "text", "text": "Who speaks first? A. the man B. the woman"}]}],
     "answer": "B",                                 # or a list of right ones
     "rewards": ["letter", "format"]}               # optional: of those of the training; all by default

Media are given as in the rows of `training/data.py`. Rows of that form serve, too: the words of the last turn, which is
the assistant's, are the answer then, unless the row has one. Every other column is given to rewards.
"""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

from ..omnivinci.conversation_omnivinci import shown
from .data import COLUMNS, RowError, RowReader, load_rows
from .rewards import as_answers, as_reward


# the columns of a row that are no columns of rewards
READ = ("id", "prompt", "completion", "messages", "answer", "rewards", *COLUMNS.values())
# names by which TRL gives something else to rewards, or takes something else from rows
TAKEN = ("prompts", "completions", "completion_ids", "image", "environment", "trainer_state", "log_extra", "log_metric")


class PromptReader(RowReader):
    """The reader of one row for reinforcement notes what is wrong and goes on.

    Args:
        media_root: where relative paths of media begin.
        rewards: of the training, each a [`Reward`] or a function.
    """

    needs_answer = False

    def __init__(self, media_root=None, rewards: Sequence[Any] = ()):
        super().__init__(media_root)
        self.rewards = rewards

    def read(self, row: Mapping) -> dict[str, Any]:
        """Reads a row: its `id`, the prompt as the only one of `conversations`, `answer`, `rewards` and `columns`."""
        normalized = super().read(row)
        row = {key: value for key, value in row.items() if value is not None} if isinstance(row, Mapping) else {}
        if "conversations" in row:
            self.problems.append("`conversations` are not for reinforcement: write each one as a row of its own.")
        conversations, answer = _split_answer(normalized["conversations"], row.get("answer"))
        if conversations and (not conversations[0] or conversations[0][-1].get("role") != "user"):
            self.problems.append("The prompt must end with a turn of the user, which the model then answers.")
        if taken := sorted(name for name in TAKEN if name in row):
            self.problems.append(f"{taken} are names that TRL takes; rename these columns, so that rewards get them.")
        asked = row.get("rewards")
        self.problems += reward_problems(asked, answer, self.rewards)
        return {
            "id": normalized["id"],
            "conversations": conversations,
            "answer": answer,
            "rewards": asked,
            "columns": {name: value for name, value in row.items() if name not in READ},
        }


def reward_problems(asked: Any, answer: Any, rewards: Sequence[Any]) -> list[str]:
    """Lists what is wrong with the names of a row's rewards, and with its answer for those that reward it.

    Args:
        asked: the row's `rewards`, None for all.
        answer: the row's `answer`.
        rewards: of the training; if there are none, names are not compared with them.
    """
    if not _is_answer(answer):
        return [f"`answer` must be a string, a number or a list of these, got {shown(answer)}."]
    if asked is not None and not _is_list_of_names(asked):
        return [f"`rewards` must be a list of names, got {shown(asked)}."]
    known = {reward.name: reward for reward in map(as_reward, rewards)}
    problems = []
    if known and (unknown := sorted(set(asked or ()) - known.keys())):
        problems.append(f"`rewards` names {unknown}, which this training does not have; it has {', '.join(known)}.")
    for name, reward in known.items():
        if (asked is None or name in asked) and (problem := reward.problem_of(as_answers(answer))):
            problems.append(problem)
    return problems


def _split_answer(conversations: list[list[dict[str, Any]]], answer: Any) -> tuple[list[list[dict[str, Any]]], Any]:
    """Takes the last turn off the prompt if it is the assistant's; its words are the answer if the row has none."""
    if not (conversations and conversations[0] and conversations[0][-1].get("role") == "assistant"):
        return conversations, answer
    *prompt, last = conversations[0]
    content = last["content"]
    words = content if isinstance(content, str) else "".join(part.get("text", "") for part in content)
    return [prompt], words if answer is None else answer


def _is_answer(answer: Any) -> bool:
    """Tells whether an answer is a string, a number, a list of these, or not given."""
    answers = answer if isinstance(answer, (list, tuple)) else [] if answer is None else [answer]
    return all(isinstance(one, (str, int, float)) and not isinstance(one, bool) for one in answers)


def _is_list_of_names(asked: Any) -> bool:
    """Tells whether a value is a list of at least one string."""
    return isinstance(asked, (list, tuple)) and bool(asked) and all(isinstance(name, str) for name in asked)


def read_prompt(row: Mapping, media_root=None, rewards: Sequence[Any] = ()) -> tuple[dict[str, Any], list[str]]:
    """Brings a row into the form of [`normalize_prompt`] as far as it can, and tells all that is wrong with it."""
    reader = PromptReader(media_root, rewards)
    return reader.read(row), reader.problems


def normalize_prompt(row: Mapping, media_root=None, rewards: Sequence[Any] = ()) -> dict[str, Any]:
    """Brings a row into the form that reinforcement reads.

    Returns:
        `id`, `conversations` (a list with the messages of the prompt, each media part with its medium), `answer`,
        `rewards` (names, or None for all) and the other `columns`. What comes out may be given again.

    Raises:
        RowError: with everything that is wrong with the row.
    """
    if isinstance(row, Mapping) and "columns" in row and "conversations" in row:
        normalized, problems = dict(row), reward_problems(row["rewards"], row["answer"], rewards)
    else:
        normalized, problems = read_prompt(row, media_root, rewards)
    if problems:
        raise RowError(*problems)
    return normalized


def load_prompts(data, rewards: Sequence[Any] = (), split: str = "train", media_root=None):
    """Makes a dataset of rows for reinforcement, from what [`load_rows`] takes, but for streams.

    Args:
        rewards: of the training: a row must have what those need that reward it.

    Raises:
        RowError: for the first row that cannot be used; media are not read yet.
    """
    rows = load_rows(data, split, media_root, normalize=partial(normalize_prompt, rewards=rewards))
    for number in range(len(rows)):
        rows[number]
    return rows
