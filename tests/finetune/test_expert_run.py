"""From images and a split to an expert's folder: what is learnt from, what is noted."""

from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner

from factory.cli import cli
from factory.errors import ConfigError, DataError
from factory.finetune.config import ExpertConfig
from factory.finetune.expert import make_expert
from factory.finetune.latents import to_signed
from factory.models.expert_file import load_expert
from factory.models.experts import state_digest
from factory.real.dataset import RealDataset
from factory.real.sources import open_dataset
from factory.real.splits import Split
from tests.fakes.splits import split_of

QUICK = ExpertConfig.model_validate(
    {"backbone": "test_resnet", "size_px": 16, "training": {"steps": 2, "batch_size": 4}}
)


@pytest.fixture(scope="module")
def dataset() -> RealDataset:
    return open_dataset("smear:60?size=16")


@pytest.fixture(scope="module")
def split(dataset: RealDataset) -> Split:
    return split_of(dataset, train=0.6, val=0.2, test=0.2)


@pytest.mark.parametrize("grey", [False, True])
def test_accuracy_on_val_and_the_split_are_noted(
    grey: bool, dataset: RealDataset, split: Split, tmp_path: Path
) -> None:
    config = QUICK.model_copy(update={"grey": grey})
    notes = make_expert(config, dataset, split, tmp_path / "expert")
    expert, stored = load_expert(tmp_path / "expert")
    assert stored == notes
    assert notes.split_digest == split.digest
    assert notes.spec.grey == grey
    assert notes.spec.class_names == tuple(sorted(set(dataset.labels)))
    labels = dict(zip(dataset.ids, dataset.labels, strict=True))
    with torch.no_grad():
        said = expert(to_signed(torch.from_numpy(dataset.array(16, split.val)))).argmax(1)
    right = [
        notes.spec.class_names[number] == labels[i]
        for number, i in zip(said.tolist(), split.val, strict=True)
    ]
    assert notes.val_accuracy == pytest.approx(np.mean(right))


def test_only_the_train_part_decides_the_weights(
    dataset: RealDataset, split: Split, tmp_path: Path
) -> None:
    def trained(name: str, part: Split) -> str:
        make_expert(QUICK, dataset, part, tmp_path / name)
        return state_digest(load_expert(tmp_path / name)[0])

    other = Split(
        dataset=split.dataset, seed=0, train=split.train, val=split.val[1:], test=split.test
    )
    fewer = Split(
        dataset=split.dataset, seed=0, train=split.train[1:], val=split.val, test=split.test
    )
    first = trained("a", split)
    assert first == trained("b", other) != trained("c", fewer)


def test_a_split_of_other_images_or_an_unknown_backbone_is_refused(
    dataset: RealDataset, split: Split, tmp_path: Path
) -> None:
    with pytest.raises(DataError, match="split was made for dataset"):
        make_expert(QUICK, open_dataset("smear:12?size=16"), split, tmp_path / "expert")
    odd = QUICK.model_copy(update={"backbone": "test_resnot"})
    with pytest.raises(ConfigError, match=r"no backbone 'test_resnot'.*test_resnet"):
        make_expert(odd, dataset, split, tmp_path / "expert")
    assert not (tmp_path / "expert").exists()


def test_the_command_writes_the_folder_and_says_the_accuracy(split: Split, tmp_path: Path) -> None:
    split.save(tmp_path / "split.json")
    options = {
        "--data": "smear:60?size=16",
        "--split": str(tmp_path / "split.json"),
        "--output": str(tmp_path / "expert"),
    }
    values = ("backbone=test_resnet", "size_px=16", "training.steps=1", "training.batch_size=2")
    call = [part for pair in options.items() for part in pair]
    call += [part for value in values for part in ("--set", value)]
    found = CliRunner().invoke(cli, ["expert", *call])
    assert found.exit_code == 0, found.output
    notes = load_expert(tmp_path / "expert")[1]
    assert f"val accuracy {notes.val_accuracy:.3f}" in found.output
