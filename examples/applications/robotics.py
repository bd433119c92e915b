"""Drive a robot by spoken instructions and frames in a small closed loop, after training on episodes of one's own.

    python examples/applications/robotics.py --output robotics              # one seed, with speech and without
    python examples/applications/robotics.py --output robotics --seeds 0 1 2 --page robotics.md

Run on 2 busy CPU cores. Needs: omnivinci-hf[train] and the program espeak-ng.

The robot stands among four things of different colours, one on each side, and sees three of them: ahead, to its left
and to its right. A voice says "go to red". The robot turns until red is ahead, and goes forward, which ends the
episode. The script draws such episodes (`sample_episode` states the truth of each, `expert_move` the right move),
checks the rows (`omnivinci-hf validate`), trains an adapter (`omnivinci-hf train --recipe lora`), and lets it drive
through episodes that it never met. Whoever does not hear the voice can only guess, and is right in 25 %.
"""

import argparse
import wave
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

from omnivinci_hf.world.rendering import POLYGONS
from omnivinci_hf.world.scene import COLOURS, SHAPES
from omnivinci_hf.world.speech import speak


GOALS = ("red", "green", "blue", "yellow")
TURNS = {"left": -1, "right": 1}
MOVES = (*TURNS, "forward")
QUESTION = "Which move?"
NEW_WORDS = (*MOVES, "move")  # which the small checkpoint has no token for
MOST_MOVES = 6
SIDE, CENTRES = 56, (9, 28, 47)  # of a frame in pixels, and where the things to the left, ahead and to the right stand
SAMPLING_RATE = 16000
TRAINING = (
    *("--learning_rate", "3e-3", "--lr_scheduler_type", "cosine", "--warmup_steps", "10"),
    *("--per_device_train_batch_size", "16", "--logging_steps", "20", "--dataloader_pin_memory", "false"),
)
TRAIN_SEEDS, TEST_SEEDS, MOST_EPISODES = 0, 10**7, 10**5  # where seeds of episodes begin, and how many each run has
WITH_SPEECH, WITHOUT_SPEECH, OTHER_SPEECH = "speech", "no speech", "speech of another episode"
WANTED, MOST_BY_CHANCE = 0.9, 0.4  # at least so many episodes succeed with speech, and at most so many in a control


# -- the world, which states its truth -------------------------------------------------------------------------------


@dataclass(frozen=True)
class Episode:
    """An episode is a place with things on four sides, the side that the robot looks to, and what it is told.

    Args:
        things: colour and shape of what stands north, east, south and west.
        heading: the side that the robot looks to at first, 0 to 3.
        goal: the colour that the voice names.
        voice: length in seconds, and pitch from 0 to 1.
        seed: of what does not matter: sizes, places and shades.
    """

    things: tuple[tuple[str, str], ...]
    heading: int
    goal: str
    voice: tuple[float, float]
    seed: int

    @property
    def instruction(self) -> str:
        """What the voice says."""
        return f"go to {self.goal}"

    def ahead(self, heading: int) -> str:
        """The colour of what a robot sees ahead."""
        return self.things[heading][0]


def sample_episode(seed: int) -> Episode:
    """Draws an episode; a seed gives the same one on every machine."""
    rng = np.random.default_rng(seed)
    things = tuple((str(colour), str(rng.choice(SHAPES))) for colour in rng.permutation(GOALS))
    voice = (float(rng.uniform(0.8, 1.2)), float(rng.random()))
    return Episode(things, int(rng.integers(4)), str(rng.choice(GOALS)), voice, seed)


def expert_move(episode: Episode, heading: int) -> str:
    """The right move: forward if the goal is ahead, left if it is to the left, right in all other cases."""
    sides = {name: episode.ahead((heading + turn) % 4) for name, turn in TURNS.items()}
    if episode.ahead(heading) == episode.goal:
        return "forward"
    return "left" if sides["left"] == episode.goal else "right"


def draw(episode: Episode, heading: int) -> Image.Image:
    """Draws what the robot sees, 56 x 56 pixels; the same view looks the same whenever it is seen."""
    rng = np.random.default_rng((episode.seed, heading))
    picture = Image.new("RGB", (4 * SIDE, 4 * SIDE), (int(rng.integers(40, 90)),) * 3)
    pen = ImageDraw.Draw(picture)
    for turn, centre in zip((-1, 0, 1), CENTRES, strict=True):
        colour, shape = episode.things[(heading + turn) % 4]
        side = 4 * rng.uniform(13, 17)
        left, top = 4 * (centre + rng.uniform(-1, 1)) - side / 2, 4 * (28 + rng.uniform(-8, 8)) - side / 2
        shade = tuple(int(np.clip(level + rng.integers(-12, 13), 0, 255)) for level in COLOURS[colour])
        if shape == "circle":
            pen.ellipse((left, top, left + side, top + side), fill=shade)
        else:
            pen.polygon([(left + x * side, top + y * side) for x, y in POLYGONS[shape]], fill=shade)
    return picture.reduce(4)


def write_speech(episode: Episode, file: Path) -> None:
    """Writes the spoken instruction as a WAV file, with a little noise."""
    length_sec, pitch = episode.voice
    samples = speak(episode.instruction, length_sec, pitch, SAMPLING_RATE)
    noise = np.random.default_rng(episode.seed).standard_normal(len(samples))
    samples = 0.5 * samples / np.abs(samples).max() + 0.002 * noise
    with wave.open(str(file), "wb") as output:
        output.setparams((1, 2, SAMPLING_RATE, 0, "NONE", "not compressed"))
        output.writeframes((32767 * samples).astype("<i2").tobytes())


# -- rows of training data -------------------------------------------------------------------------------------------


def media_of(frame: dict[str, Any], speech: str | None) -> list[dict[str, Any]]:
    """The media of a row: the voice, if it is heard, and the frame."""
    heard = [] if speech is None else [{"type": "audio", "path": speech}]
    return [*heard, {"type": "image", **frame}]


def write_data(folder: Path, episodes: Sequence[Episode], hears: bool) -> Path:
    """Writes a row for each view on the expert's way, and its media beside them. Returns the file of rows.

    The robot repeats the goal before its move, as pilots repeat what they are told: "red left".
    """
    folder.mkdir(parents=True, exist_ok=True)
    rows = []
    for episode in episodes:
        speech = f"{episode.seed}.wav"
        if hears:
            write_speech(episode, folder / speech)
        heading, move = episode.heading, ""
        while move != "forward":
            move = expert_move(episode, heading)
            frame = f"{episode.seed}_{heading}.png"
            draw(episode, heading).save(folder / frame)
            media = media_of({"path": frame}, speech if hears else None)
            rows.append(make_row(media, {QUESTION: f"{episode.goal} {move}"}, f"{episode.seed} {heading}"))
            heading = (heading + TURNS.get(move, 0)) % 4
    write_rows(folder / "truth.jsonl", [asdict(episode) for episode in episodes])
    write_rows(folder / "train.jsonl", rows)
    return folder / "train.jsonl"


# -- the closed loop -------------------------------------------------------------------------------------------------


def drive(pipe, episodes: Sequence[Episode], speeches: Sequence[str | None]) -> dict[str, float]:
    """Lets the model move until it goes forward, in all episodes side by side.

    Args:
        speeches: file of the voice that is heard in each episode, None for silence.

    Returns:
        Shares of the episodes: `success`, in which it went forward towards the goal within `MOST_MOVES`, and
        `repeated`, in which it named the goal first. An answer that is no move ends an episode without success.
    """
    headings = [episode.heading for episode in episodes]
    reached, repeated = ([False] * len(episodes) for _ in range(2))
    active = list(range(len(episodes)))
    for number_of_move in range(MOST_MOVES):
        chats = [
            ask_about(media_of({"image": draw(episodes[number], headings[number])}, speeches[number]), QUESTION)
            for number in active
        ]
        answers = [record["answer"].split() or [""] for (record,) in pipe(chats, batch_size=25, max_new_tokens=4)]
        turning = []
        for number, (first, *_, move) in zip(active, [[answer[0], *answer] for answer in answers], strict=True):
            episode = episodes[number]
            if number_of_move == 0:
                repeated[number] = first == episode.goal
            reached[number] = move == "forward" and episode.ahead(headings[number]) == episode.goal
            if move in TURNS:
                headings[number] = (headings[number] + TURNS[move]) % 4
                turning.append(number)
        active = turning
    return {"success": float(np.mean(reached)), "repeated": float(np.mean(repeated))}


# -- runs and their report -------------------------------------------------------------------------------------------


def run_seed(seed: int, arguments: argparse.Namespace) -> dict[str, Any]:
    """Goes from data to driving once with speech and once without: other episodes and another order for each seed."""
    folder, first = arguments.output / f"seed {seed}", seed * MOST_EPISODES
    learned = [sample_episode(TRAIN_SEEDS + first + number) for number in range(arguments.train)]
    unseen = [sample_episode(TEST_SEEDS + first + number) for number in range(arguments.test)]
    (folder / "test").mkdir(parents=True, exist_ok=True)
    voices = [str(folder / "test" / f"{episode.seed}.wav") for episode in unseen]
    for episode, voice in zip(unseen, voices, strict=True):
        write_speech(episode, Path(voice))
    result, seconds = {}, {}
    for arm in (WITH_SPEECH, WITHOUT_SPEECH):
        before = cpu_seconds()
        data = write_data(folder / arm, learned, hears=arm == WITH_SPEECH)
        adapter = folder / f"adapter {arm}"
        options = (*TRAINING, "--max_steps", arguments.steps)
        tune(arguments.output / "checkpoint", "lora", data, adapter, seed, *options)
        pipe = pipeline("omni-qa", model=str(adapter))
        result[arm] = drive(pipe, unseen, voices if arm == WITH_SPEECH else [None] * len(unseen))
        seconds[arm] = round(cpu_seconds() - before)
        if arm == WITH_SPEECH:
            result[OTHER_SPEECH] = drive(pipe, unseen, [*voices[1:], voices[0]])
    return {"arms": result, "cpu_seconds": seconds}


def report(results: Sequence[Mapping[str, Any]], settings: Mapping[str, Any]) -> str:
    """Makes the table of all seeds, and says whether what was wanted came true."""
    arms = list(results[0]["arms"])
    success = {arm: [result["arms"][arm]["success"] for result in results] for arm in arms}
    rows = [
        [
            arm,
            percent(success[arm]),
            ", ".join(f"{100 * share:.0f}" for share in success[arm]),
            percent([result["arms"][arm]["repeated"] for result in results]),
        ]
        for arm in arms
    ]
    controls = max(float(np.mean(success[arm])) for arm in arms if arm != WITH_SPEECH)
    holds = np.mean(success[WITH_SPEECH]) >= WANTED and controls <= MOST_BY_CHANCE
    minutes = [result["cpu_seconds"][WITH_SPEECH] / 60 for result in results]
    return (
        f"Seeds: {len(results)}, each with {settings['train']} episodes to learn from, {settings['steps']} steps, and "
        f"{settings['test']} unseen episodes. Episodes that succeed, and in which the goal is named, in percent: mean "
        "± standard deviation over the seeds.\n\n"
        f"{make_table(['the model gets frames and', 'success', 'by seed', 'names the goal'], rows)}\n\n"
        f"Wanted: success in at least {100 * WANTED:.0f} % with speech, and in each control in at most "
        f"{100 * MOST_BY_CHANCE:.0f} %: this {'holds' if holds else 'does not hold'}. From data to answers one model "
        f"took {min(minutes):.1f} to {max(minutes):.1f} minutes of one CPU core."
    )


def main() -> None:
    run_application(
        __doc__,
        NEW_WORDS,
        run_seed,
        report,
        train=(300, "episodes to learn from"),
        test=(100, "unseen episodes"),
        steps=200,
    )


if __name__ == "__main__":
    main()
