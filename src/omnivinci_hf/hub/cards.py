"""This module writes model cards: the README.md of a repository on the Hub, from the templates in `model_cards/`.

`registration` puts it into the hook `model_cards` of `package_hooks_omnivinci`; `checkpoint_files_omnivinci` says
which pushes have such a card.
"""

import hashlib
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from huggingface_hub import ModelCard, ModelCardData

from ..omnivinci.checkpoint_files_omnivinci import ORIGINAL


def find_templates(folder: Path) -> Path:
    """Returns the folder of the templates: in the package's `folder`, or at the top of the repository.

    In a checkout the former is a link to the latter, but some are without links: those unpacked from a ZIP file, and on
    Windows.
    """
    in_package = folder / "model_cards"
    return in_package if in_package.is_dir() else folder.parents[2] / "model_cards"


TEMPLATES = find_templates(Path(__file__).parent)
CARD_KINDS = ("converted", "small", "derived", "fine_tuned", "adapter")
HUB = "https://huggingface.co/"
SMALL_LIMIT = 4e9  # parameters; the original model has 8.7 billion
CODE_LICENCE = "The code in this repository (`*_omnivinci.py`) is Apache-2.0."
UNKNOWN_SOURCE = "a checkpoint that its author has not named"
SUCCESSOR = "nvidia/nemotron-labs-audio-visual-flamingo"  # Audio-Visual Flamingo, which has OmniVinci's architecture
SUCCESSOR_NAME = re.compile("audio[-_]?visual[-_]?flamingo", re.IGNORECASE)
SUCCESSOR_PAPER = "Audio-Visual Flamingo, [arXiv 2607.16107](https://arxiv.org/abs/2607.16107)"
UNKNOWN_SOURCES = {"converted": f"a checkpoint in the layout of [{ORIGINAL}]({HUB}{ORIGINAL})"}
FINGERPRINT = "<!-- written by a trainer; sha256 of the above: "
UNKNOWN_TRAINING = "Its author has not described it yet: data, training and evaluation belong here."


def render_model_card(
    kind: str,
    repo_id: str,
    *,
    base_model: str | None = None,
    num_parameters: int | None = None,
    license: str | None = None,
    relation: str | None = None,
    training: str | None = None,
    tags: Sequence[str] = (),
    datasets: Sequence[str] = (),
) -> ModelCard:
    """Renders the card of a repository from the template of its kind.

    Args:
        kind (`str`): "converted" (the original weights in the ordinary layout), "small", "derived" (whatever was done
            to the base model, if anything), "fine_tuned" or "adapter" (of PEFT).
        repo_id (`str`): where the card will lie, for title and snippets.
        base_model (`str`, *optional*): hub id of the model that this one was made from.
        num_parameters (`int`, *optional*): of the model.
        license (`str`, *optional*): of the weights, as the Hub spells it. By default that of `base_model`, by link;
            without base model "unknown".
        relation (`str`, *optional*): to the base model, as the Hub spells it, where it is no fine-tuned one.
        training (`str`, *optional*): Markdown that says how the model was made (all but "converted").
        tags, datasets (`Sequence[str]`): for the metadata, in addition to those that every card has.

    Raises:
        ValueError: for an unknown kind.
    """
    if kind not in CARD_KINDS:
        raise ValueError(f"`kind` must be one of {CARD_KINDS}, got {kind!r}.")
    terms, licence = _licence(kind, license, base_model)
    is_adapter, of_successor = kind == "adapter", bool(SUCCESSOR_NAME.search(base_model or ""))
    code = [] if is_adapter else ["custom_code"]
    default_tags = ["omnivinci", "omni-modal", "video", "audio", "omni-qa", *code]
    data = ModelCardData(
        **terms,
        library_name="peft" if is_adapter else "transformers",
        pipeline_tag="any-to-any",
        base_model=base_model,
        base_model_relation="adapter" if is_adapter else relation,
        tags=list(dict.fromkeys([*default_tags, *tags])),
        datasets=list(datasets) or None,
    )
    usage = _template("usage_adapter" if is_adapter else "usage").replace("{{ repo_id }}", repo_id)
    return ModelCard.from_template(
        data,
        template_str=_template(kind),
        title=repo_id.split("/")[-1],
        source=_source(base_model) if base_model else UNKNOWN_SOURCES.get(kind, UNKNOWN_SOURCE),
        size="" if num_parameters is None else f" {_in_words(num_parameters)} parameters.",
        usage=usage.replace("{{ base_model }}", base_model or "path/to/the/model"),
        training=training or UNKNOWN_TRAINING,
        limits=_template("limits"),
        licence=licence,
        citation="\n\n".join(_template(name) for name in ("citation", *["citation_successor"] * of_successor)),
    )


def _licence(kind: str, license: str | None, base_model: str | None) -> tuple[dict[str, Any], str]:
    """Returns what the metadata and the text of a card say about the licence of the weights."""
    terms: dict[str, Any]
    if license is not None:
        terms = {"license": license}
        text = f"The weights are under the licence {license}. {CODE_LICENCE}"
    elif base_model is not None:
        name = base_model.replace("/", "-").lower()
        terms = {"license": "other", "license_name": name, "license_link": HUB + base_model}
        text = f"The weights are under the licence of {_link(base_model)}, see there. {CODE_LICENCE}"
    else:
        terms = {"license": "unknown"}
        text = f"No licence is stated for the weights. {CODE_LICENCE}"
    if base_model != ORIGINAL and kind != "small":
        text += f" The weights of {_link(ORIGINAL)} have a licence of their own: see its model card."
    return terms, text


def card_of_model(model: Any, repo_id: str, **options: Any) -> ModelCard:
    """Renders the card that fits a model, also one with adapters; `options` as in [`render_model_card`].

    Only with `training` it says that the model was fine-tuned: weights do not tell whether they were changed since
    they were loaded.
    """
    bare = model.get_base_model() if hasattr(model, "get_base_model") else model
    num_parameters = bare.num_parameters()
    base_model = hub_id(bare.name_or_path)
    if base_model == repo_id:  # it is pushed again to where it came from
        base_model = None
    facts: dict[str, Any] = {"base_model": base_model, "num_parameters": num_parameters}
    if bare is not model or getattr(model, "_hf_peft_config_loaded", False):
        facts = {"kind": "adapter", "base_model": base_model}
    elif options.get("training"):
        facts["kind"] = "fine_tuned"
    elif base_model is None and num_parameters < SMALL_LIMIT:
        facts["kind"] = "small"
    else:
        facts["kind"] = "derived"
        if base_model and getattr(bare.config, "quantization_config", None) is not None:
            facts["relation"] = "quantized"
    return render_model_card(repo_id=repo_id, **{**facts, **options})


def hub_id(name_or_path: str | None) -> str | None:
    """Returns the name of a model on the Hub, or None if it is a folder."""
    name = str(name_or_path or "")
    is_id = re.fullmatch(r"[\w.-]+/[\w.-]+", name) and not name.startswith(".") and not os.path.exists(name)
    return name if is_id else None


def with_fingerprint(card: str) -> str:
    """Returns the text of a card and, after it, a fingerprint that tells it from one that somebody changed.

    The fingerprint is a comment, which is not shown.
    """
    return f"{card.rstrip()}\n\n{FINGERPRINT}{_fingerprint(card)} -->\n"


def has_fingerprint(card: str) -> bool:
    """Says whether a card is as [`with_fingerprint`] returned it."""
    card, mark, end = card.rpartition(FINGERPRINT)
    return bool(mark) and end.strip() == f"{_fingerprint(card)} -->"


def _fingerprint(card: str) -> str:
    lines = "\n".join(card.strip().splitlines())  # whichever way lines end
    return hashlib.sha256(lines.encode()).hexdigest()


def _template(name: str) -> str:
    return (TEMPLATES / f"{name}.md").read_text(encoding="utf-8").rstrip("\n") + "\n" * (name in CARD_KINDS)


def _source(base_model: str) -> str:
    """Returns a link to the base model, with the paper of the successor where it is that."""
    return _link(base_model) + (f" ({SUCCESSOR_PAPER})" if SUCCESSOR_NAME.search(base_model) else "")


def _link(repo_id: str) -> str:
    return f"[{repo_id}]({HUB}{repo_id})"


def _in_words(number: int) -> str:
    for limit, letter in ((1e9, "B"), (1e6, "M"), (1e3, "k")):
        if number >= limit:
            return f"{number / limit:.1f} {letter}"
    return str(number)
