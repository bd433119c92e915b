"""Media are taken in part: frames by index or time, ranges, transformed frames, several media at once."""

import io
import os
import signal
import threading
import time
from concurrent.futures import CancelledError
from types import SimpleNamespace

import av
import numpy as np
import pytest
import torch
from av.video.reformatter import VideoReformatter
from PIL import Image

from omnivinci_hf import MediaError, OmniVinciImageProcessor, OmniVinciVideoProcessor, load_audio, load_video
from omnivinci_hf.omnivinci import media_reading_omnivinci
from omnivinci_hf.omnivinci.media_reading_omnivinci import HiddenBar, ReadOptions, run_all
from omnivinci_hf.omnivinci.media_sources_omnivinci import MediaSource
from omnivinci_hf.omnivinci.video_media_omnivinci import _upright_image
from tests.support.media_files import assert_frames_are_exact, tone, write_video, write_wav


@pytest.fixture(scope="module")
def mp4(tmp_path_factory):
    return write_video(tmp_path_factory.mktemp("media") / "clip.mp4", audio=(tone(5), 16000, 0))


FRAMES = np.random.default_rng(0).integers(0, 255, (50, 6, 8, 3), dtype=np.uint8)
KINDS = ("file", "array")


def load(kind, mp4, **options):
    return load_video(mp4, **options) if kind == "file" else load_video(FRAMES, video_metadata={"fps": 10}, **options)


# --- frames that are asked for


@pytest.mark.parametrize("kind", KINDS)
def test_frames_by_index(kind, mp4):
    clip = load(kind, mp4, frame_indices=[3, 3, 20, 49])
    assert clip.indices.tolist() == [3, 3, 20, 49]
    np.testing.assert_allclose(clip.times, [0.3, 0.3, 2.0, 4.9])
    if kind == "file":
        assert_frames_are_exact(clip, mp4)


@pytest.mark.parametrize("kind", KINDS)
def test_frames_by_time_are_those_shown_then(kind, mp4):
    clip = load(kind, mp4, frame_times=[0, 0.09, 0.1, 2.55, 4.99])
    assert clip.indices.tolist() == [0, 0, 1, 25, 49]
    np.testing.assert_allclose(clip.times, [0, 0, 0.1, 2.5, 4.9])


@pytest.mark.parametrize("kind", KINDS)
def test_a_range_of_a_video_begins_at_zero(kind, mp4):
    clip = load(kind, mp4, start_sec=1, end_sec=3)
    assert clip.indices.tolist() == list(range(10, 30))
    np.testing.assert_allclose(clip.times, np.arange(20) / 10, atol=1e-12)
    assert (clip.duration_sec, clip.start_sec, clip.total_frames) == (2.0, 1, 50)
    assert load(kind, mp4, start_sec=4, end_sec=99).duration_sec == 1.0


def test_what_is_shown_at_the_start_of_the_range_belongs_to_it():
    clip = load_video(FRAMES[:3], video_metadata={"times": [0, 4, 8], "duration": 12}, start_sec=5, end_sec=9)
    assert clip.indices.tolist() == [1, 2] and clip.times.tolist() == [0, 3] and clip.duration_sec == 4
    assert load_video(FRAMES[:1], video_metadata={"times": [0], "duration": 12}, start_sec=5).times.tolist() == [0]


def test_sampling_and_explicit_frames_within_a_range(mp4):
    assert load_video(mp4, start_sec=1, end_sec=3, num_frames=3).indices.tolist() == [10, 20, 29]  # of 0 to 19: 9.5
    assert load_video(mp4, start_sec=1, end_sec=3, fps=2).indices.tolist() == [10, 15, 20, 25]
    clip = load_video(mp4, start_sec=1, end_sec=3, frame_times=[1.5, 2.95])
    np.testing.assert_allclose(clip.times, [0.5, 1.9])


def test_a_range_of_frames_that_were_sampled_already():
    metadata = {"fps": 10, "frames_indices": [0, 10, 20], "total_num_frames": 30}
    clip = load_video(FRAMES[:3], video_metadata=metadata, start_sec=1)
    assert clip.indices.tolist() == [10, 20] and clip.times.tolist() == [0, 1]
    with pytest.raises(ValueError, match="were sampled already"):
        load_video(FRAMES[:3], video_metadata=metadata, frame_indices=[0])


@pytest.mark.parametrize(
    "options, message",
    [
        ({"frame_indices": [1], "num_frames": 2}, "Give either `frame_indices`, or"),
        ({"frame_indices": [1], "frame_times": [0]}, "Give either `frame_indices`, or"),
        ({"frame_indices": [0.5]}, "`frame_indices` must be a list of whole numbers"),
        ({"frame_times": []}, "`frame_times` must be a list of numbers"),
        ({"frame_times": [1, 0]}, "not negative and ascending"),
        ({"frame_times": [-1]}, "not negative and ascending"),
        ({"frame_times": [float("nan")]}, "must be finite"),
        ({"frame_indices": [50]}, r"frame_indices=\[50\] are not there; it has 0 to 49"),
        ({"frame_times": [1, 5.0]}, r"frame_times=\[5.0\] are not there; it has 0 to below 5 s"),
        ({"frame_indices": [5], "start_sec": 1}, r"frame_indices=\[5\] are not there; it has 10 to 49"),
        ({"start_sec": 5}, "lasts 5 s; nothing is in the range start_sec=5"),
        ({"start_sec": 2, "end_sec": 2}, "0 <= start_sec < end_sec, got start_sec=2 and end_sec=2"),
        ({"start_sec": -1}, "0 <= start_sec"),
        ({"start_sec": "1"}, "0 <= start_sec < end_sec, got start_sec='1'"),
        ({"start_sec": None}, "0 <= start_sec < end_sec, got start_sec=None"),
        ({"end_sec": "2"}, "0 <= start_sec < end_sec, got start_sec=0.0 and end_sec='2'"),
    ],
)
def test_frames_that_are_not_there(mp4, options, message):
    with pytest.raises(ValueError, match=message):
        load_video(mp4, **options)


# --- ranges of audio


def test_a_range_of_the_audio_of_a_video(tmp_path):
    path = write_video(tmp_path / "clip.mkv", audio=(tone(5) * np.linspace(0, 1, 80000, dtype=np.float32), 16000, 8000))
    full = load_video(path, num_frames=1, load_audio_from_video=True).audio.samples
    part = load_video(path, num_frames=1, load_audio_from_video=True, start_sec=2, end_sec=3.5).audio
    np.testing.assert_array_equal(part.samples, full[32000:56000])
    late = load_video(path, num_frames=1, load_audio_from_video=True, start_sec=0.25, end_sec=1).audio.samples
    np.testing.assert_array_equal(late, full[4000:16000])
    capped = load_video(path, num_frames=1, load_audio_from_video=True, start_sec=2, max_audio_sec=0.5).audio
    assert capped.duration_sec == 0.5


@pytest.mark.parametrize("rate", [16000, 44100])
def test_a_range_of_audio(tmp_path, rate):
    samples = (tone(6, rate) * 2**15).astype(np.int16)
    path = write_wav(tmp_path / "tone.wav", samples, rate)
    full = load_audio(path).samples
    for source in (path, (samples[0], rate)):
        part = load_audio(source, start_sec=3, end_sec=4.5).samples
        assert len(part) == 24000
        # where packets before the range are left out, the grid of the resampler may shift by half a sample
        error = np.abs(part - full[48000:72000]).max()
        assert error == 0 if rate == 16000 else error < 0.02
    with pytest.raises(MediaError, match="no audio in the range start_sec=7"):
        load_audio(path, start_sec=7)


def test_an_array_is_cut_exactly():
    wave = np.random.default_rng(0).normal(size=44100 * 2).astype(np.float32) * 0.1
    full = load_audio((wave, 44100)).samples
    np.testing.assert_allclose(load_audio((wave, 44100), start_sec=0.5, end_sec=1).samples, full[8000:16000], atol=1e-6)


# --- frames on the way, threads


def test_transform_sees_every_wanted_frame_once(mp4):
    seen = []
    clip = load_video(mp4, num_frames=4, transform=lambda image: seen.append(image.size) or image.size)
    assert clip.frames == [(64, 48)] * 4 and len(seen) == 4
    assert load_video(FRAMES, video_metadata={"fps": 1}, num_frames=2, transform=lambda image: 7).frames == [7, 7]


def test_tensors_that_transform_makes_become_one(mp4):
    def corner(image):
        return torch.from_numpy(np.array(image))[:2, :3]

    for clip in (
        load_video(mp4, frame_indices=[2, 3, 3, 40], transform=corner),
        load_video(mp4, frame_indices=[2, 3, 40], transform=corner),
        load_video(FRAMES, video_metadata={"fps": 10}, frame_indices=[5, 5], transform=corner),
    ):
        plain = [FRAMES[5]] * 2 if len(clip.frames) == 2 else load_video(mp4, frame_indices=clip.indices).frames
        assert clip.frames.shape == (len(clip.indices), 2, 3, 3)
        assert torch.equal(clip.frames, torch.stack([corner(frame) for frame in plain]))


def test_a_transform_with_out_fills_the_places_of_the_frames(mp4):
    places = []

    def corner(image, out=None):
        result = torch.from_numpy(np.array(image))[:2, :3]
        places.append(out)
        return result if out is None else out.copy_(result)

    frames = load_video(mp4, frame_indices=[2, 3, 3, 40, 45], transform=corner, num_threads=1).frames
    plain = load_video(mp4, frame_indices=[2, 3, 3, 40, 45]).frames
    assert torch.equal(frames, torch.stack([corner(frame) for frame in plain]))
    assert [place is None for place in places[:4]] == [True, False, False, False]
    assert load_video(mp4, num_frames=3, transform=type).frames == [Image.Image] * 3  # has no signature


def test_a_transform_may_leave_the_place_to_itself(mp4):
    """A transform may ignore `out`, or fill it and return nothing."""

    def ignoring(image, out=None):
        return torch.from_numpy(np.array(image))[:2, :3]

    def silent(image, out=None):
        result = ignoring(image)
        if out is None:
            return result
        out.copy_(result)

    plain = torch.stack([ignoring(frame) for frame in load_video(mp4, frame_indices=[2, 3, 40]).frames])
    for transform in (ignoring, silent):
        frames = load_video(mp4, frame_indices=[2, 3, 40], transform=transform, num_threads=1).frames
        assert torch.equal(frames, plain)


@pytest.mark.parametrize("second", [torch.zeros(1, 3), torch.zeros(3), torch.zeros(2, 3, dtype=torch.uint8), "frame"])
def test_transforms_must_give_tensors_of_one_shape(second):
    results = [torch.zeros(2, 3), second]
    for transform in (lambda image: results[image.width - 4], lambda image, out=None: results[image.width - 4]):
        with pytest.raises(ValueError, match=r"tensors of one type and shape, got .* after torch.float32 \(2, 3\)"):
            load_video(
                [Image.new("RGB", (4, 4)), Image.new("RGB", (5, 4))], video_metadata={"fps": 1}, transform=transform
            )


def test_frames_of_odd_width_are_as_pyav_makes_them():
    graph = av.filter.Graph()
    graph.link_nodes(graph.add("testsrc2", "size=67x45"), graph.add("format", "yuv444p"), graph.add("buffersink"))
    graph.configure()
    frame = graph.pull()
    image = _upright_image(MediaSource("clip", ReadOptions(), data=b""), frame, VideoReformatter(), (1, 0, 0, 1))
    assert image.size == (67, 45) and image.tobytes() == frame.to_image().tobytes()


def test_frames_that_are_stored_upside_down():
    class Plane(bytes):
        line_size = -8  # rows of two pixels and padding, the last one first

    rgb = SimpleNamespace(width=2, height=2, planes=[Plane(b"ccCddD__aaAbbB__")])
    frame = SimpleNamespace(width=2, height=2)
    reformatter = SimpleNamespace(reformat=lambda *args, **options: rgb)
    image = _upright_image(MediaSource("clip", ReadOptions(), data=b""), frame, reformatter, (1, 0, 0, 1))
    assert image.tobytes() == b"aaAbbBccCddD"


def test_the_number_of_threads_changes_nothing(mp4):
    clips = [load_video(mp4, num_frames=20, num_threads=number, load_audio_from_video=True) for number in (1, 2, 5)]
    for clip in clips[1:]:
        assert [a.tobytes() for a in clip.frames] == [a.tobytes() for a in clips[0].frames]
        np.testing.assert_array_equal(clip.audio.samples, clips[0].audio.samples)


def test_the_first_error_of_several_media_is_raised_and_the_others_stop(mp4, tmp_path):
    cancelled, stopped = threading.Event(), []

    def endless():
        while not cancelled.wait(0.01):
            pass
        stopped.append(1)
        raise CancelledError

    def broken():
        raise MediaError("this one")

    with pytest.raises(MediaError, match="this one"):
        run_all([endless, broken, endless], 3, cancelled)
    assert stopped
    assert run_all([lambda number=number: number for number in range(9)], 3, threading.Event()) == list(range(9))


@pytest.mark.parametrize("num_threads", [1, 2])
def test_an_interrupt_ends_decoding(mp4, num_threads):
    def interrupt(image):
        raise KeyboardInterrupt

    threads = threading.active_count()
    with pytest.raises(KeyboardInterrupt):
        load_video(mp4, transform=interrupt, num_threads=num_threads)
    assert threading.active_count() == threads


def test_an_interrupt_of_the_waiting_thread_stops_the_workers(mp4):
    """Ctrl-C does the same: the main thread gets the exception while the others decode."""
    threading.Timer(0.3, os.kill, (os.getpid(), signal.SIGINT)).start()
    begin = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        load_video(mp4, transform=lambda image: time.sleep(0.1), num_threads=2)
    assert time.monotonic() - begin < 2


def test_a_progress_bar_when_asked_for(mp4, capsys, monkeypatch):
    load_video(mp4, num_frames=3, load_audio_from_video=True)
    assert capsys.readouterr().err == ""
    load_video(mp4, num_frames=3, load_audio_from_video=True, progress=True)
    assert "frame" in capsys.readouterr().err
    assert isinstance(ReadOptions().progress_bar("clip", 1e6, 1, "s"), HiddenBar)  # no terminal
    monkeypatch.setattr(media_reading_omnivinci.sys.stderr, "isatty", lambda: True, raising=False)
    with ReadOptions().progress_bar("clip", 1e6, 1, "s") as bar:
        assert not bar.disable
    assert isinstance(ReadOptions().progress_bar("clip", 10, 1, "s"), HiddenBar)
    assert isinstance(ReadOptions(progress=False).progress_bar("clip", 1e6, 1, "s"), HiddenBar)


# --- resizing


def test_torch_resize_is_within_two_levels(mp4):
    picture = load_video(write_big(), video_metadata={"fps": 1}).frames[0]
    pil, other = (np.asarray(OmniVinciVideoProcessor(size=56).squash(picture, backend)) for backend in ("pil", "torch"))
    difference = np.abs(pil.astype(int) - other.astype(int))
    assert difference.max() <= 2 and (difference == 0).mean() > 0.98
    stored = OmniVinciImageProcessor(size=56, s2_scales=[56], resize_backend="torch")
    expected = torch.from_numpy(other.copy()).permute(2, 0, 1).float().div(255).sub(0.5).div(0.5)
    torch.testing.assert_close(stored([picture])["pixel_values"][0], expected)
    torch.testing.assert_close(
        OmniVinciImageProcessor(size=56, s2_scales=[56])([picture], resize_backend="torch")["pixel_values"][0], expected
    )
    with pytest.raises(ValueError, match="`resize_backend` must be .pil. or .torch."):
        OmniVinciVideoProcessor(size=56, resize_backend="cv2").squash(picture)


def write_big():
    small = Image.fromarray(np.random.default_rng(0).integers(0, 255, (12, 20, 3), dtype=np.uint8))
    return [small.resize((400, 240), Image.Resampling.BICUBIC)]


# --- through the processor


def ask(processor, *parts, **options):
    conversation = [{"role": "user", "content": [*parts, {"type": "text", "text": "?"}]}]
    return processor.apply_chat_template(
        conversation, tokenize=True, return_dict=True, return_tensors="pt", processor_kwargs=options
    )


def times_of(outputs):
    return (outputs["video_frame_times_ns"] / 1e9).tolist()


def test_the_processor_takes_ranges_and_frames_per_call_and_per_part(processor, mp4):
    video = {"type": "video", "path": str(mp4)}
    assert times_of(ask(processor, video, frame_indices=[0, 10])) == [0, 1]
    assert times_of(ask(processor, video, frame_times=[0.55])) == [0.5]
    assert times_of(ask(processor, video, start_sec=1, end_sec=2, fps=5)) == pytest.approx([0, 0.2, 0.4, 0.6, 0.8])
    outputs = ask(processor, {**video, "start_sec": 3, "end_sec": 4, "num_frames": 2}, {**video, "frame_times": [1, 2]})
    assert times_of(outputs) == pytest.approx([0, 0.9, 1, 2])
    clip = processor.describe(videos=[mp4], start_sec=3, end_sec=4, load_audio_from_video=True)[0].clip
    assert clip.duration_sec == 1 and clip.audio.duration_sec == 1
    audio = {"type": "audio", "path": str(mp4), "start_sec": 1, "end_sec": 1.5}
    assert ask(processor, audio)["audio_num_windows"].tolist() == [1]


def test_the_processor_passes_limits_and_refuses_to_store_them(processor, mp4):
    with pytest.raises(MediaError, match="above the limit max_frames=2"):
        ask(processor, {"type": "video", "path": str(mp4)}, media_limits={"max_frames": 2})
    assert "media_limits" not in processor.to_dict() and "allow_urls" not in processor.to_dict()
    with pytest.raises(MediaError, match="URLs are not fetched"):
        ask(processor, {"type": "image", "url": "http://127.0.0.1:9/a.png"})


def test_a_batch_keeps_its_order_and_raises_its_first_error(processor, mp4, tmp_path):
    other = write_video(tmp_path / "other.mp4", range(20))
    layouts = processor.describe(videos=[mp4, other, mp4], audio=[(tone(1)[0], 16000), mp4], num_frames=4)
    assert [layout.clip.name.split("/")[-1] for layout in layouts[:3]] == ["clip.mp4'", "other.mp4'", "clip.mp4'"]
    assert [layout.modality for layout in layouts] == ["video"] * 3 + ["audio"] * 2
    (tmp_path / "bad.mp4").write_bytes(b"no film" * 100)
    with pytest.raises(MediaError, match="bad.mp4"):
        processor.describe(videos=[mp4, tmp_path / "bad.mp4", other])
    assert len(processor.describe(images=[Image.new("RGB", (8, 8))], videos=[io.BytesIO(other.read_bytes())])) == 2


def test_errors_tell_which_of_several_media_is_meant(processor, mp4):
    whole, tone_of_1_sec = mp4.read_bytes(), (tone(1)[0], 16000)
    picture, empty = Image.new("RGB", (8, 8)), np.zeros((0, 4, 3), np.uint8)
    for media, message in (
        ({"videos": [whole, b"no film" * 100]}, "^video 2: video given as bytes cannot be decoded"),
        ({"audio": [(np.zeros(0), 16000), tone_of_1_sec]}, r"^audio 1: Audio must be \(num_samples,\)"),
        ({"images": [picture, empty], "videos": [whole]}, "^image 2: An image array must be"),
        ({"images": [picture], "videos": [mp4, io.BytesIO(b"no")]}, "^video 2: video file object"),
        ({"images": [empty]}, "^An image array must be"),
    ):
        with pytest.raises(MediaError, match=message) as caught:
            processor.describe(**media)
        assert (caught.value.__cause__ is not None) == (":" in message)
