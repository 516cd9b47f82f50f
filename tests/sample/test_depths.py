"""Depth policies on curves whose answers are known by hand."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from factory.errors import ConfigError
from factory.methods.bridge.depths import (
    POLICIES,
    adaptive_depths,
    choose_depths,
    moved,
    reversed_depths,
    uniform_depths,
)


def test_uniform_depths_end_at_the_top():
    assert uniform_depths(100, 10) == (10, 20, 30, 40, 50, 60, 70, 80, 90, 100)
    assert uniform_depths(10, 3) == (4, 7, 10)


def test_adaptive_depths_of_a_line_are_uniform():
    assert adaptive_depths(np.linspace(5, 1, 101), 10) == uniform_depths(100, 10)


def test_adaptive_depths_of_an_exponential_are_its_inverse():
    """f = exp(-t / 20) has moved by k / m of its range R at t = -20 ln(1 - R k / m)."""
    curve = np.exp(-np.arange(101) / 20)
    reach = 1 - np.exp(-5)
    wanted = np.ceil(-20 * np.log(1 - reach * np.arange(1, 5) / 4))
    assert adaptive_depths(curve, 4) == tuple(wanted.astype(int))


def test_the_last_depth_is_the_plateau_or_the_top():
    curve = [10, 8, 6, 4, 2, 2, 2, 2, 2, 2, 2]
    assert choose_depths("adaptive", curve, 2) == (2, 4)
    assert choose_depths("adaptive_full", curve, 2) == (2, 10)


def test_a_dip_that_recovers_does_not_count_twice():
    curve = [0, 5, 3, 4, 5, 6, 10]
    assert moved(curve) == pytest.approx([0, 0.5, 0.5, 0.5, 0.5, 0.6, 1])
    assert adaptive_depths(curve, 2) == (1, 6)


def test_a_jump_spreads_upwards_and_at_the_end_downwards():
    assert adaptive_depths([0, 0, 9, 9, 9, 9, 10], 4) == (2, 3, 4, 6)
    assert adaptive_depths([0, 0, 0, 0, 0, 0, 1], 3) == (4, 5, 6)


def test_a_flat_feature_gives_uniform_depths():
    assert adaptive_depths([7.0] * 11, 5) == (2, 4, 6, 8, 10)


def test_the_original_rule_reads_the_curve_from_its_noisy_end():
    """A curve that has fallen by half early: the right depths are shallow, its rule's are deep."""
    curve = 100 * np.exp(-np.arange(1001) / 100)
    right, theirs = adaptive_depths(curve, 10), reversed_depths(curve, 10)
    assert right[:3] == (11, 23, 36)
    assert theirs[0] == 770
    assert theirs[-1] == 1000
    assert list(theirs) == sorted(set(theirs))


def test_the_original_rule_gives_up_into_uniform_depths():
    """A feature that rises puts every candidate before the last: a hundred failures, then T / m."""
    assert reversed_depths(np.linspace(0, 1, 1001), 10) == tuple(range(100, 1001, 100))


CURVES = st.lists(st.floats(-1e6, 1e6), min_size=2, max_size=60)


@settings(max_examples=200, deadline=None)
@given(curve=CURVES, data=st.data(), policy=st.sampled_from(sorted(POLICIES)))
def test_depths_rise_strictly_within_the_levels_and_leave_the_curve_alone(curve, data, policy):
    count = data.draw(st.integers(1, len(curve) - 1))
    before = list(curve)
    depths = choose_depths(policy, curve, count)
    assert len(depths) == count
    assert list(depths) == sorted(set(depths))
    assert depths[0] >= 1
    assert depths[-1] <= len(curve) - 1
    assert curve == before


def test_wrong_asks_are_refused():
    with pytest.raises(ConfigError, match="11 depths do not fit into 10"):
        uniform_depths(10, 11)
    with pytest.raises(ConfigError, match="unknown depth policy 'deep'"):
        choose_depths("deep", [0, 1], 1)
    with pytest.raises(ConfigError, match="feature of level 1 is nan"):
        adaptive_depths([0.0, float("nan")], 1)
