"""This module runs the stages of the engine one after the other, and estimates what a run will cost."""

import sys
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from filelock import FileLock, Timeout
from tqdm import tqdm

from ..omnivinci.checks_omnivinci import refuse_unknown
from .asking import Asker
from .config import STAGES, EngineConfig, StageOptions
from .estimate import format_estimate
from .prompts import Prompts
from .records import ReplyLog, write_records
from .stages import (
    Record,
    ask_questions,
    attempt,
    caption_audio,
    caption_vision,
    duration_of,
    filter_question,
    find_segments,
    join_captions,
    omni_sentences,
    training_rows,
)


LOG = "replies.jsonl"
HOPELESS = 10  # items that fail before any succeeds end a stage
T = TypeVar("T")
R = TypeVar("R")


@dataclass(frozen=True)
class Shard:
    """A shard is a part of the media, for one of several processes, which may run on different machines."""

    index: int = 0
    count: int = 1

    def __post_init__(self):
        if not 0 <= self.index < self.count:
            raise ValueError(f"A shard must be 0/N to N-1/N, got {self.index}/{self.count}.")

    def folder(self, output: Path) -> Path:
        """Returns where its files are."""
        return output if self.count == 1 else output / f"shard-{self.index:05}-of-{self.count:05}"

    def files(self, files: list[Path]) -> list[Path]:
        """Returns its part of the media.

        Raises:
            ImportError: when `datasets`, which makes the parts, is not there.
            ValueError: when nothing is left for it.
        """
        if self.count == 1:
            return files
        if self.index >= len(files):
            raise ValueError(f"Shard {self.index}/{self.count} is empty: there are only {len(files)} media.")
        try:
            from datasets import Dataset
        except ImportError as error:
            raise ImportError("Shards need the package datasets: pip install datasets") from error
        dataset = Dataset.from_dict({"path": [str(file) for file in files]})
        return [Path(path) for path in dataset.shard(self.count, self.index, contiguous=False)["path"]]


def run_engine(
    config: EngineConfig,
    stage: str | None = None,
    limit: int | None = None,
    dry_run: bool = False,
    shard: Shard = Shard(),  # noqa: B008 (it is frozen)
    note: Callable[[str], None] = print,
) -> int:
    """Runs the stages up to `stage`, or all; what was asked before is not asked again.

    Args:
        limit: of segments.
        dry_run: send and write nothing, and tell what would be asked and what it may cost.
        note: is told what happened, line by line.

    Returns:
        the number of records with an error.

    Raises:
        ValueError, OSError: when the run cannot go on. It goes on where it was when it is started again.
    """
    last = STAGES[-1] if stage is None else stage
    refuse_unknown("The engine", [last], STAGES, ValueError)
    prompts = Prompts(config.path(config.prompts) if config.prompts else None)
    for name in _prompt_names(config):
        prompts.check(name)
    files = shard.files(config.media_files())
    folder = shard.folder(config.path(config.output))
    if dry_run:
        log = ReplyLog(folder / LOG, read_only=True)
        run = _Run(Asker(config, prompts, log, dry=True), None, note)
        run.go(files, last, limit)
        note(format_estimate(run.asker, run.expected()))
        return 0
    folder.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(folder / ".lock", timeout=0):
            log = ReplyLog(folder / LOG)
            try:
                run = _Run(Asker(config, prompts, log), folder, note)
                run.go(files, last, limit)
            finally:
                log.close()
    except Timeout as error:
        raise ValueError(f"Another process writes to {folder}; wait for its end, or use shards.") from error
    note(f"{run.asker.num_asked} requests were sent in this run; their known cost is {run.asker.cost:.4f}.")
    if run.num_errors:
        note(f"{run.num_errors} records have an `error`; `omnivinci-hf engine report` counts them.")
    return run.num_errors


def _prompt_names(config: EngineConfig) -> list[str]:
    names = ["caption", config.filtered.agree_prompt, config.filtered.prompt or "answer"]
    for stage in ("vision", "audio", "speech", "omni", "qa"):
        options = getattr(config, stage)
        if options is not None:
            names.append(options.prompt or stage)
    return names


class _Run:
    """A run keeps an item for each segment, with the record of every stage under the stage's name."""

    def __init__(self, asker: Asker, folder: Path | None, note: Callable[[str], None]):
        self.asker, self.folder, self.note = asker, folder, note
        self.items: list[Record] = []
        self.num_errors = 0

    def go(self, files: list[Path], last: str, limit: int | None) -> None:
        """Runs the stages up to `last`."""
        config = self.asker.config
        segments = find_segments(config, files, self.asker.log, limit, self.asker.dry)
        self.items = [{"segments": segment} for segment in segments if "error" not in segment]
        self._write("segments", segments)
        self._check_hope("segments", segments)
        stages: list[tuple[str, StageOptions, Callable[[Asker, Record], Record]]] = [
            ("vision", config.vision, caption_vision),
            ("audio", config.audio, caption_audio),
            ("omni", config.omni, join_captions),
            ("qa", config.qa, ask_questions),
        ]
        self.last = last
        for name, options, make in stages[: STAGES.index(last)]:
            self._run_stage(name, options, make)
        if STAGES.index(last) >= STAGES.index("filtered"):
            self._filter()
        if last == "train" and not self.asker.dry:
            self._write("train", self._rows())

    def expected(self) -> list[str]:
        """Lists the stages that requests have to be expected of beyond those that were counted, one a segment."""
        names = STAGES[1 : STAGES.index(self.last) + 1]
        return [
            name for item in self.items for name in names if name not in item and name != "train" and _is_pending(item)
        ]

    def _run_stage(self, name: str, options: StageOptions, make: Callable[[Asker, Record], Record]) -> None:
        needed = ("vision", "audio") if name == "omni" else ("omni",) if name == "qa" else ()
        ready = [item for item in self.items if all(_is_there(item, one) for one in needed)]
        workers = self.asker.backend(options).num_workers
        if name == "audio" and self.asker.config.speech is not None:
            workers = min(workers, self.asker.backend(self.asker.config.speech).num_workers)
        records = []
        done = run_in_order(lambda item: attempt(lambda: make(self.asker, item)), ready, workers)
        for item, record in zip(ready, self._shown(done, len(ready), name), strict=True):
            item[name] = {"id": item["segments"]["id"], **record}
            records.append(item[name])
            if len(records) == HOPELESS:
                self._check_hope(name, records)
        self._write(name, records)
        self._check_hope(name, records)

    def _filter(self) -> None:
        asker = self.asker
        work = [
            (item, number) for item in self.items if _is_there(item, "qa") for number in range(_num_questions(item))
        ]

        def make(entry: tuple[Record, int]) -> Record:
            item, number = entry
            questions = item["qa"]["questions"]
            return attempt(lambda: filter_question(asker, item, questions[number], questions[:number]))

        records = []
        done = run_in_order(make, work, asker.backend(asker.config.filtered).num_workers)
        for (item, number), record in zip(work, self._shown(done, len(work), "filtered"), strict=True):
            question = item["qa"]["questions"][number]
            named = {"id": question["id"], "segment": item["segments"]["id"], **record}
            item.setdefault("filtered", []).append(named)
            records.append(named)
        self._write("filtered", records)
        self._check_hope("filtered", records)

    def _rows(self) -> Iterator[Record]:
        config = self.asker.config
        for item in self.items:
            if _is_there(item, "omni"):
                sentences = omni_sentences(item)
                duration = duration_of(item["segments"])
                caption = self.asker.prompts.render("caption", sentences=sentences, duration_sec=duration)
                kept = [record for record in item.get("filtered", []) if record.get("kept")]
                yield from training_rows(config, item, kept, caption)

    def _write(self, name: str, records) -> None:
        if self.folder is None:
            return
        file = self.folder / f"{name}.jsonl"
        records = list(records)
        num_errors = sum("error" in record for record in records)
        self.num_errors += num_errors
        later = [self.folder / f"{stage}.jsonl" for stage in STAGES[STAGES.index(name) + 1 :]]
        if write_records(file, records, later):
            self.note(f"{file} changed, so the files of later stages were deleted: they rested on the old one.")
        self.note(f"{file}: {len(records)} records" + (f", {num_errors} with an error" if num_errors else ""))

    def _check_hope(self, name: str, records: Sequence[Record]) -> None:
        """Raises ValueError when all of a stage's first records, or of a small stage all, have an error."""
        if records and all("error" in record for record in records):
            raise ValueError(
                f"Stage {name!r} failed for all of its first {len(records)} items, so it ends here. The first error: "
                f"{records[0]['error']}"
            )

    def _shown(self, records: Iterator[Record], total: int, name: str) -> Iterator[Record]:
        hidden = self.asker.dry or not sys.stderr.isatty()
        with tqdm(records, total=total, desc=name, disable=hidden) as bar:
            for record in bar:
                bar.set_postfix(cost=f"{self.asker.cost:.2f}", refresh=False)
                yield record


def run_in_order(make: Callable[[T], R], items: Sequence[T], num_workers: int) -> Iterator[R]:
    """Yields what `make` returns of each item, in order; so many run at a time, and few wait to be taken.

    An error ends all of it: what runs is waited for, as its replies are paid for.
    """
    running: deque[Future] = deque()
    with ThreadPoolExecutor(num_workers) as pool:
        try:
            for item in items:
                running.append(pool.submit(make, item))
                if len(running) >= 4 * num_workers:
                    yield running.popleft().result()
            while running:
                yield running.popleft().result()
        finally:
            for future in running:
                future.cancel()


def _is_there(item: Record, name: str) -> bool:
    return name in item and not {"error", "is_pending"} & item[name].keys()


def _is_pending(item: Record) -> bool:
    return any(isinstance(record, dict) and "is_pending" in record for record in item.values())


def _num_questions(item: Record) -> int:
    return len(item["qa"]["questions"])
