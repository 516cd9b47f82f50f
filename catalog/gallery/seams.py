"""Releases and tombstones, where this factory has them: a catalog without them has none."""

from importlib import import_module
from types import ModuleType
from typing import Any

from catalog.place import StorageOptions
from catalog.selection import Selection


def list_releases(uri: str, storage_options: StorageOptions | None) -> list[Any]:
    """Return the releases of a catalog, the latest first.

    Raises:
        CatalogError: they cannot be read.
    """
    module = _module("catalog.releases")
    found = [] if module is None else module.list_releases(uri, storage_options)
    return sorted(found, key=lambda release: (release.created_at, release.name), reverse=True)


def open_release(uri: str, name: str, storage_options: StorageOptions | None) -> Selection:
    """Return the images of a release, of a retracted one too: to look is not to use.

    Raises:
        CatalogError: no such release, or it may not be shown.
    """
    module = import_module("catalog.releases")
    selection: Selection = module.open_release(uri, name, storage_options, allow_retracted=True)
    return selection


def forgotten(
    uri: str, storage_options: StorageOptions | None
) -> tuple[frozenset[str], frozenset[str]]:
    """Return the ids of images and of generators that are not to be shown any more.

    Raises:
        CatalogError: they cannot be read.
    """
    module = _module("catalog.tombstones")
    if module is None:
        return frozenset(), frozenset()
    marked = module.forgotten(uri, storage_options)
    return marked.images, marked.models


def _module(name: str) -> ModuleType | None:
    try:
        return import_module(name)
    except ModuleNotFoundError as error:
        if error.name != name:
            raise
        return None
