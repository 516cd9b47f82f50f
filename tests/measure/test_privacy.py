"""Privacy figures find what was memorised and stay at chance where nothing was."""

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from factory.errors import DataError
from factory.measure.copies import area_under_curve, measure_privacy
from factory.measure.features import turned


def noise(count: int, seed: int) -> np.ndarray:
    rng = np.random.Generator(np.random.Philox(seed))
    blocks = rng.integers(0, 256, (count, 8, 8, 3), np.uint8)
    return blocks.repeat(4, 1).repeat(4, 2)


def test_fresh_images_tell_nothing():
    found = measure_privacy(noise(100, 0), noise(100, 1), noise(100, 2))
    assert found.copies.share.value <= 0.05
    assert found.memorised.value <= 0.05
    assert found.membership.low < 0.5 < found.membership.high


def test_memorised_images_give_their_patients_away():
    trained = noise(20, 1)
    copies = np.concatenate([turned(trained[:5], 3), trained[:5]])
    found = measure_privacy(np.concatenate([copies, noise(90, 0)]), trained, noise(100, 2))
    assert 0.1 <= found.copies.share.value <= 0.16  # ten of a hundred, and chance
    assert 0.25 <= found.memorised.value <= 0.45  # five of twenty, and chance
    everything = measure_privacy(trained, trained, noise(100, 2))
    assert everything.memorised.value == everything.membership.value == 1


def test_a_side_without_images_is_named():
    with pytest.raises(DataError, match="'unseen': 0"):
        measure_privacy(noise(2, 0), noise(2, 1), noise(0, 2))


def test_the_area_equals_scikit_learns_and_its_interval_covers():
    rng = np.random.Generator(np.random.Philox(3))
    a, b = rng.normal(0.5, 1, 40).round(1), rng.normal(0, 1, 60).round(1)
    found = area_under_curve(a, b)
    truth = roc_auc_score([1] * 40 + [0] * 60, np.concatenate([a, b]))
    assert found.value == pytest.approx(truth)
    covered = 0
    for seed in range(200):
        rng = np.random.Generator(np.random.Philox(seed))
        each = area_under_curve(rng.normal(1, 1, 30), rng.normal(0, 1, 30))
        covered += each.low <= 0.7602 <= each.high  # P(N(1, 1) > N(0, 1))
    assert 180 <= covered <= 199
