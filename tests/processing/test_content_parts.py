import re

import numpy as np
import pytest

from omnivinci_hf.omnivinci.conversation_omnivinci import MediaPart, parse_part


DATA = "data:application/octet-stream;base64,AAAA"


@pytest.mark.parametrize(
    ("part", "expected"),
    [
        ({"type": "text", "text": "Hi?", "image": None}, "Hi?"),
        ({"type": "image", "path": "a.png"}, MediaPart("image", "a.png")),
        ({"type": "image", "base64": "AAAA"}, MediaPart("image", DATA)),
        ({"type": "image", "image": {"bytes": b"x", "path": "a.png"}}, MediaPart("image", b"x")),
        ({"type": "image", "image": {"bytes": None, "path": "a.png"}}, MediaPart("image", "a.png")),
        ({"type": "image_url", "image_url": "a.png"}, MediaPart("image", "a.png")),
        ({"type": "image_url", "image_url": {"url": "a.png", "detail": "auto"}}, MediaPart("image", "a.png")),
        ({"type": "image_url", "url": "a.png", "image_url": None}, MediaPart("image", "a.png")),
        ({"type": "audio", "base64": "AAAA", "start_sec": 1}, MediaPart("audio", DATA, {"start_sec": 1})),
        ({"type": "audio_url", "audio_url": "a.wav", "end_sec": 2}, MediaPart("audio", "a.wav", {"end_sec": 2})),
        ({"type": "audio_url", "audio_url": {"url": "a.wav", "end_sec": 2}},
         MediaPart("audio", "a.wav", {"end_sec": 2})),
        ({"type": "input_audio", "input_audio": {"data": "AAAA", "format": "wav"}}, MediaPart("audio", DATA)),
        ({"type": "input_audio", "input_audio": {"data": DATA}, "max_audio_sec": 3},
         MediaPart("audio", DATA, {"max_audio_sec": 3})),
        ({"type": "image_url", "image_url": {"bytes": b"x", "path": "a.png"}}, MediaPart("image", b"x")),
        ({"type": "video_url", "video_url": {"bytes": b"x", "fps": 2}}, MediaPart("video", b"x", {"fps": 2})),
        ({"type": "input_audio", "input_audio": {"bytes": b"x", "end_sec": np.int64(2)}},
         MediaPart("audio", b"x", {"end_sec": 2})),
        ({"type": "input_audio", "input_audio": {"url": "a.wav", "format": "wav"}}, MediaPart("audio", "a.wav")),
        ({"type": "audio_url", "audio_url": {"array": [0.5], "sampling_rate": 8000}},
         MediaPart("audio", {"array": [0.5], "sampling_rate": 8000})),
        ({"type": "video_url", "video_url": {"url": "a.mp4", "fps": 2}, "num_frames": 8, "start_sec": None},
         MediaPart("video", "a.mp4", {"fps": 2, "num_frames": 8})),
        ({"type": "video", "video": ["a.png", {"path": "b.png"}], "metadata": {"fps": 2}},
         MediaPart("video", ["a.png", "b.png"], {"video_metadata": {"fps": 2}})),
        ({"type": "video", "path": "a.mp4", "audio": {"path": "b.wav"}, "sampling_rate": 8000},
         MediaPart("video", "a.mp4", {"audio": "b.wav", "sampling_rate": 8000})),
    ],
)  # fmt: skip
def test_parts_say_which_medium_they_hold_with_which_options(part, expected):
    assert parse_part(part) == expected
    if isinstance(expected, MediaPart):
        assert parse_part(expected.as_dict()) == expected


@pytest.mark.parametrize(
    ("part", "message"),
    [
        ("Hi?", "must be a dictionary such as .* got 'Hi\\?'"),
        ({"type": ["image"]}, "has the type a list; known are text, image"),
        ({"type": "text", "text": "Hi?", "detail": "low"}, r"of type 'text' has no option \['detail'\]"),
        ({"type": "text"}, "`text` must be a string, got None"),
        ({"type": "video", "video": "a", "num_frmes": 4}, r"\['num_frmes'\] \(did you mean num_frames\?\)"),
        ({"type": "video_url", "video_url": {"url": "a", "star_sec": 4}}, r"\(did you mean start_sec\?\)"),
        ({"type": "image", "image": "a", "start_sec": 1}, r"of type 'image' has no option \['start_sec'\]"),
        ({"type": "image_url", "image_url": {"url": "a", "detail": "low"}}, r"has no option \['detail'\]"),
        ({"type": "audio_url", "audio_url": {"url": "a", "start_sec": 1}, "start_sec": 2}, r"\['start_sec'\] twice"),
        ({"type": "image_url", "image_url": "a", "url": "b"}, r"has \['url'\] twice"),
        ({"type": "audio_url", "audio_url": {"data": "AAAA"}, "audio": "a"}, r"has \['audio'\] twice"),
        ({"type": "image", "base64": b"AAAA"}, "`data` must be a string in base64, got a bytes"),
        ({"type": "video", "video": "a", "start_sec": 4, "end_sec": 2}, "must fit 0 <= start_sec < end_sec"),
        ({"type": "audio", "audio": ([0.5], 16000), "sampling_rate": 8000}, "=8000 beside samples at 16000"),
        (
            {"type": "video", "video": "a", "audio": {"array": [0.5], "sampling_rate": 16000}, "sampling_rate": 8000},
            "=8000 beside samples at 16000",
        ),
        ({"type": "video", "video": "a", "frame_indices": [2, 1]}, "`frame_indices` must be finite, not neg"),
        ({"type": "video", "video": "a", "frame_indices": [1], "num_frames": 2}, "Give either `frame_indices`"),
        ({"type": "image", "path": "a", "url": "b"}, "holds several media, under path and url"),
        ({"type": "video", "video": "a", "metadata": {}, "video_metadata": {}}, "`metadata` beside `video_metadata`"),
        ({"type": "video", "video": "a", "sampling_rate": 8000}, "that of audio under `audio`, which this video"),
        ({"type": "video", "video": "a", "num_frames": 0}, "`num_frames` must be at least 1, got 0"),
        ({"type": "video", "video": "a", "fps": float("nan")}, "`fps` must be a finite number or None, got nan"),
        ({"type": "audio", "audio": "a", "start_sec": "1"}, "`start_sec` must be a finite number or None, got '1'"),
        ({"type": "audio", "audio": {"array": [0.0]}}, 'needs "bytes" or "path", or "array" and "sampling_rate"'),
        ({"type": "audio", "audio": {"bytes": "AAAA"}}, '"bytes" of audio in a dictionary must be bytes, got a str'),
        ({"type": "image", "image": {"bytes": None, "path": None}}, "`image`: The image in a dictionary with"),
        ({"type": "image", "image": ["a", "b"]}, "must be one image: a path, bytes or an array, got a list"),
        ({"type": "video", "video": []}, "must be one video: a path, bytes or an array, got an empty list"),
        ({"type": "input_audio", "input_audio": {"data": b"AAAA"}}, "`data` must be a string in base64, got a bytes"),
        ({"type": "input_audio"}, "of type 'audio' has no medium"),
    ],
)
def test_parts_that_cannot_be_understood_are_refused_before_anything_is_read(part, message):
    with pytest.raises(ValueError, match=message):
        parse_part(part)


def test_place_of_a_part_stands_in_its_errors():
    with pytest.raises(ValueError, match=re.escape("`rows[3]`: `image` must be one image")):
        parse_part({"type": "image", "image": 3}, "`rows[3]`")


def test_arrays_are_media_as_they_are():
    samples = np.zeros(4, np.float32)
    assert parse_part({"type": "audio", "audio": samples, "sampling_rate": 8000}).source is samples
