"""`open_dataset`: one URI in, one checked `RealDataset` out, whatever the source."""

import os
from collections.abc import Iterable, Sequence
from dataclasses import fields
from pathlib import Path
from urllib.parse import parse_qsl

from factory.errors import DataError
from factory.real.columns import Asked
from factory.real.dataset import Found, RealDataset, build_dataset
from factory.real.dicom import dicom_items, is_dicom_folder
from factory.real.folders import folder_items
from factory.real.npz import find_medmnist, npz_items
from factory.real.smear import CLASS_NAMES, SmearStyle, smear_items
from factory.real.tables import csv_items, parquet_items


def open_dataset(
    uri: str | Path,
    *,
    label: str | None = None,
    image: str | None = None,
    group: str | None = None,
    attributes: Sequence[str] | None = None,
    root: str | Path | None = None,
    skip_broken: bool = False,
    download: bool = False,
) -> RealDataset:
    """Open real images and check every one of them once.

    Args:
        uri: a class folder or a folder of images with masks, a folder of `.dcm` files (with any
            suffix: `dicom:FOLDER`), a `.csv` or `.parquet` file or a folder of Parquet parts, a
            MedMNIST `.npz`, `medmnist:bloodmnist?size=64`, or `smear:300?seed=1&size=64` (drawn
            cells).
        label, image, group: columns of a table or of `metadata.csv`; the usual names when absent.
        attributes: columns to keep as attributes; all that play no other role when absent.
        root: folder in which the paths of a table start; that of the table when absent.
        skip_broken: leave broken images out and list them in `RealDataset.broken`.
        download: allow a named MedMNIST set to be fetched.

    Raises:
        DataError: nothing there, an unknown scheme or column, or what `build_dataset` finds.
    """
    asked = Asked(
        label=label,
        image=image,
        group=group,
        attributes=None if attributes is None else tuple(attributes),
        root=None if root is None else Path(os.path.expanduser(root)).resolve(),
    )
    items, class_names = _items(str(uri), asked, download=download)
    return build_dataset(items, class_names=class_names, skip_broken=skip_broken)


def _items(
    uri: str, asked: Asked, *, download: bool
) -> tuple[Iterable[Found], Sequence[str] | None]:
    scheme, _, rest = uri.partition(":")
    if scheme in ("smear", "medmnist"):
        _refuse_columns(uri, asked)
        name, query = _query(rest, uri)
        if scheme == "smear":
            return _smear(name, query, uri)
        size_px = _number(query.pop("size", "28"), uri)
        _refuse_rest(query, uri)
        path, names = find_medmnist(name, size_px=size_px, download=download)
        return npz_items(path, names), names
    if scheme == "dicom" and os.path.isdir(os.path.expanduser(rest)):
        return dicom_items(Path(os.path.expanduser(rest)).resolve(), asked), None
    path = Path(os.path.expanduser(uri))
    if "://" in uri or not uri.strip() or not os.path.exists(path):
        raise DataError(
            f"there is no dataset at {uri!r}",
            remedy="Give a local path, medmnist:NAME or smear:COUNT",
        )
    return _path_items(path, asked), None


def _path_items(path: Path, asked: Asked) -> Iterable[Found]:
    path = path.resolve()  # workers read the bytes from another working directory
    if path.is_dir():
        parts = sorted(path.glob("*.parquet"))
        if asked.root is not None and not parts:
            raise DataError(
                f"{path} is a folder, its images start there",
                remedy="Leave root out, or give the table that lists them",
            )
        if parts:
            return parquet_items(parts, asked)
        return dicom_items(path, asked) if is_dicom_folder(path) else folder_items(path, asked)
    match path.suffix.lower():
        case ".csv":
            return csv_items(path, asked)
        case ".parquet":
            return parquet_items([path], asked)
        case ".npz":
            _refuse_columns(str(path), asked)
            return npz_items(path)
    raise DataError(
        f"{path.name} is no dataset", remedy="Give a folder, a .csv, .parquet or .npz file"
    )


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


_QUERY = "Write for example smear:300?seed=1&size=64 or medmnist:bloodmnist?size=64"
