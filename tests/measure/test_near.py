"""Axes, neighbours among codes, and the few vectors that cover the others."""

from itertools import combinations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from factory.measure.near import Axes, Codes, farthest_first


def clusters(count, width=100, *, seed=0, centres=50):
    """Vectors around some centres, as images of some looks are."""
    rng = np.random.default_rng(seed)
    middle = rng.normal(0, 1, (centres, width)) / np.sqrt(1 + np.arange(width))
    own = middle[rng.integers(0, centres, count)]
    return (own + 0.3 * rng.normal(0, 1, own.shape) / (1 + np.arange(width))).astype(np.float32)


def test_axes_find_the_plane_in_which_vectors_lie_and_point_one_way():
    rng = np.random.default_rng(0)
    flat = rng.normal(0, 1, (200, 2)) * [3, 1]
    basis = np.linalg.qr(rng.normal(0, 1, (10, 10)))[0][:2]
    vectors = (flat @ basis + 5).astype(np.float32)
    axes = Axes.of(vectors)
    assert axes.spread[0] > axes.spread[1] > 0
    assert axes.spread[2:].max() < 1e-3
    placed = axes(vectors)
    apart = np.linalg.norm(vectors[:50, None] - vectors[None, :50], axis=2)
    kept = np.linalg.norm(placed[:50, None, :2] - placed[None, :50, :2], axis=2)
    assert np.allclose(apart, kept, atol=1e-3)
    again = Axes.of(vectors[::-1].copy())
    assert np.allclose(axes.axes[:2], again.axes[:2], atol=1e-4)
    assert (np.take_along_axis(axes.axes, np.abs(axes.axes).argmax(1)[:, None], 1)[:2] > 0).all()


@pytest.mark.parametrize("vectors", [np.ones((1, 5)), np.full((7, 5), 2.0), np.eye(3)[:2]])
def test_few_or_equal_vectors_have_a_map_too(vectors):
    axes = Axes.of(vectors.astype(np.float32))
    assert axes.axes.shape[0] >= 2
    assert np.isfinite(axes(vectors.astype(np.float32))).all()
    codes = Codes.of(axes(vectors.astype(np.float32)), axes.spread)
    assert np.isfinite(codes.nearest(codes.placed(0), 3)[1]).all()


def test_codes_find_the_neighbours_that_the_vectors_themselves_give():
    vectors = clusters(5000)
    axes = Axes.of(vectors)
    codes = Codes.of(axes(vectors), axes.spread)
    assert codes.codes.dtype == np.int16
    hits = 0
    for row in range(0, 5000, 100):
        exact = np.argsort(((vectors - vectors[row]) ** 2).sum(axis=1), kind="stable")[:11]
        found, distances = codes.nearest(codes.placed(row), 11)
        assert found[0] == row
        assert (np.diff(distances) >= 0).all()
        hits += len(set(found[1:].tolist()) & set(exact[1:].tolist()))
    assert hits / 500 > 0.95


def test_codes_in_pieces_are_the_codes_of_the_whole():
    vectors = clusters(300)
    axes = Axes.of(vectors)
    placed = axes(vectors)
    whole = Codes.of(placed, axes.spread)
    parts = [Codes.of(placed[a:b], axes.spread) for a, b in ((0, 0), (0, 100), (100, 300))]
    joined = Codes.joined(parts)
    assert (joined.codes == whole.codes).all()
    found, distances = joined.nearest(placed[7], 400)
    assert sorted(found.tolist()) == list(range(300))
    assert np.allclose(distances[0], 0, atol=1e-2)
    assert len(Codes.joined(parts[:1]).nearest(placed[0], 3)[0]) == 0


def test_every_cluster_is_chosen_from_before_one_is_twice():
    rng = np.random.default_rng(0)
    middle = rng.normal(0, 100, (12, 8))
    own = np.repeat(np.arange(12), [1, 2, 3, *[50] * 9])  # rare looks too
    vectors = (middle[own] + rng.normal(0, 1, (len(own), 8))).astype(np.float32)
    chosen, radius = farthest_first(vectors, 12)
    assert sorted(own[chosen]) == list(range(12))
    assert radius < 20
    assert (farthest_first(vectors, 12)[0] == chosen).all()
    assert farthest_first(vectors, 3)[0].tolist() == chosen[:3].tolist()
    assert sorted(farthest_first(vectors, 999)[0].tolist()) == list(range(len(own)))
    assert len(farthest_first(vectors[:0], 5)[0]) == 0


@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.tuples(st.integers(-9, 9), st.integers(-9, 9)), min_size=3, max_size=9),
    st.integers(1, 3),
)
def test_no_other_choice_covers_twice_as_well(places, count):
    vectors = np.array(places, np.float32)
    chosen, radius = farthest_first(vectors, count)
    assert len(set(chosen.tolist())) == count

    def reach(some):
        gaps = np.linalg.norm(vectors[:, None] - vectors[None, list(some)], axis=2)
        return gaps.min(axis=1).max()

    assert radius == pytest.approx(reach(chosen), abs=1e-3)
    best = min(reach(some) for some in combinations(range(len(vectors)), count))
    assert radius <= 2 * best + 1e-3
