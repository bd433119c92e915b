"""This module answers requests with vLLM's engine, and the same ones with Transformers.

A request is a conversation as the processor takes it, with media by their paths, and options of the request.
"""

import base64
import importlib.util
import os
import pickle
import subprocess
import sys
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from operator import itemgetter
from pathlib import Path
from typing import Any

import av
import torch

from omnivinci_hf import OmniVinciForConditionalGeneration, OmniVinciProcessor
from tests.support import goldens
from tests.support.paths import ROOT


# vLLM reads them when it is imported. Where it is not installed, they would change tests of other folders.
if importlib.util.find_spec("vllm") is not None:
    os.environ.update(
        VLLM_ENABLE_V1_MULTIPROCESSING="0",
        VLLM_CPU_OMP_THREADS_BIND="nobind",
        VLLM_LOGGING_LEVEL="ERROR",
        VLLM_MEDIA_CONNECTOR="omnivinci",
        VLLM_NO_USAGE_STATS="1",
        TORCHDYNAMO_DISABLE="1",  # the first request with log-probabilities would compile for ten seconds
    )

IMAGE = goldens.SMALL / "b_image" / "image.png"
IMAGE_2 = goldens.SMALL / "c_two_images" / "image2.png"
AUDIO = goldens.SMALL / "d_audio3" / "audio.wav"
VIDEO = goldens.SMALL / "h_video5" / "video.mp4"
SILENT = goldens.SMALL / "g_video5_silent" / "video.mp4"
NUM_TOKENS = 12
TOP = 5  # log-probabilities of so many tokens are compared at each step
PARTS = {"image": "image_url", "video": "video_url", "audio": "audio_url"}


def part(path: Path) -> dict[str, Any]:
    modality = {".png": "image", ".wav": "audio"}.get(path.suffix, "video")
    return {"type": modality, "path": str(path)}


@dataclass
class Request:
    content: list[Any]  # words, and paths of media
    options: dict[str, Any] = field(default_factory=dict)
    before: list[dict[str, Any]] = field(default_factory=list)  # earlier messages
    stops: bool = False  # at an end token, else after `NUM_TOKENS`

    @property
    def conversation(self) -> list[dict[str, Any]]:
        parts = [{"type": "text", "text": item} if isinstance(item, str) else part(item) for item in self.content]
        return [*self.before, {"role": "user", "content": parts}]


def data_url(path: Path) -> str:
    return "data:application/octet-stream;base64," + base64.b64encode(Path(path).read_bytes()).decode()


def for_openai(conversation: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Writes a conversation in the form of OpenAI's API."""

    def written(part: dict[str, Any]) -> dict[str, Any]:
        if part["type"] == "text":
            return part
        name = PARTS[part["type"]]
        return {"type": name, name: {"url": data_url(part["path"])}}

    return [{**message, "content": [*map(written, message["content"])]} for message in conversation]


REQUESTS = {
    "text": Request(["Say something."]),
    "image": Request([IMAGE, "What is this?"]),
    "words first": Request(["What is this?", IMAGE]),
    "two images": Request([IMAGE, "and", IMAGE_2, "Which is red?"]),
    "image alone again": Request([IMAGE, "Which colour is it?"]),
    "audio": Request([AUDIO, "What is heard?"]),
    "two audios": Request([AUDIO, "then", AUDIO, "Are they equal?"], {"end_sec": 1.5}),
    "video with audio": Request([VIDEO, "What happens?"]),
    "silent video": Request([SILENT, "What happens?"]),
    "audio of a video": Request([VIDEO, "What happens?"], {"load_audio_from_video": False}),
    "frames": Request([VIDEO, "What happens?"], {"num_frames": 3}),
    "rate of frames": Request([VIDEO, "What happens?"], {"fps": 1.5}),
    "range": Request([VIDEO, "What happens?"], {"num_frames": 4, "start_sec": 1.0, "end_sec": 3.0}),
    "two videos": Request([VIDEO, "and", SILENT, "Which one is silent?"], {"num_frames": 4}),
    "all kinds": Request([IMAGE, AUDIO, "then", VIDEO, "What fits?"], {"num_frames": 4}),
    "system": Request(
        [VIDEO, "Be brief."],
        {"num_frames": 4},
        [{"role": "system", "content": [{"type": "text", "text": "You answer in one word."}]}],
    ),
    "second question": Request(
        ["And then?"],
        {"num_frames": 4},
        [
            {"role": "user", "content": [part(VIDEO), {"type": "text", "text": "What happens?"}]},
            {"role": "assistant", "content": [{"type": "text", "text": "Nothing."}]},
        ],
    ),
}


SETTINGS = {
    "tokenizer_mode": "omnivinci",
    "dtype": "float32",
    "enforce_eager": True,
    "gpu_memory_utilization": 0.05,
    "kv_cache_memory_bytes": 256 << 20,
    "max_model_len": 1024,
    "max_num_seqs": 16,
    "disable_log_stats": True,
}
Steps = list[tuple[int, dict[int, float]]]  # the token of each step, and log-probabilities by token


# Each tile, frame and window runs alone, so that neighbours do not change how its embeddings are rounded. On a CPU
# this is so with towers of the real checkpoint's size, whatever the configuration says.
ALONE = {"vision_chunk_size": 1, "audio_chunk_size": 1}


@dataclass
class Answer:
    prompt_ids: list[int]
    steps: Steps
    embeds: torch.Tensor  # of the media, in the order of the prompt
    num_cached: int = 0  # tokens of the prompt that were not computed again
    num_opened: int = 0  # how often a decoder was opened for its media
    num_encoded: int = 0  # tiles, frames and windows of audio that ran through a tower for it


Answers = dict[str, Answer]


def run_engine(
    model: Path, requests: dict[str, Request], folder: Path, ways: Sequence[str] = ("singly",), **settings: Any
) -> dict[str, Answers]:
    """Answers requests in a process of its own, since vLLM starts one engine in a process.

    Args:
        folder: for the answers; it must exist.
        ways: "singly", one after the other by `chat`, and "batched", all at once by `generate`; the caches are empty
            at the start of each.
        settings: of the engine; `adapter` is the folder of an adapter that is asked, too.

    Returns:
        for each way, the answer to each request by its name.
    """
    task = folder / "task.pkl"
    task.write_bytes(pickle.dumps((model, requests, ways, settings)))
    process = subprocess.run(
        [sys.executable, "-m", "tests.support.vllm_engine", str(task)], cwd=ROOT, capture_output=True, text=True
    )
    assert process.returncode == 0, process.stderr[-5000:]
    return pickle.loads((folder / "answers.pkl").read_bytes())


class Engine:
    """This class answers requests with vLLM."""

    def __init__(self, model: Path, adapter: str | None = None, **settings: Any):
        from vllm import LLM, SamplingParams
        from vllm.lora.request import LoRARequest

        self.llm = LLM(model=str(model), **{**SETTINGS, **settings})
        self.sampling = {
            stops: SamplingParams(max_tokens=NUM_TOKENS, temperature=0, logprobs=TOP, ignore_eos=not stops)
            for stops in (False, True)
        }
        self.adapter = None if adapter is None else LoRARequest("adapter", 1, adapter)
        self.processor = self.llm.llm_engine.renderer.get_mm_processor()
        self.counts: Counter[str] = Counter()
        self._count()

    def _count(self) -> None:
        """Counts what is decoded and encoded from now on."""
        open_media = av.open

        def opened(*args: Any, **kwargs: Any) -> Any:
            self.counts["opened"] += 1
            return open_media(*args, **kwargs)

        def encoded(module: torch.nn.Module, args: tuple[torch.Tensor, ...]) -> None:
            self.counts["encoded"] += len(args[0])

        def watch(model: Any) -> None:
            for tower in (model.media_encoder.vision_tower, model.media_encoder.audio_tower):
                tower.register_forward_pre_hook(encoded)

        av.open = opened
        self.llm.apply_model(watch)

    def answer(self, requests: dict[str, Request], way: str) -> Answers:
        """Answers requests with empty caches."""
        self.llm.reset_mm_cache()
        self.llm.llm_engine.reset_encoder_cache()
        assert self.llm.reset_prefix_cache()
        if way == "batched":
            return dict(zip(requests, self.answer_all(requests.values()), strict=True))
        return {name: self.answer_one(request) for name, request in requests.items()}

    def answer_one(self, request: Request) -> Answer:
        """Answers a chat, and counts what was done for it."""
        before = self.counts.copy()
        messages = for_openai(request.conversation)
        (output,) = self.llm.chat(
            [messages],
            self.sampling[request.stops],
            use_tqdm=False,
            mm_processor_kwargs=request.options or None,
            lora_request=self.adapter,
        )
        answer = self._answer(output)
        answer.num_opened, answer.num_encoded = (self.counts[name] - before[name] for name in ("opened", "encoded"))
        return answer

    def answer_all(self, requests: Iterable[Request]) -> list[Answer]:
        """Answers prompts with their media, in one batch."""
        requests = list(requests)
        outputs = self.llm.generate(
            [self._prompt(request) for request in requests],
            [self.sampling[request.stops] for request in requests],
            use_tqdm=False,
            lora_request=self.adapter,
        )
        return [self._answer(output) for output in outputs]

    def _prompt(self, request: Request) -> dict[str, Any]:
        processor = self.processor.info.get_hf_processor()
        media: dict[str, list[bytes]] = {}
        for message in request.conversation:
            for one in message["content"]:
                if one["type"] != "text":
                    media.setdefault(one["type"], []).append(Path(one["path"]).read_bytes())
        prompt = processor.apply_chat_template(request.conversation, add_generation_prompt=True)
        return {"prompt": prompt, "multi_modal_data": media, "mm_processor_kwargs": request.options}

    def _answer(self, output: Any) -> Answer:
        completion = output.outputs[0]
        steps = [
            (token, {other: value.logprob for other, value in top.items()})
            for token, top in zip(completion.token_ids, completion.logprobs, strict=True)
        ]
        return Answer(list(output.prompt_token_ids), steps, torch.empty(0), output.num_cached_tokens)

    def embeds(self, request: Request) -> torch.Tensor:
        """Returns the embeddings that the model makes of the media, in the order of the prompt."""
        prompt = self._prompt(request)
        inputs = self.processor(
            prompt["prompt"],
            self.processor.info.parse_mm_data(prompt["multi_modal_data"]),
            hf_processor_mm_kwargs=request.options,
        )
        parts = []
        for modality, items in inputs["mm_kwargs"].items():
            for item, place in zip(items, inputs["mm_placeholders"][modality], strict=True):
                values = {name: [value] for name, value in item.get_data().items()}
                (embeds,) = self.llm.apply_model(lambda model, values=values: model.embed_multimodal(**values))
                parts.append((place.offset, *embeds))
        width = self.llm.model_config.hf_config.text_config.hidden_size
        return torch.cat([torch.empty(0, width), *(embeds for _, embeds in sorted(parts, key=itemgetter(0)))])


class Reference:
    """This class answers requests with Transformers, one by one, in float32; `options` are of the configuration."""

    def __init__(self, model: Path, **options: Any):
        self.model = OmniVinciForConditionalGeneration.from_pretrained(model, dtype=torch.float32, **options).eval()
        self.processor = OmniVinciProcessor.from_pretrained(model)

    def answer(self, request: Request) -> Answer:
        inputs = self.processor.apply_chat_template(
            request.conversation,
            tokenize=True,
            return_dict=True,
            return_tensors="pt",
            add_generation_prompt=True,
            **request.options,
        )
        seen: list[torch.Tensor] = []
        hook = self.model.model.language_model.register_forward_pre_hook(
            lambda module, args, kwargs: seen.append(kwargs["inputs_embeds"]), with_kwargs=True
        )
        output = self.model.generate(
            **inputs,
            max_new_tokens=NUM_TOKENS,
            min_new_tokens=NUM_TOKENS,
            do_sample=False,
            eos_token_id=[],
            suppress_tokens=None,
            return_dict_in_generate=True,
            output_logits=True,
        )
        hook.remove()
        ids = inputs["input_ids"][0]
        config = self.model.config
        is_medium = torch.isin(ids, torch.tensor([config.image_token_id, config.video_token_id, config.audio_token_id]))
        steps = [
            (token, dict(enumerate(torch.log_softmax(logits[0].float(), -1).tolist())))
            for token, logits in zip(output.sequences[0, len(ids) :].tolist(), output.logits, strict=True)
        ]
        return Answer(ids.tolist(), steps, seen[0][0, is_medium].detach())


def largest_difference(expected: Answer, got: Answer) -> float:
    """Returns the largest difference of log-probabilities, of the likeliest tokens of each step."""
    return max(
        abs(value - every[token])
        for (_, every), (_, likeliest) in zip(expected.steps, got.steps, strict=True)
        for token, value in likeliest.items()
    )


def main() -> None:
    task = Path(sys.argv[1])
    model, requests, ways, settings = pickle.loads(task.read_bytes())
    engine = Engine(model, **settings)
    answers = {way: engine.answer(requests, way) for way in ways}
    for name, request in requests.items():
        embeds = engine.embeds(request)
        for way in ways:
            answers[way][name].embeds = embeds
    (task.parent / "answers.pkl").write_bytes(pickle.dumps(answers))


if __name__ == "__main__":
    from tests.support import vllm_engine  # what is pickled belongs to the module of that name

    vllm_engine.main()
