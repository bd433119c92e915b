"""A request has the options of a whitelist, a server those that hold for each medium alone."""

import pytest

from omnivinci_hf.omnivinci.configuration_omnivinci import MODALITIES
from omnivinci_hf.omnivinci.media_reading_omnivinci import MediaLimits
from omnivinci_hf.omnivinci.media_sources_omnivinci import MediaSource
from omnivinci_hf.omnivinci.options_omnivinci import OPTIONS
from omnivinci_hf.serving.options import (
    REQUEST_OPTIONS,
    SERVER_OPTIONS,
    check_request_options,
    check_server_options,
    in_words_of_a_server,
    options_of_modality,
)


def test_a_request_chooses_frames_ranges_and_audio():
    options = {"num_frames": 3, "fps": 2, "start_sec": 1, "end_sec": 4.5, "load_audio_from_video": False}
    assert check_request_options(options) == options and options.keys() == set(REQUEST_OPTIONS)
    assert check_request_options(None) == check_request_options({"num_frames": None}) == {}


@pytest.mark.parametrize(
    "name",
    sorted({option.name for option in OPTIONS if option.in_call} - set(REQUEST_OPTIONS)) + ["use_audio_in_video"],
)
def test_a_request_can_have_no_other_option(name):
    with pytest.raises(ValueError, match=rf"`mm_processor_kwargs` of a request cannot have \['{name}'\]"):
        check_request_options({name: 1})


@pytest.mark.parametrize("check", [check_request_options, check_server_options])
def test_values_are_checked(check):
    with pytest.raises(ValueError, match=r"kwargs`?: `num_frames` must be at least 1, got 0"):
        check({"num_frames": 0})


def test_a_server_has_options_for_all_media():
    assert check_server_options({"num_frames": 16, "media_limits": {"max_frames": 32}}) == {
        "num_frames": 16,
        "media_limits": {"max_frames": 32},
    }


@pytest.mark.parametrize(
    ("name", "value", "reason"),
    [
        ("frame_times", [1.0], "it says which frames of one certain video are taken"),
        ("video_metadata", {"fps": 3}, "it describes one certain medium"),
        ("allow_urls", True, "vLLM fetches media itself: see --allowed-media-domains"),
        ("padding", True, "vLLM tokenizes and pads prompts itself"),
        ("return_tensors", "pt", "it changes what the processor returns"),
    ],
)
def test_a_server_cannot_have_what_does_not_hold_for_each_medium(name, value, reason):
    with pytest.raises(ValueError, match=rf"--mm-processor-kwargs: a server cannot have the option `{name}`: {reason}"):
        check_server_options({name: value})


def test_every_option_of_a_call_is_a_servers_or_is_refused_with_a_reason():
    for option in OPTIONS:
        if option.in_call and option.name not in SERVER_OPTIONS:
            with pytest.raises(ValueError, match="a server cannot have"):
                check_server_options({option.name: 1})


def test_an_unknown_option_names_the_nearest():
    with pytest.raises(ValueError, match=r"num_frmes.*did you mean num_frames"):
        check_server_options({"num_frmes": 3})


@pytest.mark.parametrize("name", SERVER_OPTIONS)
def test_every_option_concerns_a_modality(name):
    assert any(options_of_modality(modality, {name: 1}, {}) for modality in MODALITIES)


def test_media_have_the_options_that_concern_them():
    server, request = {"num_frames": 8, "resize_backend": "torch"}, {"start_sec": 1.0}
    assert options_of_modality("video", server, request) == {
        "num_frames": 8,
        "resize_backend": "torch",
        "start_sec": 1.0,
    }
    assert options_of_modality("image", server, request) == {"resize_backend": "torch"}
    assert options_of_modality("audio", server, request) == {"start_sec": 1.0}


def test_a_request_chooses_frames_alone():
    assert options_of_modality("video", {"num_frames": 8}, {"fps": 2.0}) == {"fps": 2.0}
    assert options_of_modality("video", {"fps": 2.0}, {"num_frames": 8}) == {"num_frames": 8}


def test_errors_say_where_a_server_has_an_option():
    assert in_words_of_a_server("plain") == "plain"
    too_large = MediaLimits(max_pixels=2)
    with pytest.raises(ValueError) as caught:
        too_large.check("image 'x'", "max_pixels", 3, "pixels")
    assert in_words_of_a_server(str(caught.value)) == (
        "image 'x' has 3 pixels, above the limit max_pixels=2; make it smaller. (The server can raise its "
        "`media_limits`, by --mm-processor-kwargs.)"
    )
    damaged = MediaSource.of("image", b"x")
    with pytest.raises(ValueError) as caught:
        damaged.report("is cut short")
    assert in_words_of_a_server(str(caught.value)).endswith(
        "; send a complete copy. (The server can keep what is whole: `on_damage`, by --mm-processor-kwargs.)"
    )
