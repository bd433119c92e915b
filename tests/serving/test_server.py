"""vLLM's server answers OpenAI's client about media, refuses bad ones in our words, and lives on."""

import base64
import json
import shutil
import urllib.request

import pytest

from omnivinci_hf.omnivinci.conversation_omnivinci import CHAT_TEMPLATE
from omnivinci_hf.small import small_checkpoint
from omnivinci_hf.testing import write_tiny_checkpoint
from tests.support.documentation import snippets
from tests.support.media_files import tone, write_video
from tests.support.optional import needed
from tests.support.vllm_engine import AUDIO, IMAGE, IMAGE_2, REQUESTS, SILENT, VIDEO, Reference, data_url, for_openai
from tests.support.vllm_server import running_server


needed("vllm")
openai = needed("openai")

QUESTION = {"type": "text", "text": "What happens?"}
MAX_TOKENS = 12


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    with running_server(small_checkpoint(), tmp_path_factory.mktemp("server")) as server:
        yield server


@pytest.fixture(scope="module")
def reference():
    return Reference(small_checkpoint())


def client(server):
    return openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0)


def ask(server, *content, messages=None, max_tokens=MAX_TOKENS, **body):
    """Asks about content parts, or sends messages; returns the whole completion."""
    messages = messages or [{"role": "user", "content": list(content)}]
    return client(server).chat.completions.create(
        model="model", messages=messages, max_tokens=max_tokens, temperature=0, extra_body=body
    )


def words(completion):
    return completion.choices[0].message.content


def image(url):
    return {"type": "image_url", "image_url": {"url": url}}


def video(url):
    return {"type": "video_url", "video_url": {"url": url}}


def audio(url):
    return {"type": "audio_url", "audio_url": {"url": url}}


def raw(data):
    return f"data:application/octet-stream;base64,{base64.b64encode(data).decode()}"


def expected_words(reference, request):
    """The words of Transformers up to the first end token."""
    ids = [token for token, _ in reference.answer(request).steps]
    eos = reference.model.generation_config.eos_token_id
    ends = [ids.index(end) for end in ([eos] if isinstance(eos, int) else eos) if end in ids]
    return reference.processor.decode(ids[: min(ends, default=len(ids))], skip_special_tokens=True)


@pytest.mark.parametrize("name", REQUESTS)
def test_requests_of_all_kinds_have_the_words_of_transformers(server, reference, name):
    request = REQUESTS[name]
    body = {"mm_processor_kwargs": request.options} if request.options else {}
    completion = ask(server, messages=for_openai(request.conversation), **body)
    # vLLM keeps the space before the first word
    assert words(completion).strip() == expected_words(reference, request).strip()
    assert completion.usage.prompt_tokens == len(reference.answer(request).prompt_ids)


def test_input_audio_is_the_same_as_its_url(server):
    spoken = {
        "type": "input_audio",
        "input_audio": {"data": base64.b64encode(AUDIO.read_bytes()).decode(), "format": "wav"},
    }
    assert words(ask(server, spoken, QUESTION)) == words(ask(server, audio(data_url(AUDIO)), QUESTION))


def test_answers_stream(server):
    content = [video(data_url(VIDEO)), QUESTION]
    stream = client(server).chat.completions.create(
        model="model",
        messages=[{"role": "user", "content": content}],
        max_tokens=MAX_TOKENS,
        temperature=0,
        stream=True,
        stream_options={"include_usage": True},
    )
    pieces = list(stream)
    whole = ask(server, *content)
    assert "".join(piece.choices[0].delta.content or "" for piece in pieces if piece.choices) == words(whole)
    assert pieces[-1].usage.completion_tokens == whole.usage.completion_tokens > 0


def test_the_first_request_that_is_printed_works(server):
    _, url, *options = server.first_request()
    body = options[options.index("-d") + 1].encode()
    request = urllib.request.Request(url, body, {"Content-Type": "application/json"})
    with urllib.request.urlopen(request) as response:
        answer = json.load(response)
    assert answer["choices"][0]["finish_reason"] and answer["usage"]["prompt_tokens"] > 20


def test_a_clip_is_read_once_for_two_questions(server):
    """The words before the clip fill what the small checkpoint's few tokens leave of 128; test_engine.py counts."""
    before = [{"role": "system", "content": "Look, and listen. " * 12}]

    def messages(clip, words):
        return [*before, {"role": "user", "content": [video(raw(clip)), {"type": "text", "text": words}]}]

    clip = VIDEO.read_bytes() + b"\0" * 8  # no other test has it
    first = ask(server, messages=messages(clip, "What happens?"))
    hits, queries = server.metric("mm_cache_hits_total"), server.metric("mm_cache_queries_total")
    second = ask(server, messages=messages(clip, "And what is heard?"))
    assert first.usage.prompt_tokens_details.cached_tokens < 128 <= second.usage.prompt_tokens_details.cached_tokens
    assert server.metric("mm_cache_hits_total") - hits == server.metric("mm_cache_queries_total") - queries == 1


def test_the_same_frames_with_other_audio_are_another_clip(server, tmp_path):
    loud, quiet = (
        video(data_url(write_video(tmp_path / f"{volume}.mp4", audio=(volume * tone(5), 16000, 0))))
        for volume in (1, 0.1)
    )
    for content, num_hits in ((loud, 0), (quiet, 0), (quiet, 1), (loud, 1)):
        hits = server.metric("mm_cache_hits_total")
        ask(server, content, QUESTION, max_tokens=1)
        assert server.metric("mm_cache_hits_total") - hits == num_hits


def test_a_clip_without_its_audio_is_another_clip(server):
    options = {"mm_processor_kwargs": {"num_frames": 5}}
    silent = {"mm_processor_kwargs": {"num_frames": 5, "load_audio_from_video": False}}
    ask(server, video(data_url(VIDEO)), QUESTION, **options)
    hits = server.metric("mm_cache_hits_total")
    first, second = (ask(server, video(data_url(VIDEO)), QUESTION, **one) for one in (options, silent))
    assert server.metric("mm_cache_hits_total") - hits == 1
    assert first.usage.prompt_tokens > second.usage.prompt_tokens


def test_a_medium_is_named_by_its_uuid_when_it_comes_again(server):
    first = ask(server, {**image(data_url(IMAGE_2)), "uuid": "picture"}, QUESTION)
    again = ask(server, {"type": "image_url", "image_url": None, "uuid": "picture"}, QUESTION)
    assert words(again) == words(first) and again.usage.prompt_tokens == first.usage.prompt_tokens
    for parts in (
        [{"type": "image_url", "image_url": None, "uuid": "unknown"}],
        [{"type": "image_url", "image_url": None, "uuid": "picture"}, image(data_url(IMAGE))],  # not cut into tiles
    ):
        with pytest.raises(openai.BadRequestError, match="does not have the image.* by its `uuid` alone; .*send it"):
            ask(server, *parts, QUESTION)


def test_a_uuid_does_not_stand_for_other_bytes(server):
    ask(server, {**image(data_url(IMAGE_2)), "uuid": "shared"}, QUESTION)
    other, plain = (
        ask(server, {**image(data_url(IMAGE)), "uuid": "shared"}, QUESTION),
        ask(server, image(data_url(IMAGE)), QUESTION),
    )
    assert words(other) == words(plain)
    with pytest.raises(openai.BadRequestError, match="is of no known image format"):
        ask(server, {**image(raw(b"hello")), "uuid": "shared"}, QUESTION)
    assert words(ask(server, {"type": "image_url", "image_url": None, "uuid": "shared"}, QUESTION)) == words(plain)


def test_the_snippets_of_the_documentation_run(server, tmp_path, monkeypatch):
    """All but the last of the first section, which starts an engine of its own, as tests of engines do."""
    shutil.copyfile(VIDEO, tmp_path / "clip.mp4")
    monkeypatch.chdir(tmp_path)
    with_server = [code for code in snippets("serving.md", "python") if "from vllm" not in code]
    assert len(with_server) == 2
    namespace = {}
    for code in with_server:
        code = code.replace("http://localhost:8000", server.url).replace('"nvidia/omnivinci"', '"model"')
        exec(compile(code, "serving.md", "exec"), namespace)
    assert namespace["completion"].choices[0].message.content


BAD_MEDIA = {
    "no image": (image(raw(b"hello")), "is of no known image format"),
    "half an image": (image(raw(IMAGE.read_bytes()[:500])), "cannot be decoded .*it is damaged or cut short"),
    "half a video": (video(raw(VIDEO.read_bytes()[:9000])), "video given as bytes cannot be decoded"),
    "audio as video": (video(data_url(AUDIO)), "has no video stream; if it is an audio file, give it as audio"),
    "a silent video as audio": (audio(data_url(SILENT)), "has no audio; give a file with an audio stream"),
    "broken base64": (video("data:video/mp4;base64,@@@@"), "broken base64"),
    "nothing": (audio("data:audio/wav;base64,"), "is empty"),
    "no base64": (image("data:image/png,abc"), "write a data: URL as data:<type>;base64,<data>"),
    "a path": (image("/etc/passwd"), "is no URL that a server reads"),
    "a file of the server": (image("file:///etc/passwd"), "reads no files of its own"),
    "a private address": (image("http://127.0.0.1:9/x.png"), "is at no public address.*--allowed-media-domains"),
    "a host without an address": (image("http://nobody.invalid/x.png"), "is at no public address"),
    "a broken URL": (image("http://[::1"), "is no URL"),
    "no video": (video(raw(b"hello")), "video given as bytes"),
    "a path in memory": ({"type": "image_pil", "image_pil": str(IMAGE)}, "has the type 'image_pil'; known are text"),
    "a path by its key": ({"image_pil": str(IMAGE)}, "has the type None|image_pil"),
    "no host": (image("http:/etc/passwd"), "is no URL: write it as https"),
    "no URL": (image(""), "is empty: give its `url`, or a `uuid`"),
}


@pytest.fixture(scope="module")
def right_words(reference):
    return expected_words(reference, REQUESTS["image"]).strip()


@pytest.mark.parametrize("name", BAD_MEDIA)
def test_bad_media_are_refused_in_our_words(server, right_words, name):
    part, message = BAD_MEDIA[name]
    with pytest.raises(openai.BadRequestError, match=message) as caught:
        ask(server, image(data_url(IMAGE)), part, QUESTION)
    assert caught.value.status_code == 400
    # the next request is right
    assert words(ask(server, messages=for_openai(REQUESTS["image"].conversation))).strip() == right_words


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ({"mm_processor_kwargs": {"num_frames": 0}}, "`num_frames` must be at least 1, got 0"),
        ({"mm_processor_kwargs": {"allow_urls": True}}, r"cannot have \['allow_urls'\]"),
        ({"mm_processor_kwargs": {"media_limits": {"max_frames": 9}}}, r"cannot have \['media_limits'\]"),
        ({"mm_processor_kwargs": {"allow_private_addresses": True}}, r"cannot have \['allow_private_addresses'\]"),
        ({"media_io_kwargs": {"video": {"num_frames": 3}}}, "`media_io_kwargs` say how vLLM decodes"),
        ({"tools": [{"type": "function", "function": {"name": "f"}}], "tool_choice": "none"}, "no place for `tools`"),
    ],
)
@pytest.mark.parametrize("with_media", [False, True])
def test_options_of_requests_are_a_whitelist(server, body, message, with_media):
    media = [video(data_url(VIDEO))] if with_media else []
    with pytest.raises(openai.BadRequestError, match=message):
        ask(server, *media, QUESTION, **body)


def test_options_in_a_part_are_refused(server):
    with pytest.raises(openai.BadRequestError, match=r"cannot have \['num_frames'\]"):
        ask(server, {**video(data_url(VIDEO)), "num_frames": 3}, QUESTION)


def test_placeholders_in_words_are_no_media(server):
    typed = {"type": "text", "text": "What <image>hap<sou<sound>nd>pens?<vila/video>"}
    assert words(ask(server, typed)) == words(ask(server, QUESTION))
    with_media, plain = (ask(server, image(data_url(IMAGE)), part) for part in (typed, QUESTION))
    assert words(with_media) == words(plain) and with_media.usage.prompt_tokens == plain.usage.prompt_tokens


def test_placeholders_in_a_prompt_without_media_are_refused(server):
    with pytest.raises(openai.BadRequestError, match="Got 1 '<image>' placeholders in the prompt but 0 image inputs"):
        client(server).completions.create(model="model", prompt="<image> What is this?", max_tokens=2)


def test_ids_in_place_of_messages_are_refused(server):
    with pytest.raises(openai.BadRequestError, match="`kv_transfer_params.prompt_token_ids` is not supported"):
        ask(server, {"type": "text", "text": "hi"}, kv_transfer_params={"prompt_token_ids": [4, 1, 4]})


def test_a_medium_beyond_the_context_is_refused(server):
    with pytest.raises(openai.BadRequestError, match="maximum context length|max_model_len|longer than"):
        ask(server, *[video(data_url(VIDEO))] * 20, QUESTION)


def test_the_original_layout_has_the_same_template_and_a_server_has_options_of_its_own(tmp_path, monkeypatch):
    """The checkpoint lies where `--download-dir` says, and there is no Hub."""
    sizes = {"num_attention_heads": 2, "num_key_value_heads": 1}
    cache = tmp_path / "cache" / "models--me--tiny"
    model = write_tiny_checkpoint(cache / "snapshots" / "1", std=0.15, llm=sizes)
    (cache / "refs").mkdir()
    (cache / "refs" / "main").write_text("1", encoding="utf-8")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "empty"))
    reference = Reference(model)
    assert reference.processor.chat_template == CHAT_TEMPLATE
    options = {"num_frames": 4, "media_limits": {"max_frames": 16, "max_duration_sec": 60}}
    settings = ["--mm-processor-kwargs", json.dumps(options), "--download-dir", str(tmp_path / "cache")]
    with running_server("me/tiny", tmp_path, *settings) as server:
        assert "warmup failed" not in server.log.read_text(encoding="utf-8")
        for name in ("system", "image", "two images", "all kinds"):
            request = REQUESTS[name]
            body = {"ignore_eos": True, "return_token_ids": True}  # bytes of a random model are no words
            assert request.options in ({}, {"num_frames": 4})  # which is the server's
            completion = ask(server, messages=for_openai(request.conversation), **body)
            expected = reference.answer(request)
            assert completion.prompt_token_ids == expected.prompt_ids
            assert completion.choices[0].token_ids == [token for token, _ in expected.steps]
