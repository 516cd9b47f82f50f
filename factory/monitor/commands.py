"""`factory runs`: where the runs of a catalog stand, once or live."""

import json
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import click

from catalog.commands import catalog_option, parse_place, storage_option
from factory.terminal import duration, one_line, rate

if TYPE_CHECKING:  # a mistake in the place need not wait for them
    from rich.table import Table

    from catalog.progress import RunState


WATCH_SECONDS = 5.0


@click.command()
@catalog_option
@storage_option
@click.option("--limit", type=click.IntRange(min=1), default=20, show_default=True)
@click.option("--watch", is_flag=True, help="Look again every 5 seconds until Ctrl-C.")
@click.option("--json", "as_json", is_flag=True, help="Print a JSON array; a line each --watch.")
def runs(uri: str, storage: tuple[str, ...], limit: int, watch: bool, as_json: bool) -> None:
    """Show the newest runs: published images, rate, time left, rejects by gate.

    It reads the catalog alone, so it works beside any cluster. A run that was killed stays
    'started'; after 5 minutes without a commit it is shown as 'silent'.

    \b
    factory runs --watch
    factory runs --json
    """  # noqa: D301 -- \b is click's mark
    from rich.console import RenderableType
    from rich.live import Live

    from catalog.progress import RunState, run_states
    from catalog.table import Catalog
    from factory.terminal import console

    place = parse_place(uri, storage)

    def states() -> list[RunState]:
        return run_states(Catalog(place), limit)

    def table() -> RenderableType:
        return runs_table(states(), now=datetime.now(UTC))

    page = console(width=160)
    if watch and not as_json:
        with Live(table(), console=page, auto_refresh=False) as live:
            while True:
                time.sleep(WATCH_SECONDS)
                live.update(table(), refresh=True)
    while True:
        if as_json:
            click.echo(json.dumps([state.plain() for state in states()]))
        else:
            page.print(table())
        if not watch:
            return
        time.sleep(WATCH_SECONDS)


SILENT_SECONDS = 300
"""After which a run that never said it ended is shown as silent; a commit comes every 30 s."""


def runs_table(states: Sequence["RunState"], *, now: datetime) -> "Table":
    """Return one row per run."""
    from rich.table import Table
    from rich.text import Text

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


def status_of(state: "RunState", *, now: datetime) -> str:
    """Return a run's status; one that has not been heard of for long is 'silent'."""
    silent = (now - state.heard_at).total_seconds() > SILENT_SECONDS
    return "silent" if state.status == "started" and silent else state.status


def rejects_of(state: "RunState") -> str:
    """Return '3 (blur 2, blank 1)'."""
    gates = sorted(state.rejected_by_gate.items(), key=lambda item: (-item[1], item[0]))
    named = ", ".join(f"{gate} {images}" for gate, images in gates)
    return f"{state.rejected} ({named})" if named else str(state.rejected)
