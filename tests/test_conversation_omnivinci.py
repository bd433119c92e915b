import pytest

from omnivinci_hf import conversation_omnivinci
from omnivinci_hf.conversation_omnivinci import collect_media


def collect(*content):
    media = {"image": [], "video": [], "audio": []}
    collect_media({"role": "user", "content": list(content)}, media)
    return media


@pytest.mark.parametrize(
    "message, expected",
    [
        ("Hi?", "must be a dictionary with `role` and `content`, got a str"),
        ({"content": "Hi?"}, r"with `role` and `content`, got one with the keys \['content'\]"),
        ({"role": "user", "content": 3}, "must be a string or a list of parts, got a int"),
        ({"role": "user", "content": {"type": "text", "text": "Hi?"}}, "or a list of parts, got a dict"),
        ({"role": "user", "content": ["Hi?"]}, "must be a dictionary, got a str; words are `{'type': 'text'"),
        ({"role": "user", "content": [{"type": "text", "text": 3}]}, "`text` of a part must be a string, got a int"),
        ({"role": "user", "content": [{"text": "Hi?"}]}, "Unknown content type None"),
        ({"role": "user", "content": [{"type": "image_url"}]}, "'image' has no medium"),
        ({"role": "user", "content": [{"type": "video_url", "video_url": {}}]}, "'video' has no medium"),
    ],
)
def test_messages_that_make_no_sense_are_refused(message, expected):
    with pytest.raises(ValueError, match=expected):
        collect_media(message, {"image": [], "video": [], "audio": []})


def test_options_that_a_part_does_not_have_are_warned_of(monkeypatch):
    warnings = []
    monkeypatch.setattr(conversation_omnivinci.logger, "warning_once", warnings.append)
    # data sets fill up what other parts have with None
    row = {"type": "video", "video": "a.mp4", "num_frames": 4, "image": None, "text": None, "score": None}
    assert len(collect(row, {"type": "audio", "audio": "b.wav", "sampling_rate": 8000})["video"]) == 1
    assert not warnings
    collect({**row, "num_frmes": 4}, {"type": "image", "image": "c.png", "start_sec": 1})
    assert warnings == [
        f"Parts of type {kind!r} have no option ['{name}']: this is ignored."
        for kind, name in (("video", "num_frmes"), ("image", "start_sec"))
    ]
