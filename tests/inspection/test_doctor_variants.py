"""The doctor's verdict on every variant of the golden checkpoint is what `from_pretrained` does with it."""

import pytest

from omnivinci_hf import OmniVinciForConditionalGeneration, OmniVinciProcessor
from omnivinci_hf.inspection.doctor import diagnose
from tests.support import goldens
from tests.support.original_variants import COMBINED, REFUSED, SAME, write_variant


CHECKPOINT = goldens.FOLDER / "checkpoint"


@pytest.mark.parametrize(
    "variant",
    [*SAME, *REFUSED, *COMBINED[:5], *(pytest.param(variant, marks=pytest.mark.slow) for variant in COMBINED[5:])],
    ids=lambda variant: variant.name.partition("(")[0],
)
def test_verdict_is_what_loading_does(variant, tmp_path):
    folder = write_variant(variant, CHECKPOINT, tmp_path / "variant")
    diagnosis = diagnose(folder)
    assert diagnosis.loads is (variant.error is None), diagnosis.obstacle
    if variant.error is not None:  # tests/original_layout/test_variants.py loads the others
        with pytest.raises(Exception) as raised:  # noqa: B017 (it may be any)
            OmniVinciForConditionalGeneration.from_pretrained(folder)
            OmniVinciProcessor.from_pretrained(folder)
        assert str(raised.value) in diagnosis.obstacle
