"""One job on a head: submitted, followed to its end, or left to itself."""

import asyncio
import logging
import os
import re
import shlex
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from factory.errors import ClusterError
from factory.submit.head import Head

if TYPE_CHECKING:
    from ray.job_submission import JobSubmissionClient

AGENT_SECONDS = 60.0
"""How long a fresh head may take until it accepts jobs: its agent comes up after its dashboard."""
POLL_SECONDS = 0.2
_RAYS_OWN = re.compile(
    r"(?m)^(?:[\d-]+ [\d:,]+\s+INFO job_manager\.py.*|Running entrypoint for job .*)\n"
)
RESULTS = ("--catalog", "--output", "--out")
"""Options of the jobs that say where the result lies."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """A job that a head has taken."""

    head: Head
    job_id: str

    def hints(self) -> Iterator[tuple[str, str]]:
        """Yield what a person may want to do, and the command for it."""
        at = f"{self.job_id} --address {self.head.address}"
        yield "follow", f"ray job logs --follow {at}"
        yield "stop", f"ray job stop {at}"


def entrypoint(words: Sequence[str], folder: Path) -> list[str]:
    """Return the command as the head runs it; a script of the project gets its Python.

    Raises:
        ClusterError: no command, or a script that the project does not have.
    """
    if not words:
        raise ClusterError(
            "no job was given", remedy="Write it after --: factory submit -- python my_job.py ..."
        )
    if not words[0].endswith(".py"):
        return list(words)
    if Path(words[0]).is_absolute() or not (folder / words[0]).is_file():
        raise ClusterError(
            f"there is no script {words[0]!r} in {str(folder)!r}",
            remedy="Give its path from the project's folder (--working-dir)",
        )
    return ["python", *words]


def result_of(words: Sequence[str]) -> str | None:
    """Return where a command writes its result, as its options say."""
    for number, word in enumerate(words):
        name, equals, value = word.partition("=")
        if name in RESULTS and (equals or number + 1 < len(words)):
            return value if equals else words[number + 1]
    return None


def submit_job(
    head: Head,
    words: Sequence[str],
    runtime_env: Mapping[str, Any],
    *,
    metadata: Mapping[str, str] | None = None,
) -> Job:
    """Upload the project and submit a command.

    Raises:
        ClusterError: the head does not take it, or the project is too large.
    """
    deadline = time.monotonic() + AGENT_SECONDS
    with _client(head) as client:
        while True:
            try:
                job_id = client.submit_job(
                    entrypoint=shlex.join(words),
                    runtime_env=dict(runtime_env),
                    metadata=dict(metadata or {}),
                )
                return Job(head=head, job_id=job_id)
            except (RuntimeError, ValueError) as error:
                if "No available agent" not in str(error) or time.monotonic() > deadline:
                    raise ClusterError(
                        f"the head at {head.address} did not take the job ({_first_line(error)})",
                        remedy="Leave out large files with --exclude PATTERN; see the dashboard",
                    ) from error
                time.sleep(1)


def follow(job: Job, tell: Callable[[str], None]) -> int:
    """Tell a job's output as it comes; return its exit status once it has ended.

    Raises:
        KeyboardInterrupt: as it is; the job goes on.
        ClusterError: the head is gone.
    """
    with _client(job.head) as client:
        try:
            return asyncio.run(_follow(client, job.job_id, tell))
        except (RuntimeError, OSError) as error:
            raise ClusterError(
                f"job {job.job_id} was lost from sight ({_first_line(error)}); it may go on",
                remedy=f"Look again with `{dict(job.hints())['follow']}`",
            ) from error


def stop(job: Job) -> None:
    """Stop a job. What its run has published stays, and `--resume` goes on from there."""
    with _client(job.head) as client:
        client.stop_job(job.job_id)


def of_the_job(text: str) -> str:
    """Return a piece of a job's log without the lines that Ray writes ahead of the job's own."""
    return _RAYS_OWN.sub("", text)


async def _follow(client: "JobSubmissionClient", job_id: str, tell: Callable[[str], None]) -> int:
    async for text in client.tail_job_logs(job_id):
        tell(of_the_job(text))
    while not client.get_job_status(job_id).is_terminal():
        await asyncio.sleep(POLL_SECONDS)
    info = client.get_job_info(job_id)
    if info.status == "SUCCEEDED":
        return 0
    if info.driver_exit_code is None and info.message:  # it never started: the log is empty
        tell(f"{info.message}\n")
    return info.driver_exit_code or 1


@contextmanager
def _client(head: Head) -> Iterator["JobSubmissionClient"]:
    """Yield a client of exactly this head: Ray prefers these variables to the address it is given.

    Ray's list of every file that stays behind is silenced.
    """
    from ray.job_submission import JobSubmissionClient

    names = ("RAY_API_SERVER_ADDRESS", "RAY_ADDRESS")
    before = {name: os.environ.pop(name) for name in names if name in os.environ}
    silenced = logging.root.manager.disable
    logging.disable(logging.WARNING)  # its loggers set levels of their own
    try:
        yield JobSubmissionClient(head.address, headers=head.headers)
    finally:
        logging.disable(silenced)
        os.environ.update(before)


def _first_line(error: Exception) -> str:
    return (str(error) or repr(error)).splitlines()[0][:300]
