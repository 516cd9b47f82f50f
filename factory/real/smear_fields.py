"""Fields that cells are drawn from: a grid, smooth noise, and distances to simple shapes.

All fields are float32 (n, n) over the square [-1, 1] x [-1, 1]; positive distances lie inside.
Nothing depends on the number of pixels, so one cell looks alike at every size.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

Field = NDArray[np.float32]


@dataclass(frozen=True, slots=True, kw_only=True)
class Grid:
    """Coordinates of pixel centres: x to the right, y down."""

    x: Field
    y: Field

    def moved(self, dx: Field | float, dy: Field | float) -> "Grid":
        """Return the grid with every point displaced: bends whatever is drawn on it."""
        return Grid(x=self.x + np.float32(1) * dx, y=self.y + np.float32(1) * dy)


def grid(n: int) -> Grid:
    """Return the grid of n x n pixels."""
    axis = ((np.arange(n, dtype=np.float32) + 0.5) * (2 / n) - 1).astype(np.float32)
    x, y = np.meshgrid(axis, axis)
    return Grid(x=x, y=y)


def window(x: float, y: float, reach: float, n: int) -> tuple[slice, slice]:
    """Return the rows and columns of an n x n grid within `reach` of a point: the rest is far."""
    low_x, high_x, low_y, high_y = (
        int(np.clip((edge + 1) * n / 2, 0, n))
        for edge in (x - reach, x + reach, y - reach, y + reach)
    )
    return slice(low_y, high_y), slice(low_x, high_x)


def noise(rng: np.random.Generator, n: int, cells: int) -> Field:
    """Return smooth noise of about unit deviation with `cells` bumps along a side.

    A lattice of `cells` x `cells` normal values, enlarged bicubically: the draw is the same for
    every `n`.
    """
    lattice = rng.standard_normal((cells, cells), dtype=np.float32)
    rough = Image.fromarray(lattice).resize((n, n), Image.Resampling.BICUBIC)
    return np.asarray(rough, np.float32) * np.float32(1.3)


def bent(points: Grid, rng: np.random.Generator, *, cells: int, amount: float) -> Grid:
    """Return the grid displaced by smooth noise: circles become hand-drawn."""
    n = len(points.x)
    return points.moved(amount * noise(rng, n, cells), amount * noise(rng, n, cells))


def disc(
    points: Grid, x: float, y: float, radius: float, *, stretch: float = 1, turn: float = 0
) -> Field:
    """Return the distance to the rim of an ellipse with axes radius * stretch, radius / stretch."""
    dx, dy = points.x - x, points.y - y
    cos, sin = np.float32(np.cos(turn)), np.float32(np.sin(turn))
    along, across = dx * cos + dy * sin, dy * cos - dx * sin
    return np.float32(radius) - np.hypot(along / np.float32(stretch), across * np.float32(stretch))


def rod(points: Grid, start: Sequence[float], end: Sequence[float], radius: float) -> Field:
    """Return the distance to the rim of a rod with round ends."""
    (x0, y0), (x1, y1) = start, end
    length2 = max((x1 - x0) ** 2 + (y1 - y0) ** 2, 1e-9)
    dx, dy = points.x - np.float32(x0), points.y - np.float32(y0)
    along = np.clip((dx * (x1 - x0) + dy * (y1 - y0)) / np.float32(length2), 0, 1)
    nearest = np.hypot(dx - along * (x1 - x0), dy - along * (y1 - y0))
    return (np.float32(radius) - nearest).astype(np.float32)


def joined(shapes: Sequence[Field], softness: float) -> Field:
    """Return the union of shapes whose seams are filled over about `softness`.

    The polynomial smooth minimum of I. Quilez, "Smooth minimum", 2013.
    """
    union = shapes[0]
    for shape in shapes[1:]:
        overlap = np.clip(softness - np.abs(union - shape), 0, None) / np.float32(softness)
        union = np.maximum(union, shape) + overlap * overlap * np.float32(softness / 4)
    return union.astype(np.float32)


def cover(distance: Field, softness: float) -> Field:
    """Return how much of a shape covers each point, 0..1, over an edge of `softness`."""
    t = np.clip(distance / np.float32(softness) + np.float32(0.5), 0, 1)
    return np.asarray(t * t * (3 - 2 * t), np.float32)


def rim(distance: Field, width: float) -> Field:
    """Return 1 on the outline of a shape, fading inwards and outwards over `width`."""
    return np.asarray(np.exp(-np.square(distance / np.float32(width))), np.float32)
