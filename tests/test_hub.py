"""Pushing to and loading from a Hub, in processes of their own; hub_session.py holds what they do."""

import copy
import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import goldens
import numpy as np
import pytest
import torch
from hub_server import TOKEN, HubServer
from huggingface_hub import HfApi, ModelCard, ModelCardData, hf_hub_download
from huggingface_hub.errors import EntryNotFoundError, HfHubHTTPError, RepositoryNotFoundError, RevisionNotFoundError
from safetensors.torch import load, save
from small_model import small_model
from transformers import Trainer, TrainingArguments
from transformers.utils import is_peft_available

from omnivinci_hf import model_card_omnivinci as cards
from omnivinci_hf.hub_trainer import HubTrainer, load_state, save_state


TESTS = Path(__file__).parent
RELEASED = goldens.SMALL / "checkpoint"
PICKLES = (".bin", ".pt", ".pth", ".pkl", ".pickle", ".ckpt", ".h5", ".msgpack", ".npy")
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
    released = {path.relative_to(RELEASED).as_posix(): path for path in RELEASED.rglob("*") if path.is_file()}
    released = {name: path.read_bytes() for name, path in released.items()}
    with HubServer() as hub:
        hub.add("org/kept", {CARD: OWN_CARD})
        hub.add("org/kept", {CARD: OWN_CARD}, revision="draft")
        hub.add("released/whole", released)
        hub.add("released/private", {"config.json": b"{}"}, private=True)
        hub.add("released/private", sharded(released), private=True, revision="v2")
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
            of_private = {**config, "base_model_name_or_path": "released/private", "revision": "v2"}
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
            command = [sys.executable, str(TESTS / "hub_session.py"), name, str(folder)]
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
    if name != "without":
        kept["PYTHONPATH"] = str(TESTS.parent / "src")
    return kept


def sharded(released: dict[str, bytes]) -> dict[str, bytes]:
    """The released layout with the language model in two files."""
    files = dict(released)
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


# -- the package is there


def test_with_the_package_its_own_classes_load(sessions):
    loaded = sessions.results["installed"]
    names = ("config", "model", "processor", "pipeline")
    assert [loaded[name].split(".")[0] for name in names] == ["omnivinci_hf"] * 4
    assert loaded["plain"] == loaded["by name"] == sessions.results["push"]["answers"]


def test_the_released_layout_loads_by_its_id(sessions):
    loaded, expected = sessions.results["installed"], sessions.results["push"]["answers"]
    assert loaded["released"] == expected
    code, words = loaded["ask"]
    assert code == 0 and words.strip()
    classes = ["OmniVinciConfig", "OmniVinciForConditionalGeneration", "OmniVinciProcessor"]
    assert loaded["released classes"] == [f"omnivinci_hf.{name}" for name in classes]
    assert len(set(loaded["released ids"])) == 1


def test_revision_token_and_cache_dir_reach_every_file_of_the_released_layout(sessions):
    # private, sharded and only on the branch v2
    assert sessions.results["installed"]["private"] == sessions.results["push"]["answers"]
    asked = [request for request in sessions.requests["load"] if "/released/private/resolve/" in request.path]
    with_token = [request for request in asked if request.token == TOKEN]
    assert {request.file for request in with_token} >= {"llm/model-00002-of-00002.safetensors", "llm/tokenizer.json"}
    v2 = sessions.hub.repos["released/private"].branches["v2"]
    elsewhere = [request.file for request in with_token if request.path.split("/")[4] not in ("v2", v2)]
    assert set(elsewhere) <= {"adapter_config.json"}  # which Transformers 5.17 seeks on main
    cached = [path.name for path in (sessions.folder / "elsewhere").iterdir()]
    assert "models--released--private" in cached
    default = sessions.folder / "installed" / "hub" / "models--released--private"
    assert not list(default.glob("snapshots/*/*"))


def test_a_private_repository_is_refused_without_token(sessions):
    assert "released/private" in sessions.results["installed"]["released/private refused"]


# -- adapters


LOADED = ("adapter by class", "adapter by auto class", "adapter on a model", "adapter by pipeline", "adapter of plain")
LOADED += ("private adapter", "private adapter from the cache", "adapter of transformers", "adapter of the pipeline")
needs_peft = pytest.mark.skipif(not is_peft_available(), reason="peft is not there")


@needs_peft
@pytest.mark.parametrize("way", LOADED)
def test_an_adapter_loads_by_its_id(sessions, way):
    """Its model has the released layout, but for "plain"; revision, token and cache are passed on."""
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
    card, files = card_of(sessions, f"org/adapter-{name}"), sessions.hub.repos[f"org/adapter-{name}"].files()
    assert (card.data.library_name, card.data.base_model) == ("peft", "released/whole")
    assert card.data.base_model_relation == "adapter" and "custom_code" not in card.data.tags
    assert f'"released/whole", dtype="auto"), "org/adapter-{name}")' in card.text
    assert ("`HubTrainer`; steps: 2" in card.text) == (name == "trained")
    assert "adapter_model.safetensors" in files and WEIGHTS not in files


def test_only_an_untouched_placeholder_of_peft_is_replaced(model, tmp_path):
    peft = pytest.importorskip("peft")
    tuned = peft.get_peft_model(copy.deepcopy(model), peft.LoraConfig(target_modules=r".*language_model.*q_proj"))
    tuned.create_or_update_model_card(tmp_path)
    card = ModelCard.load(tmp_path / CARD)
    assert cards.is_placeholder(card)
    card.text += "\nMy words.\n"
    assert not cards.is_placeholder(card)


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


def small_trainer(folder, steps, trainer_class=HubTrainer, **options):
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(6, 99, (6, 8), generator=generator)
    arguments = TrainingArguments(
        output_dir=str(folder),
        max_steps=steps,
        save_steps=2,
        learning_rate=1e-2,
        lr_scheduler_type="cosine",
        per_device_train_batch_size=1,
        report_to="none",
        use_cpu=True,
        disable_tqdm=True,
        **options,
    )
    rows = [{"input_ids": row, "attention_mask": torch.ones_like(row), "labels": row} for row in ids]
    return trainer_class(model=small_model(), args=arguments, train_dataset=rows)


def test_training_goes_on_from_a_checkpoint_without_pickles(tmp_path):
    whole = small_trainer(tmp_path, 4)
    whole.train()
    checkpoint = tmp_path / "checkpoint-2"
    assert not [path for path in tmp_path.rglob("*") if path.suffix in PICKLES]
    again = small_trainer(tmp_path / "again", 4)
    again.train(resume_from_checkpoint=str(checkpoint))
    assert again.state.global_step == 4
    expected = whole.model.state_dict()
    assert all(torch.equal(value, expected[name]) for name, value in again.model.state_dict().items())
    # and it is the states that make the difference
    for path in (*checkpoint.glob("optimizer.*"), *checkpoint.glob("scheduler.*")):
        path.unlink()
    other = small_trainer(tmp_path / "other", 4)
    other.train(resume_from_checkpoint=str(checkpoint))
    assert not all(torch.equal(value, expected[name]) for name, value in other.model.state_dict().items())


def test_states_that_another_trainer_pickled_are_refused(tmp_path):
    small_trainer(tmp_path, 2, trainer_class=Trainer).train()
    with pytest.raises(ValueError, match=r"its \['optimizer.pt', 'scheduler.pt'\] are pickles"):
        small_trainer(tmp_path / "again", 4).train(resume_from_checkpoint=str(tmp_path / "checkpoint-2"))


def test_states_are_kept_as_they_are(tmp_path):
    state = {"state": {0: {"step": torch.tensor(3.0), "moment": torch.arange(6).view(2, 3).T}}, "betas": (0.9, 0.99)}
    state |= {"groups": [{"lr": 1e-3, "name": None, "fused": True}], "best": float("inf"), "count": np.int64(3)}
    save_state(state, tmp_path / "state")
    found = load_state(tmp_path / "state")
    assert all(torch.equal(found["state"][0].pop(name), state["state"][0].pop(name)) for name in ("step", "moment"))
    assert found == state
    with pytest.raises(TypeError, match="A set in the state `state` cannot be saved without pickle"):
        save_state({"names": {"a"}}, tmp_path / "state")


def test_the_loss_scale_of_half_precision_is_kept(tmp_path):
    trainer = small_trainer(tmp_path, 2)
    trainer.accelerator.scaler = torch.amp.GradScaler("cpu", init_scale=8.0)
    trainer._save_scaler(str(tmp_path))
    trainer.accelerator.scaler = torch.amp.GradScaler("cpu", init_scale=2.0)
    trainer._load_scaler(str(tmp_path))
    assert trainer.accelerator.scaler.get_scale() == 8.0


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
    for name in ("org/pipe", "org/converted"):
        files = repos[name].files()
        assert set(files) == set(plain)
        assert all(files[path] == plain[path] for path in plain if path.endswith((".py", ".jinja")))
        assert json.loads(files["config.json"]) == json.loads(plain["config.json"])
        tensors, expected = load(files[WEIGHTS]), load(plain[WEIGHTS])
        assert tensors.keys() == expected.keys()
        assert all(torch.equal(tensors[key], expected[key]) for key in expected)
    assert set(repos["org/trained"].files()) == {*plain, "training_args.bin"}
    assert set(repos["org/trained-with-card"].files()) == {*plain, "training_args.json", ".gitignore"}
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


def test_the_trainer_brings_its_own_card_up_to_date(model, tmp_path):
    trainer = HubTrainer(model=model, args=TrainingArguments(output_dir=str(tmp_path), report_to="none", use_cpu=True))
    for steps in (3, 5):
        trainer.state.global_step = steps
        trainer.create_model_card()
        assert f"steps: {steps}," in (tmp_path / CARD).read_text()


def test_weights_that_were_only_pushed_are_not_called_fine_tuned(model, monkeypatch):
    card = cards.card_of_model(model, "me/mine").text
    assert "A small checkpoint" in card and "fine-tuned" not in card
    monkeypatch.setattr(model, "num_parameters", lambda: 8_700_000_000)
    for base in (str(RELEASED), "nvidia/omnivinci"):
        monkeypatch.setattr(model, "name_or_path", base)
        card = cards.card_of_model(model, "me/mine").text
        assert "fine-tuned" not in card and "does not show whether its weights were changed" in card


def test_a_quantized_model_says_so(model, monkeypatch):
    monkeypatch.setattr(model, "name_or_path", "nvidia/omnivinci")
    monkeypatch.setattr(model.config, "quantization_config", {"quant_method": "bitsandbytes"}, raising=False)
    assert cards.card_of_model(model, "me/mine").data.base_model_relation == "quantized"


def test_the_trainer_keeps_an_own_card(model, tmp_path):
    arguments = TrainingArguments(output_dir=str(tmp_path), report_to="none", use_cpu=True)
    trainer = HubTrainer(model=copy.deepcopy(model), args=arguments)
    (tmp_path / CARD).write_bytes(OWN_CARD)
    trainer.create_model_card()
    assert (tmp_path / CARD).read_bytes() == OWN_CARD
    (tmp_path / CARD).unlink()
    trainer.create_model_card(model_name="it", license="mit", finetuned_from="me/base", dataset="clips", tags="mine")
    card = ModelCard.load(tmp_path / CARD)
    assert (card.data.license, card.data.base_model) == ("mit", "me/base")
    assert "- data: clips" in card.text and "mine" in card.data.tags


# -- the card's templates


@pytest.mark.parametrize("kind", cards.KINDS)
@pytest.mark.parametrize("base_model", [None, "nvidia/omnivinci", "me/other"])
def test_every_template_renders(kind, base_model):
    card = cards.render_model_card(
        kind, "me/mine", base_model=base_model, num_parameters=8_700_000_000, tags=["mine"], datasets=["me/data"]
    )
    again = ModelCard(card.content).data
    assert again.library_name == ("peft" if kind == "adapter" else "transformers")
    assert again.pipeline_tag == "any-to-any"
    assert again.base_model == base_model and again.datasets == ["me/data"] and "mine" in again.tags
    assert again.license == ("other" if base_model else "unknown")
    if base_model:
        assert again.license_link == f"https://huggingface.co/{base_model}"
    for part in (
        "## Usage",
        "## How it was made",
        "## Limits",
        "## Licence",
        "## Citation",
        "2510.15870",
        "Apache-2.0",
    ):
        assert part in card.text
    assert 'model="me/mine"' in card.text and ("8.7 B parameters" in card.text or kind == "adapter")
    assert ("fine-tuned" in card.text) == (kind == "fine_tuned")
    assert "{{" not in card.content and "None" not in card.content


def test_a_licence_can_be_given():
    card = cards.render_model_card("small", "me/mine", license="apache-2.0", training="On ten clips.")
    assert card.data.license == "apache-2.0" and "On ten clips." in card.text


def test_an_unknown_kind_of_card_is_refused():
    with pytest.raises(ValueError, match="`kind` must be one of"):
        cards.render_model_card("big", "me/mine")


def test_only_an_untouched_placeholder_is_replaced(model, tmp_path):
    placeholder = ModelCard.from_template(
        ModelCardData(tags=["mine"], library_name="transformers"), model_description=cards.PLACEHOLDER
    )
    path = tmp_path / CARD
    for own in (placeholder.content + "\nMy words.\n", placeholder.content.replace("tags:", "license: mit\ntags:")):
        path.write_text(own)
        cards.complete_model_card(tmp_path, "me/mine", model)
        assert path.read_text() == own
    placeholder.save(path)
    cards.complete_model_card(tmp_path, "me/mine", model)
    assert "A small checkpoint" in path.read_text() and "mine" in ModelCard.load(path).data.tags


def test_the_base_model_is_named_where_it_is_on_the_hub(model, monkeypatch):
    monkeypatch.setattr(model, "name_or_path", "me/base")
    card = cards.card_of_model(model, "me/mine")
    assert card.data.base_model == "me/base" and "loaded from [me/base]" in card.text
    assert "A fine-tuned OmniVinci model" in cards.card_of_model(model, "me/mine", training="On ten clips.").text
    assert cards.card_of_model(model, "me/base").data.base_model is None
    assert cards.hub_id(str(RELEASED)) is None and cards.hub_id(None) is None


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
