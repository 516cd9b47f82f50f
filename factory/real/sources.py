"""`open_dataset`: one URI in, one checked `RealDataset` out, whatever the source."""

import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import fields
from pathlib import Path
from urllib.parse import parse_qsl

import pyarrow as pa
import pyarrow.parquet as pq

from factory.errors import DataError
from factory.real.build import build_dataset
from factory.real.columns import Asked
from factory.real.dataset import Found, NotRead, RealDataset, RealImage
from factory.real.dicom import dicom_items, is_dicom
from factory.real.drawn import delta_table
from factory.real.field import positive
from factory.real.folders import (
    Listing,
    folder_items,
    leads_out,
    listing,
    printable,
    suffix_of,
    unnamed,
)
from factory.real.images import SUFFIXES
from factory.real.npz import find_medmnist, npz_items
from factory.real.parquet import Columns, hub_files, parquet_items
from factory.real.smear import CLASS_NAMES, SmearStyle, smear_items
from factory.real.stored import FileBytes
from factory.real.tables import TABLES, table_items


def open_dataset(
    uri: str | Path,
    *,
    label: str | None = None,
    image: str | None = None,
    group: str | None = None,
    attributes: Sequence[str] | None = None,
    root: str | Path | None = None,
    masks: str | None = None,
    crop: str | None = None,
    pixel_size_um: float | str | None = None,
    skip_broken: bool = False,
    keep_faults: bool = False,
    follow_links: bool = False,
    download: bool = False,
) -> RealDataset:
    """Open real images and check every one of them once.

    Of a folder that holds pictures, DICOM files and Parquet parts, what holds most images is read;
    what else lies there is counted in `RealDataset.not_read`.

    Args:
        uri: a class folder or a folder of images with masks, a folder of DICOM files (DICOM alone,
            whatever lies beside: `dicom:FOLDER`), a `.csv` or `.parquet` file or a folder of
            Parquet parts, a MedMNIST `.npz`, `medmnist:bloodmnist?size=64`, or
            `smear:300?seed=1&size=64` (drawn cells). Behind a path, `?masks=object&group=patient`
            says what the arguments of these names say, wherever a path is asked for.
        label, image, group: columns of a table or of `metadata.csv`; the usual names when absent.
        attributes: columns to keep as attributes; all that play no other role when absent.
        root: folder in which the paths of a table start; that of the table when absent.
        masks: how mask values become classes: 'object' (all but 0 is the object), a threshold
            '128', values '0,128,255' (each pixel takes the nearest), or 'none' (masks are not
            read). It is part of the fingerprint.
        crop: the central part of every frame that is shown: a share of its sides '0.711', or a
            field '80um', for which pixel sizes must be known. It is part of the fingerprint.
        pixel_size_um: side of a pixel in micrometres, or the column that has it; `pixel_size_um`
            or `mpp`, or what DICOM files say, when absent.
        skip_broken: leave broken images out and list them in `RealDataset.broken`.
        keep_faults: list what is wrong in `RealDataset.broken` and `.faults`, all at once.
        follow_links: follow links, and `..` in a table, that lead out of the folder.
        download: allow a named MedMNIST set to be fetched.

    Raises:
        DataError: nothing there, an unknown scheme or column, or what `build_dataset` finds.
    """
    place, said = _said(str(uri))
    root = root or said.get("root")
    size = str(pixel_size_um or said.get("pixel_size_um") or "")
    asked = Asked(
        label=label or said.get("label"),
        image=image or said.get("image"),
        group=group or said.get("group"),
        attributes=None if attributes is None else tuple(attributes),
        root=None if not root else _home(str(root)).resolve(),
        pixel_size=_column_of(size),
    )
    follow_links = follow_links or _yes(said.get("follow_links", "no"), str(uri))
    found, class_names = _items(place, asked, follow_links=follow_links, download=download)
    return build_dataset(
        found,
        class_names=class_names,
        skip_broken=skip_broken,
        keep_faults=keep_faults,
        masks=masks or said.get("masks"),
        crop=crop or said.get("crop"),
        pixel_size_um=positive(size),
    )


def _column_of(size: str) -> str | None:
    """Return the column that a pixel size names; None: a number, or nothing.

    Raises:
        DataError: a number that is no size.
    """
    if not size or positive(size) is not None:
        return None
    try:
        float(size)
    except ValueError:
        return size
    raise DataError(
        f"--pixel-size-um {size!r} is no size", remedy="Write micrometres above 0, such as 0.25"
    )


def _said(uri: str) -> tuple[str, dict[str, str]]:
    """Return the place and the options behind it; a name with '?' that exists is a place."""
    place, mark, _ = uri.rpartition("?")
    if not mark or _scheme(uri) in ("smear", "medmnist") or os.path.lexists(_home(uri)):
        return uri, {}
    if not os.path.lexists(_home(place.removeprefix("dicom:"))):
        return uri, {}
    _, said = _query(uri[len(place) :], uri)
    if unknown := sorted(said.keys() - set(_OPTIONS)):
        raise DataError(
            f"{uri} has the unknown key {unknown[0]!r}", remedy=f"Choose of {', '.join(_OPTIONS)}"
        )
    return place, said


def _items(
    uri: str, asked: Asked, *, follow_links: bool, download: bool
) -> tuple[Iterable[Found], Sequence[str] | None]:
    if _scheme(uri) in ("smear", "medmnist"):
        _refuse_columns(uri, asked)
        name, query = _query(uri.partition(":")[2], uri)
        if _scheme(uri) == "smear":
            return _smear(name, query, uri)
        size_px = _number(query.pop("size", "28"), uri)
        _refuse_rest(query, uri)
        path, names = find_medmnist(name, size_px=size_px, download=download)
        return npz_items(path, names), names
    only_dicom = _scheme(uri) == "dicom" and os.path.isdir(_home(uri.partition(":")[2]))
    path = _home(uri.partition(":")[2] if only_dicom else uri)
    if "://" in uri or not uri.strip() or not os.path.exists(path):
        raise DataError(
            f"there is no dataset at {uri!r}",
            remedy="Give a local path, medmnist:NAME or smear:COUNT",
        )
    path = path.resolve()  # workers read the bytes from another working directory
    if printable(path) != str(path):
        raise unnamed(printable(path))
    if only_dicom:
        return dicom_items(listing(path, follow_links=follow_links), asked), None
    if path.is_dir():
        found = listing(path, follow_links=follow_links)
        return _of_folder(found, asked, follow_links=follow_links), None
    return _of_file(path, asked, follow_links=follow_links), None


def _of_folder(found: Listing, asked: Asked, *, follow_links: bool) -> Iterable[Found]:
    """Return what the reader of the kind finds that holds most images of a folder."""
    if place := delta_table(found.root, found.files):
        raise DataError(
            f"{place} is a Delta table: its log says which rows count, and those of a catalog"
            " are drawn, not real",
            remedy="Give the folder or table of the real images; drawn ones leave a catalog by"
            " `factory export`, and are compared by `factory evaluate`",
        )
    parts = _parts(found)
    if asked.root is not None and not parts:
        raise DataError(
            f"{found.root} is a folder, its images start there",
            remedy="Leave root out, or give the table that lists them",
        )
    pictures = set(found.pictures)
    other = [found.root / path for path in found.files if path not in pictures]
    sizes = {"pictures": len(pictures), "DICOM files": sum(map(is_dicom, other))}
    sizes["Parquet rows"] = _rows(parts, found, asked, others=sum(sizes.values()))
    most = max(sizes.values())
    kinds = [kind for kind, size in sizes.items() if most and size == most]
    if len(kinds) > 1:
        raise DataError(
            f"{found.root} holds as many {kinds[0]} as {kinds[1]}: {most}",
            remedy="Give dicom:FOLDER for the DICOM files, the Parquet file itself for its rows, or"
            " the pictures in a folder of their own",
        )
    if kinds == ["Parquet rows"]:
        return _parquet_folder(found, parts, asked, follow_links=follow_links)
    if kinds == ["DICOM files"]:
        return dicom_items(found, asked)
    return folder_items(found, asked)


def _parts(found: Listing) -> list[Path]:
    """Return the Parquet files of a folder, or of its `data/` or parts, as the hub has them.

    Raises:
        DataError: several configurations, and no other files to read.
    """
    tables = [path for path in found.files if path.suffix.lower() == ".parquet"]
    at_root = [path for path in tables if len(path.parts) == 1]
    chosen = at_root or [path for path in tables if path.parts[:-1] == ("data",)]
    if not chosen and (by_configuration := hub_files(tables)):
        if len(by_configuration) > 1 and not found.pictures:
            shown = ", ".join(sorted(map(printable, by_configuration))[:3])
            raise DataError(
                f"{found.root} holds {len(by_configuration)} sets of Parquet files ({shown})",
                remedy="Give the folder of one of them",
            )
        if len(by_configuration) == 1:
            chosen = [Path(path) for path in next(iter(by_configuration.values()))]
    return [found.root / path for path in chosen]


def _rows(parts: Sequence[Path], found: Listing, asked: Asked, *, others: int) -> int:
    """Return how many images Parquet files hold, where others lie beside them.

    A table of paths counts when its paths lead to files: as more than these, since it says more.
    """
    if not (parts and others):
        return len(parts)
    rows = 0
    for path in parts:
        try:
            with pq.ParquetFile(path) as file:
                columns = Columns.of(file.schema_arrow, asked, str(path))
                if not columns.has_paths:
                    rows += file.metadata.num_rows
                if not columns.has_paths or not file.num_row_groups:
                    continue
                image = columns.roles.image
                first = file.read_row_group(0, columns=[image]).column(image)[0].as_py()
        except (OSError, pa.ArrowException, DataError):  # it is no table of these images
            continue
        if isinstance(first, str) and ((asked.root or found.root) / first).is_file():
            rows += file.metadata.num_rows + others
    return rows


def _parquet_folder(
    found: Listing, parts: Sequence[Path], asked: Asked, *, follow_links: bool
) -> Iterator[Found]:
    used = {*parts}
    yield from found.not_read
    for item in _kept_inside(parquet_items(parts, asked), asked.root or found.root, follow_links):
        if isinstance(item, RealImage):
            used |= {
                place.path for place in (item.image, item.mask) if isinstance(place, FileBytes)
            }
        yield item
    for path in found.files:
        if found.root / path not in used:
            yield NotRead(kind=suffix_of(path), name=printable(path))


def _of_file(path: Path, asked: Asked, *, follow_links: bool) -> Iterable[Found]:
    match path.suffix.lower():
        case suffix if suffix in {*TABLES, ".parquet"}:
            parquet = suffix == ".parquet"
            rows = parquet_items([path], asked) if parquet else table_items(path, asked)
            return _and_in_no_row(_kept_inside(rows, asked.root or path.parent, follow_links))
        case ".npz":
            _refuse_columns(str(path), asked)
            return npz_items(path)
    raise DataError(
        f"{path.name} is no dataset",
        remedy=f"Give a folder, a {', '.join(TABLES)}, .parquet or .npz file",
    )


def _kept_inside(items: Iterable[Found], root: Path, follow_links: bool) -> Iterator[Found]:
    """Yield the rows of a table, an error for each whose path leads out of `root` unseen.

    An absolute path says openly where it leads; `..` and links do not.
    """
    for item in items:
        places = (item.image, item.mask) if isinstance(item, RealImage) else ()
        paths = [place.path for place in places if isinstance(place, FileBytes)]
        out = [path for path in paths if not follow_links and _leads_out(path, root)]
        if out:
            yield DataError(
                f"{out[0]} leads out of {root}",
                remedy="Give the folder that holds all with --root, or pass --follow-links",
            )
        else:
            yield item


def _and_in_no_row(items: Iterable[Found]) -> Iterator[Found]:
    """Yield the rows of a table, and the pictures beside theirs that no row names."""
    used: set[Path] = set()
    for item in items:
        places = (item.image, item.mask) if isinstance(item, RealImage) else ()
        used |= {
            Path(os.path.normpath(place.path)) for place in places if isinstance(place, FileBytes)
        }
        yield item
    for folder in sorted({path.parent for path in used}):
        for path in sorted(folder.iterdir()) if folder.is_dir() else ():
            hidden = path.name.startswith(".")
            if path.suffix.lower() in SUFFIXES and not hidden and path not in used:
                yield NotRead(kind=f"{suffix_of(path)} in no row", name=printable(path.name))


def _leads_out(path: Path, root: Path) -> bool:
    here = Path(os.path.normpath(path))
    if here.is_relative_to(root):
        return leads_out(here, root)
    return ".." in path.parts


def _smear(
    name: str, query: dict[str, str], uri: str
) -> tuple[Iterable[Found], Sequence[str] | None]:
    knobs = {
        f.name: _decimal(query.pop(f.name), uri) for f in fields(SmearStyle) if f.name in query
    }
    seed = _number(query.pop("seed", "0"), uri)
    size_px = _number(query.pop("size", "64"), uri)
    _refuse_rest(query, uri)
    style = SmearStyle(**knobs)
    return smear_items(_number(name, uri), seed=seed, size_px=size_px, style=style), CLASS_NAMES


def _query(rest: str, uri: str) -> tuple[str, dict[str, str]]:
    name, _, text = rest.partition("?")
    try:
        return name, dict(parse_qsl(text, strict_parsing=bool(text), keep_blank_values=True))
    except ValueError as error:
        raise DataError(f"{uri} has a broken query ({error})", remedy=_QUERY) from error


def _number(text: str, uri: str) -> int:
    if not text.isdecimal() or int(text) >= 2**63:
        raise DataError(f"{text!r} in {uri} is no whole number", remedy=_QUERY)
    return int(text)


def _decimal(text: str, uri: str) -> float:
    try:
        return float(text)
    except ValueError as error:
        raise DataError(f"{text!r} in {uri} is no number", remedy=_QUERY) from error


def _refuse_rest(query: dict[str, str], uri: str) -> None:
    if query:
        raise DataError(f"{uri} has the unknown key {next(iter(query))!r}", remedy=_QUERY)


def _refuse_columns(uri: str, asked: Asked) -> None:
    if asked != Asked():
        raise DataError(f"{uri} has no columns to choose", remedy="Leave out label, group, ...")


def _scheme(uri: str) -> str:
    """Return what stands before a colon; a folder may be called smear."""
    scheme, colon, _ = uri.partition(":")
    return scheme if colon else ""


def _home(path: str) -> Path:
    return Path(os.path.expanduser(path))


def _yes(text: str, uri: str) -> bool:
    if text not in ("yes", "no"):
        raise DataError(f"{uri} says follow_links={text}", remedy="Write follow_links=yes")
    return text == "yes"


_OPTIONS = ("label", "image", "group", "root", "masks", "crop", "pixel_size_um", "follow_links")
_QUERY = "Write for example smear:300?seed=1&size=64 or medmnist:bloodmnist?size=64"
