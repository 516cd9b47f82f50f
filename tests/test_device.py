"""One function says where a process computes."""

import json
import os
import subprocess
import sys

import pytest
import torch

from factory import device
from factory.device import chosen_device, in_slices, up
from factory.errors import ClusterError
from tests.fakes.pretended_gpu import pretended_gpu


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


def test_a_gpu_decodes_in_slices_of_one_size_and_a_cpu_at_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(device, "SLICE_PIXELS", 3 * 64)
    sizes = []

    def decode(part: torch.Tensor) -> torch.Tensor:
        sizes.append(len(part))
        return part * 2

    latents = torch.arange(8.0)
    assert torch.equal(in_slices(decode, latents, pixels=64), latents * 2)
    assert sizes == [8]
    with pretended_gpu():
        found = in_slices(decode, latents.to("cuda"), pixels=64)
        assert torch.equal(found.cpu(), latents * 2)
    assert sizes[1:] == [3, 3, 2]


@pytest.mark.parametrize(
    ("own", "read"),
    [
        ({}, ["3000", None, "factory"]),
        ({"GOMP_SPINCOUNT": "7"}, ["7", None, "factory"]),
        ({"OMP_WAIT_POLICY": "ACTIVE"}, [None, "ACTIVE", "factory"]),
    ],
)
def test_threads_that_wait_leave_a_busy_machine_its_cores(
    own: dict[str, str], read: list[str | None]
) -> None:
    """Before torch is loaded, and unless its user has decided."""
    asked = "import json, os, factory, sys; assert 'torch' not in sys.modules; print(json.dumps("
    asked += "[*map(os.environ.get, ('GOMP_SPINCOUNT', 'OMP_WAIT_POLICY')), factory.__name__]))"
    kept = {k: v for k, v in os.environ.items() if k not in ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY")}
    found = subprocess.run(
        [sys.executable, "-c", asked], env=kept | own, check=True, capture_output=True, text=True
    )
    assert json.loads(found.stdout) == read
