"""Speed and memory of the model against its bare parts and against what the machine can do.

    python benchmarks/model_speed.py                                      # CPU: 0.9 B, float32; under 15 minutes
    python benchmarks/model_speed.py --device cuda                        # GPU: the original sizes, bfloat16
    python benchmarks/model_speed.py --size tiny --tables glue decode     # a quick look, printed only

Weights and media are random; nothing is downloaded. Sides take turns, and medians are shown. When all tables ran, they
are put into `RESULTS.md`, with the machine, versions and date, and a plot of long inputs beside it.
"""

import argparse
import datetime
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import load_memory
import speed_tables
import still_tokens
import torch
import transformers
from measuring import describe_machine, markdown, write_section
from speed_models import SIZES, Parts, build_config, build_model, prompt

from omnivinci_hf.small import small_checkpoint


FOLDER = Path(__file__).parent
LIBRARIES = ("torch", "transformers", "accelerate", "bitsandbytes", "safetensors", "numpy")
LOADS = 3
BOUNDS = {"glue": 1.03, "decode": 0.97, "memory": 1.15, "questions": 0.05, "static": 0.7}
# freed memory goes back to the system at once, so that resident memory is what is in use
MALLOC = {"MALLOC_MMAP_THRESHOLD_": "131072", "MALLOC_TRIM_THRESHOLD_": "131072"}


class Report:
    """One run: builds the model when a table needs it, and turns measurements into text."""

    def __init__(self, options: argparse.Namespace):
        self.options, self.device = options, options.device
        self.on_gpu = self.device != "cpu"
        self.dtype = getattr(torch, options.dtype)
        self.machine = speed_tables.Machine.measured(self.device, self.dtype)
        self.verdicts: list[str] = []
        self.forget()

    def forget(self) -> None:
        """Free the model."""
        self._model = self.parts = None
        if self.on_gpu:
            torch.cuda.empty_cache()

    def verdict(self, value: float, bound: float, at_least: bool = False) -> str:
        self.verdicts.append("met" if (value >= bound if at_least else value <= bound) else "MISSED")
        return f"{'at least' if at_least else 'at most'} {bound:g}: {self.verdicts[-1]}"

    @property
    def model(self):
        if self._model is None:
            config = build_config(self.options.size, self.options.image_size)
            self._model = build_model(config, self.device, self.dtype)
            self.parts = Parts(self._model)
        return self._model

    def prompt(self, **given) -> dict:
        sizes = {"num_frames": self.options.frames, "audio_sec": self.options.audio_sec, **given}
        return prompt(self.model.config, device=self.device, **sizes)

    def apart(self, task: str) -> list[dict]:
        """A measurement of memory: on the CPU in a process of its own, on the GPU here."""
        if self.on_gpu:
            self.forget()
            return getattr(speed_tables, f"{task}_rows")("slim", self.device, self.dtype)
        command = [sys.executable, __file__, "--task", task, "--dtype", self.options.dtype]
        done = subprocess.run(command, check=True, capture_output=True, text=True, env={**os.environ, **MALLOC})
        return json.loads(done.stdout.splitlines()[-1])

    def head(self) -> str:
        return (
            f"{self.machine.flops / 1e12:.2f} TFLOP/s in a {self.options.dtype} matrix product and "
            f"{self.machine.read / 1e9:.1f} GB/s of weights read, as measured here, are the roofline."
        )

    # -- the tables ----------------------------------------------------------------------------------------------

    def glue(self) -> str:
        model, inputs = self.model, self.prompt()
        seconds = speed_tables.glue(model, self.parts, inputs, self.options.repeats, self.machine)
        rows = speed_tables.glue_rows(model, self.parts, inputs, seconds, self.machine)
        waits = speed_tables.wait_rows(model, self.parts, inputs, self.device)
        longer = speed_tables.wait_rows(model, self.parts, self.prompt(words=1032), self.device)
        more = longer[0][-1] - waits[0][-1]
        columns = ["", "`omnivinci_hf` waits", "Transformers waits", "others wait", "seen by the profiler", "operators"]
        size = sum(parameter.numel() for parameter in model.parameters()) / 1e9
        return (
            f"Prefill of {self.options.frames} frames and {self.options.audio_sec:g} s of audio, "
            f"{inputs['input_ids'].shape[1]:,} positions, size {self.options.size} ({size:.2f} B), "
            f"{self.options.dtype}. Whole / sum of parts, of each the faster way: **{seconds['ratio']:.3f}** "
            f"({self.verdict(seconds['ratio'], BOUNDS['glue'])}).\n\n"
            f"{markdown(['', 'seconds', 'TFLOP/s', 'of the roofline'], rows)}\n\n"
            "Waits are calls whose result Python needs at once, each a transfer on an accelerator, by the package that "
            "makes them. Operators are those that PyTorch runs, those of projectors and times included; with a "
            f"thousand words more there are {more or 'none'} more.\n\n{markdown(columns, waits)}"
        )

    def decode(self) -> str:
        model, num_tokens = self.model, 64 if self.on_gpu else 16
        inputs = self.prompt(num_frames=1, audio_sec=0.0)
        settings = [("dynamic cache", inputs, {})]
        if self.on_gpu:
            settings.append(("static cache, compiled", inputs, {"cache_implementation": "static"}))
            settings.append(("dynamic cache, batch 16", self.prompt(num_frames=1, audio_sec=0.0, rows=16), {}))
        bound = self.machine.read / speed_tables.bytes_per_token(self.parts, inputs["input_ids"].shape[1])
        rows = []
        for name, given, options in settings:
            rates = speed_tables.decode_rates(model, self.parts, given, num_tokens, self.options.repeats, **options)
            ratio = rates["whole"] / rates["Qwen2ForCausalLM"]
            share = "-" if "16" in name else f"{rates['whole'] / bound:.0%}"
            met = self.verdict(ratio, BOUNDS["decode"], at_least=True)
            if "static" in name:
                met += f"; of memory {self.verdict(rates['whole'] / bound, BOUNDS['static'], at_least=True)}"
            rows.append([name, *(f"{rate:.2f}" for rate in rates.values()), f"{ratio:.3f}", share, met])
        columns = ["cache", "whole, tokens/s", "`Qwen2ForCausalLM`, tokens/s", "ratio", "of memory's rate", "bound"]
        return (
            f"{num_tokens} tokens after a prompt of {inputs['input_ids'].shape[1]:,}, by `generate` on both sides; "
            "rates from the median time between two tokens.\n\n" + markdown(columns, rows)
        )

    def memory(self) -> str:
        rows = self.apart("memory")
        peaks = {row["what"]: row["peak"] for row in rows}
        table = [[what, f"{peak / 2**20:.0f}"] for what, peak in peaks.items()]
        frames = peaks["1,024 frames"] / peaks["128 frames"]
        sound = peaks["60 min of sound"] / peaks["2 min of sound"]
        return (
            "Peak while media become embeddings, beyond weights, inputs and embeddings (resident memory, on a GPU that "
            f"of tensors), slim towers of the real shapes. 1,024 frames / 128: **{frames:.2f}** "
            f"({self.verdict(frames, BOUNDS['memory'])}); 60 min / 2 min: **{sound:.2f}** "
            f"({self.verdict(sound, BOUNDS['memory'])}).\n\n" + markdown(["", "MB"], table)
        )

    def questions(self) -> str:
        found = speed_tables.questions_seconds(128, self.device, self.options.repeats)
        rows = [
            [
                way,
                f"{first:.3f}",
                f"{second:.3f}",
                f"{second / first:.1%}",
                self.verdict(second / first, BOUNDS["questions"]),
            ]
            for way, (first, second) in found.items()
        ]
        return (
            "Seconds to the first token of two questions about a clip of 128 frames, slim size (frames to pixel values "
            "included).\n\n" + markdown(["", "first question", "second", "ratio", "bound"], rows)
        )

    def quantized(self) -> str:
        if not self.on_gpu:
            return "Not measured: needs a GPU."
        self.forget()
        rows = speed_tables.quantized_rows(self.options.size, self.options.frames, self.options.audio_sec, self.device)
        return markdown(["", "size, GB", "prefill, s", "decoding, tokens/s", "peak, GB"], rows)

    def load(self) -> str:
        size, num_files, results = load_memory.measure(self.options.gigabytes, LOADS)
        reading = results["safetensors"]["seconds"]
        rows = [
            [way, f"{found['seconds']:.2f}", f"{found['seconds'] / reading:.1f}", f"{found['peak'] / size:.2f}"]
            for way, found in results.items()
        ]
        return (
            f"A checkpoint of {size / 1e9:.2f} GB in {num_files} files, just written; every weight is read. "
            f"`safetensors` reads the same bytes alone. Medians of {LOADS}, in turns.\n\n"
            + markdown(["", "seconds", "of reading the bytes", "peak / checkpoint"], rows)
        )

    def long(self) -> str:
        rows = self.apart("long")
        table = [
            [
                f"{row['amount']:,g} {'frames' if row['kind'] == 'frames' else 's of sound'}",
                f"{row['length']:,}",
                f"{row['encode']:.2f}",
                f"{row['language']:.2f}",
                f"{row['peak'] / 2**20:,.0f}",
                f"{row['kept'] / 2**20:,.0f}",
            ]
            for row in rows
        ]
        columns = ["", "positions", "towers, s", "language model, s", "peak, MB", "embeddings and cache, MB"]
        last = {kind: [row for row in rows if row["kind"] == kind][-1] for kind in ("frames", "sound")}
        shares = {kind: row["language"] / (row["encode"] + row["language"]) for kind, row in last.items()}
        original = ["original model", "positions", "of its context", "cache in bfloat16, GB", "TFLOP of a prefill"]
        plot = self.plot(rows)
        return (
            "Slim size, 16 positions a frame (pooled 2 x 2), 75 in each window of 30 s of sound (10 joined); one run "
            "each, the peak of the whole prefill beyond weights and inputs, where freed memory goes back to the system "
            f"at once (which costs time).\n\n{markdown(columns, table)}\n\n{plot}"
            "What limits: towers cost the same for every frame and window, and their memory does not grow. The "
            "language model's attention grows with the square of the length (the language model takes "
            f"{shares['frames']:.0%} of the time at the most frames, {shares['sound']:.0%} at the longest sound), its "
            "cache and embeddings with the length. The original model reaches the end of its context first, by "
            "formula:\n\n" + markdown(original, speed_tables.original_rows())
        )

    def still(self) -> str:
        rows = still_tokens.measure(str(small_checkpoint()), self.options.clips, device=self.device)
        return (
            "`still_threshold` leaves out squares of a frame that changed by less than so many of 255 levels since "
            "they were last kept. Towers run on whole frames all the same; what gets shorter is the sequence, whose "
            "cost hardly counts at this size. The small checkpoint, which was trained on whole frames, "
            f"{still_tokens.table(rows)}"
        )

    def plot(self, rows: list[dict]) -> str:
        try:
            from matplotlib.figure import Figure
        except ImportError:
            return ""
        figure = Figure(figsize=(9, 3.5), layout="constrained")
        for axes, kind, label in zip(
            figure.subplots(1, 2), ("frames", "sound"), ("frames", "seconds of sound"), strict=True
        ):
            own = [row for row in rows if row["kind"] == kind]
            for name, text in (("encode", "towers"), ("language", "language model")):
                axes.loglog([row["amount"] for row in own], [row[name] for row in own], marker="o", label=text)
            axes.set(xlabel=label, ylabel="seconds")
            axes.grid(alpha=0.3)
            axes.legend()
        name = f"long_input_{self.device.split(':')[0]}.png"
        if self.options.results is None:
            return ""
        figure.savefig(self.options.results.parent / name, dpi=110)
        return f"![cost of long inputs]({name})\n\n"


TITLES = {
    "glue": "Glue",
    "decode": "Decoding",
    "memory": "Memory",
    "questions": "Many questions about one clip",
    "quantized": "Quantized",
    "load": "Loading",
    "long": "Long input",
    "still": "Fewer embeddings of still scenes",
}


def parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--size", choices=SIZES, help="of glue, decode and quantized; 1b on the CPU, else real")
    parser.add_argument("--image-size", type=int, help="384 for the other SigLIP so400m")
    parser.add_argument("--dtype", choices=("float32", "bfloat16"))
    parser.add_argument("--frames", type=int, help="of glue: 8 on the CPU, else 128")
    parser.add_argument("--audio-sec", type=float, help="of glue: 30 on the CPU, else 120")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--gigabytes", type=float, default=1.2, help="of the checkpoint that is loaded")
    parser.add_argument("--clips", type=int, default=40, help="that the small checkpoint is asked about")
    parser.add_argument("--tables", nargs="+", choices=TITLES, help="default: all")
    parser.add_argument("--results", type=Path, default=FOLDER / "RESULTS.md")
    parser.add_argument("--task", choices=("memory", "long"), help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    on_cpu = options.device == "cpu"
    defaults = {"size": "1b", "dtype": "float32", "frames": 8, "audio_sec": 30.0}
    if not on_cpu:
        defaults = {"size": "real", "dtype": "bfloat16", "frames": 128, "audio_sec": 120.0}
    for name, value in defaults.items():
        if getattr(options, name) is None:
            setattr(options, name, value)
    if options.tables is not None:
        options.results = None
    return options


def main(arguments: list[str] | None = None) -> None:
    options = parse(arguments)
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    if options.task:
        rows = getattr(speed_tables, f"{options.task}_rows")("slim", options.device, getattr(torch, options.dtype))
        print(json.dumps(rows))
        return
    start, where = time.perf_counter(), describe_machine(LIBRARIES, options.device)
    print(where, flush=True)
    report = Report(options)
    text = [where, report.head()]
    print(report.head(), flush=True)
    for number, (name, title) in enumerate(TITLES.items(), 1):
        if options.tables is None or name in options.tables:
            text.append(f"### {number}. {title}\n\n{getattr(report, name)()}")
            print(f"\n{text[-1]}", flush=True)
    minutes, met = (time.perf_counter() - start) / 60, report.verdicts.count("met")
    text.append(
        f"Bounds met: {met} of {len(report.verdicts)}. All of it took {minutes:.1f} minutes; load "
        f"{os.getloadavg()[1]:.1f} after."
    )
    print(f"\n{text[-1]}")
    if options.results is None:
        return
    kind = options.device.split(":")[0]
    changed = [
        f"--{name.replace('_', '-')} {value}"
        for name, value in vars(options).items()
        if name != "results" and value != getattr(parse(["--device", options.device]), name)
    ]
    device = [] if kind == "cpu" else [f"--device {kind}"]
    command = " ".join(["python benchmarks/model_speed.py", *device, *changed])
    title = f"## Speed and memory of the model: `{command}` ({datetime.date.today()})"
    write_section(options.results, f"model_speed {kind}", "\n\n".join([title, *text]))
    if kind == "cpu" and "model_speed cuda" not in options.results.read_text(encoding="utf-8"):
        title = "## Speed and memory of the model on a GPU: `python benchmarks/model_speed.py --device cuda`"
        write_section(options.results, "model_speed cuda", f"{title}\n\nNot measured: there was no GPU.")


if __name__ == "__main__":
    main()
