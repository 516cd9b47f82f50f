"""Many vectors at once: a map of them, who lies nearest to whom, and the few that cover the rest.

A feature space has hundreds of axes, of which some dozens say where an image lies. Along those a
million images are a matrix of 256 MB that one core reads in about a tenth of a second, so whoever
asks for neighbours looks at all of them: no index that could miss one, nothing to build or to tune.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray

Vectors = NDArray[np.float32]

AXES = 128
"""Principal axes that are kept. Two make the map, all of them say who is near."""
_REACH, _MOST = 64.0, 32767
"""Standard deviations that a code reaches along an axis, and the code there; what lies further
counts as there. In one byte instead of two, one of ten neighbours is another one (measured)."""
_NOTHING = 1e-6
"""Of the first axis' spread: less is rounding."""
_BLOCK = 1 << 15
"""Rows that are compared at a time, as 16 MiB of float32."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Axes:
    """The principal axes of some vectors (K. Pearson, 1901): call it with others, (N, D)."""

    mean: Vectors
    """(D,)."""
    axes: Vectors
    """(K, D) of unit length, K >= 2; the first explains most. Rows of zeros where none is left."""
    spread: Vectors
    """(K,) the standard deviation along each."""

    @classmethod
    def of(cls, vectors: Vectors, count: int = AXES) -> Self:
        """Return at most `count` axes of vectors (N, D), N >= 1.

        Of the two ways an axis may point, the one along which its largest entry is positive: equal
        vectors give equal maps.
        """
        mean = vectors.mean(axis=0, dtype=np.float64)
        apart: NDArray[np.float64] = vectors - mean
        variance, columns = np.linalg.eigh(apart.T @ apart / max(1, len(vectors) - 1))
        axes = columns.T[::-1][:count]
        spread = np.sqrt(np.maximum(variance[::-1][:count], 0))
        axes[spread <= spread.max(initial=0) * _NOTHING] = 0  # rounding points anywhere
        largest = np.take_along_axis(axes, np.abs(axes).argmax(axis=1)[:, None], axis=1)
        axes *= np.where(largest < 0, -1, 1)
        lacking = max(0, 2 - len(axes))
        return cls(
            mean=np.asarray(mean, np.float32),
            axes=np.asarray(np.pad(axes, ((0, lacking), (0, 0))), np.float32),
            spread=np.asarray(np.pad(spread, (0, lacking)), np.float32),
        )

    def __call__(self, vectors: Vectors) -> Vectors:
        """Return where vectors (N, D) lie along the axes, (N, K)."""
        return np.asarray((vectors - self.mean) @ self.axes.T, np.float32)


@dataclass(frozen=True, slots=True, kw_only=True)
class Codes:
    """Where many vectors lie along some axes, two bytes an axis."""

    codes: NDArray[np.int16]
    """(N, K)."""
    step: Vectors
    """(K,) what one step of a code means along each axis."""
    squares: Vectors
    """(N,) squared lengths of what the codes say."""

    @classmethod
    def of(cls, placed: Vectors, spread: Vectors) -> Self:
        """Return the codes of vectors along axes (N, K) with the standard deviations `spread`."""
        step = np.where(spread > 0, spread * np.float32(_REACH / _MOST), np.float32(1))
        codes = np.clip(np.rint(placed / step), -_MOST, _MOST).astype(np.int16)
        squares = np.einsum("nk,nk->n", codes * step, codes * step)
        return cls(codes=codes, step=step.astype(np.float32), squares=squares.astype(np.float32))

    @classmethod
    def joined(cls, parts: Sequence["Codes"]) -> "Codes":
        """Return codes along the same axes one after another."""
        return cls(
            codes=np.concatenate([part.codes for part in parts]),
            step=parts[0].step,
            squares=np.concatenate([part.squares for part in parts]),
        )

    def __len__(self) -> int:
        return len(self.codes)

    def placed(self, row: int) -> Vectors:
        """Return where a row lies along the axes, (K,), as its code says."""
        return np.asarray(self.codes[row] * self.step, np.float32)

    def nearest(self, placed: Vectors, count: int) -> tuple[NDArray[np.int64], Vectors]:
        """Return the `count` rows nearest to a place (K,), nearest first, and their distances.

        By |s|^2 - 2 q.s, with the codes made numbers a block at a time.
        """
        asked = (-2 * placed * self.step).astype(np.float32)
        scores = np.empty(len(self), np.float32)
        block = np.empty((min(_BLOCK, len(self)), self.codes.shape[1]), np.float32)
        for start in range(0, len(self), _BLOCK):
            stop = min(start + _BLOCK, len(self))
            numbers = block[: stop - start]
            np.copyto(numbers, self.codes[start:stop], casting="safe")
            np.dot(numbers, asked, out=scores[start:stop])
        scores += self.squares
        count = min(count, len(self))
        if count == 0:
            return np.zeros(0, np.int64), scores
        near = np.argpartition(scores, count - 1)[:count]
        near = near[np.lexsort((near, scores[near]))]
        own = np.float32(placed @ placed)
        return near.astype(np.int64), np.sqrt(np.maximum(scores[near] + own, 0))


def farthest_first(vectors: Vectors, count: int) -> tuple[NDArray[np.int64], float]:
    """Return `count` of the vectors (N, K) that cover all of them, and how far the others lie.

    It begins with the one nearest to the mean, and adds the one that is furthest from all chosen
    so far: no choice of as many leaves the furthest less than half as far (T. Gonzalez, Clustering
    to Minimize the Maximum Intercluster Distance, 1985). Costs `count` looks at all of them. The
    second value is the distance of the furthest vector to its nearest chosen one.
    """
    count = min(count, len(vectors))
    if count == 0:
        return np.zeros(0, np.int64), 0.0
    squares = np.einsum("nk,nk->n", vectors, vectors)

    def apart(centre: Vectors) -> Vectors:
        gaps: Vectors = np.maximum(squares - 2 * (vectors @ centre) + centre @ centre, 0)
        return gaps

    chosen = [int(apart(vectors.mean(axis=0)).argmin())]
    left = apart(vectors[chosen[0]])
    left[chosen[0]] = -1  # the sum loses small digits, and none is chosen twice
    while len(chosen) < count:
        chosen.append(int(left.argmax()))
        np.minimum(left, apart(vectors[chosen[-1]]), out=left)
        left[chosen[-1]] = -1
    return np.array(chosen, np.int64), float(np.sqrt(max(0.0, float(left.max()))))
