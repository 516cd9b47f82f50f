"""Figures of progressions: ranks by hand, sources as the unit, and where real images fall."""

import numpy as np
import pytest

from factory.errors import DataError
from factory.evaluate.bridge_figures import (
    Way,
    between_figures,
    correlation,
    direction_figures,
    mean_of,
    spearman,
)


def way(probability: list[float], ssim: list[float], name: str = "a") -> Way:
    m = len(ssim)
    return Way(
        source_id=name,
        target_probability=np.array(probability),
        odds=np.array(probability) / 2,
        target_is_seen=np.array(probability) > 0.5,
        ssim=np.array(ssim),
        label=np.arange(1, m + 1) / m,
        depth=np.arange(1, m + 1) / m,
    )


def test_ranks_along_k():
    assert spearman(np.array([0.1, 0.2, 0.9])) == pytest.approx(1)
    assert spearman(np.array([0.9, 0.2, 0.1])) == pytest.approx(-1)
    assert spearman(np.array([0.1, 0.9, 0.2])) == pytest.approx(0.5)
    assert spearman(np.zeros(4)) == correlation(np.arange(4.0), np.ones(4)) == 0


def test_a_mean_has_students_interval():
    found = mean_of([1.0, 2.0, 3.0])
    assert (found.value, found.n) == (2, 3)
    assert found.high - 2 == pytest.approx(4.3027 / np.sqrt(3), rel=1e-4)
    with pytest.raises(DataError, match="1 values have no interval"):
        mean_of([1.0])


def test_every_source_counts_once_and_failures_are_seen():
    rising = way([0.1, 0.4, 0.9], [0.8, 0.5, 0.2])
    stuck = way([0.2, 0.2, 0.2], [0.8, 0.9, 0.1])
    found = direction_figures("h", "t", [rising, stuck])
    assert found.num_sources == 2
    assert found.expert_rises.value == pytest.approx(0.5)
    assert found.odds_rise.value == pytest.approx(0.5)
    assert found.ssim_falls.value == pytest.approx((1 + 0.5) / 2)
    assert found.steps_ssim_falls.value == 3 / 4
    assert found.arrived.value == 0.5
    assert [each.value for each in found.ssim] == pytest.approx([0.8, 0.7, 0.15])
    assert [each.value for each in found.label] == pytest.approx([1 / 3, 2 / 3, 1])


def test_progressions_of_other_lengths_are_refused():
    with pytest.raises(DataError, match=r"progressions of \[2, 3\] images"):
        direction_figures("h", "t", [way([0, 1], [1, 0]), way([0, 0, 1], [1, 0, 0])])


def test_real_images_in_between_are_placed():
    scores = {
        "h": np.array([0.0, 0.1, 0.2]),
        "adenoma": np.array([0.3, 0.15, 0.5]),
        "t": np.array([0.5, 0.9, 1.0]),
    }
    found = between_figures(scores, "h", "t")
    assert found.above_source == {"adenoma": pytest.approx(8 / 9)}
    assert found.below_target == {"adenoma": pytest.approx(8.5 / 9)}
    assert found.scores["t"].value == pytest.approx(0.8)
