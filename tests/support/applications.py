"""The applications of `examples/applications/`, as modules and as commands."""

import importlib
import json
import os
import subprocess
import sys

from tests.support.paths import ROOT


APPLICATIONS = ROOT / "examples" / "applications"


def load(monkeypatch, name):
    """Imports an application, or what they share."""
    monkeypatch.syspath_prepend(str(APPLICATIONS))
    return importlib.import_module(name)


def run(name, *arguments):
    """Runs an application as a user does; returns what it prints."""
    environment = {**os.environ, "TRANSFORMERS_VERBOSITY": "error", "HF_HUB_OFFLINE": "1"}
    command = [sys.executable, str(APPLICATIONS / f"{name}.py"), *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=900)
    assert not done.returncode, done.stderr[-2000:]
    return done.stdout


def read_header(name):
    """Reads the text that stands at the top of an application."""
    return (APPLICATIONS / f"{name}.py").read_text(encoding="utf-8").split('"""')[1]


def read_lines(path):
    """Reads rows of JSON lines."""
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
