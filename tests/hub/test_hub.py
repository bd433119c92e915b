"""Pushing to and loading from a Hub, in processes of their own; hub_session.py holds what they do."""

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from huggingface_hub import HfApi, ModelCard, hf_hub_download
from huggingface_hub.errors import EntryNotFoundError, HfHubHTTPError, RepositoryNotFoundError, RevisionNotFoundError
from safetensors.torch import load, save
from transformers.utils import is_peft_available

from tests.support import goldens
from tests.support.adapter_support import transformers_manages_adapters
from tests.support.hub_server import TOKEN, HubServer
from tests.support.paths import PYTHONPATH, ROOT, SUPPORT


ORIGINAL = goldens.SMALL / "checkpoint"
PICKLES = (".bin", ".pt", ".pth", ".pkl", ".pickle", ".ckpt", ".joblib", ".h5", ".msgpack", ".npy")
OWN_CARD = b"---\nlicense: mit\n---\n\nMy own words.\n"
CARD = "README.md"
WEIGHTS = "model.safetensors"


@dataclass
class Sessions:
    hub: HubServer
    results: dict[str, dict]
    requests: dict[str, list]
    folder: Path


@pytest.fixture(scope="module")
def sessions(tmp_path_factory):
    folder = tmp_path_factory.mktemp("hub")
    original = {path.relative_to(ORIGINAL).as_posix(): path for path in ORIGINAL.rglob("*") if path.is_file()}
    original = {name: path.read_bytes() for name, path in original.items()}
    with HubServer() as hub:
        hub.add("org/kept", {CARD: OWN_CARD})
        hub.add("org/kept", {CARD: OWN_CARD}, revision="draft")
        hub.add("original/whole", original)
        hub.add("original/private", {"config.json": b"{}"}, private=True)
        hub.add("original/private", sharded(original), private=True, revision="v2")
        results, requests = {}, {}
        start_and_wait(hub, folder, ["push"], results)
        requests["push"] = list(hub.requests)
        config = {"config.json": hub.repos["org/plain"].files()["config.json"]}
        index = json.dumps({"metadata": {}, "weight_map": {"lm_head.weight": "pytorch_model-00001-of-00001.bin"}})
        hub.add("pickled/whole", {**config, "pytorch_model.bin": b"\x80\x02."})
        hub.add("pickled/sharded", {**config, "pytorch_model.bin.index.json": index.encode()})
        if "org/adapter" in hub.repos:
            adapter = hub.repos["org/adapter"].files()
            config = json.loads(adapter["adapter_config.json"])
            of_private = {**config, "base_model_name_or_path": "original/private", "revision": "v2"}
            hub.add("org/private-adapter", {}, private=True)
            files = {**adapter, "adapter_config.json": json.dumps(of_private).encode()}
            hub.add("org/private-adapter", files, private=True, revision="v2")
            files = {"adapter_config.json": adapter["adapter_config.json"], "adapter_model.bin": b"\x80\x02."}
            hub.add("pickled/adapter", files)
        start_and_wait(hub, folder, ["without", "installed"], results)
        requests["load"] = hub.requests[len(requests["push"]) :]
        yield Sessions(hub, results, requests, folder)


def start_and_wait(hub: HubServer, folder: Path, names: list[str], results: dict) -> None:
    running = {}
    try:
        for name in names:
            command = [sys.executable, str(SUPPORT / "hub_session.py"), name, str(folder)]
            with open(folder / f"{name}.log", "w") as log:
                running[name] = subprocess.Popen(
                    command,
                    cwd=folder,
                    env=environment(hub, folder, name),
                    stdout=log,
                    stderr=log,
                    stdin=subprocess.DEVNULL,
                )
        for name, process in running.items():
            code = process.wait(timeout=240)
            assert code == 0, f"session {name} ended with {code}:\n{(folder / f'{name}.log').read_text()[-4000:]}"
            results[name] = json.loads((folder / f"{name}.json").read_text())
    finally:
        for process in running.values():
            process.kill()
            process.wait()


def environment(hub: HubServer, folder: Path, name: str) -> dict[str, str]:
    left_out = ("HF_", "HUGGING", "TRANSFORMERS_", "PYTHONPATH", "OMNIVINCI")
    kept = {
        key: value for key, value in os.environ.items() if not key.startswith(left_out) and "proxy" not in key.lower()
    }
    kept.update(
        HF_ENDPOINT=hub.url,
        HF_HOME=str(folder / name),
        HF_MODULES_CACHE=str(folder / name / "modules"),
        HF_HUB_DISABLE_XET="1",
        OMP_NUM_THREADS="1",  # two sessions run at once
        HF_HUB_DISABLE_TELEMETRY="1",
        HF_HUB_DISABLE_PROGRESS_BARS="1",
    )
    if name == "push":
        kept["HF_TOKEN"] = TOKEN
    kept["PYTHONPATH"] = str(ROOT) if name == "without" else PYTHONPATH
    return kept


def sharded(original: dict[str, bytes]) -> dict[str, bytes]:
    """The original layout with the language model in two files."""
    files = dict(original)
    tensors = load(files.pop(f"llm/{WEIGHTS}"))
    parts = {"model-00001-of-00002.safetensors": sorted(tensors)[::2], "model-00002-of-00002.safetensors": []}
    parts["model-00002-of-00002.safetensors"] = sorted(tensors)[1::2]
    for file, names in parts.items():
        files[f"llm/{file}"] = save({name: tensors[name] for name in names}, metadata={"format": "pt"})
    weight_map = {name: file for file, names in parts.items() for name in names}
    files[f"llm/{WEIGHTS}.index.json"] = json.dumps({"metadata": {}, "weight_map": weight_map}).encode()
    return files


def card_of(sessions: Sessions, repo_id: str, revision: str = "main") -> ModelCard:
    return ModelCard(sessions.hub.repos[repo_id].files(revision)[CARD].decode())


# -- the package is not there


def test_a_pushed_model_answers_without_the_package(sessions):
    pushed, loaded = sessions.results["push"], sessions.results["without"]
    assert loaded["package"] is None
    assert len({json.dumps(answer) for answer in pushed["answers"]}) == 3
    assert loaded["plain"] == loaded["by hand"] == pushed["answers"]
    remote = [loaded[name].split(".")[0] for name in ("config", "model", "processor")]
    assert remote == ["transformers_modules"] * 3
    assert {part.split(".")[0] for part in loaded["parts"].values()} <= {"transformers_modules"}
    assert "AutoFeatureExtractor" in loaded["parts"]


@pytest.mark.parametrize("name", ["converted", "sharded"])
def test_so_do_converted_and_sharded_ones(sessions, name):
    assert sessions.results["without"][name] == sessions.results["push"]["answers"]


def test_so_does_a_trained_one(sessions):
    pushed = sessions.results["push"]
    assert sessions.results["without"]["trained"] == pushed["trained"] != pushed["answers"]


@pytest.mark.parametrize("loader", ["AutoConfig", "AutoModel", "AutoProcessor", "pipeline"])
def test_code_from_the_hub_must_be_allowed(sessions, loader):
    assert "`trust_remote_code=True`" in sessions.results["without"][f"{loader} untrusted"]


@pytest.mark.parametrize("name", ["OmniVinciConfig", "OmniVinciForConditionalGeneration", "OmniVinciProcessor"])
def test_without_the_package_the_original_layout_is_refused(sessions, name):
    message = sessions.results["without"][f"{name} of the original layout"]
    assert "is in the original layout" in message and "install the package omnivinci_hf" in message


def test_without_the_package_cards_are_left_to_transformers(sessions):
    files = sessions.hub.repos["org/copied"].files()
    assert "This is the model card of a 🤗 transformers model" in files[CARD].decode()
    assert WEIGHTS in files and "modeling_omnivinci.py" in files


# -- the package is there


def test_with_the_package_its_own_classes_load(sessions):
    loaded = sessions.results["installed"]
    names = ("config", "model", "processor", "pipeline")
    assert [loaded[name].split(".")[0] for name in names] == ["omnivinci_hf"] * 4
    assert loaded["plain"] == loaded["by name"] == sessions.results["push"]["answers"]


def test_the_original_layout_loads_by_its_id(sessions):
    loaded, expected = sessions.results["installed"], sessions.results["push"]["answers"]
    assert loaded["original"] == expected
    code, words = loaded["ask"]
    assert code == 0 and words.strip()
    classes = ["OmniVinciConfig", "OmniVinciForConditionalGeneration", "OmniVinciProcessor"]
    assert loaded["original classes"] == [f"omnivinci_hf.{name}" for name in classes]
    assert len(set(loaded["original ids"])) == 1


def test_revision_token_and_cache_dir_reach_every_file_of_the_original_layout(sessions):
    # private, sharded and only on the branch v2
    assert sessions.results["installed"]["private"] == sessions.results["push"]["answers"]
    asked = [request for request in sessions.requests["load"] if "/original/private/resolve/" in request.path]
    with_token = [request for request in asked if request.token == TOKEN]
    assert {request.file for request in with_token} >= {"llm/model-00002-of-00002.safetensors", "llm/tokenizer.json"}
    v2 = sessions.hub.repos["original/private"].branches["v2"]
    elsewhere = [request.file for request in with_token if request.path.split("/")[4] not in ("v2", v2)]
    assert set(elsewhere) <= {"adapter_config.json"}  # which Transformers seeks on main
    cached = [path.name for path in (sessions.folder / "elsewhere").iterdir()]
    assert "models--original--private" in cached
    default = sessions.folder / "installed" / "hub" / "models--original--private"
    assert not list(default.glob("snapshots/*/*"))


def test_a_private_repository_is_refused_without_token(sessions):
    assert "original/private" in sessions.results["installed"]["original/private refused"]


# -- adapters


LOADED = ("adapter by class", "adapter by auto class", "adapter on a model", "adapter by pipeline", "adapter of plain")
LOADED += ("private adapter", "private adapter from the cache", "adapter of transformers", "adapter of the pipeline")
needs_peft = pytest.mark.skipif(not is_peft_available(), reason="peft is not there")


def skip_what_transformers_refuses(name: str) -> None:
    if name.endswith(("of-transformers", "of transformers")) and not transformers_manages_adapters():
        pytest.skip("This Transformers wants a newer PEFT to add an adapter.")


@needs_peft
@pytest.mark.parametrize("way", LOADED)
def test_an_adapter_loads_by_its_id(sessions, way):
    """Its model has the original layout, but for "plain"; revision, token and cache are passed on."""
    skip_what_transformers_refuses(way)
    expected = sessions.results["push"]["adapted"]
    assert sessions.results["installed"][way] == expected != sessions.results["push"]["answers"]


@needs_peft
def test_an_adapter_of_an_ordinary_repository_needs_no_package(sessions):
    assert sessions.results["without"]["adapted"] == sessions.results["push"]["adapted"]


@needs_peft
@pytest.mark.parametrize("way", ["by class", "on a model"])
def test_pickled_adapters_are_refused(sessions, way):
    assert "pickled adapters are never read" in sessions.results["installed"][f"pickled adapter {way}"]
    assert "/pickled/adapter/resolve/main/adapter_model.bin" not in {item.path for item in sessions.requests["load"]}


@needs_peft
@pytest.mark.parametrize("name", ["of-pipeline", "of-transformers", "trained"])
def test_a_pushed_adapter_says_what_it_belongs_to(sessions, name):
    skip_what_transformers_refuses(name)
    card, files = card_of(sessions, f"org/adapter-{name}"), sessions.hub.repos[f"org/adapter-{name}"].files()
    assert (card.data.library_name, card.data.base_model) == ("peft", "original/whole")
    assert card.data.base_model_relation == "adapter" and "custom_code" not in card.data.tags
    assert f'"original/whole", dtype="auto"), "org/adapter-{name}")' in card.text
    assert ("`HubTrainer`; steps: 2" in card.text) == (name == "trained")
    assert "adapter_model.safetensors" in files and WEIGHTS not in files


# -- training


@pytest.mark.parametrize("strategy", ["every_save", "checkpoint", "all_checkpoints"])
def test_every_push_of_a_training_brings_code_and_no_pickle(sessions, strategy):
    files = sessions.hub.repos[f"org/{strategy}"].files()
    assert {"config.json", WEIGHTS, "modeling_omnivinci.py", "processor_config.json", "training_args.json"} <= set(
        files
    )
    assert not [path for path in files if path.endswith(PICKLES)]
    ignored = files[".gitignore"].decode().split()
    assert ignored[:2] == ["*.log", "!*.pt"] and "*.pt" in ignored[2:]
    states = [f"{name}.{end}" for name in ("optimizer", "rng_state_0") for end in ("json", "safetensors")]
    folders = {"checkpoint": ["last-checkpoint"], "all_checkpoints": ["checkpoint-1", "checkpoint-2"]}.get(strategy, [])
    expected = {f"{folder}/{state}" for folder in folders for state in states}
    assert {path for path in files if "optimizer" in path or "rng_state" in path} == expected
    assert {path.split("/")[0] for path in files if "/" in path} == set(folders)


def test_what_was_pushed_while_training_loads_without_the_package(sessions):
    assert sessions.results["without"]["every_save"] == sessions.results["push"]["every_save"]


# -- pickles, and other machines


def test_pickled_weights_are_refused(sessions):
    loaded = sessions.results["installed"]
    for name in ("pickled/whole", "pickled/sharded"):
        assert f"{name} has no safetensors weights" in loaded[f"{name} refused"]
    assert "`use_safetensors=False` is not supported" in loaded["unsafe refused"]


def test_no_pickle_is_asked_for_or_uploaded(sessions):
    assert not [request.path for request in sessions.requests["load"] if request.path.split("?")[0].endswith(PICKLES)]
    uploaded = [(repo, path) for repo, path in sessions.hub.uploads if path.endswith(PICKLES)]
    # Transformers' own trainer writes its arguments so; ours does not
    assert uploaded == [("org/trained", "training_args.bin")]


def test_every_request_was_one_that_the_hub_knows(sessions):
    # nor was another machine spoken to: hub_session.py does not allow it
    unknown = [request for request in sessions.hub.requests if request.status in (400, 405, 413, 416, 429, 500)]
    assert not unknown
    commits = [request for request in sessions.requests["push"] if "/commit/" in request.path]
    assert commits and all(request.token == TOKEN for request in commits)


# -- what is pushed


def test_every_way_of_pushing_writes_the_same_files(sessions):
    repos = sessions.hub.repos
    plain = repos["org/plain"].files()
    assert {"config.json", WEIGHTS, CARD, "chat_template.jinja", "processor_config.json"} <= set(plain)
    assert set(repos["org/pipe"].files()) == set(plain)
    for name in ("org/pipe", "org/saved", "org/converted"):
        files = repos[name].files()
        assert set(files) == set(plain)
        assert all(files[path] == plain[path] for path in plain if path.endswith((".py", ".jinja")))
        assert json.loads(files["config.json"]) == json.loads(plain["config.json"])
        tensors, expected = load(files[WEIGHTS]), load(plain[WEIGHTS])
        assert tensors.keys() == expected.keys()
        assert all(torch.equal(tensors[key], expected[key]) for key in expected)
    assert set(repos["org/trained"].files()) == {*plain, "training_args.bin"}
    assert set(repos["org/trained-with-card"].files()) == {*plain, "training_args.json", ".gitignore"}
    assert repos["org/saved"].private
    draft = repos["org/sharded"].files("draft")
    assert len([path for path in draft if path.endswith(".safetensors")]) > 1
    assert set(repos["org/sharded"].files("main")) == {".gitattributes"}


def test_pushed_models_have_a_card_and_keep_an_own_one(sessions):
    card = card_of(sessions, "org/plain")
    assert card.data.library_name == "transformers" and card.data.pipeline_tag == "any-to-any"
    assert {"omnivinci", "mine"} <= set(card.data.tags)
    assert "A small checkpoint" in card.text and 'model="org/plain"' in card.text
    assert "A small checkpoint" in card_of(sessions, "org/pipe").text
    assert "A small checkpoint" in card_of(sessions, "org/sharded", "draft").text
    assert "`omnivinci-hf convert`" in card_of(sessions, "org/converted").text
    for branch in ("main", "draft"):
        assert card_of(sessions, "org/kept", branch).content.split() == OWN_CARD.decode().split()


def test_the_trainer_writes_what_it_did(sessions):
    card = card_of(sessions, "org/trained-with-card")
    assert "A fine-tuned OmniVinci model" in card.text
    assert "`HubTrainer`; steps: 1" in card.text and "learning rate 0.001" in card.text
    arguments = json.loads(sessions.hub.repos["org/trained-with-card"].files()["training_args.json"])
    assert arguments["max_steps"] == 1


# -- the server itself


def test_the_server_speaks_as_the_hub_does(tmp_path):
    with HubServer() as hub:
        sha = hub.add("me/it", {"a.json": b"{}", "sub/b.txt": b"0123456789", WEIGHTS: b"x" * 100})
        api = HfApi(endpoint=hub.url, token=False)
        assert api.model_info("me/it").sha == sha
        assert {"a.json", "sub/b.txt", WEIGHTS} <= set(api.list_repo_files("me/it"))
        for file in ("a.json", "sub/b.txt"):
            path = hf_hub_download("me/it", file, endpoint=hub.url, cache_dir=tmp_path, token=False)
            assert sha in path and Path(path).read_bytes() == hub.repos["me/it"].files()[file]
        for error, repo, file, revision in (
            (EntryNotFoundError, "me/it", "none", None),
            (RevisionNotFoundError, "me/it", "a.json", "none"),
            (RepositoryNotFoundError, "me/none", "a.json", None),
        ):
            with pytest.raises(error):
                hf_hub_download(repo, file, revision=revision, endpoint=hub.url, cache_dir=tmp_path, token=False)
        with pytest.raises(HfHubHTTPError, match="401"):
            api.create_repo("me/new")
