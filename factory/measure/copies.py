"""Copies: drawn images that are nearer to a training image than unseen real images ever are."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray

from factory.arrays import Features, Images
from factory.errors import DataError
from factory.measure.features import TURNS, turned
from factory.measure.intervals import Z95, Estimate, proportion

THUMBNAIL_PX = 32
PERCENTILE = 1.0
"""Of the held-out images, this many in a hundred lie below the threshold by construction."""
_BLOCK = 512
_AT_ONCE = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class Nearest:
    """The nearest stored image of every query: Euclidean distance (N,), its position (N,)."""

    distance: NDArray[np.float64]
    position: NDArray[np.int64]
    view: NDArray[np.int64]
    """(N,) which of the query's views it is nearest to."""


def nearest(turns: Features, stored: Features) -> Nearest:
    """Return the nearest of `stored` (M, D) to any of the T views of each query (T, N, D)."""
    views, queries, width = turns.shape
    found = [_nearest_block(block, stored) for block in _blocks(turns.reshape(-1, width))]
    distance = np.concatenate([part[0] for part in found]).reshape(views, queries)
    position = np.concatenate([part[1] for part in found]).reshape(views, queries)
    view = distance.argmin(axis=0)
    every = np.arange(queries)
    return Nearest(distance=distance[view, every], position=position[view, every], view=view)


def _blocks(rows: Features) -> list[Features]:
    return [rows[start : start + _BLOCK] for start in range(0, len(rows), _BLOCK)]


def _nearest_block(
    queries: Features, stored: Features
) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Propose by |s|^2 - 2 q.s in float32; measure the winner anew: the sum loses small digits."""
    squares = np.einsum("md,md->m", stored, stored)
    position = (squares - 2 * (queries @ stored.T)).argmin(axis=1)
    gap = queries.astype(np.float64) - stored[position]
    return np.sqrt((gap**2).sum(axis=1)), position


class Some(Protocol):
    """Images (N, S, S, 3) that are read some at a time: an array, or what gives such slices."""

    def __len__(self) -> int: ...
    def __getitem__(self, rows: slice, /) -> Any:
        """Return some of them."""


def thumbnails(images: Some) -> Features:
    """Return images (N, H, W, 3) as vectors (N, 3072): means of 32x32 areas.

    Scaled so that a distance of two vectors is the root mean square difference of the thumbnails'
    values in [0, 1].
    """
    parts = [_small(part) for part in _parts(images)]
    return np.concatenate(parts) if parts else np.empty((0, 3 * THUMBNAIL_PX**2), np.float32)


def turned_thumbnails(images: Some) -> Features:
    """Return the thumbnails of all eight turns, (8, N, 3072)."""
    parts = [
        np.stack([_small(turned(part, number)) for number in range(TURNS)])
        for part in _parts(images)
    ]
    none = np.empty((TURNS, 0, 3 * THUMBNAIL_PX**2), np.float32)
    return np.concatenate(parts, axis=1) if parts else none


def _parts(images: Some) -> Iterator[Images]:
    for start in range(0, len(images), _AT_ONCE):
        yield np.asarray(images[start : start + _AT_ONCE])


def _small(images: Images) -> Features:
    channels_first = torch.from_numpy(images).permute(0, 3, 1, 2).float() / 255
    small = F.interpolate(channels_first, (THUMBNAIL_PX, THUMBNAIL_PX), mode="area")
    flat: Features = small.flatten(1).numpy()
    return flat / np.float32(np.sqrt(flat.shape[1]))


@dataclass(frozen=True, slots=True, kw_only=True)
class CopyCheck:
    """How many drawn images lie nearer to training than the threshold, in one space."""

    space: str
    threshold: float
    share: Estimate
    median_drawn: float
    median_held_out: float
    num_held_out: int


def check_copies(
    space: str, drawn: NDArray[np.float64], held_out: NDArray[np.float64]
) -> CopyCheck:
    """Compare distances to training of drawn images (N,) and of unseen real images (M,).

    The threshold is the 1st percentile of the real ones. A low share is no proof: blurred images
    come near to everything in pixels, so look at the closest pairs as well.
    """
    threshold = float(np.percentile(held_out, PERCENTILE))
    return CopyCheck(
        space=space,
        threshold=threshold,
        share=proportion(int((drawn < threshold).sum()), len(drawn)),
        median_drawn=float(np.median(drawn)),
        median_held_out=float(np.median(held_out)),
        num_held_out=len(held_out),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Privacy:
    """What an onlooker with the drawn images could learn of the training images, in one space."""

    copies: CopyCheck
    memorised: Estimate
    """Share of the training images that some drawn image copies."""
    membership: Estimate
    """AUC of guessing that a real image was learnt from, by its nearest drawn one; chance: 0.5."""


def measure_privacy(drawn: Some, trained: Some, unseen: Some) -> Privacy:
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
