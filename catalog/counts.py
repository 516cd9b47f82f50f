"""What a run has published, counted: accepted images, and rejected ones by gate."""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from catalog.schema import ACCEPTED, REJECTED
from catalog.store import reading
from catalog.table import Catalog

FILES_AT_A_TIME = 256
"""A dataset keeps the footers of all its files, 0.1 MB each, until it is gone."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Counts:
    """Images of one run. An image that several gates rejected counts for each of them."""

    accepted: int
    rejected: int
    rejected_by_gate: Counter[str] = field(default_factory=Counter)


def run_counts(catalog: Catalog, run_id: str) -> Counts:
    """Count the published images of a run; memory does not grow with them.

    Files without a rejected image are counted by their statistics, and not opened.
    """
    files = catalog.files("samples")
    mine, mixed = files.may("run_id", "=", run_id), files.may("gate_status", "=", REJECTED)
    whole = files.listed.filter(pa.array(mine & ~mixed))
    accepted = (pc.sum(whole["num_records"]).as_py() or 0) if len(whole) else 0
    rejected = 0
    by_gate: Counter[str] = Counter()
    for rows in _pieces(catalog, np.flatnonzero(mine & mixed), ("gate_status", "gate_reasons")):
        passed = pc.equal(rows["gate_status"], ACCEPTED)
        accepted += pc.sum(passed).as_py() or 0
        reasons = rows["gate_reasons"].filter(pc.invert(passed)).to_pylist()
        rejected += len(reasons)
        for each in reasons:
            by_gate.update({reason.partition(":")[0] for reason in each})
    return Counts(accepted=accepted, rejected=rejected, rejected_by_gate=by_gate)


def recipe_counts(
    catalog: Catalog, run_id: str, *, before_batch: int
) -> dict[str, tuple[int, int]]:
    """Return recipe digest -> (published, accepted) images in the first batches of a run."""
    files = catalog.files("samples")
    mine = files.may("run_id", "=", run_id) & files.may("batch_index", "<", before_batch)
    published, accepted = Counter[str](), Counter[str]()
    columns = ("recipe_digest", "gate_status", "batch_index", "run_id")
    for rows in _pieces(catalog, np.flatnonzero(mine), columns):
        early = pc.less(rows["batch_index"], before_batch)
        kept = rows.filter(pc.and_(early, pc.equal(rows["run_id"], run_id)))
        published.update(kept["recipe_digest"].to_pylist())
        passed = kept.filter(pc.equal(kept["gate_status"], ACCEPTED))
        accepted.update(passed["recipe_digest"].to_pylist())
    return {digest: (published[digest], accepted[digest]) for digest in published}


def _pieces(
    catalog: Catalog, numbers: NDArray[np.int64], columns: Sequence[str]
) -> Iterator[pa.Table]:
    files = catalog.files("samples")
    for start in range(0, len(numbers), FILES_AT_A_TIME):
        kept = ~files.every()
        kept[numbers[start : start + FILES_AT_A_TIME]] = True
        with reading(catalog.uri, files):
            yield files.dataset(kept).to_table(columns=list(columns))
