"""Audio of any channels becomes one channel, or is refused; it never ends the process."""

import wave

import av
import numpy as np
import pytest

from omnivinci_hf import MediaError, load_audio, load_video
from omnivinci_hf.omnivinci.audio_media_omnivinci import Downmixer
from tests.support.media_files import LEVELS, steady, write_channels


ROOT = 0.5**0.5


def relabelled(path, order, count):
    """Returns a QuickTime file whose channels stand in one of Apple's orders."""
    data = bytearray(path.read_bytes())
    place = data.index(b"chan") + 8
    data[place : place + 4] = (order << 16 | count).to_bytes(4, "big")
    return bytes(data)


def level(source, **options):
    samples = load_audio(source, **options).samples
    np.testing.assert_allclose(samples, samples[0], atol=1e-4)
    return samples[0]


@pytest.mark.parametrize(
    "layout, order, weights",
    [
        ("5.1", 122, [ROOT, ROOT, 0.5, 0.5, 1, 0]),  # as films have it: L R Ls Rs C LFE
        ("5.1", 123, [ROOT, 1, ROOT, 0.5, 0.5, 0]),  # L C R Ls Rs LFE
        ("5.1", 141, [1, ROOT, ROOT, 0.5, 0.5, 0.5]),  # C L R Ls Rs Cs
        ("6.1", 142, [1, ROOT, ROOT, 0.5, 0.5, 0.5, 0]),  # C L R Ls Rs Cs LFE
        ("7.1", 127, [1, ROOT, ROOT, ROOT, ROOT, 0.5, 0.5, 0]),  # C Lc Rc L R Ls Rs LFE
    ],
)
def test_channels_in_an_order_of_their_own(layout, order, weights, tmp_path):
    """PyAV frees the list of such channels twice, which ended the process."""
    levels = LEVELS[: len(weights)]
    data = relabelled(write_channels(tmp_path / "clip.mov", layout), order, len(levels))
    assert level(data) == pytest.approx(levels.mean(), abs=1e-6)
    assert level(data, downmix="sum") == pytest.approx(levels @ weights, abs=1e-6)


@pytest.mark.parametrize("codec, suffix, layout", [("alac", "m4a", "7.1(wide)"), ("wavpack", "wv", "16C")])
def test_eight_and_more_planes(codec, suffix, layout, tmp_path):
    """PyAV reads beyond the pointers to so many planes, which ended the process."""
    path = write_channels(tmp_path / f"tone.{suffix}", layout, codec)
    assert level(path) == pytest.approx(LEVELS.mean(), abs=1e-4)
    assert load_audio(path, downmix="sum").duration_sec == 0.5


@pytest.mark.parametrize("count", [9, 13, 64])
def test_channels_that_have_no_places_are_summed_as_of_equal_power(count, tmp_path):
    path = write_channels(tmp_path / "tone.mka", f"{count}C")
    levels = steady(count)[:, 0]
    assert level(path) == pytest.approx(levels.mean(), abs=1e-6)
    assert level(path, downmix="sum") == pytest.approx(levels.sum() / count**0.5, abs=1e-5)
    assert level((steady(count), 16000), downmix="sum") == pytest.approx(levels.sum() / count**0.5, abs=1e-5)


def test_more_channels_than_ffmpeg_mixes_are_refused(tmp_path):
    path = tmp_path / "tone.wav"
    with wave.open(str(path), "wb") as file:
        file.setparams((65, 2, 16000, 0, "NONE", ""))
        file.writeframes(bytes(65 * 2 * 800))
    with pytest.raises(MediaError, match="has 65 channels of audio, 64 at most are read"):
        load_audio(path)


@pytest.mark.parametrize(
    "layout, weights",
    [
        ("stereo", [ROOT, ROOT]),
        ("5.1(side)", [ROOT, ROOT, 1, 0, 0.5, 0.5]),
        ("6C", [ROOT, ROOT, 1, 0, 0.5, 0.5]),  # without a layout the usual one of so many
        ("BL+BR", [0.5, 0.5]),  # from here on FFmpeg has no downmix
        ("FL+BL+BR", [ROOT, 0.5, 0.5]),
        ("binaural", [ROOT, ROOT]),
        ("ambisonic 1", [1, 0, 0, 0]),
        ("LFE", [1]),
    ],
)
def test_the_weights_of_a_sum(layout, weights):
    mixer, levels = Downmixer("audio", "sum", []), LEVELS[: len(weights)]
    block = np.ascontiguousarray(steady(len(weights), 100).T).reshape(1, -1)
    frame = av.AudioFrame.from_ndarray(block, format="flt", layout=layout)
    frame.sample_rate = 16000
    assert [*mixer.add(frame)] == []
    (mono,) = mixer.flush()
    np.testing.assert_allclose(mono, levels @ weights, atol=1e-6)
    assert [*mixer.flush()] == []


def test_samples_of_64_bits(tmp_path):
    """PyAV makes no arrays of such samples."""
    assert level(write_channels(tmp_path / "tone.mka", "stereo", "pcm_s64le")) == LEVELS[:2].mean()


def test_arrays_of_many_channels():
    assert level((steady(8), 16000)) == pytest.approx(LEVELS.mean())
    assert level((steady(64), 16000)) == pytest.approx(LEVELS.mean())


def test_odd_channels_of_a_video_are_its_audio(tmp_path):
    with av.open(str(tmp_path / "clip.mov"), "w") as container:
        video, audio = (
            container.add_stream("mpeg4", rate=10),
            container.add_stream("pcm_s16le", layout="5.1", rate=16000),
        )
        video.width, video.height = 64, 48
        for number in range(5):
            frame = av.VideoFrame(64, 48, "yuv420p")
            frame.pts = number
            container.mux(video.encode(frame))
        container.mux(video.encode())
        frame = av.AudioFrame.from_ndarray(steady(6, 8000).T.copy().reshape(1, -1), format="flt", layout="5.1")
        frame.sample_rate = 16000
        container.mux(audio.encode(frame))
        container.mux(audio.encode())
    clip = load_video(
        relabelled(tmp_path / "clip.mov", 122, 6), num_frames=2, load_audio_from_video=True, video_audio_downmix="sum"
    )
    np.testing.assert_allclose(clip.audio.samples, LEVELS[:6] @ [ROOT, ROOT, 0.5, 0.5, 1, 0], atol=1e-4)
