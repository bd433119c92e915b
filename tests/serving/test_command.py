"""`omnivinci-hf serve` starts vLLM's server, or says what is missing."""

import json
import os
import select
import shlex
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from omnivinci_hf.cli import main
from omnivinci_hf.cli.arguments import parse_arguments
from omnivinci_hf.serving import announcement, command
from omnivinci_hf.small import small_checkpoint


def test_without_vllm_it_says_what_to_install(capsys, monkeypatch):
    monkeypatch.setattr(command, "_is_vllm_installed", lambda: False)
    assert main(["serve", str(small_checkpoint()), "--port", "8001"]) == 2
    assert 'serve needs vLLM: pip install "vllm>=' in capsys.readouterr().err


def test_a_package_that_vllm_does_not_find_is_an_error(monkeypatch):
    monkeypatch.setattr(command, "_is_vllm_installed", lambda: True)
    monkeypatch.setattr(command.metadata, "entry_points", lambda group: ())
    with pytest.raises(ImportError, match="vLLM does not find the plugin of this package"):
        command.check_vllm()


def test_options_of_vllm_go_to_vllm():
    arguments = parse_arguments(["serve", "some/model", "--port", "8001", "--max-model-len=4096"])
    assert arguments.model == "some/model" and arguments.rest == ["--port", "8001", "--max-model-len=4096"]
    executed = command.server_command(str(small_checkpoint()), arguments.rest)
    assert executed[0] == sys.executable and executed[-3:] == ["--port", "8001", "--max-model-len=4096"]
    assert executed[executed.index("--model") + 1] == str(small_checkpoint())
    assert executed[executed.index("--tokenizer-mode") + 1] == "omnivinci"


def test_it_starts_the_server_and_has_a_first_request_printed(monkeypatch):
    executed, started = [], []
    monkeypatch.setattr(command, "check_vllm", lambda: None)
    monkeypatch.setattr(command.os, "execve", lambda file, words, environment: executed.append(environment))
    monkeypatch.setattr(command.subprocess, "run", lambda words, check: started.append(words))
    options = ["--port", "8001", "--served-model-name=mine", "--api-key", "secret", "--download-dir", "/data/hub"]
    assert main(["serve", str(small_checkpoint()), *options]) == 0
    ((_, _, pid, text, *place),) = started
    assert pid == str(os.getpid()) and place == ["127.0.0.1", "8001"]
    words = shlex.split(text.partition("Try:\n\n")[2])
    assert words[:2] == ["curl", "http://127.0.0.1:8001/v1/chat/completions"]
    assert "Authorization: Bearer <your key>" in words and "secret" not in text
    assert json.loads(words[-1])["model"] == "mine"
    (environment,) = executed
    assert environment["VLLM_MEDIA_CONNECTOR"] == "omnivinci"
    assert environment["HF_HUB_CACHE"] == "/data/hub"  # tokenizer and processor lie there, too


def announcing(*place):
    script = Path(command.__file__).with_name("announcement.py")
    return subprocess.Popen(
        [sys.executable, script, str(os.getpid()), "it is up", *place], stderr=subprocess.PIPE, text=True
    )


def test_the_announcement_waits_until_the_server_accepts_connections(tmp_path):
    with socket.socket() as by_port, socket.socket(socket.AF_UNIX) as by_path:
        by_port.bind(("127.0.0.1", 0))
        by_path.bind(str(tmp_path / "s"))
        for server, place in (
            (by_port, ["127.0.0.1", str(by_port.getsockname()[1])]),
            (by_path, [str(tmp_path / "s")]),
        ):
            process = announcing(*place)
            assert process.wait() == 0  # whoever started it goes on at once
            assert not select.select([process.stderr], [], [], 1)[0]  # the port is taken, and nobody answers
            server.listen()
            assert process.stderr.read() == "it is up\n"


def test_the_announcement_ends_with_the_server():
    starts = subprocess.Popen([sys.executable, "-c", ""])
    starts.wait()
    assert not announcement._is_running(starts.pid) and announcement._is_running(os.getpid())
    announcement.main([str(starts.pid), "it is up", "127.0.0.1", "1"])


@pytest.mark.parametrize(
    ("options", "url"),
    [
        ([], "http://127.0.0.1:8000"),
        (["--host", "0.0.0.0"], "http://localhost:8000"),
        (["--host", "::"], "http://localhost:8000"),
        (["--host", "::1"], "http://[::1]:8000"),
        (["--ssl-certfile", "c.pem", "--host", "me.example", "--port", "1", "--port", "443"], "https://me.example:443"),
    ],
)
def test_the_first_request_goes_to_where_the_server_listens(options, url):
    words = shlex.split(command.first_request(str(small_checkpoint()), options))
    assert words[1] == f"{url}/v1/chat/completions" and "--unix-socket" not in words


def test_the_first_request_knows_sockets_and_keys_of_the_environment(monkeypatch):
    monkeypatch.setenv("VLLM_API_KEY", "secret")
    words = shlex.split(command.first_request(str(small_checkpoint()), ["--uds", "/tmp/s"]))
    assert words[words.index("--unix-socket") + 1] == "/tmp/s" and "Authorization: Bearer <your key>" in words


def hosts(options):
    executed = command.server_command(str(small_checkpoint()), options)
    return [executed[index + 1] for index, word in enumerate(executed) if word == "--host"]


def test_it_listens_to_this_machine_alone_unless_a_host_is_given():
    assert hosts([]) == ["127.0.0.1"] and hosts(["--host", "0.0.0.0"]) == ["0.0.0.0"]


def test_options_are_read_from_the_file_of_config_too(tmp_path):
    file = tmp_path / "server.yaml"
    file.write_text("port: 8001\nserved_model_name: mine\n", encoding="utf-8")
    options = ["--config", str(file)]
    assert hosts(options) == ["127.0.0.1"]
    words = shlex.split(command.first_request(str(small_checkpoint()), [*options, "--port", "8002"]))
    assert words[1].startswith("http://127.0.0.1:8002/") and json.loads(words[-1])["model"] == "mine"
    file.write_text("host: 0.0.0.0\n", encoding="utf-8")
    assert hosts(options) == []  # vLLM reads it there


@pytest.mark.parametrize("text", [None, "- a list", "a: [", "a: b: c"])
def test_a_file_of_config_without_options_is_an_error(tmp_path, text):
    if text is not None:
        (tmp_path / "server.yaml").write_text(text, encoding="utf-8")
    with pytest.raises(ValueError, match=r"--config: '.*server.yaml' (cannot be read|has no options)"):
        hosts(["--config", str(tmp_path / "server.yaml")])


def test_an_adapter_is_served_with_its_base_model(monkeypatch, capsys, tmp_path):
    monkeypatch.setattr(command, "check_vllm", lambda: None)
    config = {"peft_type": "LORA", "base_model_name_or_path": str(small_checkpoint())}
    (tmp_path / "adapter_config.json").write_text(json.dumps(config), encoding="utf-8")
    assert main(["serve", str(tmp_path)]) == 2
    printed = capsys.readouterr().err
    assert f"serve its base model, {small_checkpoint()} --enable-lora --lora-modules NAME={tmp_path}" in printed


@pytest.mark.parametrize(
    ("words", "values"),
    [
        ([], {}),
        (["--port", "1", "--enforce-eager", "--host=h"], {"port": "1", "enforce-eager": "", "host": "h"}),
        (["--served_model_name", "m"], {"served-model-name": "m"}),
        (["--port", "1", "--port=2"], {"port": "2"}),
    ],
)
def test_values_of_options(words, values):
    assert command.option_values(words) == values
