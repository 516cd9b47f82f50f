"""The view that an address asks for: a version, what a release pins, what satisfies a condition."""

from functools import partial
from typing import Any

import pyarrow as pa

from catalog.gallery.faults import BadAddress
from catalog.gallery.filters import Filters, condition_name, release_name
from catalog.gallery.index import Index, View
from catalog.query import quoted
from catalog.releases import Release, list_releases, open_release
from catalog.schema import SAMPLES
from catalog.table import Catalog
from factory.errors import CatalogError

CONDITION_SECONDS = 10.0
"""A condition in SQL may take so long."""


def releases_of(index: Index) -> list[Release]:
    """Return the releases of a catalog, the latest first."""
    found = list_releases(index.uri, index.storage_options)
    return sorted(found, key=lambda release: (release.created_at, release.name), reverse=True)


def view_of(index: Index, filters: Filters) -> View:
    """Return the view that the filters are about, after the index has learnt their selections.

    Raises:
        BadAddress: no such version or release, or a condition that is none or takes too long.
    """
    try:
        pinned = _pinned(index, filters.release) if filters.release else filters.version
        if filters.version not in (None, pinned):
            raise BadAddress(
                f"release {filters.release!r} pins version {pinned}, not {filters.version}",
                remedy="Leave the version out",
            )
        view = index.at(pinned)
        if filters.where:
            _learn(index, view, condition_name(view.catalog.version, filters.where), filters.where)
    except CatalogError as error:
        raise BadAddress(error.what, remedy=error.remedy) from error
    return view


def holding(index: Index, row: dict[str, Any]) -> list[Release]:
    """Return the releases that hold the image of an index's row."""
    return [release for release in releases_of(index) if _holds(index, release, row)]


def _learn(index: Index, view: View, name: str, where: str) -> None:
    if index.remembers(name):
        return
    version = view.catalog.version
    for text in (  # by itself too: 'a) OR (b' is no condition
        f"SELECT 1 FROM samples WHERE {where}\nLIMIT 0",
        f"SELECT image_id, run_id FROM samples WHERE ({where}\n)",
    ):
        found = index.typed.ask(text, seconds=CONDITION_SECONDS, version=version)
    index.remember(name, found)


def _pinned(index: Index, name: str) -> int:
    """Return the version that a release pins, once the index knows the release's images."""
    found = next((release for release in releases_of(index) if release.name == name), None)
    if found is None:
        raise BadAddress(f"there is no release {name!r}", remedy="Choose one under Releases")
    key = release_name(name)
    if not index.remembers(key):
        # a retracted one too: to look is not to use
        held = open_release(
            index.uri, name, index.storage_options, allow_retracted=True, ask=partial(_ask, index)
        )
        parts = held.batches(["image_id", "run_id"])
        schema = pa.schema([SAMPLES.field("image_id"), SAMPLES.field("run_id")])
        index.remember(key, pa.concat_tables([schema.empty_table(), *parts]))
    return found.version


def _ask(index: Index, catalog: Catalog, text: str) -> pa.Table:
    return index.stored.ask(text, seconds=CONDITION_SECONDS, version=catalog.version)


def _holds(index: Index, release: Release, row: dict[str, Any]) -> bool:
    """Whether a release holds an image: asked of the one file that may have it."""
    text = (
        f"SELECT count(*) AS n FROM samples WHERE run_id = {quoted(row['run_id'])}"
        f" AND batch_index = {int(row['batch_index'])} AND image_id = {quoted(row['image_id'])}"
        f" AND ({release.where}\n)"
    )
    if release.name in index.unanswered:
        return False
    try:
        found = index.stored.ask(text, seconds=CONDITION_SECONDS, version=release.version)
    except CatalogError:
        index.unanswered.add(release.name)  # once is enough: every image's page would wait
        return False
    return bool(found["n"][0].as_py())
