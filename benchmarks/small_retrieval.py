"""Which sound belongs to which video: recall at one on freshly made clips, with OmniAlignNet and without.

    python benchmarks/small_retrieval.py [CHECKPOINT ...] [--without OTHER ...] [--galleries 20] [--report FILE]

A gallery has a clip of each of the 16 places; picture and sound of a clip have nothing in common but the place, so
chance is one in 16. Clips are mp4 files of test seeds, read as always. "OmniAlignNet": its vectors. "means": means of
the projected embeddings, which OmniAlignNet reads, as they are. "linear map": the same means, those of sound turned
into those of pictures by a ridge regression on clips of the training split, its decay chosen on a quarter of them.
Without OmniAlignNet: checkpoints that were trained without it (`--without`), for instance by `small_ablation.py`; only
with those that it trained as long and on as much can they be compared. The spread is the standard error over galleries
of the checkpoints' means; how much trainings differ it does not tell.
"""

import argparse
import datetime
import json
import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
import torch
from measuring import markdown, write_section
from transformers import AutoConfig, AutoModel, AutoProcessor
from transformers.utils import logging

import omnivinci_hf  # noqa: F401 (registers the classes)
from omnivinci_hf.small import small_checkpoint
from omnivinci_hf.world import PLACES, Scene, sample_scene, write_clip
from omnivinci_hf.world.dataset import split_seeds
from omnivinci_hf.world.retrieval import recall_at_1
from omnivinci_hf.world.tracks import scene_of


DECAYS = tuple(10.0**power for power in range(-2, 5))  # of linear maps
DIRECTIONS = "sound to video", "video to sound"
FIRST_SEED = 50_000  # of the test split, apart from what is asked about elsewhere
MEANS, LINEAR, OMNI_ALIGN = "means", "linear map", "OmniAlignNet"
INPUTS = {
    "video": ("pixel_values_videos", "video_num_frames", "video_frame_times_ns"),
    "audio": ("input_features", "audio_num_windows", "audio_durations_ns", "audio_num_embeds"),
}
Pairs = list[tuple[np.ndarray, np.ndarray]]  # of the picture and of the sound of a clip


@torch.no_grad()
def pairs_of(
    models: list[torch.nn.Module], sides: list[bool], processor, scenes: Iterable[Scene]
) -> list[dict[str, Pairs]]:
    """For each model the vectors of all clips, by the way in which they were made."""
    found = [{MEANS: [], OMNI_ALIGN: []} for _ in models]
    with tempfile.TemporaryDirectory() as folder:
        for scene in scenes:
            path = write_clip(scene, Path(folder) / "clip.mp4")
            content = [{"type": "video", "path": str(path)}]
            inputs = processor.apply_chat_template(
                [{"role": "user", "content": content}], tokenize=True, return_dict=True, return_tensors="pt"
            )
            given = {kind: {name: inputs[name] for name in names} for kind, names in INPUTS.items()}
            for model, has_net, vectors in zip(models, sides, found, strict=True):
                if has_net:
                    embeds = model.get_omni_embeddings(**inputs)
                    vectors[OMNI_ALIGN].append((embeds.vision_embeds[0].numpy(), embeds.audio_embeds[0].numpy()))
                parts = model.get_video_features(**given["video"]), model.get_audio_features(**given["audio"])
                vectors[MEANS].append(tuple(part.projected[0].float().mean(0).numpy() for part in parts))
    return found


def chosen_decay(pairs: Pairs) -> float:
    """Chooses the decay whose map, fitted to three quarters of the pairs, errs least on the last."""
    learned, asked = pairs[: len(pairs) * 3 // 4], pairs[len(pairs) * 3 // 4 :]
    errors = {
        decay: sum(np.square(picture - sound).sum() for picture, sound in fitted(learned, decay)(asked))
        for decay in DECAYS
    }
    return min(errors, key=errors.get)


def fitted(pairs: Pairs, decay: float) -> Callable[[Pairs], Pairs]:
    """A map that turns the sounds of other pairs into pictures, linear, by least squares."""
    pictures, sounds = map(np.stack, zip(*pairs, strict=True))
    means = pictures.mean(0), sounds.mean(0)
    centred = sounds - means[1]
    weights = np.linalg.solve(centred.T @ centred + decay * np.eye(centred.shape[1]), centred.T @ (pictures - means[0]))
    return lambda others: [(picture - means[0], (sound - means[1]) @ weights) for picture, sound in others]


def recalls(pairs: Pairs) -> dict[str, list[float]]:
    """Computes recall in each gallery, sound to video and back."""
    pictures, sounds = (
        np.stack([vector / np.linalg.norm(vector) for vector in vectors]) for vectors in zip(*pairs, strict=True)
    )
    return {
        name: [
            recall_at_1(queries[first : first + PLACES], targets[first : first + PLACES], PLACES)
            for first in range(0, len(queries), PLACES)
        ]
        for name, queries, targets in ((DIRECTIONS[0], sounds, pictures), (DIRECTIONS[1], pictures, sounds))
    }


def load(folder: str, has_net: bool) -> torch.nn.Module:
    """A checkpoint that was trained with OmniAlignNet, or without.

    Then it gets an untrained one, whose vectors are not asked for: models with one alone hand out what it would read.

    Raises:
        ValueError: when it was trained in the other way.
    """
    if (AutoConfig.from_pretrained(folder).omni_align_config is not None) != has_net:
        raise ValueError(f"{folder} was trained {'without' if has_net else 'with'} OmniAlignNet.")
    net = {} if has_net else {"omni_align_config": {}}
    return AutoModel.from_pretrained(folder, dtype=torch.float32, **net).eval()


def _spread(values: list[list[float]]) -> str:
    """Spread of the recalls of each checkpoint and gallery; all checkpoints search the same galleries."""
    galleries = np.mean(values, axis=0)
    return f"{galleries.mean():.1%} ± {galleries.std(ddof=1) / len(galleries) ** 0.5:.1%}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoints", nargs="*", help="trained with OmniAlignNet; by default the one of the package")
    parser.add_argument("--without", nargs="*", default=[], help="checkpoints that were trained without OmniAlignNet")
    parser.add_argument("--fit", type=int, default=960, help="clips that linear maps are fitted to (default 960)")
    parser.add_argument("--galleries", type=int, default=20, help="of 16 clips each, at least two (default 20)")
    parser.add_argument("--json", type=Path, help="write the numbers there, too")
    parser.add_argument("--report", type=Path, help="put the table into a section of this Markdown file")
    parser.add_argument("--section", default="retrieval", help="name of that section (default: %(default)s)")
    arguments = parser.parse_args()
    if arguments.galleries < 2:
        parser.error("--galleries must be at least 2, or there is no spread")
    if arguments.fit < 4:
        parser.error("--fit must be at least 4: a quarter is kept back to choose the decay")
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    for path in filter(None, (arguments.json, arguments.report)):
        path.parent.mkdir(parents=True, exist_ok=True)
    checkpoints = arguments.checkpoints or [str(small_checkpoint())]
    processor = AutoProcessor.from_pretrained(checkpoints[0])
    sides = [True] * len(checkpoints) + [False] * len(arguments.without)
    models = [load(folder, has_net) for folder, has_net in zip([*checkpoints, *arguments.without], sides, strict=True)]
    learned = (scene_of(seed) for seed in split_seeds("train", arguments.fit))
    asked = enumerate(split_seeds("test", PLACES * arguments.galleries, FIRST_SEED))
    means = [pairs[MEANS] for pairs in pairs_of(models, sides, processor, learned)]
    maps = [fitted(pairs, chosen_decay(pairs)) for pairs in means]
    found = pairs_of(models, sides, processor, (sample_scene(seed, place=number % PLACES) for number, seed in asked))
    table: dict[str, dict[str, list[list[float]]]] = {}
    for has_net, pairs, linear in zip(sides, found, maps, strict=True):
        ways = {MEANS: pairs[MEANS], LINEAR: linear(pairs[MEANS])}
        if has_net:
            ways[OMNI_ALIGN] = pairs[OMNI_ALIGN]
        for way, vectors in ways.items():
            row = table.setdefault(f"trained {'with' if has_net else 'without'} it: {way}", {})
            for direction, values in recalls(vectors).items():
                row.setdefault(direction, []).append(values)
    rows = [[name, *(_spread(values) for values in row.values())] for name, row in table.items()]
    what = (
        f"{arguments.galleries} galleries of {PLACES} clips, recall at one (chance {1 / PLACES:.2%}), mean and "
        f"standard error over galleries; linear maps fitted to {arguments.fit} clips of the training split, their "
        f"decay chosen on a quarter of these; checkpoints trained with OmniAlignNet: {len(checkpoints)}, without: "
        f"{len(arguments.without)}. The encoders had learned to name the place, under heads "
        "that were thrown away; OmniAlignNet was never told it."
    )
    text = f"{what}\n\n{markdown(['vectors', *DIRECTIONS], rows)}"
    print(text)
    if arguments.json is not None:
        values = {"clips": PLACES, "recall_at_1": table}
        arguments.json.write_text(json.dumps(values, indent=1) + "\n", encoding="utf-8")
    if arguments.report is not None:
        head = f"## Retrieval ({datetime.date.today()})\n\n`benchmarks/small_retrieval.py`: "
        write_section(arguments.report, arguments.section, head + text)


if __name__ == "__main__":
    main()
