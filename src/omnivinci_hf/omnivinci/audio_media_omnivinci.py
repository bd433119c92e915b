"""This module loads audio: from files, arrays and decoders to one channel at the wanted rate."""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import chain
from numbers import Integral, Real
from typing import Any, NamedTuple

import av
import numpy as np
import soxr
from transformers.utils import logging

from .media_containers_omnivinci import (
    PacketReader,
    check_complete,
    choose_stream,
    clock_of,
    container_row,
    open_container,
    time_base,
    to_seconds,
)
from .media_reading_omnivinci import MediaError, ReadOptions, TimeRange
from .media_sources_omnivinci import MediaSource, is_array, plain_source, read_options, to_numpy
from .media_structure_omnivinci import whole_frames


logger = logging.get_logger(__name__)

# A file's time stamps may jump this much before that is a gap: stamps are rounded, and streams are cut at packets.
GAP_SEC = 0.1
JUMP_SEC = 0.04  # a jump of stamps that count samples; streams may be joined less exactly
LOUDEST = 1e12  # a sample; the squares of larger ones are beyond single precision
RATES = (100, 1_000_000)  # per second; others are rubbish in a header
NO_DECODER = "has audio that no decoder knows"
UNHEARD_SEC = 0.1  # is cut off without a word: encoders fill up their last frame
GROWTH_SAMPLES = 1 << 22
PROGRESS_PACKETS = 100  # between two updates of the bar
BLOCK_SAMPLES = 1 << 16  # mixed down at once
ARRAY_NAME = "The audio array"


@dataclass
class AudioClip:
    """An audio clip is mono: `samples` float32 of shape `(num_samples,)` at `sampling_rate` per second."""

    samples: np.ndarray
    sampling_rate: int

    @property
    def duration_sec(self) -> float:
        """The length of the clip in seconds."""
        return len(self.samples) / self.sampling_rate


def load_audio(
    source: Any,
    *,
    sampling_rate: int = 16000,
    input_sampling_rate: int | None = None,
    downmix: str = "mean",
    max_audio_sec: float | None = None,
    start_sec: float = 0.0,
    end_sec: float | None = None,
    **reading: Any,
) -> AudioClip:
    """Reads audio as mono float32 at `sampling_rate`.

    Args:
        source: a path, bytes or binary file object of an audio or video file, an http(s) URL if `allow_urls` is given,
            an [`AudioClip`], a pair `(array, sampling_rate)`, what `datasets` gives (a dict with "array" and
            "sampling_rate", or with "bytes" or "path", or torchcodec's AudioDecoder), or an array or tensor, for which
            `input_sampling_rate` is needed. Arrays are float or integer PCM, 1-D, or
            2-D with the channels along the shorter axis.
        downmix: "mean" averages the channels. "sum" is FFmpeg's downmix without normalisation, sqrt(2) louder for
            stereo: what the original checkpoint heard as the audio of videos.
        max_audio_sec: only so many seconds, from the start.
        start_sec, end_sec: take this range only, counted from the first sample.
        reading: `timeout_sec`, `media_limits`, `on_damage`, `progress`, `allow_urls`, `allow_redirects`,
            `allow_private_addresses`, `num_threads` and `cancelled`, as in [`ReadOptions`].

    Raises:
        MediaError: when it cannot be read, or there is no audio in it or in the range.
    """
    read_with = read_options(load_audio, reading)
    options = AudioOptions(sampling_rate, downmix, max_audio_sec, TimeRange(start_sec, end_sec))
    source = plain_source("audio", source)
    if isinstance(source, AudioClip):
        source = (source.samples, source.sampling_rate)
    elif isinstance(source, Mapping):
        source = (source["array"], source["sampling_rate"])
    elif is_array(source) or isinstance(source, list):
        source = (source, input_sampling_rate)
    if isinstance(source, tuple):
        if len(source) != 2:
            raise MediaError(f"Audio in a tuple must be (array, sampling_rate), got {len(source)} items.")
        name, clip = ARRAY_NAME, _audio_from_array(*source, options, read_with)
    else:
        medium = MediaSource.of("audio", source, read_with)
        name, clip = medium.name, audio_from_container(medium, options)
        if NO_DECODER in medium.damage:
            raise MediaError(f"{name} {NO_DECODER}; convert it, to AAC for example.")
        medium.log_damage()
    if clip is None:
        if options.range != TimeRange():
            raise MediaError(f"{name} has no audio in the range {options.range}; it is shorter or silent there.")
        raise MediaError(f"{name} has no audio; give a file with an audio stream.")
    return clip


@dataclass(frozen=True)
class AudioOptions:
    """These options say what is made of audio; see [`load_audio`].

    Args:
        sampling_rate: of the clip.
        downmix: "mean" or "sum".
        max_audio_sec: only so many seconds; None: all.
        range: that is taken.
    """

    sampling_rate: int
    downmix: str
    max_audio_sec: float | None
    range: TimeRange = field(default_factory=TimeRange)

    def __post_init__(self):
        if not (isinstance(self.sampling_rate, Integral) and self.sampling_rate > 0):
            raise ValueError(f"`sampling_rate` must be a positive whole number, got {self.sampling_rate!r}.")
        if self.downmix not in ("mean", "sum"):
            raise ValueError(f'`downmix` must be "mean" or "sum", got {self.downmix!r}.')
        if self.max_audio_sec is not None and not (isinstance(self.max_audio_sec, Real) and self.max_audio_sec > 0):
            raise ValueError(f"The seconds of audio to keep must be positive, got {self.max_audio_sec!r}.")

    @cached_property
    def kept_sec(self) -> float:
        """The most seconds that are kept."""
        return min(self.range.duration_sec, math.inf if self.max_audio_sec is None else self.max_audio_sec)


def audio_from_container(
    source: MediaSource, options: AudioOptions, origin_sec: float | None = None
) -> AudioClip | None:
    """Reads the audio stream of a container.

    Args:
        origin_sec: time 0 of the clip on the container's clock; None: where the audio itself starts. If it is given,
            gaps are filled with silence.

    Returns None if there is no stream that a decoder knows, or nothing of it in the range.
    """
    buffer: _AudioBuffer | None = None
    fills_gaps = origin_sec is not None or source.reading.on_damage == "warn"
    with open_container(source) as container:
        reader = _AudioReader.of(source, container)
        if reader is None:
            return None
        for frame, place_sec, is_new_start in reader.frames(options.range.start_sec, origin_sec):
            if buffer is None or is_new_start:  # what was before it is not in the range
                lead_sec, names = place_sec or 0.0, reader.channel_names
                buffer = _AudioBuffer(source.name, frame.sample_rate, options, source.reading, lead_sec, names)
            elif frame.sample_rate != buffer.input_rate:
                raise MediaError(f"{source.name} changes its sampling rate in the middle; convert it first.")
            elif fills_gaps and place_sec is not None:
                is_joined = bool(clock_of(source, reader.row).changes)
                if is_joined and buffer.covers(frame, place_sec):  # the first recording has padding
                    continue
                buffer.fill_until(place_sec)
            buffer.add(frame)
            if buffer.is_enough:
                break
    if buffer is None:
        return None
    buffer.warn_if_cut(reader.duration_sec)
    return buffer.finish()


class _PlacedFrame(NamedTuple):
    """A placed frame is a decoded one, at `place_sec` after the origin of the clip.

    `is_new_start` of the first one, and of the first one after others were left out.
    """

    frame: av.AudioFrame
    place_sec: float | None
    is_new_start: bool


class _AudioReader:
    """The reader decodes an audio stream, and reports what is damaged or missing in it.

    Args:
        channel_names: those that the container lists.
        duration_sec: of the container; 0: it does not tell.
    """

    @classmethod
    def of(cls, source: MediaSource, container: av.container.InputContainer) -> "_AudioReader | None":
        """Makes a reader of the stream that players take; None if there is none, or no decoder for it."""
        stream = choose_stream(source, container, "audio")
        if stream is None:
            return None
        if stream.codec_context is None:
            source.note(NO_DECODER)
            return None
        return cls(source, container, stream)

    def __init__(self, source: MediaSource, container: av.container.InputContainer, stream: av.AudioStream):
        self.source, self.container, self.stream, self.decoder = source, container, stream, stream.codec_context
        self.row = container_row(container)
        self.decoder.options = {"err_detect": "crccheck+explode"}  # of FLAC, a damaged frame would be let through
        self.channel_names = take_channel_names(source.name, self.decoder)
        self.duration_sec = container.duration / av.time_base if container.duration else 0.0
        self.packets = PacketReader(source, container, stream)
        self.num_frames = self.num_broken = 0
        self.num_missing_bytes = 0  # of the newest frame of a bare stream
        self.foreign_sec: float | None = None  # where something else than audio was
        self.due_sec = math.inf  # where the next frame should be
        self.losses: dict[int, bool] = {}  # whether a jump is a loss, by the number of corrupt packets so far

    def frames(self, start_sec: float, origin_sec: float | None) -> Iterator[_PlacedFrame]:
        """Yields the first frame, and those from a second before `start_sec` on."""
        skip_until, is_new_start = -math.inf, True  # a stamp
        with self.source.reading.progress_bar(
            self.source.name, self.duration_sec, round(self.duration_sec), "s"
        ) as bar:
            for packet in chain(self.packets, [None]):  # None drains the decoder
                if self.num_frames and packet is not None and packet.pts is not None and packet.pts < skip_until:
                    is_new_start = True
                    continue
                decoded = self._decode(packet)
                if decoded is None:
                    break
                for frame in decoded:
                    self.num_frames += 1
                    stamp_sec = _stamp_sec(frame)
                    origin_sec = stamp_sec if origin_sec is None else origin_sec
                    place_sec = None if stamp_sec is None or origin_sec is None else stamp_sec - origin_sec
                    if self.num_frames == 1 and origin_sec is not None and stamp_sec is not None:
                        skip_until = (start_sec - 1 + origin_sec) / time_base(self.stream)
                    self._check_jump(frame, stamp_sec, is_new_start)
                    yield _PlacedFrame(frame, place_sec, is_new_start)
                    is_new_start = False
                if self.packets.num_packets % PROGRESS_PACKETS == 0:
                    bar.update(max(0, int(self.packets.end_sec) - bar.n))
        self._check_end()

    def _decode(self, packet: av.Packet | None) -> list[av.AudioFrame] | None:
        """Decodes a packet; None drains the decoder. Returns None at the decoder's end."""
        if packet is not None and self.row.frame_bytes is not None:
            packet = self._whole_frames(packet, self.row.frame_bytes)
            if packet is None:
                return []
        try:
            return self.decoder.decode(packet)
        except av.error.EOFError:
            return None
        except av.error.FFmpegError as error:
            if self.source.reading.on_damage == "raise":
                place = f"its audio does not decode at {self.packets.end_sec:.2f} s"
                self.source.report(f"is damaged or cut short: {place} ({error})")
            self.num_broken += 1
            return []

    def _whole_frames(self, packet: av.Packet, frame_bytes: Callable[[bytes], int | None]) -> av.Packet | None:
        """Returns the whole frames in a packet of a bare stream; None if it has tags or zeros only."""
        data = bytes(packet)
        first, last, self.num_missing_bytes = whole_frames(frame_bytes, data)
        if first == last:
            self.foreign_sec = self.packets.end_sec
            return None
        if self.foreign_sec is not None:
            self.source.report(f"is damaged: at {self.foreign_sec:.2f} s there is something else than audio")
        if last - first == packet.size:
            return packet
        part = av.Packet(data[first:last])
        part.pts, part.dts, part.time_base = packet.pts, packet.dts, packet.time_base
        return part

    def _check_jump(self, frame: av.AudioFrame, stamp_sec: float | None, is_new_start: bool) -> None:
        """Reports a jump of the time stamps, where it is a loss and no gap that a recorder left."""
        if self.row.jump_is_loss is None or stamp_sec is None:
            return
        if not is_new_start and stamp_sec > self.due_sec + JUMP_SEC:
            num_corrupt = self.packets.num_corrupt
            if num_corrupt not in self.losses:
                with self.source.open() as file:
                    self.losses[num_corrupt] = self.row.jump_is_loss(file, num_corrupt)
            if self.losses[num_corrupt]:
                lost = f"{stamp_sec - self.due_sec:.2f} s of its audio are missing at {self.due_sec:.2f} s"
                self.source.report(f"is damaged: {lost}")
        self.due_sec = stamp_sec + frame.samples / frame.sample_rate

    def _check_end(self) -> None:
        """Reports what is missing after all packets were read."""
        source, num_packets = self.source, self.packets.num_packets
        check_complete(source, self.container, self.stream, self.packets)
        if self.num_missing_bytes:
            what = f"is cut short: {self.num_missing_bytes} bytes of its last frame are missing"
            # Recordings of radio stations in MP3 end anywhere.
            (source.note if self.decoder.codec.canonical_name == "mp3" else source.report)(what)
        if self.num_broken:
            source.report(
                f"is damaged: {self.num_broken} of {num_packets} audio packets do not decode, silence is in place"
            )
        if num_packets and not self.num_frames:
            raise MediaError(f"{source.name}: its {num_packets} audio packets hold no samples; get the file again.")


def _stamp_sec(frame: av.AudioFrame) -> float | None:
    """Returns the time stamp of a frame in seconds; None if it has none."""
    return None if frame.pts is None or frame.time_base is None else to_seconds(frame.pts, frame.time_base)


def _audio_from_array(array: Any, input_rate: Any, options: AudioOptions, reading: ReadOptions) -> AudioClip | None:
    """Makes a clip of samples in an array or list."""
    if input_rate is None:
        raise MediaError(
            "Audio given as an array needs its sampling rate: pass `sampling_rate`, a pair "
            '(array, sampling_rate) or {"array": ..., "sampling_rate": ...}.'
        )
    is_number = isinstance(input_rate, Real)
    if not (is_number and 0 < input_rate < math.inf and input_rate == int(input_rate)):
        raise MediaError(f"The sampling rate of the audio must be a positive whole number, got {input_rate!r}.")
    channels = _channels_of_array(array)
    buffer = _AudioBuffer(ARRAY_NAME, int(input_rate), options, reading)
    for first in range(0, channels.shape[1], BLOCK_SAMPLES):
        block = pcm_to_float(channels[:, first : first + BLOCK_SAMPLES])
        interleaved = np.ascontiguousarray(block.T).reshape(1, -1)
        frame = av.AudioFrame.from_ndarray(interleaved, format="flt", layout=f"{len(block)}C")
        frame.sample_rate = buffer.input_rate
        buffer.add(frame)
        if buffer.is_enough:
            break
    buffer.warn_if_cut(channels.shape[1] / buffer.input_rate)
    return buffer.finish()


def _channels_of_array(array: Any) -> np.ndarray:
    """Returns samples of an array or list as `(num_channels, num_samples)`."""
    try:
        array = to_numpy(array)
    except ValueError as error:
        raise MediaError(f"Audio given as a list must be numbers ({error}).") from error
    if array.ndim not in (1, 2) or array.size == 0:
        raise MediaError(f"Audio must be (num_samples,) or (channels, num_samples), not {array.shape}.")
    if array.dtype.kind != "f" and array.dtype.newbyteorder("=") not in (np.uint8, np.int16, np.int32):
        raise MediaError(f"Audio must be float, or PCM as uint8, int16 or int32, not {array.dtype}.")
    channels = array.reshape(1, -1) if array.ndim == 1 else array if len(array) <= len(array[0]) else array.T
    if len(channels) > MAX_CHANNELS:
        raise MediaError(f"Audio has {MAX_CHANNELS} channels at most, got shape {array.shape}; pass the waveform.")
    return channels


class _AudioBuffer:
    """The buffer collects audio as mono, resampled on the way so that only the wanted rate is held in memory.

    `lead_sec` is the place of the first sample: so much silence goes before it; if negative, so much is cut.
    """

    def __init__(
        self,
        name: str,
        input_rate: int,
        options: AudioOptions,
        reading: ReadOptions,
        lead_sec: float = 0.0,
        channel_names: Sequence[str] = (),
    ):
        if not RATES[0] <= input_rate <= RATES[1]:
            raise MediaError(f"{name} claims {input_rate} samples per second; its header is damaged.")
        self.name, self.input_rate, self.options, self.reading = name, input_rate, options, reading
        self.lead_sec = lead_sec - options.range.start_sec
        self.num_input = 0
        self.resampler: soxr.ResampleStream | None = None
        self.downmixer = Downmixer(name, options.downmix, channel_names)
        self.position = round(min(self.lead_sec, options.kept_sec) * options.sampling_rate)  # negative: is cut
        self.samples = np.zeros(0, np.float32)
        if input_rate != options.sampling_rate:
            self.resampler = soxr.ResampleStream(input_rate, options.sampling_rate, 1, "float32", "HQ")

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
        self.reading.media_limits.check(self.name, "max_audio_sec", kept, "seconds of audio")

    def add(self, frame: av.AudioFrame) -> None:
        """Adds a frame behind the others."""
        self._count(frame.samples)
        self._append_all(self.downmixer.add(frame))

    def covers(self, frame: av.AudioFrame, sec: float) -> bool:
        """Whether there is audio already where a frame belongs, well beyond the rounding of stamps."""
        overlap_sec = self.end_sec - (sec - self.options.range.start_sec)
        return overlap_sec > max(GAP_SEC, frame.samples / self.input_rate)

    def fill_until(self, sec: float) -> None:
        """Adds silence up to a moment, if there is a gap, so that later audio keeps its place."""
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
        block = mono if self.resampler is None else self.resampler.resample_chunk(mono, last=is_last)
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
        """Warns that audio is left out; `duration_sec` of all of it counts only if its end was not reached."""
        total_sec = max(self.end_sec, duration_sec - self.options.range.start_sec if self.is_enough else 0.0)
        total_sec = min(total_sec, self.options.range.duration_sec)
        if total_sec > self.options.kept_sec + UNHEARD_SEC:
            logger.warning(
                f"{self.name}: only {self.options.kept_sec:g} s of its {total_sec:.2f} s of audio are kept; for more, "
                "raise `max_audio_sec`."
            )

    def finish(self) -> AudioClip | None:
        """Returns the clip, or None if the head that was cut is all of it."""
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


# -- Several channels become one


MAX_CHANNELS = 64  # of FFmpeg's resampler
# PyAV takes the pointers to planes up to the first that is null, and an array of eight or more has none.
MAX_PLANES = 7
# So much FFmpeg's downmix takes of each channel, without normalisation; of others, such as LFE, it takes nothing.
# Of ambisonic audio the first channel is what one microphone for all directions hears.
SUM_WEIGHTS = {
    **dict.fromkeys(("FC", "AMBI0"), 1.0),
    **dict.fromkeys(("FL", "FR", "FLC", "FRC", "TFL", "TFR"), 0.5**0.5),
    **dict.fromkeys(("BL", "BR", "BC", "SL", "SR"), 0.5),
}


def take_channel_names(name: str, decoder: av.AudioCodecContext) -> list[str]:
    """Returns the channels that the container lists, in its order, and leaves the decoder without such a list.

    Of an order that is not FFmpeg's, PyAV frees the list twice, once with a frame and once with the frame's `layout`,
    which ends the process. Here it comes to belong to `layout` alone.
    """
    layout = decoder.layout
    if layout.nb_channels:  # else only its packets tell
        has_special_order = " channels" in layout.name  # or none
        decoder.layout = f"{layout.nb_channels}C" if has_special_order else layout.name
    check_channels(name, layout.nb_channels)
    return [channel.name for channel in layout.channels]


def check_channels(name: str, count: int) -> None:
    """Refuses more channels than FFmpeg mixes down."""
    if count > MAX_CHANNELS:
        raise MediaError(f"{name} has {count} channels of audio, {MAX_CHANNELS} at most are read; mix them down first.")


class Downmixer:
    """The downmixer makes mono float32 of audio frames, block by block.

    Args:
        name: of the medium.
        method: "mean" is the average of the channels. "sum" is FFmpeg's downmix without normalisation. Where that does
            not know the channels, each has its weight in `SUM_WEIGHTS`; if none has, it is their sum over the root of
            their number, as of stereo.
        channel_names: those that the container lists, for frames that do not tell.
    """

    def __init__(self, name: str, method: str, channel_names: Sequence[str]):
        self.name, self.method, self.channel_names = name, method, channel_names
        self.waiting = av.AudioFifo()
        self.waiting_form: tuple[str, int, str] | None = None  # layout, number of channels and format of its frames
        self.resamplers: dict[tuple[tuple[str, int, str] | None, str], av.AudioResampler] = {}

    def add(self, frame: av.AudioFrame) -> Iterator[np.ndarray]:
        """Takes a frame and yields what is mixed down by now, `(num_samples,)` each."""
        # broadcasts change between stereo and 5.1
        form = (frame.layout.name, frame.layout.nb_channels, frame.format.name)
        if form != self.waiting_form or self.waiting.samples >= BLOCK_SAMPLES:
            yield from self.flush()
            self.waiting, self.waiting_form = av.AudioFifo(), form
        frame.pts = None  # it would have to follow on the last one's
        self.waiting.write(frame)

    def flush(self) -> Iterator[np.ndarray]:
        """Yields what waits to be mixed down."""
        frame = self.waiting.read()
        if frame is not None:
            yield self._mix(frame)

    def _mix(self, frame: av.AudioFrame) -> np.ndarray:
        count = frame.layout.nb_channels
        check_channels(self.name, count)
        if self.method == "mean" or count == 1:
            return self._channels(frame).mean(axis=0)
        names: Sequence[str] = [channel.name for channel in frame.layout.channels]
        is_listed = False
        if set(names) == {"NONE"} and len(self.channel_names) == count:
            names, is_listed = self.channel_names, True
        weights = np.array([SUM_WEIGHTS.get(name, 0.0) for name in names], dtype=np.float32)
        if not (is_listed and weights.any()):
            try:  # without names it takes the usual layout of so many channels
                return self._resample(frame, "fltp", "mono").to_ndarray()[0]
            except av.error.ArgumentError:  # it has no downmix of this layout
                pass
        return (weights if weights.any() else np.full(count, count**-0.5, np.float32)) @ self._channels(frame)

    def _channels(self, frame: av.AudioFrame) -> np.ndarray:
        """Returns the samples as float32 `(num_channels, num_samples)`."""
        count = frame.layout.nb_channels
        if (frame.format.is_planar and count > MAX_PLANES) or frame.format.name.startswith("s64"):
            frame = self._resample(frame, "flt", frame.layout)
        samples = frame.to_ndarray()  # or (1, all interleaved)
        return pcm_to_float(samples if frame.format.is_planar else samples.reshape(-1, count).T)

    def _resample(self, frame: av.AudioFrame, format: str, layout: av.AudioLayout | str) -> av.AudioFrame:
        key = (self.waiting_form, format)
        resampler = self.resamplers.pop(key, None) or av.AudioResampler(format, layout, frame.sample_rate)
        (frame,) = resampler.resample(frame)
        self.resamplers[key] = resampler  # to build one takes long; one that failed is not used again
        return frame


def pcm_to_float(samples: np.ndarray) -> np.ndarray:
    """Makes float32 of samples, those of integers with full scale 1."""
    with np.errstate(over="ignore"):  # refused later on
        floats = samples.astype(np.float32)
    if samples.dtype.kind == "f":
        return floats
    full_scale = np.float32(2.0 ** (8 * samples.dtype.itemsize - 1))
    return (floats - full_scale if samples.dtype.kind == "u" else floats) / full_scale
