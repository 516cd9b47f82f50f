"""Intervals over draws, test images, seeds and generators: do 95 % of them hold the truth?"""

import numpy as np
import pytest

from factory.evaluate.compare import Tally, compare
from factory.evaluate.factors import Crossed, labels_worth, resampled, spread_over
from factory.evaluate.scores import accuracy
from factory.measure.intervals import bounded_difference

IMAGES = 15


def drawn(rng, shape, *, draws=1.0, images=2.0, generators=0.3, rest=3.0):
    """Differences of no mean, in hundredths: (F, D, G, S, I)."""
    folds, d, g, _seeds, i = shape
    values = rest * rng.standard_normal(shape)
    values += draws * rng.standard_normal((folds, d, 1, 1, 1))
    values += images * rng.standard_normal((folds, 1, 1, 1, i))
    values += generators * (g > 1) * rng.standard_normal((1, 1, g, 1, 1))
    return Crossed(folds=tuple(values / 100))


@pytest.mark.parametrize(
    ("shape", "sizes", "least", "most"),
    [
        ((1, 20, 1, 1, IMAGES), {}, 0.93, 0.97),
        ((5, 4, 1, 1, IMAGES), {}, 0.93, 0.97),
        ((3, 4, 3, 2, IMAGES), {}, 0.93, 0.98),
        ((1, 10, 5, 1, IMAGES), {"generators": 1.0}, 0.93, 0.97),
        ((1, 10, 2, 1, IMAGES), {"generators": 1.0}, 0.92, 0.98),
        ((1, 20, 1, 1, IMAGES), {"draws": 0.0, "images": 0.0}, 0.93, 0.98),
    ],
)
def test_ninety_five_of_a_hundred_intervals_hold_the_truth(shape, sizes, least, most):
    rng = np.random.Generator(np.random.Philox(1))
    held = 0
    for _ in range(600):
        crossed = drawn(rng, shape, **sizes)
        told = spread_over(crossed)
        low, high = bounded_difference(crossed.mean, told.variance**0.5, told.freedom)
        held += low <= 0 <= high
    assert least - 0.01 <= held / 600 <= most + 0.01  # 600 studies tell it to 0.9 points


def test_resampling_spreads_as_the_closed_form_says():
    crossed = drawn(np.random.Generator(np.random.Philox(2)), (2, 30, 1, 1, 40), images=1.0)
    means = resampled([crossed, crossed], replicates=1500)
    assert means[:, 0].mean() == pytest.approx(crossed.mean, abs=0.001)
    assert (means[:, 0] == means[:, 1]).all()  # arms are drawn again together
    assert means[:, 0].std() == pytest.approx(spread_over(crossed).variance ** 0.5, rel=0.2)


def test_draws_of_the_shots_widen_an_interval_that_seeds_alone_would_not():
    def tally(right: int) -> Tally:
        counts = np.zeros((20, 4))
        counts[:right, 0] = counts[right:, 1] = 1  # of class 0: named 0 or 1
        return Tally(groups=tuple(f"{n:02}" for n in range(20)), counts=counts)

    rights = (10, 16, 8, 18)
    by_draw = {(0, 0, draw, 0): tally(right) for draw, right in enumerate(rights)}
    even = {(0, 0, draw, 0): tally(13) for draw in range(4)}
    control = {place: tally(9) for place in by_draw}
    spread_out, same = (compare(arm, control, accuracy) for arm in (by_draw, even))
    assert spread_out.difference.value == same.difference.value == pytest.approx(0.2)
    widths = [found.difference.high - found.difference.low for found in (spread_out, same)]
    assert widths[0] > 1.3 * widths[1]
    assert spread_out.over.startswith("draws of the shots")
    assert spread_out.false_claim == pytest.approx(spread_out.p / 2)


def test_worth_is_read_off_the_curve_of_real_images():
    curve = [(1.0, np.full(4, 0.3)), (4.0, np.full(4, 0.6)), (16.0, np.array([0.7, 0.7, 0.5, 0.7]))]
    found = labels_worth(curve, np.array([0.65, 0.2, 0.55, 0.75]))
    assert found[:3] == pytest.approx([8.0, 1.0, 4 ** (5 / 6)])
    assert found[3] == np.inf
