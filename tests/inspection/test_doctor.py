import json
import os
import re
import shutil
import subprocess
import sys

import pytest
from safetensors.torch import load_file, save_file
from transformers import BitsAndBytesConfig, Qwen2Config, Qwen2ForCausalLM

from omnivinci_hf import OmniVinciForConditionalGeneration, OmniVinciMediaEncoder, OmniVinciProcessor
from omnivinci_hf.cli import main
from omnivinci_hf.inspection.diagnosis import without_private
from omnivinci_hf.inspection.diagnosis_page import format_diagnosis
from omnivinci_hf.inspection.doctor import diagnose
from omnivinci_hf.small import small_checkpoint
from tests.support import damaged_checkpoints
from tests.support.original_variants import without_words
from tests.support.sparse_checkpoint import write_sparse_checkpoint
from tests.support.successor_checkpoints import write_five_folders, write_one_folder


@pytest.fixture
def folder(original_folder, tmp_path):
    """A copy of the golden checkpoint that may be changed."""
    return shutil.copytree(original_folder, tmp_path / "checkpoint")


@pytest.fixture(scope="module")
def ordinary(original_folder, tmp_path_factory):
    folder = tmp_path_factory.mktemp("doctor") / "ordinary"
    OmniVinciForConditionalGeneration.from_pretrained(original_folder).save_pretrained(folder)
    OmniVinciProcessor.from_pretrained(original_folder).save_pretrained(folder)
    return folder


def error_of_loading(name) -> str | None:
    """What `from_pretrained` of model and processor says, on the CPU with the weights."""
    try:
        OmniVinciForConditionalGeneration.from_pretrained(name)
        OmniVinciProcessor.from_pretrained(name)
    except Exception as error:
        return str(error)
    return None


def assert_as_loading_does(name):
    diagnosis, error = diagnose(name), error_of_loading(name)
    assert diagnosis.loads is (error is None), (diagnosis.obstacle, error)
    assert error is None or error in diagnosis.obstacle
    return diagnosis


def test_golden_checkpoint_is_described(original_folder):
    diagnosis = assert_as_loading_does(original_folder)
    assert diagnosis.loads and diagnosis.obstacle is None and diagnosis.layout.startswith("original, in five folders")
    assert [(part.name, part.model_type, part.num_tensors) for part in diagnosis.parts] == [
        ("llm", "qwen2", 27),
        ("mm_projector", "v2l_projector", 6),
        ("sound_mm_projector", "sound_mm_projector", 4),
        ("sound_tower", "qwen2_audio_encoder", 37),
        ("vision_tower", "siglip_vision_model", 64),
    ]
    assert diagnosis.parts[0].num_parameters == {"F32": 135744} and diagnosis.parts[0].num_bytes == 4 * 135744
    assert diagnosis.settings["tiles"] == "Dynamic-S2 at 56, 112, 168, at most 12"
    assert diagnosis.tokenizer["media_tokens"] == {"<image>": 459, "<vila/video>": 460, "<sound>": 461}
    assert diagnosis.example_prompt.endswith("<|im_start|>user\nWhat happens?<|im_end|>\n<|im_start|>assistant\n")
    assert diagnosis.generation["stop_tokens"] == {"458": "<|im_end|>", "456": "<|endoftext|>"}
    assert diagnosis.processor["num_frames"] == 8
    assert diagnosis.unusual == diagnosis.assumed == diagnosis.messages == diagnosis.random_tensors == []
    assert diagnosis.configurations["llm/config.json"]["hidden_size"] == 64
    assert diagnosis.tensors["llm/model.safetensors"]["lm_head.weight"] == ["F32", [480, 64]]
    assert 0 < diagnosis.num_bytes_read < 60_000 < diagnosis.num_bytes


def test_absent_and_unknown_entries_are_told(folder):
    path = folder / "config.json"
    config = json.loads(path.read_text())
    del config["audio_hop_length"]
    path.write_text(json.dumps({**config, "favourite_colour": "green", "tune_vision_tower": True}))
    diagnosis = assert_as_loading_does(folder)
    assert diagnosis.loads
    (assumed,), (unusual,) = diagnosis.assumed, diagnosis.unusual
    assert "audio_hop_length" in assumed and "60" in assumed
    assert "favourite_colour" in unusual and diagnosis.messages == []
    assert "tune_vision_tower" in diagnosis.ignored["config.json"]
    page = format_diagnosis(diagnosis)
    assert "Assumed" in page and "Unusual" in page and "Ignored" in page


def test_words_that_the_tokenizer_lacks_are_told(folder):
    without_words("<sound>")(folder)
    diagnosis = assert_as_loading_does(folder)
    assert diagnosis.assumed == ["The tokenizer lacks <sound>; as in the original code, they are added to it."]


@pytest.mark.parametrize("damage", damaged_checkpoints.DAMAGES, ids=lambda damage: damage.__name__)
def test_damage_is_told_as_loading_tells_it(folder, damage):
    damage(folder)
    diagnosis = assert_as_loading_does(folder)
    assert not diagnosis.loads
    assert "It will not load:" in format_diagnosis(diagnosis)


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (damaged_checkpoints.lfs_pointer, "llm/model.safetensors: This is a pointer of Git LFS"),
        (damaged_checkpoints.cut_data, "llm/model.safetensors: The header cannot be read"),
        (damaged_checkpoints.missing_shard, "llm/model-00002-of-00002.safetensors is not there"),
        (damaged_checkpoints.pickle_weights, "llm/pytorch_model.bin is a pickle"),
        (damaged_checkpoints.spoil_main_file, "config.json cannot be read"),
        (damaged_checkpoints.index_of_pickles, "never pickles"),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_damage_is_among_what_is_unusual(folder, damage, words):
    damage(folder)
    assert any(words in sentence for sentence in diagnose(folder).unusual)


def test_shards_and_files_that_are_not_read(folder):
    damaged_checkpoints.shards(folder)
    llm = folder / "llm"
    shutil.copyfile(llm / "model-00001-of-00002.safetensors", llm / "model-00001-of-00009.safetensors")
    diagnosis = assert_as_loading_does(folder)
    assert diagnosis.loads and diagnosis.parts[0].num_files == 3
    assert diagnosis.unusual == ["llm/model-00001-of-00009.safetensors is not read: the index does not name it."]
    shutil.copyfile(llm / "model-00001-of-00002.safetensors", llm / "model.safetensors")
    diagnosis = assert_as_loading_does(folder)
    assert not diagnosis.loads and "missing: " in diagnosis.obstacle
    assert any("model.safetensors is read, so" in sentence for sentence in diagnosis.unusual)


def test_dtypes_and_words_that_do_not_fit_are_unusual(folder):
    damaged_checkpoints.change_weights(
        folder, lambda tensors: tensors.update({"model.norm.weight": tensors["model.norm.weight"].half()})
    )
    tokenizer = OmniVinciProcessor.from_pretrained(folder).tokenizer
    tokenizer.add_tokens([f"<new{number}>" for number in range(20)])
    tokenizer.save_pretrained(folder / "llm")
    diagnosis = assert_as_loading_does(folder)
    assert diagnosis.unusual == [
        "The weights have several dtypes: F16, F32.",
        "The tokenizer has 489 tokens, but the model embeds 480.",
    ]


def test_ordinary_layout_is_described(ordinary):
    diagnosis = assert_as_loading_does(ordinary)
    assert diagnosis.loads and diagnosis.layout.startswith("of Transformers")
    assert {part.name for part in diagnosis.parts} >= {"model.vision_tower", "model.language_model", "lm_head"}
    assert re.search(r"in all +1 +138 ", format_diagnosis(diagnosis))


def test_small_checkpoint_loads():
    diagnosis = assert_as_loading_does(small_checkpoint())
    assert diagnosis.loads and "OmniAlignNet" in diagnosis.settings


@pytest.mark.parametrize("shape", ["absent", "other"])
def test_tensors_of_the_ordinary_layout_that_do_not_fit(ordinary, tmp_path, shape):
    folder = shutil.copytree(ordinary, tmp_path / "checkpoint")
    tensors = load_file(folder / "model.safetensors")
    norm = tensors.pop("model.language_model.norm.weight")
    if shape == "other":
        tensors["model.language_model.norm.weight"] = norm[:-1].clone()
    tensors["surplus"] = norm
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    diagnosis = assert_as_loading_does(folder)
    assert diagnosis.loads is (shape == "absent")
    if shape == "absent":
        assert diagnosis.random_tensors == ["model.language_model.norm.weight"]
        assert "with random numbers in 1 tensors" in format_diagnosis(diagnosis)
        assert diagnosis.unusual == ["Tensors that the model does not have are left out: surplus."]
    else:
        assert re.search(r"model.language_model.norm.weight .*\[63\].*\[64\]", diagnosis.obstacle)


@pytest.mark.parametrize("bits", [8, 4])
def test_quantized_weights_are_told_as_far_as_headers_tell(original_folder, tmp_path, bits):
    pytest.importorskip("bitsandbytes")
    options = {"quantization_config": BitsAndBytesConfig(**{f"load_in_{bits}bit": True})}
    OmniVinciForConditionalGeneration.from_pretrained(original_folder, **options).save_pretrained(tmp_path)
    OmniVinciProcessor.from_pretrained(original_folder).save_pretrained(tmp_path)
    diagnosis = diagnose(tmp_path)
    assert diagnosis.loads is (True if bits == 8 else None) and diagnosis.unusual == []
    assert f"load_in_{bits}bit=True" in diagnosis.settings["quantization"]
    if bits == 4:
        assert "only loading tells whether they fit" in diagnosis.obstacle
        assert "Whether it will load cannot be told:" in format_diagnosis(diagnosis)


def test_template_that_fails_is_unusual(ordinary, tmp_path):
    folder = shutil.copytree(ordinary, tmp_path / "checkpoint")
    (folder / "chat_template.jinja").write_text("{{ raise_exception('No questions today') }}")
    diagnosis = diagnose(folder)
    assert diagnosis.loads and diagnosis.unusual == ["The chat template fails: No questions today"]


def test_media_encoder_alone_loads_with_its_class(original_folder, tmp_path):
    OmniVinciMediaEncoder.from_pretrained(original_folder).save_pretrained(tmp_path)
    OmniVinciProcessor.from_pretrained(original_folder).save_pretrained(tmp_path)
    diagnosis = diagnose(tmp_path)
    assert diagnosis.loads and "the media encoder alone" in diagnosis.layout and diagnosis.generation is None


def test_what_is_no_checkpoint_of_this_model(tmp_path):
    empty, qwen = tmp_path / "empty", tmp_path / "qwen"
    empty.mkdir()
    sizes = {"hidden_size": 8, "intermediate_size": 8, "num_attention_heads": 2, "num_key_value_heads": 2}
    Qwen2ForCausalLM(Qwen2Config(**sizes, num_hidden_layers=1, vocab_size=16)).save_pretrained(qwen)
    diagnosis = assert_as_loading_does(empty)
    assert diagnosis.layout == "none: the folder is empty" and "holds no checkpoint" in diagnosis.obstacle
    diagnosis = assert_as_loading_does(qwen)
    assert diagnosis.layout == "something else (`model_type` 'qwen2')" and "not of OmniVinci" in diagnosis.obstacle


# -- adapters


@pytest.fixture(scope="module")
def adapter(original_folder, tmp_path_factory):
    peft = pytest.importorskip("peft")
    folder = tmp_path_factory.mktemp("doctor") / "adapter"
    model = OmniVinciForConditionalGeneration.from_pretrained(original_folder)
    peft.get_peft_model(model, peft.LoraConfig(r=4, target_modules=["q_proj"])).save_pretrained(folder)
    return folder


def with_base(adapter, folder, base):
    shutil.copytree(adapter, folder)
    config = json.loads((folder / "adapter_config.json").read_text())
    (folder / "adapter_config.json").write_text(json.dumps({**config, "base_model_name_or_path": base}))
    return folder


@pytest.mark.parametrize("layout", ["original", "ordinary"])
def test_adapter_is_told_with_its_base(adapter, original_folder, ordinary, tmp_path, layout):
    base = original_folder if layout == "original" else ordinary
    folder = with_base(adapter, tmp_path / "adapter", str(base))
    diagnosis = assert_as_loading_does(folder)
    assert diagnosis.loads and diagnosis.base.loads
    assert diagnosis.layout == f"an adapter (LORA, rank 4) of .../{base.name}"
    assert (diagnosis.base.name, str(base) in json.dumps(diagnosis.as_dict())) == (f".../{base.name}", False)
    page = format_diagnosis(diagnosis)
    assert "The model that it belongs to\n.../" in page and page.count("It will load.") == 2


def test_adapter_that_cannot_load(adapter, ordinary, folder, tmp_path, monkeypatch):
    alone = with_base(adapter, tmp_path / "alone", str(tmp_path / "nowhere"))
    diagnosis = diagnose(alone)
    assert not diagnosis.loads and "This is an adapter of a model that is not there" in diagnosis.obstacle
    damaged_checkpoints.lack_tensor(folder)
    on_damaged = with_base(adapter, tmp_path / "on_damaged", str(folder))
    diagnosis = assert_as_loading_does(on_damaged)
    assert not diagnosis.loads and not diagnosis.base.loads and "missing: " in diagnosis.obstacle
    pickled = with_base(adapter, tmp_path / "pickled", str(ordinary))
    (pickled / "adapter_model.safetensors").rename(pickled / "adapter_model.bin")
    diagnosis = assert_as_loading_does(pickled)
    assert not diagnosis.loads and diagnosis.base.loads and "pickled adapters are never read" in diagnosis.obstacle
    monkeypatch.setattr("omnivinci_hf.inspection.doctor.is_peft_available", lambda: False)
    assert "needs the package peft" in diagnose(alone).obstacle


# -- what is private


def test_private_words_are_taken_out():
    known = {"/tmp/x1": "me/model", "/home/me/ckpt": "ckpt"}
    for text, expected in (
        ("/tmp/x1/llm/config.json is bad", "me/model/llm/config.json is bad"),
        ("nothing in /tmp/x1.", "nothing in me/model."),
        ("/tmp/x12/a", ".../a"),
        ("from '/home/me/ckpt/a' and /home/me/other/b.json", "from 'ckpt/a' and .../b.json"),
        (r"C:\Users\me\model", ".../model"),
        ("https://huggingface.co/a/b and a/b/c, and/or", "https://huggingface.co/a/b and a/b/c, and/or"),
        ("token hf_abcdefghijklmnopqrst!", "token hf_...!"),
        ("</a></b>", "</a></b>"),
    ):
        assert without_private([{"x": text}], known) == [{"x": expected}]


def test_page_has_no_path_of_the_machine_but_the_typed_one(folder, monkeypatch, tmp_path):
    path = folder / "config.json"
    config = json.loads(path.read_text())
    path.write_text(json.dumps({**config, "resume_path": "/lustre/me/run", "note": "hf_abcdefghijklmnopqrst"}))
    damaged_checkpoints.cut_header(folder)
    monkeypatch.chdir(tmp_path)
    diagnosis = diagnose("checkpoint")
    text = json.dumps(diagnosis.as_dict()) + format_diagnosis(diagnosis)
    assert "checkpoint/llm/model.safetensors is damaged" in text
    assert str(tmp_path) not in text and "/lustre" not in text and "abcdefgh" not in text and ".../run" in text


# -- the command


def test_command_prints_the_page_or_json(capsys, original_folder, folder):
    assert main(["doctor", str(original_folder)]) == 0
    shown = capsys.readouterr()
    assert shown.out.startswith(f"{original_folder}\n\nIt will load.\n") and shown.err == ""
    assert max(map(len, shown.out.splitlines())) <= max(110, len(str(original_folder)))
    damaged_checkpoints.cut_data(folder)
    with pytest.raises(SystemExit) as ended:
        main(["doctor", str(folder), "--json"])
    facts = json.loads(capsys.readouterr().out)
    assert ended.value.code == 1 and facts["loads"] is False and "is damaged" in facts["obstacle"]
    assert {"omnivinci_hf", "Python", "transformers", "torch", "huggingface_hub"} <= facts["versions"].keys()


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (["./nowhere"], "does not exist"),
        ([__file__], "is a file; give the folder"),
        ([os.path.dirname(__file__), "--revision", "main"], "has no revisions"),
        (["not/a/name"], "does not exist"),
    ],
)
def test_what_cannot_be_looked_at_is_one_line_and_code_2(capsys, argv, words):
    assert main(["doctor", *argv]) == 2
    shown = capsys.readouterr()
    assert shown.out == "" and words in shown.err and shown.err.count("\n") == 1


# -- sizes


@pytest.fixture(scope="module")
def full_size(original_folder, tmp_path_factory):
    folder = tmp_path_factory.mktemp("doctor") / "full"
    return folder, write_sparse_checkpoint(original_folder, folder)


def test_full_size_is_told_from_its_headers(full_size):
    folder, num_bytes = full_size
    diagnosis = diagnose(folder)
    assert diagnosis.loads, diagnosis.obstacle
    assert num_bytes > 17e9 and diagnosis.num_bytes > num_bytes and diagnosis.num_bytes_read < 1e6
    assert [part.num_files for part in diagnosis.parts if part.name == "llm"] == [4]


@pytest.mark.slow
def test_full_size_needs_little_memory(full_size):
    program = (
        "import resource, sys\n"
        "from omnivinci_hf.inspection.doctor import diagnose\n"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "assert diagnose(sys.argv[1]).loads\n"
        "print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024)"
    )
    done = subprocess.run([sys.executable, "-c", program, str(full_size[0])], capture_output=True, text=True)
    assert int(done.stdout) < 300e6


# -- the successor


@pytest.mark.parametrize(
    ("layout", "words"),
    [
        (lambda source, folder: write_five_folders(source, folder), "of Audio-Visual Flamingo, in five folders"),
        (lambda source, folder: write_one_folder(source, folder), "of Audio-Visual Flamingo, in one folder"),
        (lambda source, folder: write_one_folder(source, folder, older_names=True, shards=2), "in one folder"),
    ],
    ids=["five folders", "one folder", "older names in shards"],
)
def test_successor_is_told(original_folder, tmp_path, layout, words):
    folder = tmp_path / "successor"
    layout(original_folder, folder)
    diagnosis = assert_as_loading_does(folder)
    assert diagnosis.loads and words in diagnosis.layout
    assert {part.model_type for part in diagnosis.parts} >= {"qwen2", "siglip_vision_model", "qwen2_audio_encoder"}
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "s2_scales": [56, 100], "new_rope": 3}))
    assert not assert_as_loading_does(folder).loads
