"""Where an export may appear: a new or empty folder, or that of the same export, untouched."""

import hashlib
import json
from pathlib import Path
from typing import Any

from factory.errors import OutputError

STATEMENT = "statement.intoto.json"


def check_place(folder: Path, export_id: str) -> None:
    """Refuse a folder in which something would be lost.

    Raises:
        OutputError: a file or a link, or a folder that holds anything but this same export.
    """
    if folder.is_symlink():
        raise OutputError(
            f"{str(folder)!r} is a symbolic link", remedy="Name the folder that it leads to"
        )
    if not folder.exists():
        return
    if not folder.is_dir():
        raise OutputError(f"{str(folder)!r} is a file", remedy="Give a folder with --out")
    names = {path.relative_to(folder).as_posix(): path for path in folder.rglob("*")}
    if not names:
        return
    statement = _statement(folder)
    if statement is None or _id_of(statement) != export_id:
        what = "another export" if statement else "files that are no export"
        raise OutputError(
            f"{str(folder)!r} holds {what}", remedy="Give a new folder with --out, or empty it"
        )
    known = {subject["name"] for subject in statement["subject"]} | {STATEMENT}
    files = {name for name, path in names.items() if path.is_symlink() or not path.is_dir()}
    links = {name for name, path in names.items() if path.is_symlink()}
    foreign = sorted(files - known) + sorted(links)
    if foreign:
        raise OutputError(
            f"{str(folder / foreign[0])!r} is not of this export",
            remedy="Move it elsewhere: the folder is replaced as a whole",
        )


def sha256_of(path: Path) -> str:
    """Return the SHA-256 of a file in hex, whatever its size."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _statement(folder: Path) -> dict[str, Any] | None:
    path = folder / STATEMENT
    if path.is_symlink() or not path.is_file():
        return None
    try:
        told: dict[str, Any] = json.loads(path.read_bytes())
        _id_of(told), [subject["name"] for subject in told["subject"]]
    except (ValueError, KeyError, TypeError):
        return None
    return told


def _id_of(statement: dict[str, Any]) -> str:
    return str(statement["predicate"]["buildDefinition"]["internalParameters"]["export_id"])
