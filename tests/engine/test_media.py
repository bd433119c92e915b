"""Media are cut into segments, and their picture and audio put into messages in several forms."""

import base64
import io

import av
import numpy as np
import pytest
from PIL import Image

from omnivinci_hf.engine.config import SegmentOptions
from omnivinci_hf.engine.media import cut, file_digest, message_parts, probe, scene_cuts
from omnivinci_hf.engine.requests import Medium, Request
from tests.support.world_scenes import write_plain_clip


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    return write_plain_clip(tmp_path_factory.mktemp("media") / "clip.mp4", duration=4)


@pytest.mark.parametrize(
    ("duration", "cuts", "segments"),
    [
        (15, [], [(0, 15)]),
        (45, [], [(0, 20), (20, 40), (40, 45)]),
        (41, [], [(0, 20), (20, 41)]),  # the rest is too short to stand alone
        (30, [5, 6, 25.5], [(0, 5), (5, 25.5), (25.5, 30)]),
        (10, [9.5], [(0, 10)]),
    ],
)
def test_segments_end_at_cuts_or_at_the_longest_length(duration, cuts, segments):
    assert cut(duration, cuts, SegmentOptions()) == segments


def test_a_clip_is_probed(clip, tmp_path):
    found = probe(clip)
    assert found.has_video and found.has_audio and found.duration_sec == pytest.approx(4, abs=0.1)
    (tmp_path / "no.mp4").write_bytes(b"no video")
    with pytest.raises(ValueError, match="no.mp4 cannot be read"):
        probe(tmp_path / "no.mp4")
    Image.new("RGB", (8, 8)).save(tmp_path / "picture.png")
    with pytest.raises(ValueError, match="is no video or audio with a known length"):
        probe(tmp_path / "picture.png")


def test_a_cut_of_scenes_is_found(tmp_path):
    with av.open(str(tmp_path / "two.mp4"), "w") as container:
        stream = container.add_stream("mpeg4", rate=10)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        for number in range(30):
            level = 40 + number if number < 18 else 200 - number
            picture = np.full((48, 64, 3), level, dtype=np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode())
    assert scene_cuts(tmp_path / "two.mp4", 25.0) == pytest.approx([1.8])


def test_a_digest_is_of_the_content(clip, tmp_path):
    copy = tmp_path / "copy.mp4"
    copy.write_bytes(clip.read_bytes())
    assert file_digest(copy) == file_digest(clip)
    copy.write_bytes(clip.read_bytes() + b"x")
    assert file_digest(copy) != file_digest(clip)


def medium(clip, modality):
    return Medium(str(clip), modality, 1.0, 3.0, "digest")


def test_frames_are_jpeg_files_with_their_seconds(clip):
    parts = message_parts(medium(clip, "video"), "image_url", "input_audio", 2)
    assert [part["type"] for part in parts] == ["text", "image_url", "text", "image_url"]
    assert parts[0]["text"] == "Frame at 0.0 s:"
    head, _, data = parts[1]["image_url"]["url"].partition(",")
    assert head == "data:image/jpeg;base64"
    assert Image.open(io.BytesIO(base64.b64decode(data))).size == (128, 96)


def test_a_video_is_a_file_of_the_frames_without_audio(clip):
    (part,) = message_parts(medium(clip, "video"), "video_url", "input_audio", 4)
    head, _, data = part["video_url"]["url"].partition(",")
    assert part["type"] == "video_url" and head == "data:video/mp4;base64"
    with av.open(io.BytesIO(base64.b64decode(data))) as container:
        assert not container.streams.audio
        times = [frame.time for frame in container.decode(video=0)]
    assert len(times) == 4 and times[0] == 0 and times[-1] == pytest.approx(2, abs=0.3)


def test_audio_is_a_wav_file_of_the_segment_in_either_form(clip):
    (part,) = message_parts(medium(clip, "audio"), "image_url", "input_audio", 2)
    (other,) = message_parts(medium(clip, "audio"), "image_url", "audio_url", 2)
    data = part["input_audio"]["data"]
    assert part["input_audio"]["format"] == "wav"
    assert other == {"type": "audio_url", "audio_url": {"url": f"data:audio/wav;base64,{data}"}}
    with av.open(io.BytesIO(base64.b64decode(data))) as container:
        assert float(container.streams.audio[0].duration * container.streams.audio[0].time_base) == pytest.approx(2)


def test_a_request_is_known_by_its_content_and_not_by_the_place_of_the_file(clip):
    one, other = (Request("vision", "Look.", Medium(path, "video", 0, 2, "d")) for path in ("a.mp4", "b.mp4"))
    assert one.key({"model": "m"}, 0) == other.key({"model": "m"}, 0)
    keys = {one.key({"model": model}, attempt) for model in "mn" for attempt in (0, 1)}
    assert len(keys) == 4
