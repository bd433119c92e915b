"""Say what lies at the place of a scan that a spoken remark names, after training on narrated scans of one's own.

    python examples/applications/medical.py --output medical              # one seed
    python examples/applications/medical.py --output medical --seeds 0 1 2 --page docs/source/en/applications_medical.md

Made for 2 CPU cores; run at a tiny scale alone so far. Needs: omnivinci-hf[train] and the program espeak-ng.

A scan is a stack of eight grey slices, shown as a video of four seconds. In its quarters lie circles and stars, each in
a few slices, or nothing. A voice names a quarter. The script draws such scans (`sample_scan` knows the truth of each),
checks the rows (`omnivinci-hf validate`), trains an adapter (`omnivinci-hf train --recipe lora`), and asks about scans
and voices that the model never met. Nothing here is an anatomy, and nothing that comes out is a diagnosis.
"""

import argparse
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
from omnivinci_hf.world.speech import speak


PLACES = ("upper left", "upper right", "lower left", "lower right")
FINDINGS = ("circle", "star", "nothing")  # smooth, jagged, none
QUESTION = "What is there?"  # answered by place and finding, "upper left star": what was heard is repeated first
NEW_WORDS = ("upper", "lower", "left", "right", "there")  # the small checkpoint knows the other ones
SIZE = 56  # pixels of a side, as the small checkpoint sees them
NUM_SLICES, SLICES_A_SEC, SLICES_OF_A_FINDING = 8, 2, 3
DURATION_SEC, RATE = NUM_SLICES / SLICES_A_SEC, 16000
TRAIN_PITCHES, TEST_PITCHES = (0.0, 0.2, 0.4, 0.6, 0.8, 1.0), (0.1, 0.3, 0.5, 0.7, 0.9)
LENGTHS_SEC = (0.8, 0.95, 1.1)  # of a remark
# Options of `omnivinci-hf train`: the small model is far from its new task, and learns faster than a large one may.
TRAINING = (
    *("--learning_rate", "3e-3", "--lr_scheduler_type", "cosine", "--warmup_steps", "10"),
    *("--per_device_train_batch_size", "16", "--logging_steps", "25", "--dataloader_pin_memory", "false"),
)
TRAIN_SEEDS, TEST_SEEDS, MOST_SEEDS = 0, 10**7, 10**5  # where the seeds of scans begin, and how many each run has
WHOLE, PLACE = "slices and remark", "slices and remark: the place that was named"
BAR, MOST_BY_CHANCE = 0.9, 0.5  # at least so many right of whole scans, at most so many in a control


# -- data --------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Scan:
    """A scan is the truth of one clip: all that is drawn in it and said in it.

    Args:
        findings: what lies in each of `PLACES`.
        first_slices: where each finding begins; it is seen in `SLICES_OF_A_FINDING` slices.
        place: the one that the remark names.
        onset_sec, length_sec: of the remark in the clip.
        pitch: of the voice, from 0 (low) to 1 (high).
        seed: of all else, such as noise.
    """

    findings: tuple[str, ...]
    first_slices: tuple[int, ...]
    place: str
    onset_sec: float
    length_sec: float
    pitch: float
    seed: int

    @property
    def finding(self) -> str:
        """What lies where the remark points to."""
        return self.findings[PLACES.index(self.place)]


def sample_scan(seed: int, pitches: Sequence[float]) -> Scan:
    """Draws a scan in which each of `FINDINGS` lies somewhere, and which of them is asked for.

    Whatever the slices show, each is as likely to be asked for, and whatever the remark names, each is as likely to lie
    there: whoever has one sense alone is right in a third of the scans.
    """
    rng = np.random.default_rng(seed)
    findings = [str(finding) for finding in rng.permutation([*FINDINGS, rng.choice(FINDINGS)])]
    wanted = rng.choice(FINDINGS)
    place = rng.choice([place for place, finding in zip(PLACES, findings, strict=True) if finding == wanted])
    first_slices = rng.integers(0, NUM_SLICES - SLICES_OF_A_FINDING + 1, len(PLACES))
    return Scan(
        findings=tuple(findings),
        first_slices=tuple(int(first) for first in first_slices),
        place=str(place),
        onset_sec=float(rng.uniform(0.2, 2.6)),
        length_sec=float(rng.choice(LENGTHS_SEC)),
        pitch=float(rng.choice(pitches)),
        seed=seed,
    )


def draw_slices(scan: Scan) -> list[np.ndarray]:
    """Draws the stack, `NUM_SLICES` pictures `(SIZE, SIZE, 3)` uint8 in grey."""
    rng = np.random.default_rng((scan.seed, 1))
    centre_x, centre_y = SIZE / 2 + rng.uniform(-2, 2, size=2)
    tissue = int(rng.integers(50, 90))
    outlines, shades = [], rng.integers(190, 256, len(PLACES))
    for number, finding in enumerate(scan.findings):
        x, y = (SIZE * (0.3 + 0.4 * side) + rng.uniform(-2, 2) for side in (number % 2, number // 2))
        outlines.append(_outline(finding, rng.uniform(6.5, 8.5)) + (x, y))
    pictures = []
    for number in range(NUM_SLICES):
        picture = Image.new("L", (SIZE, SIZE), 8)
        pen = ImageDraw.Draw(picture)
        radius = 23 + 4 * np.sin(np.pi * (number + 1) / (NUM_SLICES + 1))  # the middle slices are the widest
        box = (centre_x - radius, centre_y - radius, centre_x + radius, centre_y + radius)
        pen.ellipse(box, fill=tissue, outline=tissue + 50, width=2)
        for finding, outline, first, shade in zip(scan.findings, outlines, scan.first_slices, shades, strict=True):
            if finding != "nothing" and first <= number < first + SLICES_OF_A_FINDING:
                pen.polygon([tuple(point) for point in outline], fill=int(shade))
        noisy = np.asarray(picture) + rng.normal(0, 6, (SIZE, SIZE))
        pictures.append(np.repeat(noisy.clip(0, 255).astype(np.uint8)[:, :, None], 3, axis=2))
    return pictures


def _outline(finding: str, radius: float) -> np.ndarray:
    """The corners of a shape around the origin, `(num_corners, 2)`: of a star every second one lies further in."""
    angles = np.arange(20) * np.pi / 10 if finding == "circle" else np.arange(10) * np.pi / 5
    radii = np.full(20, radius) if finding == "circle" else np.where(np.arange(10) % 2, 0.45, 1.15) * radius
    return np.stack([radii * np.sin(angles), -radii * np.cos(angles)], axis=1)


def speak_remark(scan: Scan) -> np.ndarray:
    """Speaks the place into faint noise, `(1, num_samples)` float32."""
    samples = np.random.default_rng((scan.seed, 2)).normal(0, 0.003, round(DURATION_SEC * RATE))
    speech = speak(scan.place, scan.length_sec, scan.pitch, RATE)
    first = round(scan.onset_sec * RATE)
    samples[first : first + len(speech)] += 0.6 * speech / np.abs(speech).max()
    return samples[None].astype(np.float32)


def write_scan(path: Path, seen: Scan, heard: Scan) -> Path:
    """Writes the slices of a scan with the remark of a scan: of the same one, but for controls."""
    return encode(path, choose_codecs(path, None, None), draw_slices(seen), SLICES_A_SEC, speak_remark(heard), RATE)


def write_training_data(folder: Path, first_seed: int, num_scans: int) -> Path:
    """Writes scans, the rows that teach them, and `truth.jsonl`, which says what is in each; returns the rows' file."""
    folder.mkdir(parents=True, exist_ok=True)
    scans = [sample_scan(first_seed + number, TRAIN_PITCHES) for number in range(num_scans)]
    rows = []
    for scan in scans:
        path = write_scan(folder / f"{scan.seed}.mp4", scan, scan)
        answer = {QUESTION: f"{scan.place} {scan.finding}"}
        rows.append(make_row([{"type": "video", "path": path.name}], answer, str(scan.seed)))
    write_rows(folder / "truth.jsonl", [{**asdict(scan), "finding": scan.finding} for scan in scans])
    write_rows(folder / "train.jsonl", rows)
    return folder / "train.jsonl"


# -- questions and controls --------------------------------------------------------------------------------------------


def ask(pipe, media: Sequence[Mapping[str, Any]], **options: Any) -> list[str]:
    """Asks the question about each of several media, in batches."""
    chats = [ask_about([medium], QUESTION) for medium in media]
    return [record["answer"] for (record,) in pipe(chats, batch_size=16, max_new_tokens=5, **options)]


def examine(adapter: Path, folder: Path, first_seed: int, num_scans: int) -> dict[str, float]:
    """Asks a trained adapter about unseen scans, whole ones, and with a sense shuffled or absent.

    Returns:
        The share of right answers by what the model got. An answer is right if its last word is what lies in a scan
        where the remark of the same scan points to, also if another remark is heard, or other slices are seen.
    """
    folder.mkdir(parents=True, exist_ok=True)
    scans = [sample_scan(first_seed + number, TEST_PITCHES) for number in range(num_scans)]
    others = scans[1:] + scans[:1]  # drawn independently of the scans

    def clips(name: str, seen: Sequence[Scan], heard: Sequence[Scan]) -> list[dict[str, str]]:
        files = [folder / f"{name} {number}.mp4" for number in range(num_scans)]
        return [{"type": "video", "path": str(write_scan(*scan))} for scan in zip(files, seen, heard, strict=True)]

    whole = clips("whole", scans, scans)
    remarks = [{"type": "audio", "audio": speak_remark(scan)[0], "sampling_rate": RATE} for scan in scans]
    pipe = pipeline("omni-qa", model=str(adapter))
    answers = {
        WHOLE: ask(pipe, whole),
        "remark of another scan": ask(pipe, clips("other remark", scans, others)),
        "slices of another scan": ask(pipe, clips("other slices", others, scans)),
        "slices alone": ask(pipe, whole, load_audio_from_video=False),
        "remark alone": ask(pipe, remarks),
    }
    right = {
        name: float(np.mean([answer.endswith(scan.finding) for answer, scan in zip(given, scans, strict=True)]))
        for name, given in answers.items()
    }
    places = [answer.startswith(f"{scan.place} ") for answer, scan in zip(answers[WHOLE], scans, strict=True)]
    return {**right, PLACE: float(np.mean(places))}


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
    controls = max(share for name, share in means.items() if name not in (WHOLE, PLACE))
    holds = means[WHOLE] >= BAR and controls <= MOST_BY_CHANCE
    rows = [
        [name, percent(values), ", ".join(f"{100 * value:.1f}" for value in values)] for name, values in shares.items()
    ]
    minutes = [result["cpu_seconds"] / 60 for result in results]
    return (
        f"Seeds: {len(results)}, each with {settings['train']} scans to learn from, {settings['steps']} steps, and "
        f"{settings['test']} unseen scans in voices of other pitches. Right answers in percent, mean ± standard "
        "deviation over the seeds, then seed by seed:\n\n"
        f"{make_table(['the model gets', 'right', 'by seed'], rows)}\n\n"
        f"Wanted: at least {100 * BAR:.0f} % of whole scans and at most {100 * MOST_BY_CHANCE:.0f} % in each control: "
        f"this {'holds' if holds else 'does not hold'}. From data to answers a seed took {min(minutes):.1f} to "
        f"{max(minutes):.1f} minutes of one CPU core."
    )


def main() -> None:
    run_application(
        __doc__,
        NEW_WORDS,
        run_seed,
        report,
        train=(600, "scans to learn from"),
        test=(100, "unseen scans to ask about"),
        steps=150,
    )


if __name__ == "__main__":
    main()
