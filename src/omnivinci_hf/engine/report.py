"""This module reports what the engine made: records, errors, verdicts, why questions were dropped, tokens and cost."""

from collections import Counter, defaultdict
from pathlib import Path
from typing import Any

from .backends import cost_of
from .config import STAGES, EngineConfig
from .records import ReplyLog, read_records
from .run import LOG


def report(config: EngineConfig) -> dict[str, Any]:
    """Counts what is in the folder of the output, shards included.

    Raises:
        FileNotFoundError: when nothing was made yet.
    """
    output = config.path(config.output)
    folders = [folder for folder in (output, *sorted(output.glob("shard-*-of-*"))) if (folder / LOG).exists()]
    if not folders:
        raise FileNotFoundError(f"{output} holds nothing of the engine; start `omnivinci-hf engine run` first.")
    facts: dict[str, Any] = {"folders": [str(folder) for folder in folders], "stages": {}, "errors": {}}
    counts: dict[str, Counter] = defaultdict(Counter)
    for folder in folders:
        for stage in STAGES:
            if (folder / f"{stage}.jsonl").exists():
                for record in read_records(folder / f"{stage}.jsonl"):
                    _count(stage, record, counts)
    facts["stages"] = dict(counts["stages"])
    facts["errors"] = dict(counts["errors"])
    facts["verdicts"] = dict(counts["verdicts"])
    facts["sources"] = dict(counts["sources"])
    facts["questions"] = dict(counts["questions"])
    facts["replies"] = _replies(config, folders)
    return facts


def _count(stage: str, record: dict[str, Any], counts: dict[str, Counter]) -> None:
    counts["stages"][stage] += 1
    if "error" in record:
        counts["errors"][stage] += 1
    elif stage == "omni":
        for sentence in record["sentences"]:
            counts["verdicts"][sentence["verdict"]] += 1
            counts["sources"][sentence["source"]] += 1
    elif stage == "filtered":
        counts["questions"][record["reason"] or "kept"] += 1


def _replies(config: EngineConfig, folders: list[Path]) -> dict[str, dict[str, Any]]:
    """Adds up the replies by stage. Those of an older configuration are there and paid for, too."""
    replies: dict[str, dict[str, Any]] = {}
    for folder in folders:
        log = ReplyLog(folder / LOG, read_only=True)
        for entry in log.entries():
            if "text" not in entry:
                continue
            row = replies.setdefault(
                entry["stage"],
                {"replies": 0, "prompt_tokens": 0, "completion_tokens": 0, "cost": 0.0, "without_cost": 0},
            )
            row["replies"] += 1
            row["prompt_tokens"] += entry["prompt_tokens"] or 0
            row["completion_tokens"] += entry["completion_tokens"] or 0
            backend = config.backends.get(entry["backend"])
            cost = None if backend is None else cost_of(backend, entry)
            row["cost"] += cost or 0.0
            row["without_cost"] += cost is None
        log.close()
    return replies


def format_report(facts: dict[str, Any]) -> str:
    """Makes a text of what [`report`] counted."""
    lines = [f"folder {folder}" for folder in facts["folders"]]
    lines.append("records  " + ", ".join(f"{stage}: {number}" for stage, number in facts["stages"].items()))
    for title in ("errors", "verdicts", "sources", "questions"):
        if facts[title]:
            total = sum(facts[title].values())
            parts = [f"{name}: {number}" for name, number in sorted(facts[title].items())]
            share = "" if title == "errors" else f" (of {total})"
            lines.append(f"{title:8} " + ", ".join(parts) + share)
    lines.append(f"{'':8} {'replies':>9} {'prompt tokens':>14} {'reply tokens':>14} {'cost':>12} {'without cost':>13}")
    rows = facts["replies"]
    keys = ("replies", "prompt_tokens", "completion_tokens", "cost", "without_cost")
    total_row = {key: sum(row[key] for row in rows.values()) for key in keys}
    for name, row in [*rows.items(), ("total", total_row)]:
        lines.append(
            f"{name:8} {row['replies']:>9} {row['prompt_tokens']:>14,} {row['completion_tokens']:>14,} "
            f"{row['cost']:>12.4f} {row['without_cost']:>13}"
        )
    return "\n".join(lines)
