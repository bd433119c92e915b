"""Paths of the repository that tests use."""

import os
from pathlib import Path


ROOT = Path(__file__).parents[2]
BENCHMARKS = ROOT / "benchmarks"
SUPPORT = ROOT / "tests" / "support"
SMALL_GOLDENS = ROOT / "tests" / "data" / "goldens"
FULL_GOLDENS = Path(os.environ.get("OMNIVINCI_GOLDENS", ROOT.parent / "shared" / "goldens"))
# Processes that tests start find the sources and the support modules by this.
PYTHONPATH = os.pathsep.join([str(ROOT / "src"), str(ROOT), os.environ.get("PYTHONPATH", "")]).rstrip(os.pathsep)
