import io
from pathlib import Path
from threading import Thread

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import GenerationConfig, TextIteratorStreamer, pipeline
from transformers.pipelines import PIPELINE_REGISTRY
from transformers.pipelines.base import get_default_model_and_revision

from omnivinci_hf import OmniQAPipeline, OmniVinciForConditionalGeneration, OmniVinciProcessor, load_audio
from tests.support import goldens


IMAGE = str(goldens.SMALL / "b_image" / "image.png")
IMAGE_2 = str(goldens.SMALL / "c_two_images" / "image2.png")
AUDIO = str(goldens.SMALL / "d_audio3" / "audio.wav")
VIDEO = str(goldens.SMALL / "h_video5" / "video.mp4")
SILENT = str(goldens.SMALL / "g_video5_silent" / "video.mp4")
LENGTH = {"max_new_tokens": 6, "min_new_tokens": 6, "do_sample": False}


@pytest.fixture(scope="module")
def pipe(original_folder):
    return pipeline("omni-qa", model=str(original_folder), device="cpu", **LENGTH)


def by_hand(model, processor, *parts, **options):
    content = [{"type": "text", "text": part} if isinstance(part, str) else part for part in parts]
    inputs = processor.apply_chat_template(
        [{"role": "user", "content": content}],
        tokenize=True,
        return_dict=True,
        return_tensors="pt",
        add_generation_prompt=True,
        processor_kwargs=options,
    )
    ids = model.generate(**inputs, **LENGTH)[0, inputs["input_ids"].shape[1] :]
    return processor.decode(ids, skip_special_tokens=True).strip()


def test_the_original_checkpoint_is_the_default():
    task = PIPELINE_REGISTRY.check_task("omni-qa")[1]
    assert get_default_model_and_revision(task, None) == ("nvidia/omnivinci", "main")


def test_the_task_gives_the_pipeline(pipe):
    assert type(pipe) is OmniQAPipeline


@pytest.mark.parametrize(
    "media", [{"video": VIDEO}, {"audio": AUDIO}, {"image": IMAGE}, {"audio": AUDIO, "video": SILENT}, {}], ids=str
)
def test_answers_equal_those_of_generate(pipe, model, processor, media):
    parts = [{"type": kind, kind: medium} for kind, medium in media.items()]
    expected = by_hand(model, processor, *parts, "What is it?")
    assert pipe(**media, question="What is it?") == [{"question": "What is it?", "answer": expected}]


def test_a_question_alone_can_be_a_string(pipe):
    assert pipe("Hello?") == pipe(question="Hello?")


def test_several_media_of_a_kind(pipe, model, processor):
    expected = by_hand(model, processor, *({"type": "image", "image": path} for path in (IMAGE, IMAGE_2)), "Compare.")
    assert pipe(image=[IMAGE, IMAGE_2], question="Compare.")[0]["answer"] == expected
    assert pipe(images=[IMAGE, IMAGE_2], question="Compare.")[0]["answer"] == expected


def test_arrays_tensors_images_and_bytes(pipe):
    image = Image.open(IMAGE).convert("RGB")
    expected = pipe(image=IMAGE, question="What?")
    for kind in (
        image,
        np.asarray(image),
        torch.from_numpy(np.asarray(image).copy()),
        io.BytesIO(open(IMAGE, "rb").read()),
    ):
        assert pipe(image=kind, question="What?") == expected
    samples = load_audio(AUDIO).samples
    assert pipe(audio=samples, question="What?", sampling_rate=16000) == pipe(audio=AUDIO, question="What?")
    assert pipe({"audio": samples, "sampling_rate": 16000, "question": "What?"}) == pipe(audio=AUDIO, question="What?")
    frames = np.random.default_rng(0).integers(0, 255, (5, 20, 30, 3), dtype=np.uint8)
    expected = pipe(video=frames, question="What?", video_metadata={"fps": 2})
    assert pipe(video=list(frames), question="What?", video_metadata={"fps": 2}) == expected
    with pytest.raises(ValueError, match="a frame rate is needed"):
        pipe(video=frames, question="What?")


@pytest.mark.parametrize("options", [{}, {"num_beams": 2}, {"cache_implementation": "static"}], ids=str)
def test_several_questions_read_and_encode_the_media_once(pipe, monkeypatch, options):
    questions = ["What happens?", "What is heard at the end, and by whom?", "Why?"]
    expected = [pipe(video=VIDEO, question=question, **options)[0] for question in questions]
    calls = []
    encode, process = pipe.model.model._encoding, pipe.processor._process

    def encoded(modality, *args):
        if modality == "video":
            calls.append("encode")
        return encode(modality, *args)

    monkeypatch.setattr(pipe.model.model, "_encoding", encoded)
    monkeypatch.setattr(pipe.processor, "_process", lambda *a: calls.append("read") or process(*a))
    assert pipe(video=VIDEO, question=questions, **options) == expected
    assert calls == ["read", "encode"]


@pytest.mark.parametrize(
    "options",
    [
        {"num_beams": 3},
        {"cache_implementation": "static"},
        {"use_cache": False},
        {"num_beams": 2, "num_return_sequences": 2},
        {"prompt_lookup_num_tokens": 2},
        {"num_beams": 2, "repetition_penalty": 3.0},
        {"repetition_penalty": 3.0},
        {"prefill_chunk_size": 4},
        {"generation_config": GenerationConfig(num_beams=3, max_new_tokens=5, pad_token_id=456)},
        {"processor_kwargs": {"padding": "max_length", "max_length": 400}},
        {"return_mm_token_type_ids": True},
    ],
    ids=str,
)
def test_several_questions_under_any_way_of_generating(pipe, options):
    questions = ["What happens?", "Why is that so?"]
    expected = [answer for question in questions for answer in pipe(video=VIDEO, question=question, **options)]
    assert pipe(video=VIDEO, question=questions, **options) == expected


@pytest.mark.parametrize("options", [{}, {"prefill_chunk_size": 3}], ids=str)
def test_several_questions_without_media(pipe, options):
    expected = pipe(question="Hi?") + pipe(question="Who?")
    assert pipe(question=["Hi?", "Who?"], **options) == expected


MIXED = [
    {"video": VIDEO, "question": "What happens?"},
    {"question": "Hello, who are you, and what do you do?"},
    {"image": IMAGE, "question": ["What?", "Where?"]},
    {"audio": AUDIO, "video": SILENT, "question": "What do you hear?"},
    "Just words",
]


def test_a_batch_of_prompts_needs_no_attention_masks(pipe):
    questions = ["What is red?", "Which sound is heard, and when?"]
    inputs = [[{"role": "user", "content": question}] for question in questions]
    assert pipe(inputs, batch_size=2, return_attention_mask=False) == pipe(inputs, batch_size=2)


def test_padded_rows_without_a_mask_are_not_joined(pipe):
    rows = pipe.processor(text=["a", "b c d"], padding=True, return_attention_mask=False, return_tensors="pt")
    with pytest.raises(ValueError, match="needs the `attention_mask` of outputs of several rows"):
        pipe.processor.join([rows])


@pytest.mark.parametrize("batch_size", [1, 2, 5])
def test_a_list_gives_what_its_inputs_give_alone(pipe, batch_size):
    assert pipe(MIXED, batch_size=batch_size) == [pipe(item) for item in MIXED]


def test_generators_and_datasets_are_streamed(pipe):
    expected = [pipe(item) for item in MIXED[:3]]
    seen = []

    def items():
        for item in MIXED[:3]:
            seen.append(item)
            yield item

    outputs = pipe(items(), batch_size=2)
    assert not isinstance(outputs, list) and len(seen) <= 1  # Transformers looks at the first
    assert list(outputs) == expected

    class Rows(torch.utils.data.Dataset):
        def __len__(self):
            return 3

        def __getitem__(self, index):
            return MIXED[index]

    assert list(pipe(Rows(), batch_size=2)) == expected


def test_a_column_of_a_dataset(pipe):
    from transformers.pipelines.pt_utils import KeyDataset

    rows = [{"item": item, "other": 1} for item in MIXED[:2]]
    assert list(pipe(KeyDataset(rows, "item"), batch_size=2)) == [pipe(item) for item in MIXED[:2]]


def test_chats(pipe, model, processor):
    chat = [
        {"role": "user", "content": [{"type": "image", "image": IMAGE}, {"type": "text", "text": "What?"}]},
        {"role": "assistant", "content": "A circle."},
        {"role": "user", "content": "Which colour?"},
    ]
    (answer,) = pipe(chat)
    assert answer["question"] == "Which colour?"
    assert pipe([chat, chat[:1]], batch_size=2) == [[answer], pipe(chat[:1])]
    assert pipe({"messages": chat}) == [answer]
    assert pipe(chat[:2])[0]["question"] == "What?"  # the answer that was begun is continued


def test_a_system_prompt_changes_the_prompt(pipe):
    plain = pipe(question="Hi?", return_token_counts=True)[0]
    system = pipe(question="Hi?", system="Be short.", return_token_counts=True)[0]
    assert plain["prompt_tokens"] != system["prompt_tokens"] and plain["new_tokens"] == 6
    with pytest.raises(ValueError, match="has a system message already"):
        pipe([{"role": "system", "content": "x"}, {"role": "user", "content": "y"}], system="z")


def test_frame_options_reach_the_processor(pipe):
    few = pipe(video=SILENT, question="?", num_frames=2, return_token_counts=True)[0]
    many = pipe(video=SILENT, question="?", processor_kwargs={"num_frames": 4}, return_token_counts=True)[0]
    assert many["prompt_tokens"] - few["prompt_tokens"] == 2 * 16


def test_token_ids_instead_of_words(pipe):
    (record,) = pipe(question="Hi?", return_tensors=True)
    assert record["generated_token_ids"].shape == (6,) and "answer" not in record


def test_several_sequences_of_one_question(pipe):
    records = pipe(question="Hi?", do_sample=True, num_return_sequences=3)
    assert [record["question"] for record in records] == ["Hi?"] * 3


def test_a_streamer_gets_the_words(pipe):
    streamer = TextIteratorStreamer(pipe.processor.tokenizer, skip_prompt=True, skip_special_tokens=True)
    results = []
    thread = Thread(target=lambda: results.append(pipe(video=VIDEO, question="What?", streamer=streamer)))
    thread.start()
    words = "".join(streamer)
    thread.join()
    assert words.strip() == results[0][0]["answer"]


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda pipe: pipe(), "Nothing to ask"),
        (lambda pipe: pipe(video=VIDEO), r"no `question`: got the keys \['video'\]"),
        (lambda pipe: pipe(VIDEO, question="x"), r"\['question'\] given twice, .* media as `image="),
        (lambda pipe: pipe({"image": IMAGE, "question": "x"}, images=[IMAGE]), r"\['image'\] given twice"),
        (lambda pipe: pipe(video=VIDEO, question=[]), "`question` is an empty list"),
        (lambda pipe: pipe({"vidio": VIDEO, "question": "?"}), r"unknown keys \['vidio'\]"),
        (lambda pipe: pipe([{"question": "?"}], question="x"), "cannot be combined with several inputs"),
        (lambda pipe: pipe({"messages": [{"role": "user", "content": "x"}], "question": "y"}), "give `messages` alone"),
    ],
)
def test_calls_that_make_no_sense_are_refused(pipe, call, message):
    with pytest.raises(ValueError, match=message):
        call(pipe)


def test_inputs_of_the_wrong_type_are_refused(pipe):
    for wrong in (3, Path(IMAGE), b"image", Image.new("RGB", (8, 8))):
        with pytest.raises(TypeError, match=f"Cannot take a {type(wrong).__name__} as input: .* media as `image="):
            pipe(wrong, question="What?")
    with pytest.raises(TypeError, match="must be a question, a chat or a dictionary, got int"):
        pipe([3])


def test_parts_of_the_wrong_type_are_refused(pipe):
    headless, processor = pipe.model.model, pipe.processor
    with pytest.raises(TypeError, match="must be an OmniVinciForConditionalGeneration, got a OmniVinciModel: load it"):
        pipeline("omni-qa", model=headless, processor=processor)
    with pytest.raises(TypeError, match="must be an OmniVinciForConditionalGeneration, got a Qwen2Model"):
        pipeline("omni-qa", model=headless.language_model, processor=processor)
    with pytest.raises(TypeError, match="must be an OmniVinciProcessor, got a Qwen2.*: load it"):
        pipeline("omni-qa", model=pipe.model, processor=processor.tokenizer)


def test_an_unknown_option_is_named(pipe):
    with pytest.raises(ValueError, match="num_frmes"):
        pipe(question="Hi?", num_frmes=3)


def test_answers_that_end_early_leave_the_cache_clean(pipe):
    questions = ["What happens?", "Why is that so, and who is there?", "Where?"]
    free = pipeline("omni-qa", model=pipe.model, processor=pipe.processor, device="cpu", do_sample=False)
    first = free(video=VIDEO, question=questions[0], max_new_tokens=3, return_tensors=True)[0]["generated_token_ids"]
    options = {"max_new_tokens": 8, "eos_token_id": int(first[1]), "pad_token_id": 456, "return_token_counts": True}
    expected = [free(video=VIDEO, question=question, **options)[0] for question in questions]
    assert expected[0]["new_tokens"] < 8
    assert free(video=VIDEO, question=questions, **options) == expected


def test_lengths_of_generate_are_kept(pipe):
    free = pipeline("omni-qa", model=pipe.model, processor=pipe.processor, device="cpu", do_sample=False)
    count = {"eos_token_id": 479, "return_token_counts": True}
    tokens = free(question="Hi?", max_new_tokens=3, **count)[0]
    assert tokens["new_tokens"] == 3
    assert free(question="Hi?", max_length=tokens["prompt_tokens"] + 5, **count)[0]["new_tokens"] == 5
    config = GenerationConfig(max_new_tokens=2, eos_token_id=479)
    assert free(question="Hi?", generation_config=config, return_token_counts=True)[0]["new_tokens"] == 2


def test_generators_of_chats_and_other_iterables(pipe):
    chat = [{"role": "user", "content": "Hi?"}]
    expected = pipe(chat)
    assert list(pipe(one for one in [chat, chat])) == [expected, expected]

    class Stream(torch.utils.data.IterableDataset):
        def __iter__(self):
            yield from MIXED[1:3]

    assert list(pipe(Stream(), batch_size=2)) == [pipe(item) for item in MIXED[1:3]]
    outputs = pipe(map(dict, MIXED[1:3]))
    assert not isinstance(outputs, list) and list(outputs) == [pipe(item) for item in MIXED[1:3]]
    assert pipe([]) == []


def test_files_that_a_dataset_does_not_decode(pipe):
    datasets = pytest.importorskip("datasets")
    columns = {"audio": [AUDIO, AUDIO], "image": [IMAGE, IMAGE], "question": ["a", "b"]}
    rows = datasets.Dataset.from_dict(columns).cast_column("audio", datasets.Audio(decode=False))
    expected = [pipe(audio=AUDIO, image=IMAGE, question=question) for question in ("a", "b")]
    assert list(pipe(rows, batch_size=2)) == expected
    decoded = rows.cast_column("image", datasets.Image())
    assert isinstance(decoded[0]["image"], Image.Image)
    assert list(pipe(decoded, batch_size=2)) == list(pipe(decoded.to_iterable_dataset())) == expected
    assert pipe(image={"bytes": open(IMAGE, "rb").read(), "path": None}, question="a") == pipe(
        image=IMAGE, question="a"
    )


def test_several_videos_given_as_frames(pipe):
    first, second = (
        [Image.new("RGB", (30, 20), colour) for colour in colours] for colours in (("red", "green"), ("blue",) * 3)
    )
    metadata = [{"fps": 1}, {"fps": 2}]
    as_lists = pipe(video=[first, second], question="a", video_metadata=metadata, return_token_counts=True)
    as_arrays = [np.stack([np.asarray(frame) for frame in frames]) for frames in (first, second)]
    assert as_lists == pipe(video=as_arrays, question="a", video_metadata=metadata, return_token_counts=True)


def test_several_questions_to_a_model_with_sliding_attention(pipe, tmp_path):
    pipe.save_pretrained(tmp_path)
    sliding = {"use_sliding_window": True, "sliding_window": 16, "layer_types": ["full_attention", "sliding_attention"]}
    model = OmniVinciForConditionalGeneration.from_pretrained(tmp_path, text_config=sliding)
    own = pipeline("omni-qa", model=model, processor=pipe.processor, device="cpu", **LENGTH)
    expected = own(video=VIDEO, question="a") + own(video=VIDEO, question="b")
    assert own(video=VIDEO, question=["a", "b"]) == expected


@pytest.mark.parametrize("kind", ["images", "videos", "audios"])
def test_empty_columns_are_no_media(pipe, kind):
    assert pipe(question="a", **{kind: []}) == pipe(question="a")
    assert pipe({"image": IMAGE, "audio": None, "question": "a"}) == pipe(image=IMAGE, question="a")


def test_an_inputs_own_rate_comes_before_that_of_the_call(pipe):
    samples = load_audio(AUDIO).samples
    own = {"audio": samples, "sampling_rate": 16000, "question": "What?"}
    assert pipe(own, sampling_rate=8000) == pipe(own)


@pytest.mark.parametrize(
    "call, error, message",
    [
        (lambda pipe: pipe(image=IMAGE, question=3), TypeError, "`question` must be a string or a list.* got 3"),
        (lambda pipe: pipe(question=["a", None]), TypeError, r"`question` must be .* got \['a', None\]"),
        (lambda pipe: pipe(question="a", system=3), TypeError, "`system` must be a string, .* got int"),
        (lambda pipe: pipe({"messages": "Hi?"}), ValueError, r"a list of messages with `role` .* got 'Hi\?'"),
        (lambda pipe: pipe({"messages": []}), ValueError, r"must be a list of messages with `role` .* got \[\]"),
        (lambda pipe: pipe([{"role": "user"}]), ValueError, r"`content`, got {'role': 'user'}"),
        (lambda pipe: pipe([{"role": "bot", "content": "a"}]), ValueError, r"\('system', 'user', 'assistant'\)"),
        (lambda pipe: pipe(image="none.png", question="a"), ValueError, "'none.png' does not exist; check the path"),
        (lambda pipe: pipe(image=3, question="a"), ValueError, "`image` must be one image: .* got 3"),
        (lambda pipe: pipe(audio=IMAGE, question="a"), ValueError, "audio '.*' cannot be decoded: .* convert it"),
        (lambda pipe: pipe(image=AUDIO, question="a"), ValueError, "is of no known image format; check that"),
        (lambda pipe: pipe(video=AUDIO, question="a"), ValueError, "has no video stream; .* give it as audio"),
        (lambda pipe: pipe(audio=np.zeros(9), question="a"), ValueError, "needs its sampling rate: pass"),
        (
            lambda pipe: pipe(video=VIDEO, question="a", num_frames=0),
            ValueError,
            "`num_frames` must be at least 1, got 0",
        ),
        (lambda pipe: pipe(image="https://a.b/c.png", question="a"), ValueError, "download the file first"),
        (
            lambda pipe: pipe(question="a", processor_kwargs={"return_tensors": "np"}),
            TypeError,
            r"This pipeline puts .* cannot obey \['return_tensors'\]: leave",
        ),
    ],
)
def test_wrong_inputs_are_named_with_what_came_and_a_remedy(pipe, call, error, message):
    with pytest.raises(error, match=message):
        call(pipe)


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda pipe: pipe(image=IMAGE, images=[IMAGE], question="a"), r"has \['images'\] beside the singular"),
        (lambda pipe: pipe(image=IMAGE, question=["a", "b"], streamer=object()), "ask one question at a time"),
        (lambda pipe: pipe.save_pretrained("a", push_to_hub=True, variant="b"), r"\['variant'\] cannot be combined"),
    ],
)
def test_more_calls_that_make_no_sense_are_refused(pipe, call, message):
    with pytest.raises(ValueError, match=message):
        call(pipe)


def test_stop_strings_find_the_tokenizer(pipe):
    assert pipe(question="Hi?", stop_strings=["never said"])[0]["answer"]


def test_an_adapted_model_answers_several_questions(original_folder):
    peft = pytest.importorskip("peft")
    model = OmniVinciForConditionalGeneration.from_pretrained(original_folder)
    processor = OmniVinciProcessor.from_pretrained(original_folder)
    tuned = peft.get_peft_model(model, peft.LoraConfig(target_modules=r".*language_model.*q_proj"))
    own = pipeline("omni-qa", model=tuned, processor=processor, device="cpu", **LENGTH)
    expected = own(image=IMAGE, question="a") + own(image=IMAGE, question="b")
    assert own(image=IMAGE, question=["a", "b"]) == expected
