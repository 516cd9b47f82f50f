"""Rows of the small tables as their pages show them: runs, models, studies, releases, gates."""

from typing import Any

from catalog.gallery.charts import Histogram, counts_of, histogram, ranges_of
from catalog.gallery.details import bounds_of, config_of, latest_runs
from catalog.gallery.filters import Filters
from catalog.gallery.index import Index, View
from catalog.gallery.released import releases_of
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
    found = catalog.table("evaluations").to_pylist()
    found.sort(key=lambda row: row["finished_at"], reverse=True)
    return [
        row
        | {
            "verdicts": json_object(row["verdicts"]),
            "effects": effects(row),
            "scores": _scores(catalog, row),
        }
        for row in found
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
