"""What training on questions of the engine gains, against true answers and questions from single captions.

Every arm starts from the small checkpoint with noise on the matrices of its language model, and is trained by
`omnivinci-hf train --recipe omni-explicit` on the same clips, with as many questions of each family and as many steps;
only where the questions come from differs. The engine's are lines of its `train.jsonl` as they are. Clips differ from
seed to seed. `engine_world.py` is the command.
"""

import argparse
import json
from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import engine_rule
import numpy as np
import torch
from engine_sets import captions_of, clip_of, is_right, run, scenes_of, spread
from measuring import markdown, noisy_checkpoint

from omnivinci_hf import OmniVinciForConditionalGeneration, OmniVinciProcessor
from omnivinci_hf.cli import main as command_line
from omnivinci_hf.small import small_checkpoint
from omnivinci_hf.training import OmniVinciDataCollator
from omnivinci_hf.world import CROSS_FAMILIES, FAMILIES, SOUNDS, Question
from omnivinci_hf.world.dataset import seed_questions, split_seeds
from omnivinci_hf.world.track_evaluation import exact_matches, questions_about_tracks
from omnivinci_hf.world.tracks import TrackEncoder, load_tracks


START, TRUTH, ENGINE = "start", "true answers", "engine"
PICTURE, AUDIO, CONCATENATED = "picture alone", "audio alone", "concatenated"  # of `CAPTIONS`
KINDS = (START, TRUTH, ENGINE, PICTURE, AUDIO, CONCATENATED)
DATA = "data"
ASKED_SEED = 90_000  # of the test split
PER_FAMILY = 2  # questions about a held-out clip
QUESTIONS = 24  # about a clip, from the engine
BATCH_SIZE = 8
SETTINGS = ("training_clips", "held_out", "noise", "rate", "epochs")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options of the trainings."""
    parser.add_argument("--training-clips", type=int, default=100, help="of a training (default: %(default)s)")
    parser.add_argument("--held-out", type=int, default=80, help="clips that the trained are asked about")
    parser.add_argument("--noise", type=float, default=0.6, help="of the start, as a share of each matrix's deviation")
    parser.add_argument("--rate", type=float, default=5e-4, help="learning rate (default: %(default)s)")
    parser.add_argument("--epochs", type=int, default=3, help="(default: %(default)s)")


# -- Data


def data_folder(number: int, arguments: argparse.Namespace) -> Path:
    return arguments.output / f"{DATA} {number}"


def has_data(arguments: argparse.Namespace, number: int) -> bool:
    """Tells whether the rows of a seed were written."""
    return (data_folder(number, arguments) / "counts.json").exists()


def write_data(number: int, arguments: argparse.Namespace) -> None:
    """Runs the engine on clips of the training split, and writes the rows of each arm, as many of each family."""
    folder = data_folder(number, arguments)
    scenes = scenes_of("train", number, arguments.training_clips, speaks=False)
    records = run(folder, arguments.output / "captioner", scenes, QUESTIONS)
    candidates: dict[str, dict[str, list[dict]]] = {arm: defaultdict(list) for arm in KINDS if arm != START}
    for row in records["train"]:
        family = engine_rule.family_of(row["messages"][0]["content"][1]["text"])[0]
        candidates[ENGINE][family].append(row)
    captions = zip(records["segments"], records["vision"], records["audio"], records["omni"], strict=True)
    for segment, *of_clip in captions:
        name = clip_of(segment["id"])
        told = captions_of(*of_clip)
        for arm in (PICTURE, AUDIO, CONCATENATED):
            possible = engine_rule.possible_questions(told[arm])
            asked = [(one["question"], one["answer"]) for family in CROSS_FAMILIES for one in possible[family]]
            add_rows(candidates[arm], segment, asked)
        true = [one for one in seed_questions(int(name), scenes[name]) if one.family in CROSS_FAMILIES]
        add_rows(candidates[TRUTH], segment, [(one.question, one.answer) for one in true])
    rng = np.random.default_rng(number)
    least = {family: min(len(one[family]) for one in candidates.values()) for family in CROSS_FAMILIES}
    if not any(least.values()):
        raise ValueError(f"Some arm has no question about {len(scenes)} clips: give more --training-clips.")
    counts: dict[str, Any] = {"rows": sum(least.values()), "by_family": least, "right": {}}
    for arm, by_family in candidates.items():
        rows = [row for family, size in least.items() for row in chosen(by_family[family], size, rng)]
        (folder / f"{arm}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
        counts["right"][arm] = sum(row_is_right(row, scenes) for row in rows) / len(rows)
    write_start(folder / START, number, arguments.noise)
    (folder / "counts.json").write_text(json.dumps(counts) + "\n", encoding="utf-8")


def add_rows(rows: dict[str, list[dict]], segment: dict[str, Any], asked: Iterable[tuple[str, str]]) -> None:
    """Adds rows of training in the form of the engine's, by family."""
    for place, (question, answer) in enumerate(asked):
        part = {"type": "video", "path": segment["source"]}
        content = [part, {"type": "text", "text": question}]
        reply = {"role": "assistant", "content": [{"type": "text", "text": answer}]}
        row = {"id": f"{segment['id']}/{place}", "messages": [{"role": "user", "content": content}, reply]}
        rows[engine_rule.family_of(question)[0]].append(row)


def chosen(rows: list[dict], size: int, rng: np.random.Generator) -> list[dict]:
    """Draws so many rows, with as many clips among them as can be."""
    place: Counter[str] = Counter()
    order = []
    for number in rng.permutation(len(rows)):
        clip = clip_of(rows[number]["id"])
        order.append((place[clip], len(order), number))
        place[clip] += 1
    return [rows[number] for *_, number in sorted(order)[:size]]


def row_is_right(row: dict[str, Any], scenes: dict[str, Any]) -> bool:
    """Tells whether the answer of a row is right."""
    question, answer = (message["content"][-1]["text"] for message in row["messages"])
    return is_right(question, answer, scenes[clip_of(row["id"])])


# -- Training


def measure(arm: str, number: int, arguments: argparse.Namespace) -> dict[str, Any]:
    """Trains a model by the command line, and asks it about held-out clips."""
    folder = data_folder(number, arguments)
    trained = folder / (START if arm == START else f"{arm} trained")
    if arm != START:
        train(folder / f"{arm}.jsonl", folder / START, trained, number, arguments)
    model = OmniVinciForConditionalGeneration.from_pretrained(trained, dtype=torch.float32)
    processor = OmniVinciProcessor.from_pretrained(small_checkpoint())
    seeds = split_seeds("test", arguments.held_out, ASKED_SEED)
    encoder = TrackEncoder(processor, load_tracks(seeds, arguments.cache))
    asked = questions_about_tracks(encoder, seeds, PER_FAMILY)
    scores = exact_matches(model, encoder, asked)
    return {
        "scores": {family: (score.num_right, score.num_asked) for family, score in scores.items()},
        "sounds_of_silence": sounds_of_silence(model, encoder, asked),
        "data": json.loads((folder / "counts.json").read_text(encoding="utf-8")),
    }


def write_start(folder: Path, number: int, noise: float) -> None:
    """Writes the checkpoint that all arms of a seed start from: the small one, with noise on its language model."""
    noisy_checkpoint(noise, number).save_pretrained(folder)
    OmniVinciProcessor.from_pretrained(small_checkpoint()).save_pretrained(folder)


def train(data: Path, start: Path, output: Path, seed: int, arguments: argparse.Namespace) -> None:
    """Validates rows and trains on them, as a user does."""
    options = {
        "recipe": "omni-explicit",
        "model": start,
        "data": data,
        "output_dir": output,
        "learning_rate": arguments.rate,
        "num_train_epochs": arguments.epochs,
        "per_device_train_batch_size": BATCH_SIZE,
        "seed": seed,
        "save_strategy": "no",
        "report_to": "none",
        "use_cpu": "true",
        "disable_tqdm": "true",
    }
    words = [str(word) for name, value in options.items() for word in (f"--{name}", value)]
    for command in (["validate", str(data), "--model", str(start)], ["train", *words]):
        if command_line(command) != 0:
            raise RuntimeError(f"omnivinci-hf {' '.join(command)} failed")


@torch.no_grad()
def sounds_of_silence(model, encoder: TrackEncoder, asked: list[list[Question]]) -> float:
    """Asks which sound is heard while a shape is visible, with silence; returns the share of answers that name one."""
    silent = [replace(track, samples=np.zeros_like(track.samples)) for track in encoder.tracks]
    encoder, collator = TrackEncoder(encoder.processor, silent), OmniVinciDataCollator(encoder.processor)
    sounds = encoder.processor.tokenizer.convert_tokens_to_ids(list(SOUNDS))
    named = []
    for number, questions in enumerate(asked):
        for question in [one for one in questions if one.family == "sound_while_shape"][:1]:
            batch = collator([encoder.encode(number, number, [question])])
            labels = batch.pop("labels")[0, 1:]
            first = int((labels >= 0).nonzero()[0])  # where the answer begins
            named.append(int(model(**batch).logits[0, first].argmax()) in sounds)
    return float(np.mean(named))


# -- Report


def accuracy(run_of_arm: dict[str, Any], families: Iterable[str] = FAMILIES) -> float:
    """Computes the share of right answers over all questions of some families."""
    right, asked = (sum(run_of_arm["scores"][family][place] for family in families) for place in (0, 1))
    return right / asked


def report(runs: list[dict[str, Any]]) -> tuple[str, list[tuple]]:
    """Writes the figures of the trainings, and which goals are reached."""
    arms = {kind: found for kind in KINDS if (found := [one for one in runs if one["kind"] == kind])}
    common, data = runs[0]["settings"], arms[next(iter(arms))]
    steps = [-(-one["data"]["rows"] // BATCH_SIZE) * common["epochs"] for one in data]
    rows = []
    for arm, found in arms.items():
        right = "" if arm == START else spread([one["data"]["right"][arm] for one in found])
        shares = [spread([accuracy(one, families) for one in found]) for families in (CROSS_FAMILIES, FAMILIES)]
        silence = spread([one["sounds_of_silence"] for one in found])
        rows.append([arm, len(found), right, *shares, silence])
    by_family = [
        [arm, *(f"{np.mean([accuracy(one, [family]) for one in found]):.3f}" for family in FAMILIES)]
        for arm, found in arms.items()
    ]
    asked = ", ".join(f"{count} {family}" for family, (_, count) in data[0]["scores"].items())
    text = (
        f"`omnivinci-hf train --recipe omni-explicit --learning_rate {common['rate']:g}`, {common['epochs']} epochs of "
        f"{', '.join(str(one['data']['rows']) for one in data)} questions about {common['training_clips']} clips, seed "
        f"by seed ({', '.join(map(str, steps))} steps of {BATCH_SIZE} questions). The start has noise of "
        f"{common['noise']} of each matrix's deviation. Exact matches on {common['held_out']} held-out clips ({asked} "
        "questions), mean and standard deviation over seeds.\n\n"
    )
    head = [
        "questions from",
        "seeds",
        "right in the data",
        "questions of both senses",
        "all",
        "name a sound of silence",
    ]
    text += (
        f"{markdown(head, rows)}\n\nBy family, mean over seeds:\n\n{markdown(['questions from', *FAMILIES], by_family)}"
    )
    return text, goals_of(arms)


def goals_of(arms: dict[str, list[dict]]) -> list[tuple]:
    """Compares the arms, seed by seed."""
    shares = {arm: {one["seed"]: accuracy(one, CROSS_FAMILIES) for one in found} for arm, found in arms.items()}
    goals: list[tuple] = []
    if TRUTH in shares and ENGINE in shares:
        ratio = float(np.mean(list(shares[ENGINE].values())) / np.mean(list(shares[TRUTH].values())))
        goals.append(("training: the engine's questions, as a share of what true answers reach", ratio, 0.95))
    for arm in (PICTURE, AUDIO, CONCATENATED):
        if arm in shares and ENGINE in shares:
            least = min(shares[ENGINE][seed] - value for seed, value in shares[arm].items() if seed in shares[ENGINE])
            goals.append((f"training: the engine's lead over {arm}, least of all seeds", least, 0.0))
    return goals
