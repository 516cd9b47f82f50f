"""What is handed out no longer: images and generators that a forgotten real image had a part in.

Tombstones hold for every version: a view of last year is read under those of today. The rows
themselves stay, so that earlier versions remain what they were; `Selection` leaves them out, and
`catalog.releases.open_release` refuses a release that holds any. A release remembers the version of
`tombstones` it was made under: what was left out then is none of its rows. A marked generator takes
everything with it that it drew or will draw.

A real image stands here as the digest of its id. That keeps ids out of a table that travels with
the images; it does not hide them from who can guess an id, and asks whether it was forgotten.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime

import pyarrow as pa
import pyarrow.compute as pc
from deltalake import DeltaTable
from deltalake.exceptions import TableNotFoundError

from catalog.files import Files, listed_files
from catalog.place import Where
from catalog.schema import TOMBSTONES
from catalog.sink import append_once
from catalog.store import filesystem, open_table, reading
from catalog.table import Catalog
from factory.digest import digest
from factory.errors import CatalogError

_ATTEMPTS = 8


@dataclass(frozen=True, slots=True, kw_only=True, order=True)
class Mark:
    """One thing to hand out no longer: `kind` 'image' or 'model', its id, and why."""

    kind: str
    target_id: str
    because: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Forgotten:
    """Ids of the images and of the generators that are marked in one version of `tombstones`."""

    images: frozenset[str] = frozenset()
    models: frozenset[str] = frozenset()
    version: int | None = None

    def holds(self, rows: pa.Table) -> pa.ChunkedArray:
        """Return which of `rows` (image_id, model_id) are marked, (rows,) booleans."""
        images = pc.is_in(rows["image_id"], pa.array(sorted(self.images), pa.string()))
        models = pc.is_in(rows["model_id"], pa.array(sorted(self.models), pa.string()))
        return pc.or_(images, models)


def subject_of(real_id: str) -> str:
    """Return the digest under which a real image's id stands in `tombstones`."""
    return digest(["forgotten", real_id])


def forgotten(place: Where) -> Forgotten:
    """Return everything that is marked now."""
    try:
        newest = open_table(place, "tombstones")
    except CatalogError as error:
        if isinstance(error.__cause__, TableNotFoundError):
            return Forgotten()
        raise
    return _forgotten(newest, place)


def forgotten_at(place: Where, version: int | None) -> Forgotten:
    """Return what was marked in a version of `tombstones`; None is before its first.

    Raises:
        CatalogError: no such version.
    """
    if version is None:
        return Forgotten()
    snapshot = open_table(place, "tombstones", version=version)
    return _forgotten(snapshot, place)


def record_tombstones(
    place: Where,
    real_id: str,
    marks: Iterable[Mark],
    *,
    now: datetime,
    code_version: str,
) -> int:
    """Mark what is not marked yet because of `real_id`; return how many marks that were.

    Exactly once: asked again, or by two at a time, nothing is marked twice for one subject.

    Raises:
        CatalogError: the catalog cannot be written, or others won every attempt.
    """
    subject, wanted = subject_of(real_id), set(marks)
    facts = {"subject": subject, "code_version": code_version, "created_at": now}
    for _ in range(_ATTEMPTS):
        held, event = _held(Catalog(place), subject)
        fresh = sorted(mark for mark in wanted if (mark.kind, mark.target_id) not in held)
        if not fresh:
            return 0
        rows = [
            facts | {"event": event, "kind": m.kind, "target_id": m.target_id, "because": m.because}
            for m in fresh
        ]
        append_once(
            place,
            "tombstones",
            pa.Table.from_pylist(rows, schema=TOMBSTONES),
            key={"subject": subject, "event": event},
            app_id=f"forget-{subject}",
            app_version=event,
        )
        after, _ = _held(Catalog(place), subject)
        if {(mark.kind, mark.target_id) for mark in fresh} <= after:
            return len(fresh)
    raise CatalogError(
        f"tombstones of {str(place)!r} were not taken: others write them for the same image",
        remedy="Ask again: nothing is marked twice",
    )


def _held(catalog: Catalog, subject: str) -> tuple[set[tuple[str, str]], int]:
    """Return what is marked for `subject`, and the number of its next event."""
    marked = catalog.table("tombstones")
    rows = marked.filter(pc.equal(marked["subject"], subject)).to_pylist()
    held = {(row["kind"], row["target_id"]) for row in rows}
    return held, max((row["event"] for row in rows), default=-1) + 1


def _forgotten(snapshot: DeltaTable, place: Where) -> Forgotten:
    store_files = filesystem(place, "tombstones")
    files = Files(listed=listed_files(snapshot), schema=TOMBSTONES, filesystem=store_files)
    with reading(place, files):
        rows = files.dataset().to_table(columns=["kind", "target_id"]).to_pylist()
    return Forgotten(
        images=frozenset(row["target_id"] for row in rows if row["kind"] == "image"),
        models=frozenset(row["target_id"] for row in rows if row["kind"] == "model"),
        version=snapshot.version(),
    )
