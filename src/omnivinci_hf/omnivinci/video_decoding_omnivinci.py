"""Decodes the wanted frames of a video, by feeding only the packets that they need, and turns them upright."""

import math
import threading
from collections import Counter, deque
from collections.abc import Callable
from functools import partial
from itertools import chain
from typing import Any, Protocol

import av
import numpy as np
from av.video.reformatter import VideoReformatter
from PIL import Image

from .media_omnivinci import MediaSource, PacketReader, check_pixels
from .media_reading_omnivinci import run_all
from .video_table_omnivinci import FrameTable, begins_anew, open_decoder


MATRIX_TOLERANCE = 0.02  # about one degree, as FFmpeg's programs have it

# By the signs of a, b, c, d of a display matrix, which puts the pixel at (x, y) to (a x + c y, b x + d y), y downwards.
_ORIENTATIONS = {
    (1, 0, 0, 1): None,
    (-1, 0, 0, 1): Image.Transpose.FLIP_LEFT_RIGHT,
    (1, 0, 0, -1): Image.Transpose.FLIP_TOP_BOTTOM,
    (-1, 0, 0, -1): Image.Transpose.ROTATE_180,
    (0, 1, -1, 0): Image.Transpose.ROTATE_270,  # Pillow turns counter-clockwise
    (0, -1, 1, 0): Image.Transpose.ROTATE_90,
    (0, 1, 1, 0): Image.Transpose.TRANSPOSE,
    (0, -1, -1, 0): Image.Transpose.TRANSVERSE,
}


class Frames(Protocol):
    """Takes the wanted frames, from several threads."""

    wanted: list[int]  # indices
    missing: list[int]

    def add(self, index: int, image: Image.Image) -> None: ...

    def forget(self, index: int) -> None: ...


def decode_frames(source: MediaSource, table: FrameTable, frames: Frames, listen: Callable) -> Any:
    """Put the wanted frames into `frames`, as far as they decode, and return what `listen` does meanwhile."""
    wanted, num_threads = set(frames.wanted), source.reading.num_threads
    with source.reading.progress_bar(source.name, table.duration_sec, len(wanted), "frame") as bar:
        of_thread, matrices = threading.local(), {}

        def deliver(index: int, frame: av.VideoFrame) -> None:
            source.reading.check_cancelled()
            if not hasattr(of_thread, "reformatter"):
                of_thread.reformatter = VideoReformatter()
            # Side data and frame refer to each other, so that reading it from each would keep many frames in memory.
            if frame.rotation not in matrices:
                matrices[frame.rotation] = _display_matrix(frame)
            frames.add(index, _upright_image(source, frame, of_thread.reformatter, matrices[frame.rotation]))
            bar.update()

        intervals = deque(table.intervals(wanted))
        num_feeders = min(num_threads, len(intervals))
        frame_threads = num_threads if num_feeders == 1 else 1
        feed = partial(_feed, source, table, wanted, intervals, frame_threads, deliver)
        audio, *unsure = run_all([listen] + [feed] * num_feeders, num_threads, source.reading.cancelled)
        for index in set().union(*unsure):
            frames.forget(index)
        if frames.missing:
            # No choice, some key frame was none (an intra refresh point), or damage: decode from the start.
            for index in _decode_in_order(source, table, set(frames.missing), deliver):
                frames.forget(index)
        if frames.missing:
            _decode_first_group(source, table, set(frames.missing), deliver)
    return audio


class _Recogniser:
    """Knows by its packet which frame a decoder shows."""

    def __init__(self, table: FrameTable):
        self.table, self.num_shown = table, Counter()  # of each packet

    def index_of(self, frame: av.VideoFrame) -> int | None:
        number, indices = self.num_shown[frame.pts], self.table.indices_at.get(frame.pts, ())
        self.num_shown[frame.pts] += 1
        return indices[number] if number < len(indices) else None


def _feed(
    source: MediaSource, table: FrameTable, wanted: set[int], intervals: deque, frame_threads: int, deliver: Callable
) -> set[int]:
    """Give a decoder only what the wanted frames need; seeking misses frames in some formats.

    Several threads share `intervals`, each with a decoder of its own. Returns indices of frames that were delivered but
    are not to be believed, for an error in their interval.
    """
    unsure, wanted_positions = set(), {table.positions[index] for index in wanted}
    with source.container() as container:
        stream, decoder = open_decoder(container, source, frame_threads)
        packets = enumerate(PacketReader(source, container, stream))
        while intervals:
            try:
                first, last = intervals.popleft()
            except IndexError:  # another thread was faster
                break
            is_clean, delivered, recogniser = True, set(), _Recogniser(table)
            for position, packet in packets:
                if position < first:
                    continue
                packet.pts = position  # decoders hand it on to the frame
                decoder.skip_frame = "DEFAULT" if position in wanted_positions else "NONREF"
                frames = []
                try:
                    frames += decoder.decode(packet)
                    if position == last:
                        frames += decoder.decode(None)
                except av.error.FFmpegError:
                    # Frames that are shown before the first key frame refer to frames that were not fed.
                    is_clean &= frame_threads == 1 and table.order[position] < table.order[first]
                for frame in frames if is_clean else ():
                    index = recogniser.index_of(frame)
                    if index in wanted and not frame.is_corrupt:
                        deliver(index, frame)
                        delivered.add(index)
                if position == last:
                    break
            if not is_clean:
                unsure |= delivered
            decoder.flush_buffers()
    return unsure


def _decode_in_order(source: MediaSource, table: FrameTable, wanted: set[int], deliver: Callable) -> set[int]:
    """Decode from the start. After an error no frame is believed until the next key frame.

    Neither is the one before the error: decoders often notice late. Its index is returned.
    """
    wanted, clean_from, unsure, recogniser = set(wanted), -math.inf, set(), _Recogniser(table)
    with source.container() as container:
        stream, decoder = open_decoder(container, source)
        packets, position = iter(PacketReader(source, container, stream)), -1
        while wanted:
            packet, position = next(packets, None), position + 1
            if packet is not None:
                packet.pts = position
                if clean_from == math.inf and packet.is_keyframe:
                    clean_from = table.order[position]
            try:
                frames = decoder.decode(packet)
            except av.error.EOFError:
                break
            except av.error.FFmpegError:
                frames, clean_from = [], math.inf
                unsure.update(table.indices_at.get(position - 1, ()))
            for frame in frames:
                index = recogniser.index_of(frame)
                if index in wanted and table.order[frame.pts] >= clean_from and not frame.is_corrupt:
                    deliver(index, frame)
                    wanted.remove(index)
            if packet is None:
                break
    return unsure


def _decode_first_group(source: MediaSource, table: FrameTable, wanted: set[int], deliver: Callable) -> None:
    """A recording that begins in the middle of a stream refers to what it does not have, up to its second key frame.

    That is no damage: the decoder itself marks the frames that it cannot make.
    """
    recogniser, num_keys, stop = _Recogniser(table), 0, math.inf
    with source.container() as container:
        stream, decoder = open_decoder(container, source, is_strict=False)
        for position, packet in enumerate(chain(PacketReader(source, container, stream), [None])):
            if packet is not None and packet.is_keyframe:
                num_keys += 1
                if num_keys == 1 and begins_anew(decoder, packet):
                    return
                stop = table.order[position] if num_keys == 2 else stop
            if num_keys == 3:  # nothing that is shown before the second one comes as late
                packet = None
            if packet is not None:
                packet.pts = position
            try:
                frames = decoder.decode(packet)
            except av.error.InvalidDataError:  # its frame stays missing
                frames = []
            for frame in frames:
                index = recogniser.index_of(frame)
                if index in wanted and not frame.is_corrupt and table.order[frame.pts] < stop:
                    deliver(index, frame)
            if packet is None:
                return


def _upright_image(
    source: MediaSource, frame: av.VideoFrame, reformatter: VideoReformatter, matrix: tuple[int, int, int, int]
) -> Image.Image:
    """What `frame.to_image` gives, turned upright; that would make two more copies and start threads for each frame."""
    check_pixels(source.name, frame.width, frame.height, source.reading)
    rgb = reformatter.reformat(frame, format="rgb24", threads=1)
    plane = rgb.planes[0]
    stride, order = abs(plane.line_size), 1 if plane.line_size > 0 else -1  # -1: stored from the bottom up
    image = Image.frombuffer("RGB", (rgb.width, rgb.height), plane, "raw", "RGB", stride, order)
    largest = max(map(abs, matrix))
    signs = tuple(round(value / largest) if largest else 0 for value in matrix)
    off = max(abs(value - sign * largest) for value, sign in zip(matrix, signs, strict=True))
    if signs not in _ORIENTATIONS or off > MATRIX_TOLERANCE * largest:
        source.note(f"is to be shown turned by an odd angle (display matrix {matrix}), but is left as it is stored")
        return image
    orientation = _ORIENTATIONS[signs]
    return image if orientation is None else image.transpose(orientation)


def _display_matrix(frame: av.VideoFrame) -> tuple[int, int, int, int]:
    """How players orient the frame: a, b, c, d of the matrix in the container or in the stream itself."""
    try:
        side_data = frame.side_data
    except ValueError:  # PyAV knows not every kind of side data, but finds a rotation among them
        turn = math.radians(frame.rotation)
        a, b = math.cos(turn), math.sin(turn)
        return tuple(round(value * 65536) for value in (a, -b, b, a))
    if "DISPLAYMATRIX" not in side_data:
        return (65536, 0, 0, 65536)
    return tuple(np.frombuffer(side_data["DISPLAYMATRIX"], np.int32)[[0, 1, 3, 4]].tolist())
