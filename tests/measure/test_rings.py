"""Ring spectra: copies are known again however turned, unseen cells pass, no picture goes along."""

import shutil
from pathlib import Path

import numpy as np
import pytest

from catalog import Catalog, sql
from factory.config import parse_config
from factory.errors import DataError, ModelError
from factory.gate.copies import CopyGate
from factory.measure.features import turned
from factory.measure.rings import RingBank, ring_spectra
from factory.models.generator import RINGS_FILE
from factory.real.build import build_dataset
from factory.real.smear import smear_items
from factory.sample.batches import draw_here
from factory.sample.config import GenerateConfig
from factory.sample.prepare import prepare
from factory.sample.run import execute

SIZE_PX = 32
GATE = CopyGate()


def cells(seed: int, count: int) -> np.ndarray:
    return build_dataset(smear_items(count, seed=seed, size_px=SIZE_PX)).array(SIZE_PX)


@pytest.fixture(scope="module")
def learnt() -> np.ndarray:
    return cells(3, 200)


@pytest.fixture(scope="module")
def bank(learnt: np.ndarray) -> RingBank:
    return RingBank.of([learnt[:150], learnt[150:]], "a split")


def refused(images: np.ndarray, bank: RingBank) -> float:
    return float(np.mean([not verdict.passed for verdict in GATE.judge(images, bank)]))


@pytest.mark.parametrize("turn", range(8))
def test_turns_change_no_spectrum_and_hide_no_copy(learnt, bank, turn):
    images = turned(learnt, turn)
    assert np.abs(ring_spectra(images) - ring_spectra(learnt)).max() < 1e-4
    assert refused(images, bank) == 1


def test_another_lamp_noise_and_blur_hide_no_copy(learnt, bank):
    lamp = np.clip(learnt * np.array([0.95, 1.0, 1.04]), 0, 255).astype(np.uint8)
    assert refused(lamp, bank) >= 0.99
    noise = np.random.default_rng(0).integers(-6, 7, learnt.shape)
    assert refused(np.clip(learnt + noise, 0, 255).astype(np.uint8), bank) >= 0.99
    shifted = (learnt.astype(np.int64) + np.roll(learnt, 1, axis=1)) // 2
    assert refused(shifted.astype(np.uint8), bank) >= 0.95


def test_unseen_cells_pass(bank):
    assert refused(cells(9, 200), bank) <= 0.05  # n 200, calibrated on 200


def test_what_makes_no_bank_is_told(learnt):
    with pytest.raises(DataError, match="do not tell how near two of them come"):
        RingBank.of([learnt[:50]], "a split")
    with pytest.raises(DataError, match="equal another one"):
        RingBank.of([learnt[:100], learnt[:100]], "a split")


def test_a_bank_is_kept_in_a_file_without_order(bank, learnt, tmp_path):
    path = tmp_path / RINGS_FILE
    path.write_bytes(bank.to_bytes())
    read = RingBank.load(path)
    assert np.array_equal(read.codes, bank.codes)
    assert (read.threshold, read.split_digest) == (bank.threshold, "a split")
    again = RingBank.of([learnt[::-1].copy()], "a split")
    assert again.to_bytes() == bank.to_bytes()
    path.write_bytes(b"PAR1 nothing")
    with pytest.raises(ModelError, match="holds no marks of training images"):
        RingBank.load(path)


def stored(folder: Path, **changes: object) -> GenerateConfig:
    known = {"model": str(folder), "num_images": 4, "num_inference_steps": 2, "seed": 0}
    gates = {"min_contrast": None, "max_clipped": None, "min_sharpness": None}
    return parse_config(GenerateConfig, known | {"gates": gates} | changes, where="test")


def test_the_gate_is_on_where_a_generator_brings_its_bank(tiny, bank, tmp_path):
    folder, catalog = shutil.copytree(tiny.folder, tmp_path / "generator"), str(tmp_path / "c")
    without = prepare(stored(folder), catalog)
    assert without.config.copies is None
    (folder / RINGS_FILE).write_bytes(bank.to_bytes())
    run = prepare(stored(folder), catalog)
    assert run.config.copies == GATE
    assert (run.run_id, run.generator.model_id) == (without.run_id, without.generator.model_id)
    assert prepare(stored(folder, copies=None), catalog).config.copies is None
    *_, last = execute(
        prepare(stored(folder, copies={"min_ratio": 1e9}), catalog), stream=draw_here
    )
    assert last.rejected_by_gate == {"copy": 4}
    rows = sql(Catalog(catalog), "SELECT copy_score FROM samples").to_pylist()
    assert all(row["copy_score"] > 1 for row in rows)
