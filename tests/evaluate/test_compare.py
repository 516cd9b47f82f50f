import numpy as np
import pytest
from scipy import stats

from factory.errors import DataError
from factory.evaluate.compare import Tally, compare, holm, wilcoxon
from factory.evaluate.intervals import Estimate
from factory.evaluate.scores import accuracy, confusion_rows, tally
from factory.evaluate.verdict import effect_of, sentence


def trained(right: float, place: tuple[int, int], *, images: int = 60, key: int = 0) -> Tally:
    """A training that names a share of two-class images right, each by chance."""
    rng = np.random.Generator(np.random.Philox(key=[key, place[0]], counter=[0, 0, 0, place[1]]))
    labels = np.arange(images) % 2
    said = np.where(rng.random(images) < right, labels, 1 - labels)
    return tally([f"{i:03d}" for i in range(images)], confusion_rows(labels, said, 2))


def arm(right: float, *, folds: int = 5, seeds: int = 3, key: int = 0) -> dict:
    places = [(f, s) for f in range(folds) for s in range(seeds)]
    return {place: trained(right, place, key=key) for place in places}


def test_the_difference_is_the_mean_of_pairs_and_folds_are_drawn_anew():
    better, worse = arm(0.9), arm(0.6, key=1)
    found = compare(better, worse, accuracy)
    assert found.difference.n == len(found.pairs) == 15
    assert found.difference.value == pytest.approx(np.mean(found.pairs))
    assert found.drawn_anew == "folds"
    assert found.difference.low < found.difference.value < found.difference.high
    assert effect_of(found.difference) == "helps"
    assert found.wilcoxon_p == pytest.approx(stats.wilcoxon(found.pairs).pvalue)
    back = compare(worse, better, accuracy)
    assert effect_of(back.difference) == "hurts"
    assert back.difference.value == pytest.approx(-found.difference.value)


def test_the_interval_of_five_folds_is_as_wide_as_students():
    found = compare(arm(0.75, seeds=1), arm(0.7, seeds=1, key=1), accuracy)
    spread = np.std(found.pairs, ddof=1) / np.sqrt(5) * stats.t.ppf(0.975, 4)
    width = found.difference.high - found.difference.low
    assert width == pytest.approx(2 * spread, rel=0.12)


@pytest.mark.parametrize(("folds", "seeds"), [(5, 2), (1, 5)])
def test_two_equal_arms_are_called_different_in_at_most_one_of_ten(folds, seeds):
    wrong = 0
    for key in range(40):
        one = arm(0.7, folds=folds, seeds=seeds, key=5000 + key)
        two = arm(0.7, folds=folds, seeds=seeds, key=5500 + key)
        wrong += effect_of(compare(one, two, accuracy).difference) != "no evidence"
    assert wrong <= 4


def test_one_split_draws_seeds_and_images():
    found = compare(arm(0.9, folds=1, seeds=5), arm(0.6, folds=1, seeds=5, key=1), accuracy)
    assert found.drawn_anew == "seeds and test images"
    assert effect_of(found.difference) == "helps"
    assert found.wilcoxon_p is None  # five pairs


def test_arms_of_other_images_and_single_trainings_are_refused():
    with pytest.raises(DataError, match="other folds, seeds or test images"):
        compare(arm(0.9, seeds=2), arm(0.9), accuracy)
    with pytest.raises(DataError, match="no spread"):
        compare(arm(0.9, folds=1, seeds=1), arm(0.9, folds=1, seeds=1), accuracy)


def test_wilcoxon_says_nothing_where_it_cannot():
    assert wilcoxon([0.1] * 5) is None
    assert wilcoxon([0.0] * 9) is None
    assert wilcoxon([0.1, 0.2, 0.3, 0.4, 0.5, 0.6]) == pytest.approx(1 / 32)


def test_holm_multiplies_the_smallest_by_their_number_and_keeps_the_order():
    assert holm([0.04, 0.01, 0.03]) == pytest.approx([0.06, 0.03, 0.06])


@pytest.mark.parametrize(
    ("low", "value", "high", "told"),
    [
        (0.019, 0.041, 0.063, "plus100 helps by 4.1 points [1.9, 6.3] over real"),
        (-0.063, -0.041, -0.019, "plus100 hurts by 4.1 points [1.9, 6.3] against real"),
        (-0.01, 0.02, 0.05, "no evidence that plus100 helps over real (2.0 points [-1.0, 5.0])"),
        (0.0, 0.02, 0.04, "no evidence that plus100 helps over real (2.0 points [0.0, 4.0])"),
    ],
)
def test_the_verdict_is_one_sentence(low, value, high, told):
    assert sentence("plus100", "real", Estimate(value=value, low=low, high=high, n=15)) == told
