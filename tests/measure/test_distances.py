"""Distances of distributions: torch-fidelity's figures are the formulas', intervals hold."""

import numpy as np
import pytest
import torch

from factory.errors import DataError
from factory.measure.distances import SUBSETS, frechet_distance, kid, overlap


def cloud(count: int, *, shift: float = 0.0, width: int = 16, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return (rng.standard_normal((count, width)) + shift).astype(np.float32)


def mmd2(first: np.ndarray, second: np.ndarray) -> float:
    """Unbiased MMD^2 with the kernel (x.y / d + 1)^3, term by term (Binkowski et al. 2018)."""

    def kernel(a: np.ndarray, b: np.ndarray) -> np.ndarray:
        return (a @ b.T / a.shape[1] + 1) ** 3

    n, m = len(first), len(second)
    same = kernel(first, first)[~np.eye(n, dtype=bool)].sum() / (n * (n - 1))
    same += kernel(second, second)[~np.eye(m, dtype=bool)].sum() / (m * (m - 1))
    return same - 2 * kernel(first, second).mean()


def test_kid_is_the_mean_of_the_formula_over_the_subsets() -> None:
    first, second = cloud(60, shift=0.3), cloud(80, seed=1)
    rng = np.random.RandomState(5)  # the generator that torch-fidelity uses
    values = []
    for _ in range(SUBSETS):
        one = first[rng.choice(60, 30, replace=False)].astype(np.float64)
        other = second[rng.choice(80, 30, replace=False)].astype(np.float64)
        values.append(mmd2(one, other))
    found = kid(first, second, seed=5)
    assert found.value == pytest.approx(np.mean(values), abs=1e-4)
    assert found.high - found.value == pytest.approx(1.96 * np.std(values), rel=1e-4)
    assert found.n == 60


def test_kid_does_not_depend_on_n_but_its_interval_does() -> None:
    small, large = (kid(cloud(n, shift=0.3), cloud(600, seed=1)) for n in (40, 600))
    assert abs(small.value - large.value) < small.high - small.value
    assert large.high - large.low < (small.high - small.low) / 2


def test_the_interval_of_equal_distributions_holds_zero_nearly_always() -> None:
    held = [
        (found := kid(cloud(40, seed=seed), cloud(120, seed=1000 + seed))).low <= 0 <= found.high
        for seed in range(40)
    ]
    assert sum(held) >= 37


def test_a_shift_is_found() -> None:
    assert kid(cloud(100, shift=0.5), cloud(100, seed=1)).low > 0


def test_frechet_distance_is_the_formula() -> None:
    first, second = cloud(90, shift=0.3), 2 * cloud(70, seed=1)
    means = first.mean(axis=0, dtype=np.float64) - second.mean(axis=0, dtype=np.float64)
    one, other = (np.cov(part.astype(np.float64), rowvar=False) for part in (first, second))
    values, vectors = np.linalg.eigh(one)
    root = vectors * np.sqrt(values) @ vectors.T
    cross = np.sqrt(np.linalg.eigvalsh(root @ other @ root)).sum()
    expected = means @ means + np.trace(one) + np.trace(other) - 2 * cross
    assert frechet_distance(first, second) == pytest.approx(expected, abs=1e-4)


def test_frechet_distance_is_that_of_torch_fidelity() -> None:
    import torch
    from torch_fidelity.metric_fid import (
        KEY_METRIC_FID,
        fid_features_to_statistics,
        fid_statistics_to_metric,
    )

    for first, second in ((cloud(90, shift=0.3), cloud(70, seed=1)), (cloud(12), cloud(9, seed=2))):
        told = [fid_features_to_statistics(torch.from_numpy(f).double()) for f in (first, second)]
        expected = fid_statistics_to_metric(*told, verbose=False)[KEY_METRIC_FID]
        assert frechet_distance(first, second) == pytest.approx(expected, abs=1e-4)


def test_frechet_distance_bears_fewer_images_than_features() -> None:
    first = cloud(10, width=32)
    assert frechet_distance(first, first) == pytest.approx(0, abs=1e-4)


def test_too_few_images_are_refused() -> None:
    for distance in (kid, frechet_distance):
        with pytest.raises(DataError, match="3 images are too few"):
            distance(cloud(3), cloud(50))


def test_overlap_is_torch_fidelitys_where_it_has_it_and_by_hand_where_not() -> None:
    from torch_fidelity.metric_prc import calculate_precision_recall_full

    rng = np.random.default_rng(0)
    real = rng.standard_normal((40, 4)).astype(np.float32)
    drawn = (rng.standard_normal((30, 4)) * 0.7 + 0.5).astype(np.float32)
    found = overlap(drawn, real, neighbours=3)
    known = calculate_precision_recall_full(torch.from_numpy(drawn), torch.from_numpy(real), 3)
    assert (found.precision, found.recall) == pytest.approx(known)
    gaps = np.linalg.norm(drawn[:, None] - real, axis=2)
    reach = np.sort(np.linalg.norm(real[:, None] - real, axis=2), axis=1)[:, 3]
    assert found.density == pytest.approx((gaps <= reach).sum(axis=1).mean() / 3)
    assert found.coverage == pytest.approx((gaps.min(axis=0) <= reach).mean())
    same = overlap(real, real, neighbours=3)
    assert (same.precision, same.recall, same.coverage) == (1, 1, 1)
    with pytest.raises(DataError, match="3 images have no 3 neighbours"):
        overlap(drawn[:3], real, neighbours=3)
