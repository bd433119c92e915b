"""This module turns images into pixel values: Dynamic-S2 tiling, squashing, normalisation."""

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from transformers.feature_extraction_utils import BatchFeature
from transformers.image_processing_utils import BaseImageProcessor

from .image_media_omnivinci import load_image
from .media_sources_omnivinci import flatten
from .options_omnivinci import MAX_PIXEL_BYTES, StrictArguments, take_arguments


RESIZE_BACKENDS = ("pil", "torch")


def choose_grid(width: int, height: int, tile_size: int, min_tiles: int, max_tiles: int) -> tuple[int, int]:
    """Chooses the (rows, columns) of tiles whose shape is nearest to the image's, out of all with a permitted count.

    Of two equally near grids the larger one wins only if the image has more than half of its pixels.
    """
    grids = sorted(
        ((columns, rows) for columns in range(1, max_tiles + 1) for rows in range(1, max_tiles + 1)),
        key=lambda grid: grid[0] * grid[1],
    )
    best, best_distance = (1, 1), float("inf")
    for columns, rows in grids:
        if not min_tiles <= columns * rows <= max_tiles:
            continue
        distance = abs(width / height - columns / rows)
        large_enough = width * height > 0.5 * columns * rows * tile_size**2
        if distance < best_distance or (distance == best_distance and large_enough):
            best, best_distance = (columns, rows), distance
    return best[1], best[0]


def resize(image: Image.Image, width: int, height: int, backend: str = "pil") -> Image.Image:
    """Resizes an image, bicubic with antialiasing. "torch" is faster; it differs by 2 of 255 levels at most."""
    if backend not in RESIZE_BACKENDS:
        raise ValueError(f"`resize_backend` must be one of {RESIZE_BACKENDS}, got {backend!r}.")
    if backend == "pil" or image.size == (width, height):
        return image.resize((width, height), Image.Resampling.BICUBIC)
    pixels = torch.from_numpy(np.array(image)).permute(2, 0, 1)[None]  # (1, 3, height, width), channels last
    pixels = F.interpolate(pixels, size=(height, width), mode="bicubic", antialias=True)
    return Image.fromarray(np.ascontiguousarray(pixels[0].permute(1, 2, 0).numpy()))


def _cut(image: Image.Image, rows: int, columns: int, side: int, backend: str) -> list[Image.Image]:
    image = resize(image, columns * side, rows * side, backend)
    return [
        image.crop((column * side, row * side, (column + 1) * side, (row + 1) * side))
        for row in range(rows)
        for column in range(columns)
    ]


def to_pixel_values(
    images: list[Image.Image], mean: list[float], std: list[float], out: torch.Tensor | None = None
) -> torch.Tensor:
    """Normalises RGB images of one size to `(len(images), 3, height, width)` float32, in `out` if it is given."""
    width, height = images[0].size
    values = torch.empty(len(images), 3, height, width) if out is None else out
    # This is NumPy's work, since videos come here from several threads, and PyTorch would start more from each.
    for tile, image in zip(values.numpy(), images, strict=True):
        pixels = np.asarray(image)
        for channel, plane in enumerate(tile):
            plane[...] = pixels[..., channel]
            plane /= np.float32(255)
            plane -= np.float32(mean[channel])
            plane /= np.float32(std[channel])
    return values


def check_pixel_bytes(num_tiles: int, size: int, name: str) -> None:
    """Refuses options with which one image or video would fill the memory."""
    num_bytes = num_tiles * 3 * size**2 * 4
    if num_bytes > MAX_PIXEL_BYTES:
        raise ValueError(
            f"{name} with `size`={size} take {num_bytes / 2**30:.3g} GiB as pixel values, more than "
            f"{MAX_PIXEL_BYTES / 2**30:.3g} GiB."
        )


class OmniVinciImageProcessor(StrictArguments, BaseImageProcessor):  # type: ignore[misc]  # see StrictArguments
    r"""
    Squashes images to one tile, or cuts them into tiles of several scales (Dynamic-S2).

    Args:
        size (`int`, defaults to 448): side of a tile in pixels.
        image_mean, image_std (`list[float]`): per channel, of pixels in [0, 1].
        s2_scales (`list[int]`): sides in pixels, ascending; the first is `size`. One entry switches tiling off.
        max_tiles (`int`, defaults to 12): most tiles in the largest scale.
        resize_backend (`"pil"` or `"torch"`): "pil" gives the original checkpoint's pixels to the bit; "torch" is about
            three times as fast and differs by 2 of 255 levels at most.
    """

    model_input_names = ["pixel_values", "image_grids"]

    def __init__(
        self,
        size: int = 448,
        image_mean: list[float] | None = None,
        image_std: list[float] | None = None,
        s2_scales: list[int] | None = None,
        max_tiles: int = 12,
        resize_backend: str = "pil",
        **kwargs,
    ):
        super().__init__(**kwargs)
        self.size = size
        self.image_mean = [0.5, 0.5, 0.5] if image_mean is None else image_mean
        self.image_std = [0.5, 0.5, 0.5] if image_std is None else image_std
        self.s2_scales = [size, 2 * size, 3 * size] if s2_scales is None else s2_scales
        self.max_tiles = max_tiles
        self.resize_backend = resize_backend
        self._check()
        counts = [scale // size for scale in self.s2_scales]
        if self.s2_scales[0] != size or counts != sorted(set(counts)):
            raise ValueError(f"`s2_scales`={self.s2_scales} must begin with `size`={size} and ascend.")
        least = counts[-1] ** 2
        if max_tiles < least:
            raise ValueError(f"`max_tiles`={max_tiles} is less than the {least} that `s2_scales`={s2_scales} needs.")
        num_tiles = sum(count**2 for count in counts[:-1]) + max_tiles
        check_pixel_bytes(num_tiles, size, f"`max_tiles`={max_tiles} and `s2_scales`={self.s2_scales}")

    def preprocess(
        self, images, tile: bool | list[bool] = True, return_tensors="pt", resize_backend=None, **kwargs
    ) -> BatchFeature:
        """Turns images into tiles of pixel values.

        Args:
            images: one image, a list, or a list of lists; each anything that `load_image` takes.
            tile: whether to cut into Dynamic-S2 tiles, for all images or one by one.
            resize_backend: for this call.

        Returns:
            `pixel_values (num_tiles, 3, size, size)`, the tiles of all images in order, smallest scale first and row
            by row; `image_grids (num_images, 2)`, the rows and columns of the largest scale, 0 for an untiled image.
        """
        take_arguments(type(self).__name__, ("images", "tile", "return_tensors", "resize_backend"), kwargs)
        images = [load_image(image) for image in flatten("image", images)]
        flags = [tile] * len(images) if isinstance(tile, bool) else tile
        tiles, grids, backend = [], [], resize_backend or self.resize_backend
        for image, flag in zip(images, flags, strict=True):
            cut = self._tiles if flag and len(self.s2_scales) > 1 else self._squash
            image_tiles, grid = cut(image, backend)
            tiles.extend(image_tiles)
            grids.append(grid)
        data = {
            "pixel_values": to_pixel_values(tiles, self.image_mean, self.image_std),
            "image_grids": torch.tensor(grids, dtype=torch.long).view(-1, 2),
        }
        return BatchFeature(data, tensor_type=return_tensors)

    def grid(self, image: Image.Image) -> tuple[int, int]:
        """Returns the rows and columns of an image's tiles at the largest scale."""
        return choose_grid(*image.size, self.size, (self.s2_scales[-1] // self.size) ** 2, self.max_tiles)

    def _squash(self, image: Image.Image, backend: str) -> tuple[list[Image.Image], tuple[int, int]]:
        return [resize(image, self.size, self.size, backend)], (0, 0)

    def _tiles(self, image: Image.Image, backend: str) -> tuple[list[Image.Image], tuple[int, int]]:
        tiles = []
        for scale in self.s2_scales[:-1]:
            count = scale // self.size
            tiles.extend(_cut(image, count, count, self.size, backend))
        grid = self.grid(image)
        return tiles + _cut(image, *grid, self.size, backend), grid
