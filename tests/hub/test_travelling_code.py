"""The code that is saved beside a checkpoint needs nothing of the package, or says so; test_hub.py runs it without."""

import ast
import sys

import pytest
from transformers import dynamic_module_utils

from omnivinci_hf.omnivinci import package_hooks_omnivinci as hooks
from tests.support.paths import ROOT


FOLDER = ROOT / "src" / "omnivinci_hf" / "omnivinci"
MODULES = sorted(path for path in FOLDER.glob("*.py") if path.name != "__init__.py")


@pytest.mark.parametrize("path", MODULES, ids=lambda path: path.stem)
def test_a_travelling_module_imports_nothing_of_the_package_but_its_siblings(path):
    """Transformers copies what `from .name import X` names, and nothing else."""
    names = {path.stem for path in MODULES}
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.level:
            assert node.level == 1 and node.module in names, ast.unparse(node)
        elif isinstance(node, (ast.Import, ast.ImportFrom)):
            modules = [node.module] if isinstance(node, ast.ImportFrom) else [alias.name for alias in node.names]
            assert not [name for name in modules if name.split(".")[0] == "omnivinci_hf"], ast.unparse(node)


def test_all_modules_of_the_folder_travel(saved):
    assert sorted(path.name for path in saved.glob("*.py")) == [path.name for path in MODULES]


@pytest.fixture(scope="module")
def saved(model, processor, tmp_path_factory):
    folder = tmp_path_factory.mktemp("saved")
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def copied_class(saved, tmp_path_factory):
    """Loads a class from the code in the folder, as a machine without the package does."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(dynamic_module_utils, "HF_MODULES_CACHE", str(tmp_path_factory.mktemp("modules")))
        patch.setattr(sys, "path", [*sys.path])
        forget_copied_modules()
        yield lambda name: dynamic_module_utils.get_class_from_dynamic_module(name, str(saved))
        forget_copied_modules()


def forget_copied_modules():
    """Lets the next test import them from another folder."""
    for name in [name for name in sys.modules if name.split(".")[0] == "transformers_modules"]:
        del sys.modules[name]


@pytest.mark.parametrize(
    "name",
    [
        "configuration_omnivinci.OmniVinciConfig",
        "modeling_omnivinci.OmniVinciForConditionalGeneration",
        "processing_omnivinci.OmniVinciProcessor",
    ],
)
def test_copied_code_names_the_package_for_the_original_layout(copied_class, original_folder, name):
    """The package is installed here, but the copy is asked; test_hub.py has a machine without it."""
    message = "is in the original layout .* is installed: `import omnivinci_hf` .* without `trust_remote_c"
    with pytest.raises(ImportError, match=message):
        copied_class(name).from_pretrained(original_folder)


@pytest.mark.parametrize("model_type", ["vila", "audiovisualflamingo"])
def test_copied_code_refuses_an_original_config_without_a_name(copied_class, model_type):
    with pytest.raises(ImportError, match="^This config is in the original layout"):
        copied_class("configuration_omnivinci.OmniVinciConfig").from_dict({"model_type": model_type})


def test_where_the_package_cannot_be_found_it_is_to_be_installed(monkeypatch):
    monkeypatch.setattr(hooks.HOOKS, "original_layout", None)
    monkeypatch.setattr(hooks.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ImportError, match="^me/mine is .* install the package omnivinci_hf"):
        hooks.original_layout("me/mine")


def test_the_package_fills_every_hook():
    assert hooks.HOOKS.original_layout() is sys.modules["omnivinci_hf.original_layout.loading"]
    assert hooks.HOOKS.model_cards() is sys.modules["omnivinci_hf.hub.cards"]
