"""Which column of a table plays which role, and which file a cell names."""

import os
import re
import unicodedata
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path, PurePath, PurePosixPath, PureWindowsPath
from urllib.parse import urlsplit

from factory.errors import DataError
from factory.real.dataset import RealImage, composed
from factory.real.drawn import told_by
from factory.real.field import positive
from factory.real.images import SUFFIXES
from factory.real.stored import FileBytes, Stored, Unreadable
from factory.tree import files_below

USUAL = {
    "id": ("image_id", "id"),
    "image": ("image", "file", "file_name", "filename", "path", "image_path"),
    "mask": ("mask", "mask_path", "mask_file_name"),
    "label": ("class_name", "class", "label"),
    "group": [
        "group",
        "patient",
        "patient_id",
        "subject",
        "subject_id",
        "case",
        "case_id",
        "slide",
        "slide_id",
        "sequence",
    ],
}
"""Names tried in order when a role is not given. A group found by its name guards against leaks
that nobody asked about; a set whose groups go by another name needs `group=`."""
PIXEL_SIZES = ("pixel_size_um", "um_per_px", "um_per_pixel", "mpp")
"""Columns that are taken for the size of a pixel in micrometres."""
LIKELY_GROUP = re.compile(
    "(patient|subject|case|slide|wsi|sequence|study|series|participant|donor|animal|mouse|lesion"
    "|specimen|biopsy|embryo|accession|exam|video|mrn)(instance)?(id|uid|number|no|name)?"
)
"""Names, without case and separators, of columns that are proposed as groups but not taken: what
was read without them must stay the same dataset."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """Columns that the caller named; None: look for a usual name (attributes: take the rest).

    `root` is the folder in which the paths of a table start; None: that of the table.
    """

    label: str | None = None
    image: str | None = None
    group: str | None = None
    attributes: tuple[str, ...] | None = None
    root: Path | None = None
    pixel_size: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Roles:
    """The columns of one table by role."""

    id: str | None
    image: str | None
    mask: str | None
    label: str | None
    group: str | None
    attributes: tuple[str, ...]
    pixel_size: str | None = None
    """In micrometres; an attribute as well."""


def find_roles(
    columns: Sequence[str],
    asked: Asked,
    *,
    table: str,
    hints: Mapping[str, str] | None = None,
) -> Roles:
    """Return who plays which role among `columns`.

    Args:
        hints: columns by role for roles that no usual name fills.

    Raises:
        DataError: a column that the caller named is not in the table, or one is there twice.
    """
    if twice := [name for name in columns if columns.count(name) > 1]:
        raise DataError(f"{table} has the column {twice[0]!r} twice", remedy="Rename one of them")
    named = [
        asked.label, asked.image, asked.group, asked.pixel_size, *(asked.attributes or ())
    ]  # fmt: skip
    missing = [name for name in named if name is not None and name not in columns]
    if missing:
        raise DataError(
            f"{table} has no column {missing[0]!r}", remedy=f"It has {', '.join(columns)}"
        )
    given = {"label": asked.label, "image": asked.image, "group": asked.group}
    found = {
        role: given.get(role)
        or next((name for name in usual if name in columns), None)
        or (hints or {}).get(role)
        or None
        for role, usual in USUAL.items()
    }
    rest = tuple(name for name in columns if name not in found.values())
    return Roles(
        **found,
        attributes=asked.attributes if asked.attributes is not None else rest,
        pixel_size=asked.pixel_size or next((n for n in PIXEL_SIZES if n in columns), None),
    )


def ids_as_paths(roles: Roles) -> Roles:
    """Return roles in which ids name the files where no column holds paths, as HAM10000 has it."""
    return roles if roles.image or not roles.id else replace(roles, image=roles.id)


def other_case(columns: Sequence[str]) -> dict[str, str]:
    """Return columns by role that are called as usual but for upper case: 'Label', 'FileName'."""
    folded = {name.casefold(): name for name in reversed(columns)}
    found = {
        role: next((folded[name] for name in USUAL[role] if name in folded), None)
        for role in ("image", "label")
    }
    return {role: name for role, name in found.items() if name is not None}


def likely_groups(columns: Sequence[str]) -> list[str]:
    """Return the columns whose names speak of patients, slides or studies."""
    bare = {name: re.sub(r"[\W_]", "", name).casefold() for name in columns}
    return [name for name in columns if LIKELY_GROUP.fullmatch(bare[name])]


def required(roles: Roles, role: str, columns: Sequence[str], *, table: str) -> str:
    """Return the column that plays `role`.

    Raises:
        DataError: none does.
    """
    name: str | None = getattr(roles, role)
    if name is None:
        raise DataError(
            f"{table} has no {role} column: none of {', '.join(USUAL[role])}",
            remedy=f"Name it, for example --{role} {columns[0]} ({role}={columns[0]!r} in Python)"
            if len(columns) > 1
            else "Write a head with a name for each column, separated by commas",
        )
    return name


def image_of_row(
    values: Mapping[str, str],
    roles: Roles,
    *,
    row: str,
    default_id: str,
    label: str | None,
    image: Stored,
    mask: Stored | None,
) -> RealImage:
    """Return the image that one row describes; empty cells count as absent.

    Raises:
        DataError: no label.
    """
    label = label or (values.get(roles.label, "").strip() if roles.label else None)
    if not label:
        raise DataError(f"{row} has no label", remedy="Fill the label or drop the row")
    group = (values.get(roles.group) if roles.group else None) or ""
    return RealImage(
        id=(values.get(roles.id, "").strip() if roles.id else None) or default_id,
        label=label,
        group=group.strip(),
        grouped_by=roles.group or "" if group.strip() else "",
        attributes={name: values[name] for name in roles.attributes if values.get(name)},
        image=image,
        mask=mask,
        drawn=told_by(values),
        pixel_size_um=_pixel_size(values, roles, row),
    )


def _pixel_size(values: Mapping[str, str], roles: Roles, row: str) -> float | None:
    text = values.get(roles.pixel_size) if roles.pixel_size else None
    if not text or not text.strip():
        return None
    if (size := positive(text)) is None:
        raise DataError(
            f"{row}: {roles.pixel_size} is {text!r}, no size of a pixel in micrometres",
            remedy="Write a number above 0, or leave the cell empty",
        )
    return size


def id_of_path(path: PurePath) -> str:
    """Return an image's id by its path below the dataset's root: no suffix, no `images/`.

    A class folder and the table that lists its files thus name an image alike; digits alone are no
    suffix ('slide.0'). A path that names no file, such as '.', gives ''.
    """
    if not path.name:
        return ""
    bare = path if path.suffix[1:].isdigit() else path.with_suffix("")
    if path.is_absolute():  # an id must not depend on where this machine keeps its files
        return bare.name
    parts = bare.parts
    return "/".join(parts[1:] if len(parts) > 1 and parts[0] == "images" else parts)


class Names:
    """Pictures, given by their paths below a folder, by what the cells of a table call them."""

    def __init__(self, pictures: Iterable[PurePath]) -> None:
        self._by_path: dict[str, PurePath] = {}
        self._by_id: defaultdict[str, list[PurePath]] = defaultdict(list)
        self._by_name: defaultdict[str, list[PurePath]] = defaultdict(list)
        for path in pictures:
            self._by_path[composed(path.as_posix())] = path
            self._by_id[composed(id_of_path(path))].append(path)
            self._by_name[composed(path.stem)].append(path)

    def called(self, cell: str) -> Sequence[PurePath]:
        """Return what a cell names: a path with or without suffix, or a file's bare name.

        Of a path the suffix need not be right; a bare name is one without folders and suffix.
        """
        text = composed(cell.strip())
        for spelling in (text, text.replace("\\", "/")):
            if path := self._by_path.get(spelling):
                return [path]
            for name in (spelling, _without_images(spelling), id_of_path(PurePosixPath(spelling))):
                if paths := self._by_id.get(name):
                    return paths
        return () if has_picture_suffix(text) else self._by_name.get(text, ())


def has_picture_suffix(name: str) -> bool:
    """Return whether a name ends as pictures' names do."""
    return PurePosixPath(name).suffix.lower() in SUFFIXES


@dataclass(frozen=True)
class Files:
    """The files below a folder, by what the cells of a table call them.

    `asked` says that the caller named the folder: paths that begin on another machine are then
    looked for by their ends.
    """

    root: Path
    asked: bool = False

    def find(self, cell: str, *, row: str) -> tuple[Stored, str]:
        """Return the file that a cell names, and the id that follows from it.

        A path may have backslashes, blanks around it, or letters composed otherwise than its
        file's name; an id without suffix names the one file that is called so. What is not found
        says so when it is read.

        Raises:
            DataError: an empty cell, or one that several files answer to.
        """
        text = cell.strip()
        if not text or not id_of_path(PurePosixPath(text)):
            raise DataError(f"{row} names no image", remedy="Fill the path or drop the row")
        for spelling in _spellings(cell):
            if os.path.isfile(self.root / spelling):
                return FileBytes(path=self.root / spelling), id_of_path(PurePosixPath(spelling))
        if "://" in text:
            return _unreadable(
                text,
                f"{row} names the address {_public(text)}, no file",
                "Download the images, and write their paths",
            )
        slashed = text.replace("\\", "/")
        if slashed.startswith("/") or PureWindowsPath(text).drive:
            return self._elsewhere(text, row)
        if not has_picture_suffix(slashed) and (hits := self._names.called(slashed)):
            return FileBytes(path=self.root / only(hits, cell=text, row=row)), _without_images(
                slashed
            )
        return FileBytes(path=self.root / slashed), id_of_path(PurePosixPath(slashed))

    def _elsewhere(self, text: str, row: str) -> tuple[Stored, str]:
        """Find a path of another machine by its end, where the caller says where to look."""
        parts = PureWindowsPath(text).parts
        for start in range(1, len(parts) if self.asked else 0):
            tail = PurePosixPath(*parts[start:])
            if os.path.isfile(self.root / tail):
                return FileBytes(path=self.root / tail), id_of_path(tail)
        where = f"below {self.root}, nor " if self.asked else ""
        return _unreadable(
            text,
            f"{row} names {text}, which is not {where}on this machine",
            "Name the folder that holds the images (--root FOLDER, root=FOLDER): the end of each"
            " path is looked for there",
        )

    @cached_property
    def _names(self) -> Names:
        below = (path.relative_to(self.root) for path in files_below(self.root))
        return Names(
            path
            for path in below
            if has_picture_suffix(path.name) and not any(p.startswith(".") for p in path.parts)
        )


def only(paths: Sequence[PurePath], *, cell: str, row: str) -> PurePath:
    """Return the one file that a cell names.

    Raises:
        DataError: several are called so.
    """
    if len(paths) > 1:
        raise DataError(
            f"{row} names {cell!r}, and {len(paths)} files are called so: {paths[0]}, {paths[1]}",
            remedy="Write the path of the one that is meant, with its suffix",
        )
    return paths[0]


def _spellings(cell: str) -> Iterator[str]:
    """Yield how the file may be spelled that a cell names; as it stands first."""
    yield cell
    for text in (cell.strip(), cell.strip().replace("\\", "/")):
        yield text
        yield composed(text)
        yield unicodedata.normalize("NFD", text)


def _without_images(path: str) -> str:
    return path.removeprefix("images/")


def _public(url: str) -> str:
    """Return an address without what may be secret in it: user, password, query."""
    try:
        parts = urlsplit(url)
        return f"{parts.scheme}://{parts.hostname or ''}{parts.path}"
    except ValueError:  # no address after all
        return url.partition("://")[0] + "://..."


def _unreadable(text: str, what: str, remedy: str) -> tuple[Stored, str]:
    name = _public(text) if "://" in text else text
    return Unreadable(name=name, what=what, remedy=remedy), name
