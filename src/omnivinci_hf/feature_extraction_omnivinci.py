"""Sound to the log-mel windows that the encoder reads."""

import math

import numpy as np
import torch
from transformers.audio_utils import mel_filter_bank
from transformers.feature_extraction_sequence_utils import SequenceFeatureExtractor
from transformers.feature_extraction_utils import BatchFeature


# frames of the short-time Fourier transform that are held at once, to bound the memory of long sounds
BLOCK_FRAMES = 6000


class OmniVinciFeatureExtractor(SequenceFeatureExtractor):
    r"""
    Whisper's log-mel spectrogram over the whole padded sound, cut into windows.

    Follows the released code: a sound is padded with zeros to whole multiples of `chunk_length` seconds, and the
    spectrogram is cut into pieces of `window_frames` frames whatever the hop; the last piece is filled up with 0.

    Args:
        feature_size (`int`, defaults to 128): mel bins.
        sampling_rate (`int`, defaults to 16000): in Hz.
        hop_length (`int`, defaults to 160): samples between frames.
        n_fft (`int`, defaults to 400): samples of a Fourier window.
        chunk_length (`int`, defaults to 30): seconds to whose multiples a sound is padded.
        window_frames (`int`, defaults to 3000): mel frames that the encoder reads at once.
    """

    model_input_names = ["input_features", "audio_num_windows", "audio_durations_ns"]

    def __init__(
        self,
        feature_size: int = 128,
        sampling_rate: int = 16000,
        hop_length: int = 160,
        n_fft: int = 400,
        chunk_length: int = 30,
        window_frames: int = 3000,
        padding_value: float = 0.0,
        **kwargs,
    ):
        super().__init__(feature_size, sampling_rate, padding_value, **kwargs)
        self.hop_length = hop_length
        self.n_fft = n_fft
        self.chunk_length = chunk_length
        self.window_frames = window_frames

    def __call__(self, audio, sampling_rate: int | None = None, return_tensors="pt", **kwargs) -> BatchFeature:
        """
        Args:
            audio (`list[np.ndarray]`): mono waveforms of shape `(num_samples,)`, or one of them.
            sampling_rate: of the waveforms; must be the extractor's.

        Returns:
            `input_features (windows of all sounds, feature_size, window_frames)`, `audio_num_windows (num_sounds,)`
            and `audio_durations_ns (num_sounds,)`: the padded lengths in whole nanoseconds.

        Raises:
            ValueError: for another sampling rate, or a waveform that is empty or not mono.
        """
        if sampling_rate is not None and sampling_rate != self.sampling_rate:
            raise ValueError(f"Got sound at {sampling_rate} Hz, expected {self.sampling_rate} Hz: resample it first.")
        sounds = list(audio) if isinstance(audio, (list, tuple)) and np.ndim(audio[0]) else [audio]
        windows = [self._windows(np.asarray(sound, dtype=np.float32)) for sound in sounds]
        seconds = [self.padded_seconds(len(sound)) for sound in sounds]
        data = {
            "input_features": torch.cat(windows),
            "audio_num_windows": torch.tensor([len(window) for window in windows]),
            "audio_durations_ns": torch.tensor([second * 10**9 for second in seconds]),
        }
        return BatchFeature(data, tensor_type=return_tensors)

    def padded_seconds(self, num_samples: int) -> int:
        """Length in seconds after padding."""
        return max(1, math.ceil(num_samples / (self.chunk_length * self.sampling_rate))) * self.chunk_length

    def num_frames(self, num_samples: int) -> int:
        """Mel frames of the padded sound, before the last window is filled up."""
        return self.padded_seconds(num_samples) * self.sampling_rate // self.hop_length

    def num_windows(self, num_samples: int) -> int:
        return math.ceil(self.num_frames(num_samples) / self.window_frames)

    def _windows(self, samples: np.ndarray) -> torch.Tensor:
        if samples.ndim != 1 or not len(samples):
            raise ValueError(f"Expected a mono waveform of shape (num_samples,), got shape {samples.shape}.")
        num_frames, margin = self.num_frames(len(samples)), self.n_fft // 2
        padded = torch.zeros(self.padded_seconds(len(samples)) * self.sampling_rate + 2 * margin)
        padded[margin : margin + len(samples)] = torch.from_numpy(samples)
        padded[:margin] = padded[margin + 1 : 2 * margin + 1].flip(0)
        padded[-margin:] = padded[-2 * margin - 1 : -margin - 1].flip(0)

        mel = torch.zeros(self.num_windows(len(samples)) * self.window_frames, self.feature_size)
        filters = torch.from_numpy(self._mel_filters()).float()  # (n_fft // 2 + 1, feature_size)
        window = torch.hann_window(self.n_fft)
        for first in range(0, num_frames, BLOCK_FRAMES):
            last = min(first + BLOCK_FRAMES, num_frames)
            block = padded[first * self.hop_length : (last - 1) * self.hop_length + self.n_fft]
            spectrum = torch.stft(block, self.n_fft, self.hop_length, window=window, center=False, return_complex=True)
            mel[first:last] = (spectrum.abs() ** 2).T @ filters
        log = mel[:num_frames].clamp_(min=1e-10).log10_()
        log.clamp_(min=log.max() - 8.0).add_(4.0).div_(4.0)
        return mel.view(-1, self.window_frames, self.feature_size).transpose(1, 2).contiguous()

    def _mel_filters(self) -> np.ndarray:
        return mel_filter_bank(
            num_frequency_bins=1 + self.n_fft // 2,
            num_mel_filters=self.feature_size,
            min_frequency=0.0,
            max_frequency=self.sampling_rate / 2,
            sampling_rate=self.sampling_rate,
            norm="slaney",
            mel_scale="slaney",
        )
