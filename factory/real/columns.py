"""Which column of a table plays which role: given by name, or known by its usual name."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePath

from factory.errors import DataError
from factory.real.dataset import RealImage
from factory.real.stored import Stored

USUAL = {
    "id": ("image_id", "id"),
    "image": ("image", "file", "file_name", "filename", "path", "image_path"),
    "mask": ("mask", "mask_path"),
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


@dataclass(frozen=True, slots=True, kw_only=True)
class Roles:
    """The columns of one table by role."""

    id: str | None
    image: str | None
    mask: str | None
    label: str | None
    group: str | None
    attributes: tuple[str, ...]


def find_roles(columns: Sequence[str], asked: Asked, *, table: str) -> Roles:
    """Return who plays which role among `columns`.

    Raises:
        DataError: a column that the caller named is not in the table, or one is there twice.
    """
    if twice := [name for name in columns if columns.count(name) > 1]:
        raise DataError(f"{table} has the column {twice[0]!r} twice", remedy="Rename one of them")
    named = [asked.label, asked.image, asked.group, *(asked.attributes or ())]
    missing = [name for name in named if name is not None and name not in columns]
    if missing:
        raise DataError(
            f"{table} has no column {missing[0]!r}", remedy=f"It has {', '.join(columns)}"
        )
    given = {"label": asked.label, "image": asked.image, "group": asked.group}
    found = {
        role: given.get(role) or next((name for name in usual if name in columns), None)
        for role, usual in USUAL.items()
    }
    rest = tuple(name for name in columns if name not in found.values())
    return Roles(**found, attributes=asked.attributes if asked.attributes is not None else rest)


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
    label = label or (values.get(roles.label) if roles.label else None)
    if not label:
        raise DataError(f"{row} has no label", remedy="Fill the label or drop the row")
    return RealImage(
        id=(values.get(roles.id) if roles.id else None) or default_id,
        label=label,
        group=(values.get(roles.group) if roles.group else None) or "",
        attributes={name: values[name] for name in roles.attributes if values.get(name)},
        image=image,
        mask=mask,
    )


def id_of_path(path: PurePath) -> str:
    """Return an image's id by its path below the dataset's root: no suffix, no `images/`.

    A class folder and the table that lists its files thus name an image alike. A path that names
    no file, such as '.', gives ''.
    """
    if not path.name:
        return ""
    if path.is_absolute():  # an id must not depend on where this machine keeps its files
        return path.stem
    parts = path.with_suffix("").parts
    return "/".join(parts[1:] if len(parts) > 1 and parts[0] == "images" else parts)
