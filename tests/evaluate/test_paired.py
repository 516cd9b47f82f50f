"""Means and paired differences over seeds, with Student's interval."""

import pytest

from factory.evaluate.paired import T95, mean_over_seeds, paired_difference


def test_the_interval_of_three_values() -> None:
    found = mean_over_seeds([1.0, 2.0, 3.0])
    assert found.value == 2
    assert found.high - 2 == pytest.approx(4.3027 / 3**0.5)
    assert 2 - found.low == pytest.approx(4.3027 / 3**0.5)
    assert found.n == 3


def test_what_seeds_share_leaves_the_difference() -> None:
    apart = paired_difference([1.1, 5.1, 9.1], [1.0, 5.0, 9.0])
    assert apart.value == pytest.approx(0.1)
    assert apart.high - apart.low < 1e-9
    assert mean_over_seeds([1.0, 5.0, 9.0]).high > 10


@pytest.mark.parametrize("values", [[1.0], [0.0] * 11])
def test_other_numbers_of_seeds_are_refused(values: list[float]) -> None:
    with pytest.raises(ValueError, match="known for 2 to 10"):
        mean_over_seeds(values)
    assert len(T95) == 9


def test_pairs_must_match() -> None:
    with pytest.raises(ValueError, match="zip"):
        paired_difference([1.0, 2.0], [1.0])
