"""Ask several questions about a video with audio.

    python examples/ask_video.py                                             # small checkpoint, made-up clip
    python examples/ask_video.py --model nvidia/omnivinci --video clip.mp4   # the original weights

Run with the first line on 2 busy CPU cores in 14 seconds. The original weights in bfloat16, by estimate: 17 GB of
weights, so a GPU with 24 GB; not tried. Needs: omnivinci-hf alone.
"""

import argparse
import tempfile
from pathlib import Path

from transformers import pipeline

import omnivinci_hf  # noqa: F401 (registers the task)
from omnivinci_hf.small import small_checkpoint
from omnivinci_hf.world import write_clip
from omnivinci_hf.world.demo import demo_scene, timeline


parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--model", help="checkpoint; by default the small one of the package")
parser.add_argument("--video", help="file; by default a made-up clip, all that the small one knows")
parser.add_argument("--question", action="append", help="may be given several times")
parser.add_argument("--max-new-tokens", type=int, default=16)
arguments = parser.parse_args()

with tempfile.TemporaryDirectory() as scratch:
    video, questions = arguments.video, arguments.question
    if video is None:
        scene, asked = demo_scene()
        video = str(write_clip(scene, Path(scratch) / "clip.mp4"))
        questions = questions or [question.question for question in asked]
        print("really there:", *timeline(scene), sep="\n")

    pipe = pipeline("omni-qa", model=arguments.model or str(small_checkpoint()), dtype="auto", device_map="auto")

    # the video is read and encoded once for all questions
    records = pipe(
        video=video,
        question=questions or ["What happens?"],
        max_new_tokens=arguments.max_new_tokens,
        do_sample=False,
        return_token_counts=True,
    )
    for record in records:
        print(f"\n{record['question']}\n  {record['answer']!r}")
        print(f"  ({record['prompt_tokens']} tokens of prompt, {record['new_tokens']} of answer)")
