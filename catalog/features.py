"""Features of a catalog's images, their map, and the few images that cover the others.

A row of `features` is an image's vector in one feature space; a row of `maps` holds the principal
axes of a space, of which the first two are the map. `catalog.embed` writes both.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from catalog.files import Files
from catalog.place import Where
from catalog.progress import FILES_AT_A_TIME
from catalog.schema import MAPS
from catalog.sink import append_once
from catalog.store import reading
from catalog.table import Catalog
from factory.errors import CatalogError
from factory.measure.near import Axes, Vectors, farthest_first

if TYPE_CHECKING:
    from catalog.selection import Selection

FITTED_ON = 20_000
"""Rows that axes are fitted on, evenly chosen."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Map:
    """The latest axes of a space."""

    space: str
    digest: str
    event: int
    num_images: int
    axes: Axes


def vectors_of(
    catalog: Catalog, digest: str, files: Files | None = None, *, width: int | None = None
) -> Iterator[tuple[pa.Array, Vectors]]:
    """Yield (ids, vectors (n, D)) of a space, in the order of the files.

    Args:
        files: of the table; default: all.
        width: D, where it is known; default: that of the first.

    Raises:
        CatalogError: a file is gone, or vectors are none or of unequal length: anybody may have
            written them.
    """
    files = files or catalog.files("features")
    match = pc.field("space_digest") == digest
    order = files.listed.take(pc.sort_indices(files.listed["path"]))
    for start in range(0, len(order), FILES_AT_A_TIME):
        part = Files(listed=order.slice(start, FILES_AT_A_TIME), schema=files.schema,
                     filesystem=files.filesystem)  # fmt: skip
        batches = part.dataset().to_batches(
            columns=["image_id", "features"], filter=match, batch_readahead=2, fragment_readahead=2
        )
        with reading(catalog.uri, part):
            for batch in batches:
                if len(batch) == 0:
                    continue
                flat = batch["features"].flatten()
                width = width or len(flat) // len(batch)
                vectors = _vectors(batch["features"], flat, width)
                if vectors is None:
                    raise CatalogError(
                        f"a row of 'features' in {catalog.uri!r} holds no {width} numbers",
                        remedy="Move the folder 'features' away and compute them again with"
                        " `factory catalog embed`",
                    )
                yield batch["image_id"], vectors


def maps_of(catalog: Catalog) -> dict[str, Map]:
    """Return the latest map of every space by digest, that of most images first.

    Raises:
        CatalogError: one that is none.
    """
    rows = catalog.maps_latest()
    found = [_map_of(rows, number, catalog) for number in range(len(rows))]
    found.sort(key=lambda each: (-each.num_images, each.digest))
    return {each.digest: each for each in found}


def fit_map(
    place: Where, digest: str, *, now: datetime, code_version: str, anew: bool = False
) -> Map | None:
    """Fit the axes of a space where there are none, or twice as many images as when they were.

    Until then places on the map stay. Returns the new map, or None where the old one stays.

    Raises:
        CatalogError: it cannot be read or written.
    """
    catalog = Catalog(place)
    old = maps_of(catalog).get(digest)
    count = _count(catalog, digest)
    if count == 0 or (old is not None and count < 2 * old.num_images and not anew):
        return None
    step = -(-count // FITTED_ON)
    chosen, seen = [], 0
    for _, vectors in vectors_of(catalog, digest):
        chosen.append(vectors[-seen % step :: step])
        seen += len(vectors)
    axes = Axes.of(np.concatenate(chosen))
    names = catalog.dataset("features").to_table(
        columns=["space"], filter=pc.field("space_digest") == digest
    )
    event = 0 if old is None else old.event + 1
    row = {
        "space_digest": digest,
        "event": event,
        "space": names["space"][0].as_py(),
        "num_images": count,
        "mean": axes.mean,
        "axes": axes.axes.reshape(-1),
        "spread": axes.spread,
        "code_version": code_version,
        "created_at": now,
    }
    append_once(
        place,
        "maps",
        pa.Table.from_pylist([row], schema=MAPS),
        key={"space_digest": digest, "event": event},
        app_id=f"map-{digest}",
        app_version=event + 1,
    )
    return maps_of(Catalog(place))[digest]


def diverse(selection: "Selection", count: int) -> tuple[list[str], float]:
    """Return ids of `count` images of a selection that cover it, and how far the others lie.

    Farthest first over the features of the space with most images; the order in which they were
    chosen. The distance is that of the furthest image to its nearest chosen one.

    Raises:
        CatalogError: an image of it has no features, or it has fewer images than that.
    """
    newest = Catalog(selection.catalog.place)  # features come later than the version they are of
    wanted = selection.image_ids
    known = maps_of(newest)
    if not known:
        raise _no_features(len(wanted), len(wanted), selection.catalog.uri)
    found = next(iter(known.values()))
    asked = pa.array(wanted, pa.string())
    ids, placed = [], []
    for some, vectors in vectors_of(newest, found.digest, width=len(found.axes.mean)):
        mask = pc.is_in(some, asked)
        ids.append(some.filter(mask))
        placed.append(found.axes(vectors[np.asarray(mask, bool)]))
    own = pa.concat_arrays(ids)
    if len(own) < len(wanted):
        raise _no_features(len(wanted) - len(own), len(wanted), selection.catalog.uri)
    if count > len(own):
        raise CatalogError(
            f"{count} images are asked of {len(own)}", remedy="Ask for fewer with --diverse"
        )
    order = pc.sort_indices(own)  # whatever the files, equal images give equal choices
    chosen, radius = farthest_first(np.concatenate(placed)[order.to_numpy()], count)
    return own.take(order).take(pa.array(chosen)).to_pylist(), radius


def _no_features(lacking: int, whole: int, uri: str) -> CatalogError:
    return CatalogError(
        f"{lacking} of {whole} images have no features, by which diverse ones are chosen",
        remedy=f"Compute them with `factory catalog embed --catalog {uri}`",
    )


def _vectors(column: pa.Array, flat: pa.Array, width: int) -> Vectors | None:
    """Return a column of lists as (n, width), None where they are not all of that length."""
    even = pc.all(pc.equal(pc.list_value_length(column), width)).as_py()
    if column.null_count or flat.null_count or not width or not even:
        return None
    vectors: Vectors = flat.to_numpy(zero_copy_only=False).reshape(-1, width)
    return vectors if np.isfinite(vectors).all() else None


def _map_of(rows: pa.Table, number: int, catalog: Catalog) -> Map:
    mean, flat, spread = (
        rows[name][number].values.to_numpy(zero_copy_only=False)
        for name in ("mean", "axes", "spread")
    )
    whole = all(
        each.dtype == np.float32 and np.isfinite(each).all() for each in (mean, flat, spread)
    )
    if not whole or len(spread) < 2 or flat.size != len(mean) * len(spread):
        raise CatalogError(
            f"a row of 'maps' in {catalog.uri!r} holds no axes",
            remedy="Move the folder 'maps' away and fit them again with `factory catalog embed`",
        )
    told = {
        name: rows[name][number].as_py()
        for name in ("space", "space_digest", "event", "num_images")
    }
    return Map(
        space=told["space"],
        digest=told["space_digest"],
        event=told["event"],
        num_images=told["num_images"],
        axes=Axes(mean=mean, axes=flat.reshape(len(spread), len(mean)), spread=spread),
    )


def _count(catalog: Catalog, digest: str) -> int:
    files = catalog.files("features")
    with reading(catalog.uri, files):
        found = files.dataset().count_rows(filter=pc.field("space_digest") == digest)
    return int(found)
