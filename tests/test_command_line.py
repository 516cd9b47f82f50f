"""Commands are printed as they can be typed here; signals end a command with a known status."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from catalog.progress import run_states
from catalog.table import Catalog
from factory.command_line import (
    PROGRAM,
    Stopped,
    as_typed,
    goes_on,
    program,
    status_of,
    stoppable,
    typed,
)
from factory.models.generator import Generator


@pytest.fixture
def environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The scripts of a virtual environment, which is not activated, in the folder one works in."""
    scripts = tmp_path / ".venv" / "bin"
    scripts.mkdir(parents=True)
    for name in ("python", "factory"):
        (scripts / name).write_text("#!/bin/sh\n")
        (scripts / name).chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(scripts / "python"))
    monkeypatch.setenv("PATH", "/usr/bin:/bin")
    monkeypatch.delenv(PROGRAM, raising=False)
    monkeypatch.chdir(tmp_path)
    return scripts


def test_without_activation_a_command_is_printed_with_its_path(
    environment: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert typed("catalog", "sql", "SELECT 1") == ".venv/bin/factory catalog sql 'SELECT 1'"
    (tmp_path / "a folder").mkdir()
    monkeypatch.chdir(tmp_path / "a folder")
    assert program() == str(environment / "factory")
    (environment / "factory").unlink()
    assert program() == f"{environment / 'python'} -m factory.cli"


def test_what_the_shell_finds_is_used_if_it_is_this_very_factory(
    environment: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = tmp_path / "other"
    other.mkdir()
    (other / "factory").write_text("#!/bin/sh\n")
    (other / "factory").chmod(0o755)
    monkeypatch.setenv("PATH", str(other))
    assert program() == ".venv/bin/factory"
    (other / "factory").unlink()
    (other / "factory").symlink_to(environment / "factory")
    assert program() == "factory"


def test_a_job_prints_what_is_typed_where_it_was_submitted(
    environment: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(PROGRAM, "lab/bin/factory")
    assert typed("runs") == "lab/bin/factory runs"
    assert environment.is_dir()


def test_commands_within_a_remedy_are_typed_too(environment: Path) -> None:
    told = as_typed("Ask the factory: `factory real split`; src/factory real", ["real", "runs"])
    assert told == "Ask the factory: `.venv/bin/factory real split`; src/factory real"
    assert environment.is_dir()


def test_an_error_names_commands_as_they_run_here(tmp_path: Path) -> None:
    code = "from factory.cli import main; main()"
    words = ["evaluate", "--data", "x", "--split", "nowhere.json", "--output", str(tmp_path)]
    done = subprocess.run(
        [sys.executable, "-c", code, *words],
        capture_output=True,
        text=True,
        env={**os.environ, PROGRAM: "somewhere/factory"},
    )
    assert done.returncode == 1
    assert "Write one with `somewhere/factory real split URI" in done.stderr


def test_sigterm_ends_as_ctrl_c_does_with_a_status_of_its_own() -> None:
    def ended() -> None:
        with stoppable():
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(1)

    with pytest.raises(KeyboardInterrupt) as stopped:
        ended()
    assert isinstance(stopped.value, Stopped)
    assert status_of(stopped.value) == 143
    assert status_of(KeyboardInterrupt()) == 143  # what Ray makes of it
    with stoppable():
        assert status_of(KeyboardInterrupt()) == 130
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL


def test_ray_knows_of_signals_before_it_is_imported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RAY_DISABLE_FAILURE_SIGNAL_HANDLER", raising=False)
    with stoppable():
        assert os.environ["RAY_DISABLE_FAILURE_SIGNAL_HANDLER"] == "1"


def test_what_goes_on_says_what_stays_and_how(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv(PROGRAM, "bin/factory")
    monkeypatch.setattr(sys, "argv", ["factory", "sweep", "--output", "my runs"])
    with pytest.raises(KeyboardInterrupt), goes_on("finished trials stay"):
        raise KeyboardInterrupt
    told = "stopped; finished trials stay. Go on with: bin/factory sweep --output 'my runs'\n"
    assert capsys.readouterr().out == told


def test_an_ignored_signal_stays_ignored() -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with stoppable():
            os.kill(os.getpid(), signal.SIGHUP)
    finally:
        signal.signal(signal.SIGHUP, before)


@pytest.mark.ray
@pytest.mark.fault
@pytest.mark.parametrize(
    ("signum", "status"),
    [(signal.SIGTERM, 143), pytest.param(signal.SIGINT, 130, marks=pytest.mark.slow)],
)
def test_a_stopped_run_is_recorded_and_says_how_to_go_on(
    tiny: Generator, tmp_path: Path, signum: signal.Signals, status: int
) -> None:
    """On a Ray of its own: no trace of C++, no line of a library."""
    uri = tmp_path / "catalog"
    words = ["generate", "--catalog", str(uri), "--num-images", "4000"]
    keys = f"model={tiny.folder} batch_size=2 seed=1 num_inference_steps=2 stream.actors=1"
    for pair in (*keys.split(), "stream.commit_batches=1", "classes={monocyte: a}"):
        words += ["--set", pair]
    child = subprocess.Popen(
        [sys.executable, "-c", "from factory.cli import main; main()", *words],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, PROGRAM: "bin/factory"},
    )
    try:
        while child.poll() is None and not published(uri):
            time.sleep(0.5)
        child.send_signal(signum)
        out, err = child.communicate(timeout=900)
    finally:
        child.kill()
    assert child.returncode == status, err
    (state,) = run_states(Catalog(uri))
    assert state.status == "failed"
    assert 0 < state.published < 4000
    assert f"bin/factory generate --resume {state.run_id} --catalog {uri}" in out + err
    allowed = ("starting Ray", "stopped by", "")
    assert [line for line in err.splitlines() if not line.startswith(allowed[:2]) and line] == []


def published(uri: Path) -> bool:
    return (uri / "samples" / "_delta_log" / f"{1:020}.json").is_file()
