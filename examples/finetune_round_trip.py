"""Train a few steps on two made-up items, save, load again, ask.

    python examples/finetune_round_trip.py                                   # tiny random checkpoint
    python examples/finetune_round_trip.py --model nvidia/omnivinci --lora   # the original weights, an adapter alone

Run with the first line on 2 CPU cores in 30 seconds; at its end the model has learned both answers by heart. The
original weights with an adapter, by estimate: 17 GB of weights and what training adds, so a GPU with 40 GB; not tried.
Needs: omnivinci-hf, and peft with --lora.
"""

import argparse
import tempfile
from pathlib import Path

import numpy as np
import torch
from transformers import AutoModel, AutoProcessor, pipeline

import omnivinci_hf  # noqa: F401 (registers the classes and the task)
from omnivinci_hf.testing.tiny import write_tiny_checkpoint


parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--model", help="checkpoint; a tiny random one by default")
parser.add_argument("--steps", type=int, default=25)
parser.add_argument("--learning-rate", type=float, help="6e-3 by default, with --model 1e-4")
parser.add_argument("--lora", action="store_true", help="train an adapter of the language model alone")
parser.add_argument("--output", help="folder to keep the result in")
arguments = parser.parse_args()

with tempfile.TemporaryDirectory() as scratch:
    folder = arguments.model or write_tiny_checkpoint(Path(scratch) / "tiny")
    processor = AutoProcessor.from_pretrained(folder)
    model = AutoModel.from_pretrained(folder, dtype="auto", device_map="auto")
    # the towers stay as they are, which saves most of the time
    model.model.vision_tower.requires_grad_(False)
    model.model.audio_tower.requires_grad_(False)
    if arguments.lora:
        from peft import LoraConfig, get_peft_model

        targets = r"model\.language_model\..*\.(q_proj|k_proj|v_proj|o_proj)"
        model = get_peft_model(model, LoraConfig(r=16, target_modules=targets))

    # two items: a red square that is seen, a tone that is heard
    picture = np.zeros((224, 224, 3), dtype=np.uint8)
    picture[60:160, 60:160, 0] = 255
    tone = np.sin(2 * np.pi * 440 * np.arange(16000) / 16000).astype(np.float32)
    items = [
        ({"type": "image", "image": picture}, "What do you see?", "A red square."),
        ({"type": "audio", "audio": tone, "sampling_rate": 16000}, "What do you hear?", "A low beep."),
    ]
    conversations = [
        [
            {"role": "user", "content": [medium, {"type": "text", "text": question}]},
            {"role": "assistant", "content": answer},
        ]
        for medium, question, answer in items
    ]
    batch = processor.apply_chat_template(
        conversations,
        tokenize=True,
        return_dict=True,
        return_tensors="pt",
        return_assistant_tokens_mask=True,
        processor_kwargs={"padding": True},
    ).to(model.device)
    # the loss counts the answers alone
    labels = batch["input_ids"].masked_fill(~batch.pop("assistant_masks").bool(), -100)

    rate = arguments.learning_rate or (1e-4 if arguments.model else 6e-3)
    optimizer = torch.optim.AdamW([value for value in model.parameters() if value.requires_grad], lr=rate)
    model.train()
    for step in range(arguments.steps):
        loss = model(**batch, labels=labels).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        if step % 10 == 0 or step == arguments.steps - 1:
            print(f"step {step:3}  loss {loss.item():.4f}")

    # with --lora this saves the adapter alone
    output = arguments.output or str(Path(scratch) / "tuned")
    model.save_pretrained(output)
    processor.save_pretrained(output)

    pipe = pipeline("omni-qa", model=output, dtype="auto", device_map="auto", max_new_tokens=8, do_sample=False)
    for medium, question, answer in items:
        kind = medium["type"]
        options = {"sampling_rate": 16000} if kind == "audio" else {}
        (record,) = pipe(**{kind: medium[kind]}, question=question, **options)
        print(f"{question} {record['answer']!r} (taught: {answer!r})")
