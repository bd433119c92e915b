"""4- and 8-bit weights by bitsandbytes, which also runs on the CPU."""

import subprocess
import sys

import pytest
import torch
from transformers import AutoModel, AutoProcessor, BitsAndBytesConfig, pipeline

from omnivinci_hf import OmniVinciForConditionalGeneration, OmniVinciModel
from omnivinci_hf.testing.tiny import write_tiny_checkpoint
from tests.support.conversations import AUDIO, IMAGE, prepare


pytest.importorskip("bitsandbytes")
# SigLIP's attention pooling head takes its weights apart by itself, so it must stay as it is
TOWERS_TOO = ["lm_head", "model.vision_projector", "model.audio_projector", "model.vision_tower.head"]
LAYOUTS = ("original", "converted")


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Widths are multiples of 64, as bitsandbytes' 4-bit kernel for CPUs demands."""
    folder = tmp_path_factory.mktemp("quantization")
    write_tiny_checkpoint(
        folder / "original",
        vision_tower={"hidden_size": 64, "intermediate_size": 128, "vision_use_head": True},
        sound_tower={"d_model": 64, "encoder_ffn_dim": 128},
    )
    AutoModel.from_pretrained(folder / "original").save_pretrained(folder / "converted")
    return folder


@pytest.fixture(scope="module")
def inputs(folders):
    return prepare(AutoProcessor.from_pretrained(folders / "original"), [IMAGE, AUDIO, "What?"])


def load(folder, bits, skipped=None, **options):
    config = {"load_in_4bit": True, "bnb_4bit_quant_type": "nf4", "bnb_4bit_compute_dtype": torch.float32}
    config = BitsAndBytesConfig(
        **(config if bits == 4 else {"load_in_8bit": True}), llm_int8_skip_modules=skipped, **options
    )
    return AutoModel.from_pretrained(folder, quantization_config=config, dtype=torch.float32).eval()


def quantized(model, bits):
    kind = {4: "Linear4bit", 8: "Linear8bitLt"}[bits]
    return {name for name, module in model.named_modules() if type(module).__name__ == kind}


@torch.inference_mode()
def logits(model, inputs):
    return model(**inputs).logits.float()


def change(model, folder, inputs):
    """Mean change of the logits, in parts of their mean size."""
    exact = logits(AutoModel.from_pretrained(folder, dtype=torch.float32).eval(), inputs)
    return (logits(model, inputs) - exact).abs().mean() / exact.abs().mean()


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("bits", [4, 8])
def test_the_language_model_alone_is_quantized_by_default(folders, inputs, layout, bits):
    model = load(folders / layout, bits)
    linear = {name for name, part in model.named_modules() if isinstance(part, torch.nn.Linear)}
    assert quantized(model, bits) == {name for name in linear if name.startswith("model.language_model.")}
    assert 0 < change(model, folders / layout, inputs) < (0.05 if bits == 8 else 0.3)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("bits", [4, 8])
def test_towers_are_quantized_on_request(folders, inputs, layout, bits):
    model = load(folders / layout, bits, TOWERS_TOO)
    parts = ("model.language_model.layers.", "model.audio_tower.layers.", "model.vision_tower.encoder.")
    linear = {name for name, part in model.named_modules() if isinstance(part, torch.nn.Linear)}
    assert quantized(model, bits) == {name for name in linear if name.startswith(parts)}
    for part in parts:  # not merely by name: the weights are smaller
        layer = next(
            module for name, module in model.named_modules() if name in quantized(model, bits) and part in name
        )
        assert layer.weight.dtype == (torch.uint8 if bits == 4 else torch.int8)
    assert type(model.model.vision_tower.head.mlp.fc1) is torch.nn.Linear
    found = change(model, folders / layout, inputs)
    assert change(load(folders / layout, bits), folders / layout, inputs) != found
    assert 0 < found < (0.06 if bits == 8 else 0.4)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("skipped", [None, TOWERS_TOO], ids=["default", "towers too"])
def test_a_quantized_model_saved_and_loaded_is_the_same(folders, inputs, tmp_path, layout, bits, skipped):
    model = load(folders / layout, bits, skipped)
    model.save_pretrained(tmp_path)  # before the first run, in which a CPU's 4-bit kernel rounds the scales
    expected = logits(model, inputs)
    again = AutoModel.from_pretrained(tmp_path).eval()
    converted = folders / "converted"
    assert quantized(again, bits) == quantized(model, bits)
    assert torch.equal(logits(again, inputs), expected)
    small, full = (sum(file.stat().st_size for file in path.glob("*.safetensors")) for path in (tmp_path, converted))
    assert small < full


def test_the_pipeline_takes_a_quantization_config(folders):
    options = {"quantization_config": BitsAndBytesConfig(load_in_8bit=True)}
    pipe = pipeline("omni-qa", model=str(folders / "original"), device="cpu", model_kwargs=options, max_new_tokens=3)
    assert quantized(pipe.model, 8)
    answers = pipe(image=IMAGE["path"], question=["What?", "Where?"])
    assert [answer["question"] for answer in answers] == ["What?", "Where?"]


def test_a_step_of_qlora_changes_the_adapter_alone(folders, inputs):
    peft = pytest.importorskip("peft")
    model = peft.prepare_model_for_kbit_training(load(folders / "converted", 4), use_gradient_checkpointing=False)
    targets = r"model\.language_model\..*\.(q_proj|v_proj)"
    model = peft.get_peft_model(model, peft.LoraConfig(r=4, target_modules=targets)).train()
    before = {name: value.detach().clone() for name, value in model.named_parameters()}
    optimizer = torch.optim.SGD([value for value in model.parameters() if value.requires_grad], lr=1.0)
    model(**inputs, labels=inputs["input_ids"]).loss.backward()
    optimizer.step()
    changed = {name for name, value in model.named_parameters() if not torch.equal(value, before[name])}
    # the first step moves the B matrices alone: they are zero, so the A matrices have no gradient yet
    assert changed and all("lora_B" in name and "language_model" in name for name in changed)


@pytest.mark.parametrize("bits", [4, 8])
def test_without_bitsandbytes_the_error_says_how_to_install_it(folders, bits):
    program = f"""
import importlib.metadata, importlib.util, sys
find, version = importlib.util.find_spec, importlib.metadata.version
importlib.util.find_spec = lambda name, *rest: None if name.startswith("bitsandbytes") else find(name, *rest)
sys.modules["bitsandbytes"] = None
import omnivinci_hf
from transformers import AutoModel, BitsAndBytesConfig
AutoModel.from_pretrained({str(folders / "original")!r}, quantization_config=BitsAndBytesConfig(load_in_{bits}bit=True))
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode and "pip install" in done.stderr.splitlines()[-1] and "bitsandbytes" in done.stderr


def test_the_default_holds_for_a_dictionary_and_for_the_model_without_head(original_folder):
    config = {"load_in_8bit": True, "quant_method": "bitsandbytes"}
    for model_class in (OmniVinciForConditionalGeneration, OmniVinciModel):
        model = model_class.from_pretrained(original_folder, quantization_config=dict(config))
        quantized = [name for name, module in model.named_modules() if "8bit" in type(module).__name__]
        assert quantized and all("language_model.layers" in name for name in quantized)
