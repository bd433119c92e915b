import base64
import contextlib
import io
import math
import os
from fractions import Fraction
from pathlib import Path
from types import SimpleNamespace

import av
import numpy as np
import pytest
import torch
from PIL import Image, features
from transformers.video_utils import VideoMetadata

from omnivinci_hf import MediaError, load_audio, load_image, load_video
from omnivinci_hf.omnivinci import audio_media_omnivinci, frame_table_omnivinci, video_media_omnivinci
from omnivinci_hf.omnivinci.audio_media_omnivinci import AudioOptions, audio_from_container
from omnivinci_hf.omnivinci.frame_table_omnivinci import video_stream
from omnivinci_hf.omnivinci.media_reading_omnivinci import ReadOptions
from omnivinci_hf.omnivinci.media_sources_omnivinci import MediaSource
from tests.support.media_files import assert_frames_are_exact, decode_all, tone, write_video, write_wav
from tests.support.paths import FULL_GOLDENS


needs_goldens = pytest.mark.skipif(not FULL_GOLDENS.is_dir(), reason=f"no golden data at {FULL_GOLDENS}")


@pytest.fixture(scope="module")
def mp4(tmp_path_factory):
    return write_video(tmp_path_factory.mktemp("media") / "clip.mp4", audio=(tone(5), 16000, 0))


# --- video files


def test_constant_rate_times_and_duration_are_exact(mp4):
    clip = load_video(mp4, num_frames=8)
    assert clip.times.tolist() == [index / 10 for index in (0, 7, 14, 21, 28, 35, 42, 49)]
    assert (clip.duration_sec, clip.fps, clip.total_frames, clip.audio) == (5.0, 10.0, 50, None)
    assert clip.times.dtype == np.float64 and clip.indices.dtype == np.int64
    assert str(mp4) in clip.name
    assert_frames_are_exact(clip, mp4)


@pytest.mark.parametrize("suffix", ["mkv", "ts", "avi", "mov"])
def test_containers_agree_on_frames_and_times(tmp_path, suffix):
    # Matroska rounds to 1 ms, transport streams start late, AVI has no presentation times for B-frames.
    path = write_video(tmp_path / f"clip.{suffix}", time_base=Fraction(1, 30))
    clip = load_video(path, num_frames=7)
    np.testing.assert_allclose(clip.times, clip.indices / 30, rtol=0, atol=1e-12)
    assert clip.duration_sec == pytest.approx(50 / 30, abs=1e-12)
    assert_frames_are_exact(clip, path)


def test_all_frames_in_any_order_of_decoding(tmp_path):
    path = write_video(tmp_path / "clip.mp4")
    assert_frames_are_exact(load_video(path), path)


def test_variable_frame_rate_keeps_each_frames_own_time(tmp_path):
    pts = [0, 40, 500, 520, 1300, 1310, 2000]
    path = write_video(tmp_path / "vfr.mkv", pts, time_base=Fraction(1, 1000))
    clip = load_video(path)
    np.testing.assert_allclose(clip.times, np.array(pts) / 1000, atol=1e-12)
    assert 2.0 < clip.duration_sec < 2.5
    assert clip.fps == 7 / clip.duration_sec
    assert_frames_are_exact(clip, path)


def test_frames_cut_off_by_an_edit_list_do_not_count(tmp_path):
    path = write_video(tmp_path / "cut.mp4", range(-13, 37))
    clip = load_video(path, num_frames=5)
    assert clip.times[0] == 0
    assert_frames_are_exact(clip, path)


def test_a_short_clip_repeats_its_frames_with_their_times(tmp_path):
    clip = load_video(write_video(tmp_path / "short.mp4", range(3)), num_frames=6)
    assert clip.indices.tolist() == [0, 0, 1, 1, 2, 2]
    assert clip.times.tolist() == [0, 0, 0.1, 0.1, 0.2, 0.2]
    assert clip.frames[0] is clip.frames[1]


def test_one_frame_lasts_as_long_as_its_packet(tmp_path):
    clip = load_video(write_video(tmp_path / "one.mp4", range(1)), num_frames=2)
    assert (clip.total_frames, clip.duration_sec) == (1, 0.1)


def test_fps_sampling_of_a_file(mp4):
    assert load_video(mp4, fps=2).times.tolist() == [k / 2 for k in range(10)]


def test_rotation_is_applied(tmp_path):
    path = write_video(tmp_path / "turned.mp4", range(3), rotation=90)
    frame = load_video(path, num_frames=1).frames[0]
    assert frame.size == (48, 64)
    np.testing.assert_array_equal(np.asarray(frame), np.rot90(decode_all(path)[0]))  # counter-clockwise


def test_cover_art_is_no_video(tmp_path):
    path = tmp_path / "song.m4a"
    with av.open(str(path), "w", format="mp4") as container:
        audio = container.add_stream("aac", rate=16000, layout="mono")
        cover = container.add_stream("mjpeg")
        cover.width, cover.height, cover.pix_fmt = 64, 48, "yuvj420p"
        cover.disposition = av.stream.Disposition.attached_pic
        frame = av.AudioFrame.from_ndarray(tone(1), format="fltp", layout="mono")
        frame.sample_rate = 16000
        picture = av.VideoFrame.from_ndarray(np.zeros((48, 64, 3), np.uint8), format="rgb24")
        picture = picture.reformat(format="yuvj420p")
        for packet in cover.encode(picture) + cover.encode() + audio.encode(frame) + audio.encode():
            container.mux(packet)
    with pytest.raises(MediaError, match="has no video stream"):
        load_video(path)
    assert load_audio(path).duration_sec >= 1


def test_bytes_and_file_objects_equal_the_path(mp4):
    expected = load_video(mp4, num_frames=3, load_audio_from_video=True)
    data = mp4.read_bytes()
    for source in (str(mp4), data, bytearray(data), io.BytesIO(data)):
        clip = load_video(source, num_frames=3, load_audio_from_video=True)
        assert clip.times.tolist() == expected.times.tolist()
        assert [f.tobytes() for f in clip.frames] == [f.tobytes() for f in expected.frames]
        np.testing.assert_array_equal(clip.audio.samples, expected.audio.samples)


def test_a_name_that_looks_like_a_protocol_is_a_file(mp4, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("concat:x.mp4", "-i.mp4", "a%20b|c.mp4"):
        Path(name).write_bytes(mp4.read_bytes())
        assert load_video(name, num_frames=1).total_frames == 50


# --- audio of videos


def test_audio_of_a_video(mp4):
    clip = load_video(mp4, num_frames=1, load_audio_from_video=True)
    # 5 s in AAC frames of 1024: the priming is left out, the padding of the last frame kept
    assert clip.audio.samples.shape == (79 * 1024,) and clip.audio.samples.dtype == np.float32
    np.testing.assert_allclose(clip.audio.samples[2000:78000], tone(5)[0, 2000:78000], atol=0.02)


def test_a_silent_video_has_no_audio(tmp_path):
    assert load_video(write_video(tmp_path / "silent.mp4", range(3)), load_audio_from_video=True).audio is None


def test_late_audio_is_aligned_by_silence_or_left_as_it_is(tmp_path):
    path = write_video(tmp_path / "late.mkv", audio=(tone(2), 16000, 8000))
    aligned = load_video(path, num_frames=1, load_audio_from_video=True).audio
    plain = load_video(path, num_frames=1, load_audio_from_video=True, align_audio_start=False).audio
    assert (len(plain.samples), len(aligned.samples)) == (32000, 40000)
    assert not aligned.samples[:8000].any()
    np.testing.assert_array_equal(aligned.samples[8000:], plain.samples)


def test_audio_that_starts_before_the_picture_loses_its_head(tmp_path):
    path = write_video(tmp_path / "early.mkv", range(5, 50), audio=(tone(2), 16000, 0))
    aligned = load_video(path, num_frames=1, load_audio_from_video=True).audio
    plain = load_video(path, num_frames=1, load_audio_from_video=True, align_audio_start=False).audio
    np.testing.assert_array_equal(aligned.samples, plain.samples[8000:])


def test_audio_that_ends_before_the_picture_starts_is_none(tmp_path):
    path = write_video(tmp_path / "apart.mkv", range(30, 50), audio=(tone(2), 16000, 0))
    assert load_video(path, num_frames=1, load_audio_from_video=True).audio is None


def test_max_audio_sec_counts_from_the_aligned_start(tmp_path):
    path = write_video(tmp_path / "late.mkv", audio=(tone(4), 16000, 8000))
    full = load_video(path, num_frames=1, load_audio_from_video=True).audio
    head = load_video(path, num_frames=1, load_audio_from_video=True, max_audio_sec=1.5).audio
    np.testing.assert_array_equal(head.samples, full.samples[:24000])


def test_sum_is_louder_than_mean_by_the_root_of_two_for_stereo(tmp_path):
    path = write_video(tmp_path / "stereo.mkv", range(10), audio=(tone(1, channels=2), 16000, 0))
    mean, total = (
        load_video(path, load_audio_from_video=True, video_audio_downmix=mode).audio for mode in ("mean", "sum")
    )
    np.testing.assert_allclose(mean.samples, tone(1)[0], atol=1e-4)
    np.testing.assert_allclose(total.samples, mean.samples * np.sqrt(2), atol=1e-6)


# --- frames given as arrays


def test_array_tensor_and_list_layouts_agree():
    frames = np.random.default_rng(0).integers(0, 255, (6, 10, 12, 3), dtype=np.uint8)
    metadata = {"fps": 2}
    for source in (
        frames,
        torch.from_numpy(frames),
        torch.from_numpy(frames).permute(0, 3, 1, 2),
        frames.astype(np.float32) / 255,
        torch.from_numpy(frames).double() / 255,
        list(frames),
        [Image.fromarray(frame) for frame in frames],
    ):
        clip = load_video(source, num_frames=3, video_metadata=metadata)
        assert clip.indices.tolist() == [0, 2, 5] and clip.times.tolist() == [0, 1, 2.5]
        assert (clip.duration_sec, clip.fps, clip.total_frames, clip.audio) == (3.0, 2.0, 6, None)
        np.testing.assert_array_equal(np.stack(clip.frames), frames[[0, 2, 5]])


def test_frames_with_indices_are_taken_as_they_are():
    frames = np.zeros((3, 4, 4, 3), np.uint8)
    metadata = VideoMetadata(total_num_frames=50, fps=10.0, frames_indices=[0, 20, 49])
    clip = load_video(frames, num_frames=8, video_metadata=metadata)
    assert clip.indices.tolist() == [0, 20, 49] and clip.times.tolist() == [0, 2, 4.9]
    assert (len(clip.frames), clip.duration_sec, clip.fps, clip.total_frames) == (3, 5.0, 10.0, 50)


def test_times_in_metadata_come_before_the_rate():
    frames = np.zeros((3, 4, 4, 3), np.uint8)
    clip = load_video(frames, video_metadata={"fps": 10, "timestamps": [0, 1, 1.5], "total_num_frames": None})
    assert clip.times.tolist() == [0, 1, 1.5] and clip.duration_sec == 1.6
    assert load_video(frames, video_metadata={"times": [0, 1, 2]}).duration_sec == 3
    assert load_video(frames, video_metadata={"times": [0, 1, 2], "duration": 2.5}).duration_sec == 2.5


@pytest.mark.parametrize(
    "metadata, message",
    [
        (None, "a frame rate is needed"),
        ({"duration": 3}, "a frame rate is needed"),
        ({"fps": 0}, "`fps` in `video_metadata` must be positive"),
        ({"fps": 1, "frames_indices": [0, 1]}, "3 frames but 2 frames_indices"),
        ({"times": [0, 1]}, "3 frames but 2 times"),
        ({"fps": 1, "total_num_frames": 9}, "3 frames of 9; say which"),
        ({"times": [0, 2, 1]}, "finite, not negative and ascending"),
        ({"times": [0, 1, float("nan")]}, "finite, not negative and ascending"),
        ({"fps": 1, "duration": 1.5}, "The last frame is at 2.0 s but the video ends at 1.5 s"),
        ("25 fps", "`video_metadata` of a video must be a dict or a VideoMetadata, got '25 fps'"),
        ([{"fps": 1}], "`video_metadata` of a video must be a dict or a VideoMetadata"),
        ({"fps": "25"}, "`fps` in `video_metadata` must be a number, got '25'"),
        ({"fps": 1, "total_num_frames": "3"}, "`total_num_frames` in `video_metadata` must be a number"),
        ({"times": ["0", "1", "2"]}, "`times` in `video_metadata` must be a list of numbers"),
        ({"times": [[0], [1], [2]]}, "`times` in `video_metadata` must be a list of numbers"),
        ({"fps": 1, "frames_indices": [0.5, 1, 2]}, "`frames_indices` in `video_metadata` must be a list of numbers"),
        ({"fps": 1, "frames_indices": [2, 1, 3]}, "`frames_indices` in `video_metadata` must be ascending and not"),
        ({"times": [0, 1, 2], "frames_indices": [-5, 1, 2]}, "`frames_indices` in `video_metadata` must be ascending"),
        ({"times": [[0], [1, 2], []]}, "`times` in `video_metadata` must be a list of numbers"),
        ({"times": [0, None, 1]}, "`times` in `video_metadata` must be a list of numbers"),
        ({"fps": 1, "total_num_frames": math.inf}, "`total_num_frames` in `video_metadata` must be a positive whole"),
        ({"fps": 1, "total_num_frames": math.nan}, "`total_num_frames` in `video_metadata` must be a positive whole"),
        ({"fps": 1, "total_num_frames": 2.5}, "`total_num_frames` in `video_metadata` must be a positive whole"),
        ({"fps": 10**400}, "`fps` in `video_metadata` is too large"),
        ({"fps": math.nan}, "`fps` in `video_metadata` must be positive, got nan"),
        ({"fps": 1, "duration": math.nan}, "the video ends at nan s"),
    ],
)
def test_frames_need_consistent_times(metadata, message):
    with pytest.raises(MediaError, match=message):
        load_video(np.zeros((3, 4, 4, 3), np.uint8), video_metadata=metadata)


def test_a_rate_may_be_a_fraction():
    clip = load_video(np.zeros((3, 4, 4, 3), np.uint8), video_metadata={"fps": Fraction(30000, 1001)})
    np.testing.assert_allclose(clip.times, np.arange(3) * 1001 / 30000, rtol=1e-15)
    assert clip.duration_sec == pytest.approx(0.1001)


def test_frames_of_a_wrong_shape_are_refused():
    with pytest.raises(MediaError, match=r"\(T, H, W, 3\) or \(T, 3, H, W\), not \(4, 4, 3\)"):
        load_video(np.zeros((4, 4, 3), np.uint8), video_metadata={"fps": 1})
    with pytest.raises(MediaError, match="empty; give at least one frame"):
        load_video([], video_metadata={"fps": 1})
    with pytest.raises(MediaError, match="the video ends at nan s; give `fps`"):
        load_video(np.zeros((1, 4, 4, 3), np.uint8), video_metadata={"times": [0]})


# --- images


@pytest.fixture(scope="module")
def picture():
    return np.random.default_rng(1).integers(0, 255, (5, 7, 3), dtype=np.uint8)


@pytest.fixture
def png(picture, tmp_path):
    Image.fromarray(picture).save(tmp_path / "picture.png")
    return tmp_path / "picture.png"


def test_every_image_source_gives_the_same_pixels(picture, png):
    data = png.read_bytes()
    url = "data:image/png;base64," + base64.b64encode(data).decode()
    alpha = np.concatenate([picture, np.zeros_like(picture[..., :1])], axis=-1)
    arrays = [picture, picture.transpose(2, 0, 1), torch.from_numpy(picture), picture / 255, alpha]
    arrays.append((torch.from_numpy(picture) / 255).half().float())
    for source in [png, str(png), url, data, io.BytesIO(data), Image.open(png), Image.fromarray(alpha), *arrays]:
        image = load_image(source)
        assert image.mode == "RGB"
        np.testing.assert_array_equal(np.asarray(image), picture)


def test_grey_arrays_and_bfloat16_tensors_are_images():
    grey = np.array([[0, 128], [255, 3]], np.uint8)
    np.testing.assert_array_equal(np.asarray(load_image(grey))[..., 1], grey)
    white = load_image(torch.ones(3, 4, 5, dtype=torch.bfloat16))
    assert white.size == (5, 4) and white.getpixel((0, 0)) == (255, 255, 255)


def test_pictures_of_16_bits_keep_their_shades(tmp_path):
    shades = np.array([[0, 256, 32768, 65535]], np.uint16)
    Image.fromarray(shades).save(tmp_path / "deep.png")
    (tmp_path / "deep.pgm").write_bytes(b"P5 4 1 65535\n" + shades.astype(">u2").tobytes())
    for source in (tmp_path / "deep.png", tmp_path / "deep.pgm", Image.fromarray(shades)):
        np.testing.assert_array_equal(np.asarray(load_image(source))[0, :, 0], [0, 1, 128, 255])


def test_pictures_of_numbers_must_fit_into_8_bits():
    for values in (np.float32([[0, 200]]), np.zeros((1, 2), np.float32), np.int32([[0, 1]]), np.int32([[0, 0]])):
        np.testing.assert_array_equal(np.asarray(load_image(Image.fromarray(values)))[..., 1], values)
    wrong = [np.int32([[0, 70000]]), np.int32([[-5, 20]])]
    wrong += [np.float32([row]) for row in ([0, 0.5], [0, 1], [0, np.nan, 9], [0, 9, np.nan], [9, np.inf])]
    for values in wrong:
        with pytest.raises(MediaError, match="image has values from .*; scale them to 8 bits, 0 to 255"):
            load_image(Image.fromarray(values))


def test_exif_orientation_is_applied(picture, tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # turn clockwise to see it upright
    Image.fromarray(picture).save(tmp_path / "phone.png", exif=exif)
    np.testing.assert_array_equal(np.asarray(load_image(tmp_path / "phone.png")), np.rot90(picture, -1))


@pytest.mark.parametrize(
    "array, message",
    [
        (np.zeros(4, np.uint8), r"not \(4,\)"),
        (np.zeros((4, 4, 2), np.uint8), r"not \(4, 4, 2\)"),
        (np.zeros((0, 4, 3), np.uint8), r"not \(0, 4, 3\)"),
        (np.zeros((4, 4, 3), np.int64), "got int64"),
        (np.full((4, 4, 3), 2.0), r"in \[0, 1\], got 2.0 to 2.0"),
        (np.full((4, 4, 3), np.nan), r"in \[0, 1\], got nan"),
    ],
)
def test_image_arrays_must_have_a_known_shape_and_range(array, message):
    with pytest.raises(MediaError, match=message):
        load_image(array)


@pytest.mark.skipif(not features.check("avif"), reason="this Pillow has no AVIF")
def test_broken_avif_images_are_refused(picture):
    file = io.BytesIO()
    Image.fromarray(picture).save(file, "AVIF")
    data = bytearray(file.getvalue())
    place = data.index(b"mdat") + 4
    data[place:] = bytes(len(data) - place)
    with pytest.raises(MediaError, match="image given as bytes cannot be decoded"):
        load_image(bytes(data))


def test_broken_images_are_refused(picture, tmp_path, monkeypatch):
    rng = np.random.default_rng(0)
    Image.fromarray(rng.integers(0, 255, (64, 64, 3), dtype=np.uint8)).save(tmp_path / "cut.png")
    data = (tmp_path / "cut.png").read_bytes()
    with pytest.raises(MediaError, match="image given as bytes cannot be decoded"):
        load_image(data[: len(data) // 2])
    with pytest.raises(MediaError, match="of no known image format"):
        load_image(b"no image")
    with pytest.raises(MediaError, match="write a data: URL as data:<type>;base64,<data>"):
        load_image("data:image/png,raw")
    with pytest.raises(MediaError, match="broken base64"):
        load_image("data:image/png;base64,a=b")
    with pytest.raises(MediaError, match=r"35 pixels \(7 x 5\), above the limit max_pixels=34"):
        load_image(Image.fromarray(picture), media_limits={"max_pixels": 34})
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 4)
    with pytest.raises(MediaError, match="too large .*decompression bomb"):
        load_image(data)


# --- files that cannot be used


@pytest.mark.parametrize("load", [load_video, load_audio, load_image])
def test_paths_must_be_regular_files_with_content(load, tmp_path):
    (tmp_path / "empty.mp4").touch()
    os.mkfifo(tmp_path / "pipe.mp4")
    for source, message in (
        (tmp_path / "none.mp4", "does not exist"),
        (tmp_path / "empty.mp4" / "none.mp4", "does not exist"),
        (tmp_path, "is a directory"),
        (tmp_path / "empty.mp4", "is an empty file"),
        (tmp_path / "pipe.mp4", "is not a regular file"),
        ("x" * 10000, "cannot be looked up"),
        ("null\0byte", "cannot be looked up"),
        ("https://example.com/a.mp4", "URLs are not fetched; download the file first"),
        ("rtsp://example.com/a", "URLs are not fetched"),
        (b"", "is empty"),
        (io.BytesIO(), "seek"),
        (io.StringIO("text"), "gives str, not bytes; open it in binary mode"),
        (object(), "Cannot take a object"),
    ):
        with pytest.raises(MediaError, match=message):
            load(source)


@pytest.mark.parametrize("load", [load_video, load_audio])
@pytest.mark.parametrize(
    "name, text",
    [
        ("list.m3u8", "#EXTM3U\n#EXTINF:5,\nclip.mp4\n#EXT-X-ENDLIST\n"),
        ("list.ffconcat", "ffconcat version 1.0\nfile clip.mp4\n"),
        ("session.sdp", "v=0\no=- 0 0 IN IP4 127.0.0.1\nc=IN IP4 127.0.0.1\nm=video 5004 RTP/AVP 96\n"),
        ("noise.mp4", "no media at all " * 50),
    ],
)
def test_playlists_and_rubbish_are_refused(load, name, text, mp4, tmp_path):
    (tmp_path / "clip.mp4").write_bytes(mp4.read_bytes())
    (tmp_path / name).write_text(text)
    for source in (tmp_path / name, text.encode()):
        with pytest.raises(MediaError, match="cannot be decoded: Invalid") as caught:
            load(source, timeout_sec=2)
        assert isinstance(caught.value.__cause__, av.error.FFmpegError)
    with pytest.raises(MediaError, match=name):
        load(tmp_path / name)


def test_a_cut_mp4_names_the_missing_packets(tmp_path):
    options = {"movflags": "faststart"}
    data = write_video(tmp_path / "whole.mp4", audio=(tone(5), 16000, 0), options=options).read_bytes()
    (tmp_path / "cut.mp4").write_bytes(data[: len(data) * 6 // 10])
    with pytest.raises(MediaError, match=r"cut.mp4' is cut short: \d+ of 50 video packets are missing"):
        load_video(tmp_path / "cut.mp4", num_frames=4)
    with pytest.raises(MediaError, match=r"\d+ of 80 audio packets are missing"):
        load_audio(tmp_path / "cut.mp4")


def test_a_cut_matroska_names_the_missing_seconds(tmp_path):
    data = write_video(tmp_path / "whole.mkv").read_bytes()
    with pytest.raises(MediaError, match=r"is cut short: \d\.\d+ s are missing"):
        load_video(data[: len(data) // 2])


@pytest.fixture
def promised_frames(mp4, monkeypatch):
    """Makes a table promise ten more frames than there are."""
    table = frame_table_omnivinci.scan_video(MediaSource.of("video", mp4))
    table.positions += range(50, 60)
    table.order += map(float, range(50, 60))
    table.is_key += [False] * 10
    table.times = np.arange(60) / 10
    monkeypatch.setattr(video_media_omnivinci, "scan_video", lambda source: table)


def test_frames_that_do_not_decode_are_counted(mp4, promised_frames, monkeypatch):
    monkeypatch.setattr(video_media_omnivinci, "recount", lambda source, table: None)
    with pytest.raises(MediaError, match="1 of 2 wanted frames do not decode"):
        load_video(mp4, num_frames=2)


def test_packets_that_show_nothing_are_found_by_decoding(mp4, promised_frames):
    clip = load_video(mp4, num_frames=2)
    assert clip.total_frames == 50 and clip.indices.tolist() == [0, 49] and clip.times.tolist() == [0, 4.9]
    assert_frames_are_exact(clip, mp4)


def test_streams_that_are_not_there(mp4, tmp_path):
    with pytest.raises(MediaError, match="has no video stream"):
        load_video(write_wav(tmp_path / "a.wav", np.zeros((1, 100), np.int16), 16000))
    with pytest.raises(MediaError, match="has no audio"):
        load_audio(write_video(tmp_path / "silent.mp4", range(3)))


def test_a_video_stream_without_frames(tmp_path):
    with av.open(str(tmp_path / "hollow.mkv"), "w") as container:
        video = container.add_stream("mpeg4", rate=10)
        video.width, video.height, video.pix_fmt = 64, 48, "yuv420p"
        audio = container.add_stream("pcm_s16le", rate=16000, layout="mono")
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 100), np.int16), format="s16", layout="mono")
        frame.sample_rate = 16000
        container.mux(audio.encode(frame))
    with pytest.raises(MediaError, match="has no video frames"):
        load_video(tmp_path / "hollow.mkv")


def test_a_change_of_sampling_rate_is_refused(tmp_path):
    data = b""
    for rate in (16000, 48000):
        with av.open(str(tmp_path / "part.aac"), "w", format="adts") as container:
            stream = container.add_stream("aac", rate=rate, layout="mono")
            frame = av.AudioFrame.from_ndarray(tone(1, rate)[:, :1024], format="fltp", layout="mono")
            frame.sample_rate = rate
            container.mux(stream.encode(frame))
            container.mux(stream.encode())
        data += (tmp_path / "part.aac").read_bytes()
    with pytest.raises(MediaError, match="changes its sampling rate in the middle"):
        load_audio(data)


def test_streams_without_decoder_or_samples(monkeypatch):
    marks = av.stream.Disposition.default
    stream = SimpleNamespace(disposition=marks, codec_context=None, index=0, type="video", frames=0)
    format = SimpleNamespace(name="wav", flags=0)
    streams = SimpleNamespace(video=[stream], audio=[stream])
    container = SimpleNamespace(streams=streams, format=format, duration=None, metadata={})
    source = MediaSource("clip", ReadOptions(), data=b"")
    monkeypatch.setattr(audio_media_omnivinci, "open_container", lambda source: contextlib.nullcontext(container))
    with pytest.raises(MediaError, match="no decoder for its video"):
        video_stream(container, source)
    assert audio_from_container(source, AudioOptions(16000, "mean", None)) is None
    assert source.damage == ["has audio that no decoder knows"]
    stream.codec_context = SimpleNamespace(decode=lambda packet: [], layout=av.AudioLayout("mono"), width=64)
    packet = SimpleNamespace(size=5, stream_index=0, pts=None, is_corrupt=False, has_sidedata=lambda kind: False)
    container.demux = lambda stream: iter([packet])
    with pytest.raises(MediaError, match="its 1 audio packets hold no samples"):
        audio_from_container(source, AudioOptions(16000, "mean", None))


# --- the reference's decoded media


@needs_goldens
@pytest.mark.parametrize("case", ["h_video5", "g_video5_silent", "i_video75"])
def test_videos_equal_the_reference(case):
    from safetensors.numpy import load_file

    expected = load_file(FULL_GOLDENS / case / "decoded.safetensors")
    clip = load_video(FULL_GOLDENS / case / "video.mp4", num_frames=8, load_audio_from_video=True)
    for frame, stored in zip(clip.frames, expected["frames"], strict=False):
        np.testing.assert_array_equal(np.asarray(frame), stored)
    if case == "h_video5":
        assert clip.times.tolist() == [0.0, 0.7, 1.4, 2.1, 2.8, 3.5, 4.2, 4.9]
        assert (clip.duration_sec, clip.audio.duration_sec) == (5.0, 5.056)
        np.testing.assert_allclose(clip.audio.samples, expected["waveform"], rtol=0, atol=3e-7)


@needs_goldens
@pytest.mark.parametrize("case", ["d_audio3", "e_audio37"])
def test_audio_files_equal_librosa_on_the_reference_files(case):
    librosa = pytest.importorskip("librosa")
    expected, _ = librosa.load(FULL_GOLDENS / case / "audio.wav", sr=16000)
    np.testing.assert_array_equal(load_audio(FULL_GOLDENS / case / "audio.wav").samples, expected)
