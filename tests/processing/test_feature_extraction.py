import re

import numpy as np
import pytest
import torch
from transformers import WhisperFeatureExtractor
from transformers.audio_utils import mel_filter_bank

from omnivinci_hf import OmniVinciFeatureExtractor
from omnivinci_hf.omnivinci import feature_extraction_omnivinci


RATE = 16000


def waveform(seconds, seed=0):
    """Noise that comes and goes, so that the floor of the logarithm matters."""
    generator = np.random.default_rng(seed)
    samples = generator.standard_normal(round(seconds * RATE)).astype(np.float32)
    return samples * np.float32(0.3) * np.linspace(0, 1, len(samples), dtype=np.float32) ** 8


def whisper(samples, padded_seconds):
    """`(frames, 128)` of the whole padded audio."""
    extractor = WhisperFeatureExtractor(feature_size=128, chunk_length=padded_seconds)
    features = extractor(samples, sampling_rate=RATE, return_tensors="pt")["input_features"]
    return features[0].T


def frames(outputs):
    return outputs["input_features"].transpose(1, 2).flatten(0, 1)


class TestAgainstWhisper:
    @pytest.mark.parametrize(("seconds", "padded"), [(3.2, 30), (37, 60), (120, 120)])
    def test_equal(self, seconds, padded):
        samples = waveform(seconds)
        outputs = OmniVinciFeatureExtractor()(samples)
        assert outputs["input_features"].shape == (padded // 30, 128, 3000)
        torch.testing.assert_close(frames(outputs), whisper(samples, padded), atol=1e-6, rtol=0)

    def test_short_windows(self):
        samples = waveform(3.2)
        outputs = OmniVinciFeatureExtractor(chunk_length=2, window_frames=200)(samples)
        assert outputs["input_features"].shape == (2, 128, 200)
        assert outputs["audio_durations_ns"].tolist() == [4 * 10**9]
        torch.testing.assert_close(frames(outputs), whisper(samples, 4), atol=1e-6, rtol=0)

    def test_other_numbers_of_mel_bins(self):
        samples = waveform(1)
        reference = WhisperFeatureExtractor(feature_size=80)(samples, sampling_rate=RATE, return_tensors="pt")
        outputs = OmniVinciFeatureExtractor(feature_size=80)(samples)
        torch.testing.assert_close(outputs["input_features"], reference["input_features"], atol=1e-6, rtol=0)


class TestKnownAnswers:
    def test_silence_is_the_floor_of_the_logarithm(self):
        features = OmniVinciFeatureExtractor()(np.zeros(RATE, np.float32))["input_features"]
        assert torch.equal(features, torch.full((1, 128, 3000), (-10.0 + 4) / 4))

    def test_nothing_lies_more_than_8_decades_below_the_loudest(self):
        features = OmniVinciFeatureExtractor()(waveform(31))["input_features"]
        # over the whole clip, not window by window; 8 / 4 after scaling
        assert features.min().item() == pytest.approx(features.max().item() - 2, abs=1e-6)
        assert features[0].max() < features.max()

    def test_ten_times_louder_is_half_a_unit_higher(self):
        # power grows 100-fold, its logarithm by 2, a quarter of which is 0.5
        samples = np.random.default_rng(0).standard_normal(30 * RATE).astype(np.float32)
        extractor = OmniVinciFeatureExtractor()
        quiet, loud = (extractor(factor * samples)["input_features"] for factor in (0.01, 0.1))
        torch.testing.assert_close(loud, quiet + 0.5, atol=1e-4, rtol=0)

    def test_a_higher_tone_is_in_a_higher_bin(self):
        moments = np.arange(RATE, dtype=np.float32) / RATE
        extractor = OmniVinciFeatureExtractor(chunk_length=1, window_frames=100)
        bins = [
            extractor(np.sin(2 * np.pi * hertz * moments))["input_features"][0, :, 50].argmax().item()
            for hertz in (200, 1000, 4000)
        ]
        assert bins == sorted(set(bins))


class TestHop60:
    @pytest.fixture
    def extractor(self):
        return OmniVinciFeatureExtractor(hop_length=60)

    def test_thirty_seconds_are_three_windows_and_the_last_is_filled_with_zero(self, extractor):
        outputs = extractor(waveform(30))
        assert outputs["input_features"].shape == (3, 128, 3000)
        assert outputs["audio_num_windows"].tolist() == [3]
        filled = frames(outputs)[8000:]
        assert torch.equal(filled, torch.zeros(1000, 128))
        assert (frames(outputs)[7999] != 0).all()

    def test_silence_is_not_the_filling(self, extractor):
        features = frames(extractor(np.zeros(RATE, np.float32)))
        assert torch.equal(features[:8000], torch.full((8000, 128), -1.5))
        assert not features[8000:].any()

    def test_duration_is_that_of_the_padded_sound(self, extractor):
        assert extractor(waveform(3.2))["audio_durations_ns"].tolist() == [30 * 10**9]

    def test_frames_that_both_hops_have_are_equal(self, extractor):
        # every 8th frame at hop 60 starts where every 3rd at hop 160 does
        samples = waveform(30)
        fine, coarse = frames(extractor(samples))[:8000:8], frames(OmniVinciFeatureExtractor()(samples))[::3]
        torch.testing.assert_close(fine, coarse, atol=1e-3, rtol=0)


class TestCounts:
    @pytest.mark.parametrize(
        ("num_samples", "seconds", "num_frames", "num_windows"),
        [
            (1, 30, 3000, 1),
            (480000, 30, 3000, 1),
            (480001, 60, 6000, 2),
            (75 * RATE + 128, 90, 9000, 3),
            (3600 * RATE, 3600, 360000, 120),
        ],
    )
    def test_hop_160(self, num_samples, seconds, num_frames, num_windows):
        extractor = OmniVinciFeatureExtractor()
        assert extractor.padded_samples(num_samples) == seconds * 16000
        assert extractor.num_frames(num_samples) == num_frames
        assert extractor.num_windows(num_samples) == num_windows

    @pytest.mark.parametrize(
        ("num_samples", "num_frames", "num_windows"), [(1, 8000, 3), (480001, 16000, 6), (1200128, 24000, 8)]
    )
    def test_hop_60(self, num_samples, num_frames, num_windows):
        extractor = OmniVinciFeatureExtractor(hop_length=60)
        assert extractor.num_frames(num_samples) == num_frames
        assert extractor.num_windows(num_samples) == num_windows

    @pytest.mark.parametrize("hop_length", [60, 160])
    @pytest.mark.parametrize("seconds", [0.001, 2, 2.001, 5])
    def test_counts_are_those_of_the_features(self, seconds, hop_length):
        extractor = OmniVinciFeatureExtractor(hop_length=hop_length, chunk_length=2, window_frames=200)
        samples = waveform(seconds)
        outputs = extractor(samples)
        assert len(outputs["input_features"]) == extractor.num_windows(len(samples))
        assert outputs["audio_num_windows"].tolist() == [extractor.num_windows(len(samples))]
        assert outputs["audio_durations_ns"].tolist() == [extractor.padded_samples(len(samples)) * 62500]


class TestBatch:
    def test_each_sound_is_as_if_alone(self):
        extractor = OmniVinciFeatureExtractor(chunk_length=2, window_frames=200)
        waveforms = [waveform(1, 1), waveform(5, 2), 10 * waveform(2, 3)]
        together = extractor(waveforms)
        assert together["audio_num_windows"].tolist() == [1, 3, 1]
        assert together["audio_durations_ns"].tolist() == [2 * 10**9, 6 * 10**9, 2 * 10**9]
        alone = torch.cat([extractor(samples)["input_features"] for samples in waveforms])
        assert torch.equal(together["input_features"], alone)

    @pytest.mark.parametrize("make", [list, torch.from_numpy, lambda samples: samples.astype(np.float64)])
    def test_other_containers_of_one_sound(self, make):
        extractor = OmniVinciFeatureExtractor(chunk_length=1, window_frames=100)
        samples = waveform(0.5)
        assert torch.equal(extractor(make(samples))["input_features"], extractor(samples)["input_features"])

    def test_the_callers_samples_stay_as_they_were(self):
        samples = waveform(0.5)
        before = samples.copy()
        OmniVinciFeatureExtractor()(samples)
        assert np.array_equal(samples, before)


@pytest.mark.parametrize("block_frames", [1, 7, 250, 10**6])
def test_size_of_the_blocks_does_not_matter(monkeypatch, block_frames):
    extractor = OmniVinciFeatureExtractor(chunk_length=2, window_frames=200)
    samples = waveform(3.2)
    whole = extractor(samples)["input_features"]
    monkeypatch.setattr(feature_extraction_omnivinci, "BLOCK_FRAMES", block_frames)
    torch.testing.assert_close(extractor(samples)["input_features"], whole, atol=1e-6, rtol=0)


class TestErrors:
    def test_another_sampling_rate(self):
        with pytest.raises(ValueError, match="Got audio at 44100 Hz, expected 16000 Hz: resample it first"):
            OmniVinciFeatureExtractor()(waveform(1), sampling_rate=44100)

    @pytest.mark.parametrize("shape", [(0,), (2, 100), (100, 1)])
    def test_empty_or_several_channels(self, shape):
        with pytest.raises(ValueError, match=re.escape(f"mono waveform of shape (num_samples,), got shape {shape}.")):
            OmniVinciFeatureExtractor()([np.zeros(shape, np.float32)])

    def test_the_right_sampling_rate_is_accepted(self):
        extractor = OmniVinciFeatureExtractor(sampling_rate=8000, chunk_length=1, window_frames=50)
        assert extractor(waveform(0.1), sampling_rate=8000)["input_features"].shape == (1, 128, 50)


def test_saving_keeps_every_option(tmp_path):
    options = {
        "feature_size": 64,
        "sampling_rate": 8000,
        "hop_length": 60,
        "n_fft": 256,
        "chunk_length": 3,
        "window_frames": 400,
    }
    OmniVinciFeatureExtractor(**options).save_pretrained(tmp_path)
    loaded = OmniVinciFeatureExtractor.from_pretrained(tmp_path)
    assert {name: getattr(loaded, name) for name in options} == options


@pytest.mark.parametrize(
    ("sampling_rate", "n_fft", "num_filters"), [(16000, 400, 128), (16000, 400, 80), (22050, 512, 64)]
)
def test_mel_filters_are_those_of_whisper_to_the_bit(sampling_rate, n_fft, num_filters):
    slaney = {"norm": "slaney", "mel_scale": "slaney", "sampling_rate": sampling_rate}
    expected = mel_filter_bank(1 + n_fft // 2, num_filters, 0.0, sampling_rate / 2, **slaney).astype(np.float32)
    assert np.array_equal(feature_extraction_omnivinci.mel_filters(sampling_rate, n_fft, num_filters), expected)
