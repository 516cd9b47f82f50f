"""How an image that a model drew is known when it comes back among real ones.

Copies may carry a mark in their bytes (PNG text, XMP, C2PA), tables the column `is_synthetic`,
DICOM files an attribute; an export's manifest knows its images by their digests. An image that
carries none of these cannot be told from a real one.
"""

import csv
from collections.abc import Iterable, Mapping
from pathlib import Path, PurePath

MANIFEST = "manifest.csv"
"""File by which every export leads from ids to files."""
COLUMN = "is_synthetic"
"""Column of catalogs and exports; true: drawn."""
DELTA_LOG = "_delta_log"
"""Folder by which a table of a catalog is known."""

SOURCE_TYPE = "http://cv.iptc.org/newscodes/digitalsourcetype/trainedAlgorithmicMedia"
"""IPTC's and C2PA's name for pictures drawn by a trained model."""

_MARK = SOURCE_TYPE.rpartition("/")[2].encode()
_LEVELS = 4
"""Folders above an image in which its export's manifest may lie."""


def mark_in(data: bytes) -> str:
    """Return what in an encoded picture says that it was drawn, or ''."""
    return f"its metadata say {_MARK.decode()}" if _MARK in data else ""


def told_by(values: Mapping[str, str]) -> str:
    """Return what in a table's row says that its image was drawn, or ''."""
    says = values.get(COLUMN, "").strip().lower()
    return f"column {COLUMN}" if says in ("true", "1", "yes") else ""


def delta_table(root: Path, files: Iterable[PurePath]) -> Path | None:
    """Return the Delta table that `root` is, lies in, or holds among its `files`, None without."""
    for folder in _upwards(root):
        if (folder / DELTA_LOG).is_dir():
            return folder
    inside = next((path for path in files if DELTA_LOG in path.parts), None)
    if inside is None:
        return None
    return root.joinpath(*inside.parts[: inside.parts.index(DELTA_LOG)])


def exported_near(paths: Iterable[Path]) -> dict[str, str]:
    """Return the digests of the images of exports in or above whose folders `paths` lie.

    A digest (SHA-256 of an encoded image) leads to the manifest that lists it.
    """
    folders = {folder for path in {p.parent for p in paths} for folder in _upwards(path)}
    found: dict[str, str] = {}
    for folder in sorted(folders):
        found |= dict.fromkeys(_digests(folder / MANIFEST), f"listed in {folder / MANIFEST}")
    return found


def _upwards(folder: Path) -> list[Path]:
    return [folder, *folder.parents][:_LEVELS]


def _digests(manifest: Path) -> list[str]:
    """Return the digests in an export's manifest, none where it is something else."""
    try:
        with manifest.open(encoding="utf-8", newline="") as file:
            rows = csv.DictReader(file)
            if not {"file_sha256", "recipe_digest", COLUMN} <= set(rows.fieldnames or ()):
                return []
            return [row["file_sha256"] for row in rows if row["file_sha256"]]
    except (OSError, UnicodeDecodeError, csv.Error):
        return []
