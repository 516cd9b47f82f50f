"""One sentence about a comparison: helps, hurts, or no evidence."""

from catalog.results import Effect
from catalog.results import effect_of as effect_between
from factory.measure.intervals import Estimate


def effect_of(difference: Estimate) -> Effect:
    """Return 'helps' or 'hurts' only where the 95 % interval leaves 0 out."""
    return effect_between(difference.low, difference.high)


def sentence(arm: str, other: str, difference: Estimate) -> str:
    """Return e.g. 'plus100 helps by 4.1 points [1.9, 6.3] over real'.

    Args:
        arm: with synthetic images.
        other: the control.
        difference: arm minus other, of scores in 0 .. 1; told in points of a hundred.
    """
    value, low, high = difference.value, difference.low, difference.high
    match effect_of(difference):
        case "helps":
            return f"{arm} helps by {_told(value, low, high)} over {other}"
        case "hurts":
            return f"{arm} hurts by {_told(-value, -high, -low)} against {other}"
        case "no evidence":
            return f"no evidence that {arm} helps over {other} ({_told(value, low, high)})"


def _told(value: float, low: float, high: float) -> str:
    return f"{points(value):.1f} points [{points(low):.1f}, {points(high):.1f}]"


def points(value: float) -> float:
    """Return a share as points of a hundred, to a tenth; never -0.0."""
    return round(100 * value, 1) + 0.0
