"""From files to tensors, three ways: the reference's (OpenCV seek, decord, PIL, Whisper's extractor), plain PyAV, ours.

    pip install opencv-python-headless decord
    python benchmarks/media.py --folder /tmp/clips

Every measurement is a process of its own; the ways take turns, `--repeats` times, and medians are printed as a table in
Markdown. Memory is the peak above that after the imports. 128 frames at 448 x 448 and the whole sound of every clip are
taken; for the sound clip the sound alone. `same` says whether the pixels equal those of plain PyAV to the bit.
"""

import argparse
import hashlib
import json
import os
import resource
import statistics
import subprocess
import sys
import time
from pathlib import Path

import numpy as np


NUM_FRAMES, SIZE = 128, 448
LIBRARIES = ("av", "opencv-python-headless", "decord", "pillow", "soxr", "numpy", "torch", "transformers")


def reference(path: str, has_video: bool):
    import cv2
    import decord
    from PIL import Image

    frames = []
    if has_video:
        capture = cv2.VideoCapture(path)
        total = int(capture.get(cv2.CAP_PROP_FRAME_COUNT))
        for index in np.round(np.linspace(0, total - 1, NUM_FRAMES)).astype(int):
            capture.set(cv2.CAP_PROP_POS_FRAMES, int(index))
            found, frame = capture.read()
            if found:
                frames.append(Image.fromarray(cv2.cvtColor(frame, cv2.COLOR_BGR2RGB)))
    samples = decord.AudioReader(path, ctx=decord.cpu(), sample_rate=16000, mono=True)[:].asnumpy()[0]
    return plain_pixels(frames), whisper_features(samples)


def sequential(path: str, has_video: bool):
    import av
    import soxr

    frames = []
    if has_video:
        with av.open(path) as container:
            total = sum(packet.size > 0 for packet in container.demux(video=0))
        wanted = np.round(np.linspace(0, total - 1, NUM_FRAMES)).astype(int).tolist()
        with av.open(path) as container:
            for index, frame in enumerate(container.decode(video=0)):
                if index in wanted:
                    frames.append(frame.to_image())
    with av.open(path) as container:
        rate = container.streams.audio[0].rate
        parts = [frame.to_ndarray().mean(0) for frame in container.decode(audio=0)]
    return plain_pixels(frames), whisper_features(soxr.resample(np.concatenate(parts), rate, 16000))


def ours(path: str, has_video: bool, backend: str = "pil"):
    from omnivinci_hf import OmniVinciFeatureExtractor, OmniVinciVideoProcessor, load_audio, load_video

    extractor = OmniVinciFeatureExtractor()
    if not has_video:
        return None, extractor([load_audio(path).samples])["input_features"]
    processor = OmniVinciVideoProcessor(size=SIZE, resize_backend=backend)
    clip = load_video(path, num_frames=NUM_FRAMES, load_audio_from_video=True, transform=processor.frame_pixels)
    pixels = processor([clip])["pixel_values_videos"]
    return pixels, extractor([clip.audio.samples])["input_features"]


def ours_torch(path: str, has_video: bool):
    return ours(path, has_video, "torch")


def plain_pixels(frames):
    import torch
    from PIL import Image

    if not frames:
        return None
    pixels = np.stack([np.asarray(frame.resize((SIZE, SIZE), Image.Resampling.BICUBIC)) for frame in frames])
    pixels = torch.from_numpy(pixels).permute(0, 3, 1, 2).contiguous().float().div_(255)
    return pixels.sub_(0.5).div_(0.5)


def whisper_features(samples):
    from transformers import WhisperFeatureExtractor

    extractor = WhisperFeatureExtractor(feature_size=128)
    padded = np.pad(samples, (0, -len(samples) % (30 * 16000)))
    options = {"sampling_rate": 16000, "truncation": False, "padding": "longest", "return_tensors": "pt"}
    return extractor(padded, **options)["input_features"]


WAYS = {"reference": reference, "sequential": sequential, "ours": ours, "ours torch": ours_torch}


def measure(way: str, path: str) -> None:
    """In a fresh process: imports first, then one run."""
    import av  # noqa: F401
    import librosa.filters  # noqa: F401
    import soxr  # noqa: F401
    import torch  # noqa: F401
    from transformers import WhisperFeatureExtractor  # noqa: F401

    from omnivinci_hf import OmniVinciFeatureExtractor, OmniVinciVideoProcessor, load_audio, load_video  # noqa: F401

    if way == "reference":
        import cv2  # noqa: F401
        import decord  # noqa: F401
    base = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    wall, cpu = time.perf_counter(), time.process_time()
    pixels, features = WAYS[way](path, Path(path).suffix != ".m4a")
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    peak = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - base) / 1024
    digest = "" if pixels is None else hashlib.sha1(pixels.numpy().tobytes()).hexdigest()
    print(json.dumps({"wall": wall, "cpu": cpu, "peak": peak, "pixels": digest, "mel": list(features.shape)}))


def run(way: str, path: Path) -> dict | None:
    command = [sys.executable, __file__, "--way", way, "--clip", str(path)]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        print(f"{way} on {path.name} failed: {done.stderr.strip().splitlines()[-1:]}")
        return None
    return json.loads(done.stdout.splitlines()[-1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--folder", type=Path, default=Path("benchmark_clips"), help="clips are made here once (350 MB)"
    )
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--only", nargs="*", help="names of clips")
    parser.add_argument("--way", help=argparse.SUPPRESS)
    parser.add_argument("--clip", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.way:
        return measure(options.way, options.clip)
    from measuring import describe_machine
    from media_clips import CLIPS, make_clip

    options.folder.mkdir(parents=True, exist_ok=True)
    print(describe_machine(LIBRARIES), f"Medians of {options.repeats}.\n")
    print("| clip | way | wall s | CPU s | peak MB | faster than reference | than sequential | of its peak | same |")
    print("|---|---|---|---|---|---|---|---|---|", flush=True)
    for name in options.only or CLIPS:
        path = make_clip(name, options.folder)
        results = {way: [] for way in WAYS}
        for _ in range(options.repeats):
            for way in WAYS:
                result = run(way, path)
                if result is not None:
                    results[way].append(result)
        median = {
            way: {key: statistics.median(result[key] for result in runs) for key in ("wall", "cpu", "peak")}
            for way, runs in results.items()
            if runs
        }
        for way, numbers in median.items():
            times = [ratio(median, other, way, "wall") for other in ("reference", "sequential")]
            memory = ratio(median, way, "reference", "peak")
            same = results[way][0]["pixels"] == (results["sequential"] or results[way])[0]["pixels"]
            figures = f"{numbers['wall']:.2f} | {numbers['cpu']:.2f} | {numbers['peak']:.0f}"
            print(f"| {name} | {way} | {figures} | {times[0]} | {times[1]} | {memory} | {same} |", flush=True)
    print(f"\nLoad of the machine at the end: {os.getloadavg()[1]:.1f}.")


def ratio(median: dict, upper: str, lower: str, key: str) -> str:
    return f"{median[upper][key] / median[lower][key]:.2f}" if {upper, lower} <= median.keys() else "-"


if __name__ == "__main__":
    main()
