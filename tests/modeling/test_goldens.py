"""Parity with the reference's numbers, from the media files through the public API."""

import pytest
import torch
from transformers import AutoProcessor

from omnivinci_hf import OmniVinciForConditionalGeneration
from tests.support import goldens
from tests.support.goldens import load_case, write_checkpoint


TOLERANCE = 1e-3  # from media files
TOLERANCE_STORED = 2e-4  # from the stored preprocessed tensors
SAFE_GAP = 0.01  # greedy ids must agree where the two best logits are further apart


def load(name, tmp_path):
    folder = write_checkpoint(name, tmp_path / name)
    model = OmniVinciForConditionalGeneration.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager")
    return model.eval(), AutoProcessor.from_pretrained(folder)


def prepare(processor, case):
    inputs = processor.apply_chat_template(
        case.conversations if case.is_batch else case.conversations[0],
        tokenize=True,
        return_dict=True,
        return_tensors="pt",
        add_generation_prompt=True,
        processor_kwargs={"padding": True} if case.is_batch else None,
    )
    return goldens.round_pixels(inputs)


def largest_difference(logits, mask, case):
    """Over all rows; each row's length must be the expected one."""
    differences = []
    for row, expected in enumerate(case.expected):
        row_logits = logits[row][mask[row].bool()]
        assert len(row_logits) == expected.length
        differences.append((row_logits[expected.positions] - expected.logits).abs().max().item())
    return max(differences)


@pytest.mark.parametrize("name", goldens.case_names())
@torch.inference_mode()
def test_case(name, tmp_path, golden_table):
    case = load_case(name)
    model, processor = load(name, tmp_path)
    inputs = prepare(processor, case)
    logits = model(**inputs).logits
    if not case.expected:
        assert torch.isfinite(logits[inputs["attention_mask"].bool()]).all()
        golden_table.append((name, logits.shape[1], "works", ""))
        return
    difference = largest_difference(logits, inputs["attention_mask"], case)
    generated = model.generate(**inputs, max_new_tokens=16, min_new_tokens=16, do_sample=False, eos_token_id=None)[
        :, inputs["input_ids"].shape[1] :
    ].tolist()
    equal = [ids == expected.greedy_ids for ids, expected in zip(generated, case.expected, strict=True)]
    golden_table.append((name, logits.shape[1], f"{difference:.1e}", f"{sum(equal)}/{len(equal)}"))
    assert difference < TOLERANCE
    assert all(same for same, expected in zip(equal, case.expected, strict=True) if expected.gap > SAFE_GAP)


COMPLETE = ["b_image", "c_two_images", "g_video5_silent"]


@pytest.mark.skipif(goldens.FOLDER == goldens.SMALL, reason="the stored tensors are in the full set only")
@pytest.mark.parametrize("name", COMPLETE)
@torch.inference_mode()
def test_case_from_stored_tensors(name, tmp_path):
    case = load_case(name)
    model, processor = load(name, tmp_path)
    inputs = prepare(processor, case)
    tensors = case.expected[0].tensors
    if "pixel_values" in inputs:
        inputs["pixel_values"] = tensors["pixel_values.image"].float()
    else:
        inputs["pixel_values_videos"] = tensors["pixel_values.video.0"].float()
    logits = model(**inputs).logits
    assert largest_difference(logits, inputs["attention_mask"], case) < TOLERANCE_STORED


@pytest.mark.skipif(goldens.FOLDER == goldens.SMALL, reason="needs the full set")
def test_the_full_set_has_53_cases_that_the_reference_runs():
    statuses = [load_case(name).status for name in goldens.case_names()]
    assert statuses.count("ok") == 53


def test_learned_embedding_of_the_original_code_is_refused(tmp_path):
    if not (goldens.FOLDER / "t_learned").is_dir():
        pytest.skip("needs the full set")
    with pytest.raises(ValueError, match="time_embed_type='learned_embed' is not supported"):
        load("t_learned", tmp_path)


@pytest.mark.parametrize("name", ["b_image", "h_video5", "g_video5_silent"])
def test_pixels_equal_the_stored_ones(name, tmp_path):
    tensors = load_case(name).expected[0].tensors
    stored = {key: value for key, value in tensors.items() if key.startswith("pixel_values")}
    if not stored:
        pytest.skip("the stored tensors are in the full set only")
    inputs = prepare(load(name, tmp_path)[1], load_case(name))
    pixel_values = inputs.get("pixel_values", inputs.get("pixel_values_videos"))
    assert torch.equal(pixel_values.half(), torch.cat(list(stored.values())))
