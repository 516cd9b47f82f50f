"""More images than memory should hold lie in a file, and a study of them says the same."""

import os
import pickle
import socket
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch

from catalog import Catalog
from factory.config import parse_config
from factory.errors import OutputError
from factory.evaluate import pictures
from factory.evaluate.config import StudyConfig
from factory.evaluate.pictures import Chosen, Gathering, Pictures, discard, extended
from factory.evaluate.placement import execute_here
from factory.evaluate.study import Inputs, plan_study
from factory.evaluate.study_run import run_study
from factory.evaluate.synthetic import read_drawn
from factory.real.build import build_dataset
from factory.real.dataset import RealDataset
from factory.real.smear import smear_items
from factory.real.sources import open_dataset
from factory.real.splits import Split
from tests.fakes.pairs import publish_pairs, write_pairs
from tests.fakes.splits import split_of

QUICK = {"size_px": 32, "steps": 2, "batch_size": 4, "validate_every": 2}
LEARNERS = {
    "classify": {"backbone": "test_resnet", **QUICK},
    "segment": {"task": "segment", "channels": [8], **QUICK},
    "probe": {"task": "probe", "backbone": "colours", "size_px": 32},
    "probe_masks": {"task": "probe_masks", "backbone": "colours", "size_px": 32},
}
DRAWN = {"mixed": {"design": "add", "per_class": 4}}
EXTRA = {
    "probe": {"stained": {"design": "add", "per_class": 4, "colour": "reinhard"}},
    "probe_masks": {"pasted": {"design": "copy_paste", "per_class": 3}},
}


@dataclass(frozen=True)
class Ground:
    real: RealDataset
    split: Split
    catalog: Catalog


def ground_of(real: RealDataset, folder: Path) -> Ground:
    split = split_of(real, train=0.5, val=0.25, test=0.25)
    drawn = publish_pairs(folder / "catalog", split, masks=True, names=real.class_names)
    return Ground(real, split, drawn)


@pytest.fixture(scope="module")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> Ground:
    folder = tmp_path_factory.mktemp("pairs")
    real = open_dataset(write_pairs(folder, count=16, size_px=32, values=(0, 128, 255))[0])
    return ground_of(real, tmp_path_factory.mktemp("drawn"))


@pytest.fixture(scope="module")
def classes(tmp_path_factory: pytest.TempPathFactory) -> Ground:
    cells = build_dataset(smear_items(60, seed=4, size_px=32))
    return ground_of(cells, tmp_path_factory.mktemp("drawn"))


@pytest.fixture
def rows() -> np.ndarray:
    return np.random.Generator(np.random.Philox(0)).integers(0, 256, (9, 4, 4, 3), np.uint8)


@pytest.fixture
def stored(rows: np.ndarray, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Pictures:
    monkeypatch.setattr(pictures, "IN_MEMORY", 0)
    gathered = Gathering(9, (4, 4, 3), tmp_path)
    for part in np.split(rows, [2, 7]):
        gathered.add(part)
    found = gathered.done()
    assert isinstance(found, Pictures)
    return found


@pytest.mark.parametrize(
    "asked",
    [0, -1, slice(2, 5), slice(None), slice(8, 3), slice(0, 9, 3), [4, 4, -2], np.arange(3)],
)
def test_rows_of_a_file_are_those_of_an_array(rows, stored, asked):
    assert np.array_equal(stored[asked], rows[asked])
    assert stored[[]].shape == (0, 4, 4, 3)


def test_a_file_is_read_by_other_processes_grows_and_goes(rows, stored, tmp_path):
    assert np.array_equal(pickle.loads(pickle.dumps(stored))[:], rows)
    grown = extended(stored, [rows[:2], rows[5:6]])
    assert np.array_equal(grown[:], np.concatenate([rows, rows[:2], rows[5:6]]))
    chosen = Chosen(grown, [3, 11, 0])
    assert torch.equal(chosen[torch.tensor([1, 0])], torch.from_numpy(rows[[5, 3]]))
    assert np.array_equal(chosen[1:].numpy(), rows[[5, 0]])
    with pytest.raises(IndexError):
        stored[9]
    discard(grown)
    assert not list(tmp_path.iterdir())
    with pytest.raises(OutputError, match="every machine of the cluster sees"):
        pickle.loads(pickle.dumps(stored))


def test_what_a_killed_process_left_goes_with_the_next_study(stored, tmp_path):
    done = subprocess.run([sys.executable, "-c", "import os; print(os.getpid())"],
                          capture_output=True, check=True, text=True)  # fmt: skip
    left = tmp_path / stored.path.name.replace(f"-{os.getpid()}-", f"-{done.stdout.strip()}-")
    left.write_bytes(b"")
    host = socket.gethostname()
    longer = left.name.replace(host, f"{host}-b")
    other, another = (tmp_path / name for name in (".pictures-other_host-1-0.raw", longer))
    for path in (other, another):
        path.write_bytes(b"")
    Gathering(1, (4, 4, 3), tmp_path)
    assert not left.exists()
    assert other.exists()
    assert another.exists(), "of a machine whose name begins as this one's"
    assert stored.path.exists()


@pytest.mark.parametrize("task", LEARNERS)
def test_a_study_says_the_same_of_images_in_a_file(
    pairs: Ground, classes: Ground, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, task: str
) -> None:
    ground = pairs if task in ("segment", "probe_masks") else classes
    arms = {"real": {"design": "real"}, **DRAWN, **EXTRA.get(task, {})}
    asked = {"name": "discs", "learner": LEARNERS[task], "arms": arms, "seeds": [0, 1]}
    config = parse_config(StudyConfig, asked, where="test")
    told = []
    for place, bound in (("memory", 2**30), ("file", 0)):
        monkeypatch.setattr(pictures, "IN_MEMORY", bound)
        inputs = Inputs(dataset=ground.real, splits=(ground.split,), catalog=ground.catalog)
        planned = plan_study(config, inputs)
        found = run_study(planned, tmp_path / place, execute_here).to_json()
        for arm in found["arms"].values():
            arm.pop("seconds")
        told.append(found)
    assert told[0] == told[1]
    assert not list((tmp_path / "file").glob(".pictures*"))


def test_drawn_images_are_read_in_one_pass(pairs: Ground, monkeypatch: pytest.MonkeyPatch) -> None:
    """They are named by digests: read by name, some at a time, every file was opened anew."""
    catalog = pairs.catalog
    ids = sorted(row["image_id"] for row in catalog.samples().to_table().to_pylist())
    monkeypatch.setattr("factory.evaluate.synthetic._DECODED_AT_ONCE", 2)
    passes = []
    monkeypatch.setattr(type(catalog), "rows", lambda *_, **__: passes.append(1))
    found = list(read_drawn(catalog, ids, 32, masks=True))
    assert not passes
    assert sorted(i for own, _, _ in found for i in own) == ids
    assert all(images.shape[1:] == (32, 32, 3) for _, images, _ in found)
    assert {tuple(np.unique(masks)) for _, _, masks in found} == {(0, 1, 2)}
