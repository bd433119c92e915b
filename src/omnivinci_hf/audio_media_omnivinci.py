"""Sound: decoded, mixed down and resampled to mono float32."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from numbers import Integral

import av
import numpy as np
import soxr

from .media_omnivinci import MediaError, MediaSource, check_complete, is_array, to_numpy


MAX_AUDIO_SEC = 6 * 3600.0


@dataclass
class AudioClip:
    """Mono sound: `samples` float32 of shape `(num_samples,)` at `sampling_rate` per second."""

    samples: np.ndarray
    sampling_rate: int

    @property
    def duration_sec(self) -> float:
        return len(self.samples) / self.sampling_rate


def load_audio(
    source,
    *,
    sampling_rate: int = 16000,
    input_sampling_rate: int | None = None,
    downmix: str = "mean",
    max_sec: float | None = None,
    timeout_sec: float = 20.0,
) -> AudioClip:
    """Read sound as mono float32 at `sampling_rate`, all of it or its first `max_sec` seconds.

    `source`: a path, bytes or binary file object of a sound or video file, an [`AudioClip`], a pair
    `(array, sampling_rate)`, a dict with "array" and "sampling_rate" (as in datasets), or an array or tensor,
    for which `input_sampling_rate` is needed. Arrays are float or integer PCM, 1-D, or 2-D with the channels
    along the shorter axis.

    `downmix` "mean" averages the channels. "sum" is FFmpeg's downmix without normalisation, sqrt(2) louder
    for stereo: what the released checkpoint heard as the sound of videos.
    """
    options = SoundOptions(sampling_rate, downmix, max_sec)
    if isinstance(source, AudioClip):
        source = (source.samples, source.sampling_rate)
    elif isinstance(source, Mapping):
        if not {"array", "sampling_rate"} <= source.keys():
            raise MediaError(f'Sound in a dict needs "array" and "sampling_rate", got {list(source)}.')
        source = (source["array"], source["sampling_rate"])
    elif is_array(source) or isinstance(source, list):
        source = (source, input_sampling_rate)
    if isinstance(source, tuple):
        if len(source) != 2:
            raise MediaError(f"Sound in a tuple must be (array, sampling_rate), got {len(source)} items.")
        return _audio_from_array(*source, options)
    source = MediaSource.of("audio", source)
    clip = audio_from_container(source, options, timeout_sec)
    if clip is None:
        raise MediaError(f"{source.name} has no sound; give a file with an audio stream.")
    return clip


@dataclass(frozen=True)
class SoundOptions:
    sampling_rate: int
    downmix: str
    max_sec: float | None

    def __post_init__(self):
        if not (isinstance(self.sampling_rate, Integral) and self.sampling_rate > 0):
            raise ValueError(f"`sampling_rate` must be a positive whole number, got {self.sampling_rate!r}.")
        if self.downmix not in ("mean", "sum"):
            raise ValueError(f'`downmix` must be "mean" or "sum", got {self.downmix!r}.')
        if self.max_sec is not None and not self.max_sec > 0:
            raise ValueError(f"The seconds of sound to keep must be positive, got {self.max_sec!r}.")


def audio_from_container(
    source: MediaSource, options: SoundOptions, timeout_sec: float, origin_sec: float | None = None
) -> AudioClip | None:
    """The first audio stream, its sample 0 at `origin_sec` of the container's clock if that is given."""
    sound = None
    with source.container(timeout_sec) as container:
        for frame in _audio_frames(container, source.name):
            if sound is None:
                known = origin_sec is not None and frame.pts is not None
                lead_sec = float(frame.pts * frame.time_base) - origin_sec if known else 0.0
                sound = _SoundBuffer(source.name, frame.sample_rate, options, lead_sec)
            elif frame.sample_rate != sound.input_rate:
                raise MediaError(f"{source.name} changes its sampling rate in the middle; convert it first.")
            sound.add(frame)
            if sound.is_enough:
                break
    return None if sound is None else sound.finish()


def _audio_frames(container, name: str) -> Iterator[av.AudioFrame]:
    """Decoded frames of the first audio stream; none if there is no such stream or it has no packets."""
    if not container.streams.audio:
        return
    stream = container.streams.audio[0]
    if stream.codec_context is None:
        raise MediaError(f"{name}: there is no decoder for its sound; convert it, to AAC for example.")
    num_packets = num_frames = 0
    for packet in container.demux(stream):  # the last one is empty and drains the decoder
        num_packets += packet.size > 0
        for frame in packet.decode():
            num_frames += 1
            yield frame
    check_complete(name, stream, num_packets)
    if num_packets and not num_frames:
        raise MediaError(f"{name}: its {num_packets} audio packets hold no sound; get the file again.")


class _SoundBuffer:
    """Collects sound as mono, resampled on the way so that only the wanted rate is held in memory.

    `lead_sec` of silence goes before it; if negative, that much of its head is cut.
    """

    def __init__(self, name: str, input_rate: int, options: SoundOptions, lead_sec: float = 0.0):
        self.name, self.input_rate, self.options, self.lead_sec = name, input_rate, options, lead_sec
        self.chunks, self.num_input, self.downmixers, self.stream = [], 0, {}, None
        if input_rate != options.sampling_rate:
            self.stream = soxr.ResampleStream(input_rate, options.sampling_rate, 1, "float32", "HQ")

    @property
    def is_enough(self) -> bool:
        # A second more than is kept, so that the resampling filter does not see an end there.
        end_sec = self.lead_sec + self.num_input / self.input_rate
        return self.options.max_sec is not None and end_sec > self.options.max_sec + 1

    def add(self, frame: av.AudioFrame) -> None:
        self.num_input += frame.samples
        if max(self.lead_sec, 0) + self.num_input / self.input_rate > MAX_AUDIO_SEC:
            raise MediaError(f"{self.name}: the sound is longer than {MAX_AUDIO_SEC / 3600:g} h; cut it.")
        mono = self._downmix(frame)
        self.chunks.append(mono if self.stream is None else self.stream.resample_chunk(mono))

    def _downmix(self, frame: av.AudioFrame) -> np.ndarray:
        num_channels = frame.layout.nb_channels
        if self.options.downmix == "mean" or num_channels == 1:
            samples = frame.to_ndarray()  # (num_channels, num_samples), or (1, both interleaved)
            if not frame.format.is_planar:
                samples = samples.reshape(-1, num_channels).T
            return _pcm_to_float(samples).mean(axis=0)
        key = (frame.layout.name, frame.format.name)  # broadcasts change between stereo and 5.1
        if key not in self.downmixers:
            self.downmixers[key] = av.AudioResampler("fltp", "mono", frame.sample_rate)
        return np.concatenate([part.to_ndarray()[0] for part in self.downmixers[key].resample(frame)])

    def finish(self) -> AudioClip | None:
        """The clip, or None if the head that was cut is all of it."""
        rate, max_sec = self.options.sampling_rate, self.options.max_sec
        if self.stream is not None:
            self.chunks.append(self.stream.resample_chunk(np.zeros(0, np.float32), last=True))
        samples = np.concatenate(self.chunks)
        if not np.isfinite(samples).all():
            raise MediaError(f"{self.name} contains NaN or infinite samples; clean it first.")
        # soxr rounds to the nearest length, librosa up; as long as librosa's.
        length = -(-self.num_input * rate // self.input_rate)
        samples = np.pad(samples[:length], (0, max(0, length - len(samples))))
        lead = round(self.lead_sec * rate)
        samples = np.pad(samples, (lead, 0)) if lead > 0 else samples[-lead:]
        if max_sec is not None:
            samples = samples[: max(1, round(min(max_sec, MAX_AUDIO_SEC) * rate))]
        return AudioClip(samples, rate) if len(samples) else None


def _pcm_to_float(samples: np.ndarray) -> np.ndarray:
    floats = samples.astype(np.float32)
    if samples.dtype.kind == "f":
        return floats
    full_scale = np.float32(2.0 ** (8 * samples.dtype.itemsize - 1))
    return (floats - full_scale if samples.dtype.kind == "u" else floats) / full_scale


def _audio_from_array(array, input_rate, options: SoundOptions) -> AudioClip:
    if input_rate is None:
        raise MediaError(
            "Sound given as an array needs its sampling rate: pass `sampling_rate`, a pair "
            '(array, sampling_rate) or {"array": ..., "sampling_rate": ...}.'
        )
    if not (input_rate > 0 and input_rate == int(input_rate)):
        raise MediaError(f"The sampling rate of the sound must be a positive whole number, got {input_rate}.")
    try:
        array = to_numpy(array)
    except ValueError as error:
        raise MediaError(f"Sound given as a list must be numbers ({error}).") from error
    if array.ndim not in (1, 2) or array.size == 0:
        raise MediaError(f"Sound must be (num_samples,) or (channels, num_samples), not {array.shape}.")
    if array.dtype.kind != "f" and array.dtype not in (np.uint8, np.int16, np.int32):
        raise MediaError(f"Sound must be float, or PCM as uint8, int16 or int32, not {array.dtype}.")
    channels = array.reshape(1, -1) if array.ndim == 1 else array if len(array) <= len(array[0]) else array.T
    if len(channels) > 8:
        raise MediaError(f"Sound has 8 channels at most, got shape {array.shape}; pass the waveform.")
    channels = np.ascontiguousarray(_pcm_to_float(channels))  # (num_channels, num_samples)
    frame = av.AudioFrame.from_ndarray(channels, format="fltp", layout=f"{len(channels)}c")
    frame.sample_rate = int(input_rate)
    sound = _SoundBuffer("The sound array", frame.sample_rate, options)
    sound.add(frame)
    return sound.finish()
