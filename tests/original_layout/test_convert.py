import json
import os
import signal
import subprocess
import sys

import pytest
import torch
from safetensors.torch import load_file

from omnivinci_hf import OmniVinciForConditionalGeneration, OmniVinciProcessor
from omnivinci_hf.original_layout import convert
from omnivinci_hf.original_layout.convert import convert_checkpoint, push_checkpoint
from omnivinci_hf.testing import write_tiny_checkpoint


@pytest.fixture(scope="module")
def original(tmp_path_factory):
    return write_tiny_checkpoint(tmp_path_factory.mktemp("convert") / "original", shards=2)


@pytest.fixture(scope="module")
def converted(original, tmp_path_factory):
    return convert_checkpoint(original, tmp_path_factory.mktemp("convert") / "converted")


def save_the_long_way(original, folder, **options):
    OmniVinciForConditionalGeneration.from_pretrained(original, **options).save_pretrained(
        folder, max_shard_size="300KB"
    )
    OmniVinciProcessor.from_pretrained(original).save_pretrained(folder)
    return folder


def load_weights(folder):
    tensors = {}
    for file in folder.glob("*.safetensors"):
        tensors |= load_file(file)
    return tensors


def assert_same_folder(folder, expected):
    assert sorted(os.listdir(folder)) == sorted(os.listdir(expected))
    for file in expected.glob("*.json"):
        values, expected_values = (json.loads((parent / file.name).read_text()) for parent in (folder, expected))
        for index in (values, expected_values):
            if "weight_map" in index:  # which tensor is in which file is free
                index["weight_map"] = sorted(index["weight_map"])
        assert values == expected_values, file.name
    assert (folder / "chat_template.jinja").read_text() == (expected / "chat_template.jinja").read_text()
    weights, expected_weights = load_weights(folder), load_weights(expected)
    assert sorted(weights) == sorted(expected_weights)
    for name, tensor in weights.items():
        assert tensor.dtype == expected_weights[name].dtype, name
        assert torch.equal(tensor, expected_weights[name]), name


@pytest.mark.parametrize(
    ("checkpoint", "options"),
    [
        ({}, {}),
        ({}, {"dtype": "bfloat16"}),
        ({"dtype": torch.bfloat16}, {}),
        ({"dtype": torch.bfloat16, "llm": {"tie_word_embeddings": True}}, {"dtype": torch.float32}),
        ({"sound_tower": {"model_type": "audioflamingo3_encoder"}}, {"dtype": "float16"}),
    ],
)
def test_result_is_what_loading_and_saving_gives(tmp_path, checkpoint, options):
    original = write_tiny_checkpoint(tmp_path / "original", shards=2, **checkpoint)
    folder = convert_checkpoint(original, tmp_path / "converted", max_shard_size="300KB", **options)
    assert len(list(folder.glob("*.safetensors"))) > 1
    assert_same_folder(folder, save_the_long_way(original, tmp_path / "expected", **(options or {"dtype": "auto"})))


def test_converted_model_equals_the_original_one_bit_for_bit(original, converted):
    direct = OmniVinciForConditionalGeneration.from_pretrained(original).eval()
    model = OmniVinciForConditionalGeneration.from_pretrained(converted).eval()
    state = model.state_dict()
    assert all(torch.equal(tensor, state[name]) for name, tensor in direct.state_dict().items())
    processor = OmniVinciProcessor.from_pretrained(converted)
    inputs = processor(images=[torch.rand(3, 40, 50)], text="<image> What?", return_tensors="pt")
    with torch.no_grad():
        assert torch.equal(model(**inputs).logits, direct(**inputs).logits)
    assert model.generation_config.to_dict() == direct.generation_config.to_dict()


def test_progress_counts_the_bytes_of_the_weights(original, tmp_path):
    seen = []
    convert_checkpoint(original, tmp_path / "out", progress=lambda done, total: seen.append((done, total)))
    size = sum(tensor.nbytes for tensor in load_weights(tmp_path / "out").values())
    assert [total for _, total in seen] == [size] * len(seen)
    assert [done for done, _ in seen] == sorted(done for done, _ in seen)
    assert seen[-1] == (size, size)


def test_destination_that_is_not_empty_is_kept(original, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "letter.txt").write_text("mine")
    with pytest.raises(FileExistsError, match="is not empty"):
        convert_checkpoint(original, tmp_path / "out")
    with pytest.raises(FileExistsError, match="holds no checkpoint"):
        convert_checkpoint(original, tmp_path / "out", overwrite=True)
    with pytest.raises(FileExistsError, match="is a file"):
        convert_checkpoint(original, tmp_path / "out" / "letter.txt")
    assert (tmp_path / "out" / "letter.txt").read_text() == "mine"


def test_empty_destination_is_filled_and_an_old_one_replaced_when_asked(original, tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    convert_checkpoint(original, out)
    (out / "old.txt").write_text("from before")
    convert_checkpoint(original, out, overwrite=True, dtype="float16")
    assert (out / "old.txt").read_text() == "from before"
    assert json.loads((out / "config.json").read_text())["dtype"] == "float16"
    assert os.listdir(tmp_path) == ["out"]


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), KeyboardInterrupt()])
def test_interrupted_conversion_leaves_the_old_checkpoint_and_nothing_else(original, tmp_path, error):
    out = convert_checkpoint(original, tmp_path / "out")
    before = sorted((file.name, file.stat().st_mtime_ns) for file in out.iterdir())

    def fail(done, total):
        if done > total / 2:
            raise error

    for target, options in (("new", {}), ("out", {"overwrite": True})):
        with pytest.raises(type(error)):
            convert_checkpoint(original, tmp_path / target, progress=fail, **options)
    assert os.listdir(tmp_path) == ["out"]
    assert sorted((file.name, file.stat().st_mtime_ns) for file in out.iterdir()) == before


SLOW_CONVERSION = """
import sys, time
from omnivinci_hf import cli
import omnivinci_hf.cli.commands as commands
original = commands.convert_checkpoint
def slow(*args, progress, **kwargs):
    def wait(done, total):
        print("writing", flush=True)
        time.sleep(0.2)
    return original(*args, progress=wait, **kwargs)
commands.convert_checkpoint = slow
sys.exit(cli.main(sys.argv[1:]))
"""


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130), (signal.SIGKILL, -9)])
def test_signals_leave_nothing_behind(original, tmp_path, number, code):
    command = [sys.executable, "-c", SLOW_CONVERSION, "convert", str(original), str(tmp_path / "out")]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "writing\n"
    assert len(os.listdir(tmp_path)) == 1  # the temporary folder
    process.send_signal(number)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == code
    assert "Traceback" not in errors
    if number == signal.SIGKILL:  # which nothing can answer: the next run clears up
        assert os.listdir(tmp_path) == ["_unfinished-out"]
        convert_checkpoint(original, tmp_path / "out")
        assert os.listdir(tmp_path) == ["out"]
    else:
        assert os.listdir(tmp_path) == []


def test_source_inside_the_destination_is_never_deleted(original, tmp_path):
    with pytest.raises(ValueError, match="is or contains the source"):
        convert_checkpoint(original, original.parent, overwrite=True)
    with pytest.raises(ValueError, match="is or contains the source"):
        convert_checkpoint(original, original, overwrite=True)


def test_other_sources_are_refused(original, converted, tmp_path):
    with pytest.raises(ValueError, match="not in the original layout"):
        convert_checkpoint(converted, tmp_path / "out")
    with pytest.raises(ValueError, match="`dtype` must be auto, float32"):
        convert_checkpoint(original, tmp_path / "out", dtype="float64")
    with pytest.raises(ValueError, match="is quantized"):
        quantized = {"quantization_config": {"quant_method": "bitsandbytes", "load_in_8bit": True}}
        convert_checkpoint(write_tiny_checkpoint(tmp_path / "q", config=quantized), tmp_path / "out")
    assert os.listdir(tmp_path) == ["q"]


def test_missing_tensor_is_told(tmp_path):
    # the llm's config speaks of a layer more than its weights have
    original = write_tiny_checkpoint(tmp_path / "original")
    config = json.loads((original / "llm" / "config.json").read_text())
    config["num_hidden_layers"] = config["max_window_layers"] = 3
    (original / "llm" / "config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match="missing: model.language_model.layers.2"):
        convert_checkpoint(original, tmp_path / "out")
    assert os.listdir(tmp_path) == ["original"]


MEMORY_SCRIPT = """
import sys, threading, time
from omnivinci_hf.original_layout.convert import convert_checkpoint

def anonymous_mb():  # without the mapped files, whose pages the system takes back when it needs them
    return int(open("/proc/self/status").read().split("RssAnon:")[1].split()[0]) // 1024

def watch():
    while True:
        seen.append(anonymous_mb())
        time.sleep(0.002)

seen = [anonymous_mb()]
threading.Thread(target=watch, daemon=True).start()
convert_checkpoint(*sys.argv[1:3], dtype="bfloat16")
print(max(seen) - seen[0])
"""


@pytest.mark.skipif(not os.path.exists("/proc/self/status"), reason="reads the memory from Linux's /proc")
def test_memory_stays_below_one_tensor(tmp_path):
    wide = {"vocab_size": 120_000, "hidden_size": 512, "num_hidden_layers": 1}  # two tensors of 246 MB
    original = write_tiny_checkpoint(tmp_path / "original", llm=wide)
    command = [sys.executable, "-c", MEMORY_SCRIPT, str(original), str(tmp_path / "out")]
    grown_mb = int(subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()[-1])
    assert grown_mb < 246


def test_push_uploads_the_folder(monkeypatch, converted):
    calls = []

    class Url(str):
        repo_id = "someone/model"

    class Api:
        def create_repo(self, repo_id, **options):
            calls.append(("create", repo_id, options))
            return Url("https://hub/someone/model")

        def file_exists(self, repo_id, path):
            return path == "README.md"  # so that no card is written

        def upload_folder(self, **options):
            calls.append(("upload", options["repo_id"], options["folder_path"]))

    monkeypatch.setattr("omnivinci_hf.original_layout.convert.HfApi", Api)
    assert push_checkpoint(converted, "model") == "https://hub/someone/model"
    assert calls == [("create", "model", {"exist_ok": True}), ("upload", "someone/model", str(converted))]


@pytest.mark.parametrize(
    ("source", "base_model"),
    [
        (None, "nvidia/omnivinci"),
        ("five", "nvidia/omnivinci"),
        ("successor", "nvidia/nemotron-labs-audio-visual-flamingo"),
        ("me/copy", "me/copy"),
    ],
)
def test_the_card_of_a_converted_checkpoint_names_its_source(converted, tmp_path, monkeypatch, source, base_model):
    monkeypatch.setattr(convert, "SMALL_LIMIT", 0)
    monkeypatch.setattr(convert, "read_config", lambda name, options: json.loads((tmp_path / name).read_text()))
    (tmp_path / "five").write_text('{"model_type": "vila"}')
    (tmp_path / "successor").write_text('{"model_type": "audiovisualflamingo"}')
    (tmp_path / "me").mkdir()
    (tmp_path / "me" / "copy").write_text("{}")
    card = convert._card_of_converted(converted, "me/mine", source)
    assert card.data.base_model == base_model
