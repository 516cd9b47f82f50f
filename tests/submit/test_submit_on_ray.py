"""`factory submit` against a real head with token authentication."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from cluster.local import Head, ray_head

pytestmark = pytest.mark.ray

CANARY = "canary-7e20b6f19d"
SCRIPT = f"""\
import os, pathlib, sys
print("files", sorted(str(p) for p in pathlib.Path().rglob("*") if p.is_file()))
print("found", sum("{CANARY[:6]}" "{CANARY[6:]}" in v for v in os.environ.values()))
print("colour", os.environ.get("COLOUR"), "arguments", sys.argv[1:])
sys.exit(int(sys.argv[2]) if len(sys.argv) > 2 else 0)
"""
WAITING = "import time\nprint('waiting', flush=True)\ntime.sleep(300)\n"


@pytest.fixture(scope="module")
def head() -> Iterator[Head]:
    """A head whose jobs start this very Python as `python`."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PATH", f"{Path(sys.executable).parent}:{os.environ['PATH']}")
        with ray_head() as ray:
            yield ray


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A project with a secret in every place that must stay at home."""
    (tmp_path / "jobs").mkdir()
    (tmp_path / "jobs" / "look.py").write_text(SCRIPT)
    (tmp_path / "jobs" / "wait.py").write_text(WAITING)
    for name in (".env", "lab.pem", "data/scan.csv", ".git/config", "cells/samples/a.parquet"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(CANARY)
    (tmp_path / "cells" / "samples" / "_delta_log").mkdir()
    return tmp_path


def group(table: Path) -> int | None:
    """Return the process group of a process; None: it has just ended."""
    with suppress(OSError):
        return os.getpgid(int(table.parent.name))
    return None


def start(head: Head, project: Path, *words: str) -> subprocess.Popen[str]:
    code = "from factory.cli import main; main()"
    return subprocess.Popen(
        [sys.executable, "-c", code, "submit", "--address", head.dashboard, *words],
        cwd=project,
        env={
            **os.environ,
            **head.token,
            "LAB_TOKEN": CANARY,
            "RAY_ADDRESS": "127.0.0.1:1",  # Ray would prefer it to --address
            "PYTHONPATH": str(Path(__file__).parents[2]),
        },
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        # a test run in the background ignores Ctrl-C, and what it starts would too
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )


def finish(process: subprocess.Popen[str]) -> tuple[int, str, str]:
    out, err = process.communicate(timeout=900)
    return process.returncode, out, err


def test_no_part_of_the_head_ends_it_by_waiting_for_another(head: Head) -> None:
    """Ray's client server asks the raylet for a port that it was not told, and gives up early."""
    tables = Path("/proc").glob("[0-9]*/cmdline")
    lines = [path.read_bytes().decode().split("\0") for path in tables if group(path) == head.pid]
    (client,) = (line for line in lines if "ray.util.client.server" in line)
    (agent,) = (word for word in client if word.startswith("--runtime-env-agent-address="))
    assert urlsplit(agent.partition("=")[2]).port


def test_a_job_is_followed_to_its_status_and_no_secret_goes_with_it(
    head: Head, project: Path
) -> None:
    job = ("--env", "COLOUR=blue", "--", "jobs/look.py", "--catalog", "7")
    status, out, err = finish(start(head, project, *job))
    assert status == 7, out + err
    assert "files ['jobs/look.py', 'jobs/wait.py']" in out
    assert "found 0" in out
    assert "colour blue arguments ['--catalog', '7']" in out
    assert "failed with exit status 7" in err
    assert "result" not in err
    for secret in (CANARY, head.token["RAY_AUTH_TOKEN"]):
        assert secret not in out + err + everything_kept(head)


def test_a_success_says_where_the_result_lies(head: Head, project: Path) -> None:
    status, out, err = finish(start(head, project, "--", "jobs/look.py", "--output=runs/a"))
    assert status == 0, out + err
    assert "result   runs/a" in err


def test_an_interrupted_submit_leaves_the_job_running(head: Head, project: Path) -> None:
    from ray.job_submission import JobSubmissionClient

    process = start(head, project, "--", "jobs/wait.py")
    assert process.stdout is not None
    assert any("waiting" in line for line in process.stdout), finish(process)
    process.send_signal(signal.SIGINT)
    status, _, err = finish(process)
    assert status == 130, err
    hint = next(line for line in err.splitlines() if line.startswith("stop "))
    job_id = hint.split()[4]
    bearer = {"Authorization": f"Bearer {head.token['RAY_AUTH_TOKEN']}"}
    client = JobSubmissionClient(head.dashboard, headers=bearer)
    assert client.get_job_status(job_id) == "RUNNING"
    client.stop_job(job_id)


def test_a_wrong_token_is_one_line(head: Head, project: Path) -> None:
    wrong = Head(dashboard=head.dashboard, address="", pid=0, token={"RAY_AUTH_TOKEN": "no"})
    status, _, err = finish(start(wrong, project, "--", "jobs/look.py"))
    assert status == 1
    assert "refuses the token" in err
    assert len(err.splitlines()) == 1


def everything_kept(head: Head) -> str:
    """What the head keeps of its jobs: all that the Jobs API and its log files tell."""
    import psutil
    import requests

    bearer = {"Authorization": f"Bearer {head.token['RAY_AUTH_TOKEN']}"}
    told = requests.get(f"{head.dashboard}/api/jobs/", headers=bearer, timeout=900).text
    assert "jobs/look.py" in told
    words = psutil.Process(head.pid).cmdline()
    folder = next(word.partition("=")[2] for word in words if word.startswith("--temp-dir="))
    logs = [p for p in Path(folder).rglob("*") if p.is_file() and p.suffix in (".log", ".out")]
    assert logs
    return told + "".join(p.read_text(errors="replace") for p in logs)
