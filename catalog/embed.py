"""`embed`: the features that images lack, computed in pieces that are kept.

Pieces of some thousand rows are committed as they come, so a stopped command goes on where it was;
two at a time may compute an image twice, but never store it twice.
"""

from collections.abc import Callable, Iterator, Sequence, Set
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Protocol

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from deltalake import DeltaTable
from deltalake.transaction import AddAction
from numpy.typing import NDArray

from catalog.batch import file_statistics, parquet_bytes
from catalog.boundary import check_rows
from catalog.features import fit_map
from catalog.files import Files, listed_files
from catalog.place import Where
from catalog.progress import FILES_AT_A_TIME
from catalog.schema import FEATURES
from catalog.sheet import decoded
from catalog.sink import now_ms
from catalog.store import filesystem, put, reading
from catalog.table import Catalog
from catalog.tombstones import forgotten
from catalog.transaction import Addition, Snapshots, commit_missing
from factory.digest import digest_bytes
from factory.errors import CatalogError
from factory.measure.near import Vectors

PIECE = 2048
"""Rows of a commit."""
AT_ONCE = 64
"""Images that are decoded and computed together."""


class Space(Protocol):
    """What computes features: `factory.measure.rings.RingSpace`, or a network's `FeatureSpace`."""

    @property
    def name(self) -> str:
        """What figures call it."""

    @property
    def digest(self) -> str:
        """Names all that decides a vector."""

    def extract(self, images: NDArray[np.uint8]) -> Vectors:
        """Return vectors (N, D) of RGB images (N, H, W, 3)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Embedded:
    """What `embed` did."""

    added: int
    held: int
    """Images that had features already."""
    broken: tuple[str, ...]
    """Images that are no readable PNG: they have none, and are tried again next time."""
    fitted: bool
    """The map was fitted anew: places on it have changed."""


def space_of(weights: Path | None) -> Space:
    """Return the space of a network's weights, or the one that needs none.

    Raises:
        ModelError: the file is missing, unreadable, or of an unknown network.
    """
    if weights is None:
        from factory.measure.rings import RingSpace

        return RingSpace()
    from factory.measure.features import load_feature_space

    return load_feature_space(weights)


def embed(
    place: Where,
    space: Space,
    *,
    now: datetime,
    code_version: str,
    tell: Callable[[int, int], None] | None = None,
) -> Embedded:
    """Compute and store the features that images of the newest version lack, then fit the map.

    Published and rejected ones alike, but for what is marked as forgotten. Memory holds the ids,
    one piece of features and a few images.

    Args:
        tell: called with how many are done, of how many.

    Raises:
        CatalogError: no catalog there, a data file is gone, or it cannot be written.
    """
    catalog = Catalog(place)
    store = _Store(place, space)
    held = len(store.held)
    lacking, paths = _lacking(catalog, store.held)
    pictures = _Pictures(catalog=catalog, ids=lacking, paths=paths)
    ids: list[str] = []
    rows: list[Vectors] = []
    done = 0
    for some, images in pictures:
        ids += some
        rows.append(space.extract(images))
        done += len(some)
        if len(ids) >= PIECE:
            store.add(ids, np.concatenate(rows))
            ids, rows = [], []
        if tell is not None:
            tell(done, len(lacking))
    if ids:
        store.add(ids, np.concatenate(rows))
    fitted = fit_map(place, space.digest, now=now, code_version=code_version)
    return Embedded(added=done, held=held, broken=tuple(pictures.broken), fitted=fitted is not None)


def _lacking(catalog: Catalog, held: Set[str]) -> tuple[set[str], list[str]]:
    """Return ids of images without features, and the files of `samples` that hold them."""
    marked = forgotten(catalog.place)
    files = catalog.files("samples")
    lacking: set[str] = set()
    paths: dict[str, None] = {}
    columns = ["image_id", "model_id", "__filename"]
    with reading(catalog.uri, files):
        for batch in files.dataset().to_batches(columns=columns, fragment_readahead=2):
            rows = pa.table(batch)
            rows = rows.filter(pc.invert(marked.holds(rows)))
            for image_id, path in zip(
                rows["image_id"].to_pylist(), rows["__filename"].to_pylist(), strict=True
            ):
                if image_id not in held and image_id not in lacking:
                    lacking.add(image_id)
                    paths[path] = None
    return lacking, sorted(paths)


@dataclass(slots=True, kw_only=True)
class _Pictures:
    """Iterates (ids, images (n, H, W, 3)) of some images of a catalog, n of one size."""

    catalog: Catalog
    ids: set[str]
    paths: Sequence[str]
    broken: list[str] = field(default_factory=list)

    def __iter__(self) -> Iterator[tuple[list[str], NDArray[np.uint8]]]:
        waiting: dict[tuple[int, ...], tuple[list[str], list[NDArray[np.uint8]]]] = {}
        left = set(self.ids)
        for image_id, picture in self._rows():
            if image_id not in left:
                continue
            left.discard(image_id)  # two runs may have drawn it
            pixels = self._pixels(image_id, picture)
            if pixels is None:
                continue
            ids, images = waiting.setdefault(pixels.shape, ([], []))
            ids.append(image_id)
            images.append(pixels)
            if len(ids) >= AT_ONCE or sum(len(i) for i, _ in waiting.values()) > 4 * AT_ONCE:
                yield ids, np.stack(images)
                del waiting[pixels.shape]
        for ids, images in waiting.values():
            yield ids, np.stack(images)

    def _rows(self) -> Iterator[tuple[str, dict[str, bytes]]]:
        files = self.catalog.files("samples")
        for start in range(0, len(self.paths), FILES_AT_A_TIME):
            some = pa.array(self.paths[start : start + FILES_AT_A_TIME], pa.string())
            part = files.dataset(np.asarray(pc.is_in(files.listed["path"], some), bool))
            with reading(self.catalog.uri, files):
                for batch in part.to_batches(
                    columns=["image_id", "image", "__filename"], batch_size=AT_ONCE,
                    batch_readahead=2, fragment_readahead=1,
                ):  # fmt: skip
                    rows = check_rows(pa.table(batch), self.catalog.named)
                    ids = rows["image_id"].to_pylist()
                    wanted = pa.array([i in self.ids for i in ids], pa.bool_())
                    kept = rows.filter(wanted)
                    yield from zip(
                        kept["image_id"].to_pylist(), kept["image"].to_pylist(), strict=True
                    )

    def _pixels(self, image_id: str, picture: dict[str, bytes]) -> NDArray[np.uint8] | None:
        try:
            return np.asarray(decoded(picture, image_id), np.uint8)
        except CatalogError:
            self.broken.append(image_id)
            return None


class _Store:
    """The rows of one space, to which each image is added once, whoever else adds to it."""

    def __init__(self, place: Where, space: Space) -> None:
        self.place, self.space = place, space
        self._snapshots = Snapshots(place, "features")
        self._app = f"features-{space.digest}"
        self._look(self._snapshots.newest())

    @property
    def held(self) -> Set[str]:
        """The ids of images that have features, as far as is known."""
        return self._held

    def add(self, ids: Sequence[str], vectors: Vectors) -> None:
        """Publish rows, but for those that are there or that others have published since."""
        offsets = np.arange(0, vectors.size + 1, vectors.shape[1], dtype=np.int32)
        lists = pa.ListArray.from_arrays(
            pa.array(offsets), pa.array(vectors.reshape(-1), pa.float32()),
            type=FEATURES.field("features").type,
        )  # fmt: skip
        named = [self.space.name] * len(ids), [self.space.digest] * len(ids)
        table = pa.table([pa.array(ids, pa.string()), *named, lists], schema=FEATURES)

        def missing(snapshot: DeltaTable) -> Addition | None:
            if self._version(snapshot) != self._seen:
                self._look(snapshot)
            fresh = table.filter(pa.array([i not in self._held for i in ids], pa.bool_()))
            if len(fresh) == 0:
                return None
            data = parquet_bytes(fresh)
            path = f"features-{digest_bytes(data)[:32]}.parquet"
            put(self.place, "features", path, data)
            stats = file_statistics(fresh, ("space_digest",))
            return Addition(
                actions=[AddAction(path, len(data), {}, now_ms(), True, stats)],
                app_id=self._app,
                app_version=self._seen + 1,
                note={"space": self.space.name, "num_rows": len(fresh)},
            )

        commit_missing(self._snapshots, missing)
        if not self._held.issuperset(ids):
            self._held.update(ids)
            self._seen += 1

    def _version(self, snapshot: DeltaTable) -> int:
        return snapshot.transaction_version(self._app) or 0

    def _look(self, snapshot: DeltaTable) -> None:
        """Learn which images a snapshot has features of."""
        store = filesystem(self.place, "features")
        files = Files(listed=listed_files(snapshot), schema=FEATURES, filesystem=store)
        match = pc.field("space_digest") == self.space.digest
        with reading(self.place, files):
            rows = files.dataset().to_table(columns=["image_id"], filter=match)
        self._seen = self._version(snapshot)
        self._held = set(rows["image_id"].to_pylist())
