"""This module reads the pages of the documentation: their code, links and names."""

import re
import shlex
import textwrap
from pathlib import Path

from tests.support.paths import ROOT


DOCS = ROOT / "docs" / "source" / "en"
PAGES = {path.name: path for path in (ROOT / "README.md", *sorted(DOCS.glob("*.md")))}
FENCE = re.compile(r"^( *)```(\w*)\n(.*?)^\1```$", re.DOTALL | re.MULTILINE)


def text_of(page: str) -> str:
    return PAGES[page].read_text(encoding="utf-8")


def snippets(page: str, language: str) -> list[str]:
    """Returns the fenced blocks of a language, without their indentation, in order."""
    return [textwrap.dedent(code) for _, name, code in FENCE.findall(text_of(page)) if name == language]


def commands(page: str) -> list[list[str]]:
    """Returns the shell commands of a page as lists of words, without comments."""
    lines = "".join(snippets(page, "bash")).replace("\\\n", " ").splitlines()
    return [words for words in (shlex.split(line, comments=True) for line in lines) if words]


def prose(page: str) -> str:
    return FENCE.sub("", text_of(page))


def links(page: str) -> list[str]:
    """Returns the targets of the links to files of the repository, with their anchors."""
    targets = re.findall(r"\]\(([^)\s]+)\)", prose(page))
    return [target for target in targets if not target.startswith(("http://", "https://"))]


def anchors(path: Path) -> set[str]:
    """Returns the anchors that GitHub gives to the headings of a page."""
    headings = re.findall(r"^#+ (.*)$", FENCE.sub("", path.read_text(encoding="utf-8")), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading).strip().lower().replace(" ", "-") for heading in headings}


def autodoc_names(page: str) -> list[str]:
    return re.findall(r"^\[\[autodoc\]\] (\S+)$", text_of(page), re.MULTILINE)


def class_references(page: str) -> list[str]:
    """Returns the names of the package that a page refers to in brackets, as in [`OmniVinciConfig`]."""
    return re.findall(r"\[`~?([\w.]+)`\](?!\()", prose(page))
