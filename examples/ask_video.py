"""Ask several questions about a video, picture and sound.

    python examples/ask_video.py                                             # tiny random checkpoint, made-up clip
    python examples/ask_video.py --model nvidia/omnivinci --video clip.mp4   # the released weights

Run with the first line on 2 busy CPU cores in 14 seconds. The released weights need a GPU with 24 GB in bfloat16.
Needs: omnivinci-hf alone.
"""

import argparse
import tempfile
from pathlib import Path

from transformers import pipeline

import omnivinci_hf  # noqa: F401 (registers the task)
from omnivinci_hf.checkpoints.tiny import write_tiny_checkpoint
from omnivinci_hf.demo import write_demo_clip


parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--model", help="checkpoint; a tiny random one by default, whose answers are noise")
parser.add_argument("--video", help="file; by default a clip of shapes and beeps")
parser.add_argument("--max-new-tokens", type=int, default=16)
arguments = parser.parse_args()

with tempfile.TemporaryDirectory() as scratch:
    video = arguments.video
    if video is None:
        video = str(Path(scratch) / "clip.mp4")
        timeline = write_demo_clip(video, duration_sec=6.0)
        print("really there:", ", ".join(event["name"] for event in timeline["shapes"] + timeline["sounds"]))

    pipe = pipeline(
        "omni-qa",
        model=arguments.model or str(write_tiny_checkpoint(Path(scratch) / "tiny")),
        dtype="auto",
        device_map="auto",
    )

    # the video is read and encoded once for all questions
    questions = ["Which shapes cross the picture?", "What is heard, and when?", "What is seen while a beep sounds?"]
    records = pipe(
        video=video,
        question=questions,
        num_frames=8,
        max_new_tokens=arguments.max_new_tokens,
        do_sample=False,
        return_token_counts=True,
    )
    for record in records:
        print(f"\n{record['question']}\n  {record['answer']!r}")
        print(f"  ({record['prompt_tokens']} tokens of prompt, {record['new_tokens']} of answer)")
