"""Media are taken as vLLM has them, identified by all that the model reads of them, and fetched as bytes."""

import asyncio
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from omnivinci_hf.omnivinci.conversation_omnivinci import MediaPart


pytest.importorskip("vllm", reason="needs vLLM, which `make test-vllm` installs")

from vllm.multimodal.hasher import MultiModalHasher  # noqa: E402
from vllm.multimodal.media import MEDIA_CONNECTOR_REGISTRY, MediaWithBytes  # noqa: E402

from omnivinci_hf.serving.connector import OmniVinciConnector  # noqa: E402
from omnivinci_hf.serving.media import identity, list_media, parse_media  # noqa: E402
from omnivinci_hf.serving.renderer import clean_message  # noqa: E402
from tests.support.vllm_engine import IMAGE, VIDEO, data_url  # noqa: E402


FRAMES = np.zeros((3, 8, 8, 3), dtype=np.uint8)
PICTURE = Image.new("RGB", (4, 4), "red")


def key(source):
    return MultiModalHasher.hash_kwargs("sha256", medium=identity(source))


@pytest.mark.parametrize(
    ("modality", "data", "count"),
    [
        ("image", PICTURE, 1),
        ("image", [PICTURE, None, b"bytes"], 3),
        ("image", MediaWithBytes(PICTURE, b"bytes"), 1),
        ("video", FRAMES, 1),
        ("video", [FRAMES, FRAMES], 2),
        ("video", [PICTURE, PICTURE], 1),  # frames
        ("video", (FRAMES, {"fps": 2.0}), 1),
        ("video", [(FRAMES, {"fps": 2.0})], 1),
        ("video", Path("clip.mp4"), 1),
        ("audio", (np.zeros(9), 8000), 1),
        ("audio", [(np.zeros(9), 8000), b"bytes"], 2),
        ("audio", [0.0, 0.5], 1),  # samples
        ("audio", [], 0),
    ],
)
def test_one_medium_and_many_are_told_apart(modality, data, count):
    assert len(list_media(modality, data)) == count


def test_frames_with_metadata_keep_them():
    (part,) = list_media("video", (FRAMES, {"fps": 2.0}))
    assert part.options == {"video_metadata": {"fps": 2.0}} and part.source is FRAMES


def test_a_single_image_is_cut_into_tiles():
    assert [medium.tile for medium in parse_media("image", [PICTURE]).data] == [True]
    assert [medium.tile for medium in parse_media("image", [PICTURE, None]).data] == [False, False]
    assert [medium.tile for medium in parse_media("video", [b"clip"]).data] == [None]


def test_a_medium_known_by_its_uuid_alone_has_no_data():
    items = parse_media("image", [None])
    assert items.get(0) is None and items.get_item_for_hash(0) is None and len(items) == 1
    assert parse_media("image", None) is None


def test_media_that_were_parsed_stay_what_they_were():
    (one, other) = parse_media("image", [PICTURE, PICTURE]).data
    assert parse_media("image", [other]).data == [other] and not other.tile and one is not other


def test_a_file_is_identified_by_its_bytes(tmp_path):
    copy = tmp_path / "copy.png"
    copy.write_bytes(IMAGE.read_bytes())
    assert key(copy) == key(str(IMAGE)) == key(IMAGE.read_bytes()) != key(VIDEO)


def test_frames_with_other_audio_or_times_are_another_medium():
    samples = np.zeros(100, dtype=np.float32)
    options = [
        {"video_metadata": {"fps": 2.0}},
        {"video_metadata": {"fps": 3.0}},
        {"video_metadata": {"fps": 2.0}, "audio": samples, "sampling_rate": 8000},
        {"video_metadata": {"fps": 2.0}, "audio": samples + 1, "sampling_rate": 8000},
        {"video_metadata": {"fps": 2.0}, "audio": samples, "sampling_rate": 9000},
    ]
    assert len({key(MediaPart("video", FRAMES, one)) for one in options}) == len(options)
    assert key(MediaPart("video", FRAMES.copy(), dict(options[2]))) == key(MediaPart("video", FRAMES, options[2]))


def test_sources_of_all_kinds_are_identified():
    grey = Image.new("P", (4, 4))
    turned = PICTURE.copy()
    turned.getexif()[0x0112] = 6
    sources = [
        PICTURE,
        grey,
        turned,
        PICTURE.resize((2, 8)),
        FRAMES,
        torch.zeros(2),
        b"a",
        bytearray(b"b"),
        [PICTURE] * 2,
    ]
    sources += [(np.zeros(2), 8000), {"array": np.zeros(2), "sampling_rate": 9000}, "data:,x", "missing.png"]
    assert len({key(source) for source in sources}) == len(sources)


def test_what_cannot_be_identified_is_refused():
    with pytest.raises(TypeError, match="A object cannot be served"):
        identity(object())


# -- The connector


def test_the_connector_is_registered():
    assert isinstance(MEDIA_CONNECTOR_REGISTRY.load("omnivinci"), OmniVinciConnector)


@pytest.mark.parametrize("modality", ["image", "video", "audio"])
def test_the_connector_leaves_decoding_to_the_processor(modality):
    connector = OmniVinciConnector()
    url = data_url(IMAGE)
    assert getattr(connector, f"fetch_{modality}")(url) == IMAGE.read_bytes()
    assert asyncio.run(getattr(connector, f"fetch_{modality}_async")(url)) == IMAGE.read_bytes()


def test_files_are_read_below_the_allowed_folder_alone(tmp_path):
    allowed = tmp_path / "allowed"
    allowed.mkdir()
    (allowed / "a.png").write_bytes(b"inside")
    (tmp_path / "b.png").write_bytes(b"outside")
    (allowed / "link.png").symlink_to(tmp_path / "b.png")
    connector = OmniVinciConnector(allowed_local_media_path=str(allowed))
    assert connector.fetch_image((allowed / "a.png").as_uri()).read_bytes() == b"inside"
    for name in ("../b.png", "link.png"):
        with pytest.raises(ValueError, match="does not lie below the folder"):
            connector.fetch_image(f"file://{allowed}/{name}")


def test_hosts_that_are_not_allowed_are_refused():
    connector = OmniVinciConnector(allowed_media_domains=["example.org"])
    with pytest.raises(ValueError, match="this server fetches from example.org alone"):
        connector.fetch_image("http://127.0.0.1/x.png")


def test_io_options_are_refused():
    connector = OmniVinciConnector(media_io_kwargs={"video": {"num_frames": 3}})
    with pytest.raises(ValueError, match="`media_io_kwargs` say how vLLM decodes media"):
        connector.fetch_video(data_url(VIDEO))


# -- Messages


def test_placeholders_are_removed_from_words_wherever_they_stand():
    content = ["a<image>b", {"type": "text", "text": "<so<sound>und>c"}, {"type": "refusal", "refusal": "<vila/video>"}]
    assert clean_message({"role": "user", "content": content})["content"] == [
        "ab",
        {"type": "text", "text": "c"},
        {"type": "refusal", "refusal": ""},
    ]
    assert clean_message({"role": "system", "content": "<image>x"})["content"] == "x"
    assert clean_message({"role": "assistant", "content": None})["content"] is None


@pytest.mark.parametrize(
    ("part", "refused"),
    [
        ({"type": "image_url", "image_url": {"url": "u", "detail": "high"}}, "detail"),
        ({"type": "video_url", "video_url": {"url": "u", "fps": 2}}, "fps"),
        ({"type": "video_url", "video_url": {"url": "u"}, "start_sec": 2}, "start_sec"),
    ],
)
def test_options_of_parts_are_refused(part, refused):
    with pytest.raises(ValueError, match=rf"cannot have \['{refused}'\]"):
        clean_message({"role": "user", "content": [part]})


def test_parts_of_the_api_pass():
    parts = [
        {"type": "image_url", "image_url": {"url": "u", "detail": "auto"}, "uuid": "1"},
        {"type": "input_audio", "input_audio": {"data": "d", "format": "wav"}},
        {"type": "image_url", "image_url": None, "uuid": "1"},
    ]
    assert clean_message({"role": "user", "content": parts})["content"] == parts
