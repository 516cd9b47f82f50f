"""Which values the masks of a dataset hold: its classes, if nothing spoiled them."""

from collections import Counter
from collections.abc import Sequence

import numpy as np

from factory.errors import DataError
from factory.real.dataset import RealDataset

MOST_CLASSES = 16
"""More mask values than these were not drawn by hand: JPEG and resizing leave such masks."""


def found_values(dataset: RealDataset, ids: Sequence[str]) -> tuple[int, ...]:
    """Return the values that the masks of `ids` hold, ascending: background first.

    Raises:
        DataError: one value only, or so many that they are no classes.
    """
    counts: Counter[int] = Counter()
    for image_id in ids:
        mask = dataset.mask(dataset.index_of(image_id))
        if mask is not None:
            counts.update(np.unique(mask).tolist())
    if not 2 <= len(counts) <= MOST_CLASSES:
        shown = ", ".join(map(str, sorted(counts)[:5]))  # JPEG leaves dozens
        raise DataError(
            f"the masks hold {len(counts)} values ({shown}{', ...' if counts else ''}):"
            f" not 2 to {MOST_CLASSES} classes",
            remedy="Store class indices losslessly, or threshold the masks first",
        )
    return tuple(sorted(counts))
