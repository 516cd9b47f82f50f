"""`factory gallery`: look at a catalog in a browser."""

from pathlib import Path

import click

from catalog.commands import catalog_option, parse_place, storage_option


@click.command()
@catalog_option
@storage_option
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen at.")
@click.option("--port", type=click.IntRange(1, 65535), default=8080, show_default=True)
@click.option(
    "--token-file",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Ask visitors for the token in this file (or in FACTORY_GALLERY_TOKEN).",
)
@click.option("--data", metavar="URI", help="Show real images of this data set too. [none]")
@click.option(
    "--features",
    "weights",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Map by this network, see `factory catalog embed`. [what most images have]",
)
def gallery(
    uri: str,
    storage: tuple[str, ...],
    host: str,
    port: int,
    token_file: Path | None,
    data: str | None,
    weights: Path | None,
) -> None:
    """Look at a catalog in a browser: images, their map, gates, runs, models, studies, releases.

    It only reads. Other machines reach it when --host says so, and then a token is asked. Real
    images are patients' images: they are shown only with --data.

    \b
    Example:
      factory gallery --catalog wbc-catalog --port 8080
    """  # noqa: D301 -- \b is click's mark
    from catalog.gallery.serve import listening, serve, token_for

    token = token_for(host, token_file)
    taken = listening(host, port)

    from catalog.embed import space_of
    from catalog.gallery.app import application
    from catalog.gallery.index import Index

    space = None if weights is None else space_of(weights)
    index = Index(parse_place(uri, storage), None if space is None else space.digest)
    count = index.ask("SELECT count(*) AS n FROM images")[0]["n"]
    shown = f"[{host}]" if ":" in host else host
    if token:
        click.echo("open it as /?token=TOKEN once; over a network, put TLS or an SSH tunnel first")
    click.echo(f"{uri}: {count} images at http://{shown}:{port}/ (Ctrl-C ends it)")
    try:
        serve(application(index, host=host, token=token, data=data, space=space), taken)
    finally:
        index.close()
