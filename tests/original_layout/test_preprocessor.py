"""Images become pixel values as the vision tower's folder and the main file say."""

import pytest
import torch
from transformers import AutoProcessor

from omnivinci_hf.original_layout.findings import Findings
from omnivinci_hf.original_layout.preprocessor import image_options
from omnivinci_hf.testing import write_tiny_checkpoint
from tests.support.original_variants import DELETED, main, patch, remove


FILE = "vision_tower/preprocessor_config.json"


@pytest.fixture
def original(tmp_path):
    return write_tiny_checkpoint(tmp_path / "original")


def pixels(folder, **options):
    image = torch.rand(3, 60, 120, generator=torch.Generator().manual_seed(0))
    return AutoProcessor.from_pretrained(folder, **options)(images=image, text="<image>", return_tensors="pt")


@pytest.mark.parametrize("mean", [[0.25, 0.5, 0.75], ["0.25", "0.5", "0.75"]])
def test_mean_and_deviation_of_the_file_are_used(original, mean):
    patch(FILE, {"image_mean": mean, "image_std": 0.25})(original)
    processor = AutoProcessor.from_pretrained(original)
    for part in (processor.image_processor, processor.video_processor):
        assert part.image_mean == [0.25, 0.5, 0.75] and part.image_std == [0.25, 0.25, 0.25]


def test_those_given_when_loading_go_first(original):
    patch(FILE, {"image_mean": [0.25, 0.5, 0.75]})(original)
    assert AutoProcessor.from_pretrained(original, image_mean=[0, 0, 0]).image_processor.image_mean == [0, 0, 0]


def test_the_usual_file_changes_nothing_and_a_missing_one_is_assumed(original):
    findings = Findings()
    assert image_options(str(original), {}, findings) == {} and not findings
    remove(FILE)(original)
    assert image_options(str(original), {}, findings) == {}
    assert [finding.level for finding in findings] == ["assumed"]


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"resample": 2}, r"has resample=2, which is not supported; known are \(3, None\)"),
        ({"do_normalize": False}, "has do_normalize=False, which is not supported"),
        ({"rescale_factor": 1}, "has rescale_factor=1, which is not supported; known is 1/255"),
    ],
)
def test_what_the_image_processor_does_not_do_is_refused(original, values, words):
    patch(FILE, values)(original)
    with pytest.raises(ValueError, match=words):
        AutoProcessor.from_pretrained(original)


@pytest.mark.parametrize(("ratio", "tiled"), [("dynamic_s2", True), ("resize", False), (DELETED, False)])
def test_one_image_is_tiled_only_where_the_main_file_says_so(original, ratio, tiled):
    main(image_aspect_ratio=ratio)(original)
    inputs = pixels(original)
    assert (len(inputs["pixel_values"]) > 1) == tiled == bool(inputs["image_grids"].any())
