"""What each Auto class gives, and which of them need torchvision."""

import pytest
import torch
import transformers
from transformers import AutoProcessor, pipeline
from transformers.pipelines import any_to_any
from transformers.utils import is_torchvision_available

from omnivinci_hf import OmniVinciConfig
from tests.support.conversations import AUDIO, IMAGE, VIDEO, prepare


MODELS = ("AutoModel", "AutoModelForMultimodalLM", "AutoModelForImageTextToText")
PARTS = {
    "AutoConfig": "OmniVinciConfig",
    **dict.fromkeys(MODELS, "OmniVinciForConditionalGeneration"),
    "AutoProcessor": "OmniVinciProcessor",
    "AutoFeatureExtractor": "OmniVinciFeatureExtractor",
    "AutoTokenizer": "Qwen2Tokenizer",
}
GREEDY = {"max_new_tokens": 4, "min_new_tokens": 4, "do_sample": False}


@pytest.fixture(scope="module")
def converted(model, processor, tmp_path_factory):
    folder = tmp_path_factory.mktemp("auto")
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


@pytest.mark.parametrize("name", PARTS)
def test_a_converted_checkpoint(converted, name):
    assert type(getattr(transformers, name).from_pretrained(converted)).__name__ == PARTS[name]


@pytest.mark.parametrize("name", ["AutoConfig", *MODELS, "AutoProcessor"])
def test_the_original_layout(original_folder, name):
    """Its parts come with `AutoProcessor` alone: the root's preprocessor file is a Whisper feature extractor's."""
    assert type(getattr(transformers, name).from_pretrained(original_folder)).__name__ == PARTS[name]


@pytest.mark.parametrize("name", MODELS)
def test_a_model_from_a_config(name):
    with torch.device("meta"):
        model = getattr(transformers, name).from_config(OmniVinciConfig())
    assert type(model).__name__ == "OmniVinciForConditionalGeneration"
    assert 8.6e9 < sum(parameter.numel() for parameter in model.parameters()) < 8.8e9


@pytest.mark.parametrize("kind", ["image", "video"])
def test_image_and_video_processors(converted, kind):
    """Their modules need nothing; Transformers' stand-ins at the top level may ask for torchvision."""
    module = getattr(transformers.models.auto, f"{kind}_processing_auto")
    name = f"{kind.title()}Processor"
    assert type(getattr(module, f"Auto{name}").from_pretrained(converted)).__name__ == f"OmniVinci{name}"
    try:
        part = getattr(transformers, f"Auto{name}").from_pretrained(converted)
    except ImportError as error:
        assert not is_torchvision_available() and "Torchvision" in str(error)
    else:
        assert type(part).__name__ == f"OmniVinci{name}"


@pytest.fixture(params=["image-text-to-text", "any-to-any"])
def task(request, monkeypatch):
    if request.param == "any-to-any" and not is_torchvision_available():
        # it asks for torchvision, and nothing of it is used with this model
        monkeypatch.setattr(any_to_any, "requires_backends", lambda *args: None)
    return request.param


@pytest.mark.parametrize("layout", ["original", "converted"])
@pytest.mark.parametrize("medium", [IMAGE, VIDEO, AUDIO], ids=lambda medium: medium["type"])
def test_general_pipelines_answer_chats(
    task, model, processor, original_folder, converted, layout, medium, monkeypatch
):
    monkeypatch.setattr("builtins.input", lambda *args: pytest.fail("asked whether to trust remote code"))
    pipe = pipeline(task, model=str(original_folder if layout == "original" else converted), device="cpu")
    chat = [{"role": "user", "content": [medium, {"type": "text", "text": "What?"}]}]
    inputs = prepare(processor, [medium, "What?"])
    ids = model.generate(**inputs, **GREEDY)[0, inputs["input_ids"].shape[1] :]
    (answer,) = pipe(text=chat, return_full_text=False, generate_kwargs=GREEDY)
    assert answer["generated_text"] == processor.decode(ids, skip_special_tokens=True)


@pytest.mark.skipif(is_torchvision_available(), reason="torchvision is there")
def test_the_any_to_any_pipeline_names_torchvision(original_folder):
    with pytest.raises(ImportError, match="AnyToAnyPipeline requires the Torchvision library"):
        pipeline("any-to-any", model=str(original_folder))


def test_the_processor_of_a_saved_processor_is_equal(processor, converted):
    inputs = prepare(AutoProcessor.from_pretrained(converted), [IMAGE, AUDIO, "What?"])
    expected = prepare(processor, [IMAGE, AUDIO, "What?"])
    assert all(torch.equal(inputs[name], expected[name]) for name in expected)
