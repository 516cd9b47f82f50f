"""Soft labels sum to one, rise with k, and say what their rule says."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from factory.errors import ConfigError
from factory.methods.bridge.depths import adaptive_depths
from factory.methods.bridge.facts import (
    depth_fractions,
    expert_fractions,
    feature_fractions,
    rising,
    soft_label,
)

NAMES = ("adenoma", "carcinoma", "healthy")


def test_a_fraction_divides_the_weight_between_two_classes():
    assert soft_label(0.25, "healthy", "carcinoma", NAMES) == (0, 0.25, 0.75)
    assert soft_label(0, "healthy", "carcinoma", NAMES) == (0, 0, 1)
    assert soft_label(1, "healthy", "healthy", NAMES) == (0, 0, 1)


@given(st.floats(0, 1))
def test_labels_sum_to_one(fraction: float):
    label = soft_label(fraction, "adenoma", "carcinoma", NAMES)
    assert sum(label) == pytest.approx(1, abs=1e-12)
    assert label[1] == fraction


def test_depth_and_feature_fractions():
    assert depth_fractions((25, 50, 100), 100).tolist() == [0.25, 0.5, 1]
    curve = np.linspace(3, 1, 101)
    depths = adaptive_depths(curve, 4)
    assert feature_fractions(curve, depths) == pytest.approx([0.25, 0.5, 0.75, 1])


def test_the_original_weights_of_ten_images():
    """Its figure: k = 1, 4, 7, 10 of 10 weigh the target .1, .4, .7, 1."""
    curve = np.exp(-np.arange(1001) / 100)
    fractions = feature_fractions(curve, adaptive_depths(curve, 10))
    assert fractions[[0, 3, 6, 9]] == pytest.approx([0.1, 0.4, 0.7, 1], abs=0.01)


@given(st.lists(st.floats(0, 1), min_size=1, max_size=20))
def test_rising_keeps_the_mean_and_never_falls(values: list[float]):
    found = rising(np.array(values))
    assert (np.diff(found) >= 0).all()
    assert found.mean() == pytest.approx(np.mean(values))
    if values == sorted(values):
        assert found == pytest.approx(values)


def test_expert_fractions_compare_the_two_classes_alone():
    probabilities = np.array([[0.1, 0.8, 0.1], [0.3, 0.3, 0.4], [0.4, 0.4, 0.2], [0.9, 0.0, 0.1]])
    found = expert_fractions(probabilities, 1, 0)
    assert found == pytest.approx([1 / 9, 0.5, 0.5, 1])


def test_wrong_labels_are_refused():
    with pytest.raises(ConfigError, match=r"fraction 1\.5"):
        soft_label(1.5, "healthy", "adenoma", NAMES)
    with pytest.raises(ConfigError, match="'polyp' is none of"):
        soft_label(0.5, "healthy", "polyp", NAMES)
