"""Which sound belongs to which video: recall at one on freshly made clips, with OmniAlignNet and without.

    python benchmarks/small_retrieval.py [CHECKPOINT] [--galleries 20] [--without OTHER] [--json FILE] [--report FILE]

A gallery has a clip of each of the 16 places; picture and sound of a clip have nothing in common but the place, so
chance is one in 16. Clips are mp4 files of test seeds, read as always. "with": vectors of OmniAlignNet. "without":
means of the projected embeddings, which OmniAlignNet reads, of the same checkpoint, and of one that was trained without
it (`--without`). The spread is the standard error over galleries.
"""

import argparse
import datetime
import json
import sys
import tempfile
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from transformers import AutoConfig, AutoModel, AutoProcessor
from transformers.utils import logging

import omnivinci_hf  # noqa: F401 (registers the classes)
from omnivinci_hf.small import small_checkpoint
from omnivinci_hf.world import PLACES, sample_scene, write_clip
from omnivinci_hf.world.dataset import split_seeds
from omnivinci_hf.world.retrieval import recall_at_1


sys.path.insert(0, str(Path(__file__).parent))

from measuring import markdown, write_section  # noqa: E402


FIRST_SEED = 50_000  # of the test split, beyond what is asked about elsewhere


@torch.no_grad()
def vectors(models: dict[str, torch.nn.Module], processor, path: Path) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Unit vectors of the picture and of the sound of a clip, by the way in which they were made."""
    content = [{"type": "video", "path": str(path)}]
    inputs = processor.apply_chat_template(
        [{"role": "user", "content": content}], tokenize=True, return_dict=True, return_tensors="pt"
    )
    names = {
        "video": ("pixel_values_videos", "video_num_frames", "video_frame_times_ns"),
        "audio": ("input_features", "audio_num_windows", "audio_durations_ns", "audio_num_embeds"),
    }
    found = {}
    for name, model in models.items():
        embeds = model.get_omni_embeddings(**inputs)
        found[f"{name}: OmniAlignNet"] = embeds.vision_embeds[0].numpy(), embeds.audio_embeds[0].numpy()
        features = (
            model.get_video_features(**{key: inputs[key] for key in names["video"]}),
            model.get_audio_features(**{key: inputs[key] for key in names["audio"]}),
        )
        means = (F.normalize(part.projected[0].float().mean(0), dim=0).numpy() for part in features)
        found[f"{name}: mean of projected embeddings"] = tuple(means)
    return found


def recalls(pairs: list[tuple[np.ndarray, np.ndarray]]) -> dict[str, tuple[float, float]]:
    """Mean and standard error over galleries, sound to video and back."""
    pictures, sounds = map(np.stack, zip(*pairs, strict=True))
    found = {}
    for name, queries, targets in (("sound to video", sounds, pictures), ("video to sound", pictures, sounds)):
        scores = [
            recall_at_1(queries[first : first + PLACES], targets[first : first + PLACES], PLACES)
            for first in range(0, len(queries), PLACES)
        ]
        found[name] = float(np.mean(scores)), float(np.std(scores, ddof=1) / len(scores) ** 0.5)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", nargs="?", help="folder or name; by default the one of the package")
    parser.add_argument("--without", help="a checkpoint that was trained without OmniAlignNet")
    parser.add_argument("--galleries", type=int, default=20, help="of 16 clips each, at least two (default 20)")
    parser.add_argument("--json", type=Path, help="write the numbers there, too")
    parser.add_argument("--report", type=Path, help="put the table into its section of this Markdown file")
    arguments = parser.parse_args()
    if arguments.galleries < 2:
        parser.error("--galleries must be at least 2, or there is no spread")
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    checkpoint = arguments.checkpoint or str(small_checkpoint())
    processor = AutoProcessor.from_pretrained(checkpoint)
    models = {"trained with it": AutoModel.from_pretrained(checkpoint, dtype=torch.float32).eval()}
    if arguments.without:
        # a net of random weights where there is none, to be had at what it would read
        has_net = AutoConfig.from_pretrained(arguments.without).omni_align_config is not None
        net = {} if has_net else {"omni_align_config": {}}
        other = AutoModel.from_pretrained(arguments.without, dtype=torch.float32, **net)
        models["trained without it"] = other.eval()

    pairs: dict[str, list] = {}
    with tempfile.TemporaryDirectory() as folder:
        for number, seed in enumerate(split_seeds("test", PLACES * arguments.galleries, FIRST_SEED)):
            path = write_clip(sample_scene(seed, place=number % PLACES), Path(folder) / "clip.mp4")
            for name, pair in vectors(models, processor, path).items():
                pairs.setdefault(name, []).append(pair)
    table = {name: recalls(found) for name, found in pairs.items()}
    table.pop("trained without it: OmniAlignNet", None)  # never trained
    rows = [[name, *(f"{mean:.1%} ± {error:.1%}" for mean, error in row.values())] for name, row in table.items()]
    what = f"{arguments.galleries} galleries of {PLACES} clips, recall at one (chance {1 / PLACES:.1%})"
    text = f"{what}\n\n{markdown(['vectors', 'sound to video', 'video to sound'], rows)}"
    print(text)
    if arguments.json is not None:
        values = {"galleries": arguments.galleries, "clips": PLACES, "recall_at_1": table}
        arguments.json.write_text(json.dumps(values, indent=1) + "\n", encoding="utf-8")
    if arguments.report is not None:
        head = f"## Retrieval ({datetime.date.today()})\n\n`benchmarks/small_retrieval.py`: "
        write_section(arguments.report, "retrieval", head + text)


if __name__ == "__main__":
    main()
