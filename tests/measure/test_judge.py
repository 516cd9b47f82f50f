"""The judge: learns real classes, is tested on images that it was not fitted to."""

import numpy as np
import pytest

from factory.errors import DataError
from factory.measure.cache import ArrayCache
from factory.measure.judge import (
    balanced_accuracy,
    cross_fitted_logits,
    fit_judge,
    halves,
    recalls,
)

NAMES = ("basophil", "monocyte", "platelet")


def cells(
    counts: tuple[int, ...], *, apart: float = 1.0, views: int = 2, seed: int = 0
) -> tuple[np.ndarray, list[str]]:
    """Clouds of features (views, N, 12), one per class, `apart` from each other."""
    centres = np.random.default_rng(9).standard_normal((len(NAMES), 12)) * apart
    rng = np.random.default_rng(seed)
    labels = [name for name, n in zip(NAMES, counts, strict=True) for _ in range(n)]
    middle = np.array([centres[NAMES.index(label)] for label in labels])
    noise = rng.standard_normal((views, len(labels), 12))
    return (middle + noise).astype(np.float32), labels


def ids(count: int) -> list[str]:
    return [f"cell-{i}" for i in range(count)]


def test_a_fitted_judge_names_new_images() -> None:
    judge = fit_judge(*cells((40, 30, 20)))
    fresh, labels = cells((10, 10, 10), seed=1)
    assert judge.class_names == NAMES
    assert balanced_accuracy(judge.names(fresh), labels).value > 0.9


def test_the_fit_is_the_minimum_of_the_balanced_loss() -> None:
    """At the minimum the mean residual of every class is zero: the bias is not penalised."""
    turns, labels = cells((40, 30, 20), views=1)
    logits = fit_judge(turns, labels).logits(turns).astype(np.float64)
    shares = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    wanted = np.array(labels)[:, None] == np.array(NAMES)
    weights = np.array([1 / labels.count(label) for label in labels])[:, None]
    assert np.abs(((shares - wanted) * weights).sum(axis=0)).max() < 1e-3


def test_views_of_an_image_are_averaged() -> None:
    turns, labels = cells((20, 20, 20))
    judge = fit_judge(turns, labels)
    apart = np.stack([judge.logits(view[None]) for view in turns])
    assert np.allclose(judge.logits(turns), apart.mean(axis=0), atol=1e-5)


def test_rare_classes_weigh_as_much_as_common_ones() -> None:
    judge = fit_judge(*cells((300, 10, 10), apart=0.5))
    fresh, labels = cells((60, 60, 60), apart=0.5, seed=1)
    assert min(r.value for r in recalls(judge.names(fresh), labels).values()) > 0.4


def test_cross_fitting_finds_nothing_in_noise() -> None:
    turns, labels = cells((60, 60, 60), apart=0.0)
    logits = cross_fitted_logits(turns, labels, ids(180))
    own = [NAMES[k] for k in logits.argmax(axis=1)]
    found = balanced_accuracy(own, labels)
    assert found.low < 1 / 3 < found.high
    fitted = balanced_accuracy(fit_judge(turns, labels).names(turns), labels)
    assert fitted.value > found.value + 0.1  # what an honest test must not report


def test_halves_are_even_in_every_stratum_and_follow_the_ids() -> None:
    labels = ["a"] * 7 + ["b"] * 10
    half = halves(labels, ids(17))
    assert half[:7].sum() == 3
    assert half[7:].sum() == 5
    order = np.random.default_rng(0).permutation(17)
    again = halves([labels[i] for i in order], [ids(17)[i] for i in order])
    assert np.array_equal(again, half[order])


def test_a_kept_judge_is_the_same_judge(tmp_path) -> None:
    cache = ArrayCache(folder=tmp_path)
    turns, labels = cells((20, 20, 20))
    first, second = (fit_judge(turns, labels, cache=cache) for _ in range(2))
    assert np.array_equal(first.logits(turns), second.logits(turns))
    assert len(list(tmp_path.iterdir())) == 1
    fit_judge(turns + 1, labels, cache=cache)
    assert len(list(tmp_path.iterdir())) == 2


def test_recalls_count_each_class_by_itself() -> None:
    found = recalls(["a", "b", "b", "a"], ["a", "a", "b", "c"])
    assert {name: (own.value, own.n) for name, own in found.items()} == {
        "a": (0.5, 2),
        "b": (1.0, 1),
        "c": (0.0, 1),
    }
    assert balanced_accuracy(["a", "b", "b", "a"], ["a", "a", "b", "c"]).value == 0.5


def test_too_little_to_decide_is_refused() -> None:
    turns, _ = cells((2, 2, 2))
    with pytest.raises(DataError, match="judge of 1 classes"):
        fit_judge(turns, ["a"] * 6)
    with pytest.raises(DataError, match="'b' has a single held-out image"):
        cross_fitted_logits(turns, [*"aaaaab"], ids(6))
