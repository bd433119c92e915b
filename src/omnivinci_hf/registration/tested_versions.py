"""This module names the versions of Transformers that the tests run with; setup.cfg and the constraints follow it."""

import logging
import sys
from importlib import metadata


OLDEST_TRANSFORMERS = "5.20"
NEWEST_TRANSFORMERS = "5.24"


def warn_if_untested() -> None:
    """Warns if the installed Transformers is of a newer minor version than any that was tested."""
    loaded = sys.modules.get("transformers")
    installed = loaded.__version__ if loaded else metadata.version("transformers")
    if _minor(installed) > _minor(NEWEST_TRANSFORMERS):
        logging.getLogger(__name__).warning(
            f"omnivinci_hf was tested with Transformers {OLDEST_TRANSFORMERS} to {NEWEST_TRANSFORMERS}; Transformers "
            f'{installed} is newer. If something fails: pip install "transformers=={NEWEST_TRANSFORMERS}.*"'
        )


def _minor(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split(".")[:2])
