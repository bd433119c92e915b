"""Whether this Transformers takes the PEFT that is installed."""

import importlib.metadata

from packaging.version import Version
from transformers.integrations.peft import MIN_PEFT_VERSION


def transformers_manages_adapters() -> bool:
    """Whether `add_adapter`, `active_adapters` and the like work: Transformers 5.24 wants PEFT 0.22 for these, and
    0.21.2 is the newest.
    """
    return Version(importlib.metadata.version("peft")) >= Version(MIN_PEFT_VERSION)
