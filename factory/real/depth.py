"""From many brightness levels to 256: how many bits values hold, and what becomes black and white.

Cameras store 10, 12 or 14 bits in containers of 16, and a picture alone does not tell which: the
greatest value of its whole set does. One rule for a set keeps its pictures comparable.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

FULL = 2**14
"""Where a set reaches this value its 16-bit containers are taken to be full: values keep their high
byte, and none of the known depths below 16 bits would hold them."""
DARKEST_SHARE = 1 / 16
"""A picture whose greatest value lies below this share of its set's depth is all but black."""


def depth_bits(greatest: int) -> int:
    """Return the bits that values up to `greatest` need: 8 to 14, or 16 above them."""
    return 16 if greatest >= FULL else max(8, greatest.bit_length())


def to_8_bits(
    values: NDArray[Any], low: float, high: float, *, inverted: bool = False
) -> NDArray[np.uint8]:
    """Return values of any shape with `low` and less as 0, `high` and more as 255, rounded."""
    share = np.clip((values.astype(np.float64) - low) / (high - low), 0, 1)
    return np.asarray((1 - share if inverted else share) * 255 + 0.5, np.uint8)
