"""How much of what the data engine says is true: its captions and questions about clips of the made-up world.

    python benchmarks/engine_world.py [--sets 3] [--clips 24] [--json FILE] [--report model_cards/engine.md]

The small checkpoint captions picture and audio apart; a server on loopback reasons by a fixed rule (`engine_rule.py`),
so that the engine is measured and not a large model. A fact is a shape or a sound with the second in which it begins.
There are sets of clips without speech, and sets in which a voice states something about shapes, half of it true (needs
espeak-ng; the small checkpoint never heard speech). Each set has clips of test seeds of its own; the spread is the
standard deviation over sets.
"""

import argparse
import datetime
import json
import re
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from chat_server import ChatServer
from engine_rule import NAME, ORDER, TRUTH, ask, listed, reason
from measuring import markdown, write_section
from transformers.utils import logging

from omnivinci_hf.engine import load_config, run_engine
from omnivinci_hf.engine.records import read_records
from omnivinci_hf.world import Scene, is_true, sample_scene, with_statements, write_clip
from omnivinci_hf.world.dataset import split_seeds
from omnivinci_hf.world.scene import STATEMENTS


FIRST_SEED = 300_000  # of the test split, apart from what is asked about elsewhere
CAPTIONS = ("picture alone", "audio alone", "concatenated", "combined", "both at once")
QUESTIONS = 8  # about a clip

Fact = tuple[str, int]


def scenes_of(first: int, number: int, speaks: bool) -> dict[str, Scene]:
    """Draws scenes, with statements or without, by the names of their clips."""
    scenes: dict[str, Scene] = {}
    for seed in split_seeds("test", 10_000, first):
        scene = with_statements(sample_scene(seed), seed) if speaks else sample_scene(seed)
        if scene.sound.statements or not speaks:
            scenes[str(seed)] = scene
        if len(scenes) == number:
            return scenes
    raise ValueError(f"Found only {len(scenes)} scenes.")


def run(folder: Path, scenes: dict[str, Scene]) -> dict[str, list[dict[str, Any]]]:
    """Writes the clips, runs the engine, and returns its records by stage."""
    (folder / "clips").mkdir()
    for name, scene in scenes.items():
        write_clip(scene, folder / "clips" / f"{name}.mp4")
    with ChatServer(reason) as server:
        reasoner = {"kind": "openai", "urls": server.url, "model": "rule"}
        settings = {
            "media": "clips/*.mp4",
            "output": "out",
            "backends": {
                "captioner": {"kind": "python", "function": "engine_rule:caption"},
                "transcriber": {"kind": "python", "function": "engine_rule:transcribe"},
                "reasoner": reasoner,
            },
            **{name: {"backend": "captioner"} for name in ("vision", "audio")},
            "speech": {"backend": "transcriber"},
            "omni": {"backend": "reasoner"},
            "qa": {"backend": "reasoner", "questions": QUESTIONS},
            "filtered": {"backend": "reasoner", "agreement": "exact"},
        }
        (folder / "engine.yaml").write_text(yaml.safe_dump(settings), encoding="utf-8")
        num_errors = run_engine(load_config(folder / "engine.yaml"), note=lambda line: None)
    if num_errors:
        raise RuntimeError(f"{num_errors} records have an error")
    return {
        name: list(read_records(folder / "out" / f"{name}.jsonl")) for name in ("vision", "audio", "omni", "filtered")
    }


def facts_of(sentences: list[dict[str, Any]]) -> set[Fact]:
    """Returns the facts that a caption tells; one without a second has -1, and is false."""
    named = [one for one in sentences if NAME.fullmatch(one["text"][:-1])]
    return {(one["text"][:-1], int(one["start"]) if one["end"] - one["start"] <= 1 else -1) for one in named}


def truth_of(scene: Scene) -> set[Fact]:
    """Returns the facts of a scene."""
    return {(event.name, int(event.start_sec)) for event in (*scene.vision.events, *scene.sound.events)}


def is_right(question: str, answer: str, scene: Scene) -> bool:
    """Tells whether an answer is right."""
    if match := re.match(TRUTH.format(r"(\w+)").replace("?", r"\?"), question):
        told = [one for one in scene.sound.statements if STATEMENTS[one.kind][1] == match[1]]
        return any(answer == ("yes" if is_true(one, scene.vision) else "no") for one in told)
    names = NAME.findall(question)
    events = (*scene.vision.events, *scene.sound.events)
    starts = {name: [event.start_sec for event in events if event.name == name] for name in names}
    return all(len(times) == 1 for times in starts.values()) and answer == min(names, key=lambda name: starts[name])


def captions_of(scene_file: Path, records: list[dict[str, Any]]) -> dict[str, list[dict[str, Any]]]:
    """Returns the sentences of each kind of caption of a clip."""
    vision, audio, omni = (record["sentences"] for record in records)
    kept = [one for one in omni if one["verdict"] in ("kept", "corrected")]
    at_once = listed({"type": "video", "path": str(scene_file)}, 1e6)
    captions = [vision, audio, [*vision, *audio], kept, at_once]
    named = [[{**one, "id": f"{number}"} for number, one in enumerate(sentences)] for sentences in captions]
    return dict(zip(CAPTIONS, named, strict=True))


def measure(first: int, number: int, speaks: bool) -> dict[str, Any]:
    """Measures the engine on one set of clips."""
    counts: dict[str, dict[str, int]] = {name: dict.fromkeys(COUNTS, 0) for name in CAPTIONS}
    said = dict.fromkeys(SAID, 0)
    with tempfile.TemporaryDirectory() as folder:
        scenes = scenes_of(first, number, speaks)
        records = run(Path(folder), scenes)
        for of_clip in zip(records["vision"], records["audio"], records["omni"], strict=True):
            name = of_clip[0]["id"].partition("-")[0]
            scene, truth = scenes[name], truth_of(scenes[name])
            for kind, sentences in captions_of(Path(folder) / "clips" / f"{name}.mp4", list(of_clip)).items():
                facts = facts_of(sentences)
                questions = [one for one in ask(sentences, 1000) if one["question"].startswith(ORDER[:11])]
                right = sum(is_right(one["question"], one["answer"], scene) for one in questions)
                for key, value in zip(
                    COUNTS, (len(facts & truth), len(facts), len(truth), right, len(questions)), strict=True
                ):
                    counts[kind][key] += value
            count_statements(scene, of_clip[1]["speech"], of_clip[2]["sentences"], said)
        for record in records["filtered"]:
            scene = scenes[record["segment"].partition("-")[0]]
            right = is_right(record["question"], record["answer"], scene)
            said["questions"] += 1
            said["kept questions"] += record["kept"]
            said["right questions"] += record["kept"] and right
    return {"first_seed": first, "captions": counts, **said}


COUNTS = ("true", "told", "facts", "right orders", "orders")
SAID = (
    *("false statements", "contradictions found", "true statements", "false alarms", "statements heard"),
    *("questions", "kept questions", "right questions"),
)


def count_statements(scene: Scene, speech: list, sentences: list, said: dict[str, int]) -> None:
    """Counts planted statements and those that were found to contradict what is seen."""
    flagged = {name for one in sentences if one["verdict"] == "contradicts" for name in one["from"]}
    words = {one["text"] for one in speech if one["id"] in flagged}
    for statement in scene.sound.statements:
        kind = ("true statements", "false alarms") if is_true(statement, scene.vision) else (SAID[0], SAID[1])
        said[kind[0]] += 1
        said[kind[1]] += statement.kind in words
        said["statements heard"] += statement.kind in {one["text"] for one in speech}


def spread(values: list[float]) -> str:
    """Writes mean and standard deviation."""
    deviation = np.std(values, ddof=1) if len(values) > 1 else float("nan")
    return f"{np.mean(values):.3f} ± {deviation:.3f}"


def report(sets: list[dict[str, Any]], number: int, speaks: bool) -> str:
    """Writes the figures of clips with statements, or without."""
    rows = []
    for kind in CAPTIONS:
        counts = [one["captions"][kind] for one in sets]
        precision = [one["true"] / max(one["told"], 1) for one in counts]
        recall = [one["true"] / one["facts"] for one in counts]
        orders = [sum(one[key] for one in counts) for key in ("right orders", "orders")]
        false = [1 - one for one in precision]
        rows.append([kind, spread(precision), spread(recall), spread(false), f"{orders[0]} of {orders[1]}"])
    table = markdown(["caption", "precision", "recall", "false facts", "right questions of order"], rows)
    total = {name: sum(one[name] for one in sets) for name in SAID}
    seeds = ", ".join(f"{200_000_000 + one['first_seed']:,}" for one in sets)
    share = total["right questions"] / max(total["kept questions"], 1)
    text = (
        f"{len(sets)} sets of {number} clips {'with' if speaks else 'without'} statements, of test seeds from {seeds} "
        f"on; mean and standard deviation over sets, or sums.\n\n{table}\n\nOf {total['questions']} questions "
        f"{total['kept questions']} passed the filters, of which {total['right questions']} are right ({share:.1%})."
    )
    if speaks:
        text += (
            f" Of {total['false statements']} false statements {total['contradictions found']} were found to "
            f"contradict what is seen, of {total['true statements']} true ones {total['false alarms']} were; "
            f"{total['statements heard']} of all were transcribed."
        )
    return text


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sets", type=int, default=3, help="default: %(default)s")
    parser.add_argument("--clips", type=int, default=24, help="of a set (default: %(default)s)")
    parser.add_argument("--json", type=Path, help="write the numbers there, too")
    parser.add_argument("--report", type=Path, help="put the tables into a section of this Markdown file")
    arguments = parser.parse_args()
    if arguments.clips < 1 or arguments.sets < 1:
        parser.error("--clips and --sets must be at least 1")
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    figures, parts = {}, []
    for speaks in (False, True):
        seeds = [FIRST_SEED + 10_000 * (2 * index + speaks) for index in range(arguments.sets)]
        sets = [measure(seed, arguments.clips, speaks) for seed in seeds]
        figures["with statements" if speaks else "without statements"] = sets
        parts.append(report(sets, arguments.clips, speaks))
        print(parts[-1], "\n", flush=True)
    text = "`benchmarks/engine_world.py`: " + "\n\n".join(parts)
    if arguments.json is not None:
        arguments.json.write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")
    if arguments.report is not None:
        write_section(arguments.report, "engine", f"## Truth of captions ({datetime.date.today()})\n\n{text}")


if __name__ == "__main__":
    main()
