import inspect
import json
import runpy
import time
from dataclasses import fields
from typing import get_args

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import AutoFeatureExtractor, AutoImageProcessor, AutoProcessor, AutoVideoProcessor
from transformers.tokenization_utils_base import PaddingStrategy, TruncationStrategy
from transformers.utils import TensorType

from omnivinci_hf import OmniVinciProcessor, load_audio, load_image, load_video
from omnivinci_hf.omnivinci import conversation_omnivinci, processing_omnivinci
from omnivinci_hf.omnivinci.feature_extraction_omnivinci import OmniVinciFeatureExtractor
from omnivinci_hf.omnivinci.image_processing_omnivinci import OmniVinciImageProcessor
from omnivinci_hf.omnivinci.media_reading_omnivinci import ReadOptions
from omnivinci_hf.omnivinci.options_omnivinci import (
    CALL_OPTIONS,
    OPTIONS,
    ORIGINAL_OPTIONS,
    READ_OPTIONS,
    STORED_OPTIONS,
    OptionGroup,
    loader_arguments,
)
from omnivinci_hf.omnivinci.video_processing_omnivinci import OmniVinciVideoProcessor
from tests.support.paths import ROOT


PICTURE = Image.new("RGB", (8, 8), "red")
FRAMES = np.stack([np.full((8, 8, 3), 20 * index, np.uint8) for index in range(12)])
PART = {"type": "video", "video": FRAMES, "video_metadata": {"fps": 2}}
CHAT = [{"role": "user", "content": [PART]}]


def watch(processor, **options):
    return processor(text="<vila/video>?", videos=[FRAMES], video_metadata={"fps": 2}, return_tensors="pt", **options)


def number_of_frames(inputs):
    return inputs["video_num_frames"].tolist()


@pytest.fixture
def unread(monkeypatch):
    """Fails where a medium is read."""
    monkeypatch.setattr(processing_omnivinci, "load_media", lambda *_: pytest.fail("a medium was read"))


# -- every option is obeyed --------------------------------------------------------------------------------------------


def test_frames_that_were_sampled_are_kept(processor):
    assert number_of_frames(watch(processor)) == [8]
    assert number_of_frames(watch(processor, do_sample_frames=False)) == [12]
    assert number_of_frames(watch(processor, do_sample_frames=True)) == [8]
    assert number_of_frames(watch(processor, videos_kwargs={"do_sample_frames": False})) == [12]
    with pytest.raises(ValueError, match=r"keeps all frames, but \['num_frames'\] ask for some"):
        watch(processor, do_sample_frames=False, num_frames=3)


def test_attention_mask_can_be_left_out(processor):
    assert "attention_mask" not in processor(text="Hi", return_attention_mask=False)
    assert "attention_mask" in processor(text="Hi", return_attention_mask=True)


def test_tokenizers_own_defaults_hold_as_in_other_processors(original_folder, tmp_path):
    OmniVinciProcessor.from_pretrained(original_folder).save_pretrained(tmp_path)
    changed = AutoProcessor.from_pretrained(tmp_path, padding="max_length", max_length=37, padding_side="right")
    (row,) = changed(text="Hi there")["input_ids"]
    assert len(row) == 37 and row[-1] == changed.tokenizer.pad_token_id
    assert len(changed(text="Hi there", max_length=41)["input_ids"][0]) == 41
    assert len(changed(text="Hi there", padding=False)["input_ids"][0]) < 37
    right = OmniVinciProcessor.from_pretrained(original_folder, padding_side="right")
    assert right.tokenizer.padding_side == "right"


def test_truncation_that_says_not_to_does_not(processor):
    assert len(processor(text="What is this here?", truncation="do_not_truncate", max_length=2)["input_ids"][0]) > 2


def test_options_of_a_part_come_before_those_of_the_call(processor):
    options = {"tokenize": True, "return_dict": True, "return_tensors": "pt"}
    parts = [{**PART, "num_frames": 3}, PART]
    inputs = processor.apply_chat_template([{"role": "user", "content": parts}], num_frames=5, **options)
    assert number_of_frames(inputs) == [3, 5]


def test_numbers_of_numpy_are_as_good_as_pythons(processor, saved, tmp_path):
    assert number_of_frames(watch(processor, num_frames=np.int64(3), load_audio_from_video=np.False_)) == [3]
    assert number_of_frames(watch(processor, do_sample_frames=np.False_)) == [12]
    assert number_of_frames(watch(processor, media_limits={"max_frames": np.int64(8)})) == [8]
    options = {"num_frames": np.int64(4), "max_audio_sec": np.float32(3), "load_audio_from_video": np.False_}
    changed = OmniVinciProcessor.from_pretrained(
        saved, image_mean=np.full(3, 0.5), image_std=(0.5, 0.5, 0.5), **options
    )
    changed.save_pretrained(tmp_path)
    again = OmniVinciProcessor.from_pretrained(tmp_path)
    for part in ("image_processor", "video_processor", "feature_extractor"):
        assert getattr(again, part).to_dict() == getattr(changed, part).to_dict()
    assert (again.video_processor.num_frames, again.max_audio_sec) == (4, 3)
    assert changed.load_audio_from_video is again.load_audio_from_video is False


def test_part_that_contradicts_the_call_is_told_before_a_medium_is_read(processor, monkeypatch):
    monkeypatch.setattr(conversation_omnivinci, "load_medium", lambda *_, **__: pytest.fail("a medium was read"))
    with pytest.raises(ValueError, match="got start_sec=4 and end_sec=2"):
        chat = [{"role": "user", "content": [{**PART, "start_sec": 4}]}]
        processor.apply_chat_template(chat, tokenize=True, end_sec=2)


def test_variable_of_a_template_is_none_that_it_sets_itself(processor):
    template = "{% for message in messages %}{{ style }}{{ message.role }}{% endfor %}"
    assert processor.apply_chat_template(CHAT, chat_template=template, style="short ") == "short user"
    with pytest.raises(TypeError, match=r"has no option \['message'\]"):
        processor.apply_chat_template(CHAT, chat_template=template, message="Hi")


def test_names_of_other_models_that_change_nothing_are_taken(processor):
    plain = processor(text="<image>", images=PICTURE, return_tensors="pt")
    same = {"do_resize": True, "do_normalize": True, "do_convert_rgb": None, "return_metadata": False}
    given = processor(text="<image>", images=PICTURE, return_tensors="pt", **same)
    assert torch.equal(plain["pixel_values"], given["pixel_values"])


# -- or refused, with the nearest name, before a medium is read --------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"num_frmes": 3}, TypeError, r"has no option \['num_frmes'\] \(did you mean num_frames\?\)"),
        ({"videos_kwargs": {"num_frmes": 3}}, TypeError, r"has no option \['num_frmes'\]"),
        ({"do_normalize": False}, ValueError, "cannot do `do_normalize`=False: it is always True"),
        ({"images_kwargs": {"do_rescale": False}}, ValueError, "cannot do `do_rescale`=False"),
        ({"return_metadata": True}, ValueError, "cannot do `return_metadata`=True"),
        ({"num_frames": 2, "videos_kwargs": {"num_frames": 4}}, ValueError,
         "`num_frames` is given twice, (as an argument|in `processor_kwargs`) and in `videos_kwargs`"),
        ({"common_kwargs": {"padding": True}, "text_kwargs": {"padding": True}}, ValueError,
         "`padding` is given twice, in `text_kwargs` and in `common_kwargs`"),
        ({"audio_kwargs": {"padding": True}}, ValueError, r"\['padding'\] in `audio_kwargs` are options of the text"),
        ({"videos_kwargs": 3}, TypeError, "in `videos_kwargs` must be a dictionary, got a int"),
        ({"num_frames": -1}, ValueError, "`num_frames` must be at least 1, got -1"),
        ({"num_frames": "8"}, ValueError, "`num_frames` must be a whole number or None, got '8'"),
        ({"num_frames": True}, ValueError, "`num_frames` must be a whole number or None, got True"),
        ({"num_frames": 2.5}, ValueError, "`num_frames` must be a whole number or None, got 2.5"),
        ({"fps": 0}, ValueError, "`fps` must be more than 0, got 0"),
        ({"fps": float("nan")}, ValueError, "`fps` must be a finite number or None, got nan"),
        ({"start_sec": -1}, ValueError, "`start_sec` must be at least 0"),
        ({"end_sec": 10**400}, ValueError, "`end_sec` must be a finite number or None, got 1000"),
        ({"max_audio_sec": "60"}, ValueError, "`max_audio_sec` must be a finite number or None"),
        ({"group_duration_sec": 1e-9}, ValueError, "`group_duration_sec` must be at least 0.05, got 1e-09"),
        ({"load_audio_from_video": "no"}, ValueError, "`load_audio_from_video` must be True or False, got 'no'"),
        ({"video_audio_downmix": "max"}, ValueError, "`video_audio_downmix` must be 'mean' or 'sum', got 'max'"),
        ({"on_damage": "ignore"}, ValueError, "`on_damage` must be 'raise' or 'warn' or None, got 'ignore'"),
        ({"padding": "longst"}, ValueError, "`padding` must be True or False or 'longest'"),
        ({"padding_side": "top"}, ValueError, "`padding_side` must be 'left' or 'right'"),
        ({"num_frames": 10**400}, ValueError, "`num_frames` must be a whole number or None"),
        ({"frame_indices": [[1], [1, 2]]}, ValueError, "`frame_indices` must be a list of whole numbers"),
        ({"frame_times": [3, 1]}, ValueError, "`frame_times` must be finite, not negative and ascending"),
        ({"frame_indices": [1], "num_frames": 2}, ValueError, "Give either `frame_indices`"),
        ({"start_sec": 4, "end_sec": 2}, ValueError, "must fit 0 <= start_sec < end_sec"),
        ({"media_limits": {"max_pixel": 3}}, ValueError, r"`media_limits` has no \['max_pixel'\]"),
        ({"video_kwargs": {"fps": 2}}, TypeError, r"\['video_kwargs'\] \(did you mean videos_kwargs\?\)"),
        ({"do_resiz": True}, TypeError, r"\(did you mean do_resize\?\)"),
        ({"audios": 3}, TypeError, r"\(did you mean audio\?\)"),
        ({"content": 3}, TypeError, r"has no option \['content'\]"),
        ({"return_attention_mask": 3}, ValueError, "`return_attention_mask` must be True or False"),
    ],
)  # fmt: skip
def test_wrong_options_are_told_before_a_medium_is_read(processor, unread, options, error, message):
    with pytest.raises(error, match=message):
        processor(text="<vila/video>", videos=FRAMES, **options)
    with pytest.raises(error, match=message):
        processor.apply_chat_template(CHAT, tokenize=True, processor_kwargs=options)
    with pytest.raises(error, match=message):
        processor.apply_chat_template(CHAT, **options)
    with pytest.raises(error, match=message):
        processor.describe(videos=FRAMES, **options)


def test_option_beside_and_in_processor_kwargs_is_an_error(processor, unread):
    with pytest.raises(ValueError, match="`fps` is given twice, as an argument and in `processor_kwargs`"):
        processor.apply_chat_template(CHAT, tokenize=True, fps=1, processor_kwargs={"fps": 2})
    options = {"load_audio_from_video": False}
    with pytest.raises(ValueError, match="`load_audio_from_video` is given twice"):
        processor.apply_chat_template(CHAT, tokenize=True, processor_kwargs=options, **options)


def test_wrong_return_type_is_told_before_a_medium_is_read(processor, unread):
    with pytest.raises(ValueError, match="`return_tensors` must be 'pt' or 'np'"):
        processor(text="<vila/video>", videos=FRAMES, return_tensors="torch")


# -- loading -----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def saved(original_folder, tmp_path_factory):
    folder = tmp_path_factory.mktemp("saved")
    OmniVinciProcessor.from_pretrained(original_folder).save_pretrained(folder)
    return folder


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"num_frame": 8}, TypeError, r"has no option \['num_frame'\] \(did you mean num_frames\?\)"),
        ({"do_normalize": False}, ValueError, "cannot do `do_normalize`=False"),
        ({"num_frames": 0}, ValueError, "`num_frames` must be at least 1, got 0"),
        ({"num_frames": 10**12}, ValueError, "`num_frames` must be at most 2,048, got 1000000000000"),
        ({"max_tiles": "12"}, ValueError, "`max_tiles` must be a whole number, got '12'"),
        ({"sampling_rate": 10**9}, ValueError, "`sampling_rate` must be at most 192,000"),
    ],
)
def test_wrong_options_of_loading_are_told(original_folder, saved, options, error, message):
    for folder in (original_folder, saved):
        with pytest.raises(error, match=message):
            AutoProcessor.from_pretrained(folder, **options)


def test_options_of_transformers_loader_are_none_of_the_processors(original_folder, saved):
    options = {"trust_remote_code": True, "dtype": "auto", "device_map": None, "quantization_config": None}
    for folder in (original_folder, saved):
        assert AutoProcessor.from_pretrained(folder, do_resize=True, **options).video_processor.num_frames == 8


@pytest.mark.parametrize(
    ("load", "options", "error", "message"),
    [
        (load_image, {"allow_url": True}, TypeError,
         r"load_image has no option \['allow_url'\] \(did you mean allow_urls\?\)"),
        (load_audio, {"downmx": "sum"}, TypeError,
         r"load_audio has no option \['downmx'\] \(did you mean downmix\?\)"),
        (load_video, {"num_frame": 2}, TypeError, r"\(did you mean num_frames\?\)"),
        (load_image, {"allow_urls": "no"}, ValueError, "`allow_urls` must be True or False or None, got 'no'"),
        (load_audio, {"timeout_sec": True}, ValueError, "`timeout_sec` must be a finite number or None, got True"),
        (load_video, {"align_audio_start": "no"}, ValueError, "`align_audio_start` must be True or False, got 'no'"),
        (load_video, {"fps": True}, ValueError, "`fps` must be a positive number, got True"),
        (load_video, {"start_sec": True}, ValueError, "got start_sec=True"),
    ],
)  # fmt: skip
def test_wrong_options_of_loaders_are_told_before_the_medium_is_looked_for(load, options, error, message):
    with pytest.raises(error, match=message):
        load("missing", **options)


@pytest.mark.parametrize("auto_class", [AutoImageProcessor, AutoVideoProcessor, AutoFeatureExtractor])
def test_parts_alone_are_as_strict(saved, auto_class):
    try:
        part = auto_class.from_pretrained(saved)
    except ImportError as error:
        pytest.skip(str(error))  # some Transformers versions demand torchvision for the Auto class
    with pytest.raises(TypeError, match=r"has no option \['num_tile'\]"):
        type(part).from_pretrained(saved, num_tile=3)
    with pytest.raises(ValueError, match="cannot do `do_normalize`=False"):
        type(part).from_pretrained(saved, do_normalize=False)
    assert type(part).from_pretrained(saved, dtype="auto").to_dict() == part.to_dict()
    again, unused = type(part).from_pretrained(saved, num_tile=3, return_unused_kwargs=True)
    assert unused == {"num_tile": 3} and again.to_dict() == part.to_dict()


def test_options_given_when_a_part_is_loaded_hold(saved):
    assert OmniVinciImageProcessor.from_pretrained(saved, max_tiles=16).max_tiles == 16
    assert OmniVinciFeatureExtractor.from_pretrained(saved, hop_length=80).hop_length == 80
    with pytest.raises(ValueError, match="`max_tiles`=1 is less than the 9"):
        OmniVinciImageProcessor.from_pretrained(saved, max_tiles=1)


@pytest.mark.parametrize("part", [OmniVinciImageProcessor(), OmniVinciFeatureExtractor()])
def test_calls_of_a_part_refuse_what_they_do_not_obey(part):
    medium = PICTURE if isinstance(part, OmniVinciImageProcessor) else np.zeros(800, np.float32)
    with pytest.raises(ValueError, match="cannot do `do_normalize`=False: it is always True"):
        part(medium, do_normalize=False)
    with pytest.raises(TypeError, match=r"has no option \['return_tensor'\] \(did you mean return_tensors\?\)"):
        part(medium, return_tensor="pt")
    part(medium, do_normalize=True)


def test_pictures_in_lists_of_lists_are_taken():
    part = OmniVinciImageProcessor(size=8, s2_scales=[8], max_tiles=1)
    assert part([[PICTURE], [PICTURE, PICTURE]])["pixel_values"].shape == (3, 3, 8, 8)


def test_files_of_older_versions_and_of_transformers_load(saved, tmp_path):
    entries = json.loads((saved / "processor_config.json").read_text())
    entries["feature_extractor"].update(padding_side="right", padding_value=0.0, return_attention_mask=True)
    entries["image_processor"].update(do_normalize=True, processor_class="OmniVinciProcessor")
    entries["image_processor"].update(crop_size=None, data_format="channels_first", disable_grouping=None, _noted=3)
    entries.update(do_normalize=None, _noted=3, something_new=None)
    copy_of(saved, tmp_path, entries)
    processor = AutoProcessor.from_pretrained(tmp_path)
    expected = processor.to_dict()
    processor.save_pretrained(tmp_path / "again")
    again = AutoProcessor.from_pretrained(tmp_path / "again").to_dict()
    assert again == expected
    assert "padding_side" not in again["feature_extractor"] and "do_normalize" not in again["image_processor"]


def test_feature_extractor_claims_no_padding_side_that_pipelines_would_compare(processor):
    assert not hasattr(processor.feature_extractor, "padding_side")
    assert processor.feature_extractor.fetch_audio("a.wav") == "a.wav"


# -- bounds on what a file may ask -------------------------------------------------------------------------------------


def copy_of(folder, target, entries):
    for path in folder.iterdir():
        if path.suffix in (".json", ".jinja"):
            (target / path.name).write_bytes(path.read_bytes())
    (target / "processor_config.json").write_text(json.dumps(entries))


BOUNDS = [
    ("image_processor", {"size": 30000}, "`size` must be at most 1,024, got 30000"),
    ("image_processor", {"size": 0}, "`size` must be at least 1"),
    ("image_processor", {"size": {"height": 56}}, "`size` must be a whole number"),
    ("image_processor", {"s2_scales": [56] * 100}, "`s2_scales` must be a list of 1 to 8 entries"),
    ("image_processor", {"s2_scales": [56, 16000]}, "is less than the"),
    ("image_processor", {"s2_scales": [112, 56]}, "must begin with `size`=56 and ascend"),
    ("image_processor", {"max_tiles": 10**9}, "`max_tiles` must be at most 256"),
    ("image_processor", {"image_std": [0, 1, 1]}, r"`image_std\[...\]` must be more than 0"),
    ("image_processor", {"image_mean": [0.5]}, "`image_mean` must be a list of 3 entries"),
    ("image_processor", {"resize_backend": "gpu"}, "`resize_backend` must be 'pil' or 'torch'"),
    ("image_processor", {"do_pad": True}, "cannot do `do_pad`=True"),
    ("image_processor", {"max_tile": 3}, r"has no option \['max_tile'\] \(did you mean max_tiles\?\)"),
    ("video_processor", {"size": 112}, "Images have `size`=56 but frames of videos 112"),
    ("video_processor", {"num_frames": 10**12}, "`num_frames` must be at most 2,048"),
    ("video_processor", {"num_frames": 2048, "size": 1024}, "take 24 GiB as pixel values, more than 5 GiB"),
    ("video_processor", {"fps": 1e9}, "`fps` must be at most 1,000"),
    ("video_processor", {"fps": -1}, "`fps` must be more than 0"),
    ("video_processor", {"do_sample_frames": False}, "cannot do `do_sample_frames`=False"),
    ("feature_extractor", {"sampling_rate": 10**9}, "`sampling_rate` must be at most 192,000"),
    ("feature_extractor", {"hop_length": 0}, "`hop_length` must be at least 1"),
    ("feature_extractor", {"hop_length": 1}, "values per second of audio, more than 100,000"),
    ("feature_extractor", {"hop_length": 20000}, "`hop_length`=20000 need"),
    ("feature_extractor", {"n_fft": 10**6}, "`n_fft` must be at most 8,192"),
    ("feature_extractor", {"n_fft": True}, "`n_fft` must be a whole number"),
    ("feature_extractor", {"chunk_length": 1e9}, "`chunk_length` must be at most 600"),
    ("feature_extractor", {"chunk_length": 1e-5}, "is 0 samples, fewer than"),
    ("feature_extractor", {"feature_size": 10**6}, "`feature_size` must be at most 512"),
    ("feature_extractor", {"window_frames": 10**9}, "`window_frames` must be at most 60,000"),
    ("feature_extractor", {"padding_value": 1.0}, "cannot do `padding_value`=1.0"),
    (None, {"patch_size": 0}, "`patch_size` must be at least 1"),
    (None, {"patch_size": 500}, "`patch_size`=500 is more than `size`=56"),
    (None, {"spatial_merge_size": 0}, "`spatial_merge_size` must be at least 1"),
    (None, {"group_duration_sec": 1e-9}, "`group_duration_sec` must be at least 0.05"),
    (None, {"max_audio_sec": 1e9}, "`max_audio_sec` must be at most 21,600"),
    (None, {"max_audio_sec": float("nan")}, "`max_audio_sec` must be a finite number or None, got nan"),
    (None, {"video_pool_sizes": [[0, 1, 1]]}, "must be at least 1"),
    (None, {"video_pool_sizes": [[1, 1]]}, "must be a list of 3 entries"),
    (None, {"audio_merge_size": 10**9}, "`audio_merge_size` must be at most 1,000"),
    (None, {"s2_output_scale_index": 3}, "`s2_output_scale_index`=3 is none of 3 `s2_scales`"),
    (None, {"still_threshold": 1000}, "`still_threshold` must be at most 255"),
    (None, {"align_audio_start": "yes"}, "`align_audio_start` must be True or False"),
    ("image_processor", {"max_tiles": 10**400}, "`max_tiles` must be a whole number"),
    (None, {"num_frames": 3}, r"The processor's file has no option \['num_frames'\]"),
    (None, {"image_processor": [1]}, "holds no options of `image_processor`"),
    (None, {"feature_extractor": None}, "holds no options of `feature_extractor`"),
    (None, {"boundary_tokens": "x"}, "`boundary_tokens` must be a dictionary or None, got 'x'"),
    (None, {"boundary_tokens": {"video_sep": "x" * 10**6}}, r"\['video_sep'\] are longer than 1000 characters"),
    (None, {"group_duration": 3}, r"file has no option \['group_duration'\] \(did you mean group_duration_sec\?\)"),
]


@pytest.mark.parametrize(("part", "asked", "message"), BOUNDS)
def test_what_a_downloaded_file_asks_is_bounded(saved, tmp_path, part, asked, message):
    entries = json.loads((saved / "processor_config.json").read_text())
    (entries if part is None else entries[part]).update(asked)
    copy_of(saved, tmp_path, entries)
    start = time.monotonic()
    with pytest.raises((ValueError, TypeError), match=message):
        OmniVinciProcessor.from_pretrained(tmp_path)
    assert time.monotonic() - start < 10


def test_tiles_of_one_picture_are_bounded_together():
    OmniVinciImageProcessor(size=448, max_tiles=256)
    with pytest.raises(ValueError, match="with `size`=1024 take .* GiB as pixel values, more than 5 GiB"):
        OmniVinciImageProcessor(size=1024, s2_scales=[1024, 15 * 1024, 16 * 1024], max_tiles=256)


def test_embeddings_of_a_tile_are_bounded(processor):
    parts = OmniVinciImageProcessor(size=224), OmniVinciVideoProcessor(size=224), processor.feature_extractor
    with pytest.raises(ValueError, match="make 12,544 embeddings of a tile of `size`=224, more than 4,096"):
        OmniVinciProcessor(*parts, processor.tokenizer, patch_size=2, spatial_merge_size=1)


# -- the table ---------------------------------------------------------------------------------------------------------

PARTS = {
    "processor": OmniVinciProcessor,
    "image_processor": OmniVinciImageProcessor,
    "video_processor": OmniVinciVideoProcessor,
    "feature_extractor": OmniVinciFeatureExtractor,
}


@pytest.mark.parametrize("part", PARTS)
def test_signatures_have_the_options_and_defaults_of_the_table(part):
    parameters = inspect.signature(PARTS[part]).parameters
    given = {name: one.default for name, one in parameters.items() if name not in (*PARTS, "tokenizer", "kwargs")}
    assert given == {option.name: option.default for option in OPTIONS if part in option.stored_by}


def test_every_option_of_the_parts_is_declared_in_the_table():
    for part in (OmniVinciImageProcessor, OmniVinciVideoProcessor, OmniVinciFeatureExtractor):
        assert set(vars(part())) <= STORED_OPTIONS.keys()
    assert {"num_frames", "padding", "media_limits"} <= CALL_OPTIONS.keys()


def test_options_of_reading_are_those_of_the_table():
    defaults = {one.name: one.default for one in fields(ReadOptions)}
    defaults = {name: value for name, value in defaults.items() if name not in ("num_threads", "cancelled")}
    assert defaults == {option.name: option.default for option in OPTIONS if option.group == "reading"}


@pytest.mark.parametrize(("modality", "load"), [("image", load_image), ("video", load_video), ("audio", load_audio)])
def test_loaders_have_the_arguments_that_the_table_names(modality, load):
    known = {*inspect.signature(load).parameters, *READ_OPTIONS}
    assert set(loader_arguments(modality).values()) <= known
    # of what is returned: the feature extractor's rate, the mean of channels of audio that belongs to no video
    others = {"source", "reading", "transform", "sampling_rate", "downmix"}
    assert known - others == set(loader_arguments(modality).values()) - others


def test_values_of_transformers_are_written_out_as_it_has_them():
    checks = {option.name: option.check for option in OPTIONS}
    enumerations = {"padding": PaddingStrategy, "truncation": TruncationStrategy, "return_tensors": TensorType}
    for name, enumeration in enumerations.items():
        assert {value for value in checks[name].values if isinstance(value, str)} == {
            kind.value for kind in enumeration
        }


def test_a_name_is_declared_once_and_given_somewhere():
    assert len({option.name for option in OPTIONS}) == len(OPTIONS)
    assert all(option.stored_by or option.in_call or option.in_parts for option in OPTIONS)
    assert not {option.name for option in OPTIONS if option.group == "reading"} & STORED_OPTIONS.keys()


def test_defaults_of_the_table_can_be_stored():
    for option in OPTIONS:
        if option.stored_by and option.default is not None:
            STORED_OPTIONS[option.name].check(option.name, option.default)


def test_original_checkpoint_is_loaded_with_the_original_values(original_folder):
    processor = OmniVinciProcessor.from_pretrained(original_folder)
    assert ORIGINAL_OPTIONS == {"align_audio_start": False, "video_audio_downmix": "sum", "chunk_length": 30}
    assert processor.feature_extractor.chunk_length == 30
    assert (processor.align_audio_start, processor.video_audio_downmix) == (False, "sum")


def test_page_of_the_options_is_up_to_date():
    script = runpy.run_path(str(ROOT / "docs" / "write_options.py"))
    assert sum(len(groups) for groups in script["SECTIONS"].values()) == len(get_args(OptionGroup))
    page = (ROOT / "docs" / "source" / "en" / "options.md").read_text(encoding="utf-8")
    assert page == script["page_with_tables"](page), "run: python docs/write_options.py"
    assert all(f"| `{option.name}` |" in page for option in OPTIONS)
