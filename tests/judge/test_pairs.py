"""Drawn pairs: Dice with a judge by class, and objects that are copies whatever stands around."""

import json
from pathlib import Path

import numpy as np
import pytest

from factory.config import load_config
from factory.errors import ConfigError
from factory.judge import judge as module
from factory.judge import pairs as masks_module
from factory.judge.config import JudgeConfig
from factory.judge.judge import Subject, judge
from factory.judge.pairs import GREY, INSIDE, agreement, measure_pairs, objects
from factory.judge.report import to_html, to_text
from factory.judge.sets import ImageSet, open_real_sets
from factory.measure.cache import ArrayCache
from factory.measure.features import FeatureSpace
from factory.models.folder import MANIFEST
from factory.models.generator import Generator, open_generator
from factory.real.dataset import RealDataset
from factory.real.duplicates import grouped
from factory.real.sources import open_dataset
from factory.real.splits import Split, make_split
from tests.fakes.pair_generator import tiny_pairs
from tests.fakes.pairs import write_pairs

MASKS = np.zeros((3, 8, 8), np.uint8)
MASKS[0, :4, :4] = 1
MASKS[0, :2, :2] = 2
MASKS[1, 4:, 4:] = 1
MASKS[2, 1:3, 1:3] = 1
IMAGES = np.zeros((3, 8, 8, 3), np.uint8)


def test_a_class_counts_where_it_is_found_or_drawn() -> None:
    found = MASKS.copy()
    found[1] = 0
    found[1, 4:, 4:6] = 1  # half of it
    found[1, 7, 7] = 2
    made = agreement(lambda _: found, IMAGES, MASKS, num_classes=3)
    assert made["foreground"].n == 3
    assert made["foreground"].value == pytest.approx((1 + 2 * 9 / 25 + 1) / 3)
    assert made["class 2"].value == 0.5
    assert made["class 2"].n == 2
    one = agreement(lambda _: MASKS, IMAGES, MASKS, num_classes=3)
    assert "class 2" not in one  # a single image shows it


def test_an_object_is_the_same_wherever_it_stands() -> None:
    image = np.random.default_rng(0).integers(0, 256, (16, 16, 3)).astype(np.uint8)
    mask = np.zeros((16, 16), np.uint8)
    mask[2:8, 3:9] = 1
    moved = np.roll(image, (6, 5), axis=(0, 1))
    around = np.where(np.roll(mask, (6, 5), axis=(0, 1))[..., None] > 0, moved, 7).astype(np.uint8)
    empty = np.zeros_like(mask)
    found = objects(
        np.stack([image, around, image]), np.stack([mask, np.roll(mask, (6, 5), (0, 1)), empty])
    )
    assert found.shape == (2, 16, 16, 3)
    assert np.array_equal(found[0], found[1])
    mask[2, 3] = 0
    assert (objects(image[None], mask[None])[0, 0, 0] == GREY).all()


@pytest.fixture(scope="module")
def real(tmp_path_factory: pytest.TempPathFactory) -> tuple[RealDataset, Split]:
    data, _ = write_pairs(tmp_path_factory.mktemp("pairs"), count=30)
    dataset = open_dataset(data)
    split = make_split(
        dataset=dataset.fingerprint,
        ids=dataset.ids,
        labels=dataset.labels,
        groups=grouped(dataset),
        fractions={"train": 0.5, "val": 0.5},
        seed=0,
    )
    return dataset, split


@pytest.fixture(scope="module")
def generator(
    real: tuple[RealDataset, Split], tmp_path_factory: pytest.TempPathFactory
) -> Generator:
    folder = tmp_path_factory.mktemp("models") / "pairs"
    made = tiny_pairs(folder)
    learnt = {"split_digest": real[1].digest, "dataset_fingerprint": real[0].fingerprint}
    (folder / MANIFEST).write_text(json.dumps({**made.manifest, **learnt}))
    return open_generator(folder)


def threshold(images: np.ndarray) -> np.ndarray:
    return (images[..., 0] < 120).astype(np.uint8)


def test_a_generator_of_pairs_is_judged_with_its_masks(
    real: tuple[RealDataset, Split],
    generator: Generator,
    tiny_space: FeatureSpace,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    monkeypatch.setattr(module, "load_feature_space", lambda _: tiny_space)
    network = type("Seg", (), {"__call__": lambda _, x: threshold(x), "facts": {"num_classes": 2}})
    monkeypatch.setattr(masks_module, "load_segmenter", lambda _: network())
    quick = ("num_images=6", "num_inference_steps=2", "guidance_scale=1", "scheduler=ddim")
    keys = [f"generate.{each}" for each in quick]
    config = load_config(JudgeConfig, "judge", [*keys, "features=/tmp", "segmenter=/tmp"])
    found = judge(config, Subject(generator=generator), *real, cache=ArrayCache())
    best, own = found.report.pairs
    assert (best.name, own.name) == ("unseen real", "drawn")
    assert best.dice["foreground"].value > 0.95
    assert own.num_images == 6
    page = to_html(found)
    assert "Dice of the drawn mask" in page
    (row,) = (line for line in to_text(found.report).split("\n") if line.startswith("Dice"))
    assert row.startswith("Dice, foreground")
    assert f"{best.dice['foreground'].value:.3f}" in row
    three = type("Seg", (network,), {"facts": {"num_classes": 3}})
    monkeypatch.setattr(masks_module, "load_segmenter", lambda _: three())
    with pytest.raises(ConfigError, match="the segmenter knows 3 classes, masks are drawn of 2"):
        judge(config, Subject(generator=generator), *real, cache=ArrayCache())


def test_an_object_before_another_ground_is_still_a_copy(
    real: tuple[RealDataset, Split], generator: Generator, tiny_space: FeatureSpace
) -> None:
    dataset, split = real
    sets = open_real_sets(
        generator,
        dataset,
        split,
        part="val",
        classes={"polyp": ("polyp",)},
        spaces=(tiny_space, tiny_space),
        cache=ArrayCache(),
    )
    masks = (dataset.mask_array(16, split.train) > 0).astype(np.uint8)
    images = dataset.array(16, split.train)
    ground = np.random.default_rng(0).integers(0, 256, images.shape)
    other = np.where(masks[..., None] > 0, images, ground).astype(np.uint8)
    shown = ImageSet(name="other", images=other, labels=["polyp"] * len(masks), masks=masks)
    found = measure_pairs(shown, sets, (0, 255), None)
    assert found.copies is not None
    assert found.copies.space == INSIDE
    assert found.copies.share.value == 1
    assert found.dice == {}
