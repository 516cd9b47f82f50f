"""Clusters of pairs: alike ones together, small ones merged, bound to their split."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from factory.errors import DataError
from factory.real.clusters import (
    Clusters,
    by_size,
    load_clusters,
    make_clusters,
    merged,
    pair_features,
)
from factory.real.dataset import RealDataset
from factory.real.sources import open_dataset
from factory.real.splits import Split, load_split
from tests.fakes.pairs import write_pairs


def colours(images: np.ndarray) -> np.ndarray:
    """A feature extractor of one value: the red of the object, which is the darkest thing."""
    return np.quantile(images[..., 0].reshape(len(images), -1), 0.05, axis=1)[:, None]


@pytest.fixture(scope="module")
def real(tmp_path_factory: pytest.TempPathFactory) -> tuple[RealDataset, Split]:
    data, split = write_pairs(tmp_path_factory.mktemp("real"), count=14)
    return open_dataset(data), load_split(Path(split))


def made(real: tuple[RealDataset, Split], **changes: object) -> Clusters:
    known = {"extractor": "colours", "k": 3, "size_px": 16}
    return make_clusters(*real, colours, **(known | changes))


def test_images_of_three_colours_make_three_clusters(real: tuple[RealDataset, Split]) -> None:
    """`write_pairs` paints discs in three colours, by number modulo 3."""
    clusters = made(real)
    colour = {number: {int(i.split("/")[1]) % 3 for i in ids} for number, ids in
              clusters.members.items()}  # fmt: skip
    assert all(len(found) == 1 for found in colour.values())
    assert {i for ids in clusters.members.values() for i in ids} == set(real[1].train)
    assert made(real).digest == clusters.digest


def test_features_are_those_of_the_image_then_of_the_stretched_mask() -> None:
    images = np.full((1, 4, 4, 3), 7, np.uint8)
    masks = np.zeros((1, 4, 4), np.uint8)
    masks[0, :2] = 1
    mean = pair_features(lambda shown: shown.mean((1, 2)), images, masks)
    assert mean.tolist() == [[7, 7, 7, 127.5, 127.5, 127.5]]


def test_a_small_cluster_joins_its_nearest_neighbour() -> None:
    features = np.array([[0.0], [0.1], [0.2], [9.0], [9.1], [9.2], [7.0]], np.float32)
    numbers = np.array([0, 0, 0, 1, 1, 1, 2])
    assert merged(features, numbers, 2).tolist() == [0, 0, 0, 1, 1, 1, 1]
    assert merged(features, numbers, 1).tolist() == numbers.tolist()
    assert len(set(merged(features, numbers, 5).tolist())) == 1


def test_clusters_are_numbered_from_the_largest() -> None:
    assert by_size(np.array([5, 7, 7, 5, 7, 2])).tolist() == [1, 0, 0, 1, 0, 2]
    assert by_size(np.array([4, 3, 4, 3])).tolist() == [0, 1, 0, 1]


def test_the_nearest_is_another_image(real: tuple[RealDataset, Split]) -> None:
    clusters = made(real)
    ids = list(clusters.ids)
    nearest = clusters.nearest(ids)
    assert all(a != b for a, b in nearest.items())
    number = dict(zip(clusters.ids, clusters.numbers.tolist(), strict=True))
    assert all(number[a] == number[b] for a, b in nearest.items())
    with pytest.raises(DataError, match="'x' is in no cluster"):
        clusters.nearest(["x"])


def test_a_file_gives_back_what_was_saved_and_knows_its_split(
    real: tuple[RealDataset, Split], tmp_path: Path
) -> None:
    clusters, path = made(real), tmp_path / "clusters.safetensors"
    clusters.save(path)
    again = load_clusters(path, real[1])
    assert again.digest == clusters.digest
    assert np.array_equal(again.features, clusters.features)
    assert again.made_by == {"extractor": "colours", "k": 3, "seed": 0, "min_size": 1}
    with pytest.raises(DataError, match=f"clusters of split {real[1].digest}, this one is"):
        load_clusters(path, replace(real[1], seed=9))


def test_a_damaged_or_changed_file_is_refused(
    real: tuple[RealDataset, Split], tmp_path: Path
) -> None:
    clusters, path = made(real), tmp_path / "clusters.safetensors"
    replace(clusters, split_digest="other").save(path)
    path.write_bytes(path.read_bytes().replace(b"other", b"ether"))
    with pytest.raises(DataError, match="was changed after it was made"):
        load_clusters(path)
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(DataError, match="no readable file of clusters"):
        load_clusters(path)


def test_too_few_images_or_too_small_clusters_are_refused(
    real: tuple[RealDataset, Split],
) -> None:
    with pytest.raises(DataError, match="12 training images do not make 13 clusters"):
        made(real, k=13)
    with pytest.raises(DataError, match=r"cluster \d of 3 has 4 images, fewer than min_size 5"):
        made(real, min_size=5, merge=False)
    assert len(made(real, min_size=5).members) < 3
