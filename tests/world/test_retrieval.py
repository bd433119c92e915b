import numpy as np
import pytest

from omnivinci_hf.world.retrieval import recall_at_1


def test_own_targets_are_found():
    assert recall_at_1(np.eye(6), np.eye(6), 6) == 1.0


def test_swapped_neighbours_are_not_found():
    assert recall_at_1(np.eye(6), np.eye(6)[[1, 0, 3, 2, 5, 4]], 6) == 0.0
    assert recall_at_1(np.eye(4), np.eye(4)[[1, 0, 2, 3]], 4) == 0.5


def test_equal_vectors_are_found_by_chance():
    same = np.tile([[0.6, 0.8]], (8, 1))
    assert recall_at_1(same, same, 8) == pytest.approx(1 / 8)
    assert recall_at_1(same, same, 4) == pytest.approx(1 / 4)


def test_a_tie_of_two_counts_half():
    targets = np.array([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0], [0.0, 1.0]])
    assert recall_at_1(targets, targets, 4) == 0.5


def test_both_directions_differ():
    sounds = np.array([[1.0, 0.0], [0.8, 0.6]])
    videos = np.array([[1.0, 0.0], [0.96, 0.28]])
    assert recall_at_1(sounds, videos, 2) == 1.0  # 1.00 > 0.96 and 0.936 > 0.8
    sounds, videos = np.array([[1.0, 0.0], [0.0, 1.0]]), np.array([[0.8, 0.6], [0.8, -0.6]])
    assert recall_at_1(sounds, videos, 2) == 0.25  # a tie, and a miss
    assert recall_at_1(videos, sounds, 2) == 0.5


def test_clips_are_searched_in_their_gallery_and_the_rest_is_left_out():
    targets = np.eye(5)[[0, 1, 0, 1, 4]]
    assert recall_at_1(targets, targets, 2) == 1.0
    assert recall_at_1(targets, targets, 4) == 0.5


@pytest.mark.parametrize(
    ("queries", "targets", "size", "message"),
    [
        (np.eye(4), np.eye(3), 2, r"alike, got \(4, 4\), \(3, 3\)"),
        (np.ones(4), np.ones(4), 2, r"\(num_clips, width\)"),
        (np.eye(4), np.eye(4), 5, "between 1 and the number of clips 4, got 5"),
        (np.eye(4), 2 * np.eye(4), 2, "must be unit vectors, got lengths 1 to 2"),
    ],
)
def test_other_input_is_refused(queries, targets, size, message):
    with pytest.raises(ValueError, match=message):
        recall_at_1(queries, targets, size)
