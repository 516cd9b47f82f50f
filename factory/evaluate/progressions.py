"""Progressions as a catalog holds them: the images of every source and direction, in order of k."""

import json
from collections import defaultdict
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from catalog.query import quoted, sql
from catalog.schema import ACCEPTED
from catalog.sheet import decoded
from catalog.table import Catalog
from factory.errors import CatalogError
from factory.measure.features import Images

_COLUMNS = (
    "recipe_digest, recipe_index, reference_ids[1] AS source_id, class_name, class_names,"
    " soft_label, bridge_depth, guidance_terms, gate_status, image"
)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Progression:
    """The m images of one source in one direction; rejected ones are among them."""

    source_id: str
    source: str
    target: str
    class_names: tuple[str, ...]
    images: Images
    """(m, S, S, 3) uint8, k = 1 .. m."""
    soft_labels: NDArray[np.float64]
    """(m, classes), in the order of `class_names`."""
    depths: NDArray[np.float64]
    """(m,) share of the levels, 0 .. 1."""
    ssim: NDArray[np.float64]
    """(m,) to the source."""
    evaluations: int
    """Of networks, for all m."""
    inversion_psnr_db: float | None
    accepted: NDArray[np.bool_]
    """(m,)"""

    @property
    def label(self) -> NDArray[np.float64]:
        """(m,) weight of the target."""
        return self.soft_labels[:, self.class_names.index(self.target)]


def read_progressions(catalog: Catalog, run_id: str) -> list[Progression]:
    """Return all progressions of a bridge run, in order of direction and source.

    Raises:
        CatalogError: the run published no bridged images.
    """
    rows = sql(
        catalog,
        f"SELECT {_COLUMNS} FROM samples WHERE run_id = {quoted(run_id)}"
        " AND bridge_depth IS NOT NULL ORDER BY recipe_digest, recipe_index",
    ).to_pylist()
    if not rows:
        raise CatalogError(
            f"run {run_id!r} of {catalog.named} has no bridged images",
            remedy="Name a run of method bridge; `factory catalog sql` lists run_id and method",
        )
    groups: defaultdict[str, list[dict[str, Any]]] = defaultdict(list)
    for row in rows:
        groups[str(row["recipe_digest"])].append(row)
    found = [_progression(group) for group in groups.values()]
    return sorted(found, key=lambda each: (each.source, each.target, each.source_id))


def _progression(rows: list[dict[str, Any]]) -> Progression:
    facts = [json.loads(str(row["guidance_terms"])) for row in rows]
    first, told = rows[0], facts[0]
    return Progression(
        source_id=str(first["source_id"]),
        source=str(told["source"]),
        target=str(first["class_name"]),
        class_names=tuple(first["class_names"]),
        images=np.stack([np.asarray(decoded(row["image"], row["class_name"])) for row in rows]),
        soft_labels=np.array([row["soft_label"] for row in rows], np.float64),
        depths=np.array([row["bridge_depth"] for row in rows], np.float64),
        ssim=np.array([fact["ssim_to_source"] for fact in facts], np.float64),
        evaluations=int(told["evaluations"]),
        inversion_psnr_db=told.get("inversion_psnr_db"),
        accepted=np.array([row["gate_status"] == ACCEPTED for row in rows]),
    )
