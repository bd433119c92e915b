"""What one process tells of repositories of the Hub at `HF_ENDPOINT`: `python tests/support/doctor_session.py FILE`.

FILE holds a list of `[name, revision, token]`, and gets the diagnosis of each in its place, or the words of the error.
"""

import json
import os
import sys
from pathlib import Path

from omnivinci_hf.inspection.doctor import diagnose


def told(name: str, revision: str | None, token: str | None) -> dict:
    os.environ["HF_TOKEN"] = token or ""
    try:
        return diagnose(name, revision=revision).as_dict()
    except (OSError, ValueError) as error:
        return {"error": f"{type(error).__name__}: {error}"}


if __name__ == "__main__":
    file = Path(sys.argv[1])
    asked = json.loads(file.read_text())
    file.write_text(json.dumps([told(*each) for each in asked]))
