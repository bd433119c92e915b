"""This module is the demonstration: a made-up clip that nobody has seen, six questions, the small model's answers."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import av

from . import FAMILIES, Question, Scene, sample_scene, write_clip
from .dataset import seed_questions, split_seeds
from .evaluation import MAX_NEW_TOKENS, choose, is_right
from .small_checkpoint import small_checkpoint


ABOUT = {
    "vision": "what is seen",
    "audio": "what is heard",
    "sound_while_shape": "heard while something is seen",
    "shape_during_sound": "seen while something is heard",
    "order": "which comes first",
    "time": "when, in whole seconds",
}


def demo_scene(number: int = 0) -> tuple[Scene, list[Question]]:
    """Finds the first clip from test seed `number` on about which every family can be asked, and a question of each."""
    for seed in split_seeds("test", 100, start=number):
        scene = sample_scene(seed)
        asked = choose(seed_questions(seed, scene), 1, seed)
        if [question.family for question in asked] == list(FAMILIES):
            return scene, asked
    raise ValueError(f"None of 100 clips from number {number} on can be asked about in every way.")


def timeline(scene: Scene) -> list[str]:
    """Tells what happens in a clip, a line each, in the order in which it starts."""
    events = [("see", event) for event in scene.vision.events] + [("hear", event) for event in scene.sound.events]
    return [
        f"{event.start_sec:6.2f} - {event.end_sec:5.2f} s  {sense:4}  {event.name}"
        for sense, event in sorted(events, key=lambda item: item[1].start_sec)
    ]


def show_demo(folder: str | os.PathLike, number: int = 0, write: Callable[[str], Any] = print) -> None:
    """Writes a clip to `folder`, asks the small checkpoint six questions about it, tells which answers are right."""
    from ..omnivinci.modeling_omnivinci import OmniVinciForConditionalGeneration  # heavy, as the next two are
    from ..omnivinci.pipeline_omnivinci import OmniQAPipeline
    from ..omnivinci.processing_omnivinci import OmniVinciProcessor

    scene, asked = demo_scene(number)
    clip = write_clip(scene, Path(folder) / "clip.mp4")
    picture, sound = scene.vision, scene.sound
    with av.open(str(clip)) as container:
        codecs = " and ".join(stream.codec_context.name for stream in container.streams)
    write(
        f"A made-up clip that was in no training, {clip.stat().st_size / 1000:.0f} kB of {codecs}: "
        f"{scene.duration_sec:g} s, {picture.width}x{picture.height} at {picture.fps:g} frames/s, "
        f"{sound.sampling_rate} Hz"
    )
    for line in timeline(scene):
        write(line)
    model, processor = (
        each.from_pretrained(small_checkpoint()) for each in (OmniVinciForConditionalGeneration, OmniVinciProcessor)
    )
    pipe = OmniQAPipeline(model, processor=processor, device="cpu")  # the same on every machine
    write(f"\nA checkpoint of {pipe.model.num_parameters():,} parameters, trained on such clips alone, is asked:")
    records = pipe(video=str(clip), question=[question.question for question in asked], max_new_tokens=MAX_NEW_TOKENS)
    num_right = 0
    for question, record in zip(asked, records, strict=True):
        right = is_right(record, question)
        num_right += right
        verdict = "right" if right else f"WRONG, it is {question.answer}"
        write(f"\n[{ABOUT[question.family]}]\n  {question.question}\n  {record['answer']}  ({verdict})")
    write(f"\n{num_right} of {len(asked)} answers are right.")
