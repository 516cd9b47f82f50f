"""What a comparison found, as a value and as one sentence."""

from typing import Literal

from catalog.results import Effect
from catalog.results import effect_of as effect_between
from factory.measure.intervals import Estimate

Finding = Literal["helps", "hurts", "no difference", "no gain", "no evidence"]
"""'no difference': the interval lies within the margin; 'no gain': below it."""


def effect_of(difference: Estimate) -> Effect:
    """Return 'helps' or 'hurts' only where the 95 % interval leaves 0 out."""
    return effect_between(difference.low, difference.high)


def finding_of(difference: Estimate, margin: float) -> Finding:
    """Return what the 95 % interval of a difference says; of no effect, how small it must be.

    That an effect is below a margin is shown where the interval ends below it (D. Schuirmann,
    Journal of Pharmacokinetics and Biopharmaceutics 1987; there with 90 % intervals).
    """
    effect = effect_of(difference)
    if effect == "helps":
        return "helps"
    if effect == "hurts":
        return "hurts"
    if difference.high < margin:
        return "no difference" if difference.low > -margin else "no gain"
    return "no evidence"


def sentence(
    arm: str,
    other: str,
    difference: Estimate,
    *,
    margin: float = 0.0,
    false_claim: float | None = None,
) -> str:
    """Return e.g. 'plus100 helps by 4.1 points [1.9, 6.3] over real'.

    Args:
        arm: with synthetic images.
        other: the control.
        difference: arm minus other, of scores in 0 .. 1; told in points of a hundred.
        margin: below which a gain is none; 0: not asked.
        false_claim: chance that the effect is none, or the other one.
    """
    value, low, high = difference.value, difference.low, difference.high
    doubt = "" if false_claim is None else f"; chance of a false claim {_percent(false_claim)}"
    match finding_of(difference, margin):
        case "helps":
            return f"{arm} helps by {_told(value, low, high)} over {other}{doubt}"
        case "hurts":
            return f"{arm} hurts by {_told(-value, -high, -low)} against {other}{doubt}"
        case "no difference":
            least = points(margin)
            told = _told(value, low, high)
            return f"no difference of {least:g} points between {arm} and {other} ({told})"
        case "no gain":
            told = _told(value, low, high)
            return f"no gain of {points(margin):g} points by {arm} over {other} ({told})"
        case "no evidence":
            return f"no evidence that {arm} helps over {other} ({_told(value, low, high)})"


def _told(value: float, low: float, high: float) -> str:
    return f"{points(value):.1f} points [{points(low):.1f}, {points(high):.1f}]"


def _percent(chance: float) -> str:
    return "below 0.1 %" if chance < 0.001 else f"{100 * chance:.1f} %"


def points(value: float) -> float:
    """Return a share as points of a hundred, to a tenth; never -0.0."""
    return round(100 * value, 1) + 0.0
