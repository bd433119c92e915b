"""LoRA on the language model, the projectors and the towers."""

import shutil

import pytest
import torch
from transformers import AutoModel, pipeline

from omnivinci_hf import OmniVinciForConditionalGeneration
from tests.support.adapter_support import transformers_manages_adapters
from tests.support.conversations import AUDIO, IMAGE, prepare


peft = pytest.importorskip("peft")
# as in the README
TARGETS = {
    "language model": r"model\.language_model\..*\.(q_proj|k_proj|v_proj|o_proj)",
    "projectors": r"model\.(vision|audio)_projector\.linear_[12]",
    "towers": r"model\.(vision|audio)_tower\..*\.(q_proj|v_proj)",
}
EVERYWHERE = "|".join(TARGETS.values())


@pytest.fixture(scope="module")
def inputs(processor):
    return prepare(processor, [IMAGE, AUDIO, "What?"])


@pytest.fixture(scope="module")
def folders(original_folder, tmp_path_factory):
    folder = tmp_path_factory.mktemp("peft")
    AutoModel.from_pretrained(original_folder).save_pretrained(folder / "converted")
    return {"original": original_folder, "converted": folder / "converted"}


def adapted(folder, targets=EVERYWHERE, **options):
    torch.manual_seed(0)
    model = AutoModel.from_pretrained(folder, dtype=torch.float32)
    return peft.get_peft_model(model, peft.LoraConfig(r=4, target_modules=targets, **options))


@torch.inference_mode()
def logits(model, inputs):
    return model.eval()(**inputs).logits


@pytest.mark.parametrize("part", TARGETS)
def test_a_step_changes_the_adapter_of_the_part_alone(original_folder, inputs, part):
    model = adapted(original_folder, TARGETS[part]).train()
    trained = {name for name, value in model.named_parameters() if value.requires_grad}
    marks = {"language model": ("language_model",), "projectors": ("_projector",), "towers": ("_tower",)}[part]
    assert trained and all("lora_" in name and any(mark in name for mark in marks) for name in trained)
    model(**inputs, labels=inputs["input_ids"]).loss.backward()
    # layers after the one whose output is used are never run
    reached = {name for name, value in model.named_parameters() if value.grad is not None and value.grad.any()}
    assert reached and reached <= trained and all("lora_B" in name for name in reached)


@pytest.mark.parametrize("reentrant", [None, True, False])
def test_adapters_of_towers_learn_after_preparation_for_quantized_training(original_folder, inputs, reentrant):
    base = AutoModel.from_pretrained(original_folder, dtype=torch.float32)
    base.is_loaded_in_4bit = base.is_quantized = True  # as bitsandbytes does, which the preparation asks
    options = {} if reentrant is None else {"gradient_checkpointing_kwargs": {"use_reentrant": reentrant}}
    base = peft.prepare_model_for_kbit_training(base, **options)
    model = peft.get_peft_model(base, peft.LoraConfig(r=4, target_modules=TARGETS["towers"])).train()
    model(**inputs, labels=inputs["input_ids"]).loss.backward()
    reached = {name for name, value in model.named_parameters() if value.grad is not None and value.grad.any()}
    assert {name.split("_tower")[0].rpartition(".")[2] for name in reached} == {"vision", "audio"}
    assert all("lora_B" in name for name in reached)


def test_an_adapter_merged_gives_the_same(original_folder, inputs, tmp_path):
    model = adapted(original_folder, init_lora_weights=False)
    expected = logits(model, inputs)
    merged = model.merge_and_unload()
    assert type(merged) is OmniVinciForConditionalGeneration
    torch.testing.assert_close(logits(merged, inputs), expected, atol=1e-3, rtol=1e-3)
    merged.save_pretrained(tmp_path)
    torch.testing.assert_close(logits(AutoModel.from_pretrained(tmp_path), inputs), expected, atol=1e-3, rtol=1e-3)


@pytest.mark.parametrize("layout", ["original", "converted"])
def test_a_saved_adapter_loads_in_every_way(folders, inputs, tmp_path, layout):
    model = adapted(folders[layout], init_lora_weights=False)
    expected = logits(model, inputs)
    model.save_pretrained(tmp_path)
    assert sorted(path.name for path in tmp_path.glob("*.safetensors")) == ["adapter_model.safetensors"]

    base = AutoModel.from_pretrained(folders[layout], dtype=torch.float32)
    assert (logits(base, inputs) - expected).abs().max() > 0.1
    base.load_adapter(tmp_path)
    assert torch.equal(logits(base, inputs), expected)
    if transformers_manages_adapters():
        base.disable_adapters()
        assert not torch.equal(logits(base, inputs), expected)

    for auto_class in (AutoModel, OmniVinciForConditionalGeneration):
        assert torch.equal(logits(auto_class.from_pretrained(tmp_path, dtype=torch.float32), inputs), expected)


def test_whole_modules_come_with_their_adapter(original_folder, inputs, tmp_path):
    model = adapted(original_folder, TARGETS["language model"], modules_to_save=["vision_projector", "lm_head"])
    with torch.no_grad():
        for name, value in model.named_parameters():
            if "modules_to_save" in name:
                value.add_(0.1 * torch.randn_like(value))
    expected = logits(model, inputs)
    model.save_pretrained(tmp_path)
    for auto_class in (AutoModel, OmniVinciForConditionalGeneration):
        assert torch.equal(logits(auto_class.from_pretrained(tmp_path, dtype=torch.float32), inputs), expected)


def test_magnitudes_of_dora_come_with_their_adapter(original_folder, inputs, tmp_path):
    model = adapted(original_folder, TARGETS["language model"], use_dora=True, init_lora_weights=False)
    with torch.no_grad():
        for name, value in model.named_parameters():
            if "lora_magnitude_vector" in name:
                value.mul_(1 + torch.rand_like(value))
    expected = logits(model, inputs)
    model.save_pretrained(tmp_path)
    again = OmniVinciForConditionalGeneration.from_pretrained(tmp_path, dtype=torch.float32)
    torch.testing.assert_close(logits(again, inputs), expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("layout", ["original", "converted"])
def test_an_adapter_in_the_folder_of_its_model_is_put_on_it(folders, inputs, tmp_path, layout):
    shutil.copytree(folders[layout], tmp_path, dirs_exist_ok=True)
    model = adapted(folders[layout], init_lora_weights=False)
    model.save_pretrained(tmp_path)
    again = OmniVinciForConditionalGeneration.from_pretrained(tmp_path, dtype=torch.float32)
    assert torch.equal(logits(again, inputs), logits(model, inputs))


@pytest.mark.parametrize("layout", ["original", "converted"])
def test_a_pickled_adapter_is_refused(folders, tmp_path, layout):
    adapted(folders[layout]).save_pretrained(tmp_path)
    (tmp_path / "adapter_model.safetensors").rename(tmp_path / "adapter_model.bin")
    with pytest.raises(OSError, match="pickled adapters are never read: have it saved anew"):
        OmniVinciForConditionalGeneration.from_pretrained(tmp_path)
    with pytest.raises(OSError, match="has no adapter_model.safetensors"):
        AutoModel.from_pretrained(folders[layout]).load_adapter(tmp_path)


@pytest.mark.parametrize("layout", ["original", "converted"])
def test_the_pipeline_takes_the_folder_of_an_adapter(folders, processor, inputs, tmp_path, layout):
    if layout == "converted":
        processor.save_pretrained(folders[layout])
    model = adapted(folders[layout], init_lora_weights=False)
    expected = logits(model, inputs)
    model.save_pretrained(tmp_path)
    pipe = pipeline("omni-qa", model=str(tmp_path), device="cpu")
    assert torch.equal(logits(pipe.model, inputs), expected)
    assert pipe(image=IMAGE["path"], question="What?", max_new_tokens=3)[0]["question"] == "What?"


def test_loading_an_adapter_reports_as_usual(original_folder, inputs, tmp_path):
    adapted(original_folder).save_pretrained(tmp_path)
    model, info = OmniVinciForConditionalGeneration.from_pretrained(tmp_path, output_loading_info=True)
    assert not info["missing_keys"] and list(model.peft_config) == ["default"]
