"""A configuration as Transformers 4.46 writes it, nested ones in full, loads, saves and loads again; nothing warns."""

import json
import logging

import pytest
from transformers import AutoConfig, AutoModel
from transformers.utils import logging as transformers_logging

from omnivinci_hf import OmniVinciConfig, OmniVinciForConditionalGeneration
from omnivinci_hf.original_layout.convert import convert_checkpoint
from omnivinci_hf.testing import write_tiny_checkpoint
from tests.support.original_variants import COMPONENTS, DUMPED_4_46, both, copies, dumped, edit, read


SAMPLING = {"do_sample": True, "temperature": 0.7, "top_k": 20, "max_length": 4096, "num_beams": 2}


def write_converted(folder):
    """The configuration of the converted layout with all that 4.46 wrote into the nested ones and the outer one."""
    values = read(folder, "config.json")
    parts = ("text_config", "vision_config", "audio_config", "video_time_embedding", "audio_time_embedding")
    values |= {part: {**DUMPED_4_46, **SAMPLING, **values[part]} for part in parts}
    values = {**DUMPED_4_46, **values, "torch_dtype": values.pop("dtype"), "transformers_version": "4.46.0"}
    (folder / "config.json").write_text(json.dumps(values))


@pytest.fixture(params=["original", "converted"])
def checkpoint(request, tmp_path):
    original = write_tiny_checkpoint(tmp_path / "original")
    if request.param == "converted":
        converted = convert_checkpoint(original, tmp_path / "converted")
        write_converted(converted)
        return converted
    both(
        copies(lambda name, copy: dumped({**SAMPLING, **copy})),
        *(edit(f"{name}/config.json", lambda values: dumped({**SAMPLING, **values})) for name in COMPONENTS),
        edit("config.json", dumped),
    )(original)
    return original


@pytest.fixture
def warnings(caplog):
    """All that Transformers, we and Python warn of."""
    verbosity = transformers_logging.get_verbosity()
    transformers_logging.set_verbosity_warning()
    transformers_logging.enable_propagation()
    logging.captureWarnings(True)
    yield lambda: [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]
    logging.captureWarnings(False)
    transformers_logging.disable_propagation()
    transformers_logging.set_verbosity(verbosity)


def test_warnings_would_be_seen(warnings):
    transformers_logging.get_logger("transformers.configuration_utils").warning("a control")
    assert warnings() == ["a control"]


@pytest.mark.parametrize("config_class", [OmniVinciConfig, AutoConfig])
def test_configuration(checkpoint, config_class, warnings, tmp_path):
    config = config_class.from_pretrained(checkpoint)
    config.save_pretrained(tmp_path / "again")
    again = config_class.from_pretrained(tmp_path / "again")
    assert warnings() == []
    values, expected = again.to_dict(), config.to_dict()
    assert {key: values[key] for key in values if key != "_name_or_path"} == {
        key: expected[key] for key in expected if key != "_name_or_path"
    }
    assert again.text_config.hidden_size == 64 and not again.tie_word_embeddings


def test_model(checkpoint, warnings, tmp_path):
    model = OmniVinciForConditionalGeneration.from_pretrained(checkpoint)
    model.save_pretrained(tmp_path / "again")
    again = AutoModel.from_pretrained(tmp_path / "again")
    assert warnings() == []
    assert again.config.text_config.to_dict() == model.config.text_config.to_dict()
