"""Rows of the small tables as their pages show them: runs, models, studies, releases, gates."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from catalog.gallery.charts import Histogram, counts_of, histogram, ranges_of
from catalog.gallery.details import bounds_of, config_of, latest_runs
from catalog.gallery.filters import Filters
from catalog.gallery.index import Index, View
from catalog.gallery.listing import holding, releases_of
from catalog.results import effects, json_object
from catalog.schema import ACCEPTED, REJECTED
from catalog.table import Catalog


def runs(catalog: Catalog) -> list[dict[str, Any]]:
    """Return the latest event of every run, the latest run first."""
    rows = [*latest_runs(catalog).values()][::-1]
    return [row | {"rejected_by_gate": json_object(row["rejected_by_gate"])} for row in rows]


def models(catalog: Catalog) -> list[dict[str, Any]]:
    """Return the generators, the latest first."""
    return sorted(catalog.models().to_pylist(), key=lambda row: row["added_at"], reverse=True)


def evaluations(catalog: Catalog) -> list[dict[str, Any]]:
    """Return the studies with their verdicts and scores, the latest first."""
    return [row | {"scores": _scores(catalog, row)} for row in verdicts_of(catalog)]


def verdicts_of(catalog: Catalog) -> list[dict[str, Any]]:
    """Return the studies with their verdicts, the latest first."""
    found = catalog.table("evaluations").to_pylist()
    found.sort(key=lambda row: row["finished_at"], reverse=True)
    return [
        row | {"verdicts": json_object(row["verdicts"]), "effects": effects(row)} for row in found
    ]


def releases(index: Index) -> list[Any]:
    """Return the releases, the latest first."""
    return releases_of(index)


def gate_charts(index: Index, view: View, filters: Filters) -> list[Histogram]:
    """Return a histogram of every score that some image has, with the bounds that runs set."""
    configs = [config_of(run) for run in latest_runs(view.catalog).values()
               if filters.exact.get("run", run["run_id"]) == run["run_id"]]  # fmt: skip
    charts = []
    for column, ends in ranges_of(index, view, filters).items():
        counts = counts_of(index, view, filters, column, ends, "gate_status")
        shown = {name: counts[name] for name in (ACCEPTED, REJECTED) if name in counts}
        charts.append(histogram(column, ends, shown, marks=bounds_of(configs, column)))
    return charts


def _scores(catalog: Catalog, study: dict[str, Any]) -> list[dict[str, Any]]:
    """Return arm, mean of the study's metric on the test part, and how many trainings gave it."""
    from catalog.query import sql

    found = sql(
        catalog,
        "SELECT evaluation_id, arm, metric, avg(value) AS mean, count(*) AS n FROM scores"
        " WHERE part = 'test' AND class_name IS NULL GROUP BY ALL ORDER BY arm",
    ).to_pylist()
    return [
        row
        for row in found
        if (row["evaluation_id"], row["metric"]) == (study["evaluation_id"], study["metric"])
    ]


@dataclass(frozen=True, slots=True, kw_only=True)
class Box:
    """A thing in the drawing of a lineage; `href` may be empty."""

    kind: str
    label: str
    href: str
    x: int
    y: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Lineage:
    """Boxes and lines (x1, y1, x2, y2) from a split to the studies, left to right."""

    boxes: tuple[Box, ...]
    lines: tuple[tuple[int, int, int, int], ...]
    width: int
    height: int


BOX_WIDTH, BOX_HEIGHT, GAP_X, GAP_Y = 156, 46, 30, 12


def lineage_of(index: Index, catalog: Catalog, row: Mapping[str, Any]) -> Lineage:
    """Return where an image came from and where it went, from the catalog's own tables."""
    models = {model["model_id"]: model for model in catalog.models().to_pylist()}
    studies = catalog.table("evaluations").select(["name", "model_ids"]).to_pylist()
    name = models.get(row["model_id"], {}).get("name", row["model_id"])
    bases = [models.get(base, {}).get("name", base) for base in _given(row["base_model_id"])]
    columns = [
        [
            *(("real images", text, "") for text in _given(row["dataset_fingerprint"])),
            *(("split", text, "") for text in _given(row["split_digest"])),
            *(("base model", text, "/models") for text in bases),
        ],
        [("model", name, "/models#" + row["model_id"])],
        [("run", row["run_id"], "/runs#" + row["run_id"])],
        [("image", row["image_id"], "")],
        [
            *(("release", r.name, "/releases#" + r.name) for r in holding(index, dict(row))),
            *(
                ("study of this model", study["name"], "/evaluations")
                for study in studies
                if row["model_id"] in study["model_ids"]
            ),
        ],
    ]
    return laid_out([column for column in columns if column])


def laid_out(columns: Sequence[Sequence[tuple[str, str, str]]]) -> Lineage:
    """Return columns of (kind, label, href) as a drawing; neighbouring columns are joined."""
    tallest = max(map(len, columns))
    height = tallest * (BOX_HEIGHT + GAP_Y) - GAP_Y
    boxes: list[list[Box]] = []
    for number, column in enumerate(columns):
        top = (height - len(column) * (BOX_HEIGHT + GAP_Y) + GAP_Y) // 2
        x = number * (BOX_WIDTH + GAP_X)
        boxes.append(
            [
                Box(kind=kind, label=label, href=href, x=x, y=top + n * (BOX_HEIGHT + GAP_Y))
                for n, (kind, label, href) in enumerate(column)
            ]
        )
    half = BOX_HEIGHT // 2
    return Lineage(
        boxes=tuple(box for column in boxes for box in column),
        lines=tuple(
            (a.x + BOX_WIDTH, a.y + half, b.x, b.y + half)
            for left, right in pairwise(boxes)
            for a in left
            for b in right
        ),
        width=len(columns) * (BOX_WIDTH + GAP_X) - GAP_X,
        height=height,
    )


def _given(text: str | None) -> list[str]:
    return [text] if text else []
