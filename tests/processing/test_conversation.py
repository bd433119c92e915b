import pytest

from omnivinci_hf.omnivinci.conversation_omnivinci import clean_words, collect_media


@pytest.mark.parametrize(
    "message, expected",
    [
        ("Hi?", "must be a dictionary with `role` and `content`, got a str"),
        ({"content": "Hi?"}, r"with `role` and `content`, got one with the keys \['content'\]"),
        ({"role": "user", "content": 3}, "must be a string or a list of parts, got a int"),
        ({"role": "user", "content": {"type": "text", "text": "Hi?"}}, "or a list of parts, got a dict"),
        ({"role": "user", "content": ["Hi?"]}, 'must be a dictionary such as {"type": "text", .* got \'Hi\\?\''),
        ({"role": "user", "content": [{"type": "text", "text": 3}]}, "`text` must be a string, got 3"),
        ({"role": "user", "content": [{"text": "Hi?"}]}, "has the type None; known are text, image"),
        ({"role": "user", "content": [{"type": "image_url"}]}, "'image' has no medium"),
        ({"role": "user", "content": [{"type": "video_url", "video_url": {}}]}, "'video' has no medium"),
    ],
)
def test_messages_that_make_no_sense_are_refused(message, expected):
    with pytest.raises(ValueError, match=expected):
        collect_media(message, {"image": [], "video": [], "audio": []})


@pytest.mark.parametrize(
    ("words", "cleaned"),
    [
        ("<im<image>age> and <vila/vid<sound>eo>", " and "),
        ("a > b, <sou<image>nd", "a > b, <sound"),
        ("<sou" * 100_000 + "nd>" * 100_000, ""),  # removing over and over would take hours
    ],
)
def test_no_placeholder_is_left_in_words(words, cleaned):
    assert clean_words(words) == cleaned
