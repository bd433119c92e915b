"""What a server cannot serve is refused at its start; dummy media are as large as prompts can have them."""

from types import SimpleNamespace

import pytest
import torch

from omnivinci_hf.small import small_checkpoint
from tests.support import goldens


pytest.importorskip("vllm", reason="needs vLLM, which `make test-vllm` installs")

from omnivinci_hf.serving import processing  # noqa: E402
from omnivinci_hf.serving.media import parse_media  # noqa: E402
from omnivinci_hf.serving.plugin import ARCHITECTURE, register  # noqa: E402


def info(model=None, tokenizer_mode="omnivinci", **mm_config):
    settings = {"mm_processor_kwargs": None, "media_io_kwargs": {}, "enable_mm_embeds": False, **mm_config}
    model_config = SimpleNamespace(
        model=str(model or small_checkpoint()), revision=None, tokenizer_mode=tokenizer_mode, dtype=torch.float32
    )
    context = SimpleNamespace(
        model_config=model_config, tokenizer=object(), get_mm_config=lambda: SimpleNamespace(**settings)
    )
    return processing.OmniVinciInfo(context)


def test_registering_again_changes_nothing():
    from vllm import ModelRegistry
    from vllm.tokenizers.registry import TokenizerRegistry

    register()
    register()
    assert ARCHITECTURE in ModelRegistry.get_supported_archs() and "omnivinci" in TokenizerRegistry.tokenizers


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"tokenizer_mode": "auto"}, "OmniVinci needs --tokenizer-mode omnivinci"),
        ({"mm_processor_kwargs": {"frame_times": [1.0]}}, "a server cannot have the option `frame_times`: it says"),
        ({"mm_processor_kwargs": {"num_frames": -1}}, "--mm-processor-kwargs: `num_frames` must be at least 1"),
        ({"media_io_kwargs": {"video": {"fps": 2}}}, "`media_io_kwargs` say how vLLM decodes"),
        ({"enable_mm_embeds": True}, "--enable-mm-embeds is not supported"),
    ],
)
def test_what_a_server_cannot_have_is_refused_at_its_start(settings, message):
    with pytest.raises(ValueError, match=message):
        info(**settings)


def test_boundary_tokens_of_modalities_are_refused(monkeypatch):
    processor = SimpleNamespace(use_modality_boundary_tokens=True)
    monkeypatch.setattr(processing, "load_processor", lambda *place: processor)
    with pytest.raises(ValueError, match="`use_modality_boundary_tokens`=True cannot be served"):
        info()


@pytest.mark.parametrize("model", [small_checkpoint(), goldens.SMALL / "checkpoint"])
@pytest.mark.parametrize("seq_len", [1024, 4096])
def test_dummy_media_fill_the_context_and_no_more(model, seq_len):
    served = info(model)
    counts = {"image": 1, "video": 1, "audio": 1}
    most = served.get_mm_max_tokens_per_item(seq_len, counts)
    dummy = processing.OmniVinciDummyInputs(served)
    processor = served.get_hf_processor()
    assert dummy.get_dummy_text(counts) == "<image><vila/video><sound>"
    for modality, media in dummy.get_dummy_mm_data(seq_len, counts, {}).items():
        (medium,) = parse_media(modality, media).data
        length = len(served.encode(medium, {}).input_ids)
        assert length <= most[modality] <= seq_len
        if modality == "image":
            assert length == most["image"]
        else:
            assert length > seq_len // 2, modality
    assert processor.image_token == "<image>"


def test_a_bad_medium_of_several_is_named_by_its_number():
    served = info()
    processor = processing.OmniVinciServingProcessor(served, processing.OmniVinciDummyInputs(served))
    _, bad = parse_media("image", [goldens.SMALL / "b_image" / "image.png", b"hello"]).data
    # the first one lies in vLLM's cache
    with pytest.raises(ValueError, match="image 2: image given as bytes"):
        processor._call_hf_processor({"image": [bad]}, {})
