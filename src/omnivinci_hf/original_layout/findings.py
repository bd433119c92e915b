"""This module collects what the reading of an original checkpoint comes across and does not take as it stands."""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

from transformers.utils import CONFIG_NAME, logging


logger = logging.get_logger(__name__)
# level of a finding -> what it means; the first makes the checkpoint fail to load, the second is a warning
LEVELS = {
    "refused": "it would change numbers, and is not supported",
    "unusual": "it is not what was expected; the sentence says how it is understood",
    "assumed": "the files leave it open, and this is taken",
    "ignored": "it has no part in the numbers",
}


@dataclass(frozen=True)
class Finding:
    """This is one thing that somebody who looks at a checkpoint wants to know.

    Args:
        level: one of `LEVELS`.
        component: folder of the component whose file has it, "" for the main file.
        key: in that file; a nested one is joined by dots.
        value: what the file holds, or what is assumed.
        sentence: what it means, in plain English.
        file: of that folder, which has the key.
    """

    level: str
    component: str
    key: str
    value: Any
    sentence: str
    file: str = CONFIG_NAME


class Findings(list[Finding]):
    """This is a list of findings that grows while files are read; [`settle`] ends the reading.

    Attributes:
        checkpoint: folder or Hub id of the checkpoint, with which warnings begin, if it is known.
    """

    checkpoint: str | None = None

    def add(self, level: str, component: str, key: str, value: Any, sentence: str, file: str = CONFIG_NAME) -> None:
        """Appends a finding unless it is there already."""
        finding = Finding(level, component, key, value, sentence, file)
        for findings in (self, _collected.get()):
            if findings is not None and finding not in findings:
                findings.append(finding)

    def settle(self) -> None:
        """Warns of what is unusual, once for each checkpoint, and refuses what cannot be loaded.

        Raises:
            ValueError: with the sentences of all that is refused.
        """
        for finding in self:
            if finding.level == "unusual":
                logger.warning_once(f"{self.checkpoint}: {finding.sentence}" if self.checkpoint else finding.sentence)
        if refused := [finding.sentence for finding in self if finding.level == "refused"]:
            raise ValueError("\n".join(refused))


_collected: ContextVar[Findings | None] = ContextVar("collected findings", default=None)


@contextmanager
def collect_findings() -> Iterator[Findings]:
    """Gives a list of all findings of the loading that happens inside, also of one that ends in an error."""
    findings = Findings()
    token = _collected.set(findings)
    try:
        yield findings
    finally:
        _collected.reset(token)
