"""Sound of any channels, mixed down to one."""

from collections.abc import Iterator

import av
import numpy as np

from .media_limits_omnivinci import MediaError


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
