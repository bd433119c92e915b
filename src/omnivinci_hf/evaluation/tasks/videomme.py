"""This module declares Video-MME without subtitles: questions about videos of up to an hour."""

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from ..files import Row, as_json, bare_options, find_files, find_medium, groups_of, known_letter, read_rows
from ..official import by_letter, first_letter_anywhere
from ..task import VIDEO_OPTIONS, Medium, OfficialRule, Question, Task


LAYOUT = (
    "videomme/test-*.parquet of lmms-lab/Video-MME (or the owners' JSON file with a list of videos and their "
    "questions), and the videos of the zip files as data/YOUTUBE_ID.mp4"
)
LEAD_INS = (
    *("The best answer is", "The correct answer is", "The answer is", "The answer"),
    *("The best option isThe correct option is", "Best answer:Best option:"),
)
# keys of the owners' JSON file -> those of the parquet file
VIDEO_KEYS = {
    "video_id": ("video_id",),
    "duration": ("duration", "duration_category"),
    "domain": ("domain", "video_category"),
    "sub_category": ("sub_category", "video_sub_category", "video_subcategory"),
    "url": ("url",),
}


def read(data: Path) -> list[Question]:
    """Makes a question of each row."""
    files = find_files(data, ["videomme/test-*.parquet", "test-*.parquet", "*.json"], LAYOUT)
    questions = []
    for row in _flat(read_rows(files[:1] if files[0].suffix == ".json" else files)):
        options = bare_options(row["options"])
        clip = row["videoID"]
        names = [f"data/{clip}{suffix}" for suffix in (".mp4", ".MP4", ".mkv")]
        names += [f"videos/{clip}.mp4", f"data/{row['video_id']}.mp4", f"videos/{row['video_id']}.mp4"]
        questions.append(
            Question(
                id=str(row["question_id"]),
                media=(Medium("video", names[0], find_medium(data, *names)),),
                question=row["question"],
                options=options,
                answer=known_letter(row, "answer", options),
                groups=groups_of(
                    row, duration="duration", domain="domain", sub_category="sub_category", task_type="task_type"
                ),
                row=row,
            )
        )
    return questions


def _flat(rows: list[Row]) -> list[Row]:
    """Makes a row of each question, where a row is a video with its questions."""
    flat = []
    for row in rows:
        if "questions" not in row:
            flat.append(row)
            continue
        video = {key: next((row[name] for name in names if name in row), None) for key, names in VIDEO_KEYS.items()}
        clip = str(video["url"] or "").rpartition("v=")[2] or row["video_id"]
        for question in row["questions"]:
            values = {**video, "videoID": clip, **question}
            values["options"] = values.pop("choices", None) or values["options"]
            flat.append(Row(values, row.place))
    return flat


def export(questions: Sequence[Question], answers: Mapping[str, str | None]) -> dict[str, str]:
    """Writes the nested file that `eval_your_results.py` takes."""
    videos: dict[str, dict[str, Any]] = {}
    for question in questions:
        row, answer = question.row, answers[question.id]
        video = videos.setdefault(
            row["video_id"],
            {
                "video_id": row["video_id"],
                "duration_category": row["duration"],
                "video_category": row["domain"],
                "video_subcategory": row["sub_category"],
                "missing": True,
                "questions": [],
            },
        )
        video["missing"] = video["missing"] and answer is None
        video["questions"].append(
            {
                "question_id": row["question_id"],
                "task_type": row["task_type"],
                "question": row["question"],
                "choices": list(row["options"]),
                "answer": row["answer"],
                "response": answer or "",
            }
        )
    return {"videomme.json": as_json(list(videos.values()))}


TASK = Task(
    name="videomme",
    title="Video-MME (without subtitles)",
    layout=LAYOUT,
    num_questions=2700,
    read=read,
    official=OfficialRule(
        'Rule: the first capital A to D anywhere, also within a word, once phrases such as "The answer is" are taken '
        "out; answers without one leave the denominator.",
        by_letter(partial(first_letter_anywhere, lead_ins=LEAD_INS), counts_unread=False),
        counts_failures=False,
    ),
    export=export,
    options=VIDEO_OPTIONS,
)
