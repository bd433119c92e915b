"""Search audio by videos, and videos by audio, with OmniAlignNet's vectors.

    python examples/search_audio_by_video.py                                    # made-up clips, a model trained on them
    python examples/search_audio_by_video.py --model me/aligned a.mp4 b.mp4     # a trained checkpoint, own clips

Run with the first line on 2 CPU cores in about a minute. Each made-up clip has the colour and the tone of one of six
"places"; the model learns from pairs alone which belong together, and then finds them in clips that it never saw.
Needs: omnivinci-hf.
"""

import argparse
import tempfile

import numpy as np
import torch
from transformers import AutoModel, AutoProcessor, TrainingArguments

from omnivinci_hf.training import OmniVinciDataCollator, OmniVinciTrainer, Recipe, apply_recipe
from omnivinci_hf.world.model import build_config, build_model, build_processor, build_tokenizer


parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("clips", nargs="*", help="videos with audio")
parser.add_argument("--model", help="checkpoint with a trained OmniAlignNet")
parser.add_argument("--steps", type=int, default=120)
arguments = parser.parse_args()
if bool(arguments.clips) != bool(arguments.model):
    parser.error("clips of your own and --model go together")
COLOURS = [(220, 40, 40), (40, 200, 60), (50, 80, 230), (230, 210, 50), (230, 230, 230), (25, 25, 25)]
PITCHES = [300, 480, 770, 1230, 1960, 3140]


def made_up_clip(place: int, rng: np.random.Generator) -> dict:
    """Two seconds of a place's colour and tone, both with noise."""
    frames = np.array(COLOURS[place]) + rng.normal(0, 25, (2, 56, 56, 3)) + rng.normal(0, 12, 3)
    phase = 2 * np.pi * PITCHES[place] * rng.uniform(0.95, 1.05) * np.arange(32000) / 16000
    samples = rng.uniform(0.1, 0.5) * np.sin(phase) + rng.normal(0, 0.02, 32000)
    return {
        "type": "video",
        "video": frames.clip(0, 255).astype(np.uint8),
        "video_metadata": {"fps": 1},
        "audio": samples.astype(np.float32),
        "sampling_rate": 16000,
    }


def train_on_pairs() -> tuple:
    """Trains a tiny model on clips whose audio goes with their colour; returns it with its processor."""
    tokenizer = build_tokenizer()
    config = build_config(tokenizer)
    model, processor = build_model(config), build_processor(config, tokenizer)
    recipe = Recipe(
        "pairs", learning_rates=dict.fromkeys(("vision_projector", "audio_projector", "omni_align_net"), 1e-3)
    )
    rng = np.random.default_rng(0)
    # one clip of each place in a batch: the others are what it is told apart from
    rows = []
    for place in np.concatenate([rng.permutation(len(COLOURS)) for _ in range(arguments.steps)]):
        answer = {"role": "assistant", "content": "yes"}
        rows.append({"messages": [{"role": "user", "content": [made_up_clip(place, rng)]}, answer]})
    with tempfile.TemporaryDirectory() as folder:
        trainer = OmniVinciTrainer(
            apply_recipe(model, recipe),
            TrainingArguments(
                folder,
                num_train_epochs=1,
                per_device_train_batch_size=len(COLOURS),
                train_sampling_strategy="sequential",
                warmup_steps=20,
                logging_steps=20,
                save_strategy="no",
                report_to="none",
                disable_tqdm=True,
            ),
            recipe=recipe,
            data_collator=OmniVinciDataCollator(processor),
            train_dataset=rows,
        )
        trainer.train()
    return model, processor


@torch.inference_mode()
def vectors(model, processor, parts: list[dict]) -> tuple[torch.Tensor, torch.Tensor]:
    """Returns unit vectors of the frames and of the audio of clips, each `(num_clips, embed_dim)`."""
    vision_embeds, audio_embeds = [], []
    for part in parts:
        inputs = processor.apply_chat_template(
            [{"role": "user", "content": [part]}], tokenize=True, return_dict=True, return_tensors="pt"
        ).to(model.device)
        embeds = model.eval().get_omni_embeddings(**inputs)
        vision_embeds.append(embeds.vision_embeds)
        audio_embeds.append(embeds.audio_embeds)
    return torch.cat(vision_embeds), torch.cat(audio_embeds)


if arguments.model:
    model = AutoModel.from_pretrained(arguments.model, dtype="auto", device_map="auto")
    processor = AutoProcessor.from_pretrained(arguments.model)
    names = arguments.clips
    parts = [{"type": "video", "path": path} for path in names]
else:
    model, processor = train_on_pairs()
    rng = np.random.default_rng(1)
    names = [f"place {place}" for place in range(len(COLOURS))]
    parts = [made_up_clip(place, rng) for place in range(len(COLOURS))]

vision_embeds, audio_embeds = vectors(model, processor, parts)
scores = vision_embeds @ audio_embeds.T
for index, name in enumerate(names):
    audio, video = scores[index].argmax(), scores[:, index].argmax()
    print(f"{name}: its frames find the audio of {names[audio]}, its audio finds the frames of {names[video]}")
share = (scores.argmax(1).cpu() == torch.arange(len(names))).float().mean()
print(f"found: {share:.0%} (by chance {1 / len(names):.0%})")
