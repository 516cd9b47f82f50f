"""Two halves of a train part share no image and no group."""

from pathlib import Path

import pytest

from factory.errors import DataError
from factory.finetune.segmenter import half_of_train
from factory.real.sources import open_dataset
from factory.real.splits import load_split
from tests.fakes.pairs import write_pairs


def test_halves_divide_the_train_part_alone(tmp_path: Path) -> None:
    data, path = write_pairs(tmp_path, count=14, classes=("a", "b"))
    dataset, split = open_dataset(data), load_split(Path(path))
    first, second = (half_of_train(dataset, split, n, seed=0) for n in ("first", "second"))
    assert not set(first) & set(second)
    assert set(first) | set(second) == set(split.train)
    assert abs(len(first) - len(second)) <= 2
    labels = dict(zip(dataset.ids, dataset.labels, strict=True))
    assert {labels[image_id] for image_id in first} == {"a", "b"}
    assert half_of_train(dataset, split, "first", seed=1) != first
    with pytest.raises(DataError, match="no half 'third'"):
        half_of_train(dataset, split, "third", seed=0)
