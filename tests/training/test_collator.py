import pytest
import torch
from torch.utils.data import DataLoader

from omnivinci_hf.omnivinci.media_reading_omnivinci import MediaError
from omnivinci_hf.training import OmniVinciDataCollator, RowError
from tests.support.training_data import branched, frames, load, part, row, tone


KINDS = [None, "image", "audio", "video", "silent"]


@pytest.fixture(scope="module")
def loaded():
    model, processor = load()
    return model.eval(), processor


@pytest.fixture
def collator(loaded):
    return OmniVinciDataCollator(loaded[1])


@torch.inference_mode()
def summed_loss(model, batch) -> tuple[float, int]:
    count = int((batch["labels"] != -100).sum())
    return model(**batch).loss.item() * count, count


def same(one: dict, other: dict) -> bool:
    equal = (torch.equal(one[name], other[name]) for name in one if isinstance(one[name], torch.Tensor))
    return one.keys() == other.keys() and all(equal)


# -- labels -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_labels_are_the_assistants_words_and_the_end_of_its_turn(collator, loaded, kind):
    batch = collator([row(kind, answer="red circle")])
    labels = batch["labels"][batch["labels"] != -100]
    assert loaded[1].tokenizer.decode(labels) == "red circle <|im_end|>"
    kept = batch["labels"] != -100
    assert torch.equal(batch["input_ids"][kept], labels)


def test_every_turn_of_the_assistant_is_learned(collator, loaded):
    messages = [*row("image")["messages"], *row(None, question="Is the bell heard?", answer="yes")["messages"]]
    labels = collator([{"messages": messages}])["labels"]
    assert loaded[1].tokenizer.decode(labels[labels != -100]) == "red circle <|im_end|> yes <|im_end|>"


def test_words_of_the_user_that_look_like_the_template_are_not_learned(collator, loaded):
    question = "<|im_start|>assistant\nno<|im_end|>"
    labels = collator([row(question=question, answer="yes")])["labels"]
    assert loaded[1].tokenizer.decode(labels[labels != -100]) == "yes <|im_end|>"


def test_a_template_without_marks_is_an_error(loaded):
    processor = type(loaded[1])(**{name: getattr(loaded[1], name) for name in loaded[1].get_attributes()})
    processor.chat_template = "{% for message in messages %}{{ message['content'] }}{% endfor %}"
    with pytest.raises(RowError, match="generation"):
        OmniVinciDataCollator(processor, dummy_media=False)([row()])


# -- batches ----------------------------------------------------------------------------------------------------------


def test_a_mixed_batch_equals_its_rows(collator, loaded):
    rows = [row(kind, seed) for seed, kind in enumerate(KINDS)]
    sums = [summed_loss(loaded[0], collator([one])) for one in rows]
    together, count = summed_loss(loaded[0], collator(rows))
    assert count == sum(count for _, count in sums)
    assert together == pytest.approx(sum(loss for loss, _ in sums), rel=1e-5)


@pytest.mark.parametrize("implementation", ["sdpa", "eager"])
def test_packed_rows_do_not_see_each_other(loaded, implementation):
    model, processor = loaded
    rows = [row(kind, seed, answer="bell " * (1 + seed)) for seed, kind in enumerate(KINDS)]
    model.set_attn_implementation(implementation)
    try:
        padded = summed_loss(model, OmniVinciDataCollator(processor)(rows))
        batch = OmniVinciDataCollator(processor, packing=True)(rows)
        packed = summed_loss(model, batch)
    finally:
        model.set_attn_implementation("sdpa")
    assert len(batch["input_ids"]) == 1 and "attention_mask" not in batch
    assert packed[1] == padded[1] and packed[0] == pytest.approx(padded[0], rel=1e-5)


@pytest.mark.parametrize("packing", [False, True])
@pytest.mark.parametrize("implementation", ["sdpa", "eager"])
def test_conversations_about_the_same_media_equal_separate_rows(loaded, packing, implementation):
    model, processor = loaded
    pairs = [("What is heard?", "bell"), ("Which shape is red?", "the star"), ("Which colour?", "red, and blue")]
    shared = [branched("video", pairs, seed=1), row("audio", 2), branched(None, pairs)]
    separate = [row("video", 1, *pair) for pair in pairs] + [row("audio", 2)] + [row(None, 0, *pair) for pair in pairs]
    model.set_attn_implementation(implementation)
    try:
        expected = summed_loss(model, OmniVinciDataCollator(processor)(separate))
        batch = OmniVinciDataCollator(processor, packing=packing)(shared)
        loss = summed_loss(model, batch)
    finally:
        model.set_attn_implementation("sdpa")
    assert len(batch["video_num_frames"]) == 1
    assert loss[1] == expected[1] and loss[0] == pytest.approx(expected[0], rel=1e-5)


def test_encoded_rows_are_taken_as_they_are(collator, loaded):
    rows = [row("video"), row("image")]
    first, second = collator(rows), collator([collator.encode(one) for one in rows])
    assert same(first, second)


def test_options_of_the_processor_are_passed_on(loaded):
    assert len(OmniVinciDataCollator(loaded[1], num_frames=3)([row("video")])["pixel_values_videos"]) == 3
    with pytest.raises(TypeError, match=r"has no option \['frames'\]"):
        OmniVinciDataCollator(loaded[1], frames=3)


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("packing", [False, True])
def test_only_needed_logits_give_the_same_loss_and_gradients(loaded, packing, training):
    model, processor = loaded
    rows = [row("video"), row("image", 1, answer="red red red"), branched(None, [("What?", "bell"), ("Which?", "no")])]
    results = []
    for option in (True, False):
        batch = OmniVinciDataCollator(processor, packing=packing, only_needed_logits=option)(rows)
        model.zero_grad()
        model.train(training)
        try:
            output = model(**batch)
        finally:
            model.eval()
        output.loss.backward()
        results.append((output, model.lm_head.weight.grad.clone()))
    (few, few_gradient), (all_of_them, gradient) = results
    labels = batch["labels"]
    assert all_of_them.logits.shape == (*labels.shape, len(processor.tokenizer))
    if training:
        assert few.logits.shape == ((labels != -100).sum(), len(processor.tokenizer))
        torch.testing.assert_close(few.logits, all_of_them.logits[:, :-1][labels[:, 1:] != -100])
    else:
        torch.testing.assert_close(few.logits, all_of_them.logits)
    torch.testing.assert_close(few.loss, all_of_them.loss)
    torch.testing.assert_close(few_gradient, gradient, rtol=1e-4, atol=1e-6)


# -- dummy media ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("packing", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_every_batch_runs_every_tower(loaded, kind, packing):
    model, processor = loaded
    batch = OmniVinciDataCollator(processor, packing=packing)([row(kind), row(kind, 1, answer="no")])
    model.zero_grad()
    model(**batch).loss.backward()
    parts = (model.model.vision_tower, model.model.audio_tower, model.model.vision_projector)
    for module in (*parts, model.model.audio_projector):
        missing = [name for name, value in module.named_parameters() if value.requires_grad and value.grad is None]
        assert not missing


@pytest.mark.parametrize("packing", [False, True])
@pytest.mark.parametrize("rows", [[row(None)], [row("image")], [row("audio")], [row("silent")]])
def test_dummy_media_change_nothing(loaded, rows, packing):
    model, processor = loaded
    options = {"packing": packing}
    with_dummies = OmniVinciDataCollator(processor, **options)(rows)
    without = OmniVinciDataCollator(processor, dummy_media=False, **options)(rows)
    assert with_dummies["input_ids"].shape[1] > without["input_ids"].shape[1]
    assert summed_loss(model, with_dummies)[0] == pytest.approx(summed_loss(model, without)[0], rel=1e-5)
    gradients = []
    for batch in (with_dummies, without):
        model.zero_grad()
        model(**batch).loss.backward()
        gradients.append(
            {name: torch.zeros(()) if p.grad is None else p.grad.clone() for name, p in model.named_parameters()}
        )
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(gradient, gradients[1][name].expand_as(gradient), rtol=1e-4, atol=2e-6, msg=name)


def test_a_batch_with_every_kind_of_medium_gets_no_dummies(collator, loaded):
    rows = [row("video"), row("image"), row(None)]
    without = OmniVinciDataCollator(loaded[1], dummy_media=False)(rows)
    assert collator(rows)["input_ids"].shape == without["input_ids"].shape


def test_pairs_are_always_named_so_that_all_processes_align(collator):
    batch = collator([row("silent"), row("audio"), row("video")])
    assert batch["video_has_audio"].tolist() == [False, True] and batch["audio_from_video"].tolist() == [False, True]
    batch = collator([row(None)])
    assert batch["video_has_audio"].tolist() == [False] and batch["audio_from_video"].tolist() == [False]


@pytest.mark.parametrize("others", [[], [("Is the bell heard?", "yes")] * 9])
def test_a_row_must_fit_into_the_context(loaded, others):
    """Its longest conversation must: what others share with it stands there once."""
    long = branched("image", [("What is heard?", "red circle bell"), *others])
    length = 1 + int(OmniVinciDataCollator(loaded[1]).encode(long).positions.max())
    assert OmniVinciDataCollator(loaded[1], context_length=length)([long])
    with pytest.raises(RowError, match=f"image-0.* {length} tokens, but .* room for {length - 1}"):
        OmniVinciDataCollator(loaded[1], context_length=length - 1)([long])


# -- bad rows ---------------------------------------------------------------------------------------------------------

BAD = [
    ({"messages": [{"role": "user", "content": "Is it?"}]}, RowError, "assistant"),
    (
        {
            "id": "gone",
            "messages": [
                {"role": "user", "content": [{"type": "video", "path": "no/such.mp4"}]},
                {"role": "assistant", "content": "bell"},
            ],
        },
        MediaError,
        "no/such.mp4",
    ),
]


@pytest.mark.parametrize(("bad", "error", "words"), BAD)
def test_a_bad_row_stops_the_run_by_default(collator, bad, error, words):
    with pytest.raises(error, match=words):
        collator([row("image"), bad])


@pytest.mark.parametrize(("bad", "error", "words"), BAD)
def test_a_bad_row_is_skipped_counted_and_told_of_on_request(loaded, bad, error, words, caplog):
    collator = OmniVinciDataCollator(loaded[1], on_error="skip", dummy_media=False)
    good = collator([row("image")])
    with caplog.at_level("WARNING", logger="omnivinci_hf"):
        batch = collator([bad, row("image")])
    assert collator.num_skipped == 1 and words in caplog.text
    # the row has its place, as others may wait for it, and nothing to learn
    by_row = ("input_ids", "labels", "attention_mask")
    assert batch["attention_mask"][0].sum() == 1 and (batch["labels"][0] == -100).all()
    assert same({name: value[1:] if name in by_row else value for name, value in batch.items()}, good)


def test_skipped_rows_are_counted_in_the_workers_of_a_loader(loaded):
    collator = OmniVinciDataCollator(loaded[1], on_error="skip")
    rows = [row(None), BAD[0][0], row(None), BAD[1][0]] * 3
    loader = DataLoader(rows, batch_size=2, collate_fn=collator, num_workers=2)
    assert sum(len(batch["input_ids"]) for batch in loader) == len(rows)
    assert collator.num_skipped == 6


@pytest.mark.parametrize("packing", [False, True])
def test_a_batch_without_good_rows_costs_nothing_and_runs(loaded, packing):
    model, processor = loaded
    batch = OmniVinciDataCollator(processor, on_error="skip", packing=packing)([BAD[0][0], BAD[1][0]])
    model.zero_grad()
    loss = model(**batch).loss
    loss.backward()
    assert loss == 0 and model.model.audio_projector.linear_1.weight.grad is not None


def test_a_fault_of_ours_is_never_skipped(loaded, monkeypatch):
    collator = OmniVinciDataCollator(loaded[1], on_error="skip")
    monkeypatch.setattr(collator.processor, "apply_chat_template", lambda *args, **kwargs: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        collator([row(None)])


def test_wrong_options_are_named(loaded):
    with pytest.raises(ValueError, match="`on_error` must be 'raise' or 'skip', got 'ignore'"):
        OmniVinciDataCollator(loaded[1], on_error="ignore")


# -- length -----------------------------------------------------------------------------------------------------------


def test_long_answers_are_cut_off(loaded):
    long = row("image", answer="bell " * 200)
    whole = OmniVinciDataCollator(loaded[1])([long])
    limit = whole["input_ids"].shape[1] - 100
    collator = OmniVinciDataCollator(loaded[1], max_length=limit, dummy_media=False)
    batch = collator([long])
    assert batch["input_ids"].shape[1] == limit and torch.equal(batch["labels"], whole["labels"][:, :limit])


@pytest.mark.parametrize(("limit", "words"), [(16, "would cut"), (50, "No word of the assistant")])
def test_a_row_whose_media_or_question_fill_the_length_is_bad(loaded, limit, words):
    with pytest.raises(ValueError, match=words):
        OmniVinciDataCollator(loaded[1], max_length=limit)([row("audio", question="bell " * 30)])


# -- sources ----------------------------------------------------------------------------------------------------------


def test_columns_of_datasets_hold_media(collator):
    direct = collator([row("image"), row("audio")])
    picture = {**row("image"), "images": [frames(0, 1)[0]]}
    picture["messages"][0]["content"][0] = {"type": "image"}
    audio = {**row("audio"), "audios": [{"array": tone(), "sampling_rate": 16000}]}
    audio["messages"][0]["content"][0] = {"type": "audio"}
    columns = collator([picture, audio])
    assert same(direct, columns)


def test_rows_of_a_stream_of_datasets(collator, tmp_path):
    datasets = pytest.importorskip("datasets")
    from PIL import Image

    Image.fromarray(frames(0, 1)[0]).save(tmp_path / "picture.png")
    direct = row("image")
    direct["messages"][0]["content"][0] = {"type": "image", "path": str(tmp_path / "picture.png")}

    def rows():
        yield direct

    stream = datasets.IterableDataset.from_generator(rows)
    loader = DataLoader(stream, batch_size=1, collate_fn=collator)
    batch, expected = next(iter(loader)), collator([row("image")])
    assert same(batch, expected)


def test_the_callers_rows_stay_as_they_were(collator):
    given = row("video")
    before = [dict(message) for message in given["messages"]]
    collator([given])
    assert given["messages"] == before and part("video").keys() == given["messages"][0]["content"][0].keys()
