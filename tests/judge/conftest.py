"""The cells and the network that judge, and a tiny generator of these cells."""

import json

import pytest

from factory.models.folder import MANIFEST
from factory.models.generator import Generator, open_generator
from factory.real.dataset import RealDataset
from factory.real.splits import Split
from tests.evaluate.conftest import cells, tiny_space
from tests.fakes.splits import split_of
from tests.fakes.tiny import tiny_generator

__all__ = ["cells", "tiny_space"]
SHOTS = 4


@pytest.fixture(scope="session")
def split(cells: RealDataset) -> Split:
    return split_of(cells, train=0.5, val=0.2, test=0.3)


@pytest.fixture(scope="session")
def generator(
    cells: RealDataset, split: Split, tmp_path_factory: pytest.TempPathFactory
) -> Generator:
    """Untrained; its manifest says that it learnt four images of each class."""
    folder = tmp_path_factory.mktemp("models") / "smear"
    made = tiny_generator(folder, class_names=cells.class_names)
    config = {"prompt": {"subject": "{size} {class_name}"}, "n_shot": SHOTS, "seed": 7}
    learnt = {"split_digest": split.digest, "dataset_fingerprint": cells.fingerprint}
    (folder / MANIFEST).write_text(json.dumps({**made.manifest, **learnt, "config": config}))
    return open_generator(folder)
