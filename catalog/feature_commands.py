"""`factory catalog embed`: features of a catalog's images, for its map and its neighbours."""

from pathlib import Path

import click

from catalog.commands import catalog_option, parse_place, storage_option
from factory.command_line import goes_on, tell_next
from factory.terminal import one_line, rate, say

NAMED = 5
"""Broken images that are named."""


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
    from datetime import UTC, datetime

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
