"""`factory export` and `factory marks`: images out of a catalog, and what a file says of itself."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from catalog.commands import diverse_option, parse_place, view_options
from catalog.export.formats import FORMATS, MARKS
from factory.errors import CatalogError

if TYPE_CHECKING:
    from catalog.selection import Selection

_FILE = click.Path(dir_okay=False, path_type=Path)
_FOLDER = click.Path(path_type=Path)


@click.command()
@click.argument("form", metavar="FORMAT", type=click.Choice(list(FORMATS)))
@view_options
@click.option("--release", metavar="NAME", help="Export this release.")
@click.option("--where", metavar="SQL", help="Export accepted samples of this condition. [all]")
@diverse_option
@click.option("--out", type=_FOLDER, required=True, help="Folder to make; a new or empty one.")
@click.option(
    "--mark", "marks", multiple=True, type=click.Choice(list(MARKS)), help="Mark the copies."
)
@click.option("--watermark-key", type=_FILE, help="Secret bytes of --mark watermark, 16 or more.")
@click.option("--c2pa-certificate", type=_FILE, help="PEM chain of --mark c2pa, own one first.")
@click.option("--c2pa-key", type=_FILE, help="PEM private key of --mark c2pa.")
@click.option(
    "--shard-mib",
    type=click.IntRange(min=1),
    default=256,
    show_default=True,
    help="Pictures per Parquet or tar shard.",
)
def export(form: str, out: Path, shard_mib: int, diverse: int | None, **asked: Any) -> None:
    """Write images as FORMAT: huggingface, imagefolder, webdataset, coco, yolo, yolo-boxes, csv
    or dicom.

    Images keep the bytes that were drawn, masks are lossless; a card, Croissant, PROV and an
    in-toto statement lie beside them. What marks do:

    \b
      text       a PNG text chunk and XMP: synthetic, image_id, release; pixels stay
      c2pa       a signed C2PA manifest; pixels stay
      watermark  a keyed mark in the pixels, PSNR over 40 dB, found without the original;
                 for csv and dicom alone: among smooth images of equal roughness a simple
                 classifier tells marked ones (AUC 0.6), so a model could learn the mark

    \b
    Examples:
      factory export huggingface --release wbc-1 --out wbc-1
      factory export imagefolder --where "class_name = 'monocyte'" --out monocytes
      factory export imagefolder --diverse 500 --out for-review
      factory export csv --mark watermark --watermark-key mark.key --mark text --out shown
    """  # noqa: D205, D301 -- a long list of formats; \b is click's mark
    from catalog.export.marking import marking_of
    from catalog.export.write import export as write_export
    from catalog.selection import most_diverse

    keys = ("marks", "watermark_key", "c2pa_certificate", "c2pa_key")
    marks = {name: asked.pop(name) for name in keys}
    selection, semver = _selected(**asked)
    if diverse is not None:
        selection, semver = most_diverse(selection, diverse), None
    release = selection.name or f"version {selection.catalog.version}"
    marking = marking_of(marks.pop("marks"), form=form, release=release, **marks)
    done = write_export(
        selection, out, form, marking=marking, semver=semver, shard_bytes=shard_mib * 2**20
    )
    marked = f", marks: {', '.join(marking.names)}" if marking.names else ""
    click.echo(f"{out}: {done.num_images} images, {done.num_masks} masks as {form}{marked}")


@click.command()
@click.argument("files", nargs=-1, required=True, type=_FILE)
@click.option("--watermark-key", type=_FILE, help="Look for the watermark of this key.")
def marks(files: tuple[Path, ...], watermark_key: Path | None) -> None:
    """Say which marks PNG files carry: text, C2PA (with the extra) and, with its key, watermark.

    \b
    Example:
      factory marks shown/images/monocyte/*.png --watermark-key mark.key
    """  # noqa: D301 -- \b is click's mark
    from catalog.export.marking import marks_of, read_key

    key = None if watermark_key is None else read_key(watermark_key)
    for path in files:
        for line in marks_of(path, key):
            click.echo(f"{path}: {line}")


def _selected(
    uri: str,
    version: int | None,
    as_of: str | None,
    storage: tuple[str, ...],
    release: str | None,
    where: str | None,
) -> tuple["Selection", str | None]:
    """Return what is to be exported and, of a release, its semantic version."""
    from catalog.selection import accepted
    from catalog.table import Catalog

    place = parse_place(uri, storage)
    if release is None:
        catalog = Catalog(place, version=version, as_of=as_of)
        return accepted(catalog, where), None
    if not (where is None and version is None and as_of is None):
        raise CatalogError(
            f"release {release!r} fixes version and condition already",
            remedy="Leave out --where, --version and --as-of, or --release",
        )
    from catalog.releases import find_release, open_release

    return open_release(place, release), find_release(place, release).semver
