"""Importing the package costs little, and the Auto classes know its classes all the same, whoever comes first."""

import subprocess
import sys

import pytest

import omnivinci_hf


HEAVY = ("torch", "transformers", "numpy", "av", "librosa", "tokenizers", "huggingface_hub")
KNOWN = """
from transformers import CONFIG_MAPPING, AutoModel
from transformers.pipelines import PIPELINE_REGISTRY
assert CONFIG_MAPPING["omnivinci"].__name__ == "OmniVinciConfig" and "vila" in CONFIG_MAPPING
assert AutoModel._model_mapping[CONFIG_MAPPING["omnivinci"]].__name__ == "OmniVinciForConditionalGeneration"
assert "omni-qa" in PIPELINE_REGISTRY.get_supported_tasks()
"""


def run(*lines):
    done = subprocess.run([sys.executable, "-c", "\n".join(lines)], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return done.stdout.split()


def test_the_import_brings_nothing_heavy():
    imported = run("import sys, omnivinci_hf", "print(*sys.modules)")
    assert not set(HEAVY) & set(imported)


def test_reading_media_brings_no_model():
    imported = run("import sys", "from omnivinci_hf import MediaError, load_video", "print(*sys.modules)")
    assert not {"omnivinci_hf.omnivinci.modeling_omnivinci", "transformers.modeling_utils", "librosa.filters"} & set(
        imported
    )


def test_the_trainers_of_the_hub_are_imported_when_they_are_used():
    imported = run("import sys, omnivinci_hf.hub", "print(*sys.modules)")
    assert not set(HEAVY) & set(imported)
    run("from omnivinci_hf.hub import HubTrainer, HubTrainerMixin", "assert issubclass(HubTrainer, HubTrainerMixin)")


def test_the_auto_classes_come_later():
    run("import omnivinci_hf", KNOWN)


def test_the_auto_classes_come_first():
    run("from transformers import AutoConfig", "import omnivinci_hf", KNOWN)


def test_a_part_that_is_imported_alone_names_its_auto_class():
    run("from omnivinci_hf import OmniVinciFeatureExtractor as part", "assert part._auto_class", KNOWN)


def test_every_public_name_is_there():
    assert {name for name in omnivinci_hf.__all__ if hasattr(omnivinci_hf, name)} == set(dir(omnivinci_hf))
    assert "load_video" in dir(omnivinci_hf) and omnivinci_hf.__version__


def test_the_watch_ends_when_the_classes_are_registered():
    watched = "watched = [type(finder).__name__ for finder in sys.meta_path].count('_ImportWatch')"
    run("import sys, omnivinci_hf", watched, "assert watched == 1", KNOWN, watched, "assert watched == 0")


def test_the_first_module_of_the_auto_classes_is_enough():
    run(
        "import omnivinci_hf, transformers.models.auto",
        "import transformers.models.auto.configuration_auto as auto",
        "assert 'omnivinci' in auto.CONFIG_MAPPING",
    )


def test_threads_may_import_at_once():
    run(
        "import threading, omnivinci_hf",
        "lines = ['from transformers import AutoModel', 'from omnivinci_hf import OmniVinciProcessor']",
        "done = []",
        "def work(line):",
        "    exec(line)",
        "    done.append(line)",
        "threads = [threading.Thread(target=work, args=(line,)) for line in lines]",
        "[thread.start() for thread in threads], [thread.join() for thread in threads]",
        "assert len(done) == 2",
        KNOWN,
    )


def test_a_thread_may_import_from_transformers_while_another_one_imports_it():
    run(
        "import sys, threading, time, omnivinci_hf",
        "first = threading.Thread(target=__import__, args=('transformers',))",
        "first.start()",
        "while 'transformers' not in sys.modules: time.sleep(0)",
        "assert sys.modules['transformers'].__spec__._initializing",
        "from transformers import AutoModel",
        "first.join()",
        KNOWN,
    )


def test_registering_again_changes_nothing():
    from transformers import CONFIG_MAPPING

    before = list(sys.meta_path)
    omnivinci_hf.registration.register()
    assert sys.meta_path == before and CONFIG_MAPPING["omnivinci"] is omnivinci_hf.OmniVinciConfig


@pytest.mark.parametrize("name", ["OmniVinciConfig", "OmniVinciForConditionalGeneration", "OmniVinciProcessor"])
def test_a_class_that_is_imported_alone_loads_the_original_layout(name, original_folder):
    run(f"from omnivinci_hf import {name}", f"{name}.from_pretrained({str(original_folder)!r})")
