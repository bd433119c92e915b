"""Generation with every kind of cache and decoding that Transformers has, media included."""

import copy
import functools
import shutil
from threading import Thread

import pytest
import torch
from torch._dynamo.utils import counters
from transformers import (
    CompileConfig,
    DynamicCache,
    GenerationConfig,
    StaticCache,
    TextIteratorStreamer,
)

from omnivinci_hf import OmniVinciForConditionalGeneration
from tests.support import goldens
from tests.support.small_model import IMAGE, LENGTH, padded_left, row, small_inputs, small_model


GREEDY = {"max_new_tokens": 6, "do_sample": False}
CHUNKS = {"prefill_chunk_size": 4}
MEDIA = {
    "image": {"type": "image", "path": str(goldens.SMALL / "b_image" / "image.png")},
    "second image": {"type": "image", "path": str(goldens.SMALL / "c_two_images" / "image2.png")},
    "audio": {"type": "audio", "path": str(goldens.SMALL / "d_audio3" / "audio.wav")},
    "video": {"type": "video", "path": str(goldens.SMALL / "h_video5" / "video.mp4")},
}


@pytest.fixture(scope="module")
def small():
    return small_model()


@pytest.fixture(scope="module")
def inputs():
    return small_inputs()


@pytest.fixture(scope="module")
def greedy(small, inputs):
    return small.generate(**inputs, **GREEDY)


def count_encodings(monkeypatch, model) -> dict[str, int]:
    counts = {"image": 0, "video": 0, "audio": 0}
    encode = model.model._encoding

    def counted(modality, *args, **kwargs):
        counts[modality] += 1
        return encode(modality, *args, **kwargs)

    monkeypatch.setattr(model.model, "_encoding", counted)
    return counts


# -- caches ----------------------------------------------------------------------------------------------------------


def test_greedy_decoding_takes_the_best_of_every_step(small, inputs, greedy):
    with torch.no_grad():
        logits = small(**{**inputs, "input_ids": greedy, "attention_mask": torch.ones_like(greedy)}).logits
    logits[..., small.generation_config.suppress_tokens] = float("-inf")
    assert torch.equal(logits[:, LENGTH - 1 : -1].argmax(-1), greedy[:, LENGTH:])
    assert len(greedy[:, LENGTH:].unique()) > 6  # three different answers


@pytest.mark.parametrize("name", ["dynamic", "static", "offloaded", "offloaded_static"])
def test_every_cache_implementation_gives_the_same(small, inputs, greedy, name):
    if name.startswith("offloaded") and not torch.cuda.is_available():
        pytest.skip("offloaded caches move keys and values between an accelerator and the host")
    assert torch.equal(small.generate(**inputs, **GREEDY, cache_implementation=name), greedy)


def test_no_cache_gives_the_same(small, inputs, greedy):
    assert torch.equal(small.generate(**inputs, **GREEDY, use_cache=False), greedy)


@pytest.mark.parametrize("cache_class", [DynamicCache, StaticCache])
def test_a_cache_may_be_handed_in(small, inputs, greedy, cache_class):
    options = {} if cache_class is DynamicCache else {"max_cache_len": LENGTH + 6}
    cache = cache_class(config=small.config.get_text_config(), **options)
    assert torch.equal(small.generate(**inputs, **GREEDY, past_key_values=cache), greedy)
    assert int(cache.get_seq_length()) == LENGTH + 5


def test_a_quantized_cache_names_what_it_needs_or_works(small, inputs):
    options = {"cache_implementation": "quantized", "cache_config": {"backend": "quanto", "nbits": 4}}
    try:
        ids = small.generate(**inputs, **GREEDY, **options)
    except ImportError as error:
        assert "quanto" in str(error)
    else:
        assert ids.shape == (3, LENGTH + 6)


@pytest.mark.parametrize("size", [5, 100])
@pytest.mark.parametrize("options", [{}, {"num_beams": 2}, {"cache_implementation": "static"}], ids=str)
def test_a_prompt_may_be_read_in_chunks(small, inputs, size, options):
    left = padded_left(inputs, 3)
    expected = small.generate(**left, **GREEDY, **options)
    assert torch.equal(small.generate(**left, **GREEDY, **options, prefill_chunk_size=size), expected)


@pytest.mark.parametrize("size", [1, 3, 100])
def test_words_alone_may_be_read_in_chunks(small, size):
    ids = torch.randint(6, 99, (2, 11), generator=torch.Generator().manual_seed(0))
    mask = torch.ones_like(ids)
    mask[0, :2] = 0
    expected = small.generate(input_ids=ids, attention_mask=mask, **GREEDY)
    assert torch.equal(small.generate(input_ids=ids, attention_mask=mask, **GREEDY, prefill_chunk_size=size), expected)


@pytest.mark.parametrize("given", ["words", "media"])
@pytest.mark.parametrize("size", [2, 100])
def test_what_follows_a_kept_cache_may_be_read_in_chunks(small, inputs, greedy, size, given):
    media = {name: value for name, value in inputs.items() if name != "attention_mask"}
    with torch.no_grad():
        embeds = small.model.embed_inputs(**media)[:, :-2]  # the last words follow
    cache = DynamicCache(config=small.config.get_text_config())
    small.model(inputs_embeds=embeds, past_key_values=cache)
    longer = inputs if given == "media" else {name: inputs[name] for name in ("input_ids", "attention_mask")}
    actual = small.generate(**longer, past_key_values=cache, **GREEDY, prefill_chunk_size=size)
    assert torch.equal(actual, greedy)


def test_decoding_goes_on_from_the_cache_of_an_earlier_call(small, inputs, greedy):
    first = small.generate(**inputs, **{**GREEDY, "max_new_tokens": 3}, return_dict_in_generate=True)
    mask = torch.ones_like(first.sequences)
    second = small.generate(
        input_ids=first.sequences,
        attention_mask=mask,
        past_key_values=first.past_key_values,
        **{**GREEDY, "max_new_tokens": 3},
    )
    assert torch.equal(second, greedy)


SLIDING = {"use_sliding_window": True, "sliding_window": 8, "max_window_layers": 1}


@pytest.mark.parametrize(
    "options", [{"use_cache": False}, {"cache_implementation": "static"}, {"num_beams": 1}], ids=str
)
def test_layers_may_see_the_last_words_alone(inputs, options):
    model = small_model(text_config=SLIDING)
    output = model.generate(**inputs, **GREEDY, return_dict_in_generate=True)
    assert [layer.is_sliding for layer in output.past_key_values.layers] == [False, True]
    assert torch.equal(model.generate(**inputs, **GREEDY, **options), output.sequences)
    first = model.generate(**inputs, **{**GREEDY, "max_new_tokens": 3}, return_dict_in_generate=True)
    longer = {"input_ids": first.sequences, "attention_mask": torch.ones_like(first.sequences)}
    again = model.generate(**longer, past_key_values=first.past_key_values, **{**GREEDY, "max_new_tokens": 3})
    assert torch.equal(again, output.sequences)


def test_decoding_goes_on_from_embeddings_and_the_cache_of_an_earlier_call(small, inputs, greedy):
    media = {name: value for name, value in inputs.items() if name != "attention_mask"}
    with torch.no_grad():
        embeds = small.model.embed_inputs(**media)
        first = small.generate(inputs_embeds=embeds, max_new_tokens=3, do_sample=False, return_dict_in_generate=True)
        embeds = torch.cat((embeds, small.get_input_embeddings()(first.sequences)), dim=1)
    cache = first.past_key_values
    second = small.generate(inputs_embeds=embeds, past_key_values=cache, max_new_tokens=3, do_sample=False)
    assert torch.equal(torch.cat((first.sequences, second), dim=1), greedy[:, LENGTH:])


# -- prompts ---------------------------------------------------------------------------------------------------------


def test_padding_on_the_left_changes_nothing(small, inputs, greedy):
    padded = padded_left(inputs, 7)
    assert torch.equal(small.generate(**padded, **GREEDY)[:, 7:], greedy)
    with torch.no_grad():
        positions = (padded["attention_mask"].cumsum(1) - 1).clamp(min=0)
        actual = small(**padded, position_ids=positions).logits[:, 7:]
        torch.testing.assert_close(actual, small(**inputs).logits, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(
    "options", [{}, {"num_beams": 2}, CHUNKS, {**CHUNKS, "cache_implementation": "static"}], ids=str
)
def test_a_prompt_may_be_embeddings(small, inputs, options):
    options = {**GREEDY, **options}
    expected = small.generate(**inputs, **options)
    words = {name: value for name, value in inputs.items() if name != "input_ids"}
    embeds = small.get_input_embeddings()(inputs["input_ids"])
    assert torch.equal(small.generate(**words, inputs_embeds=embeds, **options), expected[:, LENGTH:])
    assert torch.equal(small.generate(**inputs, inputs_embeds=embeds, **options), expected)
    with torch.no_grad():
        full = small.model.embed_inputs(**{k: v for k, v in inputs.items() if k != "attention_mask"})
    mask = inputs["attention_mask"]
    assert torch.equal(small.generate(inputs_embeds=full, attention_mask=mask, **options), expected[:, LENGTH:])


def test_a_prompt_may_be_left_out(small):
    assert small.generate(**GREEDY)[0, 0] == small.config.get_text_config().bos_token_id


@pytest.mark.parametrize("options", [{}, {"num_beams": 2}, {"prompt_lookup_num_tokens": 2}], ids=str)
def test_logits_of_the_whole_prompt_change_nothing(small, inputs, options):
    single = row(inputs, 0)
    expected = small.generate(**single, **GREEDY, **options)
    assert torch.equal(small.generate(**single, **GREEDY, **options, logits_to_keep=0), expected)


def test_media_are_encoded_once_per_call(small, inputs, monkeypatch):
    counts = count_encodings(monkeypatch, small)
    small.generate(**inputs, **GREEDY)
    assert counts == {"image": 1, "video": 1, "audio": 1}


# -- ways of decoding ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("options", [{"num_beams": 3}, {"num_beams": 3, "num_return_sequences": 3}], ids=str)
def test_beams_of_a_batch_equal_those_of_its_rows(small, inputs, options):
    batch = small.generate(**inputs, **GREEDY, **options)
    rows = [small.generate(**row(inputs, index), **GREEDY, **options) for index in range(3)]
    assert torch.equal(batch, torch.cat(rows))


def test_sampling_beams_with_a_seed_is_repeatable(small, inputs):
    options = {"max_new_tokens": 4, "do_sample": True, "num_beams": 2, "num_return_sequences": 2}
    torch.manual_seed(0)
    first = small.generate(**inputs, **options)
    torch.manual_seed(0)
    assert torch.equal(small.generate(**inputs, **options), first) and first.shape == (6, LENGTH + 4)


def test_several_samples_of_one_prompt_differ(small, inputs):
    torch.manual_seed(0)
    ids = small.generate(**row(inputs, 0), max_new_tokens=6, do_sample=True, num_return_sequences=8)
    assert ids.shape == (8, LENGTH + 6) and len(ids.unique(dim=0)) > 4
    assert torch.equal(ids[:, :LENGTH], inputs["input_ids"][:1].expand(8, -1))


def test_an_assistant_gives_the_same(small, inputs):
    single = row(inputs, 0)
    expected = small.generate(**single, **GREEDY)
    assert torch.equal(small.generate(**single, **GREEDY, assistant_model=copy.deepcopy(small)), expected)
    other = small_model(text_config={"num_hidden_layers": 1})
    assert torch.equal(small.generate(**single, **GREEDY, assistant_model=other), expected)


def test_an_assistant_sees_and_hears(small, inputs, monkeypatch):
    single, assistant, calls = row(inputs, 0), copy.deepcopy(small), []
    schedule = {"num_assistant_tokens": 6, "num_assistant_tokens_schedule": "constant"}
    assistant.generation_config.update(**schedule, assistant_confidence_threshold=0.0)
    counts = count_encodings(monkeypatch, assistant)
    forward = small.forward
    monkeypatch.setattr(small, "forward", functools.wraps(forward)(lambda **kw: calls.append(1) or forward(**kw)))
    small.generate(**single, **GREEDY, assistant_model=assistant)
    # what an equal assistant proposes is right, so that one step of the model is enough
    assert counts == {"image": 1, "video": 1, "audio": 1} and len(calls) == 1


def test_looking_candidates_up_in_the_prompt_gives_the_same(small, inputs):
    single = row(inputs, 0)
    expected = small.generate(**single, **GREEDY)
    assert torch.equal(small.generate(**single, **GREEDY, prompt_lookup_num_tokens=2), expected)


@pytest.mark.parametrize("beams", [1, 2])
def test_scores_states_and_attentions_on_request(inputs, beams):
    model = small_model(attn_implementation="eager")
    names = ("scores", "logits", "hidden_states", "attentions")
    asked = {f"output_{name}": True for name in names}
    output = model.generate(**inputs, **GREEDY, num_beams=beams, return_dict_in_generate=True, **asked)
    assert all(len(getattr(output, name)) == 6 for name in names)
    assert {scores.shape for scores in output.scores} == {(3 * beams, 99)}
    assert [states.shape for states in output.hidden_states[0]] == 3 * [(3 * beams, LENGTH, 32)]
    assert [states.shape for states in output.hidden_states[1]] == 3 * [(3 * beams, 1, 32)]
    assert output.attentions[1][0].shape == (3 * beams, 4, 1, LENGTH + 1)


@torch.no_grad()
def test_a_decoding_step_compiles_without_graph_break(small, inputs):
    cache = StaticCache(config=small.config.get_text_config(), max_cache_len=LENGTH + 8)
    logits = small(**inputs, past_key_values=cache).logits[:, -1]
    step = torch.compile(small.forward, fullgraph=True, backend="aot_eager")
    ids = inputs["input_ids"]
    for _ in range(3):
        ids = torch.cat((ids, logits.argmax(-1, keepdim=True)), dim=1)
        positions = torch.full((3, 1), ids.shape[1] - 1)
        logits = step(input_ids=ids[:, -1:], position_ids=positions, past_key_values=cache).logits[:, -1]
        expected = small(**{**inputs, "input_ids": ids, "attention_mask": torch.ones_like(ids)}).logits[:, -1]
        torch.testing.assert_close(logits, expected, atol=1e-4, rtol=1e-4)


def test_generation_compiles_its_decoding(small, inputs, greedy):
    compiling = CompileConfig(fullgraph=True, backend="aot_eager")
    compiling._compile_all_devices = True  # Transformers leaves decoding on a CPU alone otherwise
    model = copy.deepcopy(small)
    actual = model.generate(**inputs, **GREEDY, cache_implementation="static", compile_config=compiling)
    assert torch.equal(actual, greedy) and model._compiled_call is not None


@pytest.mark.slow  # most of a minute where nothing is in the compiler's cache
@pytest.mark.skipif(not any(map(shutil.which, ("c++", "g++", "clang++"))), reason="inductor needs a C++ compiler")
def test_generation_decodes_by_compiled_kernels(small, inputs, greedy):
    torch._dynamo.reset()
    counters.clear()
    compiling = CompileConfig(fullgraph=True, mode="default", backend="inductor")
    compiling._compile_all_devices = True
    model = copy.deepcopy(small)
    actual = model.generate(**inputs, **GREEDY, cache_implementation="static", compile_config=compiling)
    assert torch.equal(actual, greedy) and model._compiled_call is not None
    assert not counters["graph_break"] and 1 <= counters["stats"]["unique_graphs"] <= 2
    assert counters["inductor"]


# -- the original layout, with words ---------------------------------------------------------------------------------


def prepare(processor, conversation, **options):
    return processor.apply_chat_template(
        conversation, tokenize=True, return_dict=True, return_tensors="pt", add_generation_prompt=True, **options
    )


def user(*parts):
    content = [MEDIA[part] if part in MEDIA else {"type": "text", "text": part} for part in parts]
    return {"role": "user", "content": content}


def test_a_streamer_gives_the_words_of_the_answer(model, processor):
    inputs = prepare(processor, [user("image", "audio", "What?")])
    streamer = TextIteratorStreamer(processor.tokenizer, skip_prompt=True, timeout=60)
    thread = Thread(target=model.generate, kwargs={**inputs, **GREEDY, "min_new_tokens": 6, "streamer": streamer})
    thread.start()
    words = "".join(streamer)
    thread.join()
    ids = model.generate(**inputs, **GREEDY, min_new_tokens=6)[0, inputs["input_ids"].shape[1] :]
    assert words == processor.decode(ids)


def test_the_checkpoint_says_how_to_generate(model, tmp_path):
    assert model.generation_config.eos_token_id == [458, 456] and model.generation_config.pad_token_id == 456
    other = copy.deepcopy(model)
    other.generation_config = GenerationConfig(max_new_tokens=3, eos_token_id=458, pad_token_id=456)
    other.save_pretrained(tmp_path)
    again = OmniVinciForConditionalGeneration.from_pretrained(tmp_path)
    assert again.generation_config.max_new_tokens == 3 and again.generation_config.eos_token_id == 458


def turns(model, processor, first, second):
    """Two turns: the cache after the first, and the inputs of the whole conversation."""
    inputs = prepare(processor, [user(*first)])
    output = model.generate(**inputs, **GREEDY, min_new_tokens=6, return_dict_in_generate=True)
    answer = processor.decode(output.sequences[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
    longer = prepare(processor, [user(*first), {"role": "assistant", "content": answer}, user(*second)])
    # words may be cut into other tokens than they were generated as: what is cached must be the same
    cache, known = output.past_key_values, output.past_key_values.get_seq_length()
    same = (longer["input_ids"][0, :known] == output.sequences[0, :known]).int().cumprod(0).sum()
    if same < known:
        cache.crop(int(same) - known)  # negative: so many are taken off
    assert same >= inputs["input_ids"].shape[1]
    return cache, longer


@pytest.mark.parametrize("first", [("video", "What?"), ("image", "audio", "What?"), ("Hello",)], ids=str)
@pytest.mark.parametrize("second", [("And then?",), ("second image", "And this?"), ("audio", "And?")], ids=str)
def test_a_conversation_goes_on_from_its_cache(model, processor, first, second):
    cache, longer = turns(model, processor, first, second)
    expected = model.generate(**longer, **GREEDY, min_new_tokens=6)
    assert torch.equal(model.generate(**longer, past_key_values=cache, **GREEDY, min_new_tokens=6), expected)


def test_media_in_the_cache_are_not_encoded_again(model, processor, monkeypatch):
    cache, longer = turns(model, processor, ("video", "image", "What?"), ("audio", "And this?"))
    counts = count_encodings(monkeypatch, model)
    model.generate(**longer, past_key_values=cache, **GREEDY)
    # the second turn has a sound, so the sounds are encoded: that of the video again, and the new one
    assert counts == {"image": 0, "video": 0, "audio": 1}


@pytest.mark.parametrize("options", [{}, {"prefill_chunk_size": 5}], ids=str)
@pytest.mark.parametrize("second", [("And then?",), ("second image", "And this?")], ids=str)
def test_new_ids_and_media_may_be_given_alone(model, processor, second, options):
    cache, longer = turns(model, processor, ("image", "audio", "What?"), second)
    expected = model.generate(**longer, **GREEDY, min_new_tokens=6)[:, -6:]
    new = {**prepare(processor, [user(*second)]), "attention_mask": longer["attention_mask"]}
    new["input_ids"] = longer["input_ids"][:, cache.get_seq_length() :]
    answer = model.generate(**new, past_key_values=cache, **GREEDY, **options, min_new_tokens=6)
    assert torch.equal(answer, torch.cat((new["input_ids"], expected), dim=1))


@pytest.mark.parametrize("options", [{}, {"prefill_chunk_size": 5}], ids=str)
def test_nothing_new_after_a_cache_is_an_error(small, inputs, options):
    cache = small.generate(**inputs, **GREEDY, return_dict_in_generate=True).past_key_values
    with pytest.raises(ValueError, match="holds 34 positions already and 29 were given, so that none is new. Give the"):
        small.generate(**inputs, past_key_values=cache, **GREEDY, **options)
    cache.crop(LENGTH - cache.get_seq_length())
    with pytest.raises(ValueError, match="holds 29 positions already and 29 were given"):
        small.generate(**inputs, past_key_values=cache, **GREEDY, **options)


@pytest.mark.parametrize("second", [("And then?",), ("second image", "And this?")], ids=str)
def test_media_in_the_cache_need_not_be_given_again(model, processor, second):
    cache, longer = turns(model, processor, ("image", "audio", "What?"), second)
    expected = model.generate(**longer, **GREEDY, min_new_tokens=6)
    new = prepare(processor, [user(*second)])
    new = {**new, "input_ids": longer["input_ids"], "attention_mask": longer["attention_mask"]}
    assert torch.equal(model.generate(**new, past_key_values=cache, **GREEDY, min_new_tokens=6), expected)


def test_new_media_that_do_not_fit_are_an_error(model, processor):
    cache, longer = turns(model, processor, ("audio", "What?"), ("image", "And this?"))
    longer["input_ids"][0, (longer["input_ids"][0] == model.config.image_token_id).nonzero()[0]] = 7
    with pytest.raises(ValueError, match="image placeholders but the image inputs give 16"):
        model.generate(**longer, past_key_values=cache, **GREEDY)


def test_generated_placeholders_are_mere_words(small, inputs):
    single = row(inputs, 0)
    biased = {"sequence_bias": [[[IMAGE], 100.0]], "suppress_tokens": []}
    ids = small.generate(**single, **GREEDY, **biased)
    assert ids[0, LENGTH:].tolist() == [IMAGE] * 6
