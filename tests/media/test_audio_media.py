"""These tests load audio from files and arrays."""

import io
import tracemalloc

import av
import numpy as np
import pytest
import torch

from omnivinci_hf import AudioClip, MediaError, load_audio, load_video
from tests.support.media_files import tone, write_video, write_wav


@pytest.fixture(scope="module")
def mp4(tmp_path_factory):
    return write_video(tmp_path_factory.mktemp("media") / "clip.mp4", audio=(tone(5), 16000, 0))


@pytest.mark.parametrize("rate, channels, tolerance", [(16000, 1, 0), (44100, 2, 2e-5), (8000, 1, 2e-5)])
def test_wav_equals_librosa(tmp_path, rate, channels, tolerance):
    librosa = pytest.importorskip("librosa")
    rng = np.random.default_rng(0)
    samples = (rng.normal(size=(channels, round(1.37 * rate))) * 5000).astype(np.int16)
    path = write_wav(tmp_path / "noise.wav", samples, rate)
    expected, _ = librosa.load(path, sr=16000)
    clip = load_audio(path)
    assert clip.samples.shape == expected.shape and clip.samples.dtype == np.float32
    np.testing.assert_allclose(clip.samples, expected, rtol=0, atol=tolerance)


@pytest.mark.parametrize("suffix, codec", [("flac", "flac"), ("m4a", "aac"), ("mp3", "libmp3lame"), ("ogg", "libopus")])
def test_other_audio_formats_are_read(tmp_path, suffix, codec):
    if codec not in av.codecs_available:
        pytest.skip(f"this PyAV has no {codec} encoder")
    path = tmp_path / f"tone.{suffix}"
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=16000, layout="mono")
        resampler = av.AudioResampler(stream.format, "mono", 16000, stream.codec_context.frame_size or 1024)
        frame = av.AudioFrame.from_ndarray(tone(2), format="fltp", layout="mono")
        frame.sample_rate, frame.pts = 16000, 0
        for part in resampler.resample(frame) + resampler.resample(None):
            container.mux(stream.encode(part))
        container.mux(stream.encode())
    clip = load_audio(path)
    assert 1.99 < clip.duration_sec < 2.2
    peak = np.abs(np.fft.rfft(clip.samples[:16000])).argmax()
    assert peak == 440


def test_audio_of_a_video_file_bytes_and_file_object(mp4):
    expected = load_audio(mp4)
    assert len(expected.samples) == 79 * 1024
    for source in (mp4.read_bytes(), io.BytesIO(mp4.read_bytes())):
        np.testing.assert_array_equal(load_audio(source).samples, expected.samples)


def test_max_audio_sec_keeps_the_head(tmp_path):
    samples = (np.random.default_rng(0).normal(size=(1, 44100 * 4)) * 5000).astype(np.int16)
    path = write_wav(tmp_path / "noise.wav", samples, 44100)
    head = load_audio(path, max_audio_sec=1.5)
    np.testing.assert_allclose(head.samples, load_audio(path).samples[:24000], atol=1e-6)


def test_array_forms_of_audio_agree():
    wave = tone(0.5, channels=2) * np.float32([[1], [0.5]])
    expected = wave.mean(axis=0)
    for source in (
        (wave, 16000),
        (wave.T, 16000.0),
        (torch.from_numpy(wave), 16000),
        {"array": wave.astype(np.float64), "sampling_rate": 16000, "path": None},
        AudioClip(expected, 16000),
    ):
        np.testing.assert_allclose(load_audio(source).samples, expected, atol=1e-6)
    np.testing.assert_allclose(load_audio(wave, input_sampling_rate=16000).samples, expected, atol=1e-6)
    np.testing.assert_allclose(load_audio(expected.tolist(), input_sampling_rate=16000).samples, expected)


def test_integer_arrays_are_scaled_to_one():
    for array, expected in (
        (np.array([-32768, 16384], np.int16), [-1, 0.5]),
        (np.array([-(2**31), 2**30], np.int32), [-1, 0.5]),
        (np.array([0, 192], np.uint8), [-1, 0.5]),
        (np.array([-32768, 16384], ">i2"), [-1, 0.5]),
    ):
        assert load_audio(array, input_sampling_rate=16000).samples.tolist() == expected


def test_arrays_are_resampled_and_summed():
    wave = tone(1, rate=48000, channels=2)
    mean, total = (load_audio((wave, 48000), downmix=mode).samples for mode in ("mean", "sum"))
    assert len(mean) == 16000
    np.testing.assert_allclose(mean[200:-200], tone(1)[0][200:-200], atol=1e-3)
    np.testing.assert_allclose(total, mean * np.sqrt(2), atol=1e-6)
    assert len(load_audio((wave, 48000), max_audio_sec=0.25).samples) == 4000


def test_a_long_array_is_read_in_blocks():
    wave = np.random.default_rng(0).normal(size=(2, 4_000_000)).astype(np.float32) * 0.1
    tracemalloc.start()
    clip = load_audio((wave, 16000))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    np.testing.assert_allclose(clip.samples, wave.mean(axis=0), atol=1e-7)
    assert peak < 3 * clip.samples.nbytes  # what is returned, as it grows, and a block on its way
    assert load_audio((wave, 16000), max_audio_sec=1).duration_sec == 1


@pytest.mark.parametrize(
    "source, message",
    [
        (np.zeros(10, np.float32), "needs its sampling rate: pass `sampling_rate`"),
        ((np.zeros(10, np.float32), 0), "must be a positive whole number, got 0"),
        ((np.zeros(10, np.float32), "16000"), "must be a positive whole number, got '16000'"),
        ((np.zeros(10, np.float32), float("inf")), "must be a positive whole number, got inf"),
        ((np.zeros((2, 3, 4)), 16000), r"not \(2, 3, 4\)"),
        ((np.zeros(0), 16000), r"not \(0,\)"),
        ((np.zeros(10, np.int64), 16000), "not int64"),
        ((np.zeros((128, 3000)), 16000), "64 channels at most"),
        ((np.array([0, np.nan]), 16000), "NaN or infinite"),
        ((np.array([0, np.inf]), 8000), "NaN or infinite"),
        ((np.array([0, 1e39]), 16000), "NaN or infinite"),
        ((np.array([0, -1e13]), 16000), r"some above 1e\+12 where full scale is 1"),
        (([[1.0], [1.0, 2.0]], 16000), "must be numbers"),
        ((np.zeros(10), 16000, 1), "got 3 items"),
        ({"raw": np.zeros(10)}, r'with \[\'raw\'\] cannot be read; it needs .* "array" and "sampling_rate"'),
        (3.5, "Cannot take a float as audio"),
    ],
)
def test_audio_arrays_that_cannot_be_used(source, message):
    with pytest.raises(MediaError, match=message):
        load_audio(source)


@pytest.mark.parametrize(
    "options, message",
    [
        ({"downmix": "max"}, '`downmix` must be "mean" or "sum"'),
        ({"sampling_rate": 0}, "`sampling_rate` must be a positive whole number"),
        ({"max_audio_sec": 0}, "seconds of audio to keep must be positive"),
        ({"max_audio_sec": "3"}, "seconds of audio to keep must be positive, got '3'"),
    ],
)
def test_audio_options_are_checked(options, message):
    with pytest.raises(ValueError, match=message):
        load_audio((np.zeros(10), 16000), **options)


def test_audio_that_is_cut_off_is_told(mp4, tmp_path, warnings):
    path = write_wav(tmp_path / "tone.wav", (tone(6) * 2**15).astype(np.int16), 16000)
    load_audio(path, max_audio_sec=1.5)
    load_audio((tone(6), 16000), max_audio_sec=1.5, start_sec=2)
    load_audio(path, max_audio_sec=5.5)  # its end was reached, since resampling looks ahead
    load_video(mp4, num_frames=1, load_audio_from_video=True, max_audio_sec=1.5)
    assert [message[message.index(": only") :].split(";")[0] for message in warnings] == [
        ": only 1.5 s of its 6.00 s of audio are kept",
        ": only 1.5 s of its 4.00 s of audio are kept",
        ": only 5.5 s of its 6.00 s of audio are kept",
        ": only 1.5 s of its 5.00 s of audio are kept",
    ]
    assert str(path) in warnings[0] and "The audio array" in warnings[1] and str(mp4) in warnings[3]
    assert all("raise `max_audio_sec`" in message for message in warnings)


def test_audio_beyond_a_range_is_left_out_without_a_word(mp4, warnings):
    load_video(mp4, num_frames=1, load_audio_from_video=True, end_sec=2)
    load_video(mp4, num_frames=1, load_audio_from_video=True, end_sec=2, max_audio_sec=2)
    load_audio(mp4, start_sec=1, end_sec=2, max_audio_sec=3)
    load_audio((tone(2.05), 16000), max_audio_sec=2)  # an encoder fills up its last frame
    assert not warnings
