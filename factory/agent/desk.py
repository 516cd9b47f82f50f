"""What can be asked of one catalog: each answer is plain data, and at most a picture. Only reads.

The guards are those of the gallery: SQL runs in a process of its own, within time and memory; ids
are looked up, and never lead to a file; images that are marked as forgotten are not handed out. An
assistant often sends what it sees to somebody else's machine, so pixels are no column of its SQL,
and an image that the copy gate found too near to a real one is not shown. Real images are no part
of a catalog, and nothing here opens any.
"""

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import pyarrow as pa
from PIL import Image

from catalog.boundary import decoded_png, json_object
from catalog.bounded import BoundedSql
from catalog.export.png_text import with_text
from catalog.gallery.pictures import PICTURES, png_bytes
from catalog.gallery.records import runs, verdicts_of
from catalog.lineage import Lineage
from catalog.place import Place
from catalog.releases import list_releases
from catalog.schema import TABLES
from catalog.table import Catalog
from catalog.tombstones import forgotten
from factory.agent.bounds import fitting
from factory.command_line import typed
from factory.errors import CatalogError
from factory.models.generator import EMBEDDED

QUERY_SECONDS = 10.0
QUERY_BYTES = 1 << 30
TRACE_SECONDS = 30.0
"""For all statements of one lineage: conditions of releases are texts of others."""
MOST_SIDE_PX = 1024
"""Larger pictures are shrunk."""
PIXELS = ("image", "mask")
NEWEST = 20
"""Runs and releases that a description lists."""
_TOO_NEAR = "copy:"
_LONG = ("image", "mask", "recipe", "engine", "class_names", "soft_label")
"""Columns that a shown image's row leaves out: traced, or seen."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What a tool says: plain data and, of one that shows an image, its PNG."""

    data: Mapping[str, Any]
    png: bytes | None = None


@dataclass(frozen=True, kw_only=True)
class Desk:
    """Answers about one catalog. Safe to use from many threads.

    Args:
        place: of the catalog.
        models: generators that plans may name, beside those that come with the factory.
    """

    place: Place
    models: tuple[str, ...] = ()
    typed: BoundedSql = field(init=False)
    """Asks what the assistant writes."""
    stored: BoundedSql = field(init=False)
    """Asks what stands in the catalog: conditions of releases."""

    def __post_init__(self) -> None:
        asks = partial(BoundedSql, self.place, memory_bytes=QUERY_BYTES)
        object.__setattr__(self, "typed", asks(hidden=PIXELS))
        object.__setattr__(self, "stored", asks())

    @property
    def generators(self) -> tuple[str, ...]:
        """What plans may draw with."""
        return (*EMBEDDED, *self.models)

    def close(self) -> None:
        """End the processes that run SQL."""
        self.typed.close()
        self.stored.close()

    def view(self) -> Catalog:
        """Return the catalog as it is now."""
        return Catalog(self.place)

    def command(self, *words: object) -> str:
        """Return a command about this catalog as it can be typed where the server runs."""
        return typed(*words, *self.place.words)

    def describe(self) -> Answer:
        """What is there: classes, runs, generators, releases, studies, tables, what can be drawn.

        Raises:
            CatalogError: the catalog cannot be read.
        """
        catalog = self.view()
        found = self.rows(
            "SELECT class_name, count(DISTINCT image_id) FILTER (gate_status = 'accepted') AS"
            " accepted, count(DISTINCT image_id) FILTER (gate_status <> 'accepted') AS rejected"
            " FROM samples GROUP BY ALL ORDER BY ALL"
        )
        marked = forgotten(self.place)
        releases = list_releases(self.place)
        kept = ("run_id", "status", "num_requested", "num_accepted", "num_rejected",
                "rejected_by_gate", "started_at", "images_per_second", "message")  # fmt: skip
        known = ("model_id", "name", "method", "base_model_id", "licence")
        return Answer(
            data={
                "catalog": self.place.uri,
                "version": catalog.version,
                "images": {row.pop("class_name"): row for row in found},
                "forgotten": {"images": len(marked.images), "generators": len(marked.models)},
                "runs": [{key: row[key] for key in kept} for row in runs(catalog)[:NEWEST]],
                "generators": [
                    {key: row[key] for key in known} for row in catalog.models().to_pylist()
                ],
                "releases": [
                    {"name": r.name, "status": r.status, "images": r.num_images, "why": r.reason}
                    for r in releases[::-1][:NEWEST]
                ],
                "studies": len(verdicts_of(catalog)),
                "tables": {
                    name: [column for column in schema.names if column not in PIXELS]
                    for name, schema in TABLES.items()
                },
                "can_draw_with": list(self.generators),
                "next": self.command("gallery"),
            }
        )

    def query(self, text: str, *, limit: int, version: int | None) -> Answer:
        """The rows of one reading statement.

        Raises:
            CatalogError: see `BoundedSql.ask`, or a row is too long.
        """
        table = self.typed.ask(text, seconds=QUERY_SECONDS, limit=limit + 1, version=version)
        rows = table.to_pylist(maps_as_pydicts="lossy")
        shown = fitting(rows[:limit])
        data: dict[str, Any] = {"columns": table.column_names, "rows": shown}
        if len(shown) < len(rows):
            data["left_off"] = f"there are more than these {len(shown)} rows: ask for less, or sums"
        return Answer(data=data)

    def show(self, image_id: str, picture: str) -> Answer:
        """One image, its mask in colours or the outlines of its mask, and its row.

        Raises:
            CatalogError: no such image, none to show, or one that is not handed out.
        """
        row = self._row(image_id)
        near = [reason for reason in row["gate_reasons"] if reason.startswith(_TOO_NEAR)]
        if near:
            raise CatalogError(
                f"image {image_id!r} is not shown: the copy gate found it too near to a real image",
                remedy="Look at it where the catalog is: `factory gallery`",
            )
        cell = row["image" if picture == "image" else "mask"]
        stored = bytes(cell["bytes"] or b"") if cell else b""
        if not stored:
            raise CatalogError(
                f"image {image_id!r} has no {picture} to show", remedy="Ask for picture: image"
            )
        named = f"the {picture} of image {image_id!r}"
        decoded_png(stored, named=named)  # of a size that can be worked with
        png = _small(PICTURES[picture](row), named)
        if picture == "image":
            png = with_text(png, image_id=image_id, release="its catalog")
        facts = {key: value for key, value in row.items() if key not in _LONG}
        told = {key: value for key, value in facts.items() if value not in (None, "", [])}
        return Answer(
            data={
                "shown": picture,
                "synthetic": True,
                **told,
                "has_mask": row["mask"] is not None,
                "next": self.command("regenerate", image_id),
            },
            png=png,
        )

    def trace(self, image_id: str) -> Answer:
        """Where an image came from, where it went, its recipe, and the commands that redraw it.

        Raises:
            CatalogError: no such image, one that is not handed out, or a condition of a release
                that gives no answer in time.
        """
        row = self._row(image_id)
        until = time.monotonic() + TRACE_SECONDS

        def ask(catalog: Catalog, text: str) -> pa.Table:
            seconds = max(0.1, min(QUERY_SECONDS, until - time.monotonic()))
            return self.stored.ask(text, seconds=seconds, version=catalog.version)

        node = Lineage(catalog=self.view(), ask=ask).of_image(image_id)
        named = f"of image {image_id!r}"
        return Answer(
            data={
                "lineage": node.to_dict(),
                "recipe": json_object(row["recipe"], f"the recipe {named}"),
                "recipe_index": row["recipe_index"],
                "engine": json_object(row["engine"], f"the engine {named}"),
                "pixel_sha256": row["pixel_sha256"],
                "redraw": self.command("regenerate", image_id),
                "next": self.command("lineage", image_id),
            }
        )

    def studies(self, limit: int) -> Answer:
        """What studies found, the latest first, with the mean score of each arm on the test part.

        Raises:
            CatalogError: the catalog cannot be read.
        """
        found = verdicts_of(self.view())
        means = self.rows(
            "SELECT evaluation_id, arm, metric, avg(value) AS mean, count(*) AS trainings,"
            " any_value(num_synthetic) AS synthetic, any_value(num_real) AS real FROM scores"
            " WHERE part = 'test' AND class_name IS NULL GROUP BY ALL ORDER BY ALL"
        )
        kept = ("evaluation_id", "name", "task", "baseline", "metric", "catalog_version",
                "model_ids", "finished_at", "verdicts", "effects")  # fmt: skip
        told = [
            {key: study[key] for key in kept}
            | {
                "arms": [
                    {key: row[key] for key in ("arm", "mean", "trainings", "real", "synthetic")}
                    for row in means
                    if (row["evaluation_id"], row["metric"])
                    == (study["evaluation_id"], study["metric"])
                ]
            }
            for study in found[:limit]
        ]
        return Answer(data={"studies": told, "of": len(found), "next": self.command("gallery")})

    def rows(self, text: str) -> list[dict[str, Any]]:
        """Return the rows of one of our own statements."""
        found = self.stored.ask(text, seconds=QUERY_SECONDS)
        rows: list[dict[str, Any]] = found.to_pylist()
        return rows

    def _row(self, image_id: str) -> dict[str, Any]:
        """Return the row of an image that may be handed out.

        Raises:
            CatalogError: there is none, or it is marked as forgotten.
        """
        row: dict[str, Any] = self.view().rows([image_id]).to_pylist()[0]
        marked = forgotten(self.place)
        if image_id in marked.images or row["model_id"] in marked.models:
            raise CatalogError(
                f"image {image_id!r} is handed out no longer: a real image that had a part in it"
                " was forgotten",
                remedy="Choose another image",
            )
        return row


def _small(png: bytes, named: str) -> bytes:
    """Return a picture, shrunk where it is large; the lines of an outline stay lines."""
    picture = decoded_png(png, named=named)
    if max(picture.size) <= MOST_SIDE_PX:
        return png
    how = Image.Resampling.LANCZOS if picture.mode == "RGB" else Image.Resampling.NEAREST
    picture.thumbnail((MOST_SIDE_PX, MOST_SIDE_PX), how)
    return png_bytes(picture)
