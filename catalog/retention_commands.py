"""`factory catalog optimize` and `vacuum`: fewer files, and less on disk."""

from datetime import timedelta

import click

from catalog.commands import catalog_option, parse_storage, storage_option
from factory.terminal import one_line


@click.command("optimize")
@catalog_option
@storage_option
def optimize_command(uri: str, storage: tuple[str, ...]) -> None:
    """Join small files of each run into files of up to 32 MiB: the same rows in the same order.

    Earlier versions and releases stay as they are, on the old files. May run beside running runs.
    """
    from catalog.compact import optimize

    done = optimize(uri, storage_options=parse_storage(storage))
    click.echo(f"version {done.version}: {done.files_after} files, {done.files_before} before")


@click.command("vacuum")
@catalog_option
@storage_option
@click.option(
    "--retain-days",
    type=click.IntRange(min=0),
    default=7,
    show_default=True,
    help="Keep what was replaced, or written and not published, since so many days.",
)
@click.option(
    "--dry-run/--delete", default=True, show_default=True, help="Only list the files, or delete."
)
def vacuum_command(uri: str, storage: tuple[str, ...], retain_days: int, dry_run: bool) -> None:
    """Delete files that neither the newest version nor a release needs.

    Versions in between can then not be read any more, retracted releases neither. Files of other
    releases never go.

    \b
    Example:
      factory catalog vacuum --retain-days 30
      factory catalog vacuum --retain-days 30 --delete
    """  # noqa: D301 -- \b is click's mark
    from catalog.retention import vacuum

    found = vacuum(
        uri,
        retain=timedelta(days=retain_days),
        dry_run=dry_run,
        storage_options=parse_storage(storage),
    )
    for path in found.paths:
        click.echo(one_line(path))
    verb = "would be deleted" if dry_run else "deleted"
    click.echo(f"{len(found.paths)} files {verb}, {found.num_bytes / 1e6:.1f} MB")
    if found.kept_releases:
        click.echo(f"kept whole: {', '.join(found.kept_releases)}")
    if found.given_up:
        click.echo(f"retracted, may not be readable any more: {', '.join(found.given_up)}")
