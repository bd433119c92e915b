"""This module declares DailyOmni: questions about everyday videos that need picture and audio together."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from ..files import as_json, bare_options, find_files, find_medium, groups_of, known_letter, read_rows
from ..official import by_letter
from ..task import VIDEO_OPTIONS, Medium, OfficialRule, Question, Task


LAYOUT = "qa.json, and the videos of Videos.tar as Videos/ID/ID_video.mp4"


def read(data: Path) -> list[Question]:
    """Makes a question of each row of `qa.json`."""
    questions = []
    for number, row in enumerate(read_rows(find_files(data, ["qa.json"], LAYOUT))):
        options = bare_options(row["Choice"])
        clip = row["video_id"]
        name = f"Videos/{clip}/{clip}_video.mp4"
        questions.append(
            Question(
                id=str(number),
                media=(Medium("video", name, find_medium(data, name, f"Videos/{clip}.mp4")),),
                question=row["Question"],
                options=options,
                answer=known_letter(row, "Answer", options),
                groups=groups_of(row, type="Type", duration="video_duration", category="video_category"),
                row=row,
            )
        )
    return questions


def first_letter(answer: str) -> str:
    """Takes A, B, C or D where an answer begins with it, in either case, even as the first letter of a word."""
    match = re.match(r"\s*([A-D])", answer, re.IGNORECASE)
    return match[1].upper() if match else ""


def export(questions: Sequence[Question], answers: Mapping[str, str | None]) -> dict[str, str]:
    """Writes the rows of `qa.json` with the answers; the owners' script asks and scores in one, and reads no file."""
    return {"dailyomni.json": as_json([{**q.row, "model_answer": answers[q.id]} for q in questions])}


TASK = Task(
    name="dailyomni",
    title="DailyOmni",
    layout=LAYOUT,
    num_questions=1197,
    read=read,
    official=OfficialRule(
        "Rule: A to D at the beginning, which takes the first letter of any word that begins so; "
        "failed questions leave the denominator.",
        by_letter(first_letter),
        counts_failures=False,
    ),
    export=export,
    options=VIDEO_OPTIONS,
)
