"""Clusters of real pairs: which training images are alike, made once per split, versioned with it.

Features of the image and of its mask, side by side, are grouped by k-means; clusters that are too
small join their nearest neighbour. One safetensors file holds ids, numbers, features and centres.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from factory.arrays import Features, Images
from factory.atomic import write_bytes, writing
from factory.digest import digest
from factory.errors import DataError
from factory.real.dataset import RealDataset
from factory.real.splits import Split, check_dataset

Extract = Callable[[Images], Features]
"""(N, S, S, 3) uint8 to (N, D) float32."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Clusters:
    """The train part of one split in clusters, numbered 0, 1, ... from the largest to the smallest.

    `numbers` (N,) and `features` (N, D) follow `ids`, which are sorted. `made_by` says with what:
    extractor, k, seed, least size.
    """

    split_digest: str
    ids: tuple[str, ...]
    numbers: NDArray[np.int64]
    features: Features
    made_by: Mapping[str, str | int]

    @property
    def digest(self) -> str:
        """Names the assignment."""
        return digest([self.split_digest, list(self.ids), self.numbers.tolist()])

    @property
    def members(self) -> dict[int, tuple[str, ...]]:
        """Ids by cluster."""
        return {
            int(number): tuple(np.array(self.ids)[self.numbers == number].tolist())
            for number in np.unique(self.numbers)
        }

    def nearest(self, ids: Sequence[str]) -> dict[str, str]:
        """Return, for each of `ids`, the other one of them whose features are closest.

        Raises:
            DataError: an id that is in no cluster.
        """
        place = {image_id: row for row, image_id in enumerate(self.ids)}
        if unknown := [image_id for image_id in ids if image_id not in place]:
            raise DataError(
                f"image {unknown[0]!r} is in no cluster",
                remedy="Name images of the train part that the clusters were made of",
            )
        chosen = self.features[[place[image_id] for image_id in ids]].astype(np.float64)
        distances = _squared_distances(chosen, chosen)
        np.fill_diagonal(distances, np.inf)
        return {ids[row]: ids[int(best)] for row, best in enumerate(distances.argmin(1))}

    def save(self, path: Path) -> None:
        """Write the file (atomically).

        Raises:
            OutputError: `path` cannot be written.
        """
        facts = {
            "split_digest": self.split_digest,
            "ids": json.dumps(list(self.ids)),
            "made_by": json.dumps(dict(self.made_by), sort_keys=True),
            "digest": self.digest,
        }
        tensors = {"numbers": self.numbers, "features": self.features}
        with writing(path):
            write_bytes(path, save(tensors, metadata=facts))


def make_clusters(
    dataset: RealDataset,
    split: Split,
    extract: Extract,
    *,
    extractor: str,
    k: int = 20,
    min_size: int = 1,
    merge: bool = True,
    seed: int = 0,
    size_px: int = 256,
) -> Clusters:
    """Return the train part of `split` in at most `k` clusters.

    Args:
        dataset: with masks.
        split: of this dataset; nothing of val or test is looked at.
        extract: the feature extractor; it sees images and, as grey pictures, masks.
        extractor: its name, recorded.
        k: of k-means (J. MacQueen, 1967; scikit-learn's, 10 starts).
        min_size: least number of images of a cluster.
        merge: smaller clusters join the one with the nearest centre, smallest first; else they are
            an error.
        seed: of k-means.
        size_px: side at which images are shown to the extractor.

    Raises:
        DataError: a split of another dataset, an image without a mask, fewer images than `k`, or
            a cluster that is too small.
    """
    check_dataset(split, dataset.fingerprint)
    ids = tuple(sorted(split.train))
    if len(ids) < k:
        raise DataError(
            f"{len(ids)} training images do not make {k} clusters", remedy="Choose a smaller k"
        )
    features = pair_features(extract, dataset.array(size_px, ids), dataset.mask_array(size_px, ids))
    numbers = _k_means(features, k, seed)
    small = [int(n) for n, size in enumerate(np.bincount(numbers)) if size < min_size]
    if small and not merge:
        size = int((numbers == small[0]).sum())
        raise DataError(
            f"cluster {small[0]} of {k} has {size} images, fewer than min_size {min_size}",
            remedy="Choose a smaller k or min_size, or merge: true",
        )
    return Clusters(
        split_digest=split.digest,
        ids=ids,
        numbers=by_size(merged(features, numbers, min_size)),
        features=features,
        made_by={"extractor": extractor, "k": k, "seed": seed, "min_size": min_size},
    )


def pair_features(extract: Extract, images: Images, masks: NDArray[np.uint8]) -> Features:
    """Return (N, 2 D): features of the images, then of the masks stretched to black and white."""
    highest = max(1, int(masks.max(initial=0)))
    grey = np.rint(masks.astype(np.float64) * (255 / highest)).astype(np.uint8)
    shown = np.repeat(grey[..., None], 3, axis=-1)
    return np.concatenate([extract(images), extract(shown)], axis=1).astype(np.float32)


def merged(features: Features, numbers: NDArray[np.int64], min_size: int) -> NDArray[np.int64]:
    """Return `numbers` (N,) without clusters below `min_size`: each joins its nearest neighbour.

    The smallest goes first; centres follow their new members. One cluster alone is left as it is.
    """
    numbers = numbers.copy()
    while True:
        present, sizes = np.unique(numbers, return_counts=True)
        if len(present) == 1 or sizes.min() >= min_size:
            return numbers
        smallest = present[sizes.argmin()]
        centres = np.stack([features[numbers == number].mean(0) for number in present])
        others = present[present != smallest]
        own = centres[present == smallest]
        distances = _squared_distances(own, centres[present != smallest])[0]
        numbers[numbers == smallest] = others[distances.argmin()]


def by_size(numbers: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return `numbers` (N,) renamed 0, 1, ...: larger clusters first, ties by first member."""
    present, first, sizes = np.unique(numbers, return_index=True, return_counts=True)
    order = np.lexsort((first, -sizes))
    renamed = {int(present[place]): rank for rank, place in enumerate(order)}
    return np.array([renamed[int(number)] for number in numbers], np.int64)


def load_clusters(path: Path, split: Split | None = None) -> Clusters:
    """Read clusters that `Clusters.save` wrote.

    Raises:
        DataError: missing, damaged or changed, or made for another split than `split`.
    """
    try:
        with safe_open(path, framework="np") as file:
            facts = file.metadata() or {}
            found = Clusters(
                split_digest=facts["split_digest"],
                ids=tuple(json.loads(facts["ids"])),
                numbers=file.get_tensor("numbers"),
                features=file.get_tensor("features"),
                made_by=json.loads(facts["made_by"]),
            )
            recorded = facts["digest"]
    except (OSError, SafetensorError, ValueError, KeyError) as error:
        raise DataError(
            f"{path} is no readable file of clusters ({error})",
            remedy="Make one with `factory cluster-images`",
        ) from error
    if found.digest != recorded:
        raise DataError(
            f"{path} was changed after it was made: digest {found.digest}, recorded {recorded}",
            remedy="Restore the file, or make the clusters again",
        )
    if split is not None and found.split_digest != split.digest:
        raise DataError(
            f"{path} holds clusters of split {found.split_digest}, this one is {split.digest}",
            remedy="Make clusters for this split: those of another one hold its test images",
        )
    return found


def _k_means(features: Features, k: int, seed: int) -> NDArray[np.int64]:
    from sklearn.cluster import KMeans
    from threadpoolctl import threadpool_limits  # scikit-learn brings it

    with threadpool_limits(1):  # sums in one order: the same numbers on any machine
        found = KMeans(n_clusters=k, n_init=10, random_state=seed).fit_predict(
            features.astype(np.float64)
        )
    return np.asarray(found, np.int64)


def _squared_distances(
    first: NDArray[np.floating], second: NDArray[np.floating]
) -> NDArray[np.float64]:
    """Return (N, M) squared Euclidean distances."""
    a, b = first.astype(np.float64), second.astype(np.float64)
    squares = (a**2).sum(1)[:, None] + (b**2).sum(1)[None] - 2 * a @ b.T
    return np.asarray(np.maximum(squares, 0))
