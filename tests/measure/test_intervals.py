"""Intervals of shares: known values, and the edges."""

import pytest

from factory.errors import DataError
from factory.measure.intervals import (
    mean_of,
    mean_of_proportions,
    paired_difference,
    proportion,
)


def test_wilson_is_the_published_example() -> None:
    # 81 of 263: R. Newcombe, Statistics in Medicine 17:857, 1998, table I, method 3.
    found = proportion(81, 263)
    assert (found.low, found.high) == pytest.approx((0.2553, 0.3662), abs=1e-4)
    assert proportion(0, 20).high == pytest.approx(0.1611, abs=1e-4)


@pytest.mark.parametrize("successes", [0, 7])
def test_no_success_and_all_successes_stay_within_bounds(successes: int) -> None:
    found = proportion(successes, 7)
    assert 0 <= found.low <= found.value <= found.high <= 1
    assert found.high > found.low


def test_impossible_counts_are_refused() -> None:
    for successes, n in ((1, 0), (3, 2), (-1, 2)):
        with pytest.raises(ValueError, match="successes"):
            proportion(successes, n)


def test_the_mean_of_shares_weighs_them_equally() -> None:
    found = mean_of_proportions([proportion(10, 10), proportion(500, 1000)])
    assert found.value == 0.75
    assert found.n == 1010
    assert found.low < 0.75 < found.high <= 1


def test_the_interval_of_three_values_is_students() -> None:
    found = mean_of([1.0, 2.0, 3.0])
    assert found.value == 2
    assert found.high - 2 == pytest.approx(4.302653 / 3**0.5)
    assert 2 - found.low == pytest.approx(4.302653 / 3**0.5)
    assert found.n == 3


def test_twenty_seeds_have_an_interval_and_one_has_none() -> None:
    found = mean_of([float(value) for value in range(20)])
    assert found.high - found.value == pytest.approx(2.093024 * 35**0.5 / 20**0.5)
    with pytest.raises(DataError, match="1 values have no interval"):
        mean_of([1.0])


def test_what_seeds_share_leaves_the_difference() -> None:
    apart = paired_difference([1.1, 5.1, 9.1], [1.0, 5.0, 9.0])
    assert apart.value == pytest.approx(0.1)
    assert apart.high - apart.low < 1e-9
    assert mean_of([1.0, 5.0, 9.0]).high > 10
    with pytest.raises(ValueError, match="zip"):
        paired_difference([1.0, 2.0], [1.0])
