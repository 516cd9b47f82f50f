"""`factory lineage` and `factory forget`: where something came from, and where it went."""

import json
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from catalog.commands import Command, catalog_option, parse_place, storage_option
from factory.terminal import one_line

if TYPE_CHECKING:  # see catalog/commands.py
    from rich.tree import Tree

    from catalog.forget import Reach
    from catalog.lineage import Lineage, Model, Node


def split_option(command: Command) -> Command:
    """Add --split FILE, repeatable."""
    return click.option(
        "--split",
        "splits",
        multiple=True,
        type=click.Path(dir_okay=False, path_type=Path),
        metavar="FILE",
        help="A split of real images: the catalog knows its digest only. May be repeated.",
    )(command)


@click.command("lineage")
@click.argument("name", metavar="IMAGE_ID|MODEL_ID|REAL_ID")
@catalog_option
@storage_option
@split_option
@click.option("--json", "as_object", is_flag=True, help="Print JSON.")
def lineage_command(
    name: str, uri: str, storage: tuple[str, ...], splits: tuple[Path, ...], as_object: bool
) -> None:
    """Show what something was made from, and what was made from it.

    real image - split - generator - images - releases - studies. Who is in a split stands in its
    file alone: give it with --split to follow a real image.

    \b
    factory lineage 0cc7c09635a126476a7645b45605f45a
    factory lineage neutrophil/0123.png --split split.json
    """  # noqa: D301 -- \b is click's mark
    from factory.terminal import console

    found = _lineage(uri, storage, splits)
    node = found.node(name)
    if as_object:
        click.echo(json.dumps(node.to_dict(), ensure_ascii=False, indent=1))
        return
    page = console()
    page.width = 200
    with page.capture() as drawn:
        page.print(_tree(node))
    click.echo("\n".join(line.rstrip() for line in drawn.get().splitlines()))
    if node.kind == "real image":
        for line in _unresolved(found.unresolved()):
            click.echo(one_line(line), err=True)


@click.command("forget")
@click.argument("real_id")
@catalog_option
@storage_option
@split_option
@click.option("--confirm", is_flag=True, help="Write the tombstones; without it nothing changes.")
@click.option("--json", "as_object", is_flag=True, help="Print JSON, with the image ids.")
def forget_command(
    real_id: str,
    uri: str,
    storage: tuple[str, ...],
    splits: tuple[Path, ...],
    confirm: bool,
    as_object: bool,
) -> None:
    """List every generator, image and release that a real image had a part in.

    With --confirm they are marked: marked images, and all that a marked generator draws, are left
    out of exports and studies, releases that hold any are refused, and a marked generator draws no
    more until it was trained again without the image. Exits with 1 while the split of a generator
    was not given. This is no legal advice.

    \b
    factory forget neutrophil/0123.png --split split.json
    factory forget neutrophil/0123.png --split split.json --confirm
    """  # noqa: D301 -- \b is click's mark
    from catalog.forget import NOT_LEGAL_ADVICE, forget, reach_of
    from factory.code_version import code_version

    found = _lineage(uri, storage, splits)
    reach = reach_of(found, real_id)
    marked = 0
    if confirm:
        marked = forget(found, reach, now=datetime.now(UTC), code_version=code_version())
    if as_object:
        click.echo(json.dumps(_reach_object(reach, marked), ensure_ascii=False, indent=1))
    else:
        for line in _reach_lines(reach):
            click.echo(one_line(line))
        told = (
            f"{marked} new tombstones" if confirm else "Nothing was changed; --confirm marks them"
        )
        click.echo(f"{told}. {NOT_LEGAL_ADVICE}")
    if reach.unresolved:
        raise click.exceptions.Exit(1)


def _lineage(uri: str, storage: tuple[str, ...], splits: tuple[Path, ...]) -> "Lineage":
    from catalog.lineage import Lineage, Model
    from catalog.table import Catalog
    from factory.models.generator import EMBEDDED, open_generator
    from factory.real.splits import load_split

    catalog = Catalog(parse_place(uri, storage))
    bases = []
    for name, folder in EMBEDDED.items():
        generator = open_generator(folder, name=name)
        known = ("base_model_id", "split_digest", "dataset_fingerprint")
        facts: dict[str, Any] = {key: generator.manifest.get(key) for key in known}
        bases.append(Model(model_id=generator.model_id, name=name, **facts))
    return Lineage(catalog=catalog, splits=[load_split(path) for path in splits], bases=bases)


def _tree(node: "Node") -> "Tree":
    from rich.text import Text
    from rich.tree import Tree

    tree = Tree(Text(_title(node)))
    for title, branches in (("made from", node.sources), ("became", node.results)):
        if branches:
            branch = tree.add(Text(title))
            for inner in branches:
                branch.add(_tree(inner))
    return tree


def _title(node: "Node") -> str:
    from catalog.output import text

    facts = ", ".join(f"{key} {text(value)}" for key, value in node.facts.items() if value)
    return one_line(f"{node.kind} {node.id}" + (f"  ({facts})" if facts else ""))


def _reach_lines(reach: "Reach") -> Iterator[str]:
    yield f"real image {reach.real_id}"
    for split, part in reach.parts:
        yield f"  {part} part of split {split.digest} (dataset {split.dataset})"
    for model_id, why in reach.models.items():
        yield f"  generator {model_id} ({why}): train it again without this image"
    shown = sum(why == "reference" for why in reach.images.values())
    yield f"  {len(reach.images)} images, {shown} of them only by being shown it"
    for release, held in reach.releases:
        count = "files gone" if held is None else f"holds {held} of them"
        yield f"  release {release.name} ({release.status}): {count}"
    yield from _unresolved(reach.unresolved)


def _unresolved(models: Sequence["Model"]) -> Iterator[str]:
    for model in models:
        yield (
            f"  cannot be told: generator {model.model_id} was trained under split"
            f" {model.split_digest}; give its file with --split"
        )


def _reach_object(reach: "Reach", marked: int) -> dict[str, object]:
    return {
        "real_id": reach.real_id,
        "parts": [{"split": s.digest, "dataset": s.dataset, "part": p} for s, p in reach.parts],
        "generators": dict(reach.models),
        "images": dict(reach.images),
        "releases": [{"name": r.name, "status": r.status, "images": n} for r, n in reach.releases],
        "unresolved": [
            {"generator": m.model_id, "split": m.split_digest} for m in reach.unresolved
        ],
        "new_tombstones": marked,
    }
