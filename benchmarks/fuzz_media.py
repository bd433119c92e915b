"""Reads damaged media in worker processes and counts how each ends: as tensors or as `MediaError`, else it is a fault.

    python benchmarks/fuzz_media.py --count 2000 --seed 0

A worker that crashes, or takes too long or too much memory, is counted and replaced; damaged files that end in a fault
are kept in `--keep`. Exit status 1 if there was any.
"""

import argparse
import collections
import json
import os
import queue
import resource
import select
import subprocess
import sys
import threading
import time
from pathlib import Path


FINE = ("tensors", "tensors (part)", "MediaError")


def read(name: str, data: bytes, on_damage: str) -> None:
    """Reads a file up to what the model takes."""
    from omnivinci_hf import (
        OmniVinciFeatureExtractor,
        OmniVinciImageProcessor,
        OmniVinciVideoProcessor,
        load_audio,
        load_image,
        load_video,
    )

    options = {"on_damage": on_damage, "num_threads": 1}
    audio = None
    if name.startswith("image"):
        OmniVinciImageProcessor(size=28)([load_image(data, **options)])
    elif name.endswith((".wav", ".flac", ".mp3", ".ogg", ".m4a", ".aac")):
        audio = load_audio(data, **options, max_audio_sec=600)
    else:
        processor = OmniVinciVideoProcessor(size=28)
        clip = load_video(
            data, num_frames=8, load_audio_from_video=True, max_audio_sec=600, transform=processor.squash, **options
        )
        processor([clip])
        audio = clip.audio
    if audio is not None:
        OmniVinciFeatureExtractor()([audio.samples])


def work(seed: int, max_bytes: int) -> None:
    """Takes file numbers from the standard input, write one JSON line for each to the standard output."""
    import torch
    import transformers
    from fuzz_corpus import damaged_file, make_corpus

    from omnivinci_hf import MediaError

    torch.set_num_threads(1)
    transformers.utils.logging.set_verbosity_error()
    corpus = make_corpus()
    read("flac.flac", corpus["flac.flac"], "raise")  # imports and buffers that every process has
    start_kb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    resource.setrlimit(resource.RLIMIT_DATA, (start_kb * 1024 + max_bytes * 3,) * 2)
    print("ready", flush=True)
    for line in sys.stdin:
        number = int(line)
        on_damage = "warn" if number // len(corpus) % 2 else "raise"
        name, data = damaged_file(corpus, seed, number)
        begin, message = time.monotonic(), ""
        try:
            read(name, data, on_damage)
            outcome = "tensors" if on_damage == "raise" else "tensors (part)"
        except MediaError as error:
            outcome, message = "MediaError", str(error)
        except BaseException as error:
            outcome, message = type(error).__name__, str(error)
        grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - start_kb) * 1024
        outcome = "too much memory" if grown > max_bytes and outcome in FINE else outcome
        seconds = round(time.monotonic() - begin, 3)
        print(json.dumps([outcome, seconds, grown, name, message[:300]]), flush=True)


class Pool:
    def __init__(self, options: argparse.Namespace):
        self.options, self.numbers, self.results, self.sizes = options, queue.SimpleQueue(), [], []
        for number in range(options.first, options.first + options.count):
            self.numbers.put(number)

    def run(self) -> None:
        threads = [threading.Thread(target=self._serve) for _ in range(self.options.workers)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    def _serve(self) -> None:
        worker = None
        while not self.numbers.empty():
            try:
                number = self.numbers.get_nowait()
            except queue.Empty:
                break
            worker = worker or self._start()
            worker.stdin.write(f"{number}\n")
            line = self._answer(worker, self.options.max_sec)
            result = json.loads(line) if line else None
            if result is None:
                outcome = "hang" if worker.poll() is None else f"crash (status {worker.returncode})"
                result = [outcome, self.options.max_sec, 0, "", ""]
            if result[0] not in FINE:
                worker.kill()
                worker = None
            self.results.append((number, *result))
        if worker is not None:
            worker.stdin.close()
            worker.wait()

    def _start(self) -> subprocess.Popen:
        command = [sys.executable, __file__, "--worker", "--seed", str(self.options.seed)]
        command += ["--max-bytes", str(self.options.max_bytes)]
        # one thread each: on a busy machine, threads of NumPy's matrix products wait for each other for minutes
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL}
        worker = subprocess.Popen(command, **pipes, bufsize=1, text=True, env=environment)
        if self._answer(worker, 120).strip() != "ready":
            raise RuntimeError("a worker did not start")
        return worker

    @staticmethod
    def _answer(worker: subprocess.Popen, seconds: float) -> str:
        readable, _, _ = select.select([worker.stdout], [], [], seconds)
        line = worker.stdout.readline() if readable else ""
        if readable and not line:
            worker.wait()
        return line


def main(arguments: list[str] | None = None) -> collections.Counter:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=2000)
    parser.add_argument("--first", type=int, default=0, help="number of the first file")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--max-sec", type=float, default=30.0, help="for one file")
    parser.add_argument("--max-bytes", type=int, default=600 * 2**20, help="memory above the imports'")
    parser.add_argument("--keep", type=Path, help="folder for files that end in a fault")
    parser.add_argument("--worker", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.worker:
        work(options.seed, options.max_bytes)
        return collections.Counter()
    start, pool = time.monotonic(), Pool(options)
    pool.run()
    counts = collections.Counter(result[1] for result in pool.results)
    for outcome, count in counts.most_common():
        print(f"{count:6} {outcome}")
    slowest = max(pool.results, key=lambda result: result[2])
    print(f"slowest {slowest[2]:.2f} s (file {slowest[0]}), most memory {max(r[3] for r in pool.results) >> 20} MB")
    print(
        f"{len(pool.results)} files, seed {options.seed}, {time.monotonic() - start:.0f} s, {options.workers} workers"
    )
    faults = sorted(result for result in pool.results if result[1] not in FINE)
    for fault in faults:
        print("FAULT", *fault)
    if options.keep and faults:
        from fuzz_corpus import damaged_file, make_corpus

        corpus = make_corpus()
        options.keep.mkdir(parents=True, exist_ok=True)
        for number, *_ in faults:
            name, data = damaged_file(corpus, options.seed, number)
            (options.keep / f"{number}_{name}").write_bytes(data)
    return counts


if __name__ == "__main__":
    sys.exit(bool(set(main()) - set(FINE)))
