"""What the trainings of these tests share: drawn cells, their split, tiny networks."""

from pathlib import Path

import pytest
from safetensors.torch import save_file

from factory.finetune.config import ExpertConfig
from factory.finetune.expert import make_expert
from factory.models.generator import Generator
from factory.real.dataset import RealDataset
from factory.real.sources import open_dataset
from factory.real.splits import Split
from tests.fakes.splits import split_of
from tests.fakes.tiny import tiny_generator


@pytest.fixture(scope="session")
def dataset() -> RealDataset:
    """Drawn cells of 16 px."""
    return open_dataset("smear:60?size=16")


@pytest.fixture(scope="session")
def split(dataset: RealDataset) -> Split:
    """Of `dataset`."""
    return split_of(dataset, train=0.6, val=0.2, test=0.2)


@pytest.fixture(scope="session")
def base(tmp_path_factory: pytest.TempPathFactory, dataset: RealDataset) -> Generator:
    """A generator with random weights that knows the words of `dataset`'s classes."""
    names = tuple(sorted(set(dataset.labels)))
    return tiny_generator(tmp_path_factory.mktemp("base") / "tiny", class_names=names)


@pytest.fixture(scope="session")
def expert_folder(
    tmp_path_factory: pytest.TempPathFactory, dataset: RealDataset, split: Split
) -> Path:
    """An expert of `dataset`'s classes, trained for a step."""
    folder = tmp_path_factory.mktemp("expert") / "expert"
    training = {"steps": 1, "batch_size": 2}
    config = {"backbone": "test_resnet", "size_px": 16, "training": training}
    make_expert(ExpertConfig.model_validate(config), dataset, split, folder)
    return folder


@pytest.fixture(scope="session")
def features(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Weights of the feature space, random: what they are is nothing to the code."""
    import timm

    path = tmp_path_factory.mktemp("features") / "lite0.safetensors"
    network = timm.create_model("tf_efficientnet_lite0", pretrained=False, num_classes=0)
    save_file(network.state_dict(), path)
    return path
