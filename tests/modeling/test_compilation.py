"""`torch.compile`, `torch.export` and PyTorch's own quantization, with media of every kind."""

import copy

import pytest
import torch
from torch._dynamo.testing import CompileCounter

from tests.support.small_model import AUDIO, AUDIO_ENCODERS, IMAGE, VIDEO, small_inputs, small_model


PLACEHOLDERS = {"image": IMAGE, "video": VIDEO, "audio": AUDIO}
NAMES = {"image": ("pixel_values", "image"), "video": ("pixel_values_videos", "video"), "audio": ("input_f", "audio")}


@pytest.fixture(scope="module")
def model():
    return small_model()


@pytest.fixture(autouse=True)
def nothing_compiled():
    torch._dynamo.reset()


def inputs_of(modality: str | None) -> dict[str, torch.Tensor]:
    """Three rows that have media of one modality, or none."""
    inputs = small_inputs()
    ids = inputs["input_ids"]
    for other, placeholder in PLACEHOLDERS.items():
        if other != modality:
            ids[ids == placeholder] = 7
            inputs = {name: value for name, value in inputs.items() if not is_of(other, name)}
    return inputs


def is_of(modality: str, name: str) -> bool:
    return name.startswith(NAMES[modality]) and not (modality == "image" and name == "pixel_values_videos")


def compiled_graphs(model, inputs) -> list[int]:
    """How many operations each graph of the compiled model has; the answer is that of the model itself."""
    sizes = []

    def backend(graph, example_inputs):
        sizes.append(sum(node.op not in ("placeholder", "output") for node in graph.graph.nodes))
        return graph

    with torch.no_grad():
        actual = torch.compile(model, backend=backend)(**inputs).logits
        torch.testing.assert_close(actual, model(**inputs).logits)
    return sizes


def test_the_language_model_is_one_graph_whatever_the_media(model):
    sizes = {}
    for modality in (None, *PLACEHOLDERS):
        torch._dynamo.reset()
        sizes[modality] = max(compiled_graphs(model, inputs_of(modality)))
    assert sizes["image"] == sizes["video"] == sizes["audio"] > 0.9 * sizes[None]  # all but the words


@pytest.mark.parametrize("part", ["vision_tower", "audio_tower"])
def test_towers_may_be_compiled_on_their_own(part):
    model, inputs, counter = small_model(), small_inputs(), CompileCounter()
    with torch.no_grad():
        expected = model(**inputs).logits
        getattr(model.model, part).compile(backend=counter, fullgraph=True)
        torch.testing.assert_close(model(**inputs).logits, expected)
    assert counter.frame_count > 0


@pytest.mark.parametrize(
    "audio", ["qwen2_audio_encoder", pytest.param("audioflamingo3_encoder", marks=pytest.mark.slow)]
)
def test_a_model_with_media_of_every_kind_can_be_exported(audio):
    model, inputs, others = small_model(audio), small_inputs(), small_inputs(seed=1)
    program = torch.export.export(model, (), {**inputs, "use_cache": False}).module()
    with torch.no_grad():
        for given in (inputs, others):
            torch.testing.assert_close(program(**given, use_cache=False).logits, model(**given).logits)
    others["audio_num_embeds"] = others["audio_num_embeds"] - 1
    with pytest.raises(RuntimeError):  # more placeholders than embeddings
        program(**others, use_cache=False)


def test_an_exported_model_hears_no_more_than_is_kept(model):
    inputs = inputs_of("audio")
    inputs["audio_num_embeds"] = torch.tensor([3, 10, 7])
    for row, count in enumerate((3, 10, 7)):
        inputs["input_ids"][row, 14 + count : 24] = 8
    program = torch.export.export(model, (), {**inputs, "use_cache": False}).module()
    with torch.no_grad():
        torch.testing.assert_close(program(**inputs, use_cache=False).logits, model(**inputs).logits)


def test_pairs_of_sound_and_picture_take_no_part_in_export():
    model, inputs = small_model(omni_align_config={}), small_inputs()
    for name in ("video_has_audio", "audio_from_video"):
        inputs[name] = torch.ones(3, dtype=torch.bool)
    with torch.no_grad():
        expected = model(**inputs).logits
        program = torch.export.export(model, (), {**inputs, "use_cache": False}).module()
        torch.testing.assert_close(program(**inputs, use_cache=False).logits, expected)


def test_what_shapes_do_not_tell_is_given_to_export_as_a_list(model):
    """Videos of one and of five frames, an image of several tiles."""
    inputs = small_inputs(rows=2)
    inputs["video_num_frames"] = torch.tensor([1, 3])
    inputs["pixel_values"] = torch.rand(2 * 6, 3, 16, 16)
    inputs["image_grids"] = torch.tensor([[1, 1], [1, 1]])
    model = small_model(s2_scales=[16, 32, 48])
    with pytest.raises(ValueError, match="give it as a list, `image_grids.tolist"):
        torch.export.export(model, (), {**inputs, "use_cache": False})
    lists = {**inputs, **{name: inputs[name].tolist() for name in ("image_grids", "video_num_frames")}}
    program = torch.export.export(model, (), {**lists, "use_cache": False}).module()
    with torch.no_grad():
        expected = model(**inputs).logits
        torch.testing.assert_close(program(**lists, use_cache=False).logits, expected)
        assert torch.equal(model(**lists).logits, expected)


@pytest.mark.parametrize("audio", AUDIO_ENCODERS)
def test_linear_layers_may_be_quantized_dynamically(audio):
    model, inputs = small_model(audio), small_inputs()
    quantized = torch.ao.quantization.quantize_dynamic(copy.deepcopy(model), {torch.nn.Linear}, dtype=torch.qint8)
    with torch.no_grad():
        torch.testing.assert_close(quantized(**inputs).logits, model(**inputs).logits, atol=0.3, rtol=0.1)
        assert quantized.generate(**inputs, max_new_tokens=2).shape[1] == inputs["input_ids"].shape[1] + 2
