"""`factory gallery` and `factory review`: look at a catalog in a browser, and say what one sees."""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from catalog.commands import catalog_option, parse_place, storage_option
from factory.command_line import tell_next
from factory.terminal import say

if TYPE_CHECKING:
    from catalog.gallery.review_pages import Reviewing

Command = Callable[..., Any]
_TOLD = "SELECT review, count(*) FROM samples GROUP BY ALL"
_FILE = click.Path(dir_okay=False, path_type=Path)


def _server_options(command: Command) -> Command:
    """Add --catalog, --storage-option, --host, --port, --token-file and --data."""
    for option in (
        click.option("--data", metavar="URI", help="Show real images of this data set too. [none]"),
        click.option(
            "--token-file",
            type=_FILE,
            help="Ask visitors for the token in this file (or in FACTORY_GALLERY_TOKEN).",
        ),
        click.option("--port", type=click.IntRange(1, 65535), default=8080, show_default=True),
        click.option(
            "--host", default="127.0.0.1", show_default=True, help="Address to listen at."
        ),
        storage_option,
        catalog_option,
    ):
        command = option(command)
    return command


@click.command()
@_server_options
@click.option(
    "--features",
    "weights",
    type=_FILE,
    help="Map by this network, see `factory catalog embed`. [what most images have]",
)
def gallery(
    uri: str, storage: tuple[str, ...], host: str, port: int, token_file: Path | None,
    data: str | None, weights: Path | None,
) -> None:  # fmt: skip
    """Look at a catalog in a browser: images, their map, gates, runs, models, studies, releases.

    It only reads. Other machines reach it when --host says so, and then a token is asked. Real
    images are patients' images: they are shown only with --data.

    \b
    Example:
      factory gallery --catalog wbc-catalog --port 8080
    """  # noqa: D301 -- \b is click's mark
    from catalog.gallery.serve import token_for

    token = token_for(host, token_file)
    _serve(uri, storage, host, port, token, data=data, weights=weights)


@click.command()
@_server_options
@click.option("--reviewer", metavar="NAME", help="Whose verdicts they are. [each says a name]")
@click.option(
    "--blind", is_flag=True, help="Show no score, gate or page that could lead a verdict."
)
def review(
    uri: str, storage: tuple[str, ...], host: str, port: int, token_file: Path | None,
    data: str | None, reviewer: str | None, blind: bool,
) -> None:  # fmt: skip
    """Look at drawn images one at a time in a browser, and accept or reject each.

    Verdicts are added to the table `reviews` with name, time and reason, and never overwritten: a
    later one of the same name stands in its place. They are read as the column `review` of
    samples, in SQL and in every --where. A token is always asked; a name is what was typed.

    \b
    Examples:
      factory review --catalog wbc-catalog --token-file token --reviewer "Dr. Ada Okafor"
      factory export imagefolder --where "review = 'accepted'" --out seen
      factory catalog sql "SELECT image_id, reviewer, verdict, reason FROM reviews"
    """  # noqa: D301 -- \b is click's mark
    from catalog.gallery.serve import token_to_write
    from catalog.table import Catalog

    token = token_to_write(host, token_file)
    Catalog(parse_place(uri, storage))  # a wrong place, or name, is told before pages are made
    from catalog.gallery.review_pages import Reviewing
    from catalog.reviews import reviewer_of
    from factory.code_version import code_version

    name = None if reviewer is None else reviewer_of(reviewer)
    how = Reviewing(code_version=code_version(), reviewer=name, is_blind=blind)
    _serve(uri, storage, host, port, token, data=data, reviewing=how)


def _serve(
    uri: str,
    storage: tuple[str, ...],
    host: str,
    port: int,
    token: str | None,
    *,
    data: str | None,
    weights: Path | None = None,
    reviewing: "Reviewing | None" = None,
) -> None:
    """Serve the pages of a catalog until somebody ends it."""
    from catalog.gallery.serve import listening, serve

    taken = listening(host, port)

    from catalog.embed import space_of
    from catalog.gallery.app import application
    from catalog.gallery.index import Index

    space = None if weights is None else space_of(weights)
    index = Index(parse_place(uri, storage), None if space is None else space.digest)
    count = index.ask("SELECT count(*) AS n FROM images")[0]["n"]
    shown = f"[{host}]" if ":" in host else host
    page = "" if reviewing is None else "review"
    if token:
        say(f"open it as /{page}?token=TOKEN once; over a network, put TLS or an SSH tunnel first")
    say(f"{uri}: {count} images at http://{shown}:{port}/{page} (Ctrl-C ends it)")
    pages = application(index, host=host, token=token, data=data, space=space, reviewing=reviewing)
    try:
        serve(pages, taken)
    finally:
        index.close()
        if reviewing is not None:
            tell_next("catalog", "sql", _TOLD, "--catalog", uri)
