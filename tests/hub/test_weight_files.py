"""Weights are read from safetensors files of the checkpoint's own folder, whatever its files name."""

import json
import pickle

import pytest

from omnivinci_hf import OmniVinciForConditionalGeneration
from omnivinci_hf.omnivinci.checkpoint_files_omnivinci import read_weight_index
from omnivinci_hf.testing import write_tiny_checkpoint
from tests.support.small_model import small_model


INDEX = "model.safetensors.index.json"
NO_INDEX = {
    "{": "is no JSON",
    "\xff": "is no JSON",
    "[" * 100_000: "is no JSON",
    "[]": "must hold a JSON object",
    "3": "must hold a JSON object",
    "{}": "needs an object `weight_map`",
    '{"weight_map": ["model.safetensors"]}': "needs an object `weight_map`",
    '{"weight_map": {}}': "needs an object `weight_map`",
    '{"weight_map": {"a": "a.safetensors"}, "metadata": 3}': "`metadata` must be an object",
}
NO_FILES = [
    3,
    None,
    ["a.safetensors"],
    "weights.bin",
    "model.safetensors.bin",
    ".safetensors",
    "../a.safetensors",
    "/a.safetensors",
    "C:a.safetensors",
    "sub/a.safetensors",
    "sub\\a.safetensors",
    "a.safetensors\n",
]


class Trap:
    """What a pickle can do when it is read."""

    def __reduce__(self):
        return pytest.fail, ("a pickle was read",)


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """A checkpoint in several files, in this package's layout and in the original one, each with a trap beside it."""
    folder = tmp_path_factory.mktemp("weights")
    small_model().save_pretrained(folder / "ordinary", max_shard_size="20KB")
    write_tiny_checkpoint(folder / "original", shards=2)
    for inner in ("ordinary", "original/llm"):
        (folder / inner / "weights.bin").write_bytes(pickle.dumps(Trap()))
    return {"ordinary": folder / "ordinary", "original": folder / "original" / "llm"}


@pytest.mark.parametrize("text", NO_INDEX)
def test_what_is_no_index_is_told(tmp_path, text):
    (tmp_path / INDEX).write_text(text, encoding="latin-1")
    with pytest.raises(ValueError, match=f"{INDEX} .*{NO_INDEX[text]}"):
        read_weight_index(tmp_path / INDEX)


@pytest.mark.parametrize("name", NO_FILES)
def test_only_safetensors_files_beside_it_are_named(tmp_path, name):
    (tmp_path / INDEX).write_text(json.dumps({"metadata": {}, "weight_map": {"a": "a.safetensors", "b": name}}))
    with pytest.raises(ValueError, match="for the tensor b: only safetensors files beside it are read"):
        read_weight_index(tmp_path / INDEX)


@pytest.mark.parametrize("layout", ["ordinary", "original"])
@pytest.mark.parametrize("name", ["weights.bin", "../weights.bin", 3])
def test_a_model_is_never_loaded_from_a_pickle_that_its_index_names(folders, layout, name):
    index = folders[layout] / INDEX
    before = index.read_text()
    changed = json.loads(before)
    changed["weight_map"][min(changed["weight_map"])] = name
    index.write_text(json.dumps(changed))
    folder = index.parent if layout == "ordinary" else index.parents[1]
    with pytest.raises(ValueError, match="only safetensors files beside it are read, never pickles"):
        OmniVinciForConditionalGeneration.from_pretrained(folder)
    index.write_text(before)
    OmniVinciForConditionalGeneration.from_pretrained(folder)


def test_an_index_without_metadata_is_told_before_transformers_fails(folders, tmp_path):
    index = folders["ordinary"] / INDEX
    before = index.read_text()
    index.write_text(json.dumps({"weight_map": json.loads(before)["weight_map"]}))
    with pytest.raises(ValueError, match="has no `metadata`"):
        OmniVinciForConditionalGeneration.from_pretrained(index.parent)
    index.write_text(before)


@pytest.mark.parametrize("name", ["adapter_model.bin", "other.safetensors.index.json"])
def test_the_config_names_no_pickles_either(folders, name):
    folder = folders["ordinary"]
    (folder / "adapter_model.bin").write_bytes(pickle.dumps(Trap()))
    (folder / "other.safetensors.index.json").write_text('{"metadata": {}, "weight_map": {"a": "weights.bin"}}')
    config = folder / "config.json"
    before = config.read_text()
    config.write_text(json.dumps({**json.loads(before), "transformers_weights": name}))
    with pytest.raises(ValueError, match="never pickles"):
        OmniVinciForConditionalGeneration.from_pretrained(folder)
    config.write_text(before)


def test_the_index_of_a_variant_is_looked_at(folders):
    folder = folders["ordinary"]
    (folder / "model.safetensors.index.fp16.json").write_text('{"metadata": {}, "weight_map": {"a": "weights.bin"}}')
    with pytest.raises(ValueError, match="never pickles"):
        OmniVinciForConditionalGeneration.from_pretrained(folder, variant="fp16")
