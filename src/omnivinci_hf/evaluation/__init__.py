"""This package measures checkpoints on published benchmarks, from the files as the owners of these distribute them."""

from pathlib import Path


def lmms_tasks_path() -> Path:
    """Returns the folder with task files for lmms-eval's `--include_path`."""
    return Path(__file__).parent / "lmms_tasks"
