"""What an export is about: counts, classes, recipes, generators, studies, read from the catalog."""

import hashlib
import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa

from catalog.boundary import json_object
from catalog.query import sql
from catalog.schema import TABLES
from catalog.selection import Selection
from catalog.table import Catalog

SCORES = tuple(name for name in TABLES["samples"].names if name.endswith("_score"))
"""Columns in which gates leave their figures."""

_COUNTED = ("class_name", "gate_status", "method", "model_id", "base_model_id", "adapter_id")
_LINEAGE = ("split_digest", "dataset_fingerprint", "code_version", "run_id")
_SIZE = ("width_px", "height_px", "channels")
_COLUMNS = (
    *("image_id", "pixel_sha256", "class_names", "recipe_digest", "recipe", "created_at"),
    *(*_COUNTED, *_LINEAGE, *_SIZE, *SCORES),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """One recipe and how many of the images it drew."""

    digest: str
    recipe: Mapping[str, Any]
    num_images: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """The figures of a selection; no address of the catalog and no option of its store."""

    name: str
    """The release, or 'version N' of a catalog."""
    semver: str
    catalog_version: int
    where: str
    num_images: int
    class_names: tuple[str, ...]
    """In the order of `class_id`; see `class_order`."""
    images_digest: str
    """SHA-256 of ids, classes and pixels."""
    published: str
    """Day on which the newest of the runs started, ISO 8601."""
    counts: Mapping[str, Counter[str]]
    """Column -> value -> images; `size` has 'WxHxC'."""
    scores: Mapping[str, tuple[float, float, float]]
    """Gate column -> least, median, greatest."""
    recipes: tuple[Recipe, ...]
    runs: tuple[Mapping[str, Any], ...]
    models: tuple[Mapping[str, Any], ...]
    evaluations: tuple[Mapping[str, Any], ...]

    def values(self, *columns: str) -> list[str]:
        """Return the distinct values of lineage columns, ascending, nulls left out."""
        return sorted({value for name in columns for value in self.counts[name]})


@dataclass(slots=True)
class _Tally:
    ids: list[tuple[str, str, str]] = field(default_factory=list)
    names: Counter[tuple[str, ...]] = field(default_factory=Counter)
    recipes: dict[str, str] = field(default_factory=dict)
    drawn: Counter[str] = field(default_factory=Counter)
    counts: dict[str, Counter[str]] = field(default_factory=dict)
    scores: dict[str, list[Any]] = field(default_factory=dict)
    newest: Any = None

    def add(self, batch: pa.Table) -> None:
        listed = {name: batch[name].to_pylist() for name in _COLUMNS if name not in SCORES}
        keys = (listed[name] for name in ("image_id", "class_name", "pixel_sha256"))
        self.ids += zip(*keys, strict=True)
        self.names.update(map(tuple, listed["class_names"]))
        self.recipes.update(zip(listed["recipe_digest"], listed["recipe"], strict=True))
        self.drawn.update(listed["recipe_digest"])
        sizes = zip(*(listed[name] for name in _SIZE), strict=True)
        columns = {name: listed[name] for name in (*_COUNTED, *_LINEAGE)}
        for name, values in {**columns, "size": ["x".join(map(str, s)) for s in sizes]}.items():
            found = (value for value in values if value is not None)
            self.counts.setdefault(name, Counter()).update(found)
        for name in SCORES:
            values = batch[name].drop_null().to_numpy()
            self.scores.setdefault(name, []).append(values[np.isfinite(values)])
        self.newest = max(filter(None, [self.newest, *listed["created_at"]]))


def facts_of(selection: Selection, *, semver: str | None = None) -> Facts:
    """Read everything but the pictures of a selection once and return its facts.

    Args:
        semver: the version of a release; `0.0.N` for version N of a catalog when absent.

    Raises:
        CatalogError: a bad condition, or nothing satisfies it.
    """
    catalog, tally = selection.catalog, _Tally()
    for batch in selection.batches(_COLUMNS, batch_size=4096):
        tally.add(batch)
    version = catalog.version or 0
    counts = tally.counts
    models = {*counts["model_id"], *counts["base_model_id"], *counts["adapter_id"]}
    return Facts(
        name=selection.name or f"version {version}",
        semver=semver or f"0.0.{version}",
        catalog_version=version,
        where=selection.told,
        num_images=len(tally.ids),
        class_names=class_order(tally.names, counts["class_name"]),
        images_digest=_digest_of_images(tally.ids),
        published=tally.newest.date().isoformat(),
        counts=counts,
        scores={name: _spread(parts) for name, parts in tally.scores.items() if _any(parts)},
        recipes=tuple(
            Recipe(digest=d, recipe=json_object(tally.recipes[d], f"recipe {d!r}"), num_images=n)
            for d, n in sorted(tally.drawn.items(), key=lambda item: (-item[1], item[0]))
        ),
        runs=_rows(catalog, "runs", "run_id", counts["run_id"]),
        models=_rows(catalog, "models", "model_id", models),
        evaluations=_evaluations(catalog, counts["model_id"]),
    )


def class_order(lists: Mapping[tuple[str, ...], int], used: Mapping[str, int]) -> tuple[str, ...]:
    """Return the classes in order: as the rows list them if all agree, else sorted.

    Rows of runs with other classes number them differently; then `class_id` is given anew.
    """
    if len(lists) == 1:
        (names,) = lists
        if set(used) <= set(names):
            return names
    return tuple(sorted({name for names in lists for name in names} | set(used)))


def _rows(
    catalog: Catalog, table: str, key: str, wanted: Mapping[str, int] | set[str]
) -> tuple[Mapping[str, Any], ...]:
    rows = sql(catalog, f"SELECT DISTINCT ON ({key}) * FROM {table} ORDER BY {key}").to_pylist()
    return tuple(row for row in rows if row[key] in wanted)


def _evaluations(catalog: Catalog, models: Mapping[str, int]) -> tuple[Mapping[str, Any], ...]:
    """Return the studies of these generators, also those made after this view's moment."""
    newest = Catalog(catalog.place)
    rows = sql(newest, "FROM evaluations ORDER BY finished_at, evaluation_id").to_pylist()
    return tuple(row for row in rows if not models.keys().isdisjoint(row["model_ids"]))


def _digest_of_images(ids: list[tuple[str, str, str]]) -> str:
    sha = hashlib.sha256()
    for row in sorted(ids):
        sha.update(json.dumps(row).encode() + b"\n")
    return sha.hexdigest()


def _any(parts: list[Any]) -> bool:
    return any(len(part) for part in parts)


def _spread(parts: list[Any]) -> tuple[float, float, float]:
    values = np.concatenate(parts)
    return float(values.min()), float(np.median(values)), float(values.max())


NOT_REAL = (
    "Synthetic images, not real patients: every image was drawn by a generative model, none was"
    " photographed or scanned."
)
TEST_ON_REAL = "Test on real images only, of patients whose images no generator learnt from."
LIMITS = (
    "Not for diagnosis.",
    "A generator can repeat images that it learnt from. Synthetic does not mean anonymous: ask for"
    " the audit of copies before sharing.",
    "Classes are what the generator was asked for; no expert has confirmed them image by image.",
    "Rare findings that were not among the training images are not among these.",
)


def licences_of(facts: Facts) -> list[str]:
    """Return the licences of the generators, each once; 'unknown' where none is registered."""
    return sorted({str(row["licence"]) for row in facts.models if row["licence"]}) or ["unknown"]


def method_of(facts: Facts) -> str:
    """Return how the images came to be, in one sentence."""
    methods = ", ".join(facts.values("method"))
    return (
        f"Drawn by {len(facts.counts['model_id'])} generative models (methods: {methods}) with"
        f" {len(facts.recipes)} recipes, and chosen from a catalog by {facts.where!r}."
    )
