"""This module declares MMAR: questions about audio that need several steps of reasoning."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from ..files import as_json, bare_options, find_files, find_medium, groups_of, letter_of, read_rows
from ..official import WORDS_MATCH
from ..task import AUDIO_OPTIONS, TEXT_PROMPT, Medium, Question, Task


LAYOUT = "MMAR-meta.json (or MMAR-meta.jsonl), and the clips of mmar-audio.tar.gz as audio/ID.wav"


def read(data: Path) -> list[Question]:
    """Makes a question of each row."""
    questions = []
    for row in read_rows(find_files(data, ["MMAR-meta.json", "MMAR-meta.jsonl"], LAYOUT)):
        options = bare_options(row["choices"])
        name = str(row["audio_path"]).removeprefix("./")
        questions.append(
            Question(
                id=str(row["id"]),
                media=(Medium("audio", name, find_medium(data, name)),),
                question=row["question"],
                options=options,
                answer=letter_of(row["answer"], row["choices"]),
                groups=groups_of(
                    row, modality="modality", category="category", sub_category="sub-category", language="language"
                ),
                row=row,
            )
        )
    return questions


def export(questions: Sequence[Question], answers: Mapping[str, str | None]) -> dict[str, str]:
    """Writes the rows with the answers, under the key of the owners' script and that of their documentation."""
    rows = [
        {**question.row, "answer_prediction": answer, "model_prediction": answer}
        for question in questions
        for answer in (answers[question.id] or "",)
    ]
    return {"MMAR.json": as_json(rows)}


TASK = Task(
    name="mmar",
    title="MMAR",
    layout=LAYOUT,
    num_questions=1000,
    read=read,
    official=WORDS_MATCH,
    export=export,
    options=AUDIO_OPTIONS,
    prompt=TEXT_PROMPT,
)
