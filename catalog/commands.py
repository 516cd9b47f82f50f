"""`factory catalog ...`: look into a catalog from the shell; mirrors the library."""

import json
import signal
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from factory.atomic import write_bytes, writing
from factory.command_line import tell_next
from factory.errors import CatalogError, DataError, OutputError
from factory.terminal import one_line, say

if TYPE_CHECKING:
    import pyarrow as pa

    from catalog.manifest import Difference
    from catalog.place import Place
    from catalog.table import Catalog


Command = Callable[..., Any]
_FILE = click.Path(dir_okay=False, path_type=Path)


def catalog_option(command: Command) -> Command:
    """Add --catalog URI."""
    return click.option(
        "--catalog",
        "uri",
        metavar="URI",
        envvar="FACTORY_CATALOG",
        default="wbc-catalog",
        show_default=True,
        show_envvar=True,
        help="Folder or object store URI of the catalog.",
    )(command)


def storage_option(command: Command) -> Command:
    """Add --storage-option KEY=VALUE; `parse_place` reads what it collects."""
    return click.option(
        "--storage-option",
        "storage",
        multiple=True,
        metavar="KEY=VALUE",
        help="Option of the object store, such as AWS_ENDPOINT_URL=http://host:9000.",
    )(command)


def view_options(command: Command) -> Command:
    """Add --catalog, --version, --as-of and --storage-option: which view is read."""
    for option in (
        storage_option,
        click.option("--as-of", metavar="TIME", help="Read as of this ISO 8601 time (UTC)."),
        click.option("--version", type=click.IntRange(min=0), help="Read this version of samples."),
        catalog_option,
    ):
        command = option(command)
    return command


def diverse_option(command: Command) -> Command:
    """Add --diverse N."""
    return click.option(
        "--diverse",
        type=click.IntRange(min=1),
        metavar="N",
        help="Only the N images that cover the others, by `factory catalog embed`.",
    )(command)


def format_options(command: Command) -> Command:
    """Add --table (default on a terminal or not), --json and --csv."""
    for name, what in (("csv", "CSV"), ("json", "JSON"), ("table", "a drawn table (default)")):
        command = click.option(
            f"--{name}", "form", flag_value=name, default=None, help=f"Print {what}."
        )(command)
    return command


@click.group()
def catalog() -> None:
    """Query a catalog of synthetic images.

    \b
    factory catalog sql "SELECT class_name, count(*) AS n FROM samples GROUP BY 1"
    factory catalog history
    factory catalog sheet --where "gate_status = 'accepted'" --out sheet.png
    """  # noqa: D301 -- \b is click's mark


@catalog.command("sql")
@click.argument("query")
@view_options
@format_options
@click.option("--limit", type=click.IntRange(min=0), help="Print at most so many rows.")
@click.option(
    "--timeout",
    type=click.FloatRange(min=0, min_open=True),
    metavar="SECONDS",
    help="Give up after so long, or at 2 GiB of memory. [waits]",
)
def sql_command(
    query: str, form: str | None, limit: int | None, timeout: float | None, **view: Any
) -> None:
    """Run one SELECT over the tables of the catalog (read-only DuckDB).

    samples, runs, models, evaluations, scores, releases, release_files, tombstones, features, maps,
    reviews and review_events. What reviewers say is the column `review` of samples, if it is named.

    \b
    Examples:
      factory catalog sql "SELECT class_name, gate_status, count(*) AS n
                           FROM samples GROUP BY ALL ORDER BY ALL"
      factory catalog sql "SELECT image_id, blur_score FROM samples
                           WHERE class_name = 'eosinophil' AND guidance_scale > 2" --csv
      factory catalog sql "SELECT run_id, status, images_per_second FROM runs" --json
      factory catalog sql "DESCRIBE samples"
    """  # noqa: D301 -- \b is click's mark
    if timeout is None:
        from catalog.query import sql

        opened = _open(**view)
        # one expression may not come back to Python for minutes: a signal must not wait for it
        ends = (signal.SIGINT, signal.SIGTERM)
        held = [signal.signal(each, signal.SIG_DFL) for each in ends]
        try:
            found = sql(opened, query, limit)
        finally:
            for each, handler in zip(ends, held, strict=True):
                signal.signal(each, handler)
        print_table(found, form)
        return
    from catalog.bounded import BoundedSql

    asked = {"version": view["version"], "as_of": view["as_of"], "limit": limit}
    with closing(BoundedSql(parse_place(view["uri"], view["storage"]))) as bounded:
        print_table(bounded.ask(query, seconds=timeout, **asked), form)


@catalog.command()
@click.argument("before", type=click.IntRange(min=0))
@click.argument("after", type=click.IntRange(min=0))
@catalog_option
@storage_option
@click.option("--where", default="true", metavar="SQL", help="Of samples that satisfy this.")
@click.option("--json", "as_object", is_flag=True, help="Print JSON, with the image ids.")
def diff(
    before: int, after: int, uri: str, storage: tuple[str, ...], where: str, as_object: bool
) -> None:
    """Tell which samples version AFTER holds and BEFORE did not, and the other way round.

    \b
    Example:
      factory catalog diff 3 7 --where "class_name = 'monocyte'"
    """  # noqa: D301 -- \b is click's mark
    from catalog.releases import diff_versions

    found = diff_versions(parse_place(uri, storage), before, after, where=where)
    print_difference(found, as_object)


@catalog.command()
@view_options
@format_options
@click.option("--limit", type=click.IntRange(min=1), help="Show the newest so many versions.")
def history(form: str | None, limit: int | None, **view: Any) -> None:
    """List the versions of the samples table, newest first.

    \b
    Example:
      factory catalog history --limit 10
    """  # noqa: D301 -- \b is click's mark
    import pyarrow as pa

    catalog = _open(**view)
    commits = catalog.history(limit)
    if not commits:
        click.echo(f"{catalog.named}: nothing was published yet", err=True)
    columns = ("version", "time", "operation", "run_id", "batches", "num_rows")
    print_table(pa.table({name: [c.get(name) for c in commits] for name in columns}), form)


@catalog.command()
@click.argument("image_id")
@view_options
@click.option("--out", type=_FILE, help="PNG to write. [IMAGE_ID.png]")
@click.option("--json", "as_object", is_flag=True, help="Print the row as JSON.")
def show(image_id: str, out: Path | None, as_object: bool, **view: Any) -> None:
    """Write one image as PNG, whose text says that it is synthetic, and print its row.

    \b
    Example:
      factory catalog show 0cc7c09635a126476a7645b45605f45a --out cell.png
    """  # noqa: D301 -- \b is click's mark
    from catalog.boundary import file_name
    from catalog.export.png_text import as_synthetic
    from catalog.output import plain, text

    row = _open(**view).rows([image_id]).to_pylist()[0]
    path = out or Path(f"{file_name(image_id)}.png")
    written = {path: as_synthetic(row["image"]["bytes"], image_id)}
    if row["mask"] is not None:
        written[path.parent / f"{path.stem}-mask.png"] = row["mask"]["bytes"]
    for place, png in written.items():
        if not (place.is_file() and place.read_bytes() == png):
            _check_new(place)
    for place, png in written.items():
        with writing(place):
            write_bytes(place, png)
    if as_object:
        click.echo(json.dumps(plain(row), ensure_ascii=False, indent=1))
        return
    for name, value in row.items():
        click.echo(f"{name:22} {'' if value is None else text(value)}")
    say(f"{'written to':22} {', '.join(map(str, written))}")
    tell_next("regenerate", image_id, "--catalog", view["uri"])


@catalog.command()
@view_options
@click.option("--where", metavar="SQL", help="Condition on samples.")
@click.option("--out", type=_FILE, default=Path("sheet.png"), show_default=True)
@click.option("--per-class", type=click.IntRange(min=1), default=16, show_default=True)
@click.option("--columns", type=click.IntRange(min=1), default=8, show_default=True)
@diverse_option
def sheet(
    where: str | None, out: Path, per_class: int, columns: int, diverse: int | None, **view: Any
) -> None:
    """Draw a contact sheet: a block of images per class, rejected ones framed in red.

    \b
    Example:
      factory catalog sheet --where "run_id = 'run-3f2a' AND blur_score > 0.2" --out sheet.png
      factory catalog sheet --diverse 64 --out various.png
    """  # noqa: D301 -- \b is click's mark
    from catalog.sheet import sheet_of

    _check_new(out)
    shown = sheet_of(
        _open(**view), out, where=where, per_class=per_class, columns=columns, diverse=diverse
    )
    say(f"{out}: {shown} images")
    tell_next("gallery", "--catalog", view["uri"])


@catalog.command()
@click.argument("source_id")
@view_options
@click.option(
    "--out",
    "outs",
    type=_FILE,
    multiple=True,
    default=(Path("strip.png"),),
    show_default="strip.png",
    help="A .png, or an animated .gif or .webp; may be repeated.",
)
@click.option("--data", metavar="URI", help="Where the source lies. [as the run says]")
def strip(source_id: str, outs: tuple[Path, ...], data: str | None, **view: Any) -> None:
    """Draw what was bridged from a real image: the source, then k = 1 .. m with their labels.

    The number at each image is the target's share of its soft label.

    \b
    Example:
      factory catalog strip healthy/0123 --out strip.png --out strip.gif
    """  # noqa: D301 -- \b is click's mark
    from catalog.strip import data_of, progressions_of, source_image, write_strip

    for out in outs:
        _check_new(out)
    catalog = _open(**view)
    found = progressions_of(catalog, source_id)
    place, source = data or data_of(catalog, found[0].run_id), None
    try:
        source = source_image(place, source_id)
    except DataError as error:
        if data is not None:
            raise
        click.echo(f"without the source: {error}", err=True)
    for out in outs:
        write_strip(out, found, source)
        say(f"{out}: {len(found)} progressions")


def _check_new(path: Path) -> None:
    """Refuse a file that is there already: it may be the only copy of something.

    Raises:
        OutputError: naming it.
    """
    with writing(path):
        if path.exists() and not path.is_dir():
            raise OutputError(
                f"{str(path)!r} is there already",
                remedy="Name another file with --out, or move it away",
            )


def _open(uri: str, version: int | None, as_of: str | None, storage: tuple[str, ...]) -> "Catalog":
    from catalog.table import Catalog

    return Catalog(parse_place(uri, storage), version=version, as_of=as_of)


def print_table(table: "pa.Table", form: str | None) -> None:
    """Print in the chosen form; a drawn table is as wide as the terminal, or 200 columns."""
    from catalog.output import as_csv, as_json, as_rich
    from factory.terminal import console

    if form in ("json", "csv"):
        click.echo(as_json(table) if form == "json" else as_csv(table))
        return
    page = console(width=200)
    with page.capture() as drawn:
        page.print(as_rich(table, width=page.width))
    click.echo(drawn.get().rstrip())
    click.echo(f"{len(table)} row{'' if len(table) == 1 else 's'}")


def print_difference(found: "Difference", as_object: bool) -> None:
    """Print what was added, removed and changed: counts by class and recipe, or JSON with ids."""
    from catalog.manifest import KINDS

    ids = {kind: getattr(found, kind)["image_id"].to_pylist() for kind in KINDS}
    if as_object:
        counts = {"by_class": found.by_class, "by_recipe": found.by_recipe}
        click.echo(json.dumps({"change": found.change, **counts, **ids}, indent=1))
        return
    click.echo(f"{found.change}: " + ", ".join(f"{len(ids[kind])} {kind}" for kind in KINDS))
    for title, groups in (("class", found.by_class), ("recipe", found.by_recipe)):
        for group, counts_of in groups.items():
            numbers = ", ".join(f"{counts_of[kind]} {kind}" for kind in KINDS if counts_of[kind])
            click.echo(one_line(f"  {title} {group}: {numbers}"))


def parse_place(uri: str, pairs: tuple[str, ...]) -> "Place":
    """Return the place of --catalog and the collected KEY=VALUE pairs of --storage-option.

    Raises:
        CatalogError: a pair without '='. Its value is not shown: it may be a secret.
    """
    for pair in pairs:
        if "=" not in pair:
            raise CatalogError(
                f"storage option {pair.split('=')[0]!r} has no value",
                remedy="Write --storage-option KEY=VALUE",
            )
    from catalog.place import Place

    return Place(uri, dict(pair.split("=", 1) for pair in pairs))
