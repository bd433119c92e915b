"""This module puts a trained checkpoint into the package: `python -m omnivinci_hf.world.packaging FOLDER`.

Weights are kept in half precision and loaded in single, which takes half the room; the copy of the code that
`save_pretrained` adds stays out. The log of the training and its curve go to `model_cards/`.
"""

import argparse
import json
import os
import shutil
from pathlib import Path

from safetensors.torch import load_file, save_file
from transformers.utils import is_matplotlib_available

from ..hub.atomic_folders import whole_folder
from ..hub.cards import TEMPLATES


FOLDER = Path(__file__).parent
REMOTE_CODE = ("auto_map", "custom_pipelines")
# where OmniAlignNet does not learn, the loss is that of language
LOSSES = {"language": ("language_loss", "loss"), "OmniAlignNet": ("omni_align_loss",)}


def package(folder: str | os.PathLike, target: str | os.PathLike) -> Path:
    """Copies a saved checkpoint to `target`, in the place of the checkpoint that is there.

    Raises:
        ValueError: when `target` is `folder`, or holds something else than a checkpoint.
    """
    folder, target = Path(folder), Path(target)
    if target.resolve() == folder.resolve():
        raise ValueError(f"{folder} cannot be packaged into itself.")
    there = list(target.iterdir()) if target.exists() else []
    if there and not ((target / "config.json").is_file() and all(path.is_file() for path in there)):
        raise ValueError(f"{target} is not a mere checkpoint, so it is not replaced: name another folder.")
    weights = load_file(folder / "model.safetensors")
    with whole_folder(target, overwrite=True, keep_others=False) as new:
        for path in sorted(folder.glob("*.json")):
            values = json.loads(path.read_text(encoding="utf-8"))
            if path.name != "log.json":
                values = {name: value for name, value in values.items() if name not in REMOTE_CODE}
                (new / path.name).write_text(json.dumps(values, indent=1) + "\n", encoding="utf-8")
        for path in folder.glob("*.jinja"):
            shutil.copy(path, new)
        halves = {name: weight.half() if weight.is_floating_point() else weight for name, weight in weights.items()}
        save_file(halves, new / "model.safetensors", metadata={"format": "pt"})
        (new / "model.safetensors").chmod(0o644)  # it is written for its owner alone
    return target


def plot_curve(records: list[dict], path: str | os.PathLike) -> None:
    """Draws both losses of all stages, one after the other, over their steps; needs matplotlib."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 4), layout="constrained")
    axes = figure.subplots()
    begin = 0
    steps: list[int] = []
    stages: list[tuple[int, str]] = []
    records = [record for record in records if "loss" in record]
    for before, record in zip([None, *records], records, strict=False):
        if before is None or before["stage"] != record["stage"]:
            begin = steps[-1] if steps else 0
            stages.append((begin, record["stage"]))
        steps.append(begin + record["step"])
    for label, names in LOSSES.items():
        losses = [next((record[name] for name in names if name in record), None) for record in records]
        shown = [(step, loss) for step, loss in zip(steps, losses, strict=True) if loss is not None]
        if shown:
            axes.plot(*zip(*shown, strict=True), label=label)
    for begin, name in stages:
        axes.axvline(begin, color="grey", linewidth=0.6)
        axes.annotate(f" {name}", (begin, 1), xycoords=("data", "axes fraction"), va="top", color="grey")
    axes.set(yscale="log", xlabel="step", ylabel="loss")
    axes.legend()
    figure.savefig(path, dpi=110)


def main() -> None:
    """Runs the command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="what `omnivinci_hf.world.training` wrote")
    parser.add_argument("--target", type=Path, default=FOLDER / "checkpoint", help="default: %(default)s")
    parser.add_argument("--cards", type=Path, default=TEMPLATES, help="default: %(default)s")
    arguments = parser.parse_args()
    if not is_matplotlib_available():
        parser.error("The curve needs matplotlib: pip install matplotlib")
    log = json.loads((arguments.folder / "log.json").read_text(encoding="utf-8"))
    arguments.cards.mkdir(parents=True, exist_ok=True)
    package(arguments.folder, arguments.target)
    shutil.copy(arguments.folder / "log.json", arguments.cards / "small_log.json")
    plot_curve(log["records"], arguments.cards / "small_curve.png")


if __name__ == "__main__":
    main()
