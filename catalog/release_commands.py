"""`factory release ...`: make, compare, check and retract releases; mirrors the library."""

import json
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import click

from catalog.commands import (
    catalog_option,
    format_options,
    parse_place,
    print_difference,
    print_table,
    storage_option,
)
from factory.terminal import one_line

if TYPE_CHECKING:  # see catalog/commands.py
    from catalog.releases import Release


@click.group()
def release() -> None:
    """Named, immutable versions of a catalog's images.

    \b
    factory release create wbc --where "guidance_scale = 2"
    factory release diff wbc@1.0.0 wbc@1.1.0
    factory release verify wbc --redraw 8
    """  # noqa: D301 -- \b is click's mark


@release.command()
@click.argument("name")
@catalog_option
@storage_option
@click.option("--where", metavar="SQL", help="Condition on samples, beside being accepted.")
@click.option("--version", type=click.IntRange(min=0), help="Version of samples. [the newest]")
def create(
    name: str, uri: str, storage: tuple[str, ...], where: str | None, version: int | None
) -> None:
    """Release the accepted images under NAME; the semantic version follows from the rows.

    The first is 1.0.0. After that PATCH rises when the same rows lie in other files, MINOR when
    rows were only added, MAJOR when any was changed or removed. NAME@2.0.0 asks for a version: any
    for the first, a higher one later. Equal rows in equal files are the release that is there
    already.

    \b
    Example:
      factory release create wbc --where "class_name <> 'platelet'"
    """  # noqa: D301 -- \b is click's mark
    from catalog.releasing import create_release
    from factory.code_version import code_version

    made = create_release(
        parse_place(uri, storage),
        name,
        where=where,
        version=version,
        now=datetime.now(UTC),
        code_version=code_version(),
    )
    click.echo(
        f"{made.name}: {made.num_images} images in {made.num_files} files of version "
        f"{made.version}, manifest {made.manifest_digest}"
    )


@release.command("list")
@catalog_option
@storage_option
@format_options
def list_command(uri: str, storage: tuple[str, ...], form: str | None) -> None:
    """List the releases in order of creation, retracted ones too."""
    import pyarrow as pa

    from catalog.releases import list_releases

    releases = list_releases(parse_place(uri, storage))
    columns = ("name", "status", "num_images", "version", "created_at", "reason")
    print_table(pa.table({name: [getattr(r, name) for r in releases] for name in columns}), form)


@release.command()
@click.argument("name")
@catalog_option
@storage_option
@click.option("--json", "as_object", is_flag=True, help="Print JSON.")
def show(name: str, uri: str, storage: tuple[str, ...], as_object: bool) -> None:
    """Print what is recorded of a release; a base name means its highest version."""
    from catalog.output import plain, text
    from catalog.releases import find_release

    found = _facts(find_release(parse_place(uri, storage), name))
    if as_object:
        click.echo(json.dumps({key: plain(found[key]) for key in found}, indent=1))
        return
    for key, value in found.items():
        click.echo(f"{key:16} {'' if value is None else text(value)}")


@release.command()
@click.argument("before")
@click.argument("after")
@catalog_option
@storage_option
@click.option("--json", "as_object", is_flag=True, help="Print JSON, with the image ids.")
def diff(before: str, after: str, uri: str, storage: tuple[str, ...], as_object: bool) -> None:
    """Tell which rows were added, removed or changed, per class and per recipe.

    \b
    Example:
      factory release diff wbc@1.0.0 wbc@1.1.0
    """  # noqa: D301 -- \b is click's mark
    from catalog.releases import diff_releases

    print_difference(diff_releases(parse_place(uri, storage), before, after), as_object)


@release.command()
@click.argument("name")
@catalog_option
@storage_option
@click.option("--reason", required=True, metavar="TEXT", help="What later readers are told.")
def retract(name: str, uri: str, storage: tuple[str, ...], reason: str) -> None:
    """Mark one release, such as wbc@1.0.0, as not to be used; nothing is deleted.

    Its files may then go with `factory catalog vacuum`.
    """
    from catalog.releasing import retract_release
    from factory.code_version import code_version

    found = retract_release(
        parse_place(uri, storage),
        name,
        reason,
        now=datetime.now(UTC),
        code_version=code_version(),
    )
    click.echo(one_line(f"{found.name} is retracted: {found.reason}"))


def _facts(found: "Release") -> dict[str, object]:
    from dataclasses import asdict

    return {
        key: list(value) if isinstance(value, tuple) else value
        for key, value in asdict(found).items()
    }
