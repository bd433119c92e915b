"""One medium is encoded alone as it is in a call with others."""

import numpy as np
import pytest
import torch
from PIL import Image

from omnivinci_hf import MediaError, OmniVinciProcessor
from omnivinci_hf.omnivinci.conversation_omnivinci import MediaPart
from omnivinci_hf.omnivinci.processing_omnivinci import EncodedMedium, _join_and_release, join_media
from tests.support import goldens


IMAGE = str(goldens.SMALL / "b_image" / "image.png")
IMAGE_2 = str(goldens.SMALL / "c_two_images" / "image2.png")
AUDIO = str(goldens.SMALL / "d_audio3" / "audio.wav")
VIDEO = str(goldens.SMALL / "h_video5" / "video.mp4")
SILENT = str(goldens.SMALL / "g_video5_silent" / "video.mp4")
CLIP = np.random.default_rng(0).integers(0, 256, (12, 40, 30, 3), dtype=np.uint8)
# prompt, media by the argument of a call, media in the order of the prompt, options
CASES = [
    ("<image>What?", {"images": IMAGE}, [("image", IMAGE)], {}),
    ("<image>What?", {"images": IMAGE}, [("image", IMAGE)], {"resize_backend": "torch"}),
    ("<image> or <image>", {"images": [IMAGE, IMAGE_2]}, [("image", IMAGE), ("image", IMAGE_2)], {}),
    ("<vila/video>", {"videos": [VIDEO]}, [("video", VIDEO)], {}),
    ("a<vila/video>b", {"videos": [VIDEO]}, [("video", VIDEO)], {"group_duration_sec": None}),
    ("<vila/video>", {"videos": [CLIP]}, [("video", CLIP)], {"video_metadata": {"fps": 4}, "num_frames": 5}),
    (
        "<sound>, <vila/video> and <vila/video>, <vila/video>, <sound>",
        {"videos": [SILENT, VIDEO, VIDEO], "audio": [AUDIO, VIDEO]},
        [("audio", AUDIO), ("video", SILENT), ("video", VIDEO), ("video", VIDEO), ("audio", VIDEO)],
        {"num_frames": 4, "start_sec": 1.0},
    ),
    (
        "<vila/video><image><vila/video>",
        {"videos": [VIDEO, SILENT], "images": IMAGE},
        [("video", VIDEO), ("image", IMAGE), ("video", SILENT)],
        {"still_threshold": 6.0, "group_duration_sec": 2.0},
    ),
]


def words_between(processor, prompt):
    """The ids of the words before, between and after the media."""
    (ids,) = processor.tokenizer([prompt])["input_ids"]
    pieces = [[]]
    for token_id in ids:
        if token_id in (processor.image_token_id, processor.video_token_id, processor.audio_token_id):
            pieces.append([])
        else:
            pieces[-1].append(token_id)
    return pieces


@pytest.mark.parametrize(("prompt", "given", "media", "options"), CASES)
def test_media_encoded_alone_make_the_same_call(processor, prompt, given, media, options):
    expected = processor(text=prompt, return_tensors="pt", **given, **options)
    of_images = {"tile": prompt.count("<image>") == 1}
    encoded = [
        processor.encode_medium(modality, source, **(of_images if modality == "image" else {}), **options)
        for modality, source in media
    ]
    first, *rest = words_between(processor, prompt)
    ids = [first, *(piece for medium, words in zip(encoded, rest, strict=True) for piece in (medium.input_ids, words))]
    assert (
        torch.cat([torch.as_tensor(piece, dtype=torch.long) for piece in ids]).tolist()
        == expected["input_ids"][0].tolist()
    )
    joined = join_media(encoded)
    assert joined.keys() == expected.keys() - {"input_ids", "attention_mask"}
    for name, values in joined.items():
        assert values.dtype == expected[name].dtype and torch.equal(values, expected[name]), name


def test_an_encoded_medium_says_what_it_is(processor):
    video = processor.encode_medium("video", VIDEO, num_frames=4)
    assert isinstance(video, EncodedMedium) and video.modality == "video"
    size = processor.video_processor.size
    shapes = {name: tuple(values.shape) for name, values in video.tensors.items()}
    assert shapes == {
        "pixel_values_videos": (4, 3, size, size),
        "video_num_frames": (1,),
        "video_frame_times_ns": (4,),
        "video_has_audio": (1,),
        "input_features": (1, 128, 3000),
        "audio_num_windows": (1,),
        "audio_durations_ns": (1,),
        "audio_num_embeds": (1,),
        "audio_from_video": (1,),
    }
    assert video.input_ids.dtype == torch.long and video.input_ids.ndim == 1
    assert int((video.input_ids == processor.video_token_id).sum()) == video.layout.num_embeds == 4 * 16


def test_an_image_is_tiled_unless_told_otherwise(processor):
    tiled, plain = (processor.encode_medium("image", IMAGE, tile=tile) for tile in (True, False))
    assert len(tiled.tensors["pixel_values"]) > len(plain.tensors["pixel_values"]) == 1
    assert min(tiled.layout.grid) > 0 and plain.layout.grid == (0, 0)


def test_a_medium_may_be_a_part_with_options_of_its_own(processor):
    part = MediaPart("video", VIDEO, {"num_frames": 3, "load_audio_from_video": False})
    video = processor.encode_medium("video", part, num_frames=7)
    assert video.tensors["video_num_frames"].tolist() == [3] and "input_features" not in video.tensors


def test_modality_boundary_tokens_are_those_of_a_prompt(original_folder):
    changed = OmniVinciProcessor.from_pretrained(original_folder, use_modality_boundary_tokens=True)
    plain = OmniVinciProcessor.from_pretrained(original_folder)
    assert torch.equal(changed.encode_medium("video", VIDEO).input_ids, plain.encode_medium("video", VIDEO).input_ids)


@pytest.mark.parametrize("modality", ["image", "video"])
@pytest.mark.parametrize("num_media", [1, 2])
def test_joined_media_stay_as_they_are(processor, modality, num_media):
    source = IMAGE if modality == "image" else VIDEO
    media = [processor.encode_medium(modality, source) for _ in range(num_media)]
    before = [{name: values.clone() for name, values in medium.tensors.items()} for medium in media]
    kept = [dict(medium.tensors) for medium in media]
    for values in join_media(media).values():
        values.zero_()
    for medium, copies, tensors in zip(media, before, kept, strict=True):
        assert medium.tensors.keys() == copies.keys()
        for name, values in medium.tensors.items():
            assert values is tensors[name] and torch.equal(values, copies[name]), name
            assert values.untyped_storage().nbytes() == values.numel() * values.element_size()  # no batch is pinned


def test_a_call_holds_no_tensor_twice(processor):
    image = Image.new("RGB", (60, 60), "red")
    first, second = (processor.encode_medium("image", image, tile=False) for _ in range(2))
    kept = second.tensors["pixel_values"]
    joined = _join_and_release([first, second])
    assert joined["pixel_values"].shape[0] == 2 and torch.equal(kept[0], joined["pixel_values"][1])
    joined["pixel_values"][1] = 7
    assert (kept == 7).all()  # the same memory


@pytest.mark.parametrize(
    ("modality", "source", "options", "error", "message"),
    [
        ("sound", AUDIO, {}, ValueError, "`modality` must be one of image, video, audio, got 'sound'"),
        ("audio", AUDIO, {"padding": True}, TypeError, r"\['padding'\] are options of a prompt"),
        ("audio", AUDIO, {"text_kwargs": {"padding": True}}, TypeError, r"\['padding'\] are options of a prompt"),
        ("audio", MediaPart("video", VIDEO), {}, ValueError, "is 'audio', but the part is of modality 'video'"),
        ("image", MediaPart("audio", AUDIO), {}, ValueError, "is 'image', but the part is of modality 'audio'"),
        (
            "video",
            MediaPart("video", VIDEO, {"nun_frames": 3}),
            {},
            ValueError,
            r"of type 'video' has no option \['nun_frames'\] \(did you mean num_frames\?\)",
        ),
        ("image", MediaPart("image", IMAGE, {"fps": 3}), {}, ValueError, r"of type 'image' has no option \['fps'\]"),
        ("video", MediaPart("video", VIDEO, {"num_frames": 0}), {}, ValueError, "`num_frames` must be at least 1"),
        (
            "audio",
            MediaPart("audio", {"array": [0.5], "sampling_rate": 8000}, {"sampling_rate": 16000}),
            {},
            ValueError,
            "`sampling_rate`=16000 beside samples at 8000",
        ),
        ("video", VIDEO, {"tile": True}, TypeError, "`tile`=True is an option of images, but `modality` is 'video'"),
        ("audio", AUDIO, {"tile": False}, TypeError, "`tile`=False is an option of images, but `modality` is 'audio'"),
        ("image", IMAGE, {"tile": "no"}, ValueError, "`tile` must be True, False or None, got 'no'"),
        ("audio", AUDIO, {"return_tensors": "pt"}, TypeError, r"\['return_tensors'\] are options of a prompt"),
        ("video", VIDEO, {"num_frmes": 3}, TypeError, r"\['num_frmes'\] \(did you mean num_frames\?\)"),
        ("video", VIDEO, {"num_frames": 0}, ValueError, "`num_frames` must be at least 1, got 0"),
        ("image", "missing.png", {}, MediaError, "missing.png"),
    ],
)
def test_what_cannot_be_encoded_is_refused(processor, modality, source, options, error, message):
    with pytest.raises(error, match=message):
        processor.encode_medium(modality, source, **options)


def test_a_call_checks_the_parts_that_it_is_given(processor):
    with pytest.raises(ValueError, match=r"has no option \['nun_frames'\]"):
        processor(text="<vila/video>", videos=MediaPart("video", VIDEO, {"nun_frames": 3}))
    with pytest.raises(ValueError, match="is 'image', but the part is of modality 'video'"):
        processor(text="<image>", images=[MediaPart("video", VIDEO)])
