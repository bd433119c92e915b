"""This module imports what only some environments have: tests skip without it, but not where it must be there."""

import importlib
import os
from types import ModuleType

import pytest


REQUIRED = "OMNIVINCI_REQUIRE_VLLM"  # `make test-vllm` sets it: there, a missing package is an error


def needed(name: str) -> ModuleType:
    """Imports a package of `.venv-vllm`, or skips."""
    if os.environ.get(REQUIRED):
        return importlib.import_module(name)
    return pytest.importorskip(name, reason="needs vLLM, which `make test-vllm` installs")
