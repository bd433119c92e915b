"""Media are taken as vLLM has them, identified by all that the model reads of them, and fetched as bytes."""

import asyncio
import contextlib
import http.server
import os
import threading
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from omnivinci_hf.omnivinci.conversation_omnivinci import MediaPart
from tests.support.optional import needed


needed("vllm")

from vllm.multimodal.hasher import MultiModalHasher  # noqa: E402
from vllm.multimodal.media import MEDIA_CONNECTOR_REGISTRY, MediaWithBytes  # noqa: E402

from omnivinci_hf.omnivinci.media_reading_omnivinci import MediaError, ReadOptions  # noqa: E402
from omnivinci_hf.serving.connector import OmniVinciConnector  # noqa: E402
from omnivinci_hf.serving.media import identity, list_media, parse_media  # noqa: E402
from omnivinci_hf.serving.plugin import MODE  # noqa: E402
from omnivinci_hf.serving.renderer import (  # noqa: E402
    MEDIA_TYPES,
    TEXT_TYPES,
    check_connector,
    check_fetched,
    clean_message,
)
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
    assert key(copy) == key(str(IMAGE)) != key(VIDEO)


def test_a_file_that_cannot_be_read_is_an_error(tmp_path, monkeypatch):
    def refused(*arguments):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("builtins.open", refused)
    with pytest.raises(MediaError, match=r"image.png' cannot be read \(Permission denied\)"):
        identity(IMAGE)


@pytest.mark.parametrize("path", ["a" * 5000, "a\0b", "missing.png"])
def test_a_path_that_is_no_file_is_left_to_the_processor(path):
    assert identity(path) == path


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
    assert connector.fetch_image((allowed / "a.png").as_uri()) == b"inside"
    for name in ("../b.png", "link.png"):
        with pytest.raises(MediaError, match="does not lie below the folder"):
            connector.fetch_image(f"file://{allowed}/{name}")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("a" * 300, "cannot be read; check the path"),
        ("%00", "cannot be read; check the path"),
        ("\ud800", "cannot be read; check the path"),
        ("missing.png", "cannot be read; check the path"),
        ("folder", "is a directory"),
        ("pipe", "is not a regular file"),
    ],
)
def test_files_that_cannot_be_read_are_errors_without_the_place_they_lead_to(tmp_path, name, message):
    real = tmp_path / "real"
    (real / "folder").mkdir(parents=True)
    os.mkfifo(real / "pipe")
    (tmp_path / "link").symlink_to(real)
    connector = OmniVinciConnector(allowed_local_media_path=str(tmp_path / "link"))
    with pytest.raises(MediaError, match=message) as caught:
        connector.fetch_image(f"file://{tmp_path}/link/{name}")
    assert str(real) not in str(caught.value)


@pytest.fixture
def limits_of_a_server(monkeypatch):
    reading = ReadOptions(media_limits={"max_memory_bytes": 100}, timeout_sec=0.2)
    monkeypatch.setattr(OmniVinciConnector, "reading", reading)


@pytest.fixture
def slow_host():
    """A host that sends 200 bytes, or one and then nothing."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(302 if self.path == "/moved" else 200)
            self.send_header("Location", "/long")
            self.end_headers()
            with contextlib.suppress(OSError):
                self.wfile.write(bytes(200) if self.path == "/long" else b"x")
                self.wfile.flush()
                over.wait(20 if self.path == "/slow" else 0)

        def log_message(self, *arguments):
            pass

    over = threading.Event()
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    over.set()
    server.shutdown()
    server.server_close()


@pytest.mark.usefixtures("limits_of_a_server")
def test_the_limits_of_the_server_hold_where_media_are_fetched(tmp_path, slow_host):
    (tmp_path / "long.png").write_bytes(bytes(200))
    connector = OmniVinciConnector(allowed_local_media_path=str(tmp_path), allowed_media_domains=["127.0.0.1"])
    raise_it = r"limit max_memory_bytes=100; make it smaller. \(The server can raise its `media_limits`"
    for url in (data_url(IMAGE), (tmp_path / "long.png").as_uri(), f"{slow_host}/long"):
        with pytest.raises(MediaError, match=raise_it):
            connector.fetch_image(url)
    too_slow = r"in 0.2 s; send it as a data: URL. \(The server can raise `timeout_sec`|cannot be fetched \(timed out\)"
    with pytest.raises(MediaError, match=too_slow):
        connector.fetch_image(f"{slow_host}/slow")
    with pytest.raises(MediaError, match=r"redirects to '.*/long'; give that address\.$"):
        connector.fetch_image(f"{slow_host}/moved")


@pytest.mark.parametrize("host", ["localhost:9", "nobody.invalid", "a..b"])
def test_a_client_is_not_told_which_hosts_have_an_address(host):
    with pytest.raises(MediaError, match=r"x.png' is at no public address; send it as a data: URL") as caught:
        OmniVinciConnector().fetch_image(f"http://{host}/x.png")
    text = str(caught.value)
    assert "127.0.0.1" not in text and "allow_private_addresses" not in text and "Errno" not in text


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("http:/etc/passwd", "is no URL: write it as https://<host>/<path>"),
        ("https:x", "is no URL: write it as"),
        ("http://[::1", "is no URL"),
        ("/etc/passwd", "is no URL that a server reads"),
        (5, "The URL of image must be a string, got a int"),
    ],
)
def test_what_is_no_url_is_refused(url, message):
    with pytest.raises(MediaError, match=message):
        OmniVinciConnector().fetch_image(url)


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


PATH = str(IMAGE)


@pytest.mark.parametrize(
    ("part", "message"),
    [
        ({"type": "image_pil", "image_pil": PATH}, "has the type 'image_pil'; known are text, image_url, video_url"),
        ({"type": "image_pil", "image_pil": {"path": PATH}}, "has the type 'image_pil'"),
        ({"type": "image_pil", "image_pil": PATH, "uuid": "1"}, "has the type 'image_pil'"),
        ({"image_pil": PATH}, "has the type None"),
        (
            {"type": "image_url", "image_url": {"url": "u"}, "image_pil": PATH, "uuid": "1"},
            r"cannot have \['image_pil'",
        ),
        ({"type": "video_url", "video_url": "u", "image_url": PATH, "uuid": "1"}, r"cannot have \['image_url'"),
        ({"type": "text", "text": "x", "image_pil": PATH}, r"cannot have \['image_pil'"),
        ({"type": "text", "text": "x", "image_pil": PATH, "uuid": "1"}, r"cannot have \['image_pil', 'uuid'"),
        ({"type": "image", "image": PATH}, "has the type 'image'"),
        ({"type": "video", "path": PATH}, "has the type 'video'"),
        ({"type": "image_url", "image_url": {"path": PATH}}, r"cannot have \['path'"),
        ({"type": "image_url", "image_url": {"url": {"path": PATH}}}, "`url` of .* must be a string, got a dictionary"),
        ({"type": "image_url", "image_url": 5, "uuid": "1"}, "`url` of .* must be a string, got 5"),
        ({"type": "image_url", "image_url": {"url": ""}}, "is empty: give its `url`, or a `uuid`"),
        ({"type": "image_url", "image_url": None}, "is empty: give its `url`"),
        ({"type": "input_audio", "input_audio": {"format": "wav"}}, "is empty: give its `data`"),
        ({"type": "text", "text": ["<image>"]}, "`text` of a content part of type 'text' must be a string"),
        ({"type": ["text"], "text": "x"}, "has the type a list"),
        (5, "A content part must be a string or a dictionary, got 5"),
        *(
            ({"type": name, name: "AAAA"}, f"has the type '{name}'")
            for name in ("image_embeds", "audio_embeds", "video_embeds", "prompt_embeds", "tool_reference", "file")
        ),
    ],
)
def test_parts_that_are_not_known_are_refused(part, message):
    with pytest.raises(ValueError, match=message):
        clean_message({"role": "user", "content": [part]})


def test_all_part_types_of_vllm_are_known_or_refused():
    from vllm.renderers.chat_utils import MM_PARSER_MAP

    for part_type in MM_PARSER_MAP.keys() - TEXT_TYPES.keys() - MEDIA_TYPES.keys():
        with pytest.raises(ValueError, match=f"has the type '{part_type}'"):
            clean_message({"role": "user", "content": [{"type": part_type, part_type: PATH}]})


def test_keys_without_a_value_say_nothing():
    """vLLM would take the first of them for the medium of a part with a `uuid`."""
    part = {"type": "video_url", "video_url": "u", "uuid": "1"}
    written = {"image_url": None, "text": None, **part, "num_frames": None}
    assert clean_message({"role": "user", "content": [written]})["content"] == [part]


def test_images_in_memory_pass():
    part = {"type": "image_pil", "image_pil": PICTURE}
    assert clean_message({"role": "user", "content": [part]})["content"] == [part]


@pytest.mark.parametrize("medium", [PATH, {"path": PATH}, [PATH]])
def test_what_a_client_wrote_is_not_taken_as_a_path(medium):
    with pytest.raises(ValueError, match="The image of a chat must be fetched by its URL"):
        check_fetched({"image": [None, b"bytes", medium]})


def test_media_are_fetched_by_the_connector_of_this_package(monkeypatch):
    messages = [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": data_url(IMAGE)}}]}]
    monkeypatch.setenv("VLLM_MEDIA_CONNECTOR", MODE)
    check_connector(messages)
    monkeypatch.setenv("VLLM_MEDIA_CONNECTOR", "http")
    check_connector([{"role": "user", "content": "words"}])
    with pytest.raises(ValueError, match="need the environment variable VLLM_MEDIA_CONNECTOR=omnivinci, got 'http'"):
        check_connector(messages)


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
        {"type": "input_image", "image_url": "u", "detail": "auto"},
        {"type": "output_text", "text": "x", "annotations": []},
        {"video_url": "u"},
    ]
    assert clean_message({"role": "user", "content": parts})["content"] == parts
