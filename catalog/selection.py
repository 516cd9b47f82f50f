"""Some rows of a catalog: what a release pins, an export writes and a gallery shows."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import pyarrow as pa
import pyarrow.compute as pc

from catalog.boundary import check_rows
from catalog.query import quoted, sql
from catalog.schema import ACCEPTED
from catalog.store import reading
from catalog.table import Catalog
from catalog.tombstones import Forgotten, forgotten
from factory.errors import CatalogError

ONLY_ACCEPTED = f"gate_status = '{ACCEPTED}'"
"""The condition where none is given: what a gate rejected is never handed out by accident."""


Ask = Callable[[Catalog, str], pa.Table]
"""Runs one statement, as `catalog.query.sql` does."""

_KEYS = ("image_id", "run_id")


@dataclass(frozen=True, kw_only=True)
class Selection:
    """The samples of one view of a catalog that satisfy an SQL condition, each image once.

    An image that two runs published counts for the earlier one. Images that are marked in
    `tombstones`, or whose generator is, are left out whatever version is read: as `marked` says,
    which is by default all that is marked now. `name` is what a person calls the selection: a
    release's name, or None. `ask` runs the condition: it may be somebody else's. `picked`: of all
    these only the images with these ids.
    """

    catalog: Catalog
    where: str = ONLY_ACCEPTED
    name: str | None = None
    marked: Forgotten | None = None
    ask: Ask = sql
    picked: tuple[str, ...] | None = None

    def __len__(self) -> int:
        return len(self._keys)

    @property
    def condition(self) -> str:
        """The SQL condition with what was picked in it."""
        if self.picked is None:
            return self.where
        return f"({self.where}\n) AND image_id IN ({', '.join(map(quoted, self.picked))})"

    @property
    def told(self) -> str:
        """The condition as cards tell it."""
        where = " ".join(self.where.split())
        return where if self.picked is None else f"{where}, the {len(self.picked)} most diverse"

    @property
    def image_ids(self) -> list[str]:
        """The ids, ascending."""
        return sorted(self._keys["image_id"].to_pylist())

    def batches(
        self, columns: Sequence[str] | None = None, *, batch_size: int = 256
    ) -> Iterator[pa.Table]:
        """Yield the rows, at most `batch_size` at a time, ordered by the files that hold them.

        The order depends on the table's files alone; memory holds one batch and the keys.

        Raises:
            CatalogError: a data file is gone, or a row is none of a factory.
        """
        names = list(columns or self.catalog.samples().schema.names)
        files = self.catalog.files("samples")
        runs = pc.unique(self._keys["run_id"]).to_pylist()
        order = pc.sort_indices(files.listed["path"])
        held = type(files)(
            listed=files.listed.take(order), schema=files.schema, filesystem=files.filesystem
        )
        kept = held.may_be("run_id", runs)
        if self.picked is not None and len(self.picked) < len(held):  # else nearly all hold some
            kept &= held.holding("image_id", self.picked)
        chosen = held.dataset(kept)
        asked = list(dict.fromkeys([*names, *_KEYS, "__filename"]))
        # a dictionary, no Arrow filter: that would be built again, of all ids, for every file
        owners = dict(zip(*(self._keys[key].to_pylist() for key in _KEYS), strict=True))
        with reading(self.catalog.uri, held):
            for batch in chosen.to_batches(columns=asked, batch_size=batch_size):
                rows = check_rows(pa.table(batch), self.catalog.named)
                ids, by = (rows[key].to_pylist() for key in _KEYS)
                mine = [owners.get(i) == run_id for i, run_id in zip(ids, by, strict=True)]
                kept = rows.filter(pa.array(mine, pa.bool_())).select(names)
                if len(kept):
                    yield kept

    @cached_property
    def num_forgotten(self) -> int:
        """How many images satisfy the condition but are left out because of a tombstone."""
        return len(self._every) - len(self.keys)

    @cached_property
    def _keys(self) -> pa.Table:
        """Return `keys`.

        Raises:
            CatalogError: a bad condition, or nothing satisfies it.
        """
        found = self.keys
        if len(found) == 0:
            left_out = (
                f"; {len(self._every)} are left out by tombstones" if len(self._every) else ""
            )
            raise CatalogError(
                f"no sample in {self.catalog.named} satisfies {self.where!r}{left_out}",
                remedy='Look with `factory catalog sql "SELECT class_name, gate_status, count(*)'
                ' FROM samples GROUP BY ALL"`',
            )
        return found

    @cached_property
    def keys(self) -> pa.Table:
        """image_id, run_id and model_id of every image, ordered by image_id; maybe none.

        Raises:
            CatalogError: a bad condition.
        """
        marked = self.marked
        if marked is None:
            marked = forgotten(self.catalog.place)
        kept = self._every.filter(pc.invert(marked.holds(self._every)))
        if self.picked is None:
            return kept
        return kept.filter(pc.is_in(kept["image_id"], pa.array(self.picked, pa.string())))

    @cached_property
    def _every(self) -> pa.Table:
        """Return image_id, run_id and model_id of all that satisfy the condition."""
        return self.ask(
            self.catalog,
            "SELECT image_id, arg_min(run_id, (created_at, run_id)) AS run_id,"
            " arg_min(model_id, (created_at, run_id)) AS model_id "
            f"FROM samples WHERE ({self.where}\n) GROUP BY image_id ORDER BY image_id",
        )


def accepted(
    catalog: Catalog, where: str | None = None, *, marked: Forgotten | None = None
) -> Selection:
    """Return the accepted samples that satisfy `where`, and no rejected one whatever it says.

    Raises:
        CatalogError: `where` is no condition by itself, such as 'a) OR (b'.
    """
    if where is None:
        return Selection(catalog=catalog, marked=marked)
    sql(catalog, f"SELECT 1 FROM samples WHERE {where}\nLIMIT 0")
    return Selection(catalog=catalog, where=f"{ONLY_ACCEPTED} AND ({where}\n)", marked=marked)


def most_diverse(selection: Selection, count: int) -> Selection:
    """Return the `count` images that cover a selection, see `catalog.features.diverse`.

    A part of a release is no release, and loses its name.

    Raises:
        CatalogError: an image of it has no features, or it has fewer images.
    """
    from catalog.features import diverse

    return replace(selection, name=None, picked=tuple(diverse(selection, count)[0]))
