"""This module has the rules of benchmarks' owners that several of them share, with what these rules guess."""

import re
from collections.abc import Callable, Sequence

from .task import OfficialRule, Question


def first_letter_anywhere(answer: str, lead_ins: Sequence[str]) -> str:
    """Finds the first capital A, B, C or D in an answer, even within a word, once some phrases are taken out."""
    for lead_in in lead_ins:
        answer = answer.replace(lead_in, "")
    match = re.search("[ABCD]", answer)
    return match[0] if match else ""


def words_match(answer: str, question: Question) -> bool:
    """Compares words as the scorers of MMAU and MMAR do.

    All words of the right option must be in the answer, and no word that only other options have.
    """
    words = _words(answer)
    right = _words(str(question.row["answer"]))
    choices = [_words(str(choice)) for choice in question.row["choices"]]
    wrong = {word for choice in choices if choice != right for word in choice - right}
    return bool(words) and right <= words and not words & wrong


WORDS_MATCH = OfficialRule(
    "Rule: all words of the right option are in the answer, and none that only others have; a letter alone is wrong.",
    words_match,
)


def _words(text: str) -> set[str]:
    return set(re.findall(r"\w+", text.lower()))


def by_letter(find: Callable[[str], str], counts_unread: bool = True) -> Callable[[str, Question], bool | None]:
    """Makes a verdict of a function that finds a letter in an answer, or nothing.

    Args:
        counts_unread: whether an answer without a letter stays in the denominator.
    """

    def verdict(answer: str, question: Question) -> bool | None:
        letter = find(answer)
        return None if not letter and not counts_unread else letter == question.answer

    return verdict
