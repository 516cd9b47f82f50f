"""`factory catalog optimize`, `remove`, `vacuum`: what keeps a catalog small and true."""

from datetime import UTC, datetime, timedelta

import click

from catalog.commands import catalog_option, parse_place, storage_option
from factory.command_line import tell_next
from factory.terminal import one_line, say


@click.command("optimize")
@catalog_option
@storage_option
def optimize_command(uri: str, storage: tuple[str, ...]) -> None:
    """Join small files of each run into files of up to 32 MiB: the same rows in the same order.

    Earlier versions and releases stay as they are, on the old files. May run beside running runs.
    """
    from catalog.upkeep import optimize

    done = optimize(parse_place(uri, storage))
    click.echo(f"version {done.version}: {done.files_after} files, {done.files_before} before")


@click.command("remove")
@click.argument("run_id")
@catalog_option
@storage_option
@click.option("--confirm", is_flag=True, help="Take them out; without it nothing changes.")
def remove_command(run_id: str, uri: str, storage: tuple[str, ...], confirm: bool) -> None:
    """Take the images of one run out of the newest version.

    Earlier versions, and releases, keep them. Drawn again, under the same configuration, the run
    has the same images; to overwrite it, draw another in its place.

    \b
    Example:
      factory catalog remove run-3f2a
      factory catalog remove run-3f2a --confirm
    """  # noqa: D301 -- \b is click's mark
    from catalog.upkeep import remove_run

    now = datetime.now(UTC)
    found = remove_run(parse_place(uri, storage), run_id, now=now, dry_run=not confirm)
    images = f"{found.accepted} accepted and {found.rejected} rejected images"
    verb = f"left with version {found.version}" if confirm else "would leave the newest version"
    say(one_line(f"{images} of {run_id} {verb}"))
    if found.releases:
        say(f"{'keep' if len(found.releases) > 1 else 'keeps'} them: {', '.join(found.releases)}")
    if confirm:
        tell_next("catalog", "history", "--catalog", uri)
    else:
        tell_next("catalog", "remove", run_id, "--catalog", uri, "--confirm")


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
    from catalog.upkeep import vacuum

    found = vacuum(
        parse_place(uri, storage),
        retain=timedelta(days=retain_days),
        dry_run=dry_run,
    )
    for path in found.paths:
        click.echo(one_line(path))
    verb = "would be deleted" if dry_run else "deleted"
    click.echo(f"{len(found.paths)} files {verb}, {found.num_bytes / 1e6:.1f} MB")
    if found.kept_releases:
        click.echo(f"kept whole: {', '.join(found.kept_releases)}")
    if found.given_up:
        click.echo(f"retracted, may not be readable any more: {', '.join(found.given_up)}")
