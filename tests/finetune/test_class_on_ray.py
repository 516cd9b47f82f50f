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
    less = config(training={"steps": config().training.steps - 1})
    early = finetune_here(prepare(less, dataset, split, tmp_path / "early"), tell=lambda _: None)
    expected, found = weights(whole), weights(generator)
    assert all(torch.equal(expected[n], found[n]) for n in expected if n.startswith("vae."))
    # Two workers add in another order; Adam makes a learning rate of a gradient that is rounding.
    assert apart(expected, found) < 0.01 * apart(expected, weights(early))
    assert (tmp_path / "ray" / "targets" / "all" / "samples" / "step-00000004.png").exists()


def apart(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> float:
    """Return the Euclidean distance of all weights together."""
    return float(sum((one[n].double() - other[n].double()).square().sum() for n in one) ** 0.5)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_gpus_that_the_cluster_has_not_are_said(
    dataset: RealDataset, split: Split, tmp_path: Path
) -> None:
    plan = prepare(config(cluster={"use_gpu": True}), dataset, split, tmp_path)
    with pytest.raises(ConfigError, match=r"cluster\.use_gpu is true, .* has 0 GPUs"):
        finetune_on_ray(plan)
