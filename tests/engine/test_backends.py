"""Models are asked behind servers, as checkpoints, and as functions; faults of servers are told apart."""

import json

import pytest
from chat_server import ChatServer

from omnivinci_hf.engine import Medium, Request
from omnivinci_hf.engine.backends import RequestRefused, cost_of, make_model
from omnivinci_hf.engine.config import OpenAIBackend, Price, PythonBackend, TransformersBackend
from omnivinci_hf.small import small_checkpoint
from tests.support.world_scenes import write_plain_clip


ASK = Request("omni", "Say it.")


def model_of(urls, folder="", **options):
    urls = [urls] if isinstance(urls, str) else urls
    return make_model("server", OpenAIBackend(urls, "stub", **{"timeout_sec": 0.3, "retries": 3, **options}), folder)


def test_a_server_is_asked_with_its_parameters_and_key(monkeypatch):
    monkeypatch.setenv("SOME_KEY", "secret")
    with ChatServer(lambda body: "<think>Hm.</think>It.") as server:
        reply = model_of(server.url, parameters={"temperature": 0.2}, api_key_env="SOME_KEY").ask(ASK)
    assert (reply.text, reply.trace, reply.prompt_tokens, reply.completion_tokens) == ("It.", "Hm.", 100, 10)
    message = {"role": "user", "content": "Say it."}
    assert server.requests[0].body == {"model": "stub", "temperature": 0.2, "messages": [message]}
    assert server.requests[0].key_given == "Bearer secret"


def test_a_server_is_asked_where_the_hub_is_switched_off(monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with ChatServer(lambda body: "It.") as server:
        assert model_of(server.url).ask(ASK).text == "It."


@pytest.mark.parametrize("fault", ["429", "500", "cut JSON", "hang"])
def test_a_request_is_sent_again_after_a_fault(fault):
    with ChatServer(lambda body: "It.") as server:
        server.faults = iter([fault, ""])
        assert model_of(server.url).ask(ASK).text == "It."
    assert [seen.fault for seen in server.requests] == [fault, ""]


@pytest.mark.parametrize(
    ("fault", "message"),
    [("429", "status 429"), ("cut JSON", "no whole JSON"), ("hang", "nothing came within 0.05 s")],
)
def test_a_server_that_stays_at_fault_is_told(fault, message):
    with ChatServer(lambda body: "It.") as server:
        server.faults = iter([fault] * 2)
        with pytest.raises(OSError, match=rf"Backend 'server', {server.url}: .*{message}.*2 times in a row"):
            model_of(server.url, timeout_sec=0.05, retries=1).ask(ASK)


def test_a_server_that_is_down_is_told():
    with pytest.raises(OSError, match="Connection refused, 1 times in a row. Look after the server"):
        model_of("http://127.0.0.1:9/v1", retries=0).ask(ASK)


def test_another_server_takes_over():
    with ChatServer(lambda body: "It.") as server:
        model = model_of(["http://127.0.0.1:9/v1", server.url])
        assert [model.ask(ASK).text for _ in range(3)] == ["It."] * 3


def test_a_refused_request_is_no_fault_of_the_server():
    with ChatServer(lambda body: "It.") as server:
        server.status = 400, "too long"
        with pytest.raises(RequestRefused, match="refused the request with status 400: too long"):
            model_of(server.url).ask(ASK)
        server.status = 401, "no key"
        with pytest.raises(ValueError, match=r"status 401: no key \(check `urls`, `model`, `api_key_env`\)"):
            model_of(server.url).ask(ASK)
    assert len(server.requests) == 2


def test_a_reply_without_a_message_is_told():
    with ChatServer(lambda body: "It.") as server:
        server.status = 200, json.dumps({"error": "busy"})
        with pytest.raises(OSError, match="the reply has no message: {'error': 'busy'}"):
            model_of(server.url, retries=0).ask(ASK)


def test_a_checkpoint_sees_or_hears(tmp_path):
    clip = str(write_plain_clip(tmp_path / "clip.mp4", duration=6))
    backend = TransformersBackend(str(small_checkpoint()), {"max_new_tokens": 16})
    model = make_model("local", backend, tmp_path)
    shapes = Request("vision", "List the shapes and their seconds.", Medium(clip, "video", 0, 6, ""))
    sounds = Request("audio", "List the sounds and their seconds.", Medium(clip, "audio", 0, 6, ""))
    reply = model.ask(shapes)
    assert "red circle" in reply.text and reply.prompt_tokens > reply.completion_tokens > 0
    assert "whistle" in model.ask(sounds).text


def test_a_checkpoint_is_looked_for_beside_the_configuration(tmp_path):
    (tmp_path / "mine").mkdir()
    assert make_model("local", TransformersBackend("mine"), tmp_path).backend.model == str(tmp_path / "mine")
    assert make_model("local", TransformersBackend("me/mine"), tmp_path).backend.model == "me/mine"
    with pytest.raises(FileNotFoundError, match="`backends.local.model`: .*nowhere is no folder; give a checkpoint"):
        make_model("local", TransformersBackend("./nowhere"), tmp_path)


def test_a_function_gets_the_request(tmp_path):
    (tmp_path / "mine.py").write_text(
        "def good(request): return f'<think>Hm.</think>{request.stage}: {request.prompt}'\ndef bad(request): return 3\n"
        "number = 3\n"
    )
    reply = make_model("mine", PythonBackend("mine:good"), tmp_path).ask(ASK)
    assert (reply.text, reply.trace, reply.prompt_tokens) == ("omni: Say it.", "Hm.", None)
    with pytest.raises(ValueError, match="Backend 'mine', mine:bad must return a string, got int"):
        make_model("mine", PythonBackend("mine:bad"), tmp_path).ask(ASK)
    with pytest.raises(ValueError, match="`backends.mine.function` 'nowhere:f' cannot be imported"):
        make_model("mine", PythonBackend("nowhere:f"), tmp_path)
    with pytest.raises(ValueError, match="'mine:number' is no function"):
        make_model("mine", PythonBackend("mine:number"), tmp_path)


def test_the_cost_is_known_with_a_price_and_counts():
    backend = PythonBackend("a:b", price=Price(2.0, 10.0))
    assert cost_of(backend, {"prompt_tokens": 1000, "completion_tokens": 100}) == pytest.approx(0.003)
    assert cost_of(backend, {"prompt_tokens": None, "completion_tokens": 100}) is None
    assert cost_of(PythonBackend("a:b"), {"prompt_tokens": 1, "completion_tokens": 1}) is None
