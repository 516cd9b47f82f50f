"""A Ray head on this machine for the length of one job: start, submit, follow, stop.

    python cluster/local.py python jobs/generate_wbc.py --num-images 320

Only what was started here is stopped. The dashboard listens on loopback only; Ray's own ports do
not, which is why the head asks everyone for a token that is made for it alone.
"""

import asyncio
import logging
import os
import secrets
import shlex
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # runs without installation

if TYPE_CHECKING:
    from ray.job_submission import JobSubmissionClient

HOST = "127.0.0.1"
START_SECONDS = 180
UP = "Ray runtime started"  # words of `ray start`
JOB_STOP_SECONDS = 20  # within which a job that is stopped records where it stands
STOP_SECONDS = 3  # after a stream, Ray waits half a minute for workers that have nothing left
EXCLUDES = ["tests", "runs", "*-catalog"]


def free_ports(count: int) -> list[int]:
    """Return `count` TCP ports that nothing listens on."""
    sockets = [socket.socket() for _ in range(count)]
    try:
        for one in sockets:
            one.bind((HOST, 0))
        return [one.getsockname()[1] for one in sockets]
    finally:
        for one in sockets:
            one.close()


@dataclass(frozen=True, slots=True, kw_only=True)
class Head:
    """A running head: where jobs are submitted, where drivers connect, its first process.

    `token` are the environment variables that whoever talks to it must have.
    """

    dashboard: str
    address: str
    pid: int
    token: Mapping[str, str] = field(repr=False)


@contextmanager
def ray_head(*options: str, port: int | None = None, **variables: str) -> Iterator[Head]:
    """Start a head in its own process group, yield it, stop it again.

    A head that ended by itself in between says why on stderr.

    Args:
        options: of `ray start`, more than a head's own.
        port: of its GCS; None: a free one.
        variables: of its environment, and so of its nodes and workers.
    """
    # A token of this head's own: other users of the machine cannot submit to it.
    token = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)}
    # A folder of its own: a trace in the usual one would make later `ray.init()` calls wait for us.
    with tempfile.TemporaryFile() as log, tempfile.TemporaryDirectory(prefix="ray") as folder:
        process, head = _start_patiently(folder, log, token, port, options, variables)
        try:
            yield head
        finally:
            if process.poll() is not None:
                print(f"error: the Ray head ended by itself.\n{_tail(log)}", file=sys.stderr)
            _stop(process)


def _start_patiently(
    folder: str,
    log: IO[bytes],
    token: Mapping[str, str],
    asked: int | None,
    options: Sequence[str],
    variables: Mapping[str, str],
) -> tuple[subprocess.Popen[bytes], Head]:
    """Return a head that is up; where the machine was too busy for one, the next that is."""
    from factory.sample.session import STARTS, TOO_BUSY

    for attempt in range(STARTS):
        free, dashboard, client, agent, runtime_env = free_ports(5)
        port = asked or free
        process = subprocess.Popen(
            [
                str(Path(sys.executable).parent / "ray"),
                "start",
                "--head",
                "--block",
                f"--node-ip-address={HOST}",
                f"--port={port}",
                f"--dashboard-host={HOST}",
                f"--dashboard-port={dashboard}",
                f"--temp-dir={folder}",
                f"--ray-client-server-port={client}",  # cannot be left out
                f"--dashboard-agent-listen-port={agent}",  # the usual one may serve another head
                # Else the client server asks the raylet for it, gives up after 30 s of a busy
                # machine, and the whole head ends with it.
                f"--runtime-env-agent-port={runtime_env}",
                *options,
            ],
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            env={**_environment(token), **variables},
        )
        try:
            if _comes_up(dashboard, process, log):
                place = Head(
                    dashboard=f"http://{HOST}:{dashboard}",
                    address=f"{HOST}:{port}",
                    pid=process.pid,
                    token=token,
                )
                return process, place
        except BaseException:  # Ctrl-C too: nothing that was started here stays
            _stop(process)
            raise
        _stop(process)
        if TOO_BUSY not in _told(log) or attempt + 1 == STARTS:
            sys.exit(f"error: Ray did not start.\n{_tail(log)}")
        print("this machine is too busy for Ray to start within its time; trying again ...")
        log.seek(0)  # where the next one writes
        log.truncate()
    raise AssertionError("a head that did not start ended above")


def _environment(token: Mapping[str, str]) -> dict[str, str]:
    """Return the environment of a head and its jobs."""
    from factory.sample.session import PATIENCE

    return {
        **PATIENCE,
        "RAY_JOB_STOP_WAIT_TIME_S": str(JOB_STOP_SECONDS),
        **os.environ,
        **token,
        "RAY_USAGE_STATS_ENABLED": "0",
        "PYTHONUNBUFFERED": "1",  # else what it says lies in a buffer
    }


def _tail(log: IO[bytes]) -> str:
    return _told(log)[-2000:]


def _told(log: IO[bytes]) -> str:
    # Not by seek and read: the head writes at the same place of the same file.
    return os.pread(log.fileno(), os.fstat(log.fileno()).st_size, 0).decode(errors="replace")


def _comes_up(dashboard: int, process: subprocess.Popen[bytes], log: IO[bytes]) -> bool:
    """Return whether the head says that it runs, and its dashboard answers, in time."""
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline and process.poll() is None:
        with socket.socket() as probe:
            if UP in _told(log) and probe.connect_ex((HOST, dashboard)) == 0:
                return True
        time.sleep(0.3)
    return False


def _stop(head: subprocess.Popen[bytes]) -> None:
    """End the head and every process it started: they share its process group."""
    head.terminate()  # with --block, Ray ends its own children on SIGTERM
    with suppress(subprocess.TimeoutExpired):
        head.wait(timeout=STOP_SECONDS)
    with suppress(ProcessLookupError):
        os.killpg(head.pid, signal.SIGKILL)
        head.wait()
        deadline = time.monotonic() + STOP_SECONDS
        while time.monotonic() < deadline:  # a large process takes a moment to be gone
            os.killpg(head.pid, 0)
            time.sleep(0.05)


def runtime_env(folder: Path) -> dict[str, Any]:
    """Return Ray's `runtime_env` of a job in `folder`; its .git stays here, its commit is told."""
    from factory.code_version import VARIABLE, holds_factory, version_of
    from factory.command_line import PROGRAM, program

    variables = {"PYTHONUNBUFFERED": "1", PROGRAM: program()}
    if holds_factory(folder):
        variables[VARIABLE] = version_of(folder, os.environ)
    return {"working_dir": str(folder), "excludes": EXCLUDES, "env_vars": variables}


def _submit(client: "JobSubmissionClient", entrypoint: str) -> str:
    """Submit as soon as the head's job agent is there: it comes up after the dashboard does.

    Under its own name, so that a connection which breaks (a busy dashboard closes some) never
    leads to two jobs.
    """
    deadline, name = time.monotonic() + START_SECONDS, f"local-{secrets.token_hex(8)}"
    while True:
        try:
            return client.submit_job(
                entrypoint=entrypoint, runtime_env=runtime_env(Path.cwd()), submission_id=name
            )
        except (RuntimeError, OSError) as error:
            if "already exists" in str(error):
                return name
            passing = ("No available agent", "ServerDisconnectedError")
            again = isinstance(error, OSError) or any(text in str(error) for text in passing)
            if not again or time.monotonic() > deadline:
                raise
            time.sleep(1)


def _run(address: str, command: list[str]) -> bool:
    """Run a job to its end, printing what it prints; return whether it succeeded.

    Raises:
        KeyboardInterrupt: as it is, once the job has been asked to stop and has said how to go on.
    """
    from ray.job_submission import JobStatus, JobSubmissionClient

    from factory.submit.job import of_the_job

    logging.disable(logging.WARNING)  # Ray lists every file it does not upload
    client, printed = JobSubmissionClient(address), 0
    command = [sys.executable, *command[1:]] if command[0] == "python" else command
    job = _submit(client, shlex.join(command))

    async def follow() -> None:
        nonlocal printed
        async for text in client.tail_job_logs(job):
            print(of_the_job(text), end="", flush=True)
            printed += len(text)
        while not client.get_job_status(job).is_terminal():
            await asyncio.sleep(0.2)

    try:
        asyncio.run(follow())
    except KeyboardInterrupt:
        client.stop_job(job)
        deadline = time.monotonic() + JOB_STOP_SECONDS
        while not client.get_job_status(job).is_terminal() and time.monotonic() < deadline:
            time.sleep(0.2)
        print(of_the_job(client.get_job_logs(job)[printed:]), end="", flush=True)
        raise
    return client.get_job_status(job) == JobStatus.SUCCEEDED


def main() -> None:
    """Run the command of the command line as a job on a fresh local head.

    The exit status is 0 or 1, as the job ended; 130 after Ctrl-C and 143 after SIGTERM, which the
    job and the head are told of.
    """
    from factory.command_line import status_of, stoppable

    if len(sys.argv) < 2:
        sys.exit(__doc__)
    print("starting a local Ray head ...", flush=True)
    try:
        with stoppable(), ray_head() as head:
            os.environ.update(head.token)
            done = _run(head.dashboard, sys.argv[1:])
    except KeyboardInterrupt as stopped:
        sys.exit(status_of(stopped))
    sys.exit(0 if done else 1)


if __name__ == "__main__":
    main()
