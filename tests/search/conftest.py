"""A small search: cells of a drawn smear as real ones, and a random generator of their split."""

import json
import os
from pathlib import Path
from typing import Any

import pytest

from catalog.place import Place
from factory.config import parse_config
from factory.models.generator import open_generator
from factory.real.build import build_dataset
from factory.real.dataset import RealDataset
from factory.real.smear import smear_items
from factory.real.splits import Split
from factory.search.config import SweepConfig
from factory.search.objective import Ground
from tests.fakes.splits import split_of
from tests.fakes.tiny import tiny_generator

LEARNER = {"backbone": "test_resnet", "size_px": 16, "steps": 2, "batch_size": 4}
SPACE = {
    "arm.per_class": {"low": 1, "high": 4},
    "generate.guidance_scale": {"choices": [1, 2]},
    "learner.learning_rate": {"low": 1e-4, "high": 1e-2, "log": True},
}
START = ({"arm.per_class": 4, "generate.guidance_scale": 2, "learner.learning_rate": 1e-3},)


@pytest.fixture(scope="session")
def cells() -> RealDataset:
    return build_dataset(smear_items(60, seed=4, size_px=16))


@pytest.fixture(scope="session")
def split(cells: RealDataset) -> Split:
    return split_of(cells, train=0.5, val=0.25, test=0.25)


@pytest.fixture(scope="session")
def model(cells: RealDataset, split: Split, tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("models") / "tiny"
    tiny_generator(folder, class_names=cells.class_names)
    path = folder / "factory.json"
    lineage = {"split_digest": split.digest, "dataset_fingerprint": split.dataset}
    path.write_text(json.dumps(json.loads(path.read_text()) | lineage))
    return str(open_generator(folder).folder)


@pytest.fixture
def stored(model: str) -> dict[str, Any]:
    generate = {"model": model, "num_images": 25, "num_inference_steps": 2, "batch_size": 25}
    open_gates = {"min_contrast": None, "max_clipped": None, "min_sharpness": None}
    return {
        "name": "small",
        "generate": {**generate, "seed": 0, "gates": open_gates},
        "arm": {"design": "add", "per_class": 2},
        "learner": LEARNER,
        "space": SPACE,
        "start": START,
        "trials": 5,
        "final_seeds": (0, 1),
    }


@pytest.fixture
def ground(stored: dict[str, Any], cells: RealDataset, split: Split, tmp_path: Path) -> Ground:
    return Ground(
        config=parse_config(SweepConfig, stored, where="test"),
        dataset=cells,
        splits=(split,),
        catalog=Place(os.path.relpath(tmp_path / "catalog")),  # trials read it as the driver does
        output=tmp_path / "out",
    )
