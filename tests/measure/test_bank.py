"""The copy gate: planted copies are refused, unseen images pass, in the line as by itself."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from catalog import Catalog, sql
from factory.config import parse_config
from factory.errors import ConfigError, DataError, ModelError
from factory.gate.copies import CopyGate
from factory.measure.bank import CopyBank, _calibrated, load_bank, make_bank
from factory.measure.bank_file import check_bank
from factory.measure.copies import Nearest
from factory.measure.features import BACKBONE, turned
from factory.models.generator import Generator
from factory.real.build import build_dataset
from factory.real.dataset import RealDataset
from factory.real.smear import smear_items
from factory.real.splits import Split
from factory.sample.batches import draw_here
from factory.sample.config import GenerateConfig
from factory.sample.prepare import prepare
from factory.sample.run import execute
from tests.fakes.splits import split_of

SIZE_PX = 32
GATE = CopyGate(bank="unused")


@pytest.fixture(scope="module")
def cells() -> RealDataset:
    return build_dataset(smear_items(200, seed=3, size_px=SIZE_PX))


@pytest.fixture(scope="module")
def split(cells: RealDataset) -> Split:
    return split_of(cells, train=0.4, val=0.3, test=0.3)


@pytest.fixture(scope="module")
def folder(cells: RealDataset, split: Split, tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("bank") / "bank"
    make_bank(place, cells, split, size_px=SIZE_PX, weights=None)
    return place


@pytest.fixture(scope="module")
def bank(folder: Path) -> CopyBank:
    return load_bank(folder)


def refused(images: np.ndarray, bank: CopyBank) -> float:
    return float(np.mean([not verdict.passed for verdict in GATE.judge(images, bank)]))


@pytest.mark.parametrize("turn", range(8))
def test_exact_and_turned_copies_are_refused(
    cells: RealDataset, split: Split, bank: CopyBank, turn: int
) -> None:
    images = turned(cells.array(SIZE_PX, list(split.train)), turn)
    assert refused(images, bank) == 1
    verdict = GATE.judge(images[:1], bank)[0]
    assert verdict.score == pytest.approx(0, abs=1e-6)
    assert verdict.reason.endswith(f"to {split.train[0]}")


def test_slightly_changed_copies_are_refused(
    cells: RealDataset, split: Split, bank: CopyBank
) -> None:
    images = cells.array(SIZE_PX, list(split.train)).astype(np.int64)
    noise = np.random.default_rng(0).integers(-6, 7, images.shape)
    assert refused(np.clip(images + noise, 0, 255).astype(np.uint8), bank) >= 0.99
    shifted = (images + np.roll(images, 1, axis=1)) // 2  # half a pixel of motion blur
    assert refused(shifted.astype(np.uint8), bank) >= 0.99


def test_unseen_images_pass(cells: RealDataset, split: Split, bank: CopyBank) -> None:
    assert refused(cells.array(SIZE_PX, list(split.val)), bank) <= 0.02
    assert refused(cells.array(SIZE_PX, list(split.test)), bank) <= 0.05  # n 60, not calibrated on


def test_the_test_part_does_not_calibrate(
    cells: RealDataset, split: Split, bank: CopyBank, tmp_path: Path
) -> None:
    without = replace(split, test=())
    assert (
        make_bank(tmp_path / "bank", cells, without, size_px=SIZE_PX, weights=None).thresholds
        == bank.thresholds
    )


def test_scores_alone_refuse_nothing(cells: RealDataset, split: Split, bank: CopyBank) -> None:
    images = cells.array(SIZE_PX, list(split.train[:3]))
    verdicts = CopyGate(bank="unused", min_ratio=None).judge(images, bank)
    assert [verdict.passed for verdict in verdicts] == [True] * 3


@pytest.mark.slow
def test_features_see_what_pixels_do_not(
    cells: RealDataset, split: Split, feature_weights: Path, tmp_path: Path
) -> None:
    few = replace(split, train=split.train[:32], val=split.val[:20])
    bank = make_bank(tmp_path / "bank", cells, few, size_px=SIZE_PX, weights=feature_weights)
    images = cells.array(SIZE_PX, list(few.train[:8]))
    found = bank(turned(images, 5))
    assert {each.image_id for each in found} == set(few.train[:8])
    recoloured = np.clip(images * np.array([0.9, 1.0, 1.08]), 0, 255).astype(np.uint8)
    pixels_only = CopyBank(
        stored={"pixels": bank.stored["pixels"]},
        thresholds=bank.thresholds,
        ids=bank.ids,
        split_digest=bank.split_digest,
    )
    assert refused(recoloured, bank) >= refused(recoloured, pixels_only)


def test_a_run_refuses_copies_and_tells_the_score(
    folder: Path, bank: CopyBank, tiny: Generator, tmp_path: Path
) -> None:
    stored = {
        "model": str(tiny.folder),
        "num_images": 6,
        "num_inference_steps": 2,
        "seed": 0,
        "gates": {"min_contrast": None, "max_clipped": None, "min_sharpness": None},
        "copies": {"bank": str(folder), "min_ratio": 1e9},
    }
    run = prepare(parse_config(GenerateConfig, stored, where="test"), str(tmp_path / "catalog"))
    *_, last = execute(run, stream=draw_here)
    assert last.rejected_by_gate == {"copy": 6}
    rows = sql(Catalog(tmp_path / "catalog"), "SELECT copy_score, gate_reasons FROM samples")
    assert all(row["copy_score"] > 1 for row in rows.to_pylist())
    assert all(row["gate_reasons"][0].startswith("copy: ") for row in rows.to_pylist())
    other = stored | {"copies": {"bank": str(folder)}}
    assert prepare(parse_config(GenerateConfig, other, where="test"), "x").run_id != run.run_id


def test_what_makes_no_bank_is_told(cells: RealDataset, split: Split, tmp_path: Path) -> None:
    few = split_of(cells, train=0.94, val=0.03, test=0.03)
    with pytest.raises(DataError, match="do not tell how near unseen ones come"):
        make_bank(tmp_path / "bank", cells, few, size_px=SIZE_PX, weights=None)
    with pytest.raises(ModelError, match="no bank of training images at"):
        load_bank(tmp_path)
    stored = {"num_images": 4, "copies": {"bank": str(tmp_path)}}
    with pytest.raises(ModelError, match="no bank of training images at"):
        prepare(parse_config(GenerateConfig, stored, where="test"), str(tmp_path / "catalog"))


def test_a_bank_of_another_split_is_refused(cells: RealDataset, split: Split, folder: Path) -> None:
    check_bank(folder, split.digest)
    check_bank(folder, None)
    with pytest.raises(ConfigError, match="the generator learnt from split other"):
        check_bank(folder, "other")


def test_both_spaces_together_refuse_one_unseen_image_in_a_hundred() -> None:
    rng = np.random.default_rng(0)
    unseen = {
        name: Nearest(
            distance=scale * rng.random(5000),
            position=np.zeros(5000, np.int64),
            view=np.zeros(5000, np.int64),
        )
        for name, scale in (("pixels", 0.1), (BACKBONE, 7.0))
    }
    thresholds = _calibrated(unseen)
    low = [near.distance < thresholds[name] for name, near in unseen.items()]
    assert np.mean(np.any(low, axis=0)) == pytest.approx(0.01, abs=2e-4)
    assert [np.mean(each) for each in low] == pytest.approx([0.005, 0.005], abs=2e-3)
    assert _calibrated({"pixels": unseen["pixels"]}) == pytest.approx({"pixels": 0.001}, rel=0.1)


def test_held_out_images_that_equal_training_ones_make_no_bank() -> None:
    same = Nearest(
        distance=np.zeros(50), position=np.zeros(50, np.int64), view=np.zeros(50, np.int64)
    )
    with pytest.raises(DataError, match="equal training images"):
        _calibrated({"pixels": same})
