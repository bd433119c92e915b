"""This module declares MVBench: twenty kinds of questions about what changes in short videos."""

import os
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ..files import Row, as_json, bare_options, find_files, find_medium, letter_of, read_rows
from ..task import LETTERS, SILENT_VIDEO_OPTIONS, Medium, OfficialRule, Question, Task


LAYOUT = (
    "json/action_sequence.json and the 19 other parts, and the unpacked videos of a revision of OpenGVLab/MVBench: "
    "video/star/Charades_v1_480/..., or star/Charades_segment/... of the revision `video`. The 200 videos of NTU RGB+D "
    "(fine_grained_pose) are not distributed; get them from their owners, to nturgbd/"
)
CLEVRER, PERCEPTION = "clevrer/video_validation", "perception/videos"
CHARADES = ("star/Charades_segment", "star/Charades_v1_480")
# the folders of each part; those of revision `video` hold videos that are cut already
FOLDERS: dict[str, tuple[str, ...]] = {
    "action_sequence": CHARADES,
    "action_prediction": CHARADES,
    "action_antonym": ("ssv2_video_mp4", "ssv2_video"),
    "fine_grained_action": ("Moments_in_Time_Raw/videos",),
    "unexpected_action": ("FunQA_test/test",),
    "object_existence": (CLEVRER,),
    "object_interaction": CHARADES,
    "object_shuffle": (PERCEPTION,),
    "moving_direction": (CLEVRER,),
    "action_localization": ("sta/sta_video_segment", "sta/sta_video"),
    "scene_transition": ("scene_qa/video",),
    "action_count": (PERCEPTION,),
    "moving_count": (CLEVRER,),
    "moving_attribute": (CLEVRER,),
    "state_change": (PERCEPTION,),
    "fine_grained_pose": ("nturgbd_convert", "nturgbd"),
    "character_order": (PERCEPTION,),
    "egocentric_navigation": ("vlnqa",),
    "episodic_reasoning": ("tvqa/video_fps3_hq_segment", "tvqa/frames_fps3_hq"),
    "counterfactual_inference": (CLEVRER,),
}
ROOTS = ("", "video/", "video/data0613/", "data0613/")
FRAMES_PER_SEC = 3  # of the folders of frames of TVQA


def read(data: Path) -> list[Question]:
    """Makes a question of each row of the parts that are there; at least one must be."""
    files = find_files(data, ["json/*.json", "*.json"], LAYOUT)
    questions = []
    for file in files:
        part = file.stem
        if part not in FOLDERS:
            continue
        for number, row in enumerate(read_rows([file])):
            options = bare_options(row["candidates"])
            questions.append(
                Question(
                    id=f"{part}-{number}",
                    media=(_medium(data, part, row),),
                    question=row["question"],
                    options=options,
                    answer=letter_of(row["answer"], row["candidates"]),
                    groups={"part": [part]},
                    row=row,
                )
            )
    if not questions:
        raise FileNotFoundError(f"{data} holds no part of MVBench, only {files[0].name}. Expected is: {LAYOUT}")
    return questions


def _medium(data: Path, part: str, row: Row) -> Medium:
    """Finds the video of a row in either revision, and the range that is asked about where it is not cut yet."""
    start, end = row.get("start"), row.get("end")
    for folder in FOLDERS[part]:
        is_cut = folder.endswith("_segment")
        names = _names(row["video"], (start, end) if is_cut and start is not None else None)
        if path := find_medium(data, *(f"{root}{folder}/{name}" for root in ROOTS for name in names)):
            return _found(path, str(path.relative_to(data)), None if is_cut else (start, end))
    return Medium("video", f"{FOLDERS[part][0]}/{row['video']}", None)


def _names(given: str, bounds: tuple[Any, Any] | None) -> list[str]:
    """Lists the names that a video may have: revision `video` names cut videos by their range, and converted some."""
    stem, suffix = os.path.splitext(given)
    stems = [f"{stem}_{bounds[0]}_{bounds[1]}", stem] if bounds else [stem]
    return [one + ending for one in stems for ending in dict.fromkeys((suffix, ".mp4", ".webm", ".avi"))]


def _found(path: Path, name: str, bounds: tuple[float | None, float | None] | None) -> Medium:
    start, end = bounds or (None, None)
    if path.is_dir():
        return _frames(path, name, start, end)
    options = {"start_sec": start, "end_sec": end}
    return Medium("video", name, path, {key: value for key, value in options.items() if value is not None})


def _frames(folder: Path, name: str, start: float | None, end: float | None) -> Medium:
    """Takes the frames of a range from a folder of pictures, which are numbered from 1."""
    frames = sorted(folder.glob("*.jpg"))
    first = max(round((start or 0) * FRAMES_PER_SEC), 1) - 1
    last = len(frames) if end is None else min(round(end * FRAMES_PER_SEC), len(frames))
    options: dict[str, Any] = {"video_metadata": {"fps": FRAMES_PER_SEC}}
    return Medium("video", f"{name}[{first}:{last}]", frames[first:last] or None, options)


def verdict(answer: str, question: Question) -> bool:
    """Compares the first word of an answer with the letter in brackets; each may hold the other."""
    if question.answer is None:
        return False
    first = answer.lower().split(" ")[0]
    right = f"({question.answer.lower()})"
    return first.replace(".", "") in right or right in first


def export(questions: Sequence[Question], answers: Mapping[str, str | None]) -> dict[str, str]:
    """Writes the two files of the owners' notebook: all answers, and the shares for the leaderboard, in percent."""
    asked, right, results = Counter[str](), Counter[str](), []
    for question in questions:
        (part,), answer = question.groups["part"], answers[question.id]
        title = part.replace("_", " ").title().replace("Fine Grained", "Fine-grained")
        asked[title] += 1
        right[title] += answer is not None and verdict(answer, question)
        number = LETTERS.index(question.answer) if question.answer else None
        gold = f"({question.answer}) {question.options[number]}" if number is not None else question.row["answer"]
        results.append({"pred": answer or "", "gt": gold})
    shares = {title: 100 * right[title] / asked[title] for title in asked}
    shares["Avg"] = 100 * right.total() / asked.total() if asked else 0.0
    counts = {title: [right[title], asked[title]] for title in asked}
    return {
        "mvbench.json": as_json({"acc_dict": counts, "res_list": results}),
        "upload_leaderboard.json": as_json(shares),
    }


TASK = Task(
    name="mvbench",
    title="MVBench",
    layout=LAYOUT,
    num_questions=4000,
    read=read,
    official=OfficialRule(
        "Rule: the first word of the answer is part of the letter in brackets, or the other way round; an empty answer "
        "is part of every letter, and counts as right.",
        verdict,
    ),
    export=export,
    options=SILENT_VIDEO_OPTIONS,
)
