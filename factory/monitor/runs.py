"""The table that `factory runs` shows."""

from collections.abc import Sequence
from datetime import datetime

from rich.table import Table
from rich.text import Text

from catalog.progress import RunState
from factory.terminal import duration, one_line, rate

SILENT_SECONDS = 300
"""After which a run that never said it ended is shown as silent; a commit comes every 30 s."""


def runs_table(states: Sequence[RunState], *, now: datetime) -> Table:
    """Return one row per run."""
    table = Table("run", "status", "published", "accepted", "rejected", "images/s", "ETA", "heard")
    for state in states:
        table.add_row(
            Text(one_line(state.run_id)),
            Text(one_line(status_of(state, now=now))),
            f"{state.published}/{state.requested}",
            str(state.accepted),
            Text(one_line(rejects_of(state))),
            "-" if state.images_per_second is None else rate(state.images_per_second),
            "-" if state.eta_seconds is None else duration(state.eta_seconds),
            f"{duration((now - state.heard_at).total_seconds())} ago",
        )
    return table


def status_of(state: RunState, *, now: datetime) -> str:
    """Return a run's status; one that has not been heard of for long is 'silent'."""
    silent = (now - state.heard_at).total_seconds() > SILENT_SECONDS
    return "silent" if state.status == "started" and silent else state.status


def rejects_of(state: RunState) -> str:
    """Return '3 (blur 2, blank 1)'."""
    gates = sorted(state.rejected_by_gate.items(), key=lambda item: (-item[1], item[0]))
    named = ", ".join(f"{gate} {images}" for gate, images in gates)
    return f"{state.rejected} ({named})" if named else str(state.rejected)
