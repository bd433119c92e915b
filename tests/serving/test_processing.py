"""What a server cannot serve is refused at its start; dummy media are as large as prompts can have them."""

from types import SimpleNamespace

import pytest
import torch

from omnivinci_hf.small import small_checkpoint
from tests.support import goldens
from tests.support.optional import needed


needed("vllm")

from omnivinci_hf.serving import processing, renderer  # noqa: E402
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


def lengths(served, seq_len):
    """The number of ids of dummy media, by their modality."""
    processor = processing.OmniVinciServingProcessor(served, processing.OmniVinciDummyInputs(served))
    data = processor.dummy_inputs.get_dummy_mm_data(seq_len, {"image": 1, "video": 1, "audio": 1}, {})
    media = {modality: parse_media(modality, items).data for modality, items in data.items()}
    return {
        modality: len(processor._call_hf_processor({modality: items}, {})[f"{modality}_ids"][0])
        for modality, items in media.items()
    }


@pytest.mark.parametrize(
    ("options", "limited"),
    [
        ({"media_limits": {"max_duration_sec": 600}}, ()),
        ({"media_limits": {"max_frames": 16, "max_duration_sec": 60}}, ("video",)),
        ({"media_limits": {"max_audio_sec": 30, "max_pixels": 9}}, ("audio",)),
        ({"max_audio_sec": 30}, ("audio",)),
        ({"start_sec": 5000}, ()),
        ({"start_sec": 1.0, "end_sec": 2.0, "num_frames": 2, "still_threshold": 0.1}, ()),
    ],
)
def test_dummy_media_are_the_largest_that_a_server_takes(options, limited):
    plain, got = (lengths(info(mm_processor_kwargs=given), 4096) for given in (None, options))
    for modality, length in plain.items():
        assert (got[modality] < length) if modality in limited else (got[modality] == length), modality
    if "audio" in limited:
        assert got["audio"] > 100
    if "video" in limited:
        assert got["video"] > 16


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
        length = len(served.encode(medium, served.options_of(medium, {})).input_ids)
        assert length <= most[modality] <= seq_len
        if modality == "image":
            assert length == most["image"]
        else:
            assert length > seq_len // 2, modality
    assert processor.image_token == "<image>"


def keys(processor, items, uuids, is_readable=True):
    data = {"image": parse_media("image", items)}
    inputs = SimpleNamespace(mm_data_items=data, mm_uuid_items={"image": uuids}, hf_processor_mm_kwargs={})
    hashes = processor._get_mm_hashes(inputs)
    if is_readable:
        processor._remember(inputs, hashes)
    return hashes["image"]


def test_a_uuid_names_the_bytes_that_came_with_it():
    served = info(mm_hasher_algorithm="sha256")
    processor = processing.OmniVinciServingProcessor(served, processing.OmniVinciDummyInputs(served))
    (first,), (other,) = keys(processor, [b"one"], ["a"]), keys(processor, [b"other"], ["a"])
    assert first != other and keys(processor, [b"one"], [None]) != [first]
    assert keys(processor, [None], ["a"]) == [other] == keys(processor, [b"other"], ["a"])  # the last
    keys(processor, [b"broken"], ["a"], is_readable=False)
    assert keys(processor, [None], ["a"]) == [other]
    for items, uuids in (([None], ["unknown"]), ([None, b"x"], ["a", None])):  # among others it has no tiles
        with pytest.raises(ValueError, match="does not have the image.* by its `uuid` alone; .* send it again"):
            keys(processor, items, uuids)


def test_a_folder_for_weights_alone_is_warned_of(tmp_path, caplog, monkeypatch):
    monkeypatch.setattr(renderer, "HF_HUB_CACHE", str(tmp_path))
    for model, folder in (("some/model", tmp_path), (str(small_checkpoint()), "other"), ("some/model", None)):
        renderer.warn_of_download_dir(whole_config(model, folder))
    assert not caplog.messages
    renderer.warn_of_download_dir(whole_config("some/model", "other"))
    (message,) = caplog.messages
    assert "`download_dir`='other' has the weights alone" in message and "HF_HUB_CACHE" in message


def whole_config(model, download_dir):
    return SimpleNamespace(
        model_config=SimpleNamespace(model=model, revision=None), load_config=SimpleNamespace(download_dir=download_dir)
    )


def test_a_bad_medium_of_several_is_named_by_its_number():
    served = info()
    processor = processing.OmniVinciServingProcessor(served, processing.OmniVinciDummyInputs(served))
    _, bad = parse_media("image", [goldens.SMALL / "b_image" / "image.png", b"hello"]).data
    # the first one lies in vLLM's cache
    with pytest.raises(ValueError, match="image 2: image given as bytes"):
        processor._call_hf_processor({"image": [bad]}, {})
