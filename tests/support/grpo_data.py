"""This module has rows for reinforcement, and a trainer of a very small model for them."""

import trl

from omnivinci_hf.training import Recipe, apply_recipe
from omnivinci_hf.training.grpo import OmniVinciGRPOTrainer
from tests.support.training_data import load, part


RATES = dict.fromkeys(("vision_projector", "audio_projector", "language_model"), 1e-2)
FULL = Recipe("full", RATES)
LORA = Recipe(
    "adapter",
    {"lora": 1e-2, "audio_projector": 1e-2},
    lora={"r": 4, "target_modules": r".*language_model\..*\.(q_proj|v_proj)"},
)
KINDS = ("video", "audio", "image", None)


def prompt_row(kind, seed=0, question="What is heard?", **columns):
    content = [*([] if kind is None else [part(kind, seed)]), {"type": "text", "text": question}]
    return {"prompt": [{"role": "user", "content": content}], "answer": "bell", **columns}


ROWS = [prompt_row(kind, seed, id=f"{kind}-{seed}") for seed, kind in enumerate(KINDS)]


def length_reward(completions, **columns):
    """Short completions are good; so is any that says `red`."""
    texts = [one[0]["content"] for one in completions]
    return [float("red" in text) - len(text) / 100 for text in texts]


def make(folder, rows=ROWS, recipe=FULL, rewards=length_reward, eval_rows=None, change=None, **options):
    model, processor = load()
    model = apply_recipe(model, recipe)
    if change is not None:
        change(model)
    values = {
        **{"use_cpu": True, "bf16": False, "gradient_checkpointing": False, "report_to": "none", "disable_tqdm": True},
        **{"save_strategy": "no", "lr_scheduler_type": "constant", "logging_steps": 1, "max_steps": 2},
        **{"per_device_train_batch_size": 8, "num_generations": 4, "max_completion_length": 6},
    }
    args = trl.GRPOConfig(str(folder), **{**values, **options})
    return OmniVinciGRPOTrainer(model, rewards, args, rows, eval_rows, processing_class=processor, recipe=recipe)
