import numpy as np
import pytest

from omnivinci_hf import sample_indices


def test_num_frames_are_spread_evenly_rounding_half_to_even():
    # linspace(0, 5, 3) = 0, 2.5, 5
    assert sample_indices(np.arange(6) / 10, 0.6, num_frames=3).tolist() == [0, 2, 5]
    assert sample_indices(np.arange(50) / 10, 5.0, num_frames=8).tolist() == [0, 7, 14, 21, 28, 35, 42, 49]


def test_fewer_frames_than_asked_repeat():
    assert sample_indices(np.arange(2) / 10, 0.2, num_frames=4).tolist() == [0, 0, 1, 1]


def test_fps_takes_the_frame_at_or_after_each_tick_once():
    assert sample_indices(np.arange(30) / 30, 1.0, fps=10).tolist() == list(range(0, 30, 3))
    assert sample_indices(np.arange(5) / 5, 1.0, fps=50).tolist() == [0, 1, 2, 3, 4]
    # Ticks at 0, 0.5, 1, 1.5, 2: those at 0.5 and 1 fall to the frame at 1.2.
    assert sample_indices(np.array([0, 0.1, 1.2, 1.3, 1.9, 2.0]), 2.1, fps=2).tolist() == [0, 2, 4, 5]


def test_fps_and_num_frames_together_cap_uniformly():
    assert sample_indices(np.arange(30) / 30, 1.0, fps=10, num_frames=4).tolist() == [0, 9, 18, 27]
    assert sample_indices(np.arange(30) / 30, 1.0, fps=3, num_frames=4).tolist() == [0, 10, 20]


def test_without_a_choice_all_frames_are_taken():
    indices = sample_indices(np.arange(3) / 10, 0.3)
    assert indices.tolist() == [0, 1, 2] and indices.dtype == np.int64


@pytest.mark.parametrize(
    "duration_sec, options, message",
    [
        (1.0, {"num_frames": 0}, "`num_frames` must be a positive whole number, got 0"),
        (1.0, {"num_frames": 2.5}, "`num_frames` must be a positive whole number, got 2.5"),
        (1.0, {"num_frames": True}, "`num_frames` must be a positive whole number, got True"),
        (1.0, {"fps": "2"}, "`fps` must be a positive number, got '2'"),
        (1.0, {"fps": 0}, "`fps` must be a positive number, got 0"),
        (1.0, {"fps": float("nan")}, "`fps` must be a positive number, got nan"),
        (0.0, {}, "both must be positive"),
    ],
)
def test_sample_indices_refuses_values_that_are_not_positive(duration_sec, options, message):
    with pytest.raises(ValueError, match=message):
        sample_indices(np.arange(3), duration_sec, **options)
