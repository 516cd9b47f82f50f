"""Objects in masks: connected parts of one value, as runs, boxes and outlines.

A mask does not say what its values mean. Where all masks of an export hold one value besides 0, its
objects are of their image's class; where they hold several, each value is a class of its own.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from catalog.export.layout import Picture, Pictures
from factory.errors import CatalogError
from factory.real.images import decode_mask

_NEIGHBOURS = np.ones((3, 3), bool)  # pixels that touch at a corner belong together
_STEPS = ((0, 1), (1, 0), (0, -1), (-1, 0))  # (row, column): right, down, left, up


@dataclass(frozen=True, slots=True, kw_only=True)
class Object:
    """One part of a mask: `inside` (h, w) lies at (`top`, `left`)."""

    value: int
    top: int
    left: int
    inside: NDArray[np.bool_]

    @property
    def area(self) -> int:
        """Pixels of the object."""
        return int(self.inside.sum())

    @property
    def box(self) -> tuple[int, int, int, int]:
        """(left, top, width, height) in pixels."""
        height, width = self.inside.shape
        return self.left, self.top, width, height

    def runs(self, height: int, width: int) -> list[int]:
        """Return COCO's uncompressed run lengths over an image of this size.

        Runs of outside and inside in turn, down the columns, outside first: lossless.
        """
        whole = np.zeros((height, width), bool)
        rows, columns = self.inside.shape
        whole[self.top : self.top + rows, self.left : self.left + columns] = self.inside
        flat = whole.ravel(order="F")
        edges = np.flatnonzero(np.diff(flat, prepend=False)).tolist()
        return [int(n) for n in np.diff([0, *edges, flat.size])]

    def outline(self) -> list[tuple[int, int]]:
        """Return the corners (x, y) of the outer edge, along pixel edges, clockwise.

        Filling it gives the object back but for its holes.
        """
        padded = np.pad(self.inside, 1)
        row, column = 1, 1 + int(np.argmax(self.inside[0]))
        start, heading, corners = (row, column, 0), 0, [(column, row)]
        while True:
            down, right = _STEPS[heading]
            row, column = row + down, column + right
            turned = _turn(padded, row, column, heading)
            if (row, column, turned) == start:
                break
            if turned != heading:
                corners.append((column, row))
            heading = turned
        return [(self.left + x - 1, self.top + y - 1) for x, y in corners]


def _turn(padded: NDArray[np.bool_], row: int, column: int, heading: int) -> int:
    """Return where an edge with the object on its right goes on from a pixel's corner."""
    ahead = {  # pixels in front of the corner: (left of the way, right of it)
        0: ((row - 1, column), (row, column)),
        1: ((row, column), (row, column - 1)),
        2: ((row, column - 1), (row - 1, column - 1)),
        3: ((row - 1, column - 1), (row - 1, column)),
    }[heading]
    if padded[ahead[0]]:
        return (heading - 1) % 4
    return heading if padded[ahead[1]] else (heading + 1) % 4


@dataclass(frozen=True, slots=True, kw_only=True)
class Kinds:
    """What the objects of an export are called; `values` is empty where the image's class tells."""

    names: tuple[str, ...]
    values: tuple[int, ...]

    def of(self, picture: Picture, value: int) -> int:
        """Return the number of an object's class."""
        return self.values.index(value) if self.values else picture.class_id


def kinds_of(pictures: Pictures) -> Kinds:
    """Look at every mask and return the classes of its objects.

    Raises:
        CatalogError: an image without a mask, or no mask with an object.
        DataError: a mask that cannot be read.
    """
    found: set[int] = set()
    for image_id, mask in pictures.masks():
        if mask is None:
            raise CatalogError(
                f"image {image_id!r} has no mask to make objects of",
                remedy="Add --where 'mask IS NOT NULL', or export as huggingface or imagefolder",
            )
        found.update(np.unique(decode_mask(mask, name=image_id)).tolist())
    values = sorted(found - {0})
    if not values:
        raise CatalogError(
            f"all {len(pictures.selection)} masks are empty: there is no object to export",
            remedy="Export as huggingface or imagefolder",
        )
    if len(values) == 1:
        return Kinds(names=pictures.facts.class_names, values=())
    return Kinds(names=tuple(f"mask value {value}" for value in values), values=tuple(values))


def objects_of(picture: Picture) -> Iterator[Object]:
    """Yield the objects of a picture's mask, by value and then from the top."""
    if picture.mask is None:
        return
    mask = decode_mask(picture.mask, name=picture.image_id)
    for value in sorted(set(np.unique(mask).tolist()) - {0}):
        parts, _ = ndimage.label(mask == value, structure=_NEIGHBOURS)
        for number, place in enumerate(ndimage.find_objects(parts), start=1):
            rows, columns = place
            yield Object(
                value=value, top=rows.start, left=columns.start, inside=parts[place] == number
            )
