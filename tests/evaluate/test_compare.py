import numpy as np
import pytest
from scipy import stats

from factory.arrays import Floats
from factory.errors import DataError
from factory.evaluate.compare import Tally, compare, holm, spread_of
from factory.evaluate.scores import accuracy, confusion_rows, macro_f1, tally
from factory.evaluate.verdict import effect_of, sentence
from factory.measure.intervals import Estimate, bounded_difference, p_of_difference


def trained(right: float, place: tuple[int, int], *, images: int = 60, key: int = 0) -> Tally:
    """A training that names a share of two-class images right, each by chance."""
    rng = np.random.Generator(np.random.Philox(key=[key, place[0]], counter=[0, 0, 0, place[1]]))
    labels = np.arange(images) % 2
    said = np.where(rng.random(images) < right, labels, 1 - labels)
    return tally([f"{i:03d}" for i in range(images)], confusion_rows(labels, said, 2))


def arm(right: float, *, folds: int = 5, seeds: int = 3, key: int = 0) -> dict:
    places = [(f, s) for f in range(folds) for s in range(seeds)]
    return {place: trained(right, place, key=key) for place in places}


def simulated(values: Floats) -> dict:
    """Trainings (F, S) that score what is given, on one image each."""
    return {
        (fold, seed): Tally(groups=("all",), counts=np.array([[value]]))
        for (fold, seed), value in np.ndenumerate(values)
    }


def plain(sums: Floats) -> Floats:
    return sums[..., 0]


NULLS = {  # standard deviations of folds, of seeds in all folds, of trainings
    "folds as much as trainings": (0.02, 0, 0.02),
    "folds above all": (0.03, 0, 0.01),
    "no folds": (0, 0, 0.03),
    "folds a little": (0.01, 0, 0.03),
    "seeds in common too": (0.02, 0.01, 0.02),
}


@pytest.mark.parametrize("spread", NULLS.values(), ids=NULLS)
def test_of_2000_null_studies_of_5_folds_and_3_seeds_5_in_100_are_false_alarms(spread):
    rng = np.random.Generator(np.random.Philox(key=[7, 0]))
    alarms = called = 0
    for _ in range(2000):
        folds, seeds, rest = (
            sd * rng.standard_normal(shape)
            for sd, shape in zip(spread, ((5, 1), (1, 3), (5, 3)), strict=True)
        )
        shared = 0.8 + 0.05 * rng.standard_normal((5, 1))  # what both arms score
        found = compare(
            simulated(shared + folds + seeds + rest), simulated(shared + 0 * rest), plain
        )
        alarms += found.p < 0.05
        called += effect_of(found.difference) != "no evidence"
    assert called == alarms  # interval and p are one test
    assert 0.03 <= alarms / 2000 <= 0.07


@pytest.mark.parametrize(("seeds", "images"), [(3, 60), (5, 17)])
def test_null_studies_of_one_split_are_false_alarms_as_seldom(seeds, images):
    rng = np.random.Generator(np.random.Philox(key=[8, seeds]))
    groups = tuple(f"{i:03d}" for i in range(images))
    alarms = 0
    for _ in range(1000):
        hard = 0.2 * rng.standard_normal(images)  # images, harder for the one or the other
        one, two = (
            {
                (0, seed): Tally(
                    groups=groups,
                    counts=np.stack([0.5 + sign * hard + noise, np.ones(images)], axis=1),
                )
                for seed, noise in enumerate(0.2 * rng.standard_normal((seeds, images)))
            }
            for sign in (1, -1)
        )
        found = compare(one, two, lambda sums: sums[..., 0] / sums[..., 1])
        assert found.over == "seeds and test images"
        alarms += found.p < 0.05
    assert 0.03 <= alarms / 1000 <= 0.07


def test_the_difference_is_the_mean_of_pairs_over_folds():
    better, worse = arm(0.9), arm(0.6, key=1)
    found = compare(better, worse, accuracy)
    assert found.difference.n == len(found.pairs) == 15
    assert found.difference.value == pytest.approx(np.mean(found.pairs))
    assert found.over == "folds"
    assert found.difference.low < found.difference.value < found.difference.high
    assert effect_of(found.difference) == "helps"
    back = compare(worse, better, accuracy)
    assert effect_of(back.difference) == "hurts"
    assert back.difference.value == pytest.approx(-found.difference.value)


def test_the_interval_of_five_folds_is_as_wide_as_students():
    found = compare(arm(0.75, seeds=1), arm(0.7, seeds=1, key=1), accuracy)
    spread = np.std(found.pairs, ddof=1) / np.sqrt(5) * stats.t.ppf(0.975, 4)
    width = found.difference.high - found.difference.low
    assert width == pytest.approx(2 * spread, rel=0.02)
    assert found.p == pytest.approx(stats.ttest_1samp(found.pairs, 0).pvalue, rel=0.05)


@pytest.mark.parametrize(("folds", "seeds"), [(5, 2), (1, 5)])
def test_two_equal_arms_are_called_different_in_at_most_one_of_ten(folds, seeds):
    wrong = 0
    for key in range(40):
        one = arm(0.7, folds=folds, seeds=seeds, key=5000 + key)
        two = arm(0.7, folds=folds, seeds=seeds, key=5500 + key)
        wrong += effect_of(compare(one, two, accuracy).difference) != "no evidence"
    assert wrong <= 4


def test_one_split_has_seeds_and_images():
    found = compare(arm(0.9, folds=1, seeds=5), arm(0.6, folds=1, seeds=5, key=1), accuracy)
    assert found.over == "seeds and test images"
    assert effect_of(found.difference) == "helps"
    assert found.p < 0.05


def test_fifteen_seeds_are_compared():
    found = compare(arm(0.9, folds=1, seeds=15), arm(0.6, folds=1, seeds=15, key=1), accuracy)
    assert found.difference.n == 15
    assert effect_of(found.difference) == "helps"


def test_seeds_of_few_images_say_nothing_however_many():
    twice = {(0, seed): trained(0.7, (0, 0), images=8, key=0) for seed in range(40)}
    other = {(0, seed): trained(0.7, (0, 0), images=8, key=3) for seed in range(40)}
    found = compare(twice, other, accuracy)
    assert found.difference.value != 0
    assert effect_of(found.difference) == "no evidence"


@pytest.mark.parametrize("images", [2, 5, 17])
@pytest.mark.parametrize(("folds", "seeds"), [(1, 2), (2, 1), (2, 2), (3, 1), (5, 3)])
def test_an_interval_never_leaves_what_a_difference_can_be(folds, seeds, images):
    for key in range(20):
        one, two = (
            {
                (fold, seed): trained(right, (fold, seed), images=images, key=10 * key + side)
                for fold in range(folds)
                for seed in range(seeds)
            }
            for side, right in enumerate((0.9, 0.1))
        )
        for of in (accuracy, macro_f1):
            found = compare(one, two, of)
            difference = found.difference
            assert -1 <= difference.low <= difference.value <= difference.high <= 1
            assert (found.p is not None and found.p < 0.05) == (
                effect_of(difference) != "no evidence"
            )


def test_the_interval_is_students_in_the_middle_and_wilsons_at_the_ends():
    low, high = bounded_difference(0.01, 0.02, 4)
    assert (low, high) == pytest.approx((0.01 - 2.7764 * 0.02, 0.01 + 2.7764 * 0.02), abs=1e-3)
    low, high = bounded_difference(0.9, 0.1, 1e9)  # a share of 0.95 with error 0.05: 19 images
    n = 0.95 * 0.05 / 0.05**2
    centre, half = (0.95 + 1.96**2 / 2 / n), 1.96 * np.sqrt(0.95 * 0.05 / n + 1.96**2 / 4 / n**2)
    ends = ((centre + sign * half) / (1 + 1.96**2 / n) for sign in (-1, 1))
    assert ((1 + low) / 2, (1 + high) / 2) == pytest.approx(tuple(ends), abs=1e-4)
    error = 0.3 * np.sqrt(1 - 0.3**2) / stats.t.ppf(0.975, 7)
    assert p_of_difference(0.3, error, 7) == pytest.approx(0.05)
    assert bounded_difference(0.3, error, 7)[0] == pytest.approx(0, abs=1e-9)


def test_what_all_folds_share_of_a_seed_counts_where_it_shows():
    rng = np.random.Generator(np.random.Philox(5))
    table = 0.1 * rng.standard_normal((1, 3)) + 0.001 * rng.standard_normal((5, 3))
    found = spread_of(table)
    assert found.variance == pytest.approx(table.mean(axis=0).var(ddof=1) / 3, rel=0.1)
    assert found.freedom == pytest.approx(2, rel=0.1)
    alone = spread_of(table[:, :1])
    assert alone.variance == pytest.approx(table[:, 0].var(ddof=1) / 5)
    assert alone.freedom == 4


def test_arms_of_other_images_and_single_trainings_are_refused():
    with pytest.raises(DataError, match="other folds, seeds or test images"):
        compare(arm(0.9, seeds=2), arm(0.9), accuracy)
    with pytest.raises(DataError, match="no spread"):
        compare(arm(0.9, folds=1, seeds=1), arm(0.9, folds=1, seeds=1), accuracy)


def test_arms_that_never_differ_have_no_p():
    found = compare(arm(0.7), arm(0.7), accuracy)
    assert found.p is None
    assert (found.difference.low, found.difference.high) == (0, 0)


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


@pytest.mark.parametrize("folds", [1, 2])
def test_images_of_one_patient_say_nothing_of_others_however_often_an_arm_is_trained(folds):
    rng = np.random.Generator(np.random.Philox(key=[3, 0]))
    better = 0.8 + 0.001 * rng.standard_normal((folds, 20))
    found = compare(simulated(better), simulated(better - 0.1), plain)
    assert found.difference.value == pytest.approx(0.1)
    assert (found.difference.low, found.difference.high, found.p) == (-1, 1, 1)
    assert found.false_claim is None
    assert "no evidence" in sentence("mixed", "real", found.difference)


def test_nor_however_often_shots_are_drawn():
    rng = np.random.Generator(np.random.Philox(key=[4, 0]))
    one, other = (
        {
            (0, 0, draw, 0): Tally(
                groups=("all",), counts=np.array([[score + rng.normal(0, 0.01)]])
            )
            for draw in range(10)
        }
        for score in (0.9, 0.8)
    )
    found = compare(one, other, plain)
    assert (found.difference.low, found.difference.high, found.p) == (-1, 1, 1)
