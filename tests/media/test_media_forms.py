import base64
import io
import wave
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from omnivinci_hf import MediaError, load_audio, load_image, load_video
from omnivinci_hf.omnivinci import media_sources_omnivinci, video_media_omnivinci
from omnivinci_hf.omnivinci.media_sources_omnivinci import flatten


RATE = 16000
SAMPLES = (8000 * np.sin(np.arange(RATE) / 7)).astype(np.int16)


@pytest.fixture(scope="module")
def audio():
    stream = io.BytesIO()
    with wave.open(stream, "wb") as file:
        file.setparams((1, 2, RATE, 0, "NONE", ""))
        file.writeframes(SAMPLES.tobytes())
    return stream.getvalue()


def png(colour="red"):
    stream = io.BytesIO()
    Image.new("RGB", (6, 4), colour).save(stream, "PNG")
    return stream.getvalue()


class FakeAudioDecoder:
    """This decoder behaves as torchcodec's AudioDecoder."""

    def __init__(self, channels=1):
        self.data = torch.from_numpy(SAMPLES / np.float32(32768)).repeat(channels, 1)

    def get_all_samples(self):
        return SimpleNamespace(data=self.data, sample_rate=RATE, pts_seconds=0.0, duration_seconds=1.0)


class FakeVideoDecoder:
    """This decoder behaves as torchcodec's VideoDecoder; its frames are as bright as their number."""

    def __init__(self, times=(1.0, 1.25, 1.5, 2.5), dimension_order="NCHW"):
        self.times, self.is_nchw = np.array(times), dimension_order == "NCHW"
        self.metadata = SimpleNamespace(num_frames=len(times), average_fps=2.0)

    def __len__(self):
        return len(self.times)

    def __getitem__(self, index):
        raise AssertionError("frames come without their times this way")

    def get_frames_at(self, indices):
        shape = (3, 4, 6) if self.is_nchw else (4, 6, 3)
        data = torch.stack([torch.full(shape, index, dtype=torch.uint8) for index in indices])
        times = torch.from_numpy(self.times[indices])
        return SimpleNamespace(data=data, pts_seconds=times, duration_seconds=torch.full_like(times, 0.5))


# -- dictionaries ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "form",
    [
        lambda data, path: {"bytes": data, "path": "gone.wav"},
        lambda data, path: {"bytes": memoryview(data)},
        lambda data, path: {"bytes": None, "path": path},
        lambda data, path: {"path": path, "array": None},
        lambda data, path: {"array": SAMPLES, "sampling_rate": RATE, "path": path},
        lambda data, path: {"data": base64.b64encode(data).decode(), "format": "wav"},
    ],
)
def test_audio_in_a_dictionary_is_the_audio(audio, tmp_path, form):
    (tmp_path / "a.wav").write_bytes(audio)
    expected = load_audio(audio).samples
    assert np.array_equal(load_audio(form(audio, str(tmp_path / "a.wav"))).samples, expected)


def test_pictures_and_frames_in_dictionaries_are_pictures():
    expected = np.asarray(load_image(png()))
    assert np.array_equal(load_image({"bytes": png(), "path": None}), expected)
    clip = load_video([{"bytes": png(), "path": None}, png("blue")], video_metadata={"fps": 1})
    assert np.array_equal(clip.frames[0], expected)


@pytest.mark.parametrize(
    ("load", "source", "message"),
    [
        (load_image, {"bytes": None, "path": None}, r"image in a dictionary with \[\] cannot be read; it needs"),
        (load_image, {"array": [1]}, r"with \['array'\] cannot be read"),
        (load_image, {"byte": b"x", "path": "a"}, r"with \['byte', 'path'\] cannot be read"),
        (load_video, {"bytes": [1]}, '"bytes" of video in a dictionary must be bytes, got a list'),
        (load_audio, {"array": [0.0]}, '"array" and "sampling_rate"'),
    ],
)
def test_dictionaries_that_hold_no_medium_are_refused(load, source, message):
    with pytest.raises(MediaError, match=message):
        load(source)


# -- decoders ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("channels", [1, 2])
def test_decoder_of_audio_gives_its_samples(audio, channels):
    heard = load_audio(FakeAudioDecoder(channels)).samples
    assert np.allclose(heard, load_audio(audio).samples, atol=1e-6)
    part = load_audio(FakeAudioDecoder(channels), start_sec=0.5).samples
    assert np.allclose(part, load_audio(audio, start_sec=0.5).samples, atol=1e-6)


@pytest.mark.parametrize("order", ["NCHW", "NHWC"])
def test_decoder_of_video_gives_its_frames_at_their_true_times(order):
    clip = load_video(FakeVideoDecoder(dimension_order=order))
    assert clip.times.tolist() == [0.0, 0.25, 0.5, 1.5] and clip.duration_sec == 2.0
    assert [int(np.asarray(frame).mean()) for frame in clip.frames] == [0, 1, 2, 3]
    assert clip.size == (6, 4)
    assert load_video(FakeVideoDecoder(), frame_times=[1.0]).indices.tolist() == [2]
    assert load_video(FakeVideoDecoder(), num_frames=2).indices.tolist() == [0, 3]
    assert load_video(FakeVideoDecoder(), start_sec=1.0).indices.tolist() == [2, 3]


def test_a_decoder_of_video_without_audio_is_a_warning(monkeypatch):
    messages = []
    monkeypatch.setattr(video_media_omnivinci.logger, "warning_once", messages.append)
    assert load_video(FakeVideoDecoder(), load_audio_from_video=True).audio is None
    assert "Video(decode=False)" in messages[0]


def test_file_beside_a_decoder_is_read_in_its_place(tmp_path):
    decoder = FakeVideoDecoder()
    decoder._hf_encoded = {"path": "no such file", "bytes": None}
    assert len(load_video(decoder).frames) == 4
    decoder._hf_encoded = {"path": None, "bytes": b"no video"}
    with pytest.raises(MediaError, match="video given as bytes cannot be decoded"):
        load_video(decoder)


def test_decoders_that_fail_are_a_media_error():
    decoder, video = FakeAudioDecoder(), FakeVideoDecoder()
    decoder.get_all_samples = lambda: (_ for _ in ()).throw(RuntimeError("bad packet"))
    video.get_frames_at = lambda indices: (_ for _ in ()).throw(RuntimeError("bad packet"))
    with pytest.raises(MediaError, match="audio of a FakeAudioDecoder cannot be decoded .bad packet"):
        load_audio(decoder)
    with pytest.raises(MediaError, match="Frames of a FakeVideoDecoder cannot be decoded .bad packet"):
        load_video(video)
    with pytest.raises(MediaError, match="has no frames"):
        load_video(FakeVideoDecoder(times=()))
    with pytest.raises(MediaError, match="Cannot take a FakeVideoDecoder as audio"):
        load_audio(video)


# -- URLs --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "written",
    [
        lambda text: text,
        lambda text: "\n".join(text[first : first + 76] for first in range(0, len(text), 76)) + "\n",
        lambda text: " " + text.replace("A", "A\t", 3) + "\r\n",
        lambda text: text.rstrip("="),
        lambda text: text.translate(str.maketrans("+/", "-_")),
        lambda text: text.replace("+", "%2B").replace("=", "%3D"),
    ],
)
def test_base64_is_read_as_people_write_it(written):
    data = bytes(range(256)) + b"\xfb\xff\xfe?"  # has all letters, and padding
    url = "data:application/x;base64," + written(base64.b64encode(data).decode())
    assert media_sources_omnivinci.decode_data_url("it", url) == data


@pytest.mark.parametrize("text", ["A", "AA=A", "AA$A", "ÄÄÄÄ"])
def test_broken_base64_is_an_error(text):
    with pytest.raises(MediaError, match="broken base64"):
        load_image("data:image/png;base64," + text)


def test_file_urls_of_this_machine_are_paths(tmp_path):
    path = tmp_path / "a picture #1 50%.png"
    path.write_bytes(png())
    quoted = str(path).replace("%", "%25").replace(" ", "%20").replace("#", "%23")
    for head in ("file://", "FILE://localhost", "file:"):
        assert load_image(head + quoted).size == (6, 4)
    assert load_image({"path": "file://" + quoted, "bytes": None}).size == (6, 4)
    with pytest.raises(MediaError, match="a file of another machine, 'example.org'; copy it here"):
        load_image("file://example.org" + quoted)
    with pytest.raises(MediaError, match="does not exist"):
        load_image(f"file://{tmp_path}/none.png")
    with pytest.raises(MediaError, match="cannot be looked up"):
        load_image("file:///a%00b")


# -- lists -------------------------------------------------------------------------------------------------------------


def test_lists_per_text_become_one_list():
    picture, frame = Image.new("RGB", (2, 2)), np.zeros((2, 2, 3), np.uint8)
    assert flatten("image", None) == [] and flatten("image", picture) == [picture]
    assert flatten("image", [[picture], [], None, (picture, "a.png")]) == [picture, picture, "a.png"]
    assert flatten("audio", [[("a", 8000)], "b"]) == [("a", 8000), "b"]
    assert flatten("audio", [0.5, 0.25])[0].tolist() == [0.5, 0.25]
    assert flatten("video", [picture, picture]) == [[picture, picture]]
    assert flatten("video", [[[picture]], "a.mp4"]) == [[picture], "a.mp4"]
    assert [len(video) for video in flatten("video", [[frame], np.zeros((3, 2, 2, 3))])] == [1, 3]
    decoder = FakeVideoDecoder()
    assert flatten("video", [decoder, {"path": "a", "bytes": None}]) == [decoder, {"path": "a", "bytes": None}]
