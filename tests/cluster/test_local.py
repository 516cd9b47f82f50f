"""A head on a machine that is too busy for it; `ray start` is played by a script."""

import os
import sys
from pathlib import Path

import pytest

from cluster.local import ray_head

RAY = """#!{python}
import pathlib, socket, sys, time
tried = pathlib.Path({tried!r})
number = len(tried.read_text()) if tried.exists() else 0
tried.write_text("x" * (number + 1))
if number < {failures}:
    sys.exit({error!r})
port = next(int(word.split("=")[1]) for word in sys.argv if word.startswith("--dashboard-port"))
with socket.create_server(("127.0.0.1", port)):
    print("Ray runtime started.", flush=True)
    time.sleep(60)
"""
BUSY = "Exception: The current node timed out during startup. This could happen because ..."


def playing(folder: Path, monkeypatch: pytest.MonkeyPatch, *, failures: int, error: str) -> Path:
    """Let `ray` fail so many times with these words; return the file that counts its starts."""
    script, tried = folder / "ray", folder / "tried"
    told = {"failures": failures, "error": error, "tried": str(tried)}
    script.write_text(RAY.format(python=sys.executable, **told))
    script.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(folder / "python"))
    return tried


def test_a_machine_that_was_too_busy_gets_another_head(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    tried = playing(tmp_path, monkeypatch, failures=2, error=BUSY)
    with ray_head() as head:
        assert tried.read_text() == "xxx"
        os.kill(head.pid, 0)
    with pytest.raises(ProcessLookupError):
        os.kill(head.pid, 0)
    assert capsys.readouterr().out.count("trying again") == 2


@pytest.mark.parametrize(("failures", "error", "starts"), [(9, BUSY, 3), (9, "no such option", 1)])
def test_what_does_not_start_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failures: int, error: str, starts: int
) -> None:
    tried = playing(tmp_path, monkeypatch, failures=failures, error=error)
    with pytest.raises(SystemExit, match=f"Ray did not start.\n{error[:20]}"), ray_head():
        pass
    assert len(tried.read_text()) == starts
