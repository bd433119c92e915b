"""Size on disk and in memory, and change of the logits, of every precision and quantization.

    python benchmarks/quantization.py [--hidden 512] [--layers 6] [--device cpu]

A random checkpoint of the original shape in small is written, loaded in each mode and asked about an image and a sound
(noise both). Random weights have no outliers, so the changes say how the modes compare, not what the original weights
would show. 4-bit needs widths that are multiples of 64 on CPUs (bitsandbytes' kernel).
"""

import argparse
import tempfile
from pathlib import Path

import numpy as np
import torch
import transformers
from transformers import AutoModel, AutoProcessor, BitsAndBytesConfig

import omnivinci_hf  # noqa: F401 (registers the classes)
from omnivinci_hf.testing.tiny import write_tiny_checkpoint


TOWERS_TOO = ["lm_head", "model.vision_projector", "model.audio_projector", "model.vision_tower.head"]


def four_bits(kind: str, **options) -> BitsAndBytesConfig:
    return BitsAndBytesConfig(
        load_in_4bit=True, bnb_4bit_quant_type=kind, bnb_4bit_compute_dtype=torch.float32, **options
    )


MODES = {
    "float32": {"dtype": torch.float32},
    "bfloat16": {"dtype": torch.bfloat16},
    "float16": {"dtype": torch.float16},
    "int8": {"quantization_config": lambda: BitsAndBytesConfig(load_in_8bit=True)},
    "nf4": {"quantization_config": lambda: four_bits("nf4")},
    "fp4": {"quantization_config": lambda: four_bits("fp4")},
    "int8, towers too": {
        "quantization_config": lambda: BitsAndBytesConfig(load_in_8bit=True, llm_int8_skip_modules=TOWERS_TOO)
    },
    "nf4, towers too": {"quantization_config": lambda: four_bits("nf4", llm_int8_skip_modules=TOWERS_TOO)},
}


def write_checkpoint(folder: Path, hidden: int, layers: int) -> None:
    llm = {"hidden_size": hidden, "intermediate_size": 4 * hidden, "num_hidden_layers": layers}
    llm |= {"num_attention_heads": hidden // 64, "num_key_value_heads": max(1, hidden // 256), "vocab_size": 8192}
    vision = {"hidden_size": hidden // 2, "intermediate_size": 2 * hidden, "num_hidden_layers": layers}
    sound = {"d_model": hidden // 2, "encoder_ffn_dim": 2 * hidden, "encoder_layers": layers}
    write_tiny_checkpoint(folder, llm=llm, vision_tower=vision, sound_tower=sound, std=0.05)


def ask(processor) -> dict[str, torch.Tensor]:
    random = np.random.default_rng(0)
    content = [
        {"type": "image", "image": random.integers(0, 256, (200, 300, 3), dtype=np.uint8)},
        {"type": "audio", "audio": random.normal(size=80000).astype(np.float32), "sampling_rate": 16000},
        {"type": "text", "text": "What do you see and hear?"},
    ]
    return processor.apply_chat_template(
        [{"role": "user", "content": content}],
        tokenize=True,
        return_dict=True,
        return_tensors="pt",
        add_generation_prompt=True,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--hidden", type=int, default=512, help="width of the language model, a multiple of 256")
    parser.add_argument("--layers", type=int, default=6, help="layers of each part")
    parser.add_argument("--device", default="cpu")
    arguments = parser.parse_args()
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    with tempfile.TemporaryDirectory() as scratch:
        original = Path(scratch) / "original"
        write_checkpoint(original, arguments.hidden, arguments.layers)
        inputs = ask(AutoProcessor.from_pretrained(original)).to(arguments.device)
        exact = None
        print(f"{'mode':18} {'disk MB':>8} {'memory MB':>10} {'greatest':>9} {'mean':>8} {'same best':>10}")
        for number, (mode, options) in enumerate(MODES.items()):
            options = {"dtype": torch.float32, **options}
            if "quantization_config" in options:
                options["quantization_config"] = options["quantization_config"]()
            model = AutoModel.from_pretrained(original, device_map=arguments.device, **options).eval()
            saved = Path(scratch) / str(number)
            model.save_pretrained(saved)
            disk = sum(file.stat().st_size for file in saved.glob("*.safetensors"))
            memory = model.get_memory_footprint()
            with torch.inference_mode():
                logits = model(**inputs).logits.float()
            exact = logits if exact is None else exact
            change = (logits - exact).abs()
            best = (logits.argmax(-1) == exact.argmax(-1)).float().mean()
            row = f"{change.max():9.4f} {change.mean():8.4f} {best:10.1%}"
            print(f"{mode:18} {disk / 1e6:8.1f} {memory / 1e6:10.1f} {row}")
        print(f"logits in float32: standard deviation {exact.std():.3f}, greatest {exact.abs().max():.3f}")


if __name__ == "__main__":
    main()
