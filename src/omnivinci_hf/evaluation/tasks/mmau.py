"""This module declares MMAU: questions about sounds, music and speech."""

import json
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

from ..files import Row, as_json, bare_options, find_files, find_medium, groups_of, letter_of, read_rows, without_blobs
from ..official import WORDS_MATCH
from ..task import AUDIO_OPTIONS, LETTERS, TEXT_PROMPT, Medium, Question, Task


LAYOUT = (
    "{name}.json with {folder}/ID.wav beside it; or {parquet} of {hub}, which holds the audio (the owners revised a "
    "quarter of the questions in v05.15.25)"
)
MINI = {
    "name": "mmau-test-mini",
    "folder": "test-mini-audios",
    "parquet": "test_mini.parquet",
    "hub": "gamma-lab-umd/MMAU-test-mini",
}
TEST = {"name": "mmau-test", "folder": "test-audios", "parquet": "test.parquet", "hub": "gamma-lab-umd/MMAU-test"}


def read(data: Path, names: Mapping[str, str], has_answers: bool) -> list[Question]:
    """Makes a question of each row."""
    patterns = [f"{names['name']}.json", names["parquet"], f"data/{names['parquet']}"]
    rows = read_rows(find_files(data, patterns, LAYOUT.format(**names)), blobs=("context",))
    questions = []
    for number, plain_row in enumerate(rows):
        row = _as_in_json(plain_row, number)
        options = bare_options(row["choices"])
        source = row.pop("context", None)
        name = str(row["audio_id"]).removeprefix("./")
        questions.append(
            Question(
                id=str(row["id"]),
                media=(Medium("audio", name, source or find_medium(data, name)),),
                question=row["question"],
                options=options,
                answer=letter_of(row["answer"], row["choices"]) if has_answers else None,
                groups=groups_of(
                    row, task="task", difficulty="difficulty", category="category", sub_category="sub-category"
                ),
                row=row,
            )
        )
    return questions


def _as_in_json(row: Row, number: int) -> Row:
    """Gives a row of the parquet file the keys of the JSON file, whose options have no letters."""
    if "other_attributes" not in row:
        return row
    attributes, choices = row["other_attributes"], list(bare_options(row["choices"]))
    attributes = json.loads(attributes) if isinstance(attributes, str) else attributes
    values = {"id": str(number), "audio_id": f"{row.place.rpartition('/')[2]}", **attributes}
    values.update(question=row["instruction"], choices=choices, context=row["context"])
    if row.get("answer") is not None:
        letter = letter_of(row["answer"], row["choices"])
        values["answer"] = row["answer"] if letter is None else choices[LETTERS.index(letter)]
    return Row(values, row.place)


def export(questions: Sequence[Question], answers: Mapping[str, str | None], name: str) -> dict[str, str]:
    """Writes the rows with the answers, under the key of the documentation and that of the older script."""
    rows = [
        {**without_blobs(question.row), "model_prediction": answer, "model_output": answer}
        for question in questions
        for answer in (answers[question.id] or "",)
    ]
    return {f"{name}.json": as_json(rows)}


def _declare(name: str, title: str, names: Mapping[str, str], num_questions: int, has_answers: bool) -> Task:
    """Declares one of the two parts of MMAU."""
    return Task(
        name=name,
        title=title,
        layout=LAYOUT.format(**names),
        num_questions=num_questions,
        read=partial(read, names=names, has_answers=has_answers),
        official=WORDS_MATCH,
        export=partial(export, name=names["name"]),
        options=AUDIO_OPTIONS,
        prompt=TEXT_PROMPT,
        has_answers=has_answers,
    )


TASK = _declare("mmau", "MMAU (test-mini)", MINI, 1000, has_answers=True)
TEST_TASK = _declare("mmau-test", "MMAU (test)", TEST, 9000, has_answers=False)
