"""An adapter's folder as a checkpoint: the command line, and what is taken from the model that it belongs to."""

import json
import shutil

import pytest
from PIL import Image

from omnivinci_hf import OmniVinciConfig, OmniVinciForConditionalGeneration, OmniVinciProcessor
from omnivinci_hf.cli import main
from omnivinci_hf.omnivinci.checkpoint_files_omnivinci import find_adapter, place_of


peft = pytest.importorskip("peft")


@pytest.fixture(scope="module")
def adapter(original_folder, tmp_path_factory):
    folder = tmp_path_factory.mktemp("adapters") / "adapter"
    model = OmniVinciForConditionalGeneration.from_pretrained(original_folder)
    options = peft.LoraConfig(r=2, target_modules=r"model\.language_model\..*\.q_proj", init_lora_weights=False)
    peft.get_peft_model(model, options).save_pretrained(folder)
    return folder


@pytest.fixture
def with_base(adapter, tmp_path):
    """Makes a copy of the adapter that names another base model."""

    def copy(base):
        folder = shutil.copytree(adapter, tmp_path / "copy", dirs_exist_ok=True)
        config = json.loads((folder / "adapter_config.json").read_text())
        (folder / "adapter_config.json").write_text(json.dumps({**config, "base_model_name_or_path": base}))
        return folder

    return copy


def test_processor_and_config_are_those_of_the_base_model(adapter, original_folder):
    found, expected = (
        OmniVinciProcessor.from_pretrained(folder, num_frames=3) for folder in (adapter, original_folder)
    )
    assert found.to_dict() == expected.to_dict() and found.video_processor.num_frames == 3
    assert found.tokenizer.get_vocab() == expected.tokenizer.get_vocab()
    config = OmniVinciConfig.from_pretrained(adapter)
    assert config.to_dict() == OmniVinciConfig.from_pretrained(original_folder).to_dict()


def test_a_processor_of_its_own_comes_first(adapter, original_folder, tmp_path):
    folder = shutil.copytree(adapter, tmp_path / "own")
    OmniVinciProcessor.from_pretrained(original_folder, num_frames=5).save_pretrained(folder)
    assert OmniVinciProcessor.from_pretrained(folder).video_processor.num_frames == 5


def test_the_revision_of_the_base_model_is_not_the_adapters(adapter):
    adapted = find_adapter(str(adapter), {"token": "t"})
    assert adapted.base_options == {"token": "t"}
    assert place_of(str(adapter), "adapter_config.json", {}) == (str(adapter), {})
    name, options = place_of(str(adapter), "config.json", {"revision": "v2", "token": "t", "num_frames": 3})
    assert (name, options) == (adapted.base, {"token": "t", "num_frames": 3})


def test_the_command_line_asks_and_inspects_an_adapter(adapter, tmp_path, capsys):
    picture = tmp_path / "a.png"
    Image.new("RGB", (30, 20)).save(picture)
    assert main(["ask", str(picture), "What?", "--model", str(adapter), "--max-new-tokens", "2"]) == 0
    assert main(["inspect", str(picture), "--model", str(adapter)]) == 0
    assert "tokens" in capsys.readouterr().out


def test_an_adapter_is_not_converted(adapter, original_folder, tmp_path, capsys):
    assert main(["convert", str(adapter), str(tmp_path / "out")]) == 2
    assert f"is an adapter: convert {original_folder}, which it belongs to" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("base", "message"),
    [
        ("/gone/away", "is an adapter of a model that is not there: /gone/away does not exist"),
        (None, "adapter_config.json names no base model"),
    ],
)
def test_an_adapter_without_its_model_is_told(with_base, capsys, base, message):
    for words in (["ask", "What?"], ["inspect", __file__]):
        assert main([*words, "--model", str(with_base(base))]) == 2
        assert message in capsys.readouterr().err


def test_the_package_that_an_adapter_needs_is_named(adapter, monkeypatch, capsys):
    monkeypatch.setattr("omnivinci_hf.cli.commands.is_peft_available", lambda: False)
    assert main(["ask", "What?", "--model", str(adapter)]) == 2
    assert "is an adapter, which needs the package peft: pip install peft" in capsys.readouterr().err


def test_a_damaged_configuration_of_an_adapter_is_named(tmp_path):
    (tmp_path / "adapter_config.json").write_text("{")
    with pytest.raises(ValueError, match=r"adapter_config\.json is no JSON"):
        find_adapter(str(tmp_path), {})
