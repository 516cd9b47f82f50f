"""The same class-conditional generator on Ray Train, on one worker or two, as in one process."""

from pathlib import Path

import pytest
import torch

from factory.errors import ConfigError
from factory.finetune.run import finetune_here, finetune_on_ray, prepare
from factory.real.dataset import RealDataset
from factory.real.splits import Split
from tests.finetune.test_class_conditional import config, weights

pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("local_ray")]


@pytest.mark.slow
def test_two_workers_train_what_one_process_does(
    dataset: RealDataset, split: Split, tmp_path: Path
) -> None:
    whole = finetune_here(prepare(config(), dataset, split, tmp_path / "here"), tell=lambda _: None)
    shared = config(cluster={"workers": 2, "sharding": "ddp"})
    generator = finetune_on_ray(prepare(shared, dataset, split, tmp_path / "ray"))
    expected, found = weights(whole), weights(generator)
    assert all(torch.equal(expected[n], found[n]) for n in expected if n.startswith("vae."))
    assert max(float((expected[n] - found[n]).abs().max()) for n in expected) < 1e-6
    assert (tmp_path / "ray" / "targets" / "all" / "samples" / "step-00000004.png").exists()


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_gpus_that_the_cluster_has_not_are_said(
    dataset: RealDataset, split: Split, tmp_path: Path
) -> None:
    plan = prepare(config(cluster={"use_gpu": True}), dataset, split, tmp_path)
    with pytest.raises(ConfigError, match=r"cluster\.use_gpu is true, .* has 0 GPUs"):
        finetune_on_ray(plan)
