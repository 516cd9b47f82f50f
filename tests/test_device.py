"""One function says where a process computes."""

import pytest
import torch

from factory.device import chosen_device, up
from factory.errors import ClusterError


@pytest.mark.parametrize(
    ("reserved", "usable", "device"),
    [
        (None, True, "cuda"),
        (None, False, "cpu"),
        ([], True, "cpu"),
        ([], False, "cpu"),
        (["3"], True, "cuda"),
    ],
)
def test_a_gpu_is_used_by_whoever_holds_it(
    reserved: list[str] | None, usable: bool, device: str
) -> None:
    assert chosen_device(reserved, usable=usable) == device


def test_a_gpu_that_is_held_and_cannot_be_used_is_no_cpu() -> None:
    with pytest.raises(ClusterError, match=r"holds GPU 3, and PyTorch .* cannot use it"):
        chosen_device(["3"], usable=False)


def test_on_a_cpu_nothing_is_copied() -> None:
    here = torch.ones(2)
    assert up(here, "cpu") is here
