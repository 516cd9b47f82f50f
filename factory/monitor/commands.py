"""`factory runs`: where the runs of a catalog stand, once or live."""

import json
import time
from datetime import UTC, datetime

import click

from catalog.commands import catalog_option, parse_storage, storage_option

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
    from factory.monitor.runs import runs_table
    from factory.terminal import console

    options = parse_storage(storage)

    def states() -> list[RunState]:
        return run_states(Catalog(uri, options), limit)

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
