"""Colour transfer reaches the target's mean and covariance."""

import numpy as np
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from factory.methods.pairs.real import _FLOOR as FLOOR
from factory.methods.pairs.real import match_colours


def coloured(seed: int, spread: float) -> np.ndarray:
    rng = np.random.default_rng(seed)
    mixing = rng.normal(0, spread, (3, 3))
    return rng.uniform(0.2, 0.8, 3) + rng.normal(0, 1, (24, 24, 3)) @ mixing


@settings(max_examples=25)
@given(st.integers(0, 10**6), st.floats(0.01, 0.3))
def test_mean_and_covariance_become_the_targets(seed: int, spread: float) -> None:
    image, target = coloured(seed, spread), coloured(seed + 1, 0.1)
    varies = [
        np.linalg.eigvalsh(np.cov(x.reshape(-1, 3), rowvar=False)).min() for x in (image, target)
    ]
    assume(varies[0] * varies[1] > 10 * FLOOR)  # what does not vary is not spread
    moved = match_colours(image, target)
    assert np.abs(moved.mean((0, 1)) - target.mean((0, 1))).max() < 1e-6
    found, wanted = (np.cov(x.reshape(-1, 3), rowvar=False) for x in (moved, target))
    assert np.abs(found - wanted).max() < 1e-2 * max(1, np.abs(wanted).max())


def test_an_image_of_the_targets_colours_stays() -> None:
    image = coloured(3, 0.1)
    assert np.allclose(match_colours(image, image), image, atol=1e-8)


def test_a_grey_image_takes_the_targets_mean() -> None:
    grey = np.full((8, 8, 3), 0.5)
    moved = match_colours(grey, coloured(1, 0.1))
    assert np.isfinite(moved).all()
    assert np.allclose(moved.mean((0, 1)), coloured(1, 0.1).mean((0, 1)))
