"""This module loads audio: from files, arrays and decoders to one channel at the wanted rate."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import chain
from numbers import Integral, Real

import av
import numpy as np
import soxr
from transformers.utils import logging

from .media_containers_omnivinci import choose_stream
from .media_forms_omnivinci import plain_source
from .media_limits_omnivinci import MediaError
from .media_omnivinci import MediaSource, PacketReader, is_array, to_numpy, to_seconds
from .media_reading_omnivinci import ReadOptions, TimeRange
from .media_structure_omnivinci import BARE_FORMATS, whole_frames


MAX_CHANNELS = 64  # of FFmpeg's resampler
BLOCK_SAMPLES = 1 << 16  # mixed down at once
# PyAV takes the pointers to planes up to the first that is null, and an array of eight or more has none.
MAX_PLANES = 7
# So much FFmpeg's downmix takes of each channel, without normalisation; of others, such as LFE, it takes nothing.
# Of ambisonic sound the first channel is what one microphone for all directions hears.
SUM_WEIGHTS = {
    **dict.fromkeys(("FC", "AMBI0"), 1.0),
    **dict.fromkeys(("FL", "FR", "FLC", "FRC", "TFL", "TFR"), 0.5**0.5),
    **dict.fromkeys(("BL", "BR", "BC", "SL", "SR"), 0.5),
}


def take_channel_names(name: str, decoder: av.AudioCodecContext) -> list[str]:
    """The channels that the container lists, in its order. From now on the decoder has no such list of its own.

    Of an order that is not FFmpeg's, PyAV frees the list twice, once with a frame and once with the frame's `layout`,
    which ends the process. Here it comes to belong to `layout` alone.
    """
    layout = decoder.layout
    if layout.nb_channels:  # else only its packets tell
        has_own_order = " channels" in layout.name  # or none
        decoder.layout = f"{layout.nb_channels}C" if has_own_order else layout.name
    check_channels(name, layout.nb_channels)
    return [channel.name for channel in layout.channels]


def check_channels(name: str, count: int) -> None:
    if count > MAX_CHANNELS:
        raise MediaError(f"{name} has {count} channels of sound, {MAX_CHANNELS} at most are read; mix them down first.")


class Downmixer:
    """Mixes frames of sound down to mono float32, block by block.

    Args:
        name: of the medium.
        method: "mean" is the average of the channels. "sum" is FFmpeg's downmix without normalisation. Where that does
            not know the channels, each has its weight in `SUM_WEIGHTS`; if none has, it is their sum over the root of
            their number, as of stereo.
        channel_names: those that the container lists, for frames that do not tell.
    """

    def __init__(self, name: str, method: str, channel_names: list[str]):
        self.name, self.method, self.channel_names = name, method, channel_names
        self.waiting, self.waiting_kind = av.AudioFifo(), None
        self.resamplers = {}

    def add(self, frame: av.AudioFrame) -> Iterator[np.ndarray]:
        """What is mixed down by now: `(num_samples,)` each."""
        # broadcasts change between stereo and 5.1
        kind = (frame.layout.name, frame.layout.nb_channels, frame.format.name)
        if kind != self.waiting_kind or self.waiting.samples >= BLOCK_SAMPLES:
            yield from self.flush()
            self.waiting, self.waiting_kind = av.AudioFifo(), kind
        frame.pts = None  # it would have to follow on the last one's
        self.waiting.write(frame)

    def flush(self) -> Iterator[np.ndarray]:
        frame = self.waiting.read()
        if frame is not None:
            yield self._mix(frame)

    def _mix(self, frame: av.AudioFrame) -> np.ndarray:
        count = frame.layout.nb_channels
        check_channels(self.name, count)
        if self.method == "mean" or count == 1:
            return self._channels(frame).mean(axis=0)
        names, is_listed = [channel.name for channel in frame.layout.channels], False
        if set(names) == {"NONE"} and len(self.channel_names) == count:
            names, is_listed = self.channel_names, True
        weights = np.float32([SUM_WEIGHTS.get(name, 0.0) for name in names])
        if not (is_listed and weights.any()):
            try:  # without names it takes the usual layout of so many channels
                return self._resample(frame, "fltp", "mono").to_ndarray()[0]
            except av.error.ArgumentError:  # it has no downmix of this layout
                pass
        return (weights if weights.any() else np.full(count, count**-0.5, np.float32)) @ self._channels(frame)

    def _channels(self, frame: av.AudioFrame) -> np.ndarray:
        """`(num_channels, num_samples)` float32."""
        count = frame.layout.nb_channels
        if (frame.format.is_planar and count > MAX_PLANES) or frame.format.name.startswith("s64"):
            frame = self._resample(frame, "flt", frame.layout)
        samples = frame.to_ndarray()  # or (1, all interleaved)
        return pcm_to_float(samples if frame.format.is_planar else samples.reshape(-1, count).T)

    def _resample(self, frame: av.AudioFrame, format: str, layout: av.AudioLayout | str) -> av.AudioFrame:
        kind = (self.waiting_kind, format)
        resampler = self.resamplers.pop(kind, None) or av.AudioResampler(format, layout, frame.sample_rate)
        (frame,) = resampler.resample(frame)
        self.resamplers[kind] = resampler  # to build one takes long; one that failed is not used again
        return frame


def pcm_to_float(samples: np.ndarray) -> np.ndarray:
    with np.errstate(over="ignore"):  # refused later on
        floats = samples.astype(np.float32)
    if samples.dtype.kind == "f":
        return floats
    full_scale = np.float32(2.0 ** (8 * samples.dtype.itemsize - 1))
    return (floats - full_scale if samples.dtype.kind == "u" else floats) / full_scale


# -- Sound: decoded, mixed down and resampled to mono float32


logger = logging.get_logger(__name__)

# A file's time stamps may jump this much before that is a gap: stamps are rounded, and streams are cut at packets.
GAP_SEC = 0.1
JUMP_SEC = 0.04  # a jump of stamps that count samples; streams may be joined less exactly
LOUDEST = 1e12  # a sample; the squares of larger ones are beyond single precision
RATES = (100, 1_000_000)  # per second; others are rubbish in a header
NO_DECODER = "has sound that no decoder knows"
UNHEARD_SEC = 0.1  # is cut off without a word: encoders fill up their last frame
GROWTH_SAMPLES = 1 << 22
PROGRESS_PACKETS = 100  # between two updates of the bar


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
    start_sec: float = 0.0,
    end_sec: float | None = None,
    **reading,
) -> AudioClip:
    """Read sound as mono float32 at `sampling_rate`.

    Args:
        source: a path, bytes or binary file object of a sound or video file, an http(s) URL if `allow_urls` is given,
            an [`AudioClip`], a pair `(array, sampling_rate)`, what `datasets` gives (a dict with "array" and
            "sampling_rate", or with "bytes" or "path", or torchcodec's AudioDecoder), or an array or tensor, for which
            `input_sampling_rate` is needed. Arrays are float or integer PCM, 1-D, or
            2-D with the channels along the shorter axis.
        downmix: "mean" averages the channels. "sum" is FFmpeg's downmix without normalisation, sqrt(2) louder for
            stereo: what the original checkpoint heard as the sound of videos.
        max_sec: only so many seconds, from the start.
        start_sec, end_sec: take this range only, counted from the first sample.
        reading: fields of [`ReadOptions`].
    """
    reading = ReadOptions.of(load_audio, reading)
    options = SoundOptions(sampling_rate, downmix, max_sec, TimeRange(start_sec, end_sec))
    source = plain_source("audio", source)
    if isinstance(source, AudioClip):
        source = (source.samples, source.sampling_rate)
    elif isinstance(source, Mapping):
        source = (source["array"], source["sampling_rate"])
    elif is_array(source) or isinstance(source, list):
        source = (source, input_sampling_rate)
    if isinstance(source, tuple):
        if len(source) != 2:
            raise MediaError(f"Sound in a tuple must be (array, sampling_rate), got {len(source)} items.")
        name, clip = "The sound array", _audio_from_array(*source, options, reading)
    else:
        source = MediaSource.of("audio", source, reading)
        name, clip = source.name, audio_from_container(source, options)
        if NO_DECODER in source.damage:
            raise MediaError(f"{name} {NO_DECODER}; convert it, to AAC for example.")
        source.log_damage()
    if clip is None:
        if options.range != TimeRange():
            raise MediaError(f"{name} has no sound in the range {options.range}; it is shorter or silent there.")
        raise MediaError(f"{name} has no sound; give a file with an audio stream.")
    return clip


@dataclass(frozen=True)
class SoundOptions:
    sampling_rate: int
    downmix: str
    max_sec: float | None
    range: TimeRange = field(default_factory=TimeRange)

    def __post_init__(self):
        if not (isinstance(self.sampling_rate, Integral) and self.sampling_rate > 0):
            raise ValueError(f"`sampling_rate` must be a positive whole number, got {self.sampling_rate!r}.")
        if self.downmix not in ("mean", "sum"):
            raise ValueError(f'`downmix` must be "mean" or "sum", got {self.downmix!r}.')
        if self.max_sec is not None and not (isinstance(self.max_sec, Real) and self.max_sec > 0):
            raise ValueError(f"The seconds of sound to keep must be positive, got {self.max_sec!r}.")

    @cached_property
    def kept_sec(self) -> float:
        return min(self.range.duration_sec, math.inf if self.max_sec is None else self.max_sec)


def audio_from_container(
    source: MediaSource, options: SoundOptions, origin_sec: float | None = None
) -> AudioClip | None:
    """The audio stream, time 0 at `origin_sec` of the container's clock if that is given, else its own start.

    None if there is none that a decoder knows, or nothing of it in the range.
    """
    sound, fills_gaps = None, origin_sec is not None or source.reading.on_damage == "warn"
    for frame, track, is_new_start in _audio_frames(source, options.range.start_sec, origin_sec):
        stamp = None if frame.pts is None else to_seconds(frame.pts, frame.time_base)
        if origin_sec is None:
            origin_sec = stamp
        place_sec = None if stamp is None or origin_sec is None else stamp - origin_sec
        if is_new_start:  # what was before it is not in the range
            lead_sec, names = place_sec or 0.0, track.channel_names
            sound = _SoundBuffer(source.name, frame.sample_rate, options, source.reading, lead_sec, names)
        elif frame.sample_rate != sound.input_rate:
            raise MediaError(f"{source.name} changes its sampling rate in the middle; convert it first.")
        elif fills_gaps and place_sec is not None:
            if source.clock.changes and sound.covers(frame, place_sec):  # recordings were joined, the first has padding
                continue
            sound.fill_until(place_sec)
        sound.add(frame)
        if sound.is_enough:
            break
    if sound is None:
        return None
    sound.warn_if_cut(track.duration_sec)
    return sound.finish()


@dataclass
class _Track:
    """What a container tells of its sound before it is decoded."""

    channel_names: list[str]
    duration_sec: float  # 0: it does not tell


def _audio_frames(
    source: MediaSource, start_sec: float, origin_sec: float | None
) -> Iterator[tuple[av.AudioFrame, _Track, bool]]:
    """Decoded frames of the audio stream: the first one, and those from a second before `start_sec` on.

    With each comes its track, and whether it is the first, or the first after others were left out.
    """
    name = source.name
    with source.container() as container:
        stream = choose_stream(source, container, "audio")
        if stream is None:
            return
        decoder = stream.codec_context
        if decoder is None:
            source.note(NO_DECODER)
            return
        decoder.options = {"err_detect": "crccheck+explode"}  # of FLAC, a damaged frame would be let through
        duration_sec = container.duration / av.time_base if container.duration else 0.0
        track = _Track(take_channel_names(name, decoder), duration_sec)
        packets, num_frames, num_broken = PacketReader(source, container, stream), 0, 0
        missing, foreign_sec = 0, None  # bytes of the newest frame; where something else than sound was
        skip_until, is_new_start, due_sec = -math.inf, True, math.inf  # a stamp; where the next frame should be
        # Recorders may leave gaps, so a jump alone tells of a loss in FLAC only, which has no stamps but its samples.
        is_damaged = {
            "flac": lambda: True,
            "ogg": lambda: source.has_lost_ogg_pages,
            "mpegts": lambda: packets.num_corrupt > 0,
        }.get(container.format.name)
        with source.reading.progress_bar(name, duration_sec, round(duration_sec), "s") as bar:
            for packet in chain(packets, [None]):  # None drains the decoder
                if num_frames and packet is not None and packet.pts is not None and packet.pts < skip_until:
                    is_new_start = True
                    continue
                if packet is not None:
                    sound, missing = _sound_of(container.format.name, packet)
                    if sound is None:  # tags, zeros
                        foreign_sec = packets.end_sec
                        continue
                    if foreign_sec is not None:
                        source.report(f"is damaged: at {foreign_sec:.2f} s there is something else than sound")
                    packet = sound
                try:
                    frames = decoder.decode(packet)
                except av.error.EOFError:
                    break
                except av.error.FFmpegError as error:
                    if source.reading.on_damage == "raise":
                        source.report(
                            f"is damaged or cut short: its sound does not decode at {packets.end_sec:.2f} s ({error})"
                        )
                    num_broken, frames = num_broken + 1, []
                for frame in frames:
                    num_frames += 1
                    if num_frames == 1 and frame.pts is not None:
                        first_sec = to_seconds(frame.pts, frame.time_base) if origin_sec is None else origin_sec
                        skip_until = (start_sec - 1 + first_sec) / stream.time_base
                    if is_damaged is not None and frame.pts is not None:
                        place_sec = to_seconds(frame.pts, frame.time_base)
                        if not is_new_start and place_sec > due_sec + JUMP_SEC and is_damaged():
                            lost = f"{place_sec - due_sec:.2f} s of its sound are missing at {due_sec:.2f} s"
                            source.report(f"is damaged: {lost}")
                        due_sec = place_sec + frame.samples / frame.sample_rate
                    yield frame, track, is_new_start
                    is_new_start = False
                if packets.count % PROGRESS_PACKETS == 0:
                    bar.update(max(0, int(packets.end_sec) - bar.n))
        source.check_complete(container, stream, packets)
        if missing:
            what = f"is cut short: {missing} bytes of its last frame are missing"
            # Recordings of radio stations in MP3 end anywhere.
            (source.note if decoder.codec.canonical_name == "mp3" else source.report)(what)
        if num_broken:
            source.report(
                f"is damaged: {num_broken} of {packets.count} audio packets do not decode, silence is in place"
            )
        if packets.count and not num_frames:
            raise MediaError(f"{name}: its {packets.count} audio packets hold no sound; get the file again.")


def _sound_of(format_name: str, packet: av.Packet) -> tuple[av.Packet | None, int]:
    """The whole frames of a packet, or None without any, and how many bytes the frame behind them lacks."""
    if format_name not in BARE_FORMATS:
        return packet, 0
    first, last, missing = whole_frames(format_name, bytes(packet))
    if last - first == packet.size:
        return packet, 0
    if first == last:
        return None, missing
    part = av.Packet(bytes(packet)[first:last])
    part.pts, part.dts, part.time_base = packet.pts, packet.dts, packet.time_base
    return part, missing


class _SoundBuffer:
    """Collects sound as mono, resampled on the way so that only the wanted rate is held in memory.

    `lead_sec` is the place of the first sample: so much silence goes before it; if negative, so much is cut.
    """

    def __init__(
        self,
        name: str,
        input_rate: int,
        options: SoundOptions,
        reading: ReadOptions,
        lead_sec: float = 0.0,
        channel_names: Sequence[str] = (),
    ):
        if not RATES[0] <= input_rate <= RATES[1]:
            raise MediaError(f"{name} claims {input_rate} samples per second; its header is damaged.")
        self.name, self.input_rate, self.options, self.reading = name, input_rate, options, reading
        self.lead_sec = lead_sec - options.range.start_sec
        self.num_input, self.stream = 0, None
        self.downmixer = Downmixer(name, options.downmix, channel_names)
        self.position = round(min(self.lead_sec, options.kept_sec) * options.sampling_rate)  # negative: is cut
        self.samples = np.zeros(0, np.float32)
        if input_rate != options.sampling_rate:
            self.stream = soxr.ResampleStream(input_rate, options.sampling_rate, 1, "float32", "HQ")

    @property
    def end_sec(self) -> float:
        return self.lead_sec + self.num_input / self.input_rate

    @property
    def is_enough(self) -> bool:
        # A second more than is kept, so that the resampling filter does not see an end there.
        return self.end_sec > self.options.kept_sec + 1

    def _count(self, num_samples: int) -> None:
        self.num_input += num_samples
        kept = min(self.end_sec, self.options.kept_sec)
        self.reading.media_limits.check(self.name, "max_audio_sec", kept, "seconds of sound")

    def add(self, frame: av.AudioFrame) -> None:
        self._count(frame.samples)
        self._append_all(self.downmixer.add(frame))

    def covers(self, frame: av.AudioFrame, sec: float) -> bool:
        """Whether there is sound already where a frame belongs, well beyond the rounding of stamps."""
        overlap_sec = self.end_sec - (sec - self.options.range.start_sec)
        return overlap_sec > max(GAP_SEC, frame.samples / self.input_rate)

    def fill_until(self, sec: float) -> None:
        """Silence up to a moment, if there is a gap; later sound keeps its place then."""
        gap_sec = sec - self.options.range.start_sec - self.end_sec
        if gap_sec <= GAP_SEC:
            return
        self._append_all(self.downmixer.flush())
        gap = round(min(gap_sec, max(0.0, self.options.kept_sec + 2 - self.end_sec)) * self.input_rate)
        self._count(gap)
        for first in range(0, gap, BLOCK_SAMPLES):
            self._append(np.zeros(min(BLOCK_SAMPLES, gap - first), np.float32))

    def _append_all(self, blocks: Iterator[np.ndarray]) -> None:
        for block in blocks:
            self._append(block)

    def _append(self, mono: np.ndarray, is_last: bool = False) -> None:
        block = mono if self.stream is None else self.stream.resample_chunk(mono, last=is_last)
        if not (np.abs(block) <= LOUDEST).all():  # NaN too
            raise MediaError(
                f"{self.name} contains NaN or infinite samples, or some above {LOUDEST:g} where full scale is 1; "
                "clean it first."
            )
        first, last = max(self.position, 0), self.position + len(block)
        if last > first:
            if last > len(self.samples):  # a large array grows in place: an hour is never held twice
                self.samples.resize(last + GROWTH_SAMPLES, refcheck=False)
            self.samples[first:last] = block[first - self.position :]
        self.position = last

    def warn_if_cut(self, duration_sec: float) -> None:
        """`duration_sec` of the whole sound is asked for only if its end was not reached."""
        total_sec = max(self.end_sec, duration_sec - self.options.range.start_sec if self.is_enough else 0.0)
        total_sec = min(total_sec, self.options.range.duration_sec)
        if total_sec > self.options.kept_sec + UNHEARD_SEC:
            logger.warning(
                f"{self.name}: only {self.options.kept_sec:g} s of its {total_sec:.2f} s of sound are kept; for more, "
                "raise `max_audio_sec` (of `load_audio`: `max_sec`)."
            )

    def finish(self) -> AudioClip | None:
        """The clip, or None if the head that was cut is all of it."""
        self._append_all(self.downmixer.flush())
        self._append(np.zeros(0, np.float32), is_last=True)
        rate, kept_sec = self.options.sampling_rate, self.options.kept_sec
        # soxr rounds to the nearest length, librosa up; as long as librosa's.
        end = round(self.lead_sec * rate) - (-self.num_input * rate // self.input_rate)
        if kept_sec < math.inf:
            end = min(end, max(1, round(kept_sec * rate)))
        if end <= 0:
            return None
        self.samples[end:] = 0
        self.samples.resize(end, refcheck=False)
        return AudioClip(self.samples, rate)


def _audio_from_array(array, input_rate, options: SoundOptions, reading: ReadOptions) -> AudioClip | None:
    if input_rate is None:
        raise MediaError(
            "Sound given as an array needs its sampling rate: pass `sampling_rate`, a pair "
            '(array, sampling_rate) or {"array": ..., "sampling_rate": ...}.'
        )
    if not (isinstance(input_rate, Real) and 0 < input_rate < math.inf and input_rate == int(input_rate)):
        raise MediaError(f"The sampling rate of the sound must be a positive whole number, got {input_rate!r}.")
    try:
        array = to_numpy(array)
    except ValueError as error:
        raise MediaError(f"Sound given as a list must be numbers ({error}).") from error
    if array.ndim not in (1, 2) or array.size == 0:
        raise MediaError(f"Sound must be (num_samples,) or (channels, num_samples), not {array.shape}.")
    if array.dtype.kind != "f" and array.dtype.newbyteorder("=") not in (np.uint8, np.int16, np.int32):
        raise MediaError(f"Sound must be float, or PCM as uint8, int16 or int32, not {array.dtype}.")
    channels = array.reshape(1, -1) if array.ndim == 1 else array if len(array) <= len(array[0]) else array.T
    if len(channels) > MAX_CHANNELS:
        raise MediaError(f"Sound has {MAX_CHANNELS} channels at most, got shape {array.shape}; pass the waveform.")
    sound = _SoundBuffer("The sound array", int(input_rate), options, reading)
    for first in range(0, channels.shape[1], BLOCK_SAMPLES):
        block = pcm_to_float(channels[:, first : first + BLOCK_SAMPLES])
        interleaved = np.ascontiguousarray(block.T).reshape(1, -1)
        frame = av.AudioFrame.from_ndarray(interleaved, format="flt", layout=f"{len(block)}C")
        frame.sample_rate = sound.input_rate
        sound.add(frame)
        if sound.is_enough:
            break
    sound.warn_if_cut(channels.shape[1] / sound.input_rate)
    return sound.finish()
