"""Near-duplicate real images: a perceptual hash proposes pairs, a thumbnail confirms them."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from factory.real.dataset import RealDataset
from factory.real.images import decode

HASH_BITS = 64
HASH_DISTANCE_BITS = 10
"""Pairs further apart than this in Hamming distance are never compared further."""
THUMBNAIL_PX = 16
THUMBNAIL_ERROR = 0.28
"""Difference of two RGB thumbnails over their contrast (both root mean square) up to which a pair
is one picture.

Relative to contrast, since small objects on an even ground make all thumbnails alike. Looked at in
pairs of real sets: one white cell in two crops 0.11 .. 0.27, other cells from 0.29 on; adjacent
frames of one endoscopy 0.05 .. 0.3 (none of other sequences below 0.27); in PBC two pairs of 16,755
images, at 0.11 and 0.24. A pair joined wrongly costs a little freedom of the split, a missed one a
leak.
"""
_FLAT = 1 / 255
"""Least contrast assumed: below one grey level a picture is blank, and blanks are alike."""


def perceptual_hash(image: Image.Image) -> np.uint64:
    """Return the 64-bit pHash of `image`: signs of the 8x8 lowest DCT terms of a 32x32 grey copy.

    Source: C. Zauner, Implementation and Benchmarking of Perceptual Image Hash Functions, 2010.
    """
    grey = np.asarray(image.convert("L").resize((32, 32), Image.Resampling.BOX), np.float32)
    low = (_DCT @ grey @ _DCT.T).ravel()
    bits = low > np.median(low[1:])  # the constant term says brightness, not structure
    return np.uint64(np.packbits(bits).view(np.uint64)[0])


def thumbnail(image: Image.Image) -> NDArray[np.float32]:
    """Return an RGB thumbnail (THUMBNAIL_PX, THUMBNAIL_PX, 3) in [0, 1]."""
    small = image.convert("RGB").resize((THUMBNAIL_PX, THUMBNAIL_PX), Image.Resampling.BOX)
    return np.asarray(small, np.float32) / np.float32(255)


def duplicate_pairs(
    hashes: NDArray[np.uint64], thumbnails: NDArray[np.float32]
) -> list[tuple[int, int]]:
    """Return index pairs (i < j) that show the same picture.

    Args:
        hashes: (N,) from `perceptual_hash`.
        thumbnails: (N, THUMBNAIL_PX, THUMBNAIL_PX, 3) from `thumbnail`.

    Quadratic in N (16,755 images: ten seconds); memory stays at one row of distances.
    """
    variance = _variance(thumbnails)
    pairs = []
    for i in range(len(hashes) - 1):
        rest = slice(i + 1, None)
        same = _alike(
            hashes, thumbnails, variance, i, hashes[rest], thumbnails[rest], variance[rest]
        )
        pairs += [(i, int(j) + i + 1) for j in same]
    return pairs


def pairs_between(
    hashes: NDArray[np.uint64],
    thumbnails: NDArray[np.float32],
    other_hashes: NDArray[np.uint64],
    other_thumbnails: NDArray[np.float32],
) -> list[tuple[int, int]]:
    """Return index pairs (i, j) where image i of one set and j of another show the same picture.

    Args as in `duplicate_pairs`, of (N,) and (M,) images.
    """
    if not (len(hashes) and len(other_hashes)):
        return []
    variance, others = _variance(thumbnails), _variance(other_thumbnails)
    return [
        (i, int(j))
        for i in range(len(hashes))
        for j in _alike(hashes, thumbnails, variance, i, other_hashes, other_thumbnails, others)
    ]


def _variance(thumbnails: NDArray[np.float32]) -> NDArray[np.float32]:
    centred = thumbnails - thumbnails.mean(axis=(1, 2), keepdims=True)
    return np.asarray(np.maximum(np.square(centred).mean(axis=(1, 2, 3)), np.float32(_FLAT**2)))


def _alike(
    hashes: NDArray[np.uint64],
    thumbnails: NDArray[np.float32],
    variance: NDArray[np.float32],
    i: int,
    other_hashes: NDArray[np.uint64],
    other_thumbnails: NDArray[np.float32],
    other_variance: NDArray[np.float32],
) -> NDArray[np.int64]:
    """Return which of the others show the picture of image `i`."""
    near = np.flatnonzero(np.bitwise_count(other_hashes ^ hashes[i]) <= HASH_DISTANCE_BITS)
    error = np.sqrt(np.square(other_thumbnails[near] - thumbnails[i]).mean(axis=(1, 2, 3)))
    contrast = np.sqrt((other_variance[near] + variance[i]) / 2)
    return np.asarray(near[error <= THUMBNAIL_ERROR * contrast])


def near_duplicates(dataset: RealDataset) -> list[tuple[int, int]]:
    """Return index pairs of `dataset` that show the same picture.

    Raises:
        DataError: an image is gone or broken.
    """
    pictures = (decode(dataset.encoded(i), name=dataset.ids[i]) for i in range(len(dataset)))
    seen = [(perceptual_hash(picture), thumbnail(picture)) for picture in pictures]
    hashes, thumbnails = zip(*seen, strict=True)
    return duplicate_pairs(np.array(hashes, np.uint64), np.stack(thumbnails))


def grouped(dataset: RealDataset) -> list[str]:
    """Return the groups to split by: the dataset's own, joined where near-duplicates link them."""
    return merge_groups(dataset.groups, near_duplicates(dataset))


def merge_groups(groups: Sequence[str], pairs: Sequence[tuple[int, int]]) -> list[str]:
    """Return `groups` with the groups of every pair joined under the smallest of their names."""
    parent = {group: group for group in groups}

    def root(group: str) -> str:
        while parent[group] != group:
            parent[group] = parent[parent[group]]
            group = parent[group]
        return group

    for i, j in pairs:
        first, second = sorted((root(groups[i]), root(groups[j])))
        parent[second] = first
    return [root(group) for group in groups]


def _dct_rows() -> NDArray[np.float32]:
    """Return the first 8 rows of the orthogonal DCT-II of length 32, (8, 32)."""
    k, n = np.mgrid[0:8, 0:32]
    return np.asarray(np.cos(np.pi * (2 * n + 1) * k / 64), np.float32)


_DCT = _dct_rows()
