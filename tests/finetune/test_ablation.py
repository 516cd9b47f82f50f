"""The arms of an ablation: what runs, in which order, and what is not run again."""

from pathlib import Path

import pytest

from factory.config import parse_config
from factory.errors import ConfigError
from factory.finetune.ablation import Arm, arms_of, train_arms
from factory.finetune.config import ExpertConfig, FinetuneConfig
from factory.finetune.expert_run import make_expert
from factory.models.generator import Generator
from factory.real.dataset import RealDataset
from factory.real.sources import open_dataset
from factory.real.splits import Split
from tests.fakes.splits import split_of
from tests.fakes.tiny import tiny_generator


@pytest.fixture(scope="module")
def dataset() -> RealDataset:
    return open_dataset("smear:40?size=16")


@pytest.fixture(scope="module")
def split(dataset: RealDataset) -> Split:
    return split_of(dataset, train=0.5, val=0.25, test=0.25)


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory, dataset: RealDataset) -> Generator:
    names = tuple(sorted(set(dataset.labels)))
    return tiny_generator(tmp_path_factory.mktemp("base") / "tiny", class_names=names)


@pytest.fixture(scope="module")
def expert_folder(
    tmp_path_factory: pytest.TempPathFactory, dataset: RealDataset, split: Split
) -> Path:
    folder = tmp_path_factory.mktemp("expert") / "expert"
    training = {"steps": 1, "batch_size": 2}
    config = {"backbone": "test_resnet", "size_px": 16, "training": training}
    make_expert(ExpertConfig.model_validate(config), dataset, split, folder)
    return folder


def config(base: Generator, expert_folder: Path, **changes: object) -> FinetuneConfig:
    known = {
        "name": "aligned",
        "base": str(base.folder),
        "train": "full",
        "n_shot": 2,
        "expert": str(expert_folder),
        "alignment": {"weight": 1},
        "training": {"steps": 2, "batch_size": 2, "warmup_steps": 1},
        "validation": {"every_steps": 1, "draw_every": None},
    }
    return parse_config(FinetuneConfig, known | changes, where="test")


def test_every_weight_runs_under_every_seed_in_pairs() -> None:
    arms = arms_of([0, 0.5], [3, 4])
    assert [(arm.weight, arm.seed) for arm in arms] == [(0, 3), (0.5, 3), (0, 4), (0.5, 4)]
    assert [arm.name for arm in arms][1] == "weight-0.5-seed-3"
    for weights, seeds in (([1], [0]), ([0, 0], [0]), ([0, 1], [2, 2])):
        with pytest.raises(ConfigError, match="compare nothing"):
            arms_of(weights, seeds)


def test_finished_arms_are_kept_and_others_than_asked_for_refused(
    base: Generator, expert_folder: Path, dataset: RealDataset, split: Split, tmp_path: Path
) -> None:
    told: list[str] = []
    asked = config(base, expert_folder, training={"steps": 1, "batch_size": 2})
    arms = [Arm(weight=0, seed=0), Arm(weight=1, seed=0)]
    first = train_arms(asked, dataset, split, arms[:1], tmp_path, tell=told.append)
    both = train_arms(asked, dataset, split, arms, tmp_path, tell=told.append)
    assert both[arms[0]].model_id == first[arms[0]].model_id != both[arms[1]].model_id
    assert sum("step 1/1" in line for line in told) == 2
    other = asked.model_copy(update={"turns": False})
    with pytest.raises(ConfigError, match="trained under another configuration"):
        train_arms(other, dataset, split, arms, tmp_path, tell=told.append)
