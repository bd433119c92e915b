"""Name the defects of wafer maps, and tell whether a machine's fault is heard or seen, after training on own data.

    python examples/applications/factory.py --output factory              # one seed
    python examples/applications/factory.py --output factory --seeds 0 1 2 --page docs/source/en/applications_factory.md

Made for 2 CPU cores; run at a tiny scale alone so far. Needs: omnivinci-hf[train].

The maps are drawn with the nine labels and in the form of WM-811K. The machine is a wheel that turns and a motor that
hums: a fault is seen alone (the wheel wobbles) or heard alone (something rattles). The script draws both (`wafer_map`,
`sample_machine`), checks the rows (`omnivinci-hf validate`), trains one adapter for both (`omnivinci-hf train --recipe
lora`), and asks about maps and machines that the model never met.
"""

import argparse
import random
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from common import (
    ask_about,
    cpu_seconds,
    make_row,
    make_table,
    percent,
    run_application,
    tune,
    write_rows,
)
from PIL import Image, ImageDraw
from transformers import pipeline

from omnivinci_hf.world.clip_file import choose_codecs, encode


# the labels of WM-811K, as they are written there
DEFECTS = ("Center", "Donut", "Edge-Loc", "Edge-Ring", "Loc", "Near-full", "Random", "Scratch", "none")
FAULTS = ("nothing", "heard", "visible")
WAFER_QUESTION, MACHINE_QUESTION = "Which defect is visible?", "Where is the fault?"
NEW_WORDS = (*DEFECTS, "Where", "defect", "fault")  # the small checkpoint knows the other ones
# the colours of a map's values: no die, a good die, a failed die
COLOURS = np.array([(0, 0, 0), (60, 60, 60), (255, 255, 0)], dtype=np.uint8)
SIZE = 56  # pixels of a side, as the small checkpoint sees them
DURATION_SEC, FRAMES_A_SEC, RATE = 4, 4, 16000
# Options of `omnivinci-hf train`: the small model is far from its new task, and learns faster than a large one may.
TRAINING = (
    *("--learning_rate", "3e-3", "--lr_scheduler_type", "cosine", "--warmup_steps", "10"),
    *("--per_device_train_batch_size", "16", "--logging_steps", "25", "--dataloader_pin_memory", "false"),
)
TRAIN_SEEDS, TEST_SEEDS, MOST_SEEDS = 0, 10**7, 10**5  # where seeds of the data begin, and how many each run has
MAPS, MACHINES = "map", "machine"
BAR = 0.9  # at least so many right
# at most so many: without its map a wafer's defect is guessed among nine, and one sense finds two thirds of the faults
CONTROLS = {
    "map of another wafer": 0.2,
    "machine with the audio of another": 0.75,
    "machine with the picture of another": 0.75,
    "machine, picture alone": 0.75,
    "machine, audio alone": 0.75,
}


# -- wafer maps --------------------------------------------------------------------------------------------------------


def wafer_map(defect: str, rng: np.random.Generator) -> np.ndarray:
    """Draws a map as WM-811K has them, `(rows, columns)` uint8: 0 no die, 1 a good die, 2 a failed die."""
    rows, columns = rng.integers(26, 53, size=2)
    y, x = np.meshgrid(np.linspace(-1, 1, rows), np.linspace(-1, 1, columns), indexing="ij")
    radius, angle = np.hypot(x, y), np.arctan2(y, x)
    turned = np.abs((angle - rng.uniform(-np.pi, np.pi) + np.pi) % (2 * np.pi) - np.pi)  # from any direction
    inside = radius <= 1
    share = np.full(radius.shape, rng.uniform(0.01, 0.06))  # of dies that fail
    dense = rng.uniform(0.7, 0.95)
    if defect == "Center":
        share[np.hypot(x - rng.normal(0, 0.05), y - rng.normal(0, 0.05)) < rng.uniform(0.25, 0.4)] = dense
    elif defect == "Donut":
        hole = rng.uniform(0.2, 0.3)
        share[(radius > hole) & (radius < hole + rng.uniform(0.25, 0.35))] = dense
    elif defect == "Edge-Loc":
        share[(radius > rng.uniform(0.65, 0.8)) & (turned < rng.uniform(0.3, 0.7))] = dense
    elif defect == "Edge-Ring":
        share[radius > rng.uniform(0.8, 0.88)] = dense
    elif defect == "Loc":
        distance, direction = rng.uniform(0.4, 0.6), rng.uniform(-np.pi, np.pi)
        centre_x, centre_y = distance * np.cos(direction), distance * np.sin(direction)
        share[np.hypot(x - centre_x, y - centre_y) < rng.uniform(0.15, 0.25)] = dense
    elif defect == "Near-full":
        share[:] = rng.uniform(0.85, 0.97)
    elif defect == "Random":
        share[:] = rng.uniform(0.25, 0.5)
    elif defect == "Scratch":
        share[_scratch(rows, columns, rng)] = dense
    return np.where(inside, 1 + (rng.random(radius.shape) < share), 0).astype(np.uint8)


def _scratch(rows: int, columns: int, rng: np.random.Generator) -> np.ndarray:
    """Draws a thin bent line, `(rows, columns)` bool."""
    direction, bend, length = rng.uniform(-np.pi, np.pi), rng.uniform(-1.5, 1.5), rng.uniform(0.8, 1.3)
    steps = np.linspace(-0.5, 0.5, 9) * length
    headings = direction + bend * steps
    points = np.cumsum(np.stack([np.cos(headings), np.sin(headings)]) * length / 8, axis=1)
    points += rng.uniform(-0.3, 0.3, size=(2, 1)) - points.mean(axis=1, keepdims=True)
    picture = Image.new("1", (columns, rows))
    pixels = [((x + 1) / 2 * (columns - 1), (y + 1) / 2 * (rows - 1)) for x, y in points.T]
    ImageDraw.Draw(picture).line(pixels, fill=1, width=1)
    return np.asarray(picture)


def wafer_picture(values: np.ndarray) -> Image.Image:
    """Colours a map of the values 0, 1 and 2, and makes it a square.

    Raises:
        ValueError: for other values, or another number of dimensions.
    """
    values = np.asarray(values)
    if values.ndim != 2 or not np.isin(values, (0, 1, 2)).all():
        raise ValueError(
            "A wafer map has rows and columns, and in them 0 (no die), 1 (good) or 2 (failed); got the shape "
            f"{values.shape} and the values {np.unique(values)[:5].tolist()}."
        )
    return Image.fromarray(COLOURS[values]).resize((SIZE, SIZE), Image.Resampling.BOX)


def write_wafer_rows(folder: Path, maps: Sequence[np.ndarray], defects: Sequence[str]) -> list[dict[str, Any]]:
    """Writes the pictures of maps to a folder, and returns the rows that teach their defects.

    Raises:
        ValueError: for a defect that is none of `DEFECTS`.
    """
    folder.mkdir(parents=True, exist_ok=True)
    rows = []
    for number, (values, defect) in enumerate(zip(maps, defects, strict=True)):
        if defect not in DEFECTS:
            raise ValueError(f"Map {number} has the defect {defect!r}; known are {', '.join(DEFECTS)}.")
        name = f"wafer{number}.png"
        wafer_picture(values).save(folder / name)
        rows.append(make_row([{"type": "image", "path": name}], {WAFER_QUESTION: defect}, f"wafer{number}"))
    return rows


# -- the machine -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Machine:
    """A machine is the truth of one clip of a wheel that turns and a motor that hums.

    Args:
        fault: `"visible"` if the wheel wobbles, `"heard"` if something rattles, or `"nothing"`.
        turns_a_sec, radius, shade: of the wheel, in pixels and from 0 to 255.
        wobble: how far the wheel leaves its place, in pixels; 0 without that fault.
        hum_hertz: the pitch of the motor.
        knocks_a_sec: of what rattles; 0 without that fault.
        seed: of all else, such as noise.
    """

    fault: str
    turns_a_sec: float
    radius: float
    shade: int
    wobble: float
    hum_hertz: float
    knocks_a_sec: float
    seed: int


def sample_machine(seed: int) -> Machine:
    """Draws a machine; each of `FAULTS` is as likely as the others.

    The picture shows nothing of a fault that is heard, nor the audio of one that is visible. Whoever has one sense
    alone finds one of the two faults, and must guess in all other machines: right in two thirds, at most.
    """
    rng = np.random.default_rng(seed)
    fault = str(rng.choice(FAULTS))
    return Machine(
        fault=fault,
        turns_a_sec=float(rng.uniform(0.1, 0.4)),
        radius=float(rng.uniform(11, 15)),
        shade=int(rng.integers(120, 220)),
        wobble=float(rng.uniform(7, 10)) if fault == "visible" else 0.0,
        hum_hertz=float(rng.uniform(90, 180)),
        knocks_a_sec=float(rng.uniform(4, 9)) if fault == "heard" else 0.0,
        seed=seed,
    )


def draw_wheel(machine: Machine) -> list[np.ndarray]:
    """Draws the wheel, `DURATION_SEC * FRAMES_A_SEC` pictures `(SIZE, SIZE, 3)` uint8."""
    rng = np.random.default_rng((machine.seed, 1))
    place, phase = SIZE / 2 + rng.uniform(-3, 3, size=2), rng.uniform(0, 2 * np.pi)
    radius, colour = machine.radius, (machine.shade,) * 3
    pictures = []
    for number in range(DURATION_SEC * FRAMES_A_SEC):
        swing = rng.uniform(-np.pi, np.pi)
        x, y = place + machine.wobble * np.array([np.cos(swing), np.sin(swing)])
        picture = Image.new("RGB", (SIZE, SIZE), (20, 30, 40))
        pen = ImageDraw.Draw(picture)
        pen.ellipse((x - radius, y - radius, x + radius, y + radius), outline=colour, width=2)
        for spoke in range(3):
            angle = phase + 2 * np.pi * (machine.turns_a_sec * number / FRAMES_A_SEC + spoke / 3)
            pen.line((x, y, x + radius * np.cos(angle), y + radius * np.sin(angle)), fill=colour, width=2)
        pictures.append(np.asarray(picture))
    return pictures


def make_hum(machine: Machine) -> np.ndarray:
    """Makes what a microphone hears of the motor, `(1, num_samples)` float32."""
    rng = np.random.default_rng((machine.seed, 2))
    seconds = np.arange(DURATION_SEC * RATE) / RATE
    samples = rng.uniform(0.005, 0.02) * rng.standard_normal(len(seconds))
    for order in range(1, 6):
        samples += 0.08 / order * np.sin(2 * np.pi * (machine.hum_hertz * order * seconds + rng.random()))
    if machine.knocks_a_sec:
        since_knock = seconds % (1 / machine.knocks_a_sec)
        samples += rng.uniform(0.3, 0.6) * np.exp(-since_knock / 0.01) * rng.standard_normal(len(seconds))
    return (rng.uniform(0.4, 0.8) * samples)[None].clip(-1, 1).astype(np.float32)


def write_machine(path: Path, seen: Machine, heard: Machine) -> Path:
    """Writes the wheel of a machine with the motor of a machine: of the same one, but for controls."""
    return encode(path, choose_codecs(path, None, None), draw_wheel(seen), FRAMES_A_SEC, make_hum(heard), RATE)


# -- data --------------------------------------------------------------------------------------------------------------


def sample_wafers(first_seed: int, num_wafers: int) -> tuple[list[np.ndarray], list[str]]:
    """Draws maps, each defect equally often, and returns them with their defects."""
    defects = [DEFECTS[number % len(DEFECTS)] for number in range(num_wafers)]
    rngs = (np.random.default_rng(first_seed + number) for number in range(num_wafers))
    return [wafer_map(defect, rng) for defect, rng in zip(defects, rngs, strict=True)], defects


def write_training_data(folder: Path, first_seed: int, num_items: int) -> Path:
    """Writes so many maps and as many machines, their rows in mixed order, and `truth.jsonl` about the machines.

    Returns:
        The file of the rows.
    """
    rows = write_wafer_rows(folder, *sample_wafers(first_seed, num_items))
    machines = [sample_machine(first_seed + number) for number in range(num_items)]
    for machine in machines:
        path = write_machine(folder / f"machine{machine.seed}.mp4", machine, machine)
        rows.append(make_row([{"type": "video", "path": path.name}], {MACHINE_QUESTION: machine.fault}, path.stem))
    random.Random(first_seed).shuffle(rows)
    write_rows(folder / "truth.jsonl", [asdict(machine) for machine in machines])
    write_rows(folder / "train.jsonl", rows)
    return folder / "train.jsonl"


# -- questions and controls --------------------------------------------------------------------------------------------


def ask(pipe, media: Sequence[Mapping[str, Any]], question: str, **options: Any) -> list[str]:
    """Asks one question about each of several media, in batches."""
    chats = [ask_about([medium], question) for medium in media]
    return [record["answer"] for (record,) in pipe(chats, batch_size=16, max_new_tokens=4, **options)]


def share_right(answers: Sequence[str], truth: Sequence[str]) -> float:
    """Returns the share of answers that are exactly the truth."""
    return float(np.mean([answer == right for answer, right in zip(answers, truth, strict=True)]))


def examine(adapter: Path, folder: Path, first_seed: int, num_items: int) -> dict[str, float]:
    """Asks a trained adapter about unseen maps and machines, as they are, and with a sense shuffled or absent.

    Returns:
        The share of right answers by what the model got: maps, those of each defect, machines. In a control, an answer
        is right if it is the truth of the map or machine whose picture or audio was replaced or taken away.
    """
    folder.mkdir(parents=True, exist_ok=True)
    maps, defects = sample_wafers(first_seed, num_items)
    wafers = [{"type": "image", "image": wafer_picture(values)} for values in maps]
    machines = [sample_machine(first_seed + number) for number in range(num_items)]
    others = machines[1:] + machines[:1]  # drawn independently of the machines
    faults = [machine.fault for machine in machines]

    def clips(name: str, seen: Sequence[Machine], heard: Sequence[Machine]) -> list[dict[str, str]]:
        files = [folder / f"{name} {number}.mp4" for number in range(num_items)]
        return [{"type": "video", "path": str(write_machine(*clip))} for clip in zip(files, seen, heard, strict=True)]

    whole = clips("whole", machines, machines)
    hums = [{"type": "audio", "audio": make_hum(machine)[0], "sampling_rate": RATE} for machine in machines]
    shuffled = [wafers[number] for number in np.random.default_rng(first_seed).permutation(num_items)]
    pipe = pipeline("omni-qa", model=str(adapter))
    named = ask(pipe, wafers, WAFER_QUESTION)
    right = {MAPS: share_right(named, defects)}
    for defect in DEFECTS:
        answers = [answer for answer, drawn in zip(named, defects, strict=True) if drawn == defect]
        right[f"{MAPS}: {defect}"] = share_right(answers, [defect] * len(answers))
    right[MACHINES] = share_right(ask(pipe, whole, MACHINE_QUESTION), faults)
    controls = [
        (ask(pipe, shuffled, WAFER_QUESTION), defects),
        (ask(pipe, clips("other audio", machines, others), MACHINE_QUESTION), faults),
        (ask(pipe, clips("other picture", others, machines), MACHINE_QUESTION), faults),
        (ask(pipe, whole, MACHINE_QUESTION, load_audio_from_video=False), faults),
        (ask(pipe, hums, MACHINE_QUESTION), faults),
    ]
    return {**right, **{name: share_right(*control) for name, control in zip(CONTROLS, controls, strict=True)}}


# -- runs and their report ---------------------------------------------------------------------------------------------


def run_seed(seed: int, arguments: argparse.Namespace) -> dict[str, Any]:
    """Goes from data to answers once: other data and another order of training for each seed."""
    before, folder, first = cpu_seconds(), arguments.output / f"seed {seed}", seed * MOST_SEEDS
    data = write_training_data(folder / "train", TRAIN_SEEDS + first, arguments.train)
    options = (*TRAINING, "--max_steps", arguments.steps)
    adapter = tune(arguments.output / "checkpoint", "lora", data, folder / "adapter", seed, *options)
    right = examine(adapter, folder / "test", TEST_SEEDS + first, arguments.test)
    return {"right": right, "cpu_seconds": round(cpu_seconds() - before)}


def report(results: Sequence[Mapping[str, Any]], settings: Mapping[str, Any]) -> str:
    """Makes the table of all seeds, and says whether what was wanted came true."""
    shares = {name: [result["right"][name] for result in results] for name in results[0]["right"]}
    means = {name: float(np.mean(values)) for name, values in shares.items()}
    holds = min(means[MAPS], means[MACHINES]) >= BAR and all(means[name] <= most for name, most in CONTROLS.items())
    rows = [
        [name, percent(values), ", ".join(f"{100 * value:.1f}" for value in values)] for name, values in shares.items()
    ]
    minutes = [result["cpu_seconds"] / 60 for result in results]
    most = ", ".join(f"{100 * most:.0f} % ({name})" for name, most in CONTROLS.items())
    return (
        f"Seeds: {len(results)}, each with {settings['train']} maps and as many machines to learn from, "
        f"{settings['steps']} steps, and {settings['test']} unseen maps and machines. Right answers in percent, mean ± "
        "standard deviation over the seeds, then seed by seed:\n\n"
        f"{make_table(['the model gets', 'right', 'by seed'], rows)}\n\n"
        f"Wanted: at least {100 * BAR:.0f} % of maps and of machines as they are, and in the controls at most {most}: "
        f"this {'holds' if holds else 'does not hold'}. From data to answers a seed took {min(minutes):.1f} to "
        f"{max(minutes):.1f} minutes of one CPU core."
    )


def main() -> None:
    run_application(
        __doc__,
        NEW_WORDS,
        run_seed,
        report,
        train=(450, "maps, and as many machines, to learn from"),
        test=(135, "unseen maps, and as many machines, to ask about"),
        steps=150,
    )


if __name__ == "__main__":
    main()
