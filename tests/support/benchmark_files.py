"""This module writes folders of benchmarks in their owners' schema, with small media, and a model that says one letter.

Each folder has three questions about two clips (OmniBench: three pairs); the right options are B, B and A.
"""

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import soundfile
import torch
from PIL import Image

from tests.support.media_files import write_video


QUESTIONS = (
    ("one", "What is heard?", ("a dog", "a bell", "a car", "rain"), 1),
    ("one", "What is seen?", ("a red box", "a blue box", "a hat", "a cat"), 1),
    ("two", "Who speaks?", ("a woman", "a man", "a child", "nobody"), 0),
)
LETTERS = "ABCD"


def lettered(options) -> list[str]:
    return [f"{letter}. {option}" for letter, option in zip(LETTERS, options, strict=False)]


def write_json(path: Path, content) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content), encoding="utf-8")


def write_clip(path: Path) -> None:
    """Writes two seconds of video with a tone."""
    path.parent.mkdir(parents=True, exist_ok=True)
    tone = np.float32(0.3) * np.sin(np.arange(32000, dtype=np.float32) / 16)
    write_video(path, range(20), audio=(tone[None], 16000, 0))


def write_tone(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, np.sin(np.arange(16000) / 10) * 0.3, 16000)


def write_image(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((48, 64, 3), 90, np.uint8)).save(path)


def write_parquet(path: Path, rows: list[dict]) -> None:
    import pyarrow
    from pyarrow.parquet import write_table

    path.parent.mkdir(parents=True, exist_ok=True)
    write_table(pyarrow.Table.from_pylist(rows), path, row_group_size=2)


def dailyomni(data: Path) -> None:
    write_json(
        data / "qa.json",
        [
            {
                "Question": question,
                "Choice": lettered(options),
                "Answer": LETTERS[right],
                "video_id": clip,
                "Type": "AV Event Alignment" if clip == "one" else "Inference",
                "content_parent_category": "Lifestyle",
                "content_fine_category": "Cooking",
                "video_category": "Howto & Style",
                "video_duration": "30s" if clip == "one" else "60s",
            }
            for clip, question, options, right in QUESTIONS
        ],
    )
    for clip in ("one", "two"):
        write_clip(data / f"Videos/{clip}/{clip}_video.mp4")


def worldsense(data: Path) -> None:
    videos: dict[str, dict] = {}
    for clip, question, options, right in QUESTIONS:
        facts = videos.setdefault(
            clip,
            {
                "video_id": clip,
                "video_duration": "45s",
                "duration": "<1min",
                "domain": "Music",
                "sub_category": "Covers",
                "audio_class": ["Speech", "Music"],
                "video_caption": "Somebody plays.",
            },
        )
        facts[f"task{sum(key.startswith('task') for key in facts)}"] = {
            "task_domain": "Recognition",
            "task_type": "Audio Recognition",
            "question": question,
            "candidates": lettered(options),
            "answer": LETTERS[right],
        }
    write_json(data / "worldsense_qa.json", videos)
    for clip in ("one", "two"):
        write_clip(data / f"videos/{clip}.mp4")


def worldsense_parquet(data: Path) -> None:
    rows = [
        {
            "index": number,
            "video": clip,
            "video_path": f"./videos/{clip}.mp4",
            "duration": "<1min",
            "domain": "Music",
            "candidates": lettered(options),
            "sub_category": "Covers",
            "audio_class": ["Speech", "Music"],
            "task_domain": "Recognition",
            "task_type": "Audio Recognition",
            "subtitle_path": f"./subtitles/{clip}.srt",
            "audio_path": f"./audios/{clip}.wav",
            "video_caption": "Somebody plays.",
            "question": question,
            "answer": LETTERS[right],
        }
        for number, (clip, question, options, right) in enumerate(QUESTIONS)
    ]
    write_parquet(data / "data/test-00000-of-00001.parquet", rows)
    for clip in ("one", "two"):
        write_clip(data / f"videos/{clip}.mp4")


def _omnibench_rows() -> list[dict]:
    return [
        {
            "index": number,
            "task type": "Action and Activity",
            "audio type": "speech",
            "question": question,
            "answer": options[right],
            "options": list(options),
            "audio content": "Somebody speaks.",
            "image content": "A box.",
            "audio_path": f"{number}.wav",
            "image_path": f"{number}.png",
        }
        for number, (_, question, options, right) in enumerate(QUESTIONS)
    ]


def omnibench(data: Path) -> None:
    path = data / "dataset/batch-5_1142_20240817.jsonl"
    path.parent.mkdir(parents=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in _omnibench_rows()), encoding="utf-8")
    for number in range(3):
        write_tone(data / f"mm_data/audio/{number}.wav")
        write_image(data / f"mm_data/image/{number}.png")


def omnibench_parquet(data: Path) -> None:
    rows = _omnibench_rows()
    write_tone(data / "tone.wav")
    write_image(data / "image.png")
    for row in rows:
        for column, name in (("audio", "tone.wav"), ("image", "image.png")):
            row[column] = {"bytes": (data / name).read_bytes(), "path": row[f"{column}_path"]}
    write_parquet(data / "data/train-00000-of-00001.parquet", rows)


def mmau(data: Path) -> None:
    rows = [
        {
            "id": f"id-{number}",
            "audio_id": f"./test-mini-audios/{clip}.wav",
            "question": question,
            "choices": list(options),
            "answer": options[right],
            "dataset": "AudioSet",
            "task": "sound" if clip == "one" else "speech",
            "split": "test-mini",
            "category": "Reasoning",
            "sub-category": "Acoustic Source Inference",
            "difficulty": "medium",
        }
        for number, (clip, question, options, right) in enumerate(QUESTIONS)
    ]
    write_json(data / "mmau-test-mini.json", rows)
    for clip in ("one", "two"):
        write_tone(data / f"test-mini-audios/{clip}.wav")


def mmau_parquet(data: Path) -> None:
    write_tone(data / "tone.wav")
    rows = [
        {
            "instruction": question,
            "context": {"bytes": (data / "tone.wav").read_bytes(), "path": None},
            "choices": [f"({letter}) {option}" for letter, option in zip(LETTERS, options, strict=True)],
            "answer": f"({LETTERS[right]}) {options[right]}",
            "other_attributes": json.dumps(
                {
                    "id": f"id-{number}",
                    "task": "sound" if clip == "one" else "speech",
                    "dataset": "AudioSet",
                    "category": "Reasoning",
                    "sub-category": "Acoustic Source Inference",
                    "difficulty": "medium",
                }
            ),
        }
        for number, (clip, question, options, right) in enumerate(QUESTIONS)
    ]
    write_parquet(data / "test_mini.parquet", rows)


def mmau_test(data: Path) -> None:
    mmau(data)
    rows = json.loads((data / "mmau-test-mini.json").read_text())
    (data / "mmau-test-mini.json").unlink()
    for row in rows:
        del row["answer"]
        row["audio_id"] = row["audio_id"].replace("test-mini-audios", "test-audios")
    write_json(data / "mmau-test.json", rows)
    (data / "test-mini-audios").rename(data / "test-audios")


def mmar(data: Path) -> None:
    rows = [
        {
            "id": f"id-{number}",
            "audio_path": f"./audio/{clip}.wav",
            "question": question,
            "choices": list(options),
            "answer": options[right],
            "modality": "speech" if clip == "one" else "mix-sound-speech",
            "category": "Semantic Layer",
            "sub-category": "Speaker Analysis",
            "language": "en",
            "source": "youtube",
            "url": "https://example.org",
            "timestamp": "00:00:00,00:00:30",
        }
        for number, (clip, question, options, right) in enumerate(QUESTIONS)
    ]
    write_json(data / "MMAR-meta.json", rows)
    for clip in ("one", "two"):
        write_tone(data / f"audio/{clip}.wav")


def _mvbench_row(video: str, number: int, **bounds) -> dict:
    _, question, options, right = QUESTIONS[number]
    return {"video": video, "question": question, "candidates": list(options), "answer": options[right], **bounds}


def mvbench(data: Path) -> None:
    """Writes the main revision: a range of a video, a video of an archive of corrections, frames, and one not there."""
    bounds = {"start": 0.5, "end": 1.5}
    write_json(data / "json/action_sequence.json", [_mvbench_row("one.mp4", 0, **bounds)])
    write_json(data / "json/moving_count.json", [_mvbench_row("two.mp4", 1)])
    write_json(data / "json/episodic_reasoning.json", [_mvbench_row("three", 2, start=1.0, end=2.0)])
    write_json(data / "json/fine_grained_pose.json", [_mvbench_row("S001C001P001R001A040_rgb.avi", 0)])
    write_clip(data / "video/star/Charades_v1_480/one.mp4")
    write_clip(data / "video/data0613/clevrer/video_validation/two.mp4")
    for number in range(1, 10):
        write_image(data / f"video/tvqa/frames_fps3_hq/three/{number:05}.jpg")


def mvbench_cut(data: Path) -> None:
    """Writes the revision `video`: cut videos, and converted ones."""
    bounds = {"start": 0.5, "end": 1.5}
    write_json(data / "json/action_sequence.json", [_mvbench_row("one.mp4", 0, **bounds)])
    write_json(data / "json/action_antonym.json", [_mvbench_row("two.webm", 1)])
    write_json(data / "json/episodic_reasoning.json", [_mvbench_row("three", 2, start=1.0, end=2.0)])
    write_clip(data / "star/Charades_segment/one_0.5_1.5.mp4")
    write_clip(data / "ssv2_video_mp4/two.mp4")
    write_clip(data / "tvqa/video_fps3_hq_segment/three.mp4")


def videomme(data: Path) -> None:
    rows = [
        {
            "video_id": {"one": "001", "two": "002"}[clip],
            "duration": "short" if clip == "one" else "long",
            "domain": "Knowledge",
            "sub_category": "Humanity & History",
            "url": f"https://www.youtube.com/watch?v={clip}",
            "videoID": clip,
            "question_id": f"{clip}-{number}",
            "task_type": "Counting Problem",
            "question": question,
            "options": [f"{option}." for option in lettered(options)],
            "answer": LETTERS[right],
        }
        for number, (clip, question, options, right) in enumerate(QUESTIONS)
    ]
    write_parquet(data / "videomme/test-00000-of-00001.parquet", rows)
    for clip in ("one", "two"):
        write_clip(data / f"data/{clip}.mp4")


def videomme_json(data: Path) -> None:
    videos: dict[str, dict] = {}
    for number, (clip, question, options, right) in enumerate(QUESTIONS):
        video = videos.setdefault(
            clip,
            {
                "video_id": {"one": "001", "two": "002"}[clip],
                "duration_category": "short",
                "video_category": "Knowledge",
                "video_sub_category": "Humanity & History",
                "url": f"https://www.youtube.com/watch?v={clip}",
                "questions": [],
            },
        )
        video["questions"].append(
            {
                "question_id": f"{clip}-{number}",
                "task_type": "Counting Problem",
                "question": question,
                "choices": lettered(options),
                "answer": LETTERS[right],
            }
        )
    write_json(data / "videomme.json", list(videos.values()))
    for clip in ("one", "two"):
        write_clip(data / f"data/{clip}.mp4")


# a layout of the files, and the task that reads it
LAYOUTS: dict[str, tuple[str, Callable[[Path], None]]] = {
    "dailyomni": ("dailyomni", dailyomni),
    "worldsense": ("worldsense", worldsense),
    "worldsense parquet": ("worldsense", worldsense_parquet),
    "omnibench": ("omnibench", omnibench),
    "omnibench parquet": ("omnibench", omnibench_parquet),
    "mmau": ("mmau", mmau),
    "mmau parquet": ("mmau", mmau_parquet),
    "mmau test": ("mmau-test", mmau_test),
    "mmar": ("mmar", mmar),
    "mvbench": ("mvbench", mvbench),
    "mvbench cut": ("mvbench", mvbench_cut),
    "videomme": ("videomme", videomme),
    "videomme json": ("videomme", videomme_json),
}


@contextmanager
def always_saying(model, tokenizer, letter: str) -> Iterator[None]:
    """Lets a model answer every prompt with one letter, as its first token."""
    (token,) = tokenizer.encode(letter, add_special_tokens=False)

    def say(module, inputs, logits):
        wanted = torch.full_like(logits, -100.0)
        wanted[..., token] = 100.0
        return wanted

    handle = model.lm_head.register_forward_hook(say)
    try:
        yield
    finally:
        handle.remove()
