"""This module is the command `engine`: it runs the data engine, reports what there is, and writes its prompts."""

import argparse
import json
import shutil
from pathlib import Path

from ..engine import format_report, load_config, report
from ..engine.prompts import TEMPLATES
from ..engine.run import Shard
from ..engine.run import run_engine as run_stages
from .commands import note


def run_engine(arguments: argparse.Namespace) -> None:
    """Runs the action of the command."""
    if arguments.action == "prompts":
        write_prompts(arguments.file)
        return
    config = load_config(arguments.file)
    if arguments.action == "report":
        facts = report(config)
        print(json.dumps(facts, indent=2) if arguments.json else format_report(facts))
        return
    run_stages(
        config,
        arguments.stage,
        arguments.limit,
        arguments.dry_run,
        Shard(*(arguments.shard or (0, 1))),
        print if arguments.dry_run else note,
    )


def write_prompts(folder: Path) -> None:
    """Writes the templates of the prompts to a folder.

    Raises:
        FileExistsError: when one of them is there, which may have been edited.
    """
    folder.mkdir(parents=True, exist_ok=True)
    names = [path.name for path in sorted(TEMPLATES.glob("*.jinja"))]
    if there := [name for name in names if (folder / name).exists()]:
        raise FileExistsError(f"{folder} has {', '.join(there)} already; give another folder, or delete them.")
    for name in names:
        shutil.copyfile(TEMPLATES / name, folder / name)
    print(f"wrote {len(names)} prompts to {folder}; name it as `prompts` in the configuration")
