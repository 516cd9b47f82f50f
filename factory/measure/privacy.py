"""Privacy: whether what was drawn gives away which images the generator learnt from."""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from factory.arrays import Images
from factory.errors import DataError
from factory.measure.copies import (
    CopyCheck,
    check_copies,
    nearest,
    thumbnails,
    turned_thumbnails,
)
from factory.measure.intervals import Z95, Estimate, proportion


@dataclass(frozen=True, slots=True, kw_only=True)
class Privacy:
    """What an onlooker with the drawn images could learn of the training images, in one space."""

    copies: CopyCheck
    memorised: Estimate
    """Share of the training images that some drawn image copies."""
    membership: Estimate
    """AUC of guessing that a real image was learnt from, by its nearest drawn one; chance: 0.5."""


def measure_privacy(drawn: Images, trained: Images, unseen: Images) -> Privacy:
    """Compare drawn images (N, S, S, 3) with those learnt from (M, S, S, 3) and unseen ones.

    In 32 px thumbnails under all eight turns: crude, but it needs no weights. An image counts as a
    copy when it is nearer to training than 1 % of the unseen images.

    Raises:
        DataError: no image on one of the sides.
    """
    counts = {"drawn": len(drawn), "trained": len(trained), "unseen": len(unseen)}
    if not all(counts.values()):
        raise DataError(f"no privacy figures of {counts} images", remedy="Give some of each")
    stored = thumbnails(trained)
    to_training = nearest(turned_thumbnails(drawn), stored)
    calibration = nearest(turned_thumbnails(unseen), stored).distance
    copies = check_copies("pixels", to_training.distance, calibration)
    found = to_training.position[to_training.distance < copies.threshold]
    own, others = (
        nearest(turned_thumbnails(real), thumbnails(drawn)).distance for real in (trained, unseen)
    )
    return Privacy(
        copies=copies,
        memorised=proportion(len(set(found.tolist())), len(trained)),
        membership=area_under_curve(-own, -others),
    )


def area_under_curve(members: NDArray[np.float64], others: NDArray[np.float64]) -> Estimate:
    """Return P(a member's score exceeds another's), ties half, with its normal interval.

    Variance after E. DeLong, D. DeLong, D. Clarke-Pearson, Biometrics 1988, from the placements of
    each score among those of the other side; one score alone has no variance and gives [0, 1].
    """
    above = (members[:, None] > others).astype(float) + 0.5 * (members[:, None] == others)
    value = float(above.mean())
    if min(above.shape) < 2:
        return Estimate(value=value, low=0.0, high=1.0, n=sum(above.shape))
    parts = (above.mean(axis=axis) for axis in (1, 0))
    half = Z95 * math.sqrt(sum(float(part.var(ddof=1)) / len(part) for part in parts))
    low, high = max(0.0, value - half), min(1.0, value + half)
    return Estimate(value=value, low=low, high=high, n=sum(above.shape))
