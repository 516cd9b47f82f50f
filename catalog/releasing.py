"""Making and retracting releases: the version is measured, the event is what makes one exist.

The list of files is written first, under the manifest's digest; a release exists from the moment
of its event in `releases`. A creation that is killed in between leaves nothing that anybody reads,
and asking again makes the release.
"""

import json
import re
from collections.abc import Mapping
from dataclasses import asdict, replace
from datetime import datetime
from typing import Any

from catalog.manifest import (
    FIRST,
    Manifest,
    Version,
    difference,
    manifest_digest,
    parse_semver,
    raised,
    read_manifest,
    read_rows,
    rows_digest,
    semver_text,
)
from catalog.place import Where
from catalog.releases import Release, audited, find_release, list_releases
from catalog.reviews import names_reviews
from catalog.schema import CREATED, RETRACTED
from catalog.selection import Selection, accepted
from catalog.sink import append_once, typed_rows
from catalog.table import Catalog
from catalog.tombstones import forgotten
from factory.errors import CatalogError

_BASE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_ATTEMPTS = 8


def create_release(
    place: Where,
    name: str,
    *,
    where: str | None = None,
    version: int | None = None,
    now: datetime,
    code_version: str,
) -> Release:
    """Release the accepted rows that satisfy `where`; return the release.

    The rows and files of the latest release of this base name again, if it was not retracted, are
    that release: asking twice makes one.

    Args:
        place: the catalog.
        name: base name ('wbc'), or with a version ('wbc@2.0.0') that must be high enough.
        where: SQL condition beside `gate_status = 'accepted'`, which always holds.
        version: of `samples`; the newest by default.
        now: when it is created.
        code_version: recorded.

    Raises:
        CatalogError: a bad name or condition, no such version, no rows, a version that is too low,
            files that are gone, or not writable.
    """
    base, asked = _asked(name)
    selection = _selected(place, where, version)
    manifest = read_manifest(selection)
    of_rows = rows_digest(manifest.rows)
    if rows_digest(read_rows(_again(selection))[0]) != of_rows:
        raise CatalogError(
            f"the condition {where!r} gives other rows every time",
            remedy="Write one that depends on the rows alone, such as hash(image_id) % 10 = 0",
        )
    of_all = manifest_digest(of_rows, manifest.files)
    for _ in range(_ATTEMPTS):
        latest = _latest(place, base)
        same = latest is not None and latest.manifest_digest == of_all and not latest.retracted
        if latest is not None and same and asked in (None, parse_semver(latest.semver)):
            return latest
        semver = _semver(place, manifest, of_rows, latest, asked)
        row = {
            "name": f"{base}@{semver}",
            "base_name": base,
            "semver": semver,
            "previous": None if latest is None else latest.name,
            "catalog_version": selection.catalog.version,
            "condition": selection.where,
            "tombstone_version": None if selection.marked is None else selection.marked.version,
            "num_images": len(manifest.rows),
            "num_files": len(manifest.files),
            "class_counts": json.dumps(manifest.class_counts),
            "rows_digest": of_rows,
            "manifest_digest": of_all,
            "model_ids": manifest.model_ids,
            "split_digests": manifest.split_digests,
            "reason": None,
            "code_version": code_version,
            "created_at": now,
            "review_version": selection.catalog.reviews,
        }
        _record_files(place, row, manifest)
        _record(place, row, 0, now)
        made = find_release(place, str(row["name"]))
        if made.manifest_digest == of_all:
            return made
    raise CatalogError(
        f"release {base!r} was not taken: others release under this name", remedy="Ask again"
    )


def retract_release(
    place: Where,
    name: str,
    reason: str,
    *,
    now: datetime,
    code_version: str,
) -> Release:
    """Mark a release as not to be used, for a reason; one that is retracted stays as it is.

    Raises:
        CatalogError: no reason, no such release, or a base name, which could mean several.
    """
    if not reason.strip():
        raise CatalogError("a release is retracted for a reason", remedy="Give --reason TEXT")
    release = find_release(place, name)
    if release.name != name:
        raise CatalogError(
            f"{name!r} does not say which version", remedy=f"Give one, such as {release.name}"
        )
    if release.retracted:
        return release
    row = asdict(release)
    row["catalog_version"], row["condition"] = row.pop("version"), row.pop("where")
    row["class_counts"] = json.dumps(row["class_counts"])
    changes = {"reason": reason.strip(), "code_version": code_version}
    _record(place, row | changes, 1, now)
    return find_release(place, name)


def _asked(name: str) -> tuple[str, Version | None]:
    base, at, semver = name.partition("@")
    if not _BASE.fullmatch(base):
        raise CatalogError(
            f"{name!r} is no name of a release",
            remedy="Use up to 64 letters, digits, '.', '_' and '-', such as wbc or wbc@2.0.0",
        )
    return base, parse_semver(semver) if at else None


def _selected(
    place: Where,
    where: str | None,
    version: int | None,
) -> Selection:
    catalog = Catalog(place, version=version)
    if where is not None and names_reviews(where):
        held = catalog.version_of("reviews")
        if held is None:
            raise CatalogError(
                f"the condition {where!r} asks what people said of images, and nobody said anything"
                " yet",
                remedy=f"Let somebody look at them: factory review --catalog {place}",
            )
        catalog = Catalog(place, version=catalog.version, reviews=held)
    return accepted(catalog, where, marked=forgotten(place))


def _again(selection: Selection) -> Selection:
    """Return the same selection, not read yet, on the version that it pins."""
    view = selection.catalog
    again = Catalog(view.place, version=view.version, reviews=view.reviews)
    return replace(selection, catalog=again)


def _latest(place: Where, base: str) -> Release | None:
    """Return the highest version under a base name, retracted or not: numbers are used once."""
    releases = [r for r in list_releases(place) if r.base_name == base]
    return max(releases, key=lambda release: parse_semver(release.semver), default=None)


def _semver(
    place: Where,
    manifest: Manifest,
    of_rows: str,
    latest: Release | None,
    asked: Version | None,
) -> str:
    """Return the version of the new release, at least what its rows demand."""
    if latest is None:
        return semver_text(asked or FIRST)
    least = raised(parse_semver(latest.semver), "patch")
    if of_rows != latest.rows_digest:
        try:
            before, _ = read_rows(audited(place, latest))
            change = difference(before, manifest.rows).change
        except CatalogError:
            if not latest.retracted:  # its files must be there
                raise
            change = "major"  # vacuum took them: nobody can tell what changed
        least = raised(parse_semver(latest.semver), change)
    if asked is not None and asked < least:
        raise CatalogError(
            f"{semver_text(asked)} is too low after {latest.name}, whose rows differ as they do",
            remedy=f"Leave the version out, or give {semver_text(least)} or a higher one",
        )
    return semver_text(asked or least)


def _record_files(
    place: Where,
    row: Mapping[str, Any],
    manifest: Manifest,
) -> None:
    key = {"name": row["name"], "manifest_digest": row["manifest_digest"]}
    append_once(
        place,
        "release_files",
        typed_rows([key | asdict(file) for file in manifest.files], "release_files"),
        key=key,
        app_id=f"files-{row['name']}-{row['manifest_digest']}",
        app_version=1,
    )


def _record(
    place: Where,
    row: Mapping[str, Any],
    event: int,
    now: datetime,
) -> None:
    status = CREATED if event == 0 else RETRACTED
    whole = {**row, "event": event, "status": status, "updated_at": now}
    append_once(
        place,
        "releases",
        typed_rows([whole], "releases"),
        key={"name": row["name"], "event": event},
        app_id=f"release-{row['name']}",
        app_version=event,
    )
