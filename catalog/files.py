"""The files of a table's snapshot with their statistics, and the datasets made of some of them.

`DeltaTable.to_pyarrow_dataset` builds about fifty Python expressions per file (2 s of CPU for
4,000 files, and as much again for every filter). Here the statistics stay in Arrow columns: which
files a filter needs is decided for all files at once, and only those become a dataset.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import reduce
from operator import and_
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from deltalake import DeltaTable
from numpy.typing import NDArray
from pyarrow import fs

from catalog.boundary import check_files
from catalog.schema import STATISTICS
from factory.errors import CatalogError

if TYPE_CHECKING:  # see catalog/table.py
    import pyarrow.dataset as ds

FILTERED_OFTEN = (
    "class_name",
    "class_id",
    "guidance_scale",
    "num_inference_steps",
    "scheduler",
    "gate_status",
    "recipe_digest",
)
"""Columns whose bounds go with the files of a dataset: few distinct values, shared expressions."""

_MOST_VALUES = 64
"""Longer IN lists are pruned by their least and greatest value."""


def no_files() -> pa.Table:
    """Return the list of files of a table that does not exist yet."""
    return pa.schema({"path": pa.string(), "size_bytes": pa.int64()}).empty_table()


def listed_files(snapshot: DeltaTable) -> pa.Table:
    """Return a row per file of `snapshot`: path, size_bytes, partition.*, min.*, max.*, ...

    Raises:
        CatalogError: another tool switched on deletion vectors or column mapping, or the log names
            files that do not lie in the table.
    """
    features = snapshot.protocol().reader_features or []
    if features:
        raise CatalogError(
            f"{snapshot.table_uri} needs the reader features {sorted(features)}",
            remedy="Purge the deletion vectors, or read this table with Spark",
        )
    listed = pa.table(snapshot.get_add_actions(flatten=True))
    runs = listed["partition.run_id"] if "partition.run_id" in listed.column_names else None
    check_files(listed["path"], runs, snapshot.table_uri)
    return listed


@dataclass(frozen=True, slots=True, kw_only=True)
class Files:
    """Files of one snapshot: `listed` has a row per file (path, partition and bounds)."""

    listed: pa.Table
    schema: pa.Schema
    filesystem: fs.FileSystem

    def __len__(self) -> int:
        return len(self.listed)

    def every(self) -> NDArray[np.bool_]:
        """Return a mask (files,) that keeps every file."""
        return np.ones(len(self), bool)

    def may(self, column: str, op: str, value: object) -> NDArray[np.bool_]:
        """Return which files may hold a row with `column op value`, (files,).

        `op` is one of = != < <= > >=. A file without the statistics may.
        """
        if len(self) == 0 or value is None or not self._bounded(column):
            return self.every()
        low, high = self._bounds(column)
        scalar = pa.scalar(value, low.type)
        match op:
            case "=":
                mask = pc.and_kleene(pc.less_equal(low, scalar), pc.greater_equal(high, scalar))
            case "!=":
                one = pc.and_kleene(pc.equal(low, scalar), pc.equal(high, scalar))
                mask = pc.invert(one)
            case "<" | "<=":
                mask = (pc.less if op == "<" else pc.less_equal)(low, scalar)
            case ">" | ">=":
                mask = (pc.greater if op == ">" else pc.greater_equal)(high, scalar)
            case _:
                return self.every()
        kept: NDArray[np.bool_] = np.asarray(mask.fill_null(True), dtype=bool)
        return kept

    def may_be(self, column: str, values: Sequence[Any]) -> NDArray[np.bool_]:
        """Return which files may hold a row whose `column` is one of `values`, (files,)."""
        if not values:
            return np.zeros(len(self), bool)
        if len(values) > _MOST_VALUES:
            return self.may(column, ">=", min(values)) & self.may(column, "<=", max(values))
        kept = ~self.every()
        for value in values:
            kept |= self.may(column, "=", value)
        return kept

    def holding(self, column: str, values: Sequence[str]) -> NDArray[np.bool_]:
        """Return which files hold one of some texts, (files,): bounds first, then the column."""
        match = pc.field(column).isin(pa.array(values, pa.string()))
        likely = self.dataset(self.may_be(column, values))
        found = likely.to_table(columns=["__filename"], filter=match)
        kept: NDArray[np.bool_] = pc.is_in(
            self.listed["path"], found["__filename"].unique()
        ).to_numpy()
        return kept

    def dataset(self, kept: NDArray[np.bool_] | None = None) -> "ds.FileSystemDataset":
        """Return the rows of the `kept` files (all of them by default).

        Filters on run_id and `FILTERED_OFTEN` skip files here too.
        """
        import pyarrow.dataset as ds

        form = _format()
        listed = self.listed if kept is None else self.listed.filter(pa.array(kept))
        fragments = [
            form.make_fragment(path, filesystem=self.filesystem, partition_expression=known)
            for path, known in zip(listed["path"].to_pylist(), self._known(listed), strict=True)
        ]
        return ds.FileSystemDataset(fragments, self.schema, form, self.filesystem)

    def broken(self) -> str | None:
        """Return which file cannot be read as it was written, and why; None if all can.

        Sizes are looked at first. Every byte may be read: for when something went wrong already.
        """
        paths, sizes = (self.listed[key].to_pylist() for key in ("path", "size_bytes"))
        found = self.filesystem.get_file_info(paths)
        for path, size, info in zip(paths, sizes, found, strict=True):
            if info.type != fs.FileType.File:
                return f"{path} is gone"
            if info.size != size:
                return f"{path} has {info.size} bytes, {size} were written"
        for path in paths:
            try:
                for batch in _format().make_fragment(path, self.filesystem).to_batches():
                    batch.validate(full=True)
            except (OSError, pa.ArrowException) as error:
                return f"{path} is damaged ({' '.join(str(error).split())[:200]})"
        return None

    def _bounded(self, column: str) -> bool:
        return f"partition.{column}" in self.listed.column_names or (
            column in STATISTICS and f"min.{column}" in self.listed.column_names
        )

    def _bounds(self, column: str) -> tuple[pa.ChunkedArray, pa.ChunkedArray]:
        if f"partition.{column}" in self.listed.column_names:
            value = self.listed[f"partition.{column}"]
            return value, value
        return self.listed[f"min.{column}"], self.listed[f"max.{column}"]

    def _known(self, listed: pa.Table) -> list[pc.Expression]:
        """Return what is known of every row of each file; equal knowledge is built once."""
        columns = [name for name in ("run_id", *FILTERED_OFTEN) if self._bounded(name)]
        if not columns:
            return [pc.scalar(True)] * len(listed)
        part = Files(listed=listed, schema=self.schema, filesystem=self.filesystem)
        bounds = [bound.to_pylist() for name in columns for bound in part._bounds(name)]
        built: dict[tuple[object, ...], pc.Expression] = {}
        for key in zip(*bounds, strict=True):
            if key not in built:
                built[key] = _knowledge(columns, key)
        return [built[key] for key in zip(*bounds, strict=True)]


def _format() -> "ds.ParquetFileFormat":
    import pyarrow.dataset as ds

    options = ds.ParquetFragmentScanOptions(page_checksum_verification=True)
    return ds.ParquetFileFormat(default_fragment_scan_options=options)


def _knowledge(columns: Sequence[str], key: Sequence[Any]) -> pc.Expression:
    """Return the expression for `columns` and their (least, greatest) values in `key`."""
    terms = []
    for name, low, high in zip(columns, key[::2], key[1::2], strict=True):
        if low is not None and low == high:
            terms.append(pc.field(name) == low)
        elif low is not None and high is not None:
            terms.append((pc.field(name) >= low) & (pc.field(name) <= high))
    return reduce(and_, terms, pc.scalar(True))
