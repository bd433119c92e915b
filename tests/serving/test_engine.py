"""vLLM gives the numbers of Transformers: ids, log-probabilities, embeddings of media."""

import shutil
import subprocess
import sys

import pytest
import torch

from omnivinci_hf.original_layout.convert import convert_checkpoint
from omnivinci_hf.small import small_checkpoint
from omnivinci_hf.testing import write_tiny_checkpoint
from tests.support.documentation import snippets
from tests.support.optional import needed
from tests.support.vllm_engine import (
    IMAGE,
    REQUESTS,
    SETTINGS,
    VIDEO,
    Answer,
    Reference,
    largest_difference,
    run_engine,
)


needed("vllm")

CHUNKS = {"max_num_batched_tokens": 64}  # of the prompts, also within media


@pytest.fixture(scope="module")
def original(tmp_path_factory):
    """A random checkpoint that cuts images into tiles, in the original layout; vLLM takes heads of 32 on a CPU."""
    sizes = {"num_attention_heads": 2, "num_key_value_heads": 1}
    return write_tiny_checkpoint(tmp_path_factory.mktemp("original"), std=0.15, llm=sizes)


@pytest.fixture(scope="module")
def converted(original, tmp_path_factory):
    return convert_checkpoint(original, tmp_path_factory.mktemp("converted") / "checkpoint")


def assert_equal_answers(expected: dict[str, Answer], got: dict[str, Answer]) -> None:
    assert len(expected) >= 14
    for name, answer in expected.items():
        assert got[name].prompt_ids == answer.prompt_ids, name
        assert [token for token, _ in got[name].steps] == [token for token, _ in answer.steps], name
        assert largest_difference(answer, got[name]) < 1e-4, name
        assert_equal_embeds(name, answer, got[name])


def assert_equal_embeds(name: str, expected: Answer, got: Answer) -> None:
    """Two images, or two audio clips, run at once with Transformers, which rounds otherwise."""
    if name in ("two images", "two audios"):
        torch.testing.assert_close(got.embeds, expected.embeds, atol=1e-4, rtol=0)
    else:
        assert torch.equal(got.embeds, expected.embeds), name


@pytest.fixture(scope="module")
def small_answers():
    reference = Reference(small_checkpoint())
    return {name: reference.answer(request) for name, request in REQUESTS.items()}


@pytest.fixture(scope="module")
def tiny_answers(original):
    reference = Reference(original)
    return {name: reference.answer(request) for name, request in REQUESTS.items()}


def test_the_small_checkpoint_answers_one_by_one(small_answers, tmp_path):
    assert_equal_answers(small_answers, run_engine(small_checkpoint(), REQUESTS, tmp_path, batched=False))


def test_the_small_checkpoint_answers_in_a_batch_and_in_chunks(small_answers, tmp_path):
    assert_equal_answers(small_answers, run_engine(small_checkpoint(), REQUESTS, tmp_path, batched=True, **CHUNKS))


def test_the_original_layout_answers_in_a_batch_and_in_chunks(original, tiny_answers, tmp_path):
    settings = {"max_model_len": 4096, **CHUNKS}
    assert_equal_answers(tiny_answers, run_engine(original, REQUESTS, tmp_path, batched=True, **settings))


def test_the_converted_layout_answers_one_by_one(converted, tiny_answers, tmp_path):
    assert_equal_answers(tiny_answers, run_engine(converted, REQUESTS, tmp_path, batched=False, max_model_len=4096))
    tiles, image = (tiny_answers[name].embeds for name in ("image", "two images"))
    assert IMAGE in REQUESTS["image"].content and not torch.equal(tiles[: len(image) // 2], image[: len(tiles)])


def test_lora_changes_the_language_model_as_with_peft(converted, tmp_path):
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
        batched=False,
        adapter=str(tmp_path / "adapter"),
        enable_lora=True,
        max_lora_rank=8,
        max_model_len=4096,
    )
    for name, request in requests.items():
        expected = reference.answer(request)
        assert [token for token, _ in got[name].steps] == [token for token, _ in expected.steps], name
        assert largest_difference(expected, got[name]) < 1e-4, name
        assert_equal_embeds(name, expected, got[name])
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
