"""This module scores answers: strictly, and beside that by the rule of a benchmark's owners.

The strict rule guesses nothing. An answer counts if it is a letter, the words of one option, or a letter with the words
of its option; what cannot be read counts as wrong, and so does a question that failed.
"""

import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

from .task import LETTERS, Question, Task


MARKS_BEFORE, MARKS_AFTER = r"[\s*_`\"'(\[{]*", r"[\s*_`\"')\]}.:,;!]*"
LEAD_IN = re.compile(
    r"(?:so,?\s+|therefore,?\s+)?(?:the\s+|my\s+)?(?:(?:correct|right|best|final)\s+)?(?:answer|option|choice)"
    r"(?:\s+is)?\s*:?\s+",
    re.IGNORECASE,
)


def plain(text: str) -> str:
    """Brings words into a form in which only the words count: no case, white space, marks around or final full stop."""
    text = " ".join(unicodedata.normalize("NFKC", text).casefold().split())
    return re.sub(rf"^{MARKS_BEFORE}|{MARKS_AFTER}$", "", text)


def read_answer(answer: str, options: Sequence[str]) -> str | None:
    """Reads which option an answer means by the strict rule.

    Args:
        answer: as the model gave it. A block of thought (`<think>...</think>`) before it is left out.
        options: their words, without letters.

    Returns:
        the letter; None where the answer cannot be read without a guess.
    """
    answer = re.sub(r"<think>.*?</think>", "", answer, flags=re.DOTALL).rpartition("</think>")[2]
    if "<think>" in answer:  # the thought did not end
        return None
    answer = unicodedata.normalize("NFKC", answer).replace("**", "").strip()
    readings = _readings(answer, options)
    if lead_in := LEAD_IN.match(answer):
        readings |= _readings(answer[lead_in.end() :], options)
    return readings.pop() if len(readings) == 1 else None


def _readings(answer: str, options: Sequence[str]) -> set[str]:
    """All letters that an answer may mean: more than one, and it cannot be read."""
    if not answer:
        return set()
    texts = {letter: plain(option) for letter, option in zip(LETTERS, options, strict=False)}
    found = {letter for letter, text in texts.items() if text == plain(answer)}
    match = re.fullmatch(rf"{MARKS_BEFORE}([A-Z])({MARKS_AFTER})(?:[-\u2013\u2014]\s*)?(.*)", answer, re.I | re.S)
    if match and (letter := match[1].upper()) in texts:
        # the letter of a word is none
        is_alone = not match[3] or bool(match[2])
        if is_alone and (not match[3] or plain(match[3]) == texts[letter]):
            found.add(letter)
    return found


def score(task: Task, questions: Sequence[Question], answers: Mapping[str, str | None]) -> dict[str, Any]:
    """Scores the questions that were asked, by both rules, in all and by the parts of the benchmark.

    Args:
        questions: of the benchmark.
        answers: to those that were asked, by their `id`; None where there is none.

    Returns:
        plain data: counts beside shares.
    """
    asked = [question for question in questions if question.id in answers]
    counts: dict[tuple[str, str], Counter] = defaultdict(Counter)
    counts["", ""] = Counter()
    for question in asked:
        one = _count(task, question, answers[question.id])
        counts["", ""] += one
        for division, names in question.groups.items():
            for name in names:
                counts[division, name] += one
    groups: dict[str, dict[str, Any]] = defaultdict(dict)
    for (division, name), count in sorted(counts.items()):
        if division:
            groups[division][name] = _shares(count)
    return {
        "task": task.name,
        "questions_asked": len(asked),
        "questions_in_the_data": len(questions),
        "questions_published": task.num_questions,
        "has_answers": task.has_answers,
        **_shares(counts["", ""]),
        "share_of_a_guess": _share(sum(1 / len(question.options) for question in asked), len(asked)),
        "official_rule": task.official.summary,
        "groups": dict(groups),
    }


def _count(task: Task, question: Question, answer: str | None) -> Counter:
    """Counts what one answer is by both rules."""
    letter = None if answer is None else read_answer(answer, question.options)
    count = Counter(asked=1, failed=answer is None, unread=answer is not None and letter is None)
    if not task.has_answers:
        return count
    verdict: bool | None
    if answer is None:
        verdict = False if task.official.counts_failures else None
    else:
        verdict = task.official.verdict(answer, question)
    count["scored"] = 1
    count["right"] = letter is not None and letter == question.answer
    count["without_a_right_option"] = question.answer is None
    count["official_counted"] = verdict is not None
    count["official_right"] = bool(verdict)
    count["official_right_though_unread"] = bool(verdict) and letter is None
    return count


def _shares(count: Counter) -> dict[str, Any]:
    names = ("asked", "right", "unread", "failed", "without_a_right_option")
    official = ("official_counted", "official_right", "official_right_though_unread")
    return {
        **{name: count[name] for name in names},
        "share": _share(count["right"], count["scored"]),
        **{name: count[name] for name in official},
        "official_share": _share(count["official_right"], count["official_counted"]),
    }


def _share(part: float, whole: int) -> float | None:
    return round(part / whole, 6) if whole else None


def format_scores(scores: Mapping[str, Any], title: str) -> str:
    """Writes scores as lines and a table."""
    lines = [
        f"{title}: {scores['questions_asked']} questions asked, of {scores['questions_in_the_data']} in the data and "
        f"{scores['questions_published']} that its owners publish"
    ]
    if not scores["has_answers"]:
        return f"{lines[0]}\nThe owners keep the right answers to themselves: hand in the files for their scorer."
    lines.append(
        f"  strict    {_of(scores, 'right', 'asked', 'share')}; {scores['unread']} answers cannot be read, "
        f"{scores['failed']} questions failed; both count as wrong. A guess is right in "
        f"{_percent(scores['share_of_a_guess'])}."
    )
    lines.append(
        f"  official  {_of(scores, 'official_right', 'official_counted', 'official_share')}; of these, "
        f"{scores['official_right_though_unread']} that the strict rule cannot read. {scores['official_rule']}"
    )
    if scores["without_a_right_option"]:
        lines.append(f"  {scores['without_a_right_option']} rows name a right answer that is none of their options.")
    for division, parts in scores["groups"].items():
        width = max(map(len, parts))
        lines.append(f"{division}:")
        lines += [
            f"  {name:{width}}  {_of(part, 'right', 'asked', 'share'):24}  official "
            f"{_of(part, 'official_right', 'official_counted', 'official_share')}"
            for name, part in parts.items()
        ]
    return "\n".join(lines)


def _of(scores: Mapping[str, Any], part: str, whole: str, share: str) -> str:
    return f"{scores[part]} of {scores[whole]} right ({_percent(scores[share])})"


def _percent(share: float | None) -> str:
    return "-" if share is None else f"{share:.1%}"
