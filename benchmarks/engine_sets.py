"""Runs the data engine on sets of clips of the made-up world, and counts what it says that is true.

`engine_world.py` is the command.
"""

import argparse
import tempfile
from pathlib import Path
from typing import Any

import engine_rule
import numpy as np
import yaml
from chat_server import ChatServer
from measuring import markdown

from omnivinci_hf.engine import load_config, run_engine
from omnivinci_hf.engine.records import read_records
from omnivinci_hf.world import Scene, is_true, sample_scene, with_statements, write_clip
from omnivinci_hf.world.dataset import split_seeds
from omnivinci_hf.world.scene import STATEMENTS


FIRST_SEED = 400_000  # of each split, apart from what is learned and asked about elsewhere
SEEDS_OF_SET = 10_000
SILENT, SPOKEN = "without statements", "with statements"
CAPTIONS = ("picture alone", "audio alone", "concatenated", "combined")
QUESTIONS = 8  # about a clip

Fact = tuple[str, int]


def scenes_of(split: str, set_number: int, number: int, speaks: bool) -> dict[str, Scene]:
    """Draws the scenes of a set, with statements or without, by the names of their clips."""
    scenes: dict[str, Scene] = {}
    for seed in split_seeds(split, SEEDS_OF_SET, FIRST_SEED + SEEDS_OF_SET * (2 * set_number + speaks)):
        scene = with_statements(sample_scene(seed), seed) if speaks else sample_scene(seed)
        if scene.sound.statements or not speaks:
            scenes[str(seed)] = scene
        if len(scenes) == number:
            return scenes
    raise ValueError(f"Found only {len(scenes)} scenes.")


def run(folder: Path, captioner: Path, scenes: dict[str, Scene], questions: int) -> dict[str, list[dict[str, Any]]]:
    """Writes the clips, runs the engine, and returns its records by stage."""
    engine_rule.checkpoint = captioner
    (folder / "clips").mkdir(parents=True, exist_ok=True)
    for name, scene in scenes.items():
        write_clip(scene, folder / "clips" / f"{name}.mp4")
    with ChatServer(engine_rule.reason) as server:
        settings = {
            "media": "clips/*.mp4",
            "output": "out",
            "backends": {
                "captioner": {"kind": "python", "function": "engine_rule:caption"},
                "transcriber": {"kind": "python", "function": "engine_rule:transcribe"},
                "reasoner": {"kind": "openai", "urls": server.url, "model": "rule"},
            },
            **{name: {"backend": "captioner"} for name in ("vision", "audio")},
            "speech": {"backend": "transcriber"},
            "omni": {"backend": "reasoner"},
            "qa": {"backend": "reasoner", "questions": questions},
            "filtered": {"backend": "reasoner", "agreement": "exact"},
            "train": {"captions": False},
        }
        (folder / "engine.yaml").write_text(yaml.safe_dump(settings), encoding="utf-8")
        num_errors = run_engine(load_config(folder / "engine.yaml"), note=lambda line: None)
    if num_errors:
        raise RuntimeError(f"{num_errors} records have an error")
    stages = ("segments", "vision", "audio", "omni", "filtered", "train")
    return {name: list(read_records(folder / "out" / f"{name}.jsonl")) for name in stages}


def clip_of(name: str) -> str:
    """Returns the name of the clip that a record is about."""
    return name.partition("-")[0]


def captions_of(vision: dict[str, Any], audio: dict[str, Any], omni: dict[str, Any]) -> dict[str, list[dict[str, Any]]]:
    """Returns the sentences of each kind of caption of a clip, each with an id of its own."""
    kept = [one for one in omni["sentences"] if one["verdict"] in ("kept", "corrected")]
    captions = [vision["sentences"], audio["sentences"], [*vision["sentences"], *audio["sentences"]], kept]
    named = [[{**one, "id": f"{number}"} for number, one in enumerate(sentences)] for sentences in captions]
    return dict(zip(CAPTIONS, named, strict=True))


def facts_of(sentences: list[dict[str, Any]]) -> set[Fact]:
    """Returns the facts that a caption tells."""
    return {(one["text"][:-1], int(one["start"])) for one in sentences if engine_rule.NAME.fullmatch(one["text"][:-1])}


def truth_of(scene: Scene) -> set[Fact]:
    """Returns the facts of a scene."""
    return {(event.name, int(event.start_sec)) for event in (*scene.vision.events, *scene.sound.events)}


def is_right(question: str, answer: str, scene: Scene) -> bool:
    """Tells whether an answer is right, by what happens in the scene."""
    family, (name, *others) = engine_rule.family_of(question)
    if family == "truth":
        told = [one for one in scene.sound.statements if STATEMENTS[one.kind][1] == name]
        return any(answer == ("yes" if is_true(one, scene.vision) else "no") for one in told)
    shapes, sounds = scene.vision.events, scene.sound.events
    asked = [event for event in (*shapes, *sounds) if event.name in (name, *others)]
    if len(asked) != 1 + len(others):  # one of them happens more than once, or never
        return False
    event = asked[0]
    if family == "order":
        sound = next(one for one in sounds if one.name == name)
        shape = next(one for one in shapes if one.name == others[0])
        return answer == ("yes" if sound.onset_sec < shape.appear_sec else "no")
    if family.startswith("time"):
        return answer == str(int(event.start_sec))
    near = [one for one in (sounds if event in shapes else shapes)
            if one.start_sec < event.end_sec and event.start_sec < one.end_sec]  # fmt: skip
    return [one.name for one in near] == [answer]


COUNTS = ("true", "told", "facts", "right questions", "questions")
SAID = (
    *("false statements", "contradictions found", "true statements", "false alarms", "statements heard"),
    *("questions", "kept questions", "right questions"),
)


def measure(kind: str, number: int, arguments: argparse.Namespace) -> dict[str, Any]:
    """Measures the engine on one set of clips."""
    scenes = scenes_of(arguments.split, number, arguments.clips, kind == SPOKEN)
    counts: dict[str, dict[str, int]] = {name: dict.fromkeys(COUNTS, 0) for name in CAPTIONS}
    said = dict.fromkeys(SAID, 0)
    with tempfile.TemporaryDirectory() as folder:
        records = run(Path(folder), arguments.output / "captioner", scenes, QUESTIONS)
    for of_clip in zip(records["vision"], records["audio"], records["omni"], strict=True):
        scene = scenes[clip_of(of_clip[0]["id"])]
        truth = truth_of(scene)
        for name, sentences in captions_of(*of_clip).items():
            facts, questions = facts_of(sentences), engine_rule.ask(sentences, 1000)
            right = sum(is_right(one["question"], one["answer"], scene) for one in questions)
            values = (len(facts & truth), len(facts), len(truth), right, len(questions))
            for key, value in zip(COUNTS, values, strict=True):
                counts[name][key] += value
        count_statements(scene, of_clip[1]["speech"], of_clip[2]["sentences"], said)
    for record in records["filtered"]:
        right = is_right(record["question"], record["answer"], scenes[clip_of(record["segment"])])
        said["questions"] += 1
        said["kept questions"] += record["kept"]
        said["right questions"] += record["kept"] and right
    return {"first_seed": int(min(scenes, key=int)), "captions": counts, **said}


def count_statements(scene: Scene, speech: list, sentences: list, said: dict[str, int]) -> None:
    """Counts planted statements and those that were found to contradict what is seen."""
    flagged = {name for one in sentences if one["verdict"] == "contradicts" for name in one["from"]}
    words = {one["text"] for one in speech if one["id"] in flagged}
    for statement in scene.sound.statements:
        kind = ("true statements", "false alarms") if is_true(statement, scene.vision) else (SAID[0], SAID[1])
        said[kind[0]] += 1
        said[kind[1]] += statement.kind in words
        said["statements heard"] += statement.kind in {one["text"] for one in speech}


# -- Report


def spread(values: list[float]) -> str:
    """Writes mean and standard deviation."""
    deviation = np.std(values, ddof=1) if len(values) > 1 else float("nan")
    return f"{np.mean(values):.3f} ± {deviation:.3f}"


def report(kind: str, sets: list[dict[str, Any]]) -> tuple[str, list[tuple]]:
    """Writes the figures of clips with statements, or without, and which goals are reached."""
    shares: dict[str, dict[str, list[float]]] = {}
    rows = []
    for name in CAPTIONS:
        counts = [one["captions"][name] for one in sets]
        right = [sum(one[key] for one in counts) for key in ("right questions", "questions")]
        shares[name] = {
            "precision": [one["true"] / max(one["told"], 1) for one in counts],
            "recall": [one["true"] / one["facts"] for one in counts],
            "false": [1 - one["true"] / max(one["told"], 1) for one in counts],
        }
        rows.append([name, *map(spread, shares[name].values()), f"{right[0]} of {right[1]}"])
    table = markdown(["caption", "precision", "recall", "false facts", "right questions"], rows)
    total = {name: sum(one[name] for one in sets) for name in SAID}
    share = total["right questions"] / max(total["kept questions"], 1)
    text = (
        f"{len(sets)} sets of {sets[0]['settings']['clips']} clips {kind}, of seeds from "
        f"{', '.join(format(one['first_seed'], ',') for one in sets)} on; mean and standard deviation over sets, or "
        f"sums.\n\n{table}\n\nOf {total['questions']} questions {total['kept questions']} passed the filters, of which "
        f"{total['right questions']} are right ({share:.1%})."
    )
    combined, concatenated = shares["combined"], shares["concatenated"]
    tenth = float(np.mean(concatenated["false"])) / 10
    goals: list[tuple] = [
        *((f"{kind}: {name} of combined captions", float(np.mean(combined[name])), 0.95) for name in shares["combined"]
          if name != "false"),
        (f"{kind}: false facts, against a tenth of concatenation's", float(np.mean(combined["false"])), tenth, False),
        (f"{kind}: right questions", share, 0.97),
    ]  # fmt: skip
    if kind == SPOKEN:
        text += (
            f" Of {total['false statements']} false statements {total['contradictions found']} were found to "
            f"contradict what is seen, of {total['true statements']} true ones {total['false alarms']} were; "
            f"{total['statements heard']} of all were transcribed."
        )
        found = total["contradictions found"] / max(total["false statements"], 1)
        alarms = total["false alarms"] / max(total["true statements"], 1)
        goals += [(f"{kind}: contradictions found", found, 0.9), (f"{kind}: false alarms", alarms, 0.05, False)]
    return text, goals
