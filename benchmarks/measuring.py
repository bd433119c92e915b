"""What the benchmarks share: times, memory, waiting for the device, the limits of the machine, tables in Markdown."""

import gc
import json
import os
import platform
import re
import statistics
import sys
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

import torch
from torch.overrides import TorchFunctionMode
from torch.profiler import ProfilerActivity, profile


# -- time ------------------------------------------------------------------------------------------------------------


def wait_for(device: str) -> None:
    if device != "cpu":
        torch.cuda.synchronize(device)


def take_turns(sides: Mapping[str, Callable[[], float]], repeats: int) -> dict[str, float]:
    """The median of what each side returns: after an unmeasured run each, in turns, every second time in reverse."""
    for run in sides.values():
        run()
    gc.collect()
    values = {name: [] for name in sides}
    for number in range(repeats):
        for name in list(sides)[:: -1 if number % 2 else 1]:
            values[name].append(sides[name]())
    return {name: statistics.median(found) for name, found in values.items()}


def stopwatch(
    run: Callable[[], object], device: str = "cpu", clock: Callable[[], float] = time.perf_counter
) -> Callable[[], float]:
    """A function that runs `run` and returns how many seconds it took."""

    def timed() -> float:
        wait_for(device)
        start = clock()
        run()
        wait_for(device)
        return clock() - start

    return timed


def roofline(device: str, dtype: torch.dtype) -> tuple[float, float]:
    """What the machine can do: floating-point operations a second in a matrix product, and bytes a second read."""
    size, gigabytes = (8192, 4) if device != "cpu" else (2048, 1)
    left, right = (torch.randn(size, size, device=device, dtype=dtype) for _ in range(2))
    # as decoding reads weights: one vector times a matrix that fits into no cache
    weights = torch.ones(gigabytes * 2**30 // dtype.itemsize // 4096, 4096, device=device, dtype=dtype)
    vector = torch.ones(4096, device=device, dtype=dtype)
    with torch.inference_mode():
        sides = {"product": lambda: left @ right, "read": lambda: weights @ vector}
        seconds = take_turns({name: stopwatch(run, device) for name, run in sides.items()}, 7)
    return 2 * size**3 / seconds["product"], weights.nbytes / seconds["read"]


# -- memory ----------------------------------------------------------------------------------------------------------


def resident(peak: bool = False) -> int:
    """Resident bytes of this process now, or their peak since `reset_peak`; Linux only."""
    name = "VmHWM" if peak else "VmRSS"
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(name):
            return int(line.split()[1]) * 1024
    raise RuntimeError(f"/proc/self/status has no {name}")


def reset_peak() -> None:
    Path("/proc/self/clear_refs").write_text("5")


def tensor_peak(run: Callable[[], object]) -> int:
    """Most bytes of tensors on the CPU at any time while `run` runs, beyond those before it."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        run()
    events = profiler.profiler.kineto_results.events()
    changes = sorted((event.start_ns(), event.nbytes()) for event in events if event.name() == "[memory]")
    peak = now = 0
    for _, change in changes:
        now += change
        peak = max(peak, now)
    return peak


def peak_growth(run: Callable[[], object], device: str) -> int:
    """Most bytes at any time while `run` runs, beyond those before it: resident ones, on a GPU those of tensors."""
    gc.collect()
    if device == "cpu":
        reset_peak()
        before = resident()
        run()
        return resident(peak=True) - before
    torch.cuda.synchronize(device)
    torch.cuda.reset_peak_memory_stats(device)
    before = torch.cuda.memory_allocated(device)
    run()
    return torch.cuda.max_memory_allocated(device) - before


# -- waiting for the device ------------------------------------------------------------------------------------------


class WaitCounter(TorchFunctionMode):
    """Counts calls whose result Python needs at once: with the tensors on an accelerator, each waits for the device.

    `counts` has them by package: "omnivinci_hf", "transformers" or "other". Works without an accelerator, too.
    """

    NAMES = (
        *("item", "tolist", "numpy", "cpu", "nonzero", "masked_select", "unique", "equal", "is_nonzero"),
        *("__bool__", "__int__", "__float__", "__index__"),
    )

    def __init__(self):
        super().__init__()
        self.counts: Counter[str] = Counter()

    def __torch_function__(self, func, types, args=(), kwargs=None):
        name = getattr(func, "__name__", "")
        is_mask = name in ("__getitem__", "__setitem__") and any(
            isinstance(index, torch.Tensor) and index.dtype == torch.bool
            for index in (args[1] if isinstance(args[1], tuple) else (args[1],))
        )
        if name in self.NAMES or is_mask:
            self.counts[self._package()] += 1
        return func(*args, **(kwargs or {}))

    @staticmethod
    def _package() -> str:
        frame = sys._getframe(2)
        while frame is not None:
            package = (frame.f_globals.get("__name__") or "").split(".")[0]
            if package not in ("torch", __name__):
                return package if package in ("omnivinci_hf", "transformers") else "other"
            frame = frame.f_back
        return "other"


def count_operators(run: Callable[[], object], device: str) -> dict[str, int]:
    """Counts, of `run`, operators that PyTorch runs, and on a CUDA device also how often the host waits for it."""
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if device != "cpu" else [])]
    with profile(activities=activities) as profiler:
        run()
        wait_for(device)
    events = profiler.key_averages()
    return {
        "operators": sum(event.count for event in events if event.key.startswith("aten::")),
        "waits": sum(event.count for event in events if event.key == "cudaStreamSynchronize"),
    }


# -- runs ------------------------------------------------------------------------------------------------------------


def noisy_checkpoint(noise: float, seed: int) -> Any:
    """The package's small checkpoint with noise on every matrix of its language model's layers.

    Args:
        noise: as a share of each matrix's deviation.
    """
    from omnivinci_hf import OmniVinciForConditionalGeneration  # heavy, and not of every benchmark
    from omnivinci_hf.small import small_checkpoint

    model = OmniVinciForConditionalGeneration.from_pretrained(small_checkpoint(), dtype=torch.float32)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for _, value in sorted(model.model.language_model.layers.named_parameters()):
            if value.ndim == 2:
                value += noise * value.std() * torch.randn(value.shape, generator=generator)
    return model


def write_json(path: Path, value: Any) -> None:
    """Writes a result, which is never there by half."""
    partial = path.with_suffix(".partial")
    partial.write_text(json.dumps(value) + "\n", encoding="utf-8")
    partial.replace(path)


# -- reports ---------------------------------------------------------------------------------------------------------


def describe_machine(libraries: Sequence[str], device: str = "cpu") -> str:
    model = re.search(r"model name\s*: (.*)", Path("/proc/cpuinfo").read_text())
    machine = f"{len(os.sched_getaffinity(0))} cores of {model[1] if model else platform.machine()}"
    if device != "cpu":
        machine = f"{torch.cuda.get_device_name(device)}, {machine}"
    found = {package.metadata["Name"].lower(): package.version for package in metadata.distributions()}
    versions = ", ".join(f"{name} {found[name]}" for name in libraries if name in found)
    load = os.getloadavg()[1]
    return f"{machine}, load {load:.1f} before; Python {platform.python_version()}, {versions}."


def markdown(columns: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    lines = [columns, ["---"] * len(columns), *rows]
    return "\n".join(f"| {' | '.join(str(cell) for cell in line)} |" for line in lines)


def write_section(file: Path, name: str, text: str) -> None:
    """Put `text` between the marks of a section of a Markdown file, or at its end if it has no such section yet."""
    begin, end = f"<!-- {name}: begin -->", f"<!-- {name}: end -->"
    section = f"{begin}\n{text.strip()}\n{end}"
    content = file.read_text(encoding="utf-8") if file.exists() else ""
    if begin in content:
        head, rest = content.split(begin, 1)
        content = head + section + rest.split(end, 1)[1]
    else:
        content = f"{content.rstrip()}\n\n{section}\n".lstrip()
    file.write_text(content, encoding="utf-8")
