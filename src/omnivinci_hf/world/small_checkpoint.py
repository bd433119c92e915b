"""This module finds the small checkpoint, which is trained on the made-up world and comes with the package."""

from pathlib import Path


def small_checkpoint() -> Path:
    """Finds the folder of the trained checkpoint, for `from_pretrained` and `pipeline("omni-qa", model=...)`.

    It knows the clips of [`omnivinci_hf.world`] and nothing else.

    Raises:
        FileNotFoundError: when the package was installed without it.
    """
    folder = Path(__file__).parent / "checkpoint"
    if not (folder / "model.safetensors").is_file():
        raise FileNotFoundError(
            f"{folder} holds no weights. Train them and put them there: "
            "python -m omnivinci_hf.world.training --output FOLDER, "
            "python -m omnivinci_hf.world.packaging FOLDER; or name your own checkpoint's folder."
        )
    return folder


__all__ = ["small_checkpoint"]
