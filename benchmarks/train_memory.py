"""Peak memory of training steps of small models, against `omnivinci_hf.training.estimate`.

    python benchmarks/train_memory.py [--only WORD]

A fresh process per setting builds a model of 64 M parameters with random weights, takes two AdamW steps on made-up
inputs and adds up what PyTorch's allocator on the CPU hands out and takes back (`torch.profiler`). The second step
counts, with the optimizer's state in place. Beside it stands the growth of the process's resident memory, which also
holds freed pages. Sizes are in MiB.
"""

import argparse
import contextlib
import json
import math
import subprocess
import sys

import torch
from measuring import reset_peak, resident, tensor_peak

from omnivinci_hf import OmniVinciConfig, OmniVinciForConditionalGeneration
from omnivinci_hf.training.estimate import TRAINABLE_PARTS, estimate_memory


EVERYTHING = TRAINABLE_PARTS[:6]
SETTINGS = {
    "everything": {"trainable": EVERYTHING},
    "everything, checkpointing": {"trainable": EVERYTHING, "gradient_checkpointing": True},
    "towers frozen": {"trainable": EVERYTHING[1:2] + EVERYTHING[3:]},
    "towers frozen, checkpointing": {
        "trainable": EVERYTHING[1:2] + EVERYTHING[3:],
        "gradient_checkpointing": True,
    },
    "vision projector": {"trainable": ["vision_projector"]},
    "vision projector, checkpointing": {"trainable": ["vision_projector"], "gradient_checkpointing": True},
    "vision tower and projector": {"trainable": ["vision_tower", "vision_projector"]},
    "audio tower and projector": {"trainable": ["audio_tower", "audio_projector"]},
    "everything, long": {"trainable": EVERYTHING, "text_tokens": 1500, "batch_size": 1},
    "LoRA": {"trainable": [], "lora_rank": 8},
    "LoRA, checkpointing": {"trainable": [], "lora_rank": 8, "gradient_checkpointing": True},
}
# with few words the logits are small, and the peak is elsewhere
FEW_WORDS = {
    f"{name}, few words": {**SETTINGS[name], "vocab_size": 1000, "text_tokens": 600}
    for name in ("everything", "everything, checkpointing", "vision projector, checkpointing", "LoRA")
}
SETTINGS |= FEW_WORDS
DTYPES = ("float32", "bfloat16", "mixed")
SIZES = {"batch_size": 2, "num_frames": 4, "audio_sec": 6.0, "text_tokens": 150}


def build_config(small: bool = False, vocab_size: int = 24000) -> OmniVinciConfig:
    """Builds a configuration of 64 M parameters, or of 12 M."""
    text = {
        "vocab_size": vocab_size,
        "hidden_size": 512,
        "intermediate_size": 2048,
        "num_hidden_layers": 6,
        "num_attention_heads": 8,
        "num_key_value_heads": 2,
        "pad_token_id": 0,
    }
    vision = {
        "hidden_size": 384,
        "intermediate_size": 1408,
        "num_hidden_layers": 6,
        "num_attention_heads": 6,
        "image_size": 168,
        "patch_size": 14,
        "vision_use_head": False,
    }
    audio = {
        "model_type": "qwen2_audio_encoder",
        "d_model": 256,
        "encoder_layers": 4,
        "encoder_attention_heads": 4,
        "encoder_ffn_dim": 1024,
        "max_source_positions": 300,
    }
    if small:
        text |= {"vocab_size": 4000, "hidden_size": 256, "intermediate_size": 1024, "num_attention_heads": 4}
        vision |= {"hidden_size": 192, "intermediate_size": 704, "num_attention_heads": 3}
        audio |= {"d_model": 128, "encoder_ffn_dim": 512}
    ids = {"image_token_id": 3, "video_token_id": 4, "audio_token_id": 5}
    return OmniVinciConfig(text_config=text, vision_config=vision, audio_config=audio, **ids)


def build_inputs(config: OmniVinciConfig, batch_size: int, num_frames: int, audio_sec: float, text_tokens: int) -> dict:
    """Rows of a video, a sound of whole windows (either may be left out) and words, as the collator makes them."""
    torch.manual_seed(0)
    rows, vision = batch_size, config.vision_config
    side = math.ceil(vision.image_size // vision.patch_size / config.spatial_merge_size)
    pools = [map(math.ceil, (num_frames / t, side / h, side / w)) for t, h, w in config.video_pool_sizes]
    num_windows = round(audio_sec * 100) // config.audio_window_frames
    ids = torch.cat(
        (
            torch.full((rows, sum(map(math.prod, pools))), config.video_token_id),
            torch.full((rows, num_windows * config.audio_window_embeds), config.audio_token_id),
            torch.randint(6, 1000, (rows, text_tokens)),
        ),
        dim=1,
    )
    inputs = {
        "input_ids": ids,
        "labels": ids.masked_fill(ids < 6, -100),
        "only_needed_logits": True,
        "attention_mask": torch.ones_like(ids),
    }
    if num_frames:
        inputs |= {
            "pixel_values_videos": torch.rand(rows * num_frames, 3, vision.image_size, vision.image_size),
            "video_num_frames": torch.full((rows,), num_frames),
            "video_frame_times_ns": torch.arange(rows * num_frames) % num_frames * 1_000_000_000,
        }
    if num_windows:
        shape = (rows * num_windows, config.audio_config.num_mel_bins, config.audio_window_frames)
        inputs |= {
            "input_features": torch.randn(shape),
            "audio_num_windows": torch.full((rows,), num_windows),
            "audio_durations_ns": torch.full((rows,), int(audio_sec * 1e9)),
        }
    return inputs


def build_model(config: OmniVinciConfig, trainable, dtype: str, checkpointing: bool, lora_rank: int | None):
    torch.manual_seed(0)
    model = OmniVinciForConditionalGeneration(config).to(torch.bfloat16 if dtype == "bfloat16" else torch.float32)
    for name, parameter in model.named_parameters():
        parameter.requires_grad &= any(part in name.split(".") for part in trainable)
    if lora_rank:
        from peft import LoraConfig, get_peft_model

        targets = r".*language_model\.layers\..*_proj"
        model = get_peft_model(model, LoraConfig(r=lora_rank, target_modules=targets))
    if checkpointing:
        model.gradient_checkpointing_enable({"use_reentrant": False})
    return model.train()


def measure(setting: dict, dtype: str, config: OmniVinciConfig | None = None) -> dict:
    """Peak bytes of the second step: of tensors, by the allocator, and of growth of resident memory."""
    setting = {**SIZES, **setting}
    config = config or build_config(vocab_size=setting.pop("vocab_size", 24000))
    checkpointing, lora_rank = setting.pop("gradient_checkpointing", False), setting.pop("lora_rank", None)
    model = build_model(config, setting.pop("trainable"), dtype, checkpointing, lora_rank)
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(parameters, fused=True)

    def step(inputs: dict) -> None:
        autocast = torch.autocast("cpu", torch.bfloat16) if dtype == "mixed" else contextlib.nullcontext()
        with autocast:
            loss = model(**inputs).loss
        inputs.clear()  # as Trainer does
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()

    step(build_inputs(config, **setting))
    before = resident()
    reset_peak()
    state = [value for entry in optimizer.state.values() for value in entry.values()]
    held = sum(tensor.nbytes for tensor in {*model.parameters(), *state})
    peak = tensor_peak(lambda: step(build_inputs(config, **setting)))
    return {"tensors": held + peak, "resident": resident(peak=True) - before + held}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="", metavar="WORD", help="settings with this word in their name")
    parser.add_argument("--dtype", choices=DTYPES, action="append")
    parser.add_argument("--measure", nargs=2, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.measure:
        name, dtype = arguments.measure
        print(json.dumps(measure(SETTINGS[name], dtype)))
        return
    print(f"{'setting':32} {'dtype':9} {'estimate':>9} {'measured':>9} {'ratio':>6} {'resident':>9}  peak at")
    for dtype in arguments.dtype or DTYPES:
        for name, setting in SETTINGS.items():
            if arguments.only not in name:
                continue
            options = {**SIZES, **setting}
            config = build_config(vocab_size=options.pop("vocab_size", 24000))
            estimate = estimate_memory(config, dtype=dtype, **options)
            command = [sys.executable, __file__, "--measure", name, dtype]
            found = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
            print(
                f"{name:32} {dtype:9} {estimate.total / 2**20:>9.0f} {found['tensors'] / 2**20:>9.0f} "
                f"{estimate.total / found['tensors']:>6.2f} {found['resident'] / 2**20:>9.0f}  {estimate.when}",
                flush=True,
            )


if __name__ == "__main__":
    main()
