"""vLLM gives the numbers of Transformers: ids, log-probabilities, embeddings of media."""

import json
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest
import torch

from omnivinci_hf import OmniVinciProcessor
from omnivinci_hf.original_layout.convert import convert_checkpoint
from omnivinci_hf.small import small_checkpoint
from omnivinci_hf.testing import write_tiny_checkpoint
from tests.support.documentation import snippets
from tests.support.media_files import tone, write_video
from tests.support.optional import needed
from tests.support.small_original import write_small_original
from tests.support.vllm_engine import (
    ALONE,
    REQUESTS,
    SETTINGS,
    VIDEO,
    Answer,
    Reference,
    Request,
    largest_difference,
    run_engine,
)


needed("vllm")

# the engine of each way to answer; prompts are computed in chunks of 64 tokens, also within media
ENGINES: dict[str, tuple[tuple[str, ...], dict[str, int]]] = {
    "whole": (("singly", "batched"), {}),
    "chunks": (("batched",), {"max_num_batched_tokens": 64}),
}
WAYS = {"singly": ("whole", "singly"), "batched": ("whole", "batched"), "in chunks": ("chunks", "batched")}
STOPS_EARLY = "image"
STOPPING = replace(REQUESTS[STOPS_EARLY], stops=True)
MODELS = ("small", "small, original", "tiny", "tiny, original")


@pytest.fixture(scope="module")
def original(tmp_path_factory):
    """A random checkpoint that cuts images into tiles, in the original layout; vLLM takes heads of 32 on a CPU.

    The third token of an answer is among those that end answers.
    """
    sizes = {"num_attention_heads": 2, "num_key_value_heads": 1}
    folder = write_tiny_checkpoint(tmp_path_factory.mktemp("original"), std=0.15, llm=sizes)
    file = folder / "llm" / "generation_config.json"
    config = json.loads(file.read_text(encoding="utf-8"))
    config["eos_token_id"].append(Reference(folder, **ALONE).answer(STOPPING).steps[2][0])
    file.write_text(json.dumps(config), encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def models(original, tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    return {
        "small": small_checkpoint(),
        "small, original": write_small_original(folder / "small"),
        "tiny": convert_checkpoint(original, folder / "tiny"),
        "tiny, original": original,
    }


@pytest.fixture(scope="module")
def engines(models, tmp_path_factory):
    """What the engines answer by model and engine: each starts once, two at a time."""

    def run(model, engine):
        ways, settings = ENGINES[engine]
        settings = {**settings, "hf_overrides": ALONE, "max_model_len": 1024 if model == "small" else 4096}
        return run_engine(
            models[model], REQUESTS | {"stops": STOPPING}, tmp_path_factory.mktemp("engine"), ways, **settings
        )

    with ThreadPoolExecutor(2) as pool:
        running = {(model, engine): pool.submit(run, model, engine) for model in MODELS for engine in ENGINES}
        yield {key: future.result() for key, future in running.items()}


@pytest.fixture(scope="module")
def references(models):
    """What Transformers answers, by model."""
    found = {name: Reference(models[name], **ALONE) for name in MODELS}
    return {
        name: {key: reference.answer(request) for key, request in REQUESTS.items()} for name, reference in found.items()
    }


def assert_equal_answers(expected: dict[str, Answer], got: dict[str, Answer]) -> None:
    for name, answer in expected.items():
        assert got[name].prompt_ids == answer.prompt_ids, name
        assert [token for token, _ in got[name].steps] == [token for token, _ in answer.steps], name
        assert largest_difference(answer, got[name]) < 1e-4, name


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("model", MODELS)
def test_requests_of_all_kinds_have_the_numbers_of_transformers(references, engines, model, way):
    engine, answers = WAYS[way]
    expected, got = references[model], engines[model, engine][answers]
    assert len(expected) >= 14
    assert_equal_answers(expected, got)


@pytest.mark.parametrize("model", MODELS)
def test_embeddings_of_media_are_equal_to_the_bit(references, engines, model):
    for name, answer in references[model].items():
        assert len(answer.embeds) > 0 or name == "text"
        assert torch.equal(engines[model, "whole"]["singly"][name].embeds, answer.embeds), name


@pytest.mark.parametrize("model", MODELS)
def test_an_image_has_its_numbers_alone_and_beside_another_one(references, engines, model):
    """One engine answers the three one after the other; the first image lies in its cache with tiles and without."""
    names = ("image", "two images", "image alone again")
    expected, got = references[model], engines[model, "whole"]["singly"]
    assert_equal_answers({name: expected[name] for name in names}, got)
    alone, both = (got[name].embeds for name in names[:2])
    assert torch.equal(alone, both[: len(alone)]) == (model.startswith("small"))  # which does not cut images
    assert got["image alone again"].num_encoded == 0  # it is in the cache


def test_a_clip_is_read_and_encoded_once_for_two_questions(tmp_path):
    """The words before the clip fill what the small checkpoint's few tokens leave of 128."""
    before = [{"role": "system", "content": [{"type": "text", "text": "Look, and listen. " * 30}]}]
    clip, other = (write_video(tmp_path / f"{volume}.mp4", audio=(volume * tone(5), 16000, 0)) for volume in (1, 0.1))
    requests = {
        "first": Request([clip, "What happens?"], before=before),
        "second": Request([clip, "And what is heard?"], before=before),
        "other audio": Request([other, "What happens?"], before=before),
    }
    got = run_engine(small_checkpoint(), requests, tmp_path, block_size=32)["singly"]
    processor = OmniVinciProcessor.from_pretrained(small_checkpoint())
    medium = processor.encode_medium("video", clip)
    num_encoded = len(medium.tensors["pixel_values_videos"]) + len(medium.tensors["input_features"])
    first, second, third = got.values()
    assert (first.num_encoded, second.num_encoded, third.num_encoded) == (num_encoded, 0, num_encoded)
    assert first.num_opened > 0 == second.num_opened and third.num_opened == first.num_opened
    place = first.prompt_ids.index(processor.video_token_id)
    assert first.num_cached == 0 and second.num_cached >= max(128, place + len(medium.input_ids) - 32)
    assert third.prompt_ids == first.prompt_ids and third.num_cached <= place  # no more than the words before it


@pytest.mark.parametrize("model", ["tiny", "tiny, original"])
def test_answers_stop_where_the_generation_config_says(original, references, engines, model):
    """`LLM` finds the file of the original layout in the folder of the language model."""
    ends = json.loads((original / "llm" / "generation_config.json").read_text(encoding="utf-8"))["eos_token_id"]
    ids = [token for token, _ in references[model][STOPS_EARLY].steps]
    stop = next(step for step, token in enumerate(ids, 1) if token in ends)
    assert stop <= 3 and [token for token, _ in engines[model, "whole"]["singly"]["stops"].steps] == ids[:stop]


def test_lora_changes_the_language_model_as_with_peft(models, tmp_path):
    converted = models["tiny"]
    peft = needed("peft")
    reference = Reference(converted)
    torch.manual_seed(0)
    layers = r".*language_model\.layers\.\d+\.(self_attn\.(q|v)_proj|mlp\.down_proj)"
    adapted = peft.get_peft_model(
        reference.model, peft.LoraConfig(r=8, target_modules=layers, init_lora_weights=False, lora_alpha=64)
    )
    adapted.save_pretrained(tmp_path / "adapter")
    requests = {name: REQUESTS[name] for name in ("text", "image", "video with audio", "all kinds")}
    plain = {name: Reference(converted).answer(request) for name, request in requests.items()}
    got = run_engine(
        converted,
        requests,
        tmp_path,
        adapter=str(tmp_path / "adapter"),
        enable_lora=True,
        max_lora_rank=8,
        max_model_len=4096,
    )["singly"]
    for name, request in requests.items():
        expected = reference.answer(request)
        assert [token for token, _ in got[name].steps] == [token for token, _ in expected.steps], name
        assert largest_difference(expected, got[name]) < 1e-4, name
        assert torch.equal(got[name].embeds, expected.embeds), name
    assert any(largest_difference(plain[name], got[name]) > 1e-2 for name in requests)


def test_the_snippet_of_the_documentation_runs(tmp_path):
    (code,) = [code for code in snippets("serving.md", "python") if "from vllm" in code]
    code = code.replace('"nvidia/omnivinci"', repr(str(small_checkpoint())))
    code = code.replace('tokenizer_mode="omnivinci"', f"**{SETTINGS}")
    shutil.copyfile(VIDEO, tmp_path / "clip.mp4")
    before = "content = [{'type': 'text', 'text': 'Say something.'}]\n"  # is that of the snippet before
    after = "\nassert outputs[0].outputs[0].token_ids"
    process = subprocess.run(
        [sys.executable, "-c", before + code + after], cwd=tmp_path, capture_output=True, text=True
    )
    assert process.returncode == 0, process.stderr[-5000:]
