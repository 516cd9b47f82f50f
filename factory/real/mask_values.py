"""Which values the masks of a dataset hold: its classes, unless something spoiled them."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from factory.errors import DataError

if TYPE_CHECKING:  # which reads masks by what is defined here
    from factory.real.dataset import RealDataset

MOST_CLASSES = 16
"""More mask values than these were not drawn by hand: they number objects, or are a map."""
MOST_UNCOUNTED = 3
"""Values of masks, 0 among them, up to which they are classes whatever images hold."""
NEAR = 8
"""Grey values by which JPEG misses a flat region, down to quality 75: 0..7 and 248..255."""
EDGE_SHARE = 0.2
"""A value is one of edges, not of a region, when less than this share of its pixels is inside."""
LEVEL_SHARE, LEAST_REGION = 0.5, 0.01
"""Spoilt values within `NEAR` of each other were one region when so many of their pixels lie among
such values, and are so large a share of all."""
RARE_SHARE = 0.25
"""A value beside another one is spoilt, not a class, when it is rarer than this share of it."""
JPEG = b"\xff\xd8"
NO_MASKS = "none"
OBJECT = "object"
OBJECT_VALUE = 255


@dataclass(frozen=True, slots=True, kw_only=True)
class ValueCount:
    """How often one value occurs: pixels, and those of them whose four neighbours have it too.

    `level` counts those whose neighbours have it, or one within `NEAR`.
    """

    value: int
    pixels: int
    inside: int
    level: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class MaskRule:
    """How stored mask values become classes: what the caller asked for with `masks`.

    `values` of None: 0 stays, everything else is the object (255), a colour too. One value: the
    object (255) is what reaches it, the rest 0. Several: every pixel takes the nearest of them.
    """

    text: str
    values: tuple[int, ...] | None

    def applied(self, stored: NDArray[Any], *, name: str) -> NDArray[np.uint8]:
        """Return the mask (H, W) of stored values (H, W) or, where coloured, (H, W, 3).

        Raises:
            DataError: a coloured mask under a rule of grey values, or values that are no numbers.
        """
        if self.values is None:
            marked = stored != 0
            marked = marked.any(axis=-1) if marked.ndim == 3 else marked
            return np.where(marked, OBJECT_VALUE, 0).astype(np.uint8)
        if stored.ndim == 3:
            raise DataError(
                f"mask {name} is coloured, it has no grey values to compare with {self.text}",
                remedy="Pass --masks object (masks='object'), or store grey values",
            )
        if len(self.values) == 1:
            return np.where(stored >= self.values[0], OBJECT_VALUE, 0).astype(np.uint8)
        choices = np.array(self.values)
        borders = (choices[1:] + choices[:-1]) / 2
        return choices[np.searchsorted(borders, stored, side="right")].astype(np.uint8)


def mask_rule(text: str | None) -> MaskRule | None:
    """Return the rule that `text` names: 'object', a threshold '128', or values '0,128,255'.

    Raises:
        DataError: something else.
    """
    if text is None or text == NO_MASKS:
        return None
    if text == OBJECT:
        return MaskRule(text=text, values=None)
    parts = [part.strip() for part in text.split(",")]
    values = [int(part) if part.isascii() and part.isdecimal() else -1 for part in parts]
    ascending = all(low < high for low, high in pairwise(values))
    least = 1 if len(values) == 1 else 0  # a threshold of 0 would make everything the object
    if not ascending or not all(least <= value <= 255 for value in values):
        raise DataError(
            f"masks {text!r} is no rule for mask values",
            remedy="Write object (all but 0), a threshold of 1 to 255, values in ascending order"
            " such as 0,255 (each pixel takes the nearest) or none (masks are not read)",
        )
    return MaskRule(text=",".join(map(str, values)), values=tuple(values))


def count_values(mask: NDArray[np.uint8]) -> tuple[ValueCount, ...]:
    """Return how often each value of a mask (H, W) occurs, ascending."""
    pixels = np.bincount(mask.ravel(), minlength=256)
    whole = mask.astype(np.int16)
    inner = whole[1:-1, 1:-1]
    around = (whole[:-2, 1:-1], whole[2:, 1:-1], whole[1:-1, :-2], whole[1:-1, 2:])
    step = np.max([np.abs(neighbour - inner) for neighbour in around], axis=0)
    inside = np.bincount(inner[step == 0], minlength=256)
    level = np.bincount(inner[step <= NEAR], minlength=256)
    return tuple(
        ValueCount(
            value=int(value),
            pixels=int(pixels[value]),
            inside=int(inside[value]),
            level=int(level[value]),
        )
        for value in np.flatnonzero(pixels)
    )


def pooled(counts: Iterable[Sequence[ValueCount]]) -> tuple[ValueCount, ...]:
    """Return the counts of several masks as of one, ascending."""
    pixels: Counter[int] = Counter()
    inside: Counter[int] = Counter()
    level: Counter[int] = Counter()
    for mask in counts:
        for count in mask:
            pixels[count.value] += count.pixels
            inside[count.value] += count.inside
            level[count.value] += count.level
    return tuple(
        ValueCount(value=value, pixels=pixels[value], inside=inside[value], level=level[value])
        for value in sorted(pixels)
    )


def spoilt(counts: Sequence[ValueCount], *, jpeg: bool = False) -> tuple[int, ...]:
    """Return the values that are no class of their own but what a format or resizing left.

    Such values are rare beside another one and lie along edges, without a region of their own:
    compression rings there and resizing blends. They are spoilt when one of them stands within
    `NEAR` of a region's value or more than two are there; one or two thin values far from others
    are contours that somebody drew. Where regions themselves differ by `NEAR` or less, more of
    them than of thin values, or values count up from 0 or 1, they are numbers of classes or
    objects, thin ones too; a JPEG keeps none.

    Args:
        counts: of all masks together.
        jpeg: whether a JPEG is among the files.
    """
    kept: list[ValueCount] = []
    stray: list[ValueCount] = []
    for count in sorted(counts, key=lambda count: -count.pixels):
        rare = any(count.pixels <= RARE_SHARE * region.pixels for region in kept)
        along_edges = count.inside <= EDGE_SHARE * count.pixels
        (stray if rare and along_edges else kept).append(count)
    values = [count.value for count in counts]
    counted = values[:1] in ([0], [1]) and values == list(range(values[0], values[-1] + 1))
    if counted and (jpeg or len(kept) > len(stray) or len(values) <= MOST_CLASSES):
        return tuple(values) if jpeg and len(values) > 1 else ()
    near = [k for k in kept if any(_beside(k, region) for region in kept)]
    if near and not jpeg and len(kept) > len(stray):
        return ()
    if not any(_beside(s, region) for s in stray for region in kept) and len(stray) <= 2:
        return ()
    return tuple(sorted(count.value for count in [*stray, *near]))


def _beside(count: ValueCount, region: ValueCount) -> bool:
    """Return whether a value may be what compression made of a larger region's value."""
    close = abs(count.value - region.value) <= NEAR
    return close and count.pixels < region.pixels


def blurred(counts: Sequence[ValueCount], lost: Sequence[int]) -> tuple[int, ...]:
    """Return the middle values of regions of which compression left no single value.

    Args:
        counts: of all masks together.
        lost: the spoilt ones of their values.
    """
    total = sum(count.pixels for count in counts)
    kept = [count.value for count in counts if count.value not in lost]
    left = [c for c in counts if c.value in lost and all(abs(c.value - k) > NEAR for k in kept)]
    found = []
    while left:
        peak = max(left, key=lambda count: count.pixels).value
        own = [count for count in left if abs(count.value - peak) <= NEAR]
        left = [count for count in left if abs(count.value - peak) > 2 * NEAR]
        pixels, level = sum(c.pixels for c in own), sum(c.level for c in own)
        if pixels >= LEAST_REGION * total and level >= LEVEL_SHARE * pixels:
            found.append(round(sum(c.value * c.pixels for c in own) / pixels))
    return tuple(found)


def refusal(counts: Sequence[ValueCount], lost: Sequence[int]) -> DataError:
    """Return the error about masks whose values `lost` are no classes, with the way out."""
    left = [count.value for count in counts if count.value not in lost]
    held = values_text(counts, most=4)
    what = f"the masks hold {held}: {_some(lost)} lie along edges"
    if not left:
        return DataError(
            f"the masks hold {held} in JPEG files, which do not keep class numbers",
            remedy="Export them losslessly (PNG), or pass --masks none (masks='none')",
        )
    left = sorted([*left, *blurred(counts, lost)])
    rule = ",".join(map(str, left)) if 2 <= len(left) <= MOST_CLASSES else "128"
    way = "each pixel takes the nearest" if "," in rule else "what reaches it is the object"
    return DataError(
        f"{what}, as JPEG and resizing leave them, and are no classes",
        remedy=f"Pass --masks {rule} (masks='{rule}'): {way}; or --masks none to read no masks",
    )


def values_text(counts: Sequence[ValueCount], most: int = 8) -> str:
    """Return 'values 0 (71 %), 255 (29 %)' of counted pixels, see `shares_text`."""
    total = sum(count.pixels for count in counts)
    return shares_text({count.value: count.pixels / total for count in counts}, most)


def shares_text(shares: Mapping[int, float], most: int = 8) -> str:
    """Return 'values 0 (71 %), 255 (29 %)': ascending, the most frequent when there are many."""
    shown = sorted(sorted(shares, key=lambda value: -shares[value])[:most])
    rest = f", {len(shares) - len(shown)} others" if len(shares) > len(shown) else ""
    parts = ", ".join(f"{value} ({_percent(shares[value])})" for value in shown)
    return f"{'value' if len(shares) == 1 else 'values'} {parts}{rest}"


def found_values(dataset: "RealDataset", ids: Sequence[str]) -> tuple[int, ...]:
    """Return the values that the masks of `ids` hold, ascending: background first.

    Raises:
        DataError: one value only, or so many that they are no classes.
    """
    rows = [dataset.contents[dataset.index_of(image_id)] for image_id in ids]
    counts = pooled(content.mask_values for content in rows)
    if not 2 <= len(counts) <= MOST_CLASSES:
        raise DataError(
            f"the masks hold {len(counts)} values ({_some([c.value for c in counts])}):"
            f" not 2 to {MOST_CLASSES} classes",
            remedy="If they number objects, or everything but 0 is one class, pass --masks object"
            " (masks='object'); a threshold such as --masks 128 for a map; or store class indices"
            if len(counts) > 1
            else "Give masks that mark something, or another threshold",
        )
    return tuple(count.value for count in counts)


def number_objects(masks: Iterable[Sequence[ValueCount]]) -> bool:
    """Return whether masks count their objects: 0 to n each, another n in each, or past classes.

    Up to `MOST_UNCOUNTED` values, 0 among them, are classes of which some images show fewer.
    """
    held = {tuple(count.value for count in counts) for counts in masks if counts}
    values = {value for own in held for value in own}
    if len(values) > MOST_CLASSES:
        return True
    counted = all(own == tuple(range(len(own))) for own in held)
    return counted and len(held) > 1 and len(values) > MOST_UNCOUNTED


def _some(values: Sequence[int]) -> str:
    return ", ".join(map(str, values[:5])) + (", ..." if values else "")


def _percent(share: float) -> str:
    return f"{share:.0%}".replace("%", " %") if share >= 0.01 else f"{100 * share:.1g} %"
