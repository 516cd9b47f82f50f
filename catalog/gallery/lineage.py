"""Where an image came from and where it went: split - model - run - image - releases, studies."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from catalog.gallery.index import Index
from catalog.gallery.released import holding
from catalog.table import Catalog


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
