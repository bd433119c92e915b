"""Ask about an audio clip, then go on talking about it without encoding it again.

    python examples/ask_audio.py                                               # tiny random checkpoint, two tones
    python examples/ask_audio.py --model nvidia/omnivinci --audio speech.wav   # the original weights

Run with the first line on 2 busy CPU cores in 13 seconds. The original weights in bfloat16, by estimate: 17 GB of
weights, so a GPU with 24 GB; not tried. Needs: omnivinci-hf alone.
"""

import argparse
import tempfile
from pathlib import Path

import numpy as np
from transformers import AutoModel, AutoProcessor

from omnivinci_hf import Session
from omnivinci_hf.testing.tiny import write_tiny_checkpoint


parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--model", help="checkpoint; a tiny random one by default, whose answers are noise")
parser.add_argument("--audio", help="file; by default a low tone, then a high one")
parser.add_argument("--max-new-tokens", type=int, default=16)
arguments = parser.parse_args()

if arguments.audio:
    clip = {"type": "audio", "path": arguments.audio}
else:
    # samples need no file, but their rate
    seconds = np.arange(32000) / 16000
    tones = np.where(seconds < 1, np.sin(2 * np.pi * 220 * seconds), np.sin(2 * np.pi * 880 * seconds))
    clip = {"type": "audio", "audio": (0.3 * tones).astype(np.float32), "sampling_rate": 16000}

with tempfile.TemporaryDirectory() as scratch:
    folder = arguments.model or write_tiny_checkpoint(Path(scratch) / "tiny")
    model = AutoModel.from_pretrained(folder, dtype="auto", device_map="auto").eval()
    processor = AutoProcessor.from_pretrained(folder)

# The session reads the clip now and encodes it with the first question; `keep` lets the second follow up on it.
session = Session(model, processor, messages=[{"role": "user", "content": [clip]}])
for question in ("What do you hear?", "Is it getting higher?"):
    answer = session.ask(question, keep=True, max_new_tokens=arguments.max_new_tokens, do_sample=False)
    print(question + "\n ", repr(answer))
