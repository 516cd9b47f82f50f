"""Copies: a repeated training image is found, turned or not; a new one is not called a copy."""

import numpy as np
import pytest

from factory.measure.copies import check_copies, nearest, thumbnails, turned_thumbnails
from factory.measure.features import turned


def images(count: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (count, 64, 64, 3), np.uint8)


@pytest.mark.parametrize("number", range(8))
def test_a_turned_copy_is_found_at_distance_zero(number: int) -> None:
    training = images(20, 0)
    found = nearest(turned_thumbnails(turned(training[7:8], number)), thumbnails(training))
    assert found.position.tolist() == [7]
    assert found.distance[0] < 1e-6


def test_distance_in_pixels_is_the_root_mean_square_difference() -> None:
    dark = np.full((1, 64, 64, 3), 51, np.uint8)
    found = nearest(thumbnails(dark)[None], thumbnails(dark * 2))
    assert found.distance[0] == pytest.approx(0.2, abs=1e-6)


def test_nearest_is_the_nearest_of_all_views_over_all_blocks() -> None:
    rng = np.random.default_rng(0)
    queries, stored = (rng.standard_normal(s).astype(np.float32) for s in ((2, 700, 5), (90, 5)))
    gaps = np.linalg.norm(queries[:, :, None] - stored, axis=-1)  # (views, queries, stored)
    found = nearest(queries, stored)
    assert np.allclose(found.distance, gaps.min(axis=(0, 2)), atol=1e-5)
    assert np.array_equal(found.position, gaps.min(axis=0).argmin(axis=1))


def test_of_unseen_images_one_in_a_hundred_is_below_the_threshold() -> None:
    distances = np.random.default_rng(0).random(1000)
    assert check_copies("any", distances, distances).share.value == pytest.approx(0.01)


def test_copies_raise_the_share() -> None:
    unseen = 1 + np.random.default_rng(0).random(200)
    drawn = np.concatenate([np.zeros(10), 1 + np.random.default_rng(1).random(90)])
    found = check_copies("any", drawn, unseen)
    assert found.share.value >= 0.1
    assert found.share.low > 0.01
    assert found.num_held_out == 200
