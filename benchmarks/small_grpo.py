"""GRPO on what is seen and heard, against what is seen alone, at small scale, and what a step costs.

    python benchmarks/small_grpo.py --output grpo_runs [--seeds 3] [--jobs 2] [--steps 120] [--arms NAME ...]
    python benchmarks/small_grpo.py --output benchmarks/grpo_runs --report-only  # the kept runs' report anew

Every arm starts from the package's checkpoint with noise on the matrices of its language model (`--noise` of each one's
deviation), answers questions about clips that it has not been asked about, 16 prompts and 8 answers each a step, and is
rewarded for exact matches. The arms differ in what the model gets of a clip, while it learns and while it is asked: the
picture and the sound, the picture alone, the picture with silence, the picture with the sound of another.
"half-trained" starts from a model that was trained for a few hundred steps, and has picture and sound.

A run is not repeated when it is already in `--output`: the command may be interrupted; runs of other settings are
refused. At the end the tables and the plot are written from all runs that are there, to `grpo.md` and `grpo.png` in
`model_cards/` or `--cards`.
"""

import argparse
import copy
import datetime
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
import trl
from measuring import markdown, noisy_checkpoint, write_json, write_section
from transformers import TrainerCallback
from transformers.utils import is_matplotlib_available

from omnivinci_hf import OmniVinciForConditionalGeneration
from omnivinci_hf.small import small_checkpoint
from omnivinci_hf.training import OmniVinciDataCollator, Recipe, apply_recipe
from omnivinci_hf.training.grpo import OmniVinciGRPOTrainer
from omnivinci_hf.training.rewards import load_reward
from omnivinci_hf.world import FAMILIES, Question
from omnivinci_hf.world.dataset import split_seeds
from omnivinci_hf.world.evaluation import neighbours
from omnivinci_hf.world.model import build_config, build_processor, build_tokenizer
from omnivinci_hf.world.track_evaluation import exact_matches, questions_about_tracks
from omnivinci_hf.world.tracks import PairedClips, TrackEncoder, Tracks, load_tracks, row
from omnivinci_hf.world.training import Plan, TrainingLog, keep_freed_memory, train_small


BOTH, PICTURE, MUTED, FOREIGN = "audio-visual", "video only", "muted", "foreign sound"
HALF = "half-trained"
ARMS = (BOTH, PICTURE, MUTED, FOREIGN, HALF)
FIRST_SEED = 90_000  # of the training and the test split, apart from what is learned and asked about elsewhere
NUM_GENERATIONS = 8  # of a prompt
RATE = 6e-4
TEMPERATURE = 1.4  # of rollouts; at 1, most groups soon answer alike, and teach nothing
RECIPE = Recipe("grpo", dict.fromkeys(("vision_projector", "audio_projector", "language_model"), RATE))
PER_FAMILY = 2  # questions about a held-out clip
SEEN_FAMILIES = ("vision",)  # whose questions need no sound
SETTINGS = ("tracks", "clips", "prompts", "steps", "half_steps", "half_training", "noise")
GOALS = {BOTH: (0.82, 0.86), PICTURE: (0.55, 0.55)}  # of every seed after half of the steps, and after all
CHEAPER = 4  # times, the goal of a step with shared prompts
CARDS = Path(__file__).parents[1] / "model_cards"


class ArmClips:
    """The clips as an arm gets them: it stands in for a [`TrackEncoder`], and reads rows as any training does."""

    def __init__(self, arm: str, processor, tracks: Sequence[Tracks]):
        self.arm, self.processor, self.tracks = arm, processor, list(tracks)
        self.others = neighbours([track.scene.duration_sec for track in tracks])
        self.collator = OmniVinciDataCollator(processor)

    def row(self, seen: int, heard: int, chosen: Sequence[Question], name: str = "") -> dict:
        sound = self.tracks[self.others[heard] if self.arm == FOREIGN else heard]
        if self.arm == MUTED:
            sound = replace(sound, samples=np.zeros_like(sound.samples))
        made = row(self.tracks[seen], sound, chosen, name)
        if self.arm == PICTURE:
            for conversation in made["conversations"]:
                video = conversation[0]["content"][0]
                for key in ("audio", "sampling_rate"):
                    video.pop(key, None)
        return made

    def encode(self, seen: int, heard: int, chosen: Sequence[Question], kept=None):
        return self.collator.encode(self.row(seen, heard, chosen))


class Prompts(list):
    """Prompts of pairs of pictures and sounds, made when they are read, one question each."""

    def __init__(self, clips: ArmClips, pairs: PairedClips):
        super().__init__(range(len(pairs)))
        self.clips, self.pairs = clips, pairs

    def __getitem__(self, number):
        seen, heard, (question,) = self.pairs.draw(number)
        ((prompt, _),) = self.clips.row(seen, heard, [question])["conversations"]
        return {"prompt": [prompt], "answer": question.answer}


class Exam(TrainerCallback):
    """It asks about the held-out clips after some of the steps."""

    def __init__(self, clips: ArmClips, asked: list, steps: Sequence[int]):
        self.clips, self.asked, self.steps = clips, asked, steps
        self.scores: dict[int, dict[str, tuple[int, int]]] = {}
        self.seconds = 0.0

    def ask(self, model, step: int) -> None:
        begin = time.process_time()
        found = exact_matches(model, self.clips, self.asked)
        self.scores[step] = {family: (score.num_right, score.num_asked) for family, score in found.items()}
        self.seconds += time.process_time() - begin
        print(f"{self.clips.arm}, step {step}: {accuracy(self.scores[step]):.3f}", flush=True)

    def on_step_end(self, args, state, control, model=None, **kwargs):
        if state.global_step in self.steps:
            self.ask(model, state.global_step)
            model.train()


def accuracy(scores: dict[str, Any], families: Sequence[str] = tuple(FAMILIES)) -> float:
    """Computes the share of right answers over all questions of some families."""
    right, asked = (sum(scores[family][place] for family in families) for place in (0, 1))
    return right / asked if asked else float("nan")


def half_trained(arguments: argparse.Namespace) -> OmniVinciForConditionalGeneration:
    """A model that was trained for a few steps, with the encoders of the package's; it is made once."""
    folder = arguments.output / "half-trained"
    if not (folder / "log.json").exists():
        tokenizer = build_tokenizer()
        processor = build_processor(build_config(tokenizer), tokenizer)
        shared = OmniVinciForConditionalGeneration.from_pretrained(small_checkpoint(), dtype=torch.float32)
        alignment, joint = arguments.half_training
        plan = Plan(alignment_steps=alignment, joint_steps=joint, num_tracks=arguments.tracks)
        log = TrainingLog(lambda line: print(f"half-trained: {line}", flush=True))
        train_small(folder, plan, TrackEncoder(processor, learned_tracks(arguments)), shared, log)
    return OmniVinciForConditionalGeneration.from_pretrained(folder, dtype=torch.float32)


def learned_tracks(arguments: argparse.Namespace, jobs: int = 1) -> list[Tracks]:
    seeds = split_seeds("train", arguments.tracks, FIRST_SEED)
    return load_tracks(seeds, arguments.output / "tracks", jobs)


def asked_seeds(arguments: argparse.Namespace) -> Sequence[int]:
    return split_seeds("test", arguments.clips, FIRST_SEED)


def held_out(arguments: argparse.Namespace, jobs: int = 1) -> list[Tracks]:
    return load_tracks(asked_seeds(arguments), arguments.output / "tracks", jobs)


def settings(arguments: argparse.Namespace) -> dict[str, Any]:
    """What all runs of a report must have in common."""
    return {
        **{name: getattr(arguments, name) for name in SETTINGS},
        "rate": RATE,
        "temperature": TEMPERATURE,
        "generations": NUM_GENERATIONS,
        "per_family": PER_FAMILY,
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "trl": trl.__version__,
    }


def make_trainer(
    clips: ArmClips, model, prompts: int, steps: int, seed: int, folder: Path, kind: type = OmniVinciGRPOTrainer
) -> OmniVinciGRPOTrainer:
    """A trainer that sees so many prompts a step, each once."""
    pairs = PairedClips(clips, prompts * steps, seed=seed, num_questions=1, lists=0.0)
    config = trl.GRPOConfig(
        str(folder),
        use_cpu=True,
        bf16=False,
        gradient_checkpointing=False,
        per_device_train_batch_size=prompts * NUM_GENERATIONS,
        num_generations=NUM_GENERATIONS,
        temperature=TEMPERATURE,
        max_completion_length=8,
        max_steps=steps,
        lr_scheduler_type="constant",
        logging_steps=1,
        report_to="none",
        save_strategy="no",
        disable_tqdm=True,
        seed=seed,
    )
    return kind(
        apply_recipe(model, RECIPE),
        [load_reward("exact")],
        config,
        Prompts(clips, pairs),
        processing_class=clips.processor,
        recipe=RECIPE,
        data_collator=clips.collator,
    )


def train_arm(arm: str, seed: int, arguments: argparse.Namespace) -> dict[str, Any]:
    """Trains and asks one model; returns what is kept of it."""
    torch.set_num_threads(1)
    keep_freed_memory()
    model = half_trained(arguments) if arm == HALF else noisy_checkpoint(arguments.noise, seed)
    tokenizer = build_tokenizer()
    processor = build_processor(model.config, tokenizer)
    steps = arguments.half_steps if arm == HALF else arguments.steps
    marks = {0, steps // 4, steps // 2, steps, *range(100, steps, 100)}
    test = held_out(arguments)
    asked = questions_about_tracks(TrackEncoder(processor, test), asked_seeds(arguments), PER_FAMILY)
    exam = Exam(ArmClips(arm, processor, test), asked, sorted(marks))
    exam.ask(model, 0)
    clips = ArmClips(arm, processor, learned_tracks(arguments))
    trainer = make_trainer(clips, model, arguments.prompts, steps, seed, arguments.output / f"{arm} {seed}")
    trainer.add_callback(exam)
    before, asked_before = time.process_time(), exam.seconds
    trainer.train()
    seconds = time.process_time() - before - (exam.seconds - asked_before)
    names = ("reward", "reward_std_in_groups", "frac_reward_zero_std", "entropy", "completions/mean_length")
    logs = [log for log in trainer.state.log_history if "reward" in log]
    return {
        "arm": arm,
        "seed": seed,
        "settings": settings(arguments),
        "scores": exam.scores,
        "log": {name: [round(log[name], 4) for log in logs] for name in names},
        "cpu_seconds": round(seconds, 1),
    }


class RepeatedRows(OmniVinciGRPOTrainer):
    """It reads the prompt and the clip of each completion apart, as if no two were the same."""

    def _roll_out(self, prompts, trainer):
        self._row_prompts = [copy.copy(prompt) for prompt in self._row_prompts]
        return super()._roll_out(prompts, trainer)


def timed(kind: type) -> type:
    """A trainer that notes the CPU seconds of its rollouts, of what precedes an update, and of whole steps."""

    class Timed(kind):
        def _note(self, name: str, method, *words):
            begin = time.process_time()
            result = method(*words)
            self.__dict__.setdefault("spent", {}).setdefault(name, []).append(time.process_time() - begin)
            return result

        def _roll_out(self, *words):
            return self._note("rollout", super()._roll_out, *words)

        def _prepare_inputs(self, *words):
            return self._note("before", super()._prepare_inputs, *words)

        def training_step(self, *words):
            return self._note("whole", super().training_step, *words)

    return Timed


def measure_cost(arguments: argparse.Namespace, num_steps: int = 4) -> dict[str, dict[str, float]]:
    """CPU seconds of a step, rollout and update, with shared and with repeated prompts; medians, the first left out."""
    torch.set_num_threads(1)
    keep_freed_memory()
    tracks, costs = learned_tracks(arguments), {}
    for name, kind in (("shared", OmniVinciGRPOTrainer), ("repeated", RepeatedRows)):
        model = noisy_checkpoint(arguments.noise, 0)
        clips = ArmClips(BOTH, build_processor(model.config, build_tokenizer()), tracks)
        trainer = make_trainer(clips, model, arguments.prompts, num_steps, 0, arguments.output / "cost", timed(kind))
        trainer.train()
        spent = {part: np.array(seconds[1:]) for part, seconds in trainer.spent.items()}
        rollout, update = (float(np.median(x)) for x in (spent["rollout"], spent["whole"] - spent["before"]))
        costs[name] = {"rollout": rollout, "update": update, "step": rollout + update}
    return costs


def result_path(arguments: argparse.Namespace, arm: str, seed: int) -> Path:
    return arguments.output / f"{arm} {seed}.json"


def all_runs(output: Path) -> dict[str, list[dict]]:
    """All runs that are there, by arm.

    Raises:
        ValueError: when their settings differ.
    """
    runs = [json.loads(path.read_text(encoding="utf-8")) for path in sorted(output.glob("* [0-9]*.json"))]
    for run in runs:
        if run["settings"] != runs[0]["settings"]:
            raise ValueError(
                f"{output} holds runs of different settings, {runs[0]['settings']} and {run['settings']}: give each "
                "their own folder."
            )
    return {arm: found for arm in ARMS if (found := [run for run in runs if run["arm"] == arm])}


def run_missing(arguments: argparse.Namespace) -> None:
    """Runs what is not there, each run in a process of its own, several at a time."""
    for runs in all_runs(arguments.output).values():
        if runs[0]["settings"] != settings(arguments):
            raise ValueError(f"{arguments.output} holds runs of other settings: give another `--output`.")
    for load in (learned_tracks, held_out):  # the tracks are made once, before
        load(arguments, arguments.jobs)

    def run(job: tuple[str, int]) -> None:
        subprocess.run([sys.executable, __file__, *sys.argv[1:], "--one", job[0], str(job[1])], check=True)

    jobs = [(arm, seed) for arm in arguments.arms for seed in range(1 if arm == HALF else arguments.seeds)]
    jobs.sort(key=lambda job: job[0] != HALF)  # the longest first
    jobs = [job for job in jobs if not result_path(arguments, *job).exists()]
    with ThreadPoolExecutor(arguments.jobs) as pool:
        list(pool.map(run, jobs))
    if not (path := arguments.output / "cost.json").exists():
        write_json(path, measure_cost(arguments))  # alone on the machine


def table(runs: dict[str, list[dict]], steps: Sequence[int], families: Sequence[str]) -> str:
    """Each seed's accuracy after some steps, by arm."""
    rows = []
    for arm, found in runs.items():
        columns = [[accuracy(run["scores"][str(step)], families) for run in found] for step in steps]
        rows.append([arm, len(found), *(" ".join(f"{value:.3f}" for value in column) for column in columns)])
    return markdown(["arm", "seeds", *(f"step {step}" for step in steps)], rows)


def write_report(arguments: argparse.Namespace) -> None:
    """Writes the tables and the plot from all runs that are there."""
    runs = all_runs(arguments.output)
    if not runs:
        raise ValueError(f"{arguments.output} holds no finished runs.")
    common = next(iter(runs.values()))[0]["settings"]
    steps = [0, common["steps"] // 4, common["steps"] // 2, common["steps"]]
    equal = {arm: found for arm, found in runs.items() if arm != HALF}
    last = str(common["steps"])
    asked = {} if not equal else next(iter(equal.values()))[0]["scores"][last]
    text = (
        f"## Runs ({datetime.date.today()})\n\n"
        f"`benchmarks/small_grpo.py`: the share of exact matches, greedily, on {common['clips']} held-out clips "
        f"({', '.join(f'{count} {family}' for family, (_, count) in asked.items())} questions), each seed apart. Noise "
        f"of {common['noise']} of each matrix's deviation, {common['prompts']} prompts and {common['generations']} "
        f"answers a step, temperature {common['temperature']:g}, AdamW {common['rate']:g}. torch {common['torch']}, "
        f"transformers {common['transformers']}, TRL {common['trl']}.\n\n"
    )
    if equal:
        bounds = []
        for arm, best, name in ((BOTH, min, "lowest"), (PICTURE, max, "highest")):
            if found := equal.get(arm):
                told = []
                for step, goal in zip(steps[2:], GOALS[arm], strict=True):
                    value = best(accuracy(run["scores"][str(step)]) for run in found)
                    met = value >= goal if best is min else value <= goal
                    told.append(f"{value:.3f} after step {step} (goal {goal:.2f}: {'met' if met else 'missed'})")
                bounds.append(f"the {name} seed of {arm} has {', '.join(told)}")
        text += f"Of all questions: {'; '.join(bounds)}.\n\n"
        others = [family for family in FAMILIES if family not in SEEN_FAMILIES]
        text += f"### All questions\n\n{table(equal, steps, FAMILIES)}\n\n"
        text += f"### Questions about what is seen alone\n\n{table(equal, steps, SEEN_FAMILIES)}\n\n"
        text += f"### All other questions\n\n{table(equal, steps, others)}\n\n"
        by_family = [
            [arm, *(f"{statistics.mean(accuracy(run['scores'][last], [family]) for run in found):.3f}"
                    for family in FAMILIES)]
            for arm, found in equal.items()
        ]  # fmt: skip
        text += f"### By family, after step {last}, mean over seeds\n\n{markdown(['arm', *FAMILIES], by_family)}\n\n"
        spent = [[arm, f"{statistics.mean(run['cpu_seconds'] for run in found):.0f}"] for arm, found in equal.items()]
        text += f"### CPU seconds of a run\n\n{markdown(['arm', 'seconds'], spent)}\n\n"
    for run in runs.get(HALF, []):
        marks = sorted(map(int, run["scores"]))
        rows = [[mark, f"{accuracy(run['scores'][str(mark)]):.3f}"] for mark in marks]
        text += f"### The half-trained start, seed {run['seed']}\n\n{markdown(['step', 'exact matches'], rows)}\n\n"
    if (path := arguments.output / "cost.json").exists():
        costs = json.loads(path.read_text(encoding="utf-8"))
        rows = [
            [name, *(f"{cost[part]:.2f}" for part in ("rollout", "update", "step"))] for name, cost in costs.items()
        ]
        times = costs["repeated"]["step"] / costs["shared"]["step"]
        text += (
            f"### CPU seconds of a step, one thread\n\n{markdown(['prompts', 'rollout', 'update', 'step'], rows)}\n\n"
            f"Repeated prompts cost {times:.1f} times as much (goal {CHEAPER}: "
            f"{'met' if times >= CHEAPER else 'missed'}).\n\n"
        )
    write_section(arguments.cards / "grpo.md", "runs", text + "![Accuracy by step](grpo.png)\n")
    plot(runs, arguments.cards / "grpo.png")


def plot(runs: dict[str, list[dict]], path: Path) -> None:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 4), layout="constrained")
    titles = ("all questions", "questions about what is seen alone")
    for axes, families, title in zip(
        figure.subplots(1, 2, sharey=True), (FAMILIES, SEEN_FAMILIES), titles, strict=True
    ):
        for number, (arm, found) in enumerate(runs.items()):
            for run in found if arm != HALF else ():
                points = sorted((int(step), accuracy(scores, families)) for step, scores in run["scores"].items())
                label = arm if run is found[0] else None
                axes.plot(*zip(*points, strict=True), "o-", color=f"C{number}", label=label, markersize=3)
        axes.set(title=title, xlabel="step", ylabel="exact matches")
        axes.grid(alpha=0.3)
    axes.legend(fontsize=8)
    figure.savefig(path, dpi=110)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, required=True, help="folder of tracks and runs")
    parser.add_argument("--cards", type=Path, default=CARDS, help="folder of the report (default: model_cards)")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--jobs", type=int, default=2, help="runs at a time, of one thread each")
    parser.add_argument("--arms", nargs="+", default=list(ARMS), choices=list(ARMS), metavar="NAME")
    parser.add_argument("--steps", type=int, default=120)
    parser.add_argument("--half-steps", type=int, default=240, help="of the half-trained start")
    parser.add_argument("--half-training", type=int, nargs=2, default=[180, 100], metavar=("ALIGNMENT", "JOINT"),
                        help="steps of the training before")  # fmt: skip
    parser.add_argument("--prompts", type=int, default=16, help="of a step")
    parser.add_argument("--tracks", type=int, default=600, help="files to learn from")
    parser.add_argument("--clips", type=int, default=80, help="held-out files")
    parser.add_argument("--noise", type=float, default=0.55, help="share of each matrix's deviation")
    parser.add_argument("--report-only", action="store_true", help="train nothing")
    parser.add_argument("--one", nargs=2, metavar=("NAME", "SEED"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if min(arguments.steps, arguments.half_steps) < 4:
        parser.error("--steps and --half-steps must be at least 4: there are questions after each quarter")
    if not is_matplotlib_available():
        parser.error("The plot needs matplotlib: pip install matplotlib")
    for folder in (arguments.output, arguments.cards):
        folder.mkdir(parents=True, exist_ok=True)
    if arguments.one:
        arm, seed = arguments.one[0], int(arguments.one[1])
        write_json(result_path(arguments, arm, seed), train_arm(arm, seed, arguments))
        return
    if not arguments.report_only:
        run_missing(arguments)
    write_report(arguments)


if __name__ == "__main__":
    main()
