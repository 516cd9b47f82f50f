"""Where every run of a catalog stands, read from the catalog alone: whoever draws, and wherever."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import datetime
from typing import Any

from catalog.boundary import json_counts
from catalog.counts import run_counts
from catalog.table import Catalog

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
