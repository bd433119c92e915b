"""`omnivinci-hf serve` starts vLLM's server, or says what is missing."""

import json
import shlex
import sys

import pytest

from omnivinci_hf.cli import main
from omnivinci_hf.cli.arguments import parse_arguments
from omnivinci_hf.serving import command
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


def test_the_original_layout_has_its_generation_config_in_a_folder(original_folder):
    executed = command.server_command(str(original_folder), [])
    assert executed[executed.index("--generation-config") + 1] == str(original_folder / "llm")


def test_it_prints_a_first_request(monkeypatch, capsys):
    executed = []
    monkeypatch.setattr(command, "check_vllm", lambda: None)
    monkeypatch.setattr(command.os, "execve", lambda file, words, environment: executed.append(environment))
    assert (
        main(["serve", str(small_checkpoint()), "--port", "8001", "--served-model-name=mine", "--api-key", "secret"])
        == 0
    )
    printed = capsys.readouterr().err
    words = shlex.split(printed.partition("try:\n\n")[2])
    assert words[:2] == ["curl", "http://127.0.0.1:8001/v1/chat/completions"]
    assert "Authorization: Bearer <your key>" in words and "secret" not in printed
    assert json.loads(words[-1])["model"] == "mine"
    assert [environment["VLLM_MEDIA_CONNECTOR"] for environment in executed] == ["omnivinci"]


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
    assert hosts([]) == ["127.0.0.1"] and hosts(["--host", "0.0.0.0"]) == ["127.0.0.1", "0.0.0.0"]  # the last counts
    assert hosts(["--config", "server.yaml"]) == []  # which may have one


def test_the_original_layout_is_looked_up_at_its_revision(monkeypatch):
    asked = []
    monkeypatch.setattr(command, "is_original_checkpoint", lambda model, options: asked.append(options) or True)
    monkeypatch.setattr(command, "component_file", lambda *place: asked.append(place[-1]))
    command.server_command("some/model", ["--revision", "v2"])
    assert asked == [{"revision": "v2"}] * 2


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
