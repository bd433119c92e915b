"""Ask about an audio clip, then go on talking about it without encoding it again.

    python examples/ask_audio.py                                               # tiny random checkpoint, two tones
    python examples/ask_audio.py --model nvidia/omnivinci --audio speech.wav   # the original weights

Run with the first line on 2 busy CPU cores in 13 seconds. The original weights need a GPU with 24 GB in bfloat16.
Needs: omnivinci-hf alone.
"""

import argparse
import tempfile
from pathlib import Path

import numpy as np
import torch
from transformers import AutoModel, AutoProcessor

import omnivinci_hf  # noqa: F401 (registers the classes)
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

options = {"max_new_tokens": arguments.max_new_tokens, "do_sample": False, "return_dict_in_generate": True}
conversation = [{"role": "user", "content": [clip, {"type": "text", "text": "What do you hear?"}]}]
inputs = processor.apply_chat_template(
    conversation, tokenize=True, return_dict=True, return_tensors="pt", add_generation_prompt=True
).to(model.device)
first = model.generate(**inputs, **options)
print("What do you hear?\n ", repr(processor.decode(first.sequences[0, inputs["input_ids"].shape[1] :])))

# The next turn is words alone: its ids go behind those that the cache knows, and the audio is not needed again.
turn = "\n<|im_start|>user\nIs it getting higher?<|im_end|>\n<|im_start|>assistant\n"
if first.sequences[0, -1] != processor.tokenizer.convert_tokens_to_ids("<|im_end|>"):
    turn = "<|im_end|>" + turn  # cut off before its end
words = processor.tokenizer(turn, return_tensors="pt")["input_ids"].to(model.device)
ids = torch.cat((first.sequences, words), dim=1)
second = model.generate(
    input_ids=ids, attention_mask=torch.ones_like(ids), past_key_values=first.past_key_values, **options
)
print("Is it getting higher?\n ", repr(processor.decode(second.sequences[0, ids.shape[1] :])))
