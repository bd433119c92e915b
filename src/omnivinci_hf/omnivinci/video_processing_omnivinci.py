"""This module turns the frames of videos into pixel values, and finds where a video stands still."""

import math
from collections.abc import Iterable

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from transformers.feature_extraction_utils import BatchFeature
from transformers.video_processing_utils import VideoProcessorMixin

from .image_processing_omnivinci import check_pixel_bytes, resize, to_pixel_values
from .options_omnivinci import StrictArguments, take_arguments


class OmniVinciVideoProcessor(StrictArguments, VideoProcessorMixin):  # type: ignore[misc]  # see StrictArguments
    r"""
    Squashes every frame of a decoded clip to one tile.

    Args:
        size (`int`, defaults to 448): side of a tile in pixels.
        image_mean, image_std (`list[float]`): per channel, of pixels in [0, 1].
        num_frames (`int`, *optional*, defaults to 64): frames to sample, spread evenly over the clip; a shorter clip
            repeats frames. With `fps` it is the most frames that are taken. None takes all.
        fps (`float`, *optional*): frames to sample per second.
        resize_backend (`"pil"` or `"torch"`): as in [`OmniVinciImageProcessor`].
    """

    model_input_names = ["pixel_values_videos", "video_num_frames", "video_frame_times_ns"]
    num_frames: int | None = 64  # Transformers saves a None only where the class has another value

    def __init__(
        self,
        size: int = 448,
        image_mean: list[float] | None = None,
        image_std: list[float] | None = None,
        num_frames: int | None = 64,
        fps: float | None = None,
        resize_backend: str = "pil",
        **kwargs,
    ):
        super().__init__(**kwargs)
        self.size = size
        self.image_mean = [0.5, 0.5, 0.5] if image_mean is None else image_mean
        self.image_std = [0.5, 0.5, 0.5] if image_std is None else image_std
        self.num_frames = num_frames
        self.fps = fps
        self.resize_backend = resize_backend
        self._check()
        check_pixel_bytes(num_frames or 0, size, f"`num_frames`={num_frames}")

    def squash(self, frame: Image.Image, resize_backend: str | None = None) -> Image.Image:
        """Squashes a frame to one tile; as `transform` of `load_video` it keeps full-size frames from piling up."""
        return resize(frame, self.size, self.size, resize_backend or self.resize_backend)

    def frame_pixels(self, frame: Image.Image, resize_backend: str | None = None, out=None) -> torch.Tensor:
        """Turns a frame into pixel values `(3, size, size)`, in `out` if it is given.

        As `transform` of `load_video` it leaves [`preprocess`] nothing to do.
        """
        tile = self.squash(frame, resize_backend)
        return to_pixel_values([tile], self.image_mean, self.image_std, None if out is None else out[None])[0]

    def levels(self, frame: Image.Image | torch.Tensor) -> torch.Tensor:
        """Turns what [`squash`] or [`frame_pixels`] made of a frame back into levels 0 to 255, `(3, size, size)`."""
        if not isinstance(frame, torch.Tensor):
            return torch.from_numpy(np.array(frame, dtype=np.float32)).permute(2, 0, 1)
        mean, std = (torch.tensor(values).view(3, 1, 1) for values in (self.image_mean, self.image_std))
        return (frame * std + mean) * 255

    def preprocess(self, videos, return_tensors="pt", resize_backend=None, **kwargs) -> BatchFeature:
        """Turns decoded clips into pixel values and the times of their frames.

        Args:
            videos (`list[VideoClip]`): decoded clips, see `load_video`; what [`squash`] or [`frame_pixels`] made of
                their frames stays as it is. Tensors are not copied but share their memory with the result: that of a
                single clip is the result, those of several become parts of it.
            resize_backend: for this call.

        Returns:
            `pixel_values_videos (frames of all videos, 3, size, size)`, `video_num_frames (num_videos,)` and
            `video_frame_times_ns (frames of all videos,)`: whole nanoseconds, which survive a cast of all floating
            tensors to half precision.
        """
        take_arguments(type(self).__name__, ("videos", "return_tensors", "resize_backend"), kwargs)
        videos = videos if isinstance(videos, (list, tuple)) else [videos]
        times = np.concatenate([video.times for video in videos])
        data = {
            "pixel_values_videos": self._pixel_values(videos, resize_backend),
            "video_num_frames": torch.tensor([len(video.frames) for video in videos]),
            "video_frame_times_ns": torch.from_numpy(np.round(times * 1e9).astype(np.int64)),
        }
        return BatchFeature(data, tensor_type=return_tensors)

    def _pixel_values(self, videos, resize_backend: str | None) -> torch.Tensor:
        wanted = (3, self.size, self.size)
        for frames in (video.frames for video in videos):
            if isinstance(frames, torch.Tensor) and not (frames.shape[1:] == wanted and frames.is_floating_point()):
                raise ValueError(
                    f"Frames that are a tensor must be pixel values of shape {wanted}, got {frames.dtype} "
                    f"{tuple(frames.shape[1:])}; give images, or what `frame_pixels` makes of them."
                )
        if len(videos) == 1 and isinstance(videos[0].frames, torch.Tensor):
            return videos[0].frames
        pixels = torch.empty(sum(len(video.frames) for video in videos), 3, self.size, self.size)
        first = 0
        for video in videos:
            part = pixels[first : first + len(video.frames)]
            first += len(part)
            if isinstance(video.frames, torch.Tensor):
                part.copy_(video.frames)
                video.frames = part  # the same, and the memory of the other is free
                continue
            for number, frame in enumerate(video.frames):
                self.frame_pixels(frame, resize_backend, out=part[number])
        return pixels


def moving_embeds(
    frames: Iterable[torch.Tensor], threshold: float, patch_size: int, merge_size: int = 1
) -> torch.Tensor:
    """Tells which squares of each frame differ from the last that was kept in the same place.

    Where a video stands still, its embeddings repeat what was there before, and need not stand in the sequence. The
    paper has nothing of the kind, and it is off by default. Pixels are compared, so that the number of placeholders is
    known before any weights are. Each embedding that stays keeps the true time of its frame.

    Args:
        frames: `(3, size, size)` each, in levels from 0 to 255.
        threshold: mean absolute difference over a square, in levels, from which on it counts as new. The first frame
            is kept whole. Noise of deviation `d` alone makes about `1.1 d`.
        patch_size: side of a patch in pixels. What whole patches leave of a frame is not looked at.
        merge_size: patches along the side of an embedding's square; those at the right and lower edge may be smaller.

    Returns:
        `(num_frames, side, side)` bool, `side = ceil(size // patch_size / merge_size)`.
    """
    kept, reference, pixels = [], None, patch_size * merge_size
    for frame in frames:
        size = frame.shape[-1] // patch_size * patch_size
        seen = frame[:, :size, :size]
        if reference is None:
            reference = seen.clone()
            side = math.ceil(size / pixels)
            kept.append(torch.ones(side, side, dtype=torch.bool))
            continue
        difference = (seen - reference).abs().mean(0)
        moved = F.avg_pool2d(difference[None, None], pixels, ceil_mode=True)[0, 0] > threshold
        where = moved.repeat_interleave(pixels, 0).repeat_interleave(pixels, 1)[:size, :size]
        reference = torch.where(where, seen, reference)
        kept.append(moved)
    return torch.stack(kept)
