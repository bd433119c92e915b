"""What Transformers checks of every multimodal generative model, for both classes and every sound tower."""

import copy
import inspect
import json
import re
import sys

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, PreTrainedConfig, PreTrainedModel, dynamic_module_utils, modeling_utils

from omnivinci_hf import (
    OmniVinciConfig,
    OmniVinciForConditionalGeneration,
    OmniVinciModel,
    OmniVinciTimeEmbeddingConfig,
)
from omnivinci_hf.omnivinci.outputs_omnivinci import CACHE
from omnivinci_hf.omnivinci.time_embedding_omnivinci import NoTimeEmbedding
from tests.support.small_model import AUDIO_ENCODERS, LENGTH, row, small_config, small_inputs, small_model


FEATURES = {
    "image": ("pixel_values", "image_grids"),
    "video": ("pixel_values_videos", "video_num_frames", "video_frame_times_ns"),
    "audio": ("input_features", "audio_num_windows", "audio_durations_ns", "audio_num_embeds"),
}
TOWERS = ("vision_config", "audio_config", "text_config")


@pytest.fixture(scope="module", params=AUDIO_ENCODERS)
def any_model(request):
    return small_model(request.param)


@pytest.fixture(scope="module")
def model():
    return small_model()


@pytest.fixture(scope="module")
def inputs():
    return small_inputs()


def features(model, inputs, modality, **options):
    return getattr(model, f"get_{modality}_features")(**{name: inputs[name] for name in FEATURES[modality]}, **options)


def logits(model, inputs, **options):
    with torch.no_grad():
        return model(**inputs, **options).logits


# -- configuration ---------------------------------------------------------------------------------------------------


def test_sizes_are_found_through_the_text_config():
    text = small_config().get_text_config()
    assert (text.vocab_size, text.hidden_size, text.num_hidden_layers, text.num_attention_heads) == (99, 32, 2, 4)


def test_a_config_equals_itself_after_dictionary_file_and_folder(tmp_path):
    config = small_config()
    assert OmniVinciConfig.from_dict(config.to_dict()).to_dict() == config.to_dict()
    config.to_json_file(tmp_path / "file.json")
    assert OmniVinciConfig.from_json_file(tmp_path / "file.json").to_dict() == config.to_dict()
    config.save_pretrained(tmp_path)
    assert OmniVinciConfig.from_pretrained(tmp_path).to_dict() == config.to_dict()
    config.save_pretrained(tmp_path / "sub")
    assert OmniVinciConfig.from_pretrained(tmp_path, subfolder="sub").to_dict() == config.to_dict()
    assert "auto_map" in json.loads((tmp_path / "config.json").read_text())


def test_one_value_of_a_sub_config_can_be_replaced_on_loading(tmp_path):
    config = small_config()
    config.save_pretrained(tmp_path)
    again = OmniVinciConfig.from_pretrained(tmp_path, text_config={"vocab_size": 20})
    assert again.text_config.to_dict() == {**config.text_config.to_dict(), "vocab_size": 20}


def test_parts_of_a_saved_config_load_by_their_own_classes(tmp_path):
    config = small_config()
    config.save_pretrained(tmp_path)
    for name in TOWERS:
        part = getattr(config, name)
        assert type(part).from_pretrained(tmp_path).to_dict() == part.to_dict()


def test_the_attention_implementation_reaches_every_sub_config():
    config = small_config(attn_implementation="eager")
    parts = [part for part in vars(config).values() if isinstance(part, PreTrainedConfig)]
    assert len(parts) >= 5
    assert {part._attn_implementation for part in parts} == {"eager"}
    config._attn_implementation = "sdpa"
    assert {part._attn_implementation for part in parts} == {"sdpa"}


def test_the_configs_of_the_parts_are_those_of_the_model(model):
    assert model.model.vision_tower.config is model.config.vision_config
    assert model.model.audio_tower.config is model.config.audio_config
    assert model.model.language_model.config is model.config.text_config


# -- signature and outputs -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("model_class", [OmniVinciModel, OmniVinciForConditionalGeneration])
def test_signature(model_class):
    names = list(inspect.signature(model_class.forward).parameters)
    assert names[:3] == ["self", "input_ids", "attention_mask"] and "inputs_embeds" in names
    assert model_class.main_input_name == "input_ids"
    assert model_class.can_generate() == (model_class is OmniVinciForConditionalGeneration)


@torch.no_grad()
def test_shapes(any_model, inputs):
    output = any_model(**inputs, labels=inputs["input_ids"])
    assert output.logits.shape == (3, LENGTH, 99) and output.loss.shape == ()
    output = any_model(**inputs)
    assert output.logits.shape == (3, LENGTH, 99) and output.loss is None
    assert output[CACHE].get_seq_length() == LENGTH
    assert any_model.model(**inputs).last_hidden_state.shape == (3, LENGTH, 32)


@pytest.mark.parametrize("headless", [False, True])
@torch.no_grad()
def test_a_cache_has_both_of_its_names(model, inputs, headless):
    """Transformers 5.24 calls it `cache`, earlier versions `past_key_values`."""
    model = model.model if headless else model
    both, ids = {}, inputs["input_ids"][:, -1:]
    for name in ("cache", "past_key_values"):
        both[name] = model(**inputs)[CACHE]
        assert model(input_ids=ids, **{name: both[name]})[CACHE] is both[name]
        assert both[name].get_seq_length() == LENGTH + 1
    with pytest.raises(ValueError, match="two names for the same"):
        model(input_ids=ids, **both)


@pytest.mark.parametrize("headless", [False, True])
@torch.no_grad()
def test_tuples_hold_what_the_outputs_hold(model, inputs, headless):
    model = model.model if headless else model
    options = {"output_hidden_states": True, "use_cache": False}
    named = model(**inputs, **options).to_tuple()
    actual = model(**inputs, **options, return_dict=False)
    assert isinstance(actual, tuple) and torch.equal(actual[0], named[0])
    assert all(torch.equal(a, b) for a, b in zip(actual[1], named[1], strict=True))


@torch.no_grad()
def test_a_config_may_ask_for_tuples(inputs):
    config = small_config()
    config.return_dict = False
    model = OmniVinciForConditionalGeneration(config).eval()
    assert isinstance(model(**inputs), tuple)
    assert all(isinstance(features(model, inputs, modality), tuple) for modality in FEATURES)


@torch.no_grad()
def test_hidden_states(any_model, inputs):
    states = any_model(**inputs, output_hidden_states=True).hidden_states
    assert [state.shape for state in states] == 3 * [(3, LENGTH, 32)]
    torch.testing.assert_close(any_model.lm_head(states[-1]), any_model(**inputs).logits)


@torch.no_grad()
def test_attentions(inputs):
    attentions = small_model(attn_implementation="eager")(**inputs, output_attentions=True).attentions
    assert [weights.shape for weights in attentions] == 2 * [(3, 4, LENGTH, LENGTH)]
    assert all(torch.allclose(weights.sum(-1), torch.ones(3, 4, LENGTH)) for weights in attentions)


def test_gradients_of_hidden_states_and_attentions_can_be_kept(inputs):
    model = small_model(attn_implementation="eager")
    output = model(**inputs, output_hidden_states=True, output_attentions=True)
    for tensor in (output.hidden_states[0], output.attentions[0]):
        tensor.retain_grad()
    output.logits.sum().backward()
    assert output.hidden_states[0].grad is not None and output.attentions[0].grad is not None


@pytest.mark.parametrize("modality", FEATURES)
@torch.no_grad()
def test_features_of_a_medium_and_the_states_of_its_tower(any_model, inputs, modality):
    plain = features(any_model, inputs, modality)
    assert plain.hidden_states is None and plain.attentions is None
    any_model.set_attn_implementation("eager")
    full = features(any_model, inputs, modality, output_hidden_states=True, output_attentions=True)
    any_model.set_attn_implementation("sdpa")
    assert len(full.hidden_states) == 3 and len(full.attentions) == 2
    assert [embeds.ndim for embeds in plain.pooler_output] == [2, 2, 2]  # an entry of each of the three media
    torch.testing.assert_close(full.pooler_output, plain.pooler_output, atol=1e-5, rtol=1e-5)
    if modality != "audio":
        # the last but one is what the projector reads
        torch.testing.assert_close(full.hidden_states[-2], plain.last_hidden_state, atol=1e-5, rtol=1e-5)
    as_tuple = features(any_model, inputs, modality, return_dict=False)
    torch.testing.assert_close(as_tuple[1], plain.pooler_output, rtol=0, atol=0)


# -- training --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("checkpointing", [None, {"use_reentrant": False}, {"use_reentrant": True}], ids=str)
@pytest.mark.parametrize("audio", AUDIO_ENCODERS)
def test_every_trainable_parameter_gets_a_gradient(inputs, audio, checkpointing):
    model = small_model(audio).train()
    if checkpointing is not None:
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs=checkpointing)
    model(**inputs, labels=inputs["input_ids"]).loss.backward()
    assert not [name for name, value in model.named_parameters() if value.requires_grad and value.grad is None]


@pytest.mark.parametrize("checkpointing", [False, True])
def test_inputs_can_be_made_to_need_gradients(inputs, checkpointing):
    """As adapters need it where the embeddings are frozen."""
    model = small_model().train()
    model.requires_grad_(False)
    learned = model.model.language_model.layers[0].self_attn.q_proj.weight.requires_grad_(True)
    model.enable_input_require_grads()
    if checkpointing:
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": True})
    output = model(**inputs, labels=inputs["input_ids"], output_hidden_states=not checkpointing)
    assert checkpointing or output.hidden_states[0].requires_grad
    output.loss.backward()
    assert learned.grad.any()


def test_a_step_lowers_the_loss(inputs):
    model = small_model().train()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    losses = []
    for _ in range(3):
        loss = model(**inputs, labels=inputs["input_ids"]).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    assert losses[2] < losses[1] < losses[0]


# -- equal results ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("audio", AUDIO_ENCODERS)
def test_every_tensor_is_a_parameter_or_a_buffer(audio):
    model = small_model(audio, video_time_embedding={"type": "learned", "max_time": 9.0})
    known = {id(tensor) for tensor in (*model.parameters(), *model.buffers())}
    values = [value for module in model.modules() for value in vars(module).values()]
    assert not [value for value in values if isinstance(value, torch.Tensor) and id(value) not in known]


def test_two_runs_are_equal(any_model, inputs):
    assert torch.equal(logits(any_model, inputs), logits(any_model, inputs))


def test_a_copy_is_equal(any_model, inputs):
    assert torch.equal(logits(copy.deepcopy(any_model), inputs), logits(any_model, inputs))


def test_a_batch_equals_its_rows(any_model, inputs):
    batch = logits(any_model, inputs)
    for index in range(3):
        torch.testing.assert_close(logits(any_model, row(inputs, index))[0], batch[index], atol=1e-4, rtol=1e-4)


def test_embeddings_in_place_of_ids_with_media_and_without(any_model, inputs):
    words = {name: value for name, value in inputs.items() if name != "input_ids"}
    embeds = any_model.get_input_embeddings()(inputs["input_ids"])
    assert torch.equal(logits(any_model, {**words, "inputs_embeds": embeds}), logits(any_model, inputs))
    media = {name: value for name, value in inputs.items() if name != "attention_mask"}
    with torch.no_grad():
        embeds = any_model.model.embed_inputs(**media)
    assert torch.equal(logits(any_model, {"inputs_embeds": embeds}), logits(any_model, inputs))


def test_chunks_of_the_feed_forward_layers_change_nothing(model, inputs):
    again = small_model(chunk_size_feed_forward=1)
    assert torch.equal(logits(again, inputs), logits(model, inputs))


def test_attention_is_chosen_without_a_warning(monkeypatch):
    """Transformers would warn of time embeddings and OmniAlignNet, whose configs have none."""
    model = small_model(omni_align_config={})
    monkeypatch.setattr(modeling_utils.logger, "warning", pytest.fail)
    monkeypatch.setattr(modeling_utils.logger, "warning_once", pytest.fail)
    model.set_attn_implementation("eager")
    assert {getattr(model.config, tower)._attn_implementation for tower in TOWERS} == {"eager"}


@pytest.mark.parametrize("audio", AUDIO_ENCODERS)
def test_eager_attention_equals_sdpa_in_every_part(inputs, audio):
    eager, sdpa = small_model(audio, attn_implementation="eager"), small_model(audio, attn_implementation="sdpa")
    torch.testing.assert_close(logits(eager, inputs), logits(sdpa, inputs), atol=1e-4, rtol=1e-4)
    for modality in FEATURES:
        with torch.no_grad():
            actual, expected = (features(model, inputs, modality).pooler_output for model in (eager, sdpa))
        torch.testing.assert_close(actual, expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@torch.no_grad()
def test_half_precision(any_model, inputs, dtype):
    half = copy.deepcopy(any_model).to(dtype)
    output = half(**inputs, labels=inputs["input_ids"])
    assert output.logits.dtype == dtype and torch.isfinite(output.logits).all() and torch.isfinite(output.loss)


def test_masks_of_four_dimensions(model, inputs):
    expected = logits(model, inputs)
    causal = torch.ones(LENGTH, LENGTH, dtype=torch.bool).tril().expand(3, 1, -1, -1)
    added = torch.zeros(causal.shape).masked_fill(~causal, torch.finfo(torch.float32).min)
    for mask in (causal, added):
        torch.testing.assert_close(logits(model, {**inputs, "attention_mask": mask}), expected, atol=1e-5, rtol=1e-5)
    blind = causal.clone()
    blind[..., 1:, 0] = False
    assert (logits(model, {**inputs, "attention_mask": blind}) - expected).abs().max() > 0.01


@pytest.mark.parametrize("implementation", ["eager", "sdpa"])
def test_conversations_packed_into_one_row_do_not_see_each_other(inputs, implementation):
    model = small_model(attn_implementation=implementation)
    packed = {**inputs, "input_ids": inputs["input_ids"].reshape(1, -1)}
    packed["position_ids"] = torch.arange(LENGTH).repeat(3)[None]
    del packed["attention_mask"]
    expected = logits(model, inputs).reshape(1, 3 * LENGTH, -1)
    torch.testing.assert_close(logits(model, packed, use_cache=False), expected, atol=1e-4, rtol=1e-4)


def test_the_graph_can_be_exported(model, inputs):
    words = {"input_ids": inputs["input_ids"][:, :2], "attention_mask": torch.ones(3, 2, dtype=torch.long)}
    program = torch.export.export(model, args=(), kwargs={**words, "use_cache": False}, strict=False)
    torch.testing.assert_close(program.module()(**words, use_cache=False).logits, logits(model, words))


# -- attention implementations ---------------------------------------------------------------------------------------


def attentions_of(model):
    parts = ("vision_tower", "audio_tower", "language_model")
    return {part: getattr(model.model, part).config._attn_implementation for part in parts}


@pytest.mark.parametrize("audio", AUDIO_ENCODERS)
def test_the_attention_implementation_can_differ_by_part(audio, tmp_path):
    small_model(audio).save_pretrained(tmp_path)
    choice = {"": "sdpa", "vision_config": "eager", "audio_config": "sdpa", "text_config": "eager"}
    model = OmniVinciForConditionalGeneration.from_pretrained(tmp_path, attn_implementation=choice)
    assert attentions_of(model) == {"vision_tower": "eager", "audio_tower": "sdpa", "language_model": "eager"}
    assert model.config._attn_implementation == "sdpa"


def test_the_attention_implementation_can_be_set_later():
    model = small_model()
    assert set(attentions_of(model).values()) == {"sdpa"}
    model.set_attn_implementation("eager")
    assert set(attentions_of(model).values()) == {"eager"}
    model.set_attn_implementation({"text_config": "sdpa"})
    assert attentions_of(model) == {"vision_tower": "eager", "audio_tower": "eager", "language_model": "sdpa"}


@pytest.mark.parametrize("audio", AUDIO_ENCODERS)
def test_every_part_offers_flash_attention_and_sdpa(audio):
    parts = [module for module in small_model(audio).modules() if isinstance(module, PreTrainedModel)]
    assert len(parts) == 5 and all(part._supports_flash_attn and part._supports_sdpa for part in parts)


# -- embeddings ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("headless", [False, True])
def test_input_embeddings_can_be_taken_and_set(headless):
    model = small_model()
    model = model.model if headless else model
    assert model.get_input_embeddings() is model.get_submodule(
        "language_model.embed_tokens" if headless else "model.language_model.embed_tokens"
    )
    other = torch.nn.Embedding(10, 32)
    model.set_input_embeddings(other)
    assert model.get_input_embeddings() is other


@pytest.mark.parametrize("tied", [False, True])
def test_resizing_embeddings(inputs, tied):
    model = small_model(tie_word_embeddings=tied)
    before = model.get_input_embeddings().weight.clone()
    model.resize_token_embeddings(109)
    assert model.config.get_text_config().vocab_size == 109
    assert model.get_input_embeddings().weight.shape == model.lm_head.weight.shape == (109, 32)
    assert model.lm_head.out_features == 109
    assert torch.equal(model.get_input_embeddings().weight[:99], before)
    assert (model.get_input_embeddings().weight is model.lm_head.weight) == tied
    larger = {**inputs, "input_ids": inputs["input_ids"].clone()}
    larger["input_ids"][:, -1] = 108
    assert logits(model, larger, labels=larger["input_ids"]).shape == (3, LENGTH, 109)
    model.resize_token_embeddings(84)
    assert logits(model, {**inputs, "input_ids": inputs["input_ids"].clamp(max=83)}).shape == (3, LENGTH, 84)
    model.resize_token_embeddings(90, pad_to_multiple_of=64)
    assert model.get_input_embeddings().num_embeddings == model.lm_head.out_features == 128


@pytest.mark.parametrize("where", ["config", "text_config"])
def test_tied_weights_are_one_tensor_saved_once(inputs, tmp_path, where):
    tie = {"tie_word_embeddings": True}
    model = small_model(**(tie if where == "config" else {"text_config": tie}))
    assert model.lm_head.weight is model.get_input_embeddings().weight
    model.save_pretrained(tmp_path)
    assert "lm_head.weight" not in load_file(tmp_path / "model.safetensors")
    again, info = OmniVinciForConditionalGeneration.from_pretrained(tmp_path, output_loading_info=True)
    assert not info["missing_keys"] and again.lm_head.weight is again.get_input_embeddings().weight
    assert torch.equal(logits(again.eval(), inputs), logits(model, inputs))


# -- saving and loading ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", ["5GB", "40KB"])
def test_a_saved_model_is_equal_in_one_file_or_several(any_model, inputs, tmp_path, size):
    any_model.save_pretrained(tmp_path, max_shard_size=size)
    assert (len(list(tmp_path.glob("*.safetensors"))) > 1) == (size == "40KB")
    again, info = OmniVinciForConditionalGeneration.from_pretrained(tmp_path, output_loading_info=True)
    assert not any(info[name] for name in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    assert torch.equal(logits(again.eval(), inputs), logits(any_model, inputs))


@torch.no_grad()
def test_weights_go_between_the_classes_with_head_and_without(model, inputs, tmp_path):
    model.save_pretrained(tmp_path / "with")
    headless = OmniVinciModel.from_pretrained(tmp_path / "with").eval()
    expected = model.model(**inputs).last_hidden_state
    assert torch.equal(headless(**inputs).last_hidden_state, expected)
    headless.save_pretrained(tmp_path / "without")
    again, info = OmniVinciForConditionalGeneration.from_pretrained(tmp_path / "without", output_loading_info=True)
    assert info["missing_keys"] == {"lm_head.weight"}
    assert torch.equal(again.eval().model(**inputs).last_hidden_state, expected)


@torch.no_grad()
def test_a_model_without_head_is_saved_with_its_code(model, inputs, tmp_path, monkeypatch):
    monkeypatch.setattr(dynamic_module_utils, "HF_MODULES_CACHE", str(tmp_path / "modules"))
    monkeypatch.setattr(sys, "path", [*sys.path])
    model.model.save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    assert "custom_pipelines" not in config and set(config["auto_map"]) == {"AutoConfig", "AutoModel"}
    remote = dynamic_module_utils.get_class_from_dynamic_module(config["auto_map"]["AutoModel"], str(tmp_path))
    assert remote.__module__.startswith("transformers_modules.") and remote.__name__ == "OmniVinciModel"
    again = remote.from_pretrained(tmp_path).eval()
    assert torch.equal(again(**inputs).last_hidden_state, model.model(**inputs).last_hidden_state)
    model.save_pretrained(tmp_path)  # the config of both is one
    assert "AutoModelForImageTextToText" in json.loads((tmp_path / "config.json").read_text())["auto_map"]


@pytest.mark.parametrize("model_class", [OmniVinciModel, OmniVinciForConditionalGeneration])
def test_a_derived_config_says_where_its_code_is(model_class):
    class DerivedConfig(OmniVinciConfig):
        auto_map = {**OmniVinciConfig.auto_map, "AutoConfig": "derived.DerivedConfig"}

    derived = model_class(DerivedConfig.from_dict(small_config().to_dict()))
    derived.add_remote_code_entries()
    assert derived.config.auto_map["AutoConfig"] == "derived.DerivedConfig"


def test_a_config_tells_the_auto_class_of_its_model(tmp_path):
    """TRL reads it of what it is given a path of."""
    small_config().save_pretrained(tmp_path)
    assert set(json.loads((tmp_path / "config.json").read_text())["auto_map"]) == {"AutoConfig"}
    assert "AutoModelForImageTextToText" in AutoConfig.from_pretrained(tmp_path).auto_map


def test_loading_within_a_device_context(model, inputs, tmp_path):
    model.save_pretrained(tmp_path)
    with torch.device("cpu"):
        again = OmniVinciForConditionalGeneration.from_pretrained(tmp_path).eval()
    assert torch.equal(logits(again, inputs), logits(model, inputs))
    with torch.device("meta"), pytest.raises(RuntimeError, match="meta device"):
        OmniVinciForConditionalGeneration.from_pretrained(tmp_path)


def test_other_shapes_are_an_error_unless_ignored(model, tmp_path):
    model.save_pretrained(tmp_path)
    options = {"text_config": {"vocab_size": 50}}
    with pytest.raises(RuntimeError, match="ignore_mismatched_sizes"):
        OmniVinciForConditionalGeneration.from_pretrained(tmp_path, **options)
    again, info = OmniVinciForConditionalGeneration.from_pretrained(
        tmp_path, ignore_mismatched_sizes=True, output_loading_info=True, **options
    )
    assert {key[0] for key in info["mismatched_keys"]} == {
        "lm_head.weight",
        "model.language_model.embed_tokens.weight",
    }
    assert again.lm_head.weight.shape == (50, 32) and torch.isfinite(again.lm_head.weight).all()


@pytest.mark.parametrize("audio", AUDIO_ENCODERS)
def test_every_missing_weight_is_initialized(audio, tmp_path):
    learned = {"type": "learned", "max_time": 9.0}
    model = small_model(audio, video_time_embedding=learned, vision_config={"vision_use_head": True})
    model.save_pretrained(tmp_path)
    save_file({"lm_head.weight": model.lm_head.weight.detach()}, tmp_path / "model.safetensors", {"format": "pt"})
    again, info = OmniVinciForConditionalGeneration.from_pretrained(tmp_path, output_loading_info=True)
    assert len(info["missing_keys"]) == len(model.state_dict()) - 1
    for name, value in again.state_dict().items():
        assert torch.isfinite(value).all() and -1 <= value.mean() <= 1, name


@pytest.mark.parametrize("audio", AUDIO_ENCODERS)
def test_initialization_sets_every_parameter_and_buffer(audio):
    config = small_config(audio, video_time_embedding={"type": "learned", "max_time": 9.0})
    config.vision_config.vision_use_head = True
    with torch.device("meta"):
        model = OmniVinciForConditionalGeneration(config)
    model.to_empty(device="cpu")
    with torch.no_grad():
        for tensor in (*model.parameters(), *model.buffers()):
            if tensor.is_floating_point():
                tensor.fill_(float("nan"))
            tensor._is_hf_initialized = False
        for module in model.modules():
            module._is_hf_initialized = False
        model.init_weights()
    assert not [name for name, value in model.state_dict().items() if not torch.isfinite(value).all()]
    assert not [name for name, value in model.named_buffers() if not torch.isfinite(value).all()]


def test_the_plan_of_tensor_parallelism_names_weights_of_the_model(model):
    weights = [name.removesuffix(".weight") for name, _ in model.named_parameters()]
    for pattern in model.tp_plan:
        assert any(re.fullmatch(re.escape(pattern).replace(r"\*", r"\d+"), name) for name in weights), pattern


# -- placement -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("audio", AUDIO_ENCODERS)
def test_parts_that_must_not_be_split_are_named(audio):
    present = {type(module).__name__ for module in small_model(audio).modules()}
    assert {"SiglipEncoderLayer", "Qwen2DecoderLayer"} <= present & set(
        OmniVinciForConditionalGeneration._no_split_modules
    )
    layer = type(small_model(audio).model.audio_tower.layers[0]).__name__
    assert layer in OmniVinciForConditionalGeneration._no_split_modules


@pytest.mark.parametrize("share", [0.5, 0.8])
def test_what_does_not_fit_is_read_from_disk(any_model, inputs, tmp_path, share):
    any_model.save_pretrained(tmp_path / "model")
    size = sum(tensor.nbytes for tensor in any_model.state_dict().values())
    split = OmniVinciForConditionalGeneration.from_pretrained(
        tmp_path / "model",
        device_map="auto",
        max_memory={"cpu": int(share * size)},
        offload_folder=tmp_path / "offload",
    ).eval()
    assert set(split.hf_device_map.values()) == {"cpu", "disk"}
    assert torch.equal(logits(split, inputs), logits(any_model, inputs))
    options = {"max_new_tokens": 3, "do_sample": False}
    assert torch.equal(split.generate(**inputs, **options), any_model.generate(**inputs, **options))


def test_device_map_auto_takes_what_there_is(model, inputs, tmp_path):
    model.save_pretrained(tmp_path)
    placed = OmniVinciForConditionalGeneration.from_pretrained(tmp_path, device_map="auto").eval()
    assert not any(parameter.is_meta for parameter in placed.parameters())
    torch.testing.assert_close(logits(placed, inputs).cpu(), logits(model, inputs), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@torch.no_grad()
def test_low_precision_keeps_times_exact_from_end_to_end(model, inputs, dtype):
    """After an hour, half precision could not tell frames of the same minute apart; the rotation must."""
    moments = torch.tensor([3500.0, 3500.04, 3500.08, 3500.12, 3599.96, 3600.0], dtype=torch.float64)
    inputs = {**inputs, "video_frame_times_ns": (moments * 1e9).round().long()}
    half = copy.deepcopy(model).to(dtype)
    actual = torch.cat(features(half, inputs, "video").pooler_output)
    half.model.video_time_embedding = NoTimeEmbedding(OmniVinciTimeEmbeddingConfig(), 32)
    plain = torch.cat(features(half, inputs, "video").pooler_output).double().view(6, 4, 16, 2)
    frequencies = 2 * torch.pi / (3600 * 10000 ** (torch.arange(16, dtype=torch.float64) / 16))
    angles = (moments[:, None] * frequencies)[:, None]  # (frames, 1, pairs of channels)
    real, imaginary = plain.unbind(-1)
    expected = torch.stack(
        (real * angles.cos() - imaginary * angles.sin(), imaginary * angles.cos() + real * angles.sin()), dim=-1
    )
    # equal up to one unit in the last place, where the double lies between two numbers
    torch.testing.assert_close(
        actual, expected.flatten(0, 1).flatten(1).to(dtype), atol=1e-6, rtol=torch.finfo(dtype).eps
    )
