"""Where every run of a catalog stands, read from the catalog alone: whoever draws, and wherever."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import datetime
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from catalog.boundary import json_counts
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


RATE_COMMITS = 10
"""Newest commits of a run that its present rate is taken from."""
COMMITS = 500
"""Newest commits of the catalog that are looked through for them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RunState:
    """One run: what was asked for, what is published, how fast, and when it was last heard of."""

    run_id: str
    status: str
    requested: int
    accepted: int
    rejected: int
    rejected_by_gate: Mapping[str, int] = field(default_factory=dict)
    images_per_second: float | None = None
    eta_seconds: float | None = None
    """Until the last image at the present rate; None for a run that has ended."""
    started_at: datetime
    heard_at: datetime
    """Of the newest event or commit: a killed run stays 'started' and falls silent."""
    message: str | None = None

    @property
    def published(self) -> int:
        """Images of the run in the catalog."""
        return self.accepted + self.rejected

    def plain(self) -> dict[str, Any]:
        """Return the state as JSON takes it."""
        told = asdict(self) | {"published": self.published}
        return told | {k: told[k].isoformat() for k in ("started_at", "heard_at")}


def run_states(catalog: Catalog, limit: int | None = None) -> list[RunState]:
    """Return the runs of a view, newest first, at most `limit` of them.

    Running ones are counted from the table's files, ended ones from their last event.
    """
    rows = catalog.runs_latest().to_pylist()[::-1][:limit]
    commits = catalog.history(COMMITS) if any(row["status"] == "started" for row in rows) else []
    return [_state(catalog, row, commits) for row in rows]


def rate_of(commits: Sequence[tuple[datetime, int]]) -> float | None:
    """Return images per second between the first and last of (time, images), oldest first.

    The first one's images were drawn before it, and do not count: a run's start is (time, 0).
    """
    if len(commits) < 2:
        return None
    seconds = (commits[-1][0] - commits[0][0]).total_seconds()
    return sum(images for _, images in commits[1:]) / seconds if seconds > 0 else None


def _state(
    catalog: Catalog, row: Mapping[str, Any], commits: Sequence[Mapping[str, Any]]
) -> RunState:
    common = {
        "run_id": row["run_id"],
        "status": row["status"],
        "requested": row["num_requested"],
        "started_at": row["started_at"],
        "message": row["message"],
    }
    if row["status"] != "started":
        return RunState(
            **common,
            accepted=row["num_accepted"],
            rejected=row["num_rejected"],
            rejected_by_gate=json_counts(
                row["rejected_by_gate"], f"rejected_by_gate of run {row['run_id']!r}"
            ),
            images_per_second=row["images_per_second"],
            heard_at=row["updated_at"],
        )
    counts = run_counts(catalog, row["run_id"])
    since = row["updated_at"]
    published = sorted(
        (commit["time"], int(commit["num_rows"]))
        for commit in commits
        if commit.get("run_id") == row["run_id"] and commit["time"] >= since
    )
    mine = [(since, 0), *published][-RATE_COMMITS:]
    rate = rate_of(mine)
    left = row["num_requested"] - counts.accepted - counts.rejected
    return RunState(
        **common,
        accepted=counts.accepted,
        rejected=counts.rejected,
        rejected_by_gate=dict(counts.rejected_by_gate),
        images_per_second=rate,
        eta_seconds=left / rate if rate else None,
        heard_at=max([since, *(time for time, _ in mine)]),
    )
