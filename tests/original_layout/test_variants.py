"""The golden checkpoint, written as its real files may differ, gives the golden numbers bit for bit, or one error."""

import pytest
import torch
from transformers import AutoProcessor

from omnivinci_hf import OmniVinciForConditionalGeneration
from tests.support import goldens
from tests.support.original_variants import COMBINED, REFUSED, SAME, VARIANTS, Variant, copy_checkpoint, write_variant


CASES = ("b_image", "h_video5")
TOLERANCE = 1e-3
CHECKPOINT = goldens.FOLDER / "checkpoint"


def load(folder):
    model = OmniVinciForConditionalGeneration.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager")
    return model.eval(), AutoProcessor.from_pretrained(folder)


@torch.inference_mode()
def numbers(folder):
    """Logits of an image in tiles and of a video with audio, and the stop tokens."""
    model, processor = load(folder)
    logits = []
    for name in CASES:
        conversation = goldens.load_case(name).conversations[0]
        options = {"tokenize": True, "return_dict": True, "return_tensors": "pt", "add_generation_prompt": True}
        inputs = goldens.round_pixels(processor.apply_chat_template(conversation, **options))
        logits.append(model(**inputs).logits)
    return logits


def same(logits, others):
    return all(torch.equal(one, other) for one, other in zip(logits, others, strict=True))


@pytest.fixture(scope="module")
def usual():
    return numbers(CHECKPOINT)


def test_the_checkpoint_itself_gives_the_golden_numbers(usual):
    for name, logits in zip(CASES, usual, strict=True):
        (expected,) = goldens.load_case(name).expected
        assert (logits[0][expected.positions] - expected.logits).abs().max() < TOLERANCE


def test_there_are_enough_variants_of_different_names():
    assert len(SAME) >= 40 and len({variant.name for variant in VARIANTS}) == len(VARIANTS)


@pytest.mark.parametrize(
    "variant",
    [*SAME, *COMBINED[:5], *(pytest.param(variant, marks=pytest.mark.slow) for variant in COMBINED[5:])],
    ids=lambda variant: variant.name.partition("(")[0],
)
def test_numbers_are_the_same(variant, usual, tmp_path):
    folder = write_variant(variant, CHECKPOINT, tmp_path / "variant")
    expected = usual
    if variant.like is not None:
        expected = numbers(write_variant(Variant("like", variant.like), CHECKPOINT, tmp_path / "like"))
        assert not same(expected, usual)
    assert same(numbers(folder), expected)


@pytest.mark.parametrize("variant", REFUSED, ids=lambda variant: variant.name)
def test_one_error_names_what_is_not_there(variant, tmp_path):
    folder = write_variant(variant, CHECKPOINT, tmp_path / "variant")
    with pytest.raises(ValueError, match=variant.error) as error:
        load(folder)
    assert len(str(error.value).splitlines()) == 1 or "does not fit its configuration" in str(error.value)


def test_the_checkpoint_is_not_changed_by_writing_variants(tmp_path):
    copy = copy_checkpoint(CHECKPOINT, tmp_path / "copy")
    assert (copy / "llm" / "model.safetensors").resolve() == (CHECKPOINT / "llm" / "model.safetensors").resolve()
