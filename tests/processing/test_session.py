import copy
import gc
import inspect
import re
import shutil
import time
import weakref
from threading import Thread, active_count

import pytest
import torch
from transformers import pipeline

from omnivinci_hf import OmniVinciForConditionalGeneration, Session, load_audio
from tests.support import goldens


IMAGE = str(goldens.SMALL / "b_image" / "image.png")
AUDIO = str(goldens.SMALL / "d_audio3" / "audio.wav")
VIDEO = str(goldens.SMALL / "h_video5" / "video.mp4")
SILENT = str(goldens.SMALL / "g_video5_silent" / "video.mp4")
LENGTH = {"max_new_tokens": 6, "min_new_tokens": 6, "do_sample": False}
QUESTIONS = ["What happens?", "What is heard at the end, and by whom?", "What?"]


@pytest.fixture(scope="module")
def pipe(model, processor):
    return pipeline("omni-qa", model=model, processor=processor, device="cpu", **LENGTH)


@pytest.fixture
def encodings(model, monkeypatch):
    """The media encodings that run during a test."""
    calls, encode = [], model.model._encoding
    monkeypatch.setattr(model.model, "_encoding", lambda *a, **k: calls.append(a) or encode(*a, **k))
    return calls


@pytest.mark.parametrize(
    "media",
    [
        {"video": VIDEO},
        {"audio": AUDIO, "video": SILENT},
        {"images": [IMAGE, IMAGE]},
        {"video": VIDEO, "num_frames": 3},
    ],
    ids=str,
)
def test_answers_are_those_of_the_pipeline_in_any_order(pipe, model, processor, media):
    session = Session(model, processor, **media)
    expected = [pipe(**media, question=question)[0]["answer"] for question in QUESTIONS]
    assert [session.ask(question, **LENGTH) for question in QUESTIONS] == expected
    assert [session.ask(question, **LENGTH) for question in reversed(QUESTIONS)] == expected[::-1]


@pytest.mark.parametrize(
    "options",
    [
        {"num_beams": 3},
        {"cache_implementation": "static"},
        {"use_cache": False},
        {"prompt_lookup_num_tokens": 2},
        {"repetition_penalty": 3.0},
        {"prefill_chunk_size": 4},
    ],
    ids=str,
)
def test_answers_are_those_of_the_pipeline_under_any_way_of_generating(pipe, model, processor, options):
    session = Session(model, processor, video=VIDEO)
    for question in QUESTIONS[:2]:
        assert (
            session.ask(question, **LENGTH, **options) == pipe(video=VIDEO, question=question, **options)[0]["answer"]
        )


def test_media_are_encoded_once(model, processor, encodings):
    session = Session(model, processor, image=IMAGE)
    for options in ({}, {}, {"num_beams": 2}, {"cache_implementation": "static"}):
        session.ask("What?", **LENGTH, **options)
    assert len(encodings) == 1


def test_pieces_make_the_answer(model, processor):
    session = Session(model, processor, video=VIDEO)
    for options in ({}, {"cache_implementation": "static"}, {"prompt_lookup_num_tokens": 2}):
        pieces = list(session.stream("What happens?", **LENGTH, **options))
        assert "".join(pieces).strip() == session.ask("What happens?", **LENGTH, **options)


def test_a_stream_that_is_left_ends_the_generation(model, processor):
    session, num_threads = Session(model, processor, image=IMAGE), active_count()
    expected = session.ask("What?", **LENGTH)
    stream = session.stream("What happens?", keep=True, max_new_tokens=1000, min_new_tokens=1000)
    next(stream)
    stream.close()
    assert active_count() == num_threads
    assert session.ask("What?", **LENGTH) == expected


def _ask_in_thread(session):
    outcome = []

    def ask():
        try:
            outcome.append(session.ask("What?", **LENGTH))
        except RuntimeError as error:
            outcome.append(error)

    thread = Thread(target=ask)
    thread.start()
    thread.join()
    return outcome[0]


def test_nothing_else_is_asked_while_an_answer_is_streamed(model, processor):
    session = Session(model, processor, image=IMAGE)
    expected, message = session.ask("What?", **LENGTH), "a streamed answer is still being generated"
    waiting = session.stream("Why?", **LENGTH)  # nothing is generated before its first piece is read
    stream = session.stream("What happens?", max_new_tokens=1000, min_new_tokens=1000)
    next(stream)
    for use in (
        lambda: session.ask("What?", **LENGTH),
        lambda: session.generate(session.prompt_ids("What?"), **LENGTH),
        lambda: next(waiting),
        session.reset,
    ):
        with pytest.raises(RuntimeError, match=message):
            use()
    assert message in str(_ask_in_thread(session))
    stream.close()
    assert session.ask("What?", **LENGTH) == _ask_in_thread(session) == expected
    assert "".join(session.stream("What?", **LENGTH)).strip() == session.ask("What?", **LENGTH)  # read to its end


@pytest.mark.parametrize("in_cycle", [False, True])
def test_a_stream_that_nobody_holds_frees_its_session(model, processor, in_cycle):
    session, num_threads = Session(model, processor, image=IMAGE), active_count()
    expected = session.ask("What?", **LENGTH)
    stream = session.stream("What happens?", max_new_tokens=1000, min_new_tokens=1000)
    next(stream)
    holder = [stream]
    if in_cycle:
        holder.append(holder)
    del stream, holder
    gc.collect()
    assert active_count() == num_threads
    assert session.ask("What?", **LENGTH) == expected


@pytest.mark.filterwarnings("error::pytest.PytestUnraisableExceptionWarning")
def test_a_stream_that_is_closed_in_the_thread_that_generates_frees_its_session(model, processor):
    session = Session(model, processor, image=IMAGE)
    expected, num_calls = session.ask("What?", **LENGTH), []

    def collect(input_ids, scores, **kwargs):  # as the garbage collector does there
        num_calls.append(1)
        while not read and len(num_calls) == 400:  # far enough for a piece to be read, far from the end
            time.sleep(0.001)
        if read:
            streams.clear()
        return torch.zeros(len(input_ids), dtype=torch.bool)

    streams, read = [session.stream("Why?", stopping_criteria=[collect], max_new_tokens=500, min_new_tokens=500)], []
    num_threads = active_count()
    next(streams[0])
    read.append(True)
    for _ in range(1000):
        if active_count() == num_threads:
            break
        time.sleep(0.01)
    assert len(num_calls) < 500
    assert session.ask("What?", **LENGTH) == expected


def test_media_are_encoded_again_for_other_weights(model, processor, encodings):
    other = copy.deepcopy(model)
    session = Session(other, processor, image=IMAGE)
    session.ask("What?", keep=True, **LENGTH)
    before, keys = session._embeds, session._cache.layers[0].keys[:, :, :3].clone()
    with torch.no_grad():
        for weight in other.parameters():
            weight.mul_(1.5)
    session.reset()
    session.ask("What?", **LENGTH)
    assert session._embeds is before  # as it was encoded
    session.reset(encode_again=True)
    fresh = Session(other, processor, image=IMAGE)
    assert session.ask("What?", **LENGTH) == fresh.ask("What?", **LENGTH)
    assert torch.equal(session._embeds, fresh._embeds) and not torch.equal(session._embeds, before)
    assert not torch.equal(session._cache.layers[0].keys[:, :, :3], keys)


def test_media_are_read_again_by_another_adapter(model, processor):
    peft = pytest.importorskip("peft")
    config = peft.LoraConfig(target_modules=["k_proj", "v_proj"], init_lora_weights=False)
    adapted = peft.get_peft_model(copy.deepcopy(model), config)
    session = Session(adapted, processor, image=IMAGE)
    session.ask("What?", **LENGTH)
    with adapted.disable_adapter():
        session.reset(encode_again=True)
        fresh = Session(adapted, processor, image=IMAGE)
        assert session.ask("What?", **LENGTH) == fresh.ask("What?", **LENGTH)
        num_tokens = session.num_tokens
        one, two = (each._cache.layers[0].keys[:, :, :num_tokens] for each in (session, fresh))
        assert torch.equal(one, two)
    session.reset(encode_again=True)
    session.ask("What?", **LENGTH)
    assert not torch.equal(session._cache.layers[0].keys[:, :, :num_tokens], one)


@pytest.mark.parametrize("keep_media", [False, True])
def test_pixels_are_let_go_once_they_are_encoded(model, processor, keep_media):
    session, usual = (Session(model, processor, video=VIDEO, keep_media=keep) for keep in (keep_media, True))
    references = [weakref.ref(value) for value in session._prompt.values() if isinstance(value, torch.Tensor)]
    references = [reference for reference in references if reference() is not session._prompt["input_ids"]]
    assert len(references) > 2 and all(reference() is not None for reference in references)
    for options in ({}, {"num_beams": 2}, {"cache_implementation": "static"}):
        assert session.ask("What?", **LENGTH, **options) == usual.ask("What?", **LENGTH, **options)
    gc.collect()
    assert {reference() is not None for reference in references} == {keep_media}
    if not keep_media:
        with pytest.raises(ValueError, match=r"An answer with \['use_cache'\] encodes the media again, but they were"):
            session.ask("What?", use_cache=False, **LENGTH)
        with pytest.raises(ValueError, match="make the session without `keep_media=False`"):
            session.reset(encode_again=True)
        assert session.ask("Why?", **LENGTH) == usual.ask("Why?", **LENGTH)


def test_a_session_of_words_alone_has_nothing_to_let_go(model, processor):
    messages = [{"role": "user", "content": "A bell rings twice."}]
    session = Session(model, processor, messages=messages, keep_media=False)
    assert session.ask("Who?", **LENGTH) == session.ask("Who?", use_cache=False, **LENGTH)


def test_the_number_of_tokens_is_that_before_the_question(pipe, model, processor):
    session = Session(model, processor, video=VIDEO)
    before = session.num_tokens
    one, two = (
        pipe(video=VIDEO, question=question, return_token_counts=True)[0]["prompt_tokens"] for question in QUESTIONS[:2]
    )
    ends = len(processor.tokenizer("<|im_end|>\n<|im_start|>assistant\n")["input_ids"])
    assert one == before + len(processor.tokenizer(QUESTIONS[0])["input_ids"]) + ends
    assert two == before + len(processor.tokenizer(QUESTIONS[1])["input_ids"]) + ends
    session.ask(QUESTIONS[0], **LENGTH)
    assert session.num_tokens == before


@pytest.mark.parametrize("options", [{}, {"cache_implementation": "static"}], ids=str)
def test_kept_turns_are_followed_up_as_in_a_chat(pipe, model, processor, options):
    session = Session(model, processor, video=VIDEO)
    chat = [{"role": "user", "content": [{"type": "video", "path": VIDEO}, {"type": "text", "text": QUESTIONS[0]}]}]
    num_tokens = [session.num_tokens]
    for question in (*QUESTIONS[1:], None):
        expected = pipe(chat, **options)[0]["answer"]
        last = chat[-1]["content"] if isinstance(chat[-1]["content"], str) else QUESTIONS[0]
        assert "".join(session.stream(last, **LENGTH, **options)).strip() == expected
        assert session.ask(last, keep=True, **LENGTH, **options) == expected
        num_tokens.append(session.num_tokens)
        chat += [{"role": "assistant", "content": expected}, {"role": "user", "content": question}]
    assert num_tokens == sorted(set(num_tokens))
    session.reset()
    assert session.num_tokens == num_tokens[0]
    assert (
        session.ask(QUESTIONS[0], **LENGTH, **options)
        == pipe(video=VIDEO, question=QUESTIONS[0], **options)[0]["answer"]
    )


def test_a_streamed_turn_is_kept_too(model, processor):
    asked, streamed = (Session(model, processor, image=IMAGE) for _ in range(2))
    answer = asked.ask("What?", keep=True, **LENGTH)
    assert "".join(streamed.stream("What?", keep=True, **LENGTH)).strip() == answer
    assert streamed.num_tokens == asked.num_tokens
    assert streamed.ask("Why?", **LENGTH) == asked.ask("Why?", **LENGTH)


def test_kept_turns_are_not_read_again(model, processor, monkeypatch):
    session = Session(model, processor, image=IMAGE)
    before, question = session.num_tokens, "What happens here, and why?"
    session.ask(question, keep=True, **LENGTH)
    lengths, run = [], model.model.forward
    monkeypatch.setattr(model.model, "forward", lambda **given: lengths.append(_num_positions(given)) or run(**given))
    session.ask("Why?", **LENGTH)
    num_after = session.prompt_ids("Why?").shape[1] - before
    # a noisy answer may be cut into other tokens when it is read again
    assert lengths[0] <= num_after - len(processor.tokenizer(question)["input_ids"])


def _num_positions(given):
    return next(given[name].shape[1] for name in ("input_ids", "inputs_embeds") if given.get(name) is not None)


def test_a_conversation_is_continued(pipe, model, processor):
    image, words = {"type": "image", "image": IMAGE}, [{"type": "text", "text": "Look."}]
    open_turn = [{"role": "user", "content": [image, *words]}]
    closed = [*open_turn, {"role": "assistant", "content": "I do."}]
    for messages, last in (
        (open_turn, [{"role": "user", "content": [image, *words, {"type": "text", "text": "Who?"}]}]),
        (closed, [*closed, {"role": "user", "content": "Who?"}]),
    ):
        session = Session(model, processor, messages=messages, system="Be short.")
        expected = pipe([{"role": "system", "content": "Be short."}, *last], return_token_counts=True)[0]
        assert session.ask("Who?", **LENGTH) == expected["answer"]
        assert session.prompt_ids("Who?").shape[1] == expected["prompt_tokens"]
    assert [{"type": "image", "image": IMAGE}, *words] == open_turn[0]["content"]  # as it was given


def test_words_alone_can_be_asked_about(pipe, model, processor):
    session = Session(model, processor, messages=[{"role": "user", "content": "A bell rings twice."}])
    text = [{"type": "text", "text": "A bell rings twice."}, {"type": "text", "text": "What rings?"}]
    assert session.ask("What rings?", **LENGTH) == pipe([{"role": "user", "content": text}])[0]["answer"]


def test_samples_are_let_go_once_they_are_read(pipe, model, processor):
    samples = load_audio(AUDIO).samples
    session = Session(model, processor, audio=samples, sampling_rate=16000)
    assert session.ask("What?", **LENGTH) == pipe(audio=AUDIO, question="What?")[0]["answer"]
    assert not any(value is samples for value in session._messages[0]["content"][0].values())


def test_an_error_while_generating_leaves_the_session_usable(model, processor):
    session = Session(model, processor, image=IMAGE)
    expected = session.ask("What?", **LENGTH)

    def fail(input_ids, scores, **kwargs):
        raise RuntimeError("stop here")

    for way in (session.ask, lambda *a, **k: list(session.stream(*a, **k))):
        with pytest.raises(RuntimeError, match="stop here"):
            way("Why?", stopping_criteria=[fail], **LENGTH)
    assert session.ask("What?", **LENGTH) == expected


def test_a_model_with_sliding_attention_answers_as_its_pipeline(pipe, tmp_path):
    pipe.save_pretrained(tmp_path)
    sliding = {"use_sliding_window": True, "sliding_window": 16, "layer_types": ["full_attention", "sliding_attention"]}
    model = OmniVinciForConditionalGeneration.from_pretrained(tmp_path, text_config=sliding)
    own = pipeline("omni-qa", model=model, processor=pipe.processor, device="cpu")
    session = Session(model, pipe.processor, image=IMAGE)
    for question in ("a", "b"):
        assert session.ask(question, **LENGTH) == own(image=IMAGE, question=question, **LENGTH)[0]["answer"]


@pytest.mark.parametrize(
    "call, error, message",
    [
        (lambda start: start(), ValueError, "nothing to ask about: give media as `image=`"),
        (lambda start: start(image=[]), ValueError, "nothing to ask about"),
        (lambda start: start(image=IMAGE, messages=[{"role": "user", "content": "a"}]), ValueError, "leave .* out"),
        (lambda start: start(image=IMAGE, images=[IMAGE]), ValueError, r"\['images'\] beside the singular"),
        (lambda start: start(messages=[{"role": "bot", "content": "a"}]), ValueError, "A chat must be a list of"),
        (lambda start: start(image=IMAGE, num_frmes=3), TypeError, r"\['num_frmes'\] \(did you mean num_frames"),
        (lambda start: start(image=IMAGE, return_tensors="np"), TypeError, r"cannot obey \['return_tensors'\]: leave"),
        (
            lambda start: start(image=IMAGE, text_kwargs={"padding": True}),
            TypeError,
            r"A session puts .* \['padding'\]",
        ),
        (lambda start: start(video="none.mp4"), ValueError, "'none.mp4' does not exist; check the path"),
        (lambda start: start(image=IMAGE, system=3), TypeError, "`system` must be a string"),
        (lambda start: start(image=IMAGE, truncation=True, max_length=42), ValueError, "a truncated prompt: leave"),
        (lambda start: start(image=IMAGE).ask(3), TypeError, "`question` must be a string, got 3"),
        (lambda start: start(image=IMAGE).ask("a", num_frames=3), TypeError, r"\['num_frames'\] say how media are"),
        (lambda start: start(image=IMAGE).ask("a", max_new_tkens=3), TypeError, r"did you mean max_new_tokens\?"),
        (lambda start: start(image=IMAGE).stream("a", num_fra=3), TypeError, r"A question of a session has no option"),
        (lambda start: start(image=IMAGE).stream("a", streamer=object()), ValueError, "a streamer of its own"),
        (lambda start: start(image=IMAGE).ask("a", num_return_sequences=2), ValueError, "gets one answer, but"),
        (lambda start: list(start(image=IMAGE).stream("a", num_beams=2)), ValueError, "beam search"),
        (lambda start: start(image=IMAGE).ask("a", max_new_tokens=10**6), ValueError, "1000000 new ones are asked for"),
    ],
)
def test_calls_that_make_no_sense_are_refused(model, processor, call, error, message):
    with pytest.raises(error, match=message):
        call(lambda **given: Session(model, processor, **given))


def test_parts_of_the_wrong_type_are_refused(model, processor):
    with pytest.raises(TypeError, match="must be an OmniVinciForConditionalGeneration, got a OmniVinciModel"):
        Session(model.model, processor, image=IMAGE)
    with pytest.raises(TypeError, match="must be an OmniVinciProcessor, got a"):
        Session(model, processor.tokenizer, image=IMAGE)


def test_a_full_context_is_an_error_before_anything_is_encoded(model, processor, encodings, monkeypatch):
    monkeypatch.setattr(model.config.text_config, "max_position_embeddings", 60)
    with pytest.raises(ValueError, match="has room for 60: lower `num_frames`"):
        Session(model, processor, video=VIDEO)
    session = Session(model, processor, image=IMAGE)
    assert isinstance(session.ask("a"), str)  # as long as the context has room
    encodings.clear()
    with pytest.raises(ValueError, match="has room for 60: lower `max_new_tokens`"):
        Session(model, processor, image=IMAGE).ask("a " * 60)
    assert not encodings


def test_a_template_that_asks_before_the_media_is_refused(model, processor):
    template = "{% for part in messages[0]['content'] | reverse %}{{ part['text'] or '<image>' }}{% endfor %}"
    (before,) = {processor.chat_template}
    processor.chat_template = template
    try:
        with pytest.raises(ValueError, match="must write the question behind the media"):
            Session(model, processor, image=IMAGE)
    finally:
        processor.chat_template = before


def test_the_example_of_its_documentation_runs(model, processor, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    shutil.copyfile(VIDEO, "clip.mp4")
    snippets = re.findall(r"```python\n(.*?)```", inspect.cleandoc(Session.__doc__), re.DOTALL)
    namespace = {"model": model, "processor": processor}
    for snippet in snippets:
        exec(snippet.replace("max_new_tokens=128", "max_new_tokens=4"), namespace)
    session = namespace["session"]
    assert len(snippets) == 2 and namespace["answer"] == session.ask("What happens?", max_new_tokens=4)
    assert capsys.readouterr().out.strip() == session.ask("Who speaks?", max_new_tokens=4)


def test_sessions_leave_no_gradients(model, processor):
    session = Session(model, processor, image=IMAGE)
    assert not session.generate(session.prompt_ids("a"), **LENGTH).requires_grad
    assert not session._embeds.requires_grad and torch.is_grad_enabled()
