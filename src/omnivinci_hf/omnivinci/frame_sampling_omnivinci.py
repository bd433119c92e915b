"""This module chooses the frames of a video: by number, rate, index or time, of all of it or of a range."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from numbers import Integral, Real
from typing import Any

import numpy as np

from .media_reading_omnivinci import MediaError, TimeRange
from .options_omnivinci import FRAME_OPTIONS, POSITION_OPTIONS


def sample_indices(
    times: np.ndarray, duration_sec: float, *, num_frames: int | None = None, fps: float | None = None
) -> np.ndarray:
    """Chooses frames of a video that shows a frame at each of `times` and ends at `duration_sec`.

    `num_frames` spreads them evenly from first to last; a shorter video repeats frames, as the original
    checkpoint expects. `fps` takes the frames at or next after 0, 1/fps, 2/fps, ... , each once; when
    `num_frames` is given too, that many of these at most. With neither, every frame is taken.

    Args:
        times `(num_all_frames,)`: seconds, ascending.
        duration_sec: where the last frame ends to be shown.

    Returns:
        Indices `(num_chosen,)` of the chosen frames, ascending.

    Raises:
        ValueError: for a video without frames or length, or options that are not positive.
    """
    _check_sampling(num_frames, fps)
    if len(times) == 0 or not 0 < duration_sec < math.inf:
        raise ValueError(f"Got {len(times)} frames in {duration_sec} s; both must be positive.")
    candidates = np.arange(len(times), dtype=np.int64)
    if fps is not None:
        # A frame is the first at or after some k / fps where the number of ticks so far grows. The margin
        # keeps a frame that is due exactly at a tick from missing it by a rounding error.
        ticks = np.floor(np.asarray(times, dtype=np.float64) * fps + 1e-6)
        candidates = candidates[np.diff(ticks, prepend=-math.inf) > 0]
    if num_frames is None or (fps is not None and len(candidates) <= num_frames):
        return candidates
    return candidates[np.round(np.linspace(0, len(candidates) - 1, num_frames)).astype(np.int64)]


@dataclass(frozen=True)
class FrameChoice:
    """A frame choice says which frames of a video are taken; see [`load_video`] for the fields."""

    num_frames: int | None = None
    fps: float | None = None
    frame_indices: np.ndarray | None = None
    frame_times: np.ndarray | None = None
    range: TimeRange = field(default_factory=TimeRange)

    def __post_init__(self):
        _check_sampling(self.num_frames, self.fps)
        given = [name for name in POSITION_OPTIONS if getattr(self, name) is not None]
        if given and (len(given) > 1 or self.num_frames is not None or self.fps is not None):
            raise ValueError("Give either `frame_indices`, or `frame_times`, or `num_frames` and `fps`.")
        for name in given:
            POSITION_OPTIONS[name].check(name, getattr(self, name))
            object.__setattr__(self, name, np.asarray(getattr(self, name)))

    @property
    def is_explicit(self) -> bool:
        """Whether the frames are given one by one, by index or by time."""
        return self.frame_indices is not None or self.frame_times is not None

    def choose(self, name: str, times: np.ndarray, duration_sec: float) -> np.ndarray:
        """Chooses frames of the video that errors call `name`, which shows a frame at each of `times`.

        Returns:
            Their indices `(num_chosen,)`.

        Raises:
            MediaError: for frames that the video, or the range of it, does not have.
        """
        first, stop, end_sec = self.bounds(name, times, duration_sec)
        if not self.is_explicit:
            inside = np.maximum(times[first:stop] - self.range.start_sec, 0.0)
            return first + sample_indices(
                inside, end_sec - self.range.start_sec, num_frames=self.num_frames, fps=self.fps
            )
        if self.frame_times is None:
            option, given, allowed = "frame_indices", np.asarray(self.frame_indices), f"{first} to {stop - 1}"
            indices = given
            inside = (indices >= first) & (indices < stop)
        else:
            option, given = "frame_times", self.frame_times
            allowed = f"{self.range.start_sec:g} to below {end_sec:g} s"
            # The frame that is shown at that moment. The margin is for times such as 7 / 30 written with few digits.
            indices = np.searchsorted(times, given + 1e-6, side="right") - 1
            inside = (indices >= first) & (indices < stop) & (given >= self.range.start_sec) & (given < end_sec)
        if not inside.all():
            raise MediaError(f"{name}: {option}={given[~inside].tolist()[:10]} are not there; it has {allowed}.")
        return indices.astype(np.int64)

    def bounds(self, name: str, times: np.ndarray, duration_sec: float) -> tuple[int, int, float]:
        """Finds the frames of the range: the first, the one after the last, and the end of the range in seconds.

        The first may have been shown for a while when the range begins.

        Raises:
            MediaError: when the video ends before the range begins.
        """
        if self.range.start_sec >= duration_sec:
            raise MediaError(f"{name} lasts {duration_sec:g} s; nothing is in the range {self.range}.")
        end_sec = duration_sec if self.range.end_sec is None else min(duration_sec, self.range.end_sec)
        first = int(np.searchsorted(times, self.range.start_sec - 1e-6, side="left"))
        if first == len(times) or times[first] > self.range.start_sec + 1e-6:  # else of twins the first
            first = max(0, first - 1)
        stop = len(times) if end_sec == duration_sec else int(np.searchsorted(times, end_sec - 1e-6, side="left"))
        return first, max(first + 1, stop), end_sec


def check_choice(options: Mapping[str, Any]) -> None:
    """Refuses options of a call or a part whose choice of frames, or whose range, contradicts itself."""
    chosen = {name: options.get(name) for name in FRAME_OPTIONS}
    FrameChoice(**chosen, range=TimeRange(options.get("start_sec") or 0.0, options.get("end_sec")))


def _check_sampling(num_frames: int | None, fps: float | None) -> None:
    is_whole = isinstance(num_frames, Integral) and not isinstance(num_frames, bool)
    if num_frames is not None and not (is_whole and num_frames > 0):
        raise ValueError(f"`num_frames` must be a positive whole number, got {num_frames!r}.")
    if fps is not None and not (isinstance(fps, Real) and not isinstance(fps, bool) and 0 < fps < math.inf):
        raise ValueError(f"`fps` must be a positive number, got {fps!r}.")
