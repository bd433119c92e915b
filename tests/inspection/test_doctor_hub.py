"""The doctor at a Hub: what it tells of repositories, and how little of them it fetches."""

import json
import os
import shutil
import subprocess
import sys

import pytest

from omnivinci_hf.inspection.doctor import diagnose
from tests.support import damaged_checkpoints
from tests.support.hub_server import TOKEN, HubServer
from tests.support.sparse_checkpoint import write_sparse_file
from tests.support.successor_checkpoints import write_one_folder


LARGE = 100 * 2**20
DAMAGES = (damaged_checkpoints.cut_data, damaged_checkpoints.cut_header, damaged_checkpoints.missing_shard)


def files_of(folder) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def diagnose_all(hub, folder, asked, **environment):
    """Diagnoses in a process of its own: `asked` has the name, revision and token of each by a key of the results."""
    file = folder / "asked.json"
    file.write_text(json.dumps(list(asked.values())))
    kept = {name: value for name, value in os.environ.items() if not name.startswith("HF_")}
    kept |= {"HF_ENDPOINT": hub.url, "HF_HOME": str(folder / "home"), "HF_HUB_DISABLE_XET": "1", **environment}
    command = [sys.executable, "-m", "tests.support.doctor_session", str(file)]
    done = subprocess.run(command, env=kept, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return dict(zip(asked, json.loads(file.read_text()), strict=True))


@pytest.fixture(scope="module")
def session(original_folder, tmp_path_factory):
    """The Hub, the folder of the session, and what was told of each repository."""
    folder = tmp_path_factory.mktemp("doctor")
    with HubServer() as hub:
        hub.add("nvidia/omnivinci", {"README.md": b"Moved."})
        hub.add("nvidia/omnivinci", {**files_of(original_folder), "README.md": b"x" * 100}, revision="v1")
        hub.add("nvidia/audio-visual-flamingo-hf", files_of(write_one_folder(original_folder, folder / "successor")))
        for damage in DAMAGES:
            damage(shutil.copytree(original_folder, folder / damage.__name__))
            hub.add(f"damaged/{damage.__name__}", files_of(folder / damage.__name__))
        hub.add("me/private", files_of(original_folder), private=True)
        hub.add("me/gated", files_of(original_folder), gated=True)
        hub.add("me/large", files_of(original_folder) | large_weights(folder))
        adapter = {"base_model_name_or_path": "nvidia/omnivinci", "revision": "v1", "peft_type": "LORA"}
        hub.add("me/adapter", {"adapter_config.json": json.dumps(adapter).encode()})
        names = ["nvidia/omnivinci", "nvidia/audio-visual-flamingo-hf", "me/private", "me/gated", "me/none"]
        names += [*(f"damaged/{damage.__name__}" for damage in DAMAGES), "me/adapter"]
        asked = {name: (name, None, None) for name in names}
        asked |= {f"revision {name}": ("nvidia/omnivinci", name, None) for name in ("v1", "v2")}
        asked |= {"with a token": ("me/private", None, TOKEN), "me/large": ("me/large", None, None)}
        yield hub, folder, diagnose_all(hub, folder, asked)


@pytest.fixture(scope="module")
def told(session):
    return session[2]


def large_weights(folder) -> dict[str, bytes]:
    """A language model of 100 MB in four files; its shapes are not those of the config."""
    files, weight_map = {"llm/model.safetensors": None}, {}
    for number in range(4):
        name = f"model-0000{number + 1}-of-00004.safetensors"
        tensors = {f"model.layers.{number}.{row}": [LARGE // 800, 1] for row in range(100)}
        write_sparse_file(folder / name, tensors)
        files[f"llm/{name}"] = (folder / name).read_bytes()
        weight_map |= dict.fromkeys(tensors, name)
    files["llm/model.safetensors.index.json"] = json.dumps({"metadata": {}, "weight_map": weight_map}).encode()
    return files


def test_repository_is_told_like_a_folder(told):
    facts = told["revision v1"]
    assert facts["loads"] and facts["name"] == "nvidia/omnivinci" and len(facts["commit"]) == 40
    assert {part["name"]: part["num_tensors"] for part in facts["parts"]}["vision_tower"] == 64
    assert facts["tokenizer"]["num_tokens"] == 469 and facts["files"]["README.md"] == 100


def test_revision_is_the_one_asked_for(told):
    assert told["nvidia/omnivinci"]["obstacle"] == "nvidia/omnivinci holds no checkpoint (no config.json)."
    assert "v2 is not a valid git identifier" in told["revision v2"]["error"]


def test_successor_is_told(told):
    facts = told["nvidia/audio-visual-flamingo-hf"]
    assert facts["loads"] and facts["layout"].startswith("of Audio-Visual Flamingo, in one folder")
    assert {part["name"]: part["model_type"] for part in facts["parts"]}["llm"] == "qwen2"


@pytest.mark.parametrize("damage", [damage.__name__ for damage in DAMAGES])
def test_damage_is_told_by_the_name_of_the_repository(session, damage):
    _, folder, told = session
    facts, local = told[f"damaged/{damage}"], diagnose(folder / damage)
    assert not facts["loads"] and not local.loads
    assert facts["obstacle"] == local.obstacle.replace(local.name, f"damaged/{damage}")


def test_large_repository_costs_little(session):
    hub, _, told = session
    facts = told["me/large"]
    assert not facts["loads"] and "does not fit its configuration" in facts["obstacle"]
    assert facts["num_bytes"] > LARGE and facts["num_bytes_read"] < 200_000
    first = next(number for number, request in enumerate(hub.requests) if "/me/large/" in request.path)
    assert 0 < sum(request.num_bytes for request in hub.requests[first:]) < 2 * 2**20


def test_what_nobody_may_read_is_an_error(told):
    for name in ("me/private", "me/none"):
        assert f"{name} is not a local folder and is not a valid model identifier" in told[name]["error"]
    assert "gated" in told["me/gated"]["error"]
    assert told["with a token"]["loads"]


def test_adapter_without_weights_is_told_with_its_base(told):
    facts = told["me/adapter"]
    assert not facts["loads"] and facts["base"]["loads"] and facts["base"]["name"] == "nvidia/omnivinci"
    assert "me/adapter has no adapter_model.safetensors" in facts["obstacle"]


@pytest.mark.slow
def test_offline_the_cache_is_told(session):
    hub, folder, _ = session
    num_requests = len(hub.requests)
    asked = {"cached": ("nvidia/omnivinci", "v1", None), "never": ("me/never", None, None)}
    told = diagnose_all(hub, folder, asked, HF_HUB_OFFLINE="1")
    assert len(hub.requests) == num_requests
    assert told["cached"]["unusual"][-1].startswith("The Hub was not asked")
    assert "nvidia/omnivinci has no llm/model.safetensors" in told["cached"]["obstacle"]
    assert "me/never" in told["never"]["error"]
