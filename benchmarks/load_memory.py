"""Time and peak host memory of loading the original and the converted layout, against the checkpoint's bytes.

    python benchmarks/load_memory.py [--gigabytes 1.2] [--repeats 1]

Writes a random checkpoint in both layouts, sharded, then loads it in a fresh process per way of loading, the ways in
turns, and prints medians: of the seconds, and of the process's peak resident memory beyond what it held after the
imports, as a multiple of the checkpoint's bytes. Memory-mapped pages of the weight files count as resident while they
are mapped.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from measuring import reset_peak, resident


WAYS = ("safetensors", "original", "original, meta device map", "converted")


def load(way: str, folder: str) -> dict:
    import transformers
    from safetensors.torch import load_file

    import omnivinci_hf  # noqa: F401 (registers the classes)

    transformers.utils.logging.disable_progress_bar()
    reset_peak()
    before, start = resident(), time.perf_counter()
    if way == "safetensors":
        model = [load_file(file) for file in sorted(Path(folder).rglob("*.safetensors"))]
    else:
        options = {"device_map": "auto"} if "device map" in way else {}
        model = transformers.AutoModel.from_pretrained(folder, dtype="auto", **options)
        assert not any(parameter.is_meta for parameter in model.parameters())
        model = list(model.parameters())
    # read all of the weights, so that lazily mapped ones count
    parameters = model if way != "safetensors" else [tensor for part in model for tensor in part.values()]
    total = sum(parameter.detach().sum().item() for parameter in parameters)
    return {"peak": resident(peak=True) - before, "seconds": time.perf_counter() - start, "sum": total}


def measure(gigabytes: float, repeats: int = 1) -> tuple[int, int, dict[str, dict]]:
    """Bytes and files of a random checkpoint, and of each way the medians of "peak" in bytes and of "seconds"."""
    from omnivinci_hf.original_layout.convert import convert_checkpoint
    from omnivinci_hf.testing.tiny import write_tiny_checkpoint

    with tempfile.TemporaryDirectory() as scratch:
        original, converted = Path(scratch) / "original", Path(scratch) / "converted"
        # an embedding row and a head row of 1024 float32 each
        llm = {"hidden_size": 1024, "intermediate_size": 4096, "num_attention_heads": 16, "num_hidden_layers": 8}
        layers = 8 * (2 * 1024**2 + 2 * 1024 * 512 + 3 * 1024 * 4096) * 4
        llm["vocab_size"] = max(2048, int((gigabytes * 1e9 - layers) / (2 * 1024 * 4)))
        write_tiny_checkpoint(original, shards=4, llm=llm)
        convert_checkpoint(original, converted)
        files = list(original.rglob("*.safetensors"))
        runs: dict[str, list[dict]] = {way: [] for way in WAYS}
        for number in range(repeats):
            for way in WAYS[:: -1 if number % 2 else 1]:
                folder = converted if way == "converted" else original
                command = [sys.executable, __file__, "--way", way, "--folder", str(folder)]
                done = subprocess.run(command, check=True, capture_output=True, text=True)
                runs[way].append(json.loads(done.stdout))
        results = {
            way: {name: statistics.median(run[name] for run in found) for name in ("peak", "seconds")}
            for way, found in runs.items()
        }
        return sum(file.stat().st_size for file in files), len(files), results


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gigabytes", type=float, default=1.2)
    parser.add_argument("--repeats", type=int, default=1)
    parser.add_argument("--way", choices=WAYS, help=argparse.SUPPRESS)
    parser.add_argument("--folder", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.way:
        print(json.dumps(load(arguments.way, arguments.folder)))
        return
    size, num_files, results = measure(arguments.gigabytes, arguments.repeats)
    print(f"checkpoint: {size / 1e9:.2f} GB in {num_files} files")
    print(f"{'way':28} {'peak / checkpoint':>18} {'seconds':>8}")
    for way, result in results.items():
        print(f"{way:28} {result['peak'] / size:>18.2f} {result['seconds']:>8.1f}")


if __name__ == "__main__":
    main()
