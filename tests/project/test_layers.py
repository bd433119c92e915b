"""The folders of the package import each other in one direction, and no module imports itself by way of others."""

import ast
import re
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

import omnivinci_hf
from tests.support.paths import ROOT


PACKAGE = Path(omnivinci_hf.__file__).parent
# each folder may import those that stand before it
ORDER = (
    "omnivinci",
    "hub",
    "original_layout",
    "registration",
    "testing",
    "inspection",
    "training",
    "serving",
    "engine",
    "evaluation",
    "world",
    "cli",
)
WORLD_IMPORTERS = {"small", "cli.commands"}


def module_name(path: Path) -> str:
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {module_name(path): path for path in sorted(PACKAGE.rglob("*.py"))}


def imports(name: str, lazy: bool) -> set[str]:
    """Modules of the package that a module imports, with `lazy` also those that its functions import."""
    path, found = MODULES[name], set()
    folder = name.split(".") if path.name == "__init__.py" else name.split(".")[:-1]
    folder = [part for part in folder if part]
    tree = ast.parse(path.read_text(encoding="utf-8"))
    at_import = set(map(id, walk_at_import(tree)))
    for node in ast.walk(tree):
        if not lazy and id(node) not in at_import:
            continue
        if isinstance(node, ast.Import):
            absolute = [alias.name.split(".") for alias in node.names]
            bases = [(parts[1:], ()) for parts in absolute if parts[0] == PACKAGE.name]
        elif isinstance(node, ast.ImportFrom):
            parts = node.module.split(".") if node.module else []
            if node.level == 0 and parts[0] != PACKAGE.name:
                continue
            base = parts[1:] if node.level == 0 else [*folder[: len(folder) - node.level + 1], *parts]
            bases = [(base, [alias.name for alias in node.names])]
        else:
            continue
        for base, names in bases:
            inside = {".".join([*base, one]) for one in names} & MODULES.keys()
            found |= inside or {".".join(base)}
    return found - {name}


def walk_at_import(node: ast.AST):
    """The parts of a module that run when it is imported."""
    for child in ast.iter_child_nodes(node):
        if not isinstance(child, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)):
            yield child
            yield from walk_at_import(child)


@pytest.mark.parametrize("name", sorted(name for name in MODULES if "." in name))
def test_a_module_imports_only_what_stands_before_it(name):
    folder = name.split(".")[0]
    folders = {imported.split(".")[0] for imported in imports(name, lazy=True)} & set(ORDER)
    assert folders <= set(ORDER[: ORDER.index(folder) + 1])


@pytest.mark.parametrize("name", sorted(name for name in MODULES if name.startswith("omnivinci.")))
def test_what_travels_imports_nothing_but_its_siblings(name):
    assert {imported.split(".")[0] for imported in imports(name, lazy=True)} <= {"omnivinci"}


def test_nothing_but_the_demonstration_imports_the_world():
    importers = {name for name in MODULES if any(one.split(".")[0] == "world" for one in imports(name, lazy=True))}
    assert {name for name in importers if name.split(".")[0] != "world"} == WORLD_IMPORTERS


def test_no_module_imports_itself_by_way_of_others():
    graph = {name: imports(name, lazy=False) & MODULES.keys() - {""} for name in MODULES if name}
    assert len(list(TopologicalSorter(graph).static_order())) >= 60  # a circle raises CycleError


def test_every_folder_has_its_place():
    folders = {name.split(".")[0] for name, path in MODULES.items() if path.parent != PACKAGE}
    assert folders <= set(ORDER)


def test_test_modules_share_what_is_in_the_support_folder_alone():
    forbidden = re.compile(r"^\s*(?:from|import) tests\.\w+\.(?:test_|conftest)", re.MULTILINE)
    modules = [path for path in (ROOT / "tests").rglob("*.py") if path.parent.name != "support"]
    assert len(modules) > 50
    assert not [path.name for path in modules if forbidden.search(path.read_text(encoding="utf-8"))]
