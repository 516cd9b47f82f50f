"""Sharded parameters stay shards, whatever is computed between two steps."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor

from factory.finetune.state import Ema, state_tensors, trainable
from factory.models.shards import local


@pytest.fixture
def sharded(tmp_path: Path) -> Iterator[nn.Module]:
    """A network in the hands of FSDP, in a group of one."""
    store = dist.FileStore(str(tmp_path / "store"), 1)
    dist.init_process_group("gloo", store=store, rank=0, world_size=1)
    mesh = dist.device_mesh.init_device_mesh("cpu", (1,))
    try:
        yield fully_shard(nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 2)), mesh=mesh)
    finally:
        dist.destroy_process_group()


@pytest.mark.parametrize("decay", [0.0, 0.5])
def test_a_validation_leaves_the_shards_that_were_there(sharded: nn.Module, decay: float) -> None:
    ema = Ema(sharded, decay=decay)
    before = {name: local(p).clone() for name, p in trainable(sharded).items()}
    if decay:
        for value in ema.values.values():
            local(value).add_(1)
    with ema.applied(sharded), torch.no_grad():
        sharded(torch.ones(1, 4))
    after = trainable(sharded)
    assert all(isinstance(p, DTensor) for p in after.values())
    assert all(torch.equal(local(p), before[name]) for name, p in after.items())


def test_a_checkpoint_after_a_forward_pass_holds_shards(sharded: nn.Module) -> None:
    with torch.no_grad():
        sharded(torch.ones(1, 4))
    stored = state_tensors(sharded, Ema(sharded, decay=0), torch.optim.AdamW(sharded.parameters()))
    assert all(isinstance(value, DTensor) for value in stored.values())
