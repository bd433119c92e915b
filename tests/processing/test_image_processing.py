import numpy as np
import pytest
import torch
from PIL import Image

from omnivinci_hf import OmniVinciImageProcessor, OmniVinciVideoProcessor, VideoClip
from omnivinci_hf.omnivinci.image_processing_omnivinci import choose_grid


def noise(width, height, seed=0):
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


def plain(color, side=4):
    return Image.new("RGB", (side, side), color)


def normalized(image):
    """`(3, height, width)`: (x / 255 - 0.5) / 0.5."""
    pixels = np.asarray(image).astype(np.float32).transpose(2, 0, 1)
    return torch.from_numpy((pixels / np.float32(255) - np.float32(0.5)) / np.float32(0.5))


def squashed(image, width, height):
    return image.resize((width, height), Image.Resampling.BICUBIC)


def clip(frames, times):
    times = np.asarray(times, dtype=np.float64)
    indices = np.arange(len(frames))
    return VideoClip(frames, times, indices, float(times[-1]) + 1, 1.0, len(frames), None, "clip", (8, 8))


class TestChooseGrid:
    @pytest.mark.parametrize(
        ("width", "height", "min_tiles", "max_tiles", "expected"),
        [
            (100, 100, 9, 12, (3, 3)),
            (200, 100, 9, 12, (2, 5)),  # 2.5 is 0.5 away, 4 / 3 is 0.67
            (100, 200, 9, 12, (5, 2)),  # 0.4 is 0.1 away, 2 / 6 is 0.17
            (160, 120, 9, 12, (3, 4)),
            (300, 100, 9, 12, (2, 6)),
            (5000, 10, 9, 12, (1, 12)),
            (10, 5000, 9, 12, (12, 1)),
            (100, 100, 1, 1, (1, 1)),
            (300, 200, 4, 6, (2, 3)),
        ],
    )
    def test_nearest_shape(self, width, height, min_tiles, max_tiles, expected):
        assert choose_grid(width, height, 10, min_tiles, max_tiles) == expected

    @pytest.mark.parametrize(
        ("side", "expected"),
        [
            (10, (1, 1)),
            (14, (1, 1)),  # 196 pixels are less than half of the 400 of 2 x 2
            (15, (2, 2)),  # 225 are more, but less than half of the 900 of 3 x 3
            (21, (2, 2)),
            (22, (3, 3)),
        ],
    )
    def test_of_equal_shapes_the_larger_wins_with_half_of_its_pixels(self, side, expected):
        assert choose_grid(side, side, 10, 1, 9) == expected

    def test_equally_distant_shapes_are_a_tie_too(self):
        # 3 : 2 is as far from one tile as from two side by side; half of two tiles is 100 pixels
        assert choose_grid(9, 6, 10, 1, 2) == (1, 1)
        assert choose_grid(15, 10, 10, 1, 2) == (1, 2)


class TestTiles:
    @pytest.fixture
    def processor(self):
        return OmniVinciImageProcessor(size=8, s2_scales=[8, 16, 24], max_tiles=12)

    def test_pixels_equal_those_cut_by_hand(self, processor):
        image = noise(50, 20)
        outputs = processor([image])
        assert outputs["image_grids"].tolist() == [[2, 5]]
        expected = []
        for rows, columns in ((1, 1), (2, 2), (2, 5)):
            whole = squashed(image, 8 * columns, 8 * rows)
            for row in range(rows):
                for column in range(columns):
                    left, top = 8 * column, 8 * row
                    expected.append(normalized(whole.crop((left, top, left + 8, top + 8))))
        assert torch.equal(outputs["pixel_values"], torch.stack(expected))

    def test_smallest_scale_comes_first_then_row_by_row(self):
        processor = OmniVinciImageProcessor(size=4, s2_scales=[4, 8], max_tiles=4)
        image = Image.new("RGB", (8, 8))
        colors = [(255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 255)]
        for number, color in enumerate(colors):
            image.paste(plain(color), (4 * (number % 2), 4 * (number // 2)))
        tiles = processor([image])["pixel_values"]
        assert len(tiles) == 5
        assert torch.equal(tiles[0], normalized(squashed(image, 4, 4)))
        for tile, color in zip(tiles[1:], colors, strict=True):
            expected = torch.tensor([1.0 if value else -1.0 for value in color])
            assert torch.equal(tile, expected[:, None, None].expand(3, 4, 4))

    def test_grid_is_rows_then_columns(self, processor):
        assert processor.grid(noise(200, 100)) == (2, 5)

    def test_without_tiling_there_is_one_squashed_tile(self, processor):
        image = noise(50, 30)
        outputs = processor([image], tile=False)
        assert outputs["image_grids"].tolist() == [[0, 0]]
        assert torch.equal(outputs["pixel_values"], normalized(squashed(image, 8, 8))[None])

    def test_one_scale_never_tiles(self):
        processor = OmniVinciImageProcessor(size=8, s2_scales=[8])
        outputs = processor([noise(50, 30)], tile=True)
        assert outputs["pixel_values"].shape == (1, 3, 8, 8)
        assert outputs["image_grids"].tolist() == [[0, 0]]

    def test_images_of_a_batch_stand_one_after_the_other(self, processor):
        images = [noise(50, 20, 1), noise(9, 9, 2), noise(20, 20, 3)]
        together = processor(images, tile=[True, False, True])
        alone = [processor([image], tile=flag) for image, flag in zip(images, (True, False, True), strict=True)]
        assert torch.equal(together["pixel_values"], torch.cat([one["pixel_values"] for one in alone]))
        assert together["image_grids"].tolist() == [[2, 5], [0, 0], [3, 3]]

    def test_flags_must_match_the_images(self, processor):
        with pytest.raises(ValueError):
            processor([noise(9, 9)], tile=[True, False])

    def test_a_single_image_needs_no_list(self, processor):
        image = noise(9, 9)
        assert torch.equal(processor(image)["pixel_values"], processor([image])["pixel_values"])

    def test_arrays_are_taken_too(self, processor):
        image = noise(9, 9)
        assert torch.equal(processor(np.asarray(image))["pixel_values"], processor(image)["pixel_values"])

    def test_other_mean_and_deviation(self):
        processor = OmniVinciImageProcessor(
            size=4, s2_scales=[4], image_mean=[0.0, 0.2, 1.0], image_std=[1.0, 0.5, 0.25]
        )
        pixels = processor(plain((255, 51, 0)))["pixel_values"][0, :, 0, 0]
        torch.testing.assert_close(pixels, torch.tensor([1.0, 0.0, -4.0]))

    def test_pixels_are_not_rounded_to_half_precision(self, processor):
        pixels = processor(noise(9, 9))["pixel_values"]
        assert pixels.dtype == torch.float32
        assert not torch.equal(pixels, pixels.half().float())


class TestVideo:
    @pytest.fixture
    def processor(self):
        return OmniVinciVideoProcessor(size=8)

    def test_every_frame_is_squashed_to_one_tile(self, processor):
        frames = [noise(50, 30, seed) for seed in range(3)]
        outputs = processor.preprocess([clip(frames, [0, 0.5, 1])])
        expected = torch.stack([normalized(squashed(frame, 8, 8)) for frame in frames])
        assert torch.equal(outputs["pixel_values_videos"], expected)

    def test_times_are_whole_nanoseconds(self, processor):
        outputs = processor.preprocess([clip([noise(9, 9)] * 3, [0, 1 / 3, 3599.9999999996])])
        assert outputs["video_frame_times_ns"].dtype == torch.int64
        assert outputs["video_frame_times_ns"].tolist() == [0, 333333333, 3600000000000]

    def test_videos_stand_one_after_the_other(self, processor):
        clips = [clip([noise(9, 9, 1)] * 2, [0, 1]), clip([noise(20, 10, 2)] * 3, [0, 2, 4])]
        outputs = processor.preprocess(clips)
        assert outputs["video_num_frames"].tolist() == [2, 3]
        assert outputs["video_frame_times_ns"].tolist() == [0, 10**9, 0, 2 * 10**9, 4 * 10**9]
        alone = [processor.preprocess(one)["pixel_values_videos"] for one in clips]
        assert torch.equal(outputs["pixel_values_videos"], torch.cat(alone))

    def test_frames_that_are_pixel_values_already_stay_as_they_are(self, processor):
        frames = [noise(50, 30, seed) for seed in range(3)]
        pixels = torch.stack([processor.frame_pixels(frame) for frame in frames])
        alone = processor.preprocess([clip(pixels, [0, 1, 2])])["pixel_values_videos"]
        assert torch.equal(alone, processor.preprocess([clip(frames, [0, 1, 2])])["pixel_values_videos"])
        assert alone.data_ptr() == pixels.data_ptr()  # no copy of what takes the most memory of all

    def test_clips_of_a_batch_are_not_held_twice(self, processor):
        clips = [
            clip(torch.rand(2, 3, 8, 8), [0, 1]),
            clip([noise(9, 9)], [0]),
            clip(torch.rand(3, 3, 8, 8), [0, 1, 2]),
        ]
        first, last = (one.frames.clone() for one in (clips[0], clips[2]))
        pixels = processor.preprocess(clips)["pixel_values_videos"]
        assert torch.equal(pixels[:2], first) and torch.equal(pixels[3:], last)
        for one, start in ((clips[0], 0), (clips[2], 3)):
            assert one.frames.data_ptr() == pixels[start].data_ptr()

    @pytest.mark.parametrize("frames", [torch.rand(2, 8, 8, 3), torch.rand(2, 3, 1, 1), torch.ones(2, 3, 8, 8).byte()])
    @pytest.mark.parametrize("number", [1, 2])
    def test_tensors_must_be_pixel_values(self, processor, frames, number):
        with pytest.raises(ValueError, match=r"must be pixel values of shape \(3, 8, 8\), got torch"):
            processor.preprocess([clip(frames, [0, 1]) for _ in range(number)])


class TestSaving:
    def test_image_processor_keeps_every_option(self, tmp_path):
        options = {
            "size": 8,
            "image_mean": [0.1, 0.2, 0.3],
            "image_std": [0.4, 0.5, 0.6],
            "s2_scales": [8, 24],
            "max_tiles": 10,
        }
        processor = OmniVinciImageProcessor(**options)
        processor.save_pretrained(tmp_path)
        loaded = OmniVinciImageProcessor.from_pretrained(tmp_path)
        assert {name: getattr(loaded, name) for name in options} == options
        image = noise(50, 30)
        assert torch.equal(loaded(image)["pixel_values"], processor(image)["pixel_values"])

    @pytest.mark.parametrize("sampling", [{"num_frames": 5, "fps": 2.5}, {"num_frames": None, "fps": None}])
    def test_video_processor_keeps_every_option(self, tmp_path, sampling):
        options = {"size": 8, "image_mean": [0.1, 0.2, 0.3], "image_std": [0.4, 0.5, 0.6], **sampling}
        OmniVinciVideoProcessor(**options).save_pretrained(tmp_path)
        loaded = OmniVinciVideoProcessor.from_pretrained(tmp_path)
        assert {name: getattr(loaded, name) for name in options} == options

    def test_defaults_are_the_original_checkpoints(self):
        image, video = OmniVinciImageProcessor(), OmniVinciVideoProcessor()
        assert (image.size, image.s2_scales, image.max_tiles) == (448, [448, 896, 1344], 12)
        assert (video.size, video.num_frames, video.fps) == (448, 64, None)
        for processor in (image, video):
            assert processor.image_mean == processor.image_std == [0.5, 0.5, 0.5]


def test_too_few_tiles_for_the_scales_are_refused():
    with pytest.raises(ValueError, match="`max_tiles`=4 is less than the 9"):
        OmniVinciImageProcessor(max_tiles=4)
