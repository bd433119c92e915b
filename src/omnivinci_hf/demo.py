"""The demonstration, and its clip: shapes and beeps at known times."""

import math
import os
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
from PIL import Image, ImageDraw


FRAME_SIZE = (320, 240)
BACKGROUND = (225, 225, 225)
SHAPE_RADIUS = 36
SHAPES = {
    "red circle": (210, 30, 30),
    "green square": (20, 150, 40),
    "blue triangle": (30, 60, 210),
}
BEEPS_HZ = {"low beep": 300, "middle beep": 800, "high beep": 2000}
SAMPLING_RATE = 16000
DEMO_GROUP_SEC = 4.0
DEMO_QUESTIONS = (
    "Which shapes do you see, and in which order?",
    "Which beep do you hear first, the low or the high one?",
    "What do you see while the last beep sounds?",
)
UNTRAINED_NOTICE = "The weights of this demonstration are random, nothing was trained: its answers are noise."


def write_demo_clip(
    path: str | os.PathLike, *, seed: int = 0, duration_sec: float = 12.0, fps: float = 24
) -> dict[str, Any]:
    """Writes an mp4 in which shapes cross a plain background one after the other, and beeps sound.

    `seed` decides order, times and paths. The picture is H.264 where PyAV brings an encoder, MPEG-4
    otherwise; the sound is AAC, 16 kHz, mono.

    Returns the timeline: `duration_sec`, and under `shapes` and `sounds` dictionaries with `name`,
    `start_sec` and `end_sec`, in order of time. A shape is in the frames with
    `start_sec <= frame time < end_sec`.
    """
    if duration_sec < 3 or not math.isfinite(duration_sec):
        raise ValueError(f"duration_sec must be at least 3, got {duration_sec}.")
    if not 8 <= fps <= 120:
        raise ValueError(f"fps must lie between 8 and 120, got {fps}.")
    rng = np.random.default_rng(seed)
    rate = Fraction(fps).limit_denominator(1001)
    num_frames = round(duration_sec * rate)
    duration_sec = float(num_frames / rate)
    shapes = _draw_events(rng, list(SHAPES), num_frames, rate, gap=0.1)
    sounds = _draw_events(rng, list(BEEPS_HZ), num_frames, rate, gap=0.3)
    paths = {shape["name"]: _draw_path(rng) for shape in shapes}

    waveform = _render_sounds(sounds, duration_sec)
    file = f"file:{Path(path).absolute()}"  # a name such as "concat:x.mp4" stays a name
    with av.open(file, "w", format="mp4") as container:
        video = _add_video_stream(container, rate)
        audio = container.add_stream("aac", rate=SAMPLING_RATE, layout="mono")
        for i in range(num_frames):
            frame = av.VideoFrame.from_image(_render_frame(shapes, paths, float(i / rate)))
            frame.pts, frame.time_base = i, 1 / rate
            container.mux(video.encode(frame))
            start, end = (math.floor(j / rate * SAMPLING_RATE) for j in (i, i + 1))
            container.mux(audio.encode(_audio_frame(waveform[start:end], start)))
        container.mux(video.encode())
        container.mux(audio.encode())
    return {"duration_sec": duration_sec, "shapes": shapes, "sounds": sounds}


def _draw_events(
    rng: np.random.Generator, names: list[str], num_frames: int, rate: Fraction, gap: float
) -> list[dict[str, Any]]:
    """Gives each name a stretch of frames of its own, with at least `gap` of its slot empty on each side."""
    slot = num_frames / len(names)
    events = []
    for i, name in enumerate(rng.permutation(names)):
        start = math.ceil(slot * (i + gap * rng.uniform(1, 1.5)))
        end = math.floor(slot * (i + 1 - gap * rng.uniform(1, 1.5)))
        events.append({"name": str(name), "start_sec": float(start / rate), "end_sec": float(end / rate)})
    return events


def _draw_path(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """First and last centre `(x, y)` of a shape that crosses the picture from one side to the other."""
    width, height = FRAME_SIZE
    xs = np.array([SHAPE_RADIUS, width - SHAPE_RADIUS])
    ys = rng.uniform(SHAPE_RADIUS, height - SHAPE_RADIUS, size=2)
    if rng.random() < 0.5:
        xs = xs[::-1]
    return np.array([xs[0], ys[0]]), np.array([xs[1], ys[1]])


def _render_frame(shapes: list[dict[str, Any]], paths: dict[str, tuple], time_sec: float) -> Image.Image:
    image = Image.new("RGB", FRAME_SIZE, BACKGROUND)
    draw = ImageDraw.Draw(image)
    for shape in shapes:
        if shape["start_sec"] <= time_sec < shape["end_sec"]:
            first, last = paths[shape["name"]]
            done = (time_sec - shape["start_sec"]) / (shape["end_sec"] - shape["start_sec"])
            _draw_shape(draw, shape["name"], first + (last - first) * done)
    return image


def _draw_shape(draw: ImageDraw.ImageDraw, name: str, centre: np.ndarray) -> None:
    (x, y), radius, colour = centre, SHAPE_RADIUS, SHAPES[name]
    box = (x - radius, y - radius, x + radius, y + radius)
    if name.endswith("circle"):
        draw.ellipse(box, fill=colour)
    elif name.endswith("square"):
        draw.rectangle(box, fill=colour)
    else:
        draw.polygon([(x, y - radius), (x - radius, y + radius), (x + radius, y + radius)], fill=colour)


def _render_sounds(sounds: list[dict[str, Any]], duration_sec: float) -> np.ndarray:
    """Sine beeps over silence, `(samples,)`, with 10 ms ramps so that they do not click."""
    waveform = np.zeros(math.floor(duration_sec * SAMPLING_RATE), dtype=np.float32)
    for sound in sounds:
        start, end = (round(sound[key] * SAMPLING_RATE) for key in ("start_sec", "end_sec"))
        seconds = np.arange(end - start) / SAMPLING_RATE
        ramp = np.clip(np.minimum(seconds, seconds[::-1]) / 0.01, 0, 1)
        waveform[start:end] = 0.4 * ramp * np.sin(2 * np.pi * BEEPS_HZ[sound["name"]] * seconds)
    return waveform


def _add_video_stream(container: av.container.OutputContainer, rate: Fraction) -> av.VideoStream:
    codec = "libx264" if "libx264" in av.codecs_available else "mpeg4"
    stream = container.add_stream(codec, rate=rate)
    stream.width, stream.height = FRAME_SIZE
    stream.pix_fmt = "yuv420p"
    stream.bit_rate = 800_000
    return stream


def _audio_frame(samples: np.ndarray, start: int) -> av.AudioFrame:
    frame = av.AudioFrame.from_ndarray(samples[None], format="fltp", layout="mono")
    frame.sample_rate = SAMPLING_RATE
    frame.pts, frame.time_base = start, Fraction(1, SAMPLING_RATE)
    return frame


def show_demo(folder: str | os.PathLike, write: Callable[[str], Any] = print) -> None:
    """Everything once, in `folder`: a clip, a checkpoint, its conversion, what the model sees, three questions."""
    # heavy, and `write_demo_clip` needs none of it
    import torch

    from .checkpoints import write_tiny_checkpoint
    from .checkpoints.convert import convert_checkpoint
    from .inspection import format_report, inspect_media, report
    from .modeling_omnivinci import OmniVinciForConditionalGeneration
    from .processing_omnivinci import OmniVinciProcessor

    folder = Path(folder)
    write(UNTRAINED_NOTICE)
    clip = folder / "clip.mp4"
    timeline = write_demo_clip(clip)
    write(f"\nA made-up clip, {timeline['duration_sec']:g} s:")
    for event in sorted(timeline["shapes"] + timeline["sounds"], key=lambda event: event["start_sec"]):
        write(f"  {event['start_sec']:5.2f} - {event['end_sec']:5.2f} s  {event['name']}")

    released = write_tiny_checkpoint(folder / "released")
    converted = convert_checkpoint(released, folder / "converted")
    processor = OmniVinciProcessor.from_pretrained(converted)
    model = OmniVinciForConditionalGeneration.from_pretrained(converted)
    write(
        f"\nA random checkpoint of {model.num_parameters():,} parameters in the released five-folder layout, converted "
        "to the ordinary one and loaded. What it sees of the clip, in time groups of "
        f"{DEMO_GROUP_SEC:g} s (the released checkpoint has 30 s):\n"
    )
    options = {"group_duration_sec": DEMO_GROUP_SEC}
    media = inspect_media(processor, [str(clip)], **options)
    write(format_report(report(processor, model.config, media, "the tiny random checkpoint")))
    for number, question in enumerate(DEMO_QUESTIONS):
        content = [{"type": "video", "path": str(clip)}, {"type": "text", "text": question}]
        inputs = processor.apply_chat_template(
            [{"role": "user", "content": content}],
            add_generation_prompt=True,
            tokenize=True,
            return_dict=True,
            return_tensors="pt",
            processor_kwargs=options,
        )
        with torch.random.fork_rng():
            torch.manual_seed(number)  # the likeliest words of such a model are one letter over and over
            output = model.generate(**inputs, max_new_tokens=16, do_sample=True)
        answer = processor.tokenizer.decode(output[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
        write(f"\nQuestion: {question}\nAnswer:   {' '.join(answer.split())}")
    write(f"\n{UNTRAINED_NOTICE}")
