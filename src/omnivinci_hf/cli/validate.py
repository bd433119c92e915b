"""`omnivinci-hf validate`: bad rows of training data, one after the other, and a summary."""

import argparse
import json
import os
import sys
from dataclasses import asdict

from tqdm import tqdm

from ..training.data import load_rows
from ..training.validation import BadRow, Validation, validate_rows


def validate_data(arguments: argparse.Namespace) -> bool:
    """Print what is wrong; whether all rows are good. The summary goes to stderr, so that `--json` stays JSON."""
    if arguments.media_root is not None and not os.path.isdir(arguments.media_root):
        raise NotADirectoryError(f"--media-root {arguments.media_root} is not a folder.")
    try:
        rows = load_rows(arguments.data, arguments.split, arguments.media_root)
    except ImportError as error:  # the optional package; said in one line
        raise ValueError(str(error)) from error
    counts = Validation()
    checks = validate_rows(rows, counts, read_media=not arguments.no_media)
    try:
        with tqdm(checks, total=len(rows), unit="row", leave=False, disable=not sys.stderr.isatty()) as bar:
            for bad in bar:
                if bad is not None:
                    bar.clear()  # an interrupt within tqdm's own `write` would end as an error about its lock
                    print(json.dumps(asdict(bad)) if arguments.json else _format(arguments.data, bad), flush=True)
                    bar.refresh()
    except KeyboardInterrupt:
        print(f"omnivinci-hf: stopped; until then {counts}", file=sys.stderr)
        raise
    print(counts, file=sys.stderr)
    return counts.num_bad == 0


def _format(data: str, bad: BadRow) -> str:
    name = f" ({bad.id})" if bad.id is not None else ""
    return "\n".join(f"{data}:{bad.line}{name}: {' '.join(problem.split())}" for problem in bad.problems)
