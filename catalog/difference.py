"""What changed between two sets of rows, and which semantic version says so.

The rules are those of the Croissant specification 1.0 (section on versioning of datasets), read
for images: PATCH when the rows are the same and only the files differ, MINOR when rows were only
added, MAJOR when a row was changed or removed, so that what was trained on the old ones may no
longer be had from the new.
"""

import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import pyarrow as pa
import pyarrow.compute as pc

from factory.errors import CatalogError

Change = Literal["major", "minor", "patch"]
Version = tuple[int, int, int]
Counts = Mapping[str, Mapping[str, int]]
"""group -> {'added': n, 'removed': n, 'changed': n}."""

FIRST: Version = (1, 0, 0)
KINDS = ("added", "removed", "changed")
_IDENTITY = ("image_id", "pixel_sha256", "class_name")
_SEMVER = re.compile(r"(0|[1-9]\d{0,8})\.(0|[1-9]\d{0,8})\.(0|[1-9]\d{0,8})")


@dataclass(frozen=True, kw_only=True)
class Difference:
    """Rows that only `after` has, that only `before` has, and those of both that differ.

    Rows are tables with at least image_id, pixel_sha256, class_name and recipe_digest; a row is
    changed when one image_id has other pixels (or mask) or another class. `changed` holds the rows
    as they are after it.
    """

    added: pa.Table
    removed: pa.Table
    changed: pa.Table

    @property
    def change(self) -> Change:
        """The part of the version that must rise."""
        if len(self.removed) or len(self.changed):
            return "major"
        return "minor" if len(self.added) else "patch"

    @cached_property
    def by_class(self) -> Counts:
        """Counts per class."""
        return self._by("class_name")

    @cached_property
    def by_recipe(self) -> Counts:
        """Counts per recipe digest."""
        return self._by("recipe_digest")

    def _by(self, column: str) -> Counts:
        counts = {kind: Counter(getattr(self, kind)[column].to_pylist()) for kind in KINDS}
        groups = sorted(set().union(*counts.values()))
        return {group: {kind: counts[kind][group] for kind in KINDS} for group in groups}


def difference(before: pa.Table, after: pa.Table) -> Difference:
    """Compare two tables of rows; an image_id stands in each at most once."""
    fresh = pc.invert(pc.is_in(after["image_id"], before["image_id"].combine_chunks()))
    gone = pc.invert(pc.is_in(before["image_id"], after["image_id"].combine_chunks()))
    marks = pa.array(_identities(before), pa.string())
    other = pc.invert(pc.is_in(pa.array(_identities(after), pa.string()), marks))
    return Difference(
        added=after.filter(fresh),
        removed=before.filter(gone),
        changed=after.filter(pc.and_(pa.chunked_array([other]), pc.invert(fresh))),
    )


def parse_semver(text: str) -> Version:
    """Return (major, minor, patch) of 'X.Y.Z'.

    Raises:
        CatalogError: something else.
    """
    match = _SEMVER.fullmatch(text)
    if match is None:
        raise CatalogError(
            f"{text!r} is no semantic version", remedy="Write MAJOR.MINOR.PATCH, such as 1.2.0"
        )
    return (int(match[1]), int(match[2]), int(match[3]))


def semver_text(version: Version) -> str:
    """Return 'X.Y.Z'."""
    return ".".join(map(str, version))


def raised(version: Version, change: Change) -> Version:
    """Return the next version after `version` for a change of this size."""
    major, minor, patch = version
    if change == "major":
        return (major + 1, 0, 0)
    return (major, minor + 1, 0) if change == "minor" else (major, minor, patch + 1)


def _identities(rows: pa.Table) -> list[str]:
    """Return a text per row that is equal for equal rows."""
    columns = (rows[name].to_pylist() for name in _IDENTITY)
    return ["\x00".join(values) for values in zip(*columns, strict=True)]
