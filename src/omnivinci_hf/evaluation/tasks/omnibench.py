"""This module declares OmniBench: questions about an image and an audio clip together."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from ..files import Row, as_json, bare_options, find_files, find_medium, groups_of, letter_of, read_rows
from ..task import AUDIO_OPTIONS, LETTERS, Medium, OfficialRule, Question, Task


LAYOUT = (
    "data/train-*.parquet of m-a-p/OmniBench, which hold the media; or dataset/batch-5_1142_20240817.jsonl of its "
    "repository, with mm_data/image and mm_data/audio"
)
NUM_WORDS = 5  # in longer answers the scorer looks for the words of options


def read(data: Path) -> list[Question]:
    """Makes a question of each row."""
    files = find_files(data, ["data/train-*.parquet", "train-*.parquet", "dataset/*.jsonl", "*.jsonl"], LAYOUT)
    questions = []
    for row in read_rows(files, blobs=("image", "audio")):
        options = bare_options(row["options"])
        media = tuple(_medium(data, modality, row) for modality in ("image", "audio"))
        questions.append(
            Question(
                id=str(row["index"]),
                media=media,
                question=row["question"],
                options=options,
                answer=letter_of(row["answer"], row["options"]),
                groups=groups_of(row, task_type="task type", audio_type="audio type"),
                row=row,
            )
        )
    return questions


def _medium(data: Path, modality: str, row: Row) -> Medium:
    """Takes the bytes of a medium, or its file."""
    name = f"mm_data/{modality}/{row[f'{modality}_path']}"
    return Medium(modality, name, row.get(modality) or find_medium(data, name))


def verdict(answer: str, question: Question) -> bool:
    """Reads the answer as the owners' scorer does, and the right option with the same function, as that does, too."""
    right = _find(str(question.row["answer"]), question.options) or question.answer
    return right is not None and _find(answer, question.options) == right


def _find(answer: str, options: Sequence[str]) -> str | None:
    """Finds a letter in brackets, before a space or before a full stop, or the words of an option in a long answer.

    Of several the last one counts.
    """
    answer = f" {answer} "
    letters = LETTERS[: len(options)]
    for before, after in (("(", ")"), ("", " "), ("", ".")):
        if found := [letter for letter in letters if f"{before}{letter}{after}" in answer]:
            # single letters stand between spaces when the scorer looks for the last one
            mark = "({})" if before else " {} "
            return max(found, key=lambda letter: answer.rfind(mark.format(letter)))
    if len(answer.split()) <= NUM_WORDS:
        return None
    texts = {letter: option.lower() for letter, option in zip(letters, options, strict=True)}
    contained = [letter for letter, text in texts.items() if text in answer.lower()]
    return max(contained, key=lambda letter: answer.lower().rfind(texts[letter]), default=None)


def export(questions: Sequence[Question], answers: Mapping[str, str | None]) -> dict[str, str]:
    """Writes what `calculate_metrics.py` takes as `--inference-file`: an empty question stands for a failure."""
    rows = [
        {
            "index": question.row["index"],
            "audio_type": question.row.get("audio type"),
            "question": "" if answers[question.id] is None else question.question,
            "options": list(question.options),
            "response": answers[question.id] or "",
            "correct_answer": question.row["answer"],
        }
        for question in sorted(questions, key=lambda question: int(question.row["index"]))
    ]
    return {"omnibench.json": as_json(rows)}


TASK = Task(
    name="omnibench",
    title="OmniBench",
    layout=LAYOUT,
    num_questions=1142,
    read=read,
    official=OfficialRule(
        "Rule: the last (A), else 'A ' anywhere, else 'A.', else the words of an option in an answer of more than five "
        "words. The right option is read so, too: of one that begins with 'A man ...' the scorer makes A.",
        verdict,
    ),
    export=export,
    options=AUDIO_OPTIONS,
)
