"""This module declares WorldSense: questions about real-world videos with their audio."""

import csv
import io
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from ..files import Row, bare_options, find_files, find_medium, groups_of, known_letter, read_json, read_rows
from ..official import by_letter, first_letter_anywhere
from ..task import VIDEO_OPTIONS, Medium, OfficialRule, Question, Task


LAYOUT = (
    "worldsense_qa.json of honglyhly/WorldSense (or data/test-*.parquet of lmms-lab/WorldSense), and the videos of the "
    "zip files as videos/ID.mp4"
)
COLUMNS = (
    *("index", "video", "video_path", "duration", "domain", "candidates", "sub_category", "audio_class"),
    *("task_domain", "task_type", "subtitle_path", "audio_path", "video_caption", "question", "answer"),
)
LEAD_INS = (
    *("The best answer is", "The correct answer is", "The answer is", "The answer"),
    *("The best option isThe correct option is", "Best answer:Best option:", "Answer:", "Option:"),
)


def read(data: Path) -> list[Question]:
    """Makes a question of each task of a video in `worldsense_qa.json`, or of each row of the parquet files."""
    files = find_files(data, ["worldsense_qa.json", "data/test-*.parquet", "test-*.parquet"], LAYOUT)
    rows = read_rows(files) if files[0].suffix == ".parquet" else _rows(files[0])
    questions = []
    for row in rows:
        options = bare_options(row["candidates"])
        name = f"videos/{row['video']}.mp4"
        questions.append(
            Question(
                id=str(row["index"]),
                media=(Medium("video", name, find_medium(data, name)),),
                question=row["question"],
                options=options,
                answer=known_letter(row, "answer", options),
                groups=groups_of(
                    row,
                    task_type="task_type",
                    task_domain="task_domain",
                    domain="domain",
                    duration="duration",
                    audio_class="audio_class",
                ),
                row=row,
            )
        )
    return questions


def _rows(file: Path) -> list[Row]:
    """Numbers the tasks of all videos, with what is said of their video, as the scorer's table has them."""
    content = read_json(file)
    if not isinstance(content, dict):
        raise ValueError(f"{file} does not hold videos by their ids; get it again.")
    rows: list[Row] = []
    for video, facts in content.items():
        paths = {name: f"./{name}s/{video}.{ending}" for name, ending in (("subtitle", "srt"), ("audio", "wav"))}
        shared: dict[str, Any] = {
            "video": video,
            "video_path": f"./videos/{video}.mp4",
            **{f"{name}_path": path for name, path in paths.items()},
            **{key: value for key, value in facts.items() if not key.startswith("task")},
        }
        for key in (key for key in facts if key.startswith("task")):
            rows.append(Row({"index": len(rows), **shared, **facts[key]}, f"{file}, {key} of {video}"))
    return rows


def export(questions: Sequence[Question], answers: Mapping[str, str | None]) -> dict[str, str]:
    """Writes the table that VLMEvalKit scores, with its column `prediction`."""
    table = io.StringIO()
    writer = csv.writer(table, delimiter="\t", lineterminator="\n")
    writer.writerow([*COLUMNS, "prediction"])
    for question in questions:
        cells = [question.row.get(column, "") for column in COLUMNS]
        writer.writerow([*cells, answers[question.id] or ""])
    return {"WorldSense.tsv": table.getvalue()}


TASK = Task(
    name="worldsense",
    title="WorldSense",
    layout=LAYOUT,
    num_questions=3172,
    read=read,
    official=OfficialRule(
        "Rule of VLMEvalKit: the first capital A to D anywhere, also within a word, once phrases such as "
        '"The answer is" are taken out.',
        by_letter(partial(first_letter_anywhere, lead_ins=LEAD_INS)),
    ),
    export=export,
    options=VIDEO_OPTIONS,
)
