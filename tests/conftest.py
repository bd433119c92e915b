import os
from pathlib import Path


# TRL's trainers would send telemetry from a thread, in which looking up the host has ended a process of tests. It is
# read when huggingface_hub is imported.
os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"

import pytest
import torch
import transformers

from omnivinci_hf import OmniVinciForConditionalGeneration, OmniVinciProcessor
from tests.support import goldens
from tests.support.paths import PYTHONPATH


transformers.utils.logging.set_verbosity_error()
transformers.utils.logging.disable_progress_bar()
os.environ["PYTHONPATH"] = PYTHONPATH  # for the processes that tests start
GOLDEN_TABLE = pytest.StashKey[list]()


@pytest.fixture(scope="session")
def original_folder() -> Path:
    """A tiny checkpoint in the original layout."""
    return goldens.SMALL / "checkpoint"


@pytest.fixture(scope="session")
def model(original_folder):
    return OmniVinciForConditionalGeneration.from_pretrained(original_folder, dtype=torch.float32).eval()


@pytest.fixture(scope="session")
def processor(original_folder):
    return OmniVinciProcessor.from_pretrained(original_folder)


@pytest.fixture
def golden_table(request) -> list:
    """Rows of the table of golden cases, printed at the end of the run."""
    return request.config.stash.setdefault(GOLDEN_TABLE, [])


def pytest_terminal_summary(terminalreporter, config):
    rows = config.stash.get(GOLDEN_TABLE, [])
    if rows:
        terminalreporter.section(f"golden cases ({goldens.FOLDER.parent.name}/{goldens.FOLDER.name})")
        terminalreporter.line(f"{'case':28} {'length':>7} {'max |logits|':>13} {'greedy ids':>11}")
        for name, length, difference, greedy in rows:
            terminalreporter.line(f"{name:28} {length:>7} {difference:>13} {greedy:>11}")
