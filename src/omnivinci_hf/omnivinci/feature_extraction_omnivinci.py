"""This module turns audio into the log-mel windows that the encoder hears."""

import math
from functools import cache

import numpy as np
import torch
from transformers.feature_extraction_utils import BatchFeature, FeatureExtractionMixin

from .options_omnivinci import MAX_MEL_VALUES, StrictArguments, take_arguments


# So many frames of the short-time Fourier transform are held at once, to bound the memory of long audio.
BLOCK_FRAMES = 3000
# Products of this few frames are too small for the threads of OpenBLAS, which wait for each other as PyTorch's do.
PRODUCT_FRAMES = 8


@cache
def mel_filters(sampling_rate: int, n_fft: int, num_filters: int) -> np.ndarray:
    """Computes Slaney's filters, as Whisper has them, of shape `(n_fft // 2 + 1, num_filters)`."""
    import librosa  # its filters bring SciPy and Numba, a second that only audio is to cost

    return librosa.filters.mel(sr=sampling_rate, n_fft=n_fft, n_mels=num_filters, dtype=np.float64).T.astype(np.float32)


class OmniVinciFeatureExtractor(StrictArguments, FeatureExtractionMixin):  # type: ignore[misc]  # see StrictArguments
    r"""
    Computes Whisper's log-mel spectrogram over the whole padded audio clip and cuts it into windows.

    Follows the original code: an audio clip is padded with zeros to whole multiples of `chunk_length` seconds, and the
    spectrogram is cut into pieces of `window_frames` frames whatever the hop; the last piece is filled up with 0.

    Args:
        feature_size (`int`, defaults to 128): mel bins.
        sampling_rate (`int`, defaults to 16000): in Hz.
        hop_length (`int`, defaults to 160): samples between frames.
        n_fft (`int`, defaults to 400): samples of a Fourier window.
        chunk_length (`int`, defaults to 30): seconds to whose multiples an audio clip is padded.
        window_frames (`int`, defaults to 3000): mel frames that the encoder reads at once.
    """

    model_input_names = ["input_features", "audio_num_windows", "audio_durations_ns"]
    padding_value = 0.0  # nothing is padded here, but pipelines ask for it when they batch

    def __init__(
        self,
        feature_size: int = 128,
        sampling_rate: int = 16000,
        hop_length: int = 160,
        n_fft: int = 400,
        chunk_length: int = 30,
        window_frames: int = 3000,
        **kwargs,
    ):
        super().__init__(**kwargs)
        self.feature_size = feature_size
        self.sampling_rate = sampling_rate
        self.hop_length = hop_length
        self.n_fft = n_fft
        self.chunk_length = chunk_length
        self.window_frames = window_frames
        self._check()
        samples, per_second = round(chunk_length * sampling_rate), feature_size * sampling_rate / hop_length
        if samples < max(n_fft, hop_length) or hop_length > sampling_rate:
            raise ValueError(
                f"`chunk_length`={chunk_length} at `sampling_rate`={sampling_rate} is {samples} samples, fewer than "
                f"`n_fft`={n_fft} or `hop_length`={hop_length} need."
            )
        if per_second > MAX_MEL_VALUES:
            raise ValueError(
                f"`feature_size`={feature_size} at `sampling_rate`={sampling_rate} and `hop_length`={hop_length} are "
                f"{per_second:,.0f} values per second of audio, more than {MAX_MEL_VALUES:,}."
            )

    def __call__(self, audio, sampling_rate: int | None = None, return_tensors="pt", **kwargs) -> BatchFeature:
        """Turns waveforms into log-mel windows.

        Args:
            audio (`list[np.ndarray]`): mono waveforms of shape `(num_samples,)`, or one of them.
            sampling_rate: of the waveforms; must be the extractor's.

        Returns:
            `input_features (windows of all clips, feature_size, window_frames)`, `audio_num_windows (num_audios,)`
            and `audio_durations_ns (num_audios,)`: the padded lengths in whole nanoseconds.

        Raises:
            ValueError: for another sampling rate, or a waveform that is empty or not mono.
        """
        take_arguments(type(self).__name__, ("audio", "sampling_rate", "return_tensors"), kwargs)
        if sampling_rate is not None and sampling_rate != self.sampling_rate:
            raise ValueError(f"Got audio at {sampling_rate} Hz, expected {self.sampling_rate} Hz: resample it first.")
        waveforms = list(audio) if isinstance(audio, (list, tuple)) and np.ndim(audio[0]) else [audio]
        windows = [self._windows(np.asarray(waveform, dtype=np.float32)) for waveform in waveforms]
        durations = [self.padded_samples(len(waveform)) * 10**9 // self.sampling_rate for waveform in waveforms]
        data = {
            "input_features": windows[0] if len(windows) == 1 else torch.cat(windows),
            "audio_num_windows": torch.tensor([len(window) for window in windows]),
            "audio_durations_ns": torch.tensor(durations),
        }
        return BatchFeature(data, tensor_type=return_tensors)

    def fetch_audio(self, audio, sampling_rate: int | None = None):
        """Leaves audio to the processor, which reads it as everywhere else; pipelines ask for this first."""
        return audio

    def padded_samples(self, num_samples: int) -> int:
        """Computes the length in samples after padding."""
        chunk = round(self.chunk_length * self.sampling_rate)
        return max(1, math.ceil(num_samples / chunk)) * chunk

    def num_frames(self, num_samples: int) -> int:
        """Counts the mel frames of the padded audio, before the last window is filled up."""
        return self.padded_samples(num_samples) // self.hop_length

    def num_windows(self, num_samples: int) -> int:
        """Counts the windows of so many samples."""
        return math.ceil(self.num_frames(num_samples) / self.window_frames)

    def _windows(self, samples: np.ndarray) -> torch.Tensor:
        if samples.ndim != 1 or not len(samples):
            raise ValueError(f"Expected a mono waveform of shape (num_samples,), got shape {samples.shape}.")
        num_frames, width = self.num_frames(len(samples)), self.window_frames
        mel = torch.zeros(self.num_windows(len(samples)), self.feature_size, width)
        filters = mel_filters(self.sampling_rate, self.n_fft, self.feature_size)
        window = torch.hann_window(self.n_fft).numpy()
        for first in range(0, len(mel) * width, width):
            for start in range(0, min(width, num_frames - first), BLOCK_FRAMES):
                stop = min(start + BLOCK_FRAMES, width, num_frames - first)
                part = self._mel_power(samples, first + start, first + stop, window, filters)
                mel.numpy()[first // width, :, start:stop] = part.T
        mel.clamp_(min=1e-10).log10_()
        rest = num_frames - (len(mel) - 1) * width  # frames in the last window
        loudest = torch.max(mel[:-1].amax() if len(mel) > 1 else mel[-1, :, :rest].amax(), mel[-1, :, :rest].amax())
        mel.clamp_(min=loudest - 8.0).add_(4.0).div_(4.0)
        mel[-1, :, rest:] = 0
        return mel

    def _mel_power(self, samples: np.ndarray, first: int, last: int, window, filters) -> np.ndarray:
        """Computes mel frames of the padded audio, `(last - first, feature_size)`.

        Only PyTorch's Fourier transform rounds as Whisper's does. The rest is NumPy's: on a busy machine the threads
        that PyTorch starts for every operation take many times longer to wait for each other than to work.
        """
        block = self._padded(samples, first * self.hop_length, (last - 1) * self.hop_length + self.n_fft)
        frames = np.lib.stride_tricks.sliding_window_view(block, self.n_fft)[:: self.hop_length] * window
        spectrum = torch.fft.rfft(torch.from_numpy(frames)).numpy()  # (last - first, n_fft // 2 + 1)
        num_frames, num_bins = spectrum.shape
        power = np.zeros((-(-num_frames // PRODUCT_FRAMES), PRODUCT_FRAMES, num_bins), np.float32)
        np.add(spectrum.real**2, spectrum.imag**2, out=power.reshape(-1, num_bins)[:num_frames])
        return (power @ filters).reshape(-1, filters.shape[1])[:num_frames]

    def _padded(self, samples: np.ndarray, first: int, last: int) -> np.ndarray:
        """Returns a part of the audio, padded with zeros and with `n_fft // 2` samples reflected at both ends."""
        margin = self.n_fft // 2
        end = self.padded_samples(len(samples))  # of the zeros
        positions = np.abs(np.arange(first, last) - margin)
        positions = np.where(positions >= end, 2 * (end - 1) - positions, positions)
        block = np.zeros(last - first, np.float32)
        inside = positions < len(samples)
        block[inside] = samples[positions[inside]]
        return block
