"""Do drawn masks fit their images? Dice with a segmenter that neither generator nor gate knows.

Beside it the same segmenter's Dice on real images that nobody learnt from: what it can do at all.
"""

import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from catalog.query import sql
from catalog.table import Catalog
from factory.errors import CatalogError
from factory.evaluate.synthetic import drawn_look
from factory.gate.agreement import Segment
from factory.measure.intervals import Z95, Estimate
from factory.models.pair_codec import class_index_array
from factory.real.dataset import RealDataset
from factory.real.field import scale_line
from factory.real.scale import LOOKED_AT_PX

Pixels = NDArray[np.uint8]
BATCH = 32
EVERY = "all"
"""Class of images that are compared without one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Pairs:
    """Images (N, S, S, 3) RGB and their masks (N, S, S) of class indices."""

    images: Pixels
    masks: Pixels


def agreement(segment: Segment, pairs: Pairs, *, num_classes: int) -> dict[str, Estimate]:
    """Return the mean Dice by class: 'foreground' for any of them, then 'class 1', 'class 2', ...

    The mean is over the images in which mask or segmenter finds the class, with a normal interval.
    """
    chunks = range(0, len(pairs.images), BATCH)
    found = np.concatenate([segment(pairs.images[i : i + BATCH]) for i in chunks])
    by_class = {"foreground": _dice(found > 0, pairs.masks > 0)}
    if num_classes > 2:
        numbers = range(1, num_classes)
        by_class |= {f"class {k}": _dice(found == k, pairs.masks == k) for k in numbers}
    return {name: mean(values) for name, values in by_class.items()}


def mean(values: Sequence[float] | NDArray[np.float64]) -> Estimate:
    """Return the mean of values in 0..1, 1.96 standard errors wide; NaN where there are none."""
    n, centre = len(values), float(np.mean(values)) if len(values) else math.nan
    half = Z95 * float(np.std(values, ddof=1)) / math.sqrt(n) if n > 1 else math.nan
    return Estimate(value=centre, low=max(0.0, centre - half), high=min(1.0, centre + half), n=n)


def _dice(first: NDArray[np.bool_], second: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Return the Dice of each image in which either is not empty."""
    both = (first & second).sum((1, 2)).astype(np.float64)
    total = first.sum((1, 2)) + second.sum((1, 2))
    shares: NDArray[np.float64] = 2 * both[total > 0] / total[total > 0]
    return shares


def drawn_pairs(catalog: Catalog, where: str) -> Pairs:
    """Return the pairs of a catalog that satisfy the SQL condition `where`, in order of their ids.

    Raises:
        CatalogError: there is none, one without a mask, or of several sizes.
    """
    ids = sql(catalog, f"SELECT DISTINCT image_id FROM samples WHERE ({where}\n) ORDER BY image_id")
    rows = catalog.rows(ids["image_id"].to_pylist(), columns=["image", "mask"]).to_pylist()
    if not rows or any(row["mask"] is None for row in rows):
        raise CatalogError(
            f"{len(rows)} samples satisfy {where!r}, and not all of them have masks",
            remedy="Name a run of pairs: \"run_id = '...'\"",
        )
    images = [np.asarray(_opened(row["image"]).convert("RGB")) for row in rows]
    masks = [np.asarray(_opened(row["mask"])) for row in rows]
    if len({image.shape for image in images}) > 1:
        raise CatalogError(
            f"the samples that satisfy {where!r} have several sizes", remedy="Judge one size"
        )
    return Pairs(images=np.stack(images), masks=np.stack(masks))


def real_pairs(
    dataset: RealDataset, ids: Sequence[str], size_px: int, mask_values: Sequence[int]
) -> Pairs:
    """Return real pairs of this size.

    Raises:
        DataError: an image without a mask, or a mask with a value of no class.
    """
    stored = dataset.mask_array(size_px, ids)
    return Pairs(
        images=dataset.array(size_px, ids), masks=class_index_array(stored, mask_values, names=ids)
    )


def scale_of_pairs(
    catalog: Catalog, where: str, dataset: RealDataset, ids: Sequence[str]
) -> str | None:
    """Return what is said where objects look larger or smaller in drawn images than in real ones.

    Class by class where the drawn ones are of the real classes, else all together.
    """
    text = f"SELECT DISTINCT image_id, class_name FROM samples WHERE ({where}\n) ORDER BY image_id"
    rows = sql(catalog, text).to_pylist()
    classes = {row["image_id"]: row["class_name"] for row in rows}
    called = {}
    if not set(classes.values()) <= set(dataset.class_names):
        classes = dict.fromkeys(classes, EVERY)
        called = dict.fromkeys(dataset.class_names, EVERY)
    real = dataset.look(LOOKED_AT_PX, ids, called=called)
    return scale_line(real, drawn_look(catalog, classes)) if classes else None


def table(rows: Mapping[str, Mapping[str, Estimate]]) -> str:
    """Return a Markdown table: a line per set, a column per class."""
    classes = list(next(iter(rows.values())))
    lines = [f"| Dice with the judge | {' | '.join(classes)} |", "|---" * (len(classes) + 1) + "|"]
    for name, found in rows.items():
        cells = [f"{found[each]} (n {found[each].n})" for each in classes]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _opened(column: Mapping[str, bytes]) -> Image.Image:
    return Image.open(io.BytesIO(column["bytes"]))
