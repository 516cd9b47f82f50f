"""`factory catalog optimize`, `remove`, `vacuum`, `embed`: upkeep, and features beside the rows."""

from datetime import UTC, datetime, timedelta
from pathlib import Path

import click

from catalog.commands import catalog_option, parse_place, storage_option
from factory.command_line import goes_on, tell_next
from factory.terminal import one_line, rate, say

NAMED = 5
"""Broken images that are named."""


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
    say(f"{images} of {run_id} {verb}")
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


@click.command("embed")
@catalog_option
@storage_option
@click.option(
    "--features",
    "weights",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Weights of a network (safetensors), see `factory judge`. [ring spectra, no weights]",
)
def embed_command(uri: str, storage: tuple[str, ...], weights: Path | None) -> None:
    """Compute features of published and rejected images, and keep them beside the catalog.

    Only images that have none are computed. With them the gallery has a map (/map) and the nearest
    neighbours of an image, `--diverse` chooses images that cover the others, and SQL has the table
    `features` with x and y, the place on the map.

    \b
    Examples:
      factory catalog embed --catalog wbc-catalog
      factory catalog sql "SELECT image_id, list_distance(features, (SELECT features FROM features
                           WHERE image_id = 'ID')) AS d FROM features ORDER BY d LIMIT 10"
    """  # noqa: D301 -- \b is click's mark
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TimeRemainingColumn

    from catalog.embed import embed, space_of
    from catalog.table import Catalog
    from factory.code_version import code_version
    from factory.errors import ModelError
    from factory.terminal import console

    place = parse_place(uri, storage)
    Catalog(place)  # a wrong place, or file, is told before a network is loaded
    if weights is not None and not weights.is_file():
        raise ModelError(f"no weights at {str(weights)!r}", remedy="Correct --features")
    space = space_of(weights)
    begun, page = datetime.now(UTC), console()
    bar = Progress(
        "features", BarColumn(), MofNCompleteColumn(), "{task.fields[speed]} images/s",
        TimeRemainingColumn(), console=page, transient=True, disable=not page.is_terminal,
    )  # fmt: skip
    with goes_on("whole pieces of features stay"), bar:
        task = bar.add_task("", speed="", total=None)

        def tell(done: int, whole: int) -> None:
            speed = rate(done / max(1e-3, (datetime.now(UTC) - begun).total_seconds()))
            bar.update(task, completed=done, total=whole, speed=speed)

        found = embed(place, space, now=begun, code_version=code_version(), tell=tell)
    for image_id in found.broken[:NAMED]:
        say(f"left out, no readable PNG: {image_id}", err=True)
    if len(found.broken) > NAMED:
        click.echo(f"and {len(found.broken) - NAMED} others", err=True)
    fitted = "; the map was fitted anew" if found.fitted else ""
    click.echo(
        one_line(f"{uri}: {found.added} images in {space.name}, {found.held} had theirs{fitted}")
    )
    tell_next("gallery", "--catalog", uri, *(["--features", weights] if weights else []))
