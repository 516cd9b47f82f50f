"""A table whose rows are sampled: columns with their values, what hangs together, what must not be.

    rows: 500
    seed: 0
    columns:
      class_name: {monocyte: 2, eosinophil: 1}    # values and their weights
      cell_size: [big, small]                     # equally often
      granule_colour: {given: class_name, values: {monocyte: [nil], eosinophil: [red, pink]}}
      nucleus_shape: real                         # as in real images of the row's class
    where: NOT (class_name = 'monocyte' AND cell_size = 'small')
    data: my-images
    split: split.json

Columns that are `real` come together from one image of the train part, so that what never goes
together in life does not here either. Equal files give equal rows.
"""

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from pydantic import Field, StrictFloat, StrictInt, StrictStr

from catalog.query import kept_by
from factory.config import Frozen, LocalPath, load_config
from factory.errors import ConfigError, DataError
from factory.real.sources import open_dataset
from factory.real.splits import load_split, verify_split

MOST_TRIES = 100
"""Rows that are sampled for one that `where` keeps, at most."""
REAL = "real"
NUMBERS = ("guidance_scale", "seed")
"""Columns that a condition compares with numbers; the others hold texts."""

Value = StrictStr | StrictInt | StrictFloat
Even = Annotated[tuple[Value, ...], Field(min_length=1)]
Weighted = Annotated[
    Mapping[StrictStr | StrictInt, Annotated[float, Field(gt=0)]], Field(min_length=1)
]
Cells = NDArray[np.object_]
"""(N,) texts, None where a cell is empty."""


class Given(Frozen):
    """Values that another column decides; a row of none of its values has none here."""

    given: str
    values: Annotated[Mapping[StrictStr | StrictInt, Even | Weighted], Field(min_length=1)]


class TableConfig(Frozen):
    """What is sampled: see the top of this file."""

    rows: int = Field(gt=0, le=100_000)
    seed: int = Field(0, ge=0, lt=2**63)
    columns: Annotated[Mapping[str, Literal["real"] | Even | Given | Weighted], Field(min_length=1)]
    where: str | None = None
    """Of the rows, an SQL condition over the columns: only such are kept."""
    data: str | None = None
    """Of columns that are `real`: the images, as `factory real` takes them ..."""
    split: LocalPath | None = None
    """... the split whose train part is read ..."""
    label: str | None = None
    """... and the column of their class."""

    @cached_property
    def order(self) -> tuple[str, ...]:
        """The columns, each after the one that decides it.

        Raises:
            DataError: one is decided by itself, or by none that there is.
        """
        plain = [n for n, v in self.columns.items() if not isinstance(v, Given)]
        found = sorted(plain, key=lambda n: self.columns[n] == REAL)  # they look at the class
        left = {n: v.given for n, v in self.columns.items() if isinstance(v, Given)}
        while ready := [n for n, above in left.items() if above in found]:
            found += ready
            left = {n: above for n, above in left.items() if n not in ready}
        if left:
            name, above = next(iter(left.items()))
            raise DataError(
                f"columns: {name!r} is given by {above!r}, which is no column or hangs on it",
                remedy=f"Name one of {', '.join(found) or 'the columns'}",
            )
        return tuple(found)


def sampled(path: Path) -> tuple[tuple[str, ...], list[tuple[str, dict[str, str]]]]:
    """Return the columns and rows of a file that says how they are sampled.

    Each row comes with the words that name it in errors; its empty cells are left out.

    Raises:
        ConfigError: naming the key that cannot be taken.
        DataError: `real` without images, an attribute that none of them has, or a `where` that
            keeps too few.
        CatalogError: a `where` that is no condition over these columns.
    """
    asked = load_config(TableConfig, path)
    if "count" in asked.columns:
        raise ConfigError(f"{path} has a column 'count'", remedy="Say `rows`: equal ones are added")
    real = _Real.of(asked, path) if REAL in asked.columns.values() else None
    rng = np.random.Generator(np.random.Philox(asked.seed))
    rows: list[dict[str, str]] = []
    block, tried = max(asked.rows, 1000), 0
    while len(rows) < asked.rows:
        cells = _cells(asked, real, block, rng)
        rows += [
            {name: str(cell[n]) for name, cell in cells.items() if cell[n] is not None}
            for n in np.flatnonzero(_kept(asked, cells))
        ]
        tried += block
        if len(rows) < min(asked.rows, tried / MOST_TRIES):
            raise DataError(
                f"{path}: where keeps {len(rows):,} of {tried:,} rows: {asked.where!r}",
                remedy="Sample the columns so that they meet it more often",
            )
    told = [(f"{path} row {n}", row) for n, row in enumerate(rows[: asked.rows], start=1)]
    return tuple(asked.columns), told


def _cells(
    asked: TableConfig, real: "_Real | None", count: int, rng: np.random.Generator
) -> dict[str, Cells]:
    """Return the cells of so many rows by column, each column after the one that decides it."""
    found: dict[str, Cells] = {}
    images: NDArray[np.int64] | None = None
    for name in asked.order:
        values = asked.columns[name]
        if isinstance(values, Given):
            found[name] = np.full(count, None, object)
            for value, own in values.values.items():
                rows = np.flatnonzero(found[values.given] == str(value))
                found[name][rows] = _chosen(own, len(rows), rng)
        elif isinstance(values, str):
            assert real is not None  # noqa: S101 -- there is one where a column is
            if images is None:
                images = real.images(found.get("class_name"), count, rng)
            found[name] = real.cells[name][images]
        else:
            found[name] = _chosen(values, count, rng)
    return found


def _chosen(values: Even | Weighted, count: int, rng: np.random.Generator) -> Cells:
    """Return so many values, by their weights."""
    weights = np.array([*values.values()] if isinstance(values, Mapping) else [1.0] * len(values))
    texts = np.array([str(value) for value in values], object)
    return np.asarray(texts[rng.choice(len(texts), count, p=weights / weights.sum())], object)


def _kept(asked: TableConfig, cells: Mapping[str, Cells]) -> NDArray[np.bool_]:
    if asked.where is None:
        return np.ones(len(cells[asked.order[0]]), bool)
    columns = {}
    for name in asked.columns:
        texts = pa.array(cells[name], pa.string())
        with suppress(pa.ArrowInvalid):  # what is no number is named with its row
            texts = texts.cast(pa.float64()) if name in NUMBERS else texts
        columns[name] = texts
    return kept_by(asked.where, pa.table(columns))


@dataclass(frozen=True, kw_only=True)
class _Real:
    """What is known of the real images of a train part."""

    labels: Cells
    cells: Mapping[str, Cells]
    """The columns that are `real`: attributes, and the class where it is one of them."""

    @classmethod
    def of(cls, asked: TableConfig, path: Path) -> "_Real":
        if asked.data is None or asked.split is None:
            raise DataError(
                f"{path} has columns that are real, and no data or no split to read them from",
                remedy="Name the images (data: URI) and their split (split: FILE)",
            )
        dataset, split = open_dataset(asked.data, label=asked.label), load_split(asked.split)
        verify_split(split, dataset=dataset.fingerprint, ids=dataset.ids, groups=dataset.groups)
        train = set(split.train)
        items = [item for item in dataset.items if item.id in train]
        labels = np.array([item.label for item in items], object)
        known = sorted({name for item in items for name in item.attributes})
        cells = {}
        for name in (n for n, values in asked.columns.items() if values == REAL):
            if name != "class_name" and name not in known:
                raise DataError(
                    f"{path}: no real image has the attribute {name!r}",
                    remedy=f"Name one of {', '.join(known) or 'class_name, the only one'}",
                )
            own = [item.attributes.get(name) or None for item in items]
            cells[name] = labels if name == "class_name" else np.array(own, object)
        return cls(labels=labels, cells=cells)

    def images(
        self, classes: Cells | None, count: int, rng: np.random.Generator
    ) -> NDArray[np.int64]:
        """Return (count,) numbers of images, of a row's class where that is known.

        Raises:
            DataError: the train part has no image of a class.
        """
        found = rng.integers(len(self.labels), size=count)
        if classes is None:
            return found
        for name in sorted({str(c) for c in classes if c is not None}):
            own = np.flatnonzero(self.labels == name)
            if not len(own):
                raise DataError(
                    f"class_name {name!r}: the train part holds no real image of it",
                    remedy=f"Write one of {', '.join(sorted(set(self.labels)))}",
                )
            rows = np.flatnonzero(classes == name)
            found[rows] = own[rng.integers(len(own), size=len(rows))]
        return found
