"""`export`: one selection into one folder that appears whole, with its card and its proofs."""

from dataclasses import dataclass
from pathlib import Path
from pkgutil import resolve_name

from catalog.export.card import CARD, SHEET, card
from catalog.export.croissant import write_croissant
from catalog.export.facts import Facts, facts_of
from catalog.export.formats import FORMATS
from catalog.export.layout import Pictures, Task, write_manifest
from catalog.export.marking import Marking
from catalog.export.statement import check_place, write_prov, write_statement
from catalog.query import sql
from catalog.selection import Selection
from catalog.sheet import contact_sheet
from factory.atomic import new_folder, writing
from factory.digest import digest
from factory.errors import CatalogError

SHARD_BYTES = 256 * 2**20
"""Pictures per Parquet or tar shard: small enough to fetch, large enough to stream."""
_SHEET_CLASSES = 24
_PER_CLASS = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class Exported:
    """What was written."""

    folder: Path
    num_images: int
    num_masks: int
    export_id: str


def export(
    selection: Selection,
    folder: str | Path,
    form: str,
    *,
    marking: Marking | None = None,
    semver: str | None = None,
    shard_bytes: int = SHARD_BYTES,
) -> Exported:
    """Write the images of a selection as `form`, a key of `FORMATS`.

    Exporting the same images again in the same form replaces the folder; anything else that lies
    there is left alone and refused. Without C2PA, equal exports have equal bytes.

    Args:
        semver: the version of the release, for card, Croissant and statement.

    Raises:
        CatalogError: an unknown format, nothing selected, or what format and marks refuse.
        OutputError: a folder that would lose something, or cannot be written.
    """
    if form not in FORMATS:
        raise CatalogError(f"there is no format {form!r}", remedy=f"Choose of {', '.join(FORMATS)}")
    folder, marking = Path(folder), marking or Marking()
    facts = facts_of(selection, semver=semver)
    made_of = [form, list(marking.names), facts.name, facts.semver, facts.images_digest]
    export_id = digest(made_of)
    check_place(folder, export_id)
    pictures = Pictures(selection=selection, facts=facts, marking=marking)
    with writing(folder), new_folder(folder) as work:
        task = Task(
            folder=work,
            pictures=pictures,
            shard_bytes=shard_bytes,
            boxes_only=form == "yolo-boxes",
        )
        written = resolve_name(FORMATS[form].writer)(task)
        num_images, num_masks = write_manifest(work, written)
        _describe(work, selection, facts, form, marking.names, num_masks, export_id)
    return Exported(folder=folder, num_images=num_images, num_masks=num_masks, export_id=export_id)


def _describe(
    work: Path, selection: Selection, facts: Facts, form: str, marks: tuple[str, ...],
    num_masks: int, export_id: str,
) -> None:  # fmt: skip
    """Write sheet, card, Croissant, PROV and, last, the statement over all of them."""
    _write_sheet(work, selection, facts)
    text = card(facts, form=form, marks=marks, num_masks=num_masks)
    (work / CARD).write_text(text, encoding="utf-8")
    write_croissant(work, facts, marks)
    write_prov(work, facts, export_id=export_id)
    write_statement(work, facts, form=form, marks=list(marks), export_id=export_id)


def _write_sheet(work: Path, selection: Selection, facts: Facts) -> None:
    """Draw the first images by id of the largest classes."""
    shown = [name for name, _ in facts.counts["class_name"].most_common(_SHEET_CLASSES)]
    chosen = sql(
        selection.catalog,
        f"SELECT image_id FROM (SELECT DISTINCT image_id, class_name FROM samples"
        f" WHERE ({selection.condition}\n)) QUALIFY row_number() OVER"
        f" (PARTITION BY class_name ORDER BY image_id) <= {_PER_CLASS} ORDER BY image_id",
    )
    columns = ["class_name", "image", "mask"]
    rows = selection.catalog.rows(chosen["image_id"].to_pylist(), columns=columns)
    kept = [row for row in rows.to_pylist() if row["class_name"] in shown]
    counts = {}
    for row in kept:
        number = facts.counts["class_name"][row["class_name"]]
        row["class_name"] = _short(row["class_name"])  # a name of a page's length is no caption
        counts[row["class_name"]] = {True: number, False: 0}
    table = type(rows).from_pylist(kept, schema=rows.schema)
    contact_sheet(table, work / SHEET, per_class=_PER_CLASS, counts=counts)


def _short(name: str) -> str:
    printable = "".join(c if c.isprintable() else "?" for c in name)
    return printable if len(printable) <= 40 else f"{printable[:39]}…"
