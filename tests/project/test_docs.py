"""The snippets and commands of the README and of the documentation run, page by page, on small checkpoints."""

import ast
import builtins
import json
import re
import shutil
from operator import attrgetter
from pathlib import Path

import pytest
import torch
import yaml
from chat_server import ChatServer
from PIL import Image
from transformers import AutoModel, AutoProcessor

import omnivinci_hf
from omnivinci_hf.cli import main
from omnivinci_hf.cli.arguments import parse_arguments
from omnivinci_hf.engine import load_config
from omnivinci_hf.small import small_checkpoint
from omnivinci_hf.training import load_recipe
from omnivinci_hf.training.rewards import load_rewards
from tests.support import engine_files, goldens
from tests.support.benchmark_files import dailyomni
from tests.support.documentation import (
    DOCS,
    PAGES,
    anchors,
    autodoc_names,
    class_references,
    commands,
    links,
    prose,
    snippets,
    text_of,
)
from tests.support.paths import ROOT
from tests.support.successor_checkpoints import write_one_folder
from tests.support.world_scenes import write_plain_clip


MODEL = "nvidia/omnivinci"
SUCCESSOR = "nvidia/nemotron-labs-audio-visual-flamingo-hf"
ROW = json.loads(snippets("training.md", "json")[0])
PROMPT = json.loads(snippets("grpo.md", "json")[0])
# the Python of `serving.md` runs in tests/serving, where vLLM is
WITH_CODE = [page for page in PAGES if snippets(page, "python") and page != "serving.md"]
WITH_COMMANDS = [page for page in PAGES if commands(page) and page not in ("training.md", "data_engine.md")]


@pytest.fixture
def workplace(tmp_path, monkeypatch):
    """A folder with the media and the data that the pages name."""
    monkeypatch.chdir(tmp_path)
    shutil.copyfile(goldens.SMALL / "h_video5" / "video.mp4", "clip.mp4")
    shutil.copyfile(goldens.SMALL / "d_audio3" / "audio.wav", "speech.wav")
    Image.open(goldens.SMALL / "b_image" / "image.png").convert("RGB").save("photo.jpg")
    Path("clips").mkdir()
    for name in ("7.mp4", "51.mp4"):
        write_plain_clip(Path("clips") / name, duration=2)
    dailyomni(Path("DailyOmni"))
    Path("train.jsonl").write_text(f"{json.dumps(ROW)}\n" * 2, encoding="utf-8")
    Path("prompts.jsonl").write_text(f"{json.dumps(PROMPT)}\n" * 2, encoding="utf-8")
    return tmp_path


def run_snippets(page: str, checkpoint: Path) -> dict:
    """Runs the Python of a page in one namespace, which has the names of the quick tour if the page links to it."""
    namespace = {}
    if "(quicktour.md)" in text_of(page):
        model, processor = (each.from_pretrained(checkpoint) for each in (AutoModel, AutoProcessor))
        namespace.update(model=model.eval(), processor=processor)
    for number, code in enumerate(snippets(page, "python"), 1):
        code = code.replace(f'"{MODEL}"', repr(str(checkpoint))).replace("max_new_tokens=128", "max_new_tokens=4")
        if SUCCESSOR in code:
            successor = write_one_folder(checkpoint, Path("successor").absolute())
            code = code.replace(f'"{SUCCESSOR}"', repr(str(successor)))
        code = code.replace("push_to_hub(", "save_pretrained(")  # a repository becomes a folder of the same name
        exec(compile(code, f"{page}, snippet {number}", "exec"), namespace)
    return namespace


@pytest.mark.parametrize("page", WITH_CODE)
def test_the_snippets_of_a_page_run(page, original_folder, workplace):
    pytest.importorskip("bitsandbytes")
    pytest.importorskip("peft")
    pytest.importorskip("trl")
    namespace = run_snippets(page, original_folder)
    if page == "quicktour.md":
        assert len(namespace["answers"]) == 3 and namespace["loss"].requires_grad
    elif page == "generation.md":
        asked = {"video": "clip.mp4", "question": "What happens?", "max_new_tokens": 4, "num_frames": 32}
        assert namespace["answer"] == namespace["pipe"](**asked)[0]["answer"]
    elif page in ("training.md", "grpo.md"):
        assert namespace["trainer"].state.global_step == 1
    elif page == "omni_align.md":
        assert namespace["embeds"].vision_embeds.norm() > 0


def first_snippets_with_the_model(page: str) -> list[str]:
    """Returns the snippets that a reader may copy alone: all of the README, and the first of another page."""
    with_model = [code for code in snippets(page, "python") if f'"{MODEL}"' in code]
    return with_model if page == "README.md" else with_model[:1]


@pytest.mark.parametrize("page", [page for page in WITH_CODE if first_snippets_with_the_model(page)])
def test_snippets_that_load_the_model_import_what_they_use(page):
    known = {*dir(builtins), *(("model", "processor") if "(quicktour.md)" in text_of(page) else ())}
    for code in first_snippets_with_the_model(page):
        nodes = list(ast.walk(ast.parse(code)))
        modules = {alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names}
        modules |= {node.module for node in nodes if isinstance(node, ast.ImportFrom)}
        assert "omnivinci_hf" in {module.partition(".")[0] for module in modules}, code
        imports = [node for node in nodes if isinstance(node, ast.Import | ast.ImportFrom)]
        names = {alias.asname or alias.name.partition(".")[0] for node in imports for alias in node.names}
        variables = [node for node in nodes if isinstance(node, ast.Name)]
        names |= {node.id for node in variables if isinstance(node.ctx, ast.Store)}
        assert {node.id for node in variables} <= known | names, code


def run_command(words: list[str], original_folder: Path) -> None:
    """Runs a command of a page on a small checkpoint; one that is not ours is looked up."""
    if words[0] == "make":
        assert re.search(rf"^{words[1]}:", (ROOT / "Makefile").read_text(), re.MULTILINE)
        return
    if words[:2] == ["pip", "install"]:  # tests/project/test_packaging.py knows the extras
        return
    if words[:2] == ["accelerate", "launch"]:
        words = words[words.index("omnivinci_hf") :]
    assert words[0] in ("omnivinci-hf", "omnivinci_hf"), words
    command, *arguments = words[1:]
    if command == "serve":  # tests/serving start it
        assert parse_arguments([command, *arguments]).model in (MODEL, "FOLDER")
        return
    checkpoint = str(original_folder if command == "convert" else small_checkpoint())
    arguments = [checkpoint if word == MODEL else word for word in arguments]
    if command == "eval" and "--data" in arguments:
        arguments += ["--model", checkpoint, "--num-frames", "4", "--max-new-tokens", "4"]
    if command == "ask":
        arguments += [] if "--model" in arguments else ["--model", checkpoint]
        arguments += [] if "--max-new-tokens" in arguments else ["--max-new-tokens", "4"]
    if not torch.cuda.is_available() and "--bf16" in arguments:  # without a GPU, Transformers asks for this
        arguments += ["--use_cpu"]
    assert main([command, *arguments]) == 0, words


@pytest.mark.parametrize("page", WITH_COMMANDS)
def test_the_commands_of_a_page_run(page, original_folder, workplace):
    pytest.importorskip("matplotlib")
    for words in commands(page):
        run_command(words, original_folder)


def test_the_commands_about_training_run_in_order(original_folder, workplace, capsys):
    pytest.importorskip("peft")
    training_commands = [words for words in commands("training.md") if words[0] != "pip"]
    assert [words[1] for words in training_commands[:3]] == ["validate", "train", "ask"]
    outputs = []
    for words in training_commands:
        if "qlora" in words:
            pytest.importorskip("bitsandbytes")
        run_command(words, original_folder)
        outputs.append(capsys.readouterr().out)
    losses = [float(loss) for loss in re.findall(r"'loss': '?([0-9.]+)", outputs[1])]
    assert len(losses) == 6 and losses[-1] < losses[0]
    assert outputs[2].splitlines()[-1].strip()


def test_the_commands_about_the_engine_run_in_order(original_folder, workplace, capsys):
    example, local = (yaml.safe_load(text) for text in snippets("data_engine.md", "yaml"))
    with ChatServer(engine_files.rule) as server:
        for backend in example["backends"].values():
            backend.update(urls=server.url, num_frames=2)
        Path("engine.yaml").write_text(yaml.safe_dump(example), encoding="utf-8")
        for words in commands("data_engine.md"):
            run_command(words, original_folder)
            if words[-1] == "--dry-run":
                assert not server.requests
    assert "kept: 2" in capsys.readouterr().out
    Path("local.yaml").write_text(yaml.safe_dump({**example, "backends": {**example["backends"], **local}}))
    assert load_config("local.yaml").backends["local"].options["num_frames"] == 64


def test_the_recipe_of_one_s_own_can_be_loaded(workplace):
    (text,) = snippets("training.md", "yaml")
    Path("mine.yaml").write_text(text, encoding="utf-8")
    recipe = load_recipe("mine.yaml")
    assert recipe.name == "mine" and recipe.learning_rates == {"vision_projector": 1e-3, "audio_projector": 1e-3}


def test_the_recipe_with_rewards_can_be_loaded(workplace, monkeypatch):
    (text,) = snippets("grpo.md", "yaml")
    Path("mine.yaml").write_text(text, encoding="utf-8")
    monkeypatch.setenv("JUDGE_KEY", "secret")
    rewards, weights = load_rewards(load_recipe("mine.yaml").rewards)
    assert [reward.name for reward in rewards] == ["numeric", "judge"] and weights == [1.0, 0.5]


def test_the_table_of_contents_has_every_page_once():
    sections = yaml.safe_load((DOCS / "_toctree.yml").read_text(encoding="utf-8"))
    listed = [page for section in sections for page in section["sections"]]
    assert sorted(f"{page['local']}.md" for page in listed) == sorted(path.name for path in DOCS.glob("*.md"))
    for page in listed:
        assert text_of(f"{page['local']}.md").startswith(f"# {page['title']}\n")


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_somewhere(page):
    for target in links(page):
        name, _, anchor = target.partition("#")
        path = (PAGES[page].parent / name).resolve() if name else PAGES[page]
        assert path.exists(), target
        assert not anchor or anchor in anchors(path), target


@pytest.mark.parametrize("page", PAGES)
def test_the_scripts_that_a_page_names_exist(page):
    for name in re.findall(r"(?<![\w/.])((?:benchmarks|examples|src|model_cards|docs)/[\w./-]*)", prose(page)):
        assert (ROOT / name.rstrip(".")).exists(), name


def test_the_map_of_the_sources_is_up_to_date():
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    folders = re.findall(r"^\| `([\w/]+)/` \|", text, re.MULTILINE)
    assert all((ROOT / folder).is_dir() for folder in folders)
    package = ROOT / "src" / "omnivinci_hf"
    assert {f"src/omnivinci_hf/{path.parent.name}" for path in package.glob("*/__init__.py")} <= set(folders)
    files = {path.name for path in (package / "omnivinci").glob("*_omnivinci.py")}
    assert set(re.findall(r"\w+_omnivinci\.py", text)) <= files
    for target in re.findall(r"^\| `make ([\w-]+)` \|", text, re.MULTILINE):
        assert re.search(rf"^{target}:", (ROOT / "Makefile").read_text(), re.MULTILINE)


@pytest.mark.parametrize("page", PAGES)
def test_the_classes_and_functions_that_a_page_names_exist(page):
    for name in (*autodoc_names(page), *class_references(page)):
        for module in re.findall(r"^([a-z_.]+)\.", name):
            __import__(f"omnivinci_hf.{module}")
        assert attrgetter(name)(omnivinci_hf) is not None
    for name in re.findall(r"`omnivinci_hf\.([\w.]+)`", prose(page)):
        __import__(f"omnivinci_hf.{name.partition('.')[0]}")
        assert attrgetter(name)(omnivinci_hf) is not None


def test_the_reference_has_every_public_name():
    stub = ast.parse((ROOT / "src" / "omnivinci_hf" / "__init__.pyi").read_text(encoding="utf-8"))
    (public,) = [ast.literal_eval(node.value) for node in stub.body if isinstance(node, ast.Assign)]
    assert set(public) - {"__version__"} <= set(autodoc_names("api.md"))
