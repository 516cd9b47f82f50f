"""`factory submit`: run a job of this project on a cluster, follow it, return its exit status."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from factory.command_line import STOPPING, Stopped, status_of

if TYPE_CHECKING:
    from factory.submit.job import Job

_FOLDER = click.Path(file_okay=False, path_type=Path)
_FILE = click.Path(dir_okay=False, path_type=Path)
DETACHED = status_of(None)
LEFT = (DETACHED, *(status_of(Stopped(signum)) for signum in STOPPING))
"""Exit statuses of one who left the job to itself: by Ctrl-C, or by a signal."""


@click.command(context_settings={"ignore_unknown_options": True})
@click.argument("command", nargs=-1, required=True, type=click.UNPROCESSED)
@click.option(
    "--address",
    envvar="RAY_API_SERVER_ADDRESS",
    default="http://127.0.0.1:8265",
    show_default=True,
    metavar="URL",
    help="The head's dashboard.",
)
@click.option("--working-dir", "folder", type=_FOLDER, default=Path(), help="The project. [.]")
@click.option("--env", multiple=True, metavar="NAME[=VALUE]", help="A variable of the job.")
@click.option("--pip", type=_FILE, metavar="FILE", help="Requirements that the nodes install.")
@click.option("--exclude", "excludes", multiple=True, metavar="PATTERN", help="What stays here.")
@click.option("--insecure", is_flag=True, help="Take a remote head that asks for no token.")
@click.option("--detach", is_flag=True, help="Do not wait for the job's end.")
def submit(
    command: tuple[str, ...],
    address: str,
    folder: Path,
    env: tuple[str, ...],
    pip: Path | None,
    excludes: tuple[str, ...],
    insecure: bool,
    detach: bool,
) -> None:
    """Run COMMAND, a job of this project, on the cluster behind a head's dashboard.

    The project's folder travels without data, catalogs and what looks like a secret. Ctrl-C asks
    whether to stop the job or to leave it to itself.

    \b
    factory submit -- jobs/generate_wbc.py --catalog s3://lab/wbc --num-images 100000
    factory submit --address https://ray.lab.example --detach -- jobs/finetune.py --data s3://...
    """  # noqa: D301 -- \b is click's mark
    import os

    from factory import __version__
    from factory.submit.head import find_head
    from factory.submit.job import entrypoint, result_of, submit_job
    from factory.submit.package import runtime_env
    from factory.submit.secret import Watch

    head = find_head(address, environ=os.environ, home=Path.home(), insecure=insecure)
    watch = Watch.over(os.environ, RAY_AUTH_TOKEN=head.token)
    watch.check_words(command, where="the job's option")
    words = entrypoint(command, folder)
    packed = runtime_env(
        folder, watch=watch, environ=os.environ, env=env, pip=pip, excludes=excludes
    )
    if head.readable_on_the_way:
        click.echo("the token travels unencrypted: prefer https or a tunnel", err=True)
    job = submit_job(head, words, packed, metadata={"factory": __version__})
    click.echo(f"job {job.job_id} on {head.address} (Ray {head.ray_version})", err=True)
    status = 0 if detach else _followed(job)
    _tell_rest(job, result_of(command), status, waiting=not detach and status not in LEFT)
    raise click.exceptions.Exit(status)


def _followed(job: "Job") -> int:
    """Follow to the end; Ctrl-C asks what to do, and leaves the job alone where nobody answers."""
    from factory.submit.job import follow, stop

    try:
        return follow(job, lambda text: click.echo(text, nl=False))
    except KeyboardInterrupt as stopped:
        click.echo("", err=True)
        if isinstance(stopped, Stopped):  # nobody is there to be asked
            return status_of(stopped)
    asked = sys.stdin.isatty()
    question = "stop the job, or detach and let it go on?"
    choice = click.Choice(["stop", "detach"])
    if asked and click.prompt(question, type=choice, default="detach", err=True) == "stop":
        stop(job)
        click.echo(f"job {job.job_id} was stopped; what it published stays", err=True)
    return DETACHED


def _tell_rest(job: "Job", result: str | None, status: int, *, waiting: bool) -> None:
    """Say where the result lies, and of a job that goes on how to follow and stop it."""
    if not waiting:
        for what, command in job.hints():
            click.echo(f"{what:8} {command}", err=True)
    elif status:
        click.echo(f"job {job.job_id} failed with exit status {status}", err=True)
    if result and not status:
        click.echo(f"result   {result}", err=True)
