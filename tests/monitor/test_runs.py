"""`factory runs` shows what the catalog tells."""

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path

from click.testing import CliRunner
from rich.console import Console  # noqa: TID251 -- draws into memory

from catalog.progress import RunState
from catalog.sink import record_run
from factory.cli import cli
from factory.monitor.commands import rejects_of, runs_table, status_of
from tests.fakes.rows import run_row

NOW = datetime(2026, 11, 22, 3, 0, tzinfo=UTC)


def state(**changes: object) -> RunState:
    facts: dict[str, object] = {
        "run_id": "run-1",
        "status": "started",
        "requested": 1000,
        "accepted": 480,
        "rejected": 20,
        "rejected_by_gate": {"blank": 5, "blur": 16},
        "images_per_second": 4.0,
        "eta_seconds": 125.0,
        "started_at": NOW - timedelta(hours=1),
        "heard_at": NOW - timedelta(seconds=20),
    }
    return RunState(**(facts | changes))  # type: ignore[arg-type]


def test_the_table_tells_rate_time_left_and_rejects() -> None:
    console = Console(width=160)
    with console.capture() as drawn:
        console.print(runs_table([state()], now=NOW))
    for told in ("run-1", "started", "500/1000", "20 (blur 16, blank 5)", "4.0", "2 min", "20 s"):
        assert told in drawn.get()


def test_a_killed_run_is_silent_after_a_while() -> None:
    long_ago = NOW - timedelta(minutes=6)
    assert status_of(state(heard_at=long_ago), now=NOW) == "silent"
    assert status_of(state(heard_at=long_ago, status="complete"), now=NOW) == "complete"
    assert rejects_of(state(rejected=0, rejected_by_gate={})) == "0"


def test_the_command_prints_json_and_a_table(tmp_path: Path) -> None:
    record_run(tmp_path, run_row(event=0))
    record_run(tmp_path, run_row(event=1))
    done = CliRunner().invoke(cli, ["runs", "--catalog", str(tmp_path), "--json"])
    (told,) = json.loads(done.output)
    assert (told["run_id"], told["status"], told["published"]) == ("run-1", "complete", 8)
    shown = CliRunner().invoke(cli, ["runs", "--catalog", str(tmp_path)])
    assert shown.exit_code == 0
    assert "8/8" in shown.output
