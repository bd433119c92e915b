"""What does not fit into the context, what was lost on the way, and what is counted but not used."""

import pytest
import torch
import torch.nn.functional as F
from transformers import DynamicCache, Trainer, pipeline

from omnivinci_hf.omnivinci.generation_omnivinci import check_context, context_length
from omnivinci_hf.omnivinci.outputs_omnivinci import CACHE
from omnivinci_hf.training import OmniVinciDataCollator
from tests.support.training_data import branched, load, part, row


@pytest.fixture(scope="module")
def loaded():
    model, processor = load()
    return model.eval(), processor


@pytest.fixture
def narrow(loaded, monkeypatch):
    """The model with a context of 40 tokens; a question about one image has 23, about a sound 34."""
    model, processor = loaded
    monkeypatch.setattr(model.config.text_config, "max_position_embeddings", 40)
    return model, processor


def encode(processor, *kinds, **options):
    chats = [row(kind)["messages"][:1] for kind in kinds]
    return processor.apply_chat_template(
        chats, tokenize=True, return_dict=True, return_tensors="pt", add_generation_prompt=True, padding=True, **options
    )


# -- the context ------------------------------------------------------------------------------------------------------


def test_both_numbers_are_named():
    check_context(1020, 1024, num_new=4)
    with pytest.raises(
        ValueError, match="2025 tokens and 2 new ones.* room for 1024: lower `max_new_tokens`, `num_fra"
    ):
        check_context(2025, 1024, num_new=2)
    with pytest.raises(ValueError, match="2025 tokens, but .* room for 1024: lower `num_frames`, `fps` or"):
        check_context(2025, 1024)


def test_scaled_rotary_embeddings_have_a_longer_context(loaded, monkeypatch):
    config = loaded[0].config.text_config
    assert context_length(config) == 1024
    scaled = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 512}
    monkeypatch.setattr(config, "rope_parameters", {**config.rope_parameters, **scaled})
    assert context_length(config) == 2048


@pytest.mark.parametrize("options", [{}, {"num_beams": 2}, {"use_cache": False}, {"prompt_lookup_num_tokens": 2}])
def test_generation_ends_at_the_context(narrow, options):
    model, processor = narrow
    inputs = encode(processor, "image")
    room = 40 - inputs["input_ids"].shape[1]
    longest = model.generate(**inputs, max_new_tokens=room, min_new_tokens=room, **options)
    assert longest.shape == (1, 40)
    with pytest.raises(ValueError, match=f"{40 - room} tokens and {room + 1} new ones are asked for.* room for 40"):
        model.generate(**inputs, max_new_tokens=room + 1, **options)
    with pytest.raises(ValueError, match="room for 40: lower `max_length`, "):
        model.generate(**inputs, max_length=41, **options)


def test_padding_takes_no_room(narrow):
    model, processor = narrow
    inputs = encode(processor, "image", None, pad_to_multiple_of=50)
    assert inputs["input_ids"].shape[1] == 50
    assert model.generate(**inputs, max_new_tokens=2).shape[1] > 50


def test_what_is_in_a_kept_cache_counts(narrow):
    model, processor = narrow
    inputs = encode(processor, "image")
    cache = DynamicCache(config=model.config.get_text_config())
    model(**inputs, **{CACHE: cache}, use_cache=True)
    ids, mask = torch.full((1, 10), 5), torch.ones(1, 10 + inputs["input_ids"].shape[1], dtype=torch.long)
    with pytest.raises(ValueError, match="room for 40"):
        model.generate(input_ids=ids, attention_mask=mask, max_new_tokens=20, **{CACHE: cache})


@pytest.mark.parametrize("questions", ["What is seen?", ["What is seen?", "What is heard?"]])
def test_the_pipeline_tells_that_a_prompt_is_too_long(narrow, questions):
    model, processor = narrow
    pipe = pipeline("omni-qa", model=model, processor=processor)
    image = part("image")["image"]
    assert pipe(image=image, question=questions)  # an answer ends where the context does unless another end is asked
    with pytest.raises(ValueError, match="30 new ones .* room for 40: lower `max_new_tokens`"):
        pipe(image=image, question=questions, max_new_tokens=30)
    with pytest.raises(ValueError, match="room for 40"):
        pipe(image=[image] * 9, question=questions)


def test_rows_to_learn_must_fit(narrow):
    model, processor = narrow
    with pytest.raises(ValueError, match="sequence has .* tokens, but .* room for 40: lower `num_frames`"):
        model(**OmniVinciDataCollator(processor)([row("image", answer="red circle " * 20)]))
    with pytest.raises(ValueError, match="room for 40"):
        model.train()(**OmniVinciDataCollator(processor)([row("image", answer="red circle " * 20)]))
    model.eval()


def test_packed_rows_are_measured_one_by_one(narrow):
    model, processor = narrow
    batch = OmniVinciDataCollator(processor, packing=True, dummy_media=False)([row("image"), row("image", 1)])
    assert batch["input_ids"].shape[1] > 40 and model(**batch).loss > 0
    batch = OmniVinciDataCollator(processor)([branched("image", [("Is it?", "yes")] * 8)])
    assert batch["input_ids"].shape[1] > 40 and model(**batch).loss > 0


@pytest.mark.parametrize("kind", ["image", "audio", "silent"])
def test_the_standard_pipeline_takes_batches_or_tells(loaded, kind):
    model, processor = loaded
    pipe = pipeline("image-text-to-text", model=model, processor=processor)
    chats = [row(kind, seed)["messages"][:1] for seed in range(2)]
    options = {"max_new_tokens": 4, "return_full_text": False}
    if kind != "image":
        with pytest.raises(ValueError, match="_num_.* speaks of .*batch images alone: set `batch_size=1`"):
            pipe(text=chats, batch_size=2, **options)
        return
    alone = [pipe(text=chat, **options)[0]["generated_text"] for chat in chats]
    assert [answer[0]["generated_text"] for answer in pipe(text=chats, batch_size=2, **options)] == alone
    with pytest.raises(ValueError, match="room for 1024: lower `max_new_tokens`"):
        pipe(text=chats[0], max_new_tokens=1024)


# -- media that were lost ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("modality", ["image", "audio", "video"])
def test_nothing_is_learned_without_the_media(loaded, modality):
    model, processor = loaded
    ids = encode(processor, modality)["input_ids"]
    lost = {"image": "pixel_values", "audio": "input_features", "video": "pixel_values_videos"}[modality]
    with pytest.raises(ValueError, match=f"placeholders of .*'{modality}'.*no media were given .*{lost}.*were lost"):
        model(input_ids=ids, labels=ids)
    model.train()
    with pytest.raises(ValueError, match="were lost"):
        model(input_ids=ids)  # trainers that compute the loss themselves
    model.eval()


@pytest.mark.parametrize("name", ["PromptTuningConfig", "PrefixTuningConfig"])
def test_nothing_is_learned_without_the_media_behind_virtual_tokens(name):
    peft = pytest.importorskip("peft")
    model, processor = load()
    tuned = peft.get_peft_model(model, getattr(peft, name)(task_type="CAUSAL_LM", num_virtual_tokens=3)).train()
    inputs = encode(processor, "image")
    assert tuned(**inputs, labels=inputs["input_ids"]).loss > 0
    del inputs["pixel_values"]
    with pytest.raises(ValueError, match=r"placeholders of \['image'\] but no media"):
        tuned(**inputs, labels=inputs["input_ids"])


def test_words_alone_are_learned(loaded):
    model, processor = loaded
    ids = encode(processor, None)["input_ids"]
    assert model(input_ids=ids, labels=ids).loss > 0


# -- labels -----------------------------------------------------------------------------------------------------------


def shifted(labels: torch.Tensor) -> torch.Tensor:
    return F.pad(labels, (0, 1), value=-100)[:, 1:]


@torch.inference_mode()
@pytest.mark.parametrize("needed", [False, True])
def test_shifted_labels_are_the_targets(loaded, needed):
    model, processor = loaded
    inputs = {**encode(processor, "video", "image"), "only_needed_logits": needed}
    ids = inputs["input_ids"]
    expected = model(**inputs, labels=ids)
    for given in ({"shift_labels": shifted(ids)}, {"labels": torch.zeros_like(ids), "shift_labels": shifted(ids)}):
        output = model(**inputs, **given)
        torch.testing.assert_close(output.loss, expected.loss)
        assert torch.equal(output.logits, expected.logits)


@pytest.mark.parametrize("kept", [3, torch.tensor([20, -3])], ids=str)
def test_learning_from_the_kept_positions_alone(loaded, kept):
    model, processor = loaded
    inputs = encode(processor, "image")
    labels = inputs["input_ids"].clone()
    labels[:, -2] = -100
    whole = model(**inputs, labels=labels, logits_to_keep=kept)
    model.train()
    needed = model(**inputs, labels=labels, logits_to_keep=kept, only_needed_logits=True)
    model.eval()
    targets = shifted(labels)[0, slice(-kept, None) if isinstance(kept, int) else kept]
    assert needed.logits.shape[0] == (targets != -100).sum() < whole.logits.shape[1]
    torch.testing.assert_close(needed.logits, whole.logits[0, targets != -100])
    torch.testing.assert_close(needed.loss, F.cross_entropy(whole.logits[0], targets))
    torch.testing.assert_close(needed.loss, whole.loss)


@torch.inference_mode()
def test_embeddings_have_the_same_targets_as_ids(loaded):
    model, processor = loaded
    inputs = dict(encode(processor, "image"))
    ids = inputs.pop("input_ids")
    expected = model(input_ids=ids, **inputs, labels=ids).loss
    embeds = model.get_input_embeddings()(ids)
    torch.testing.assert_close(model(inputs_embeds=embeds, **inputs, labels=ids).loss, expected)


@pytest.mark.parametrize("name", ["labels", "shift_labels"])
def test_placeholders_that_a_trainer_has_counted_are_refused(loaded, name):
    model, processor = loaded
    inputs = encode(processor, "audio")
    ids = inputs["input_ids"]
    given = {name: ids if name == "labels" else shifted(ids)}
    with pytest.raises(ValueError, match=r"placeholders of media.*num_items_in_batch.*-100.*OmniVinciDataCollator"):
        model(**inputs, **given, num_items_in_batch=torch.tensor(ids.numel()))
    words = ids.masked_fill(ids == model.config.audio_token_id, -100)
    count = (words[:, 1:] != -100).sum()
    counted = model(**inputs, labels=words, num_items_in_batch=count).loss
    torch.testing.assert_close(counted, model(**inputs, labels=ids).loss)


def test_the_refusal_is_in_the_compiled_graph(loaded):
    model, processor = loaded
    ids = encode(processor, None)["input_ids"]
    compiled = torch.compile(model, backend="eager", fullgraph=True)
    assert compiled(input_ids=ids, labels=ids, num_items_in_batch=torch.tensor(9)).loss > 0
    bad = ids.clone()
    bad[:, 3] = model.config.image_token_id
    with pytest.raises(RuntimeError, match="placeholders of media"):
        compiled(input_ids=ids, labels=bad, num_items_in_batch=torch.tensor(9))
    with pytest.raises(RuntimeError, match="no media were given"):
        compiled(input_ids=bad, labels=ids, num_items_in_batch=torch.tensor(9))


@pytest.mark.parametrize("accumulated", [1, 2])
def test_a_plain_trainer_logs_the_models_loss(loaded, tmp_path, accumulated):
    from tests.support.training_data import arguments

    model, processor = load()
    rows = [row("audio", answer="red circle bell"), row("video", answer="no")]
    collator = OmniVinciDataCollator(processor, only_needed_logits=False)
    with torch.no_grad():
        expected = model.eval()(**collator(rows)).loss.item()
    options = arguments(
        tmp_path,
        max_steps=1,
        logging_steps=1,
        remove_unused_columns=False,
        per_device_train_batch_size=2 // accumulated,
        gradient_accumulation_steps=accumulated,
    )
    trainer = Trainer(model, options, data_collator=collator, train_dataset=rows)
    trainer.train()
    assert trainer.state.log_history[0]["loss"] == pytest.approx(expected, rel=1e-3)
