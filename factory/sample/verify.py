"""Redraw some images of a release: that its recipes still give the pixels that were released."""

import heapq
from collections.abc import Iterator

from catalog.releases import audited, find_release
from factory.digest import digest
from factory.errors import ConfigError
from factory.sample.regenerate import Outcome, regenerate_images

TIERS = ("identical", "equal", "different")
"""What `Outcome.tier` 0, 1 and 2 are called."""


def redraw_release(
    catalog_uri: str,
    name: str,
    count: int,
    *,
    seed: int = 0,
    model: str | None = None,
    data: str | None = None,
    storage_options: dict[str, str] | None = None,
) -> Iterator[Outcome]:
    """Yield an outcome for each of `count` images of a release (or all), chosen by `seed`.

    Args:
        catalog_uri: the catalog.
        name: the release; a base name means its latest.
        count: how many images; fewer where the release has fewer.
        seed: decides which, together with the ids alone.
        model, data, storage_options: see `regenerate_images`.

    Raises:
        ConfigError: count < 1.
        CatalogError, ModelError, DataError: see `find_release` and `regenerate_images`.
    """
    if count < 1:
        raise ConfigError(f"{count} images cannot be redrawn", remedy="Ask for 1 or more")
    release = find_release(catalog_uri, name, storage_options)
    ids = audited(catalog_uri, release, storage_options).image_ids
    chosen = heapq.nsmallest(count, ids, key=lambda image_id: digest(["redraw", seed, image_id]))
    yield from regenerate_images(
        catalog_uri,
        image_ids=chosen,
        model=model,
        data=data,
        storage_options=storage_options,
    )
