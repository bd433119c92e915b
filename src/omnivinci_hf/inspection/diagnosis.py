"""This module declares what a diagnosis of a checkpoint holds, and keeps what is private out of it."""

import os
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any


# An absolute path, of Unix or of Windows; neither a URL nor a closing tag of a template is one.
ABSOLUTE_PATH = re.compile(r"(?<![\w.~/:<>\\\0])(?:/|[A-Za-z]:[\\/])(?:[\w.+@ -]+[\\/])+([\w.+@-]*)")
TOKEN = re.compile(r"\bhf_[A-Za-z0-9]{16,}")


@dataclass
class WeightPart:
    """These are the tensors of one component.

    Args:
        name: its folder, or what the names of its tensors begin with.
        model_type: what its configuration calls it.
        num_parameters: numbers in its tensors, by dtype as safetensors calls it.
    """

    name: str
    model_type: str | None
    num_files: int
    num_tensors: int
    num_bytes: int
    num_parameters: dict[str, int]


@dataclass
class Diagnosis:
    """This is what a checkpoint was found to be.

    Args:
        name: as the user gave it.
        commit: of a repository on the Hub.
        versions: of this package and of what it is built on.
        layout: in words.
        loads: whether model and processor load, as `from_pretrained` does it; None where headers do not tell.
        obstacle: what stops that, in its words.
        num_bytes, num_bytes_read: of all files, and those that were read for the diagnosis.
        parts: the weights, as far as their headers can be read.
        settings: what the model is built with, subject by subject, in words.
        tokenizer, generation, processor: facts by name; None where they do not load.
        chat_template: of the processor.
        example_prompt: what the template makes of one question.
        random_tensors: those that the checkpoint lacks and that would begin with random numbers.
        assumed: what the files leave open, and what was taken for it.
        unusual: what is not as in the checkpoints that are known.
        ignored: entries of configurations, by path, that nothing here reads; without those that every file has.
        messages: of the libraries while they loaded.
        files: size in bytes by path.
        configurations: what the configurations and templates hold, by path.
        tensors: by path of the file and name of the tensor, dtype and shape.
        base: of an adapter, the model that it belongs to.
    """

    name: str
    commit: str | None
    versions: dict[str, str]
    layout: str
    loads: bool | None = False
    obstacle: str | None = None
    num_bytes: int = 0
    num_bytes_read: int = 0
    parts: list[WeightPart] = field(default_factory=list)
    settings: dict[str, str] = field(default_factory=dict)
    tokenizer: dict[str, Any] | None = None
    chat_template: str | None = None
    example_prompt: str | None = None
    generation: dict[str, Any] | None = None
    processor: dict[str, Any] | None = None
    random_tensors: list[str] = field(default_factory=list)
    assumed: list[str] = field(default_factory=list)
    unusual: list[str] = field(default_factory=list)
    ignored: dict[str, list[str]] = field(default_factory=dict)
    messages: list[str] = field(default_factory=list)
    files: dict[str, int] = field(default_factory=dict)
    configurations: dict[str, Any] = field(default_factory=dict)
    tensors: dict[str, dict[str, Any]] = field(default_factory=dict)
    base: "Diagnosis | None" = None

    def as_dict(self) -> dict[str, Any]:
        """Returns plain data, as `omnivinci-hf doctor --json` prints it."""
        return asdict(self)


def without_private(value: Any, known: Mapping[str, str]) -> Any:
    """Returns plain data with known folders under their known names, other absolute paths cut down to their last parts,
    and access tokens taken out.

    Args:
        known: names by folders; a folder that the user typed stands for itself.
    """
    if isinstance(value, dict):
        return {without_private(name, known): without_private(one, known) for name, one in value.items()}
    if isinstance(value, list | tuple):
        return [without_private(one, known) for one in value]
    return _text_without_private(value, known) if isinstance(value, str) else value


def _text_without_private(text: str, known: Mapping[str, str]) -> str:
    # Marks that no text has stand for the known folders while other paths are cut.
    names = list(dict.fromkeys(known.values()))
    for folder in sorted(known, key=len, reverse=True):
        text = re.sub(re.escape(folder) + r"(?![\w-]|\.\w)", f"\0{names.index(known[folder])}\0", text)
    text = ABSOLUTE_PATH.sub(lambda match: f".../{match[1]}", text)
    text = TOKEN.sub("hf_...", text)
    return re.sub("\0(\\d+)\0", lambda match: names[int(match[1])], text)


def folders_of(name: str, folder: str) -> dict[str, str]:
    """Returns the ways in which errors may write the folder of a checkpoint, each with its name for the user."""
    return {way: name for way in (folder, os.path.abspath(folder), os.path.realpath(folder))}
