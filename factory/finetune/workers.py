"""How a model lies on the workers of a training: alone, copied (DDP) or sharded (FSDP2)."""

import logging
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from functools import cache
from typing import cast

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.nn.parallel import DistributedDataParallel

from factory.errors import ConfigError
from factory.finetune.cluster import Sharding

_LOG = logging.getLogger(__name__)
BFLOAT16 = ("avx512_bf16", "amx_bf16", "bf16")
"""Instructions as `torch.cpu.get_capabilities` calls them; the last are ARM's."""
MIN_SHARD_PARAMETERS = 100_000
"""Smaller modules travel with the module around them: a message each would cost more."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Workers:
    """One worker among its peers, and how they share a model."""

    rank: int = 0
    world_size: int = 1
    sharding: Sharding = "none"
    device: str = "cpu"

    @property
    def first(self) -> bool:
        """Whether this one writes and speaks for all."""
        return self.rank == 0


def place(model: nn.Module, workers: Workers) -> nn.Module:
    """Return `model` on the worker's device, copied or sharded as `workers.sharding` says.

    Every worker must hold the same initial weights (they are seeded). Sharded modules are changed
    in place: make optimisers and averages afterwards.

    Raises:
        ConfigError: several workers, and nothing that would keep their models alike.
    """
    model = model.to(workers.device)
    if workers.sharding == "fsdp":
        for module in shard_groups(model):
            fully_shard(module)
        return model
    if workers.sharding == "ddp":
        return DistributedDataParallel(model, gradient_as_bucket_view=True)  # one copy, not two
    if workers.world_size > 1:
        raise ConfigError(
            f"sharding 'none' with {workers.world_size} workers trains as many models",
            remedy="Choose sharding: ddp (a copy each) or fsdp (a shard each)",
        )
    return model


def shard_groups(model: nn.Module) -> dict[nn.Module, dict[str, nn.Parameter]]:
    """Return the modules that are sharded one by one, inner ones first and `model` last.

    Each with the parameters that travel with it: its own, and those of small modules in it.
    """
    groups: dict[nn.Module, dict[str, nn.Parameter]] = {}
    taken: set[nn.Parameter] = set()
    for module in reversed(list(model.modules())):
        own = {name: p for name, p in module.named_parameters() if p not in taken}
        large = sum(p.numel() for p in own.values()) >= MIN_SHARD_PARAMETERS
        if module is model or (_repeats(module) and large):
            groups[module] = own
            taken.update(own.values())
    return groups


def autocast(precision: str, device: str) -> AbstractContextManager[object]:
    """Return the context in which a step computes: see `uses_bfloat16`."""
    if uses_bfloat16(precision, device):
        return torch.autocast(device.partition(":")[0], torch.bfloat16)
    return nullcontext()


def uses_bfloat16(precision: str, device: str) -> bool:
    """Whether 'bfloat16' is asked for and can be computed; float32, never less exact, where not.

    A CPU without such instructions emulates them value by value: a step of wbc-base's autoencoder
    then takes 52.8 s in place of 1.8 s (measured on AVX2).
    """
    if precision != "bfloat16":
        return False
    known = torch.cpu.get_capabilities()
    computes = device != "cpu" or any(known.get(name, False) for name in BFLOAT16)
    if not computes:
        _say_once()
    return computes


@cache
def _say_once() -> None:
    _LOG.warning("this CPU has no bfloat16 instructions: float32 instead, which is faster here")


@contextmanager
def gradients_kept(model: nn.Module, *, last: bool) -> Iterator[None]:
    """Leave gradients on each worker until the `last` part of an accumulated step."""
    if isinstance(model, DistributedDataParallel) and not last:
        with model.no_sync():
            yield
        return
    if isinstance(model, FSDPModule):
        model.set_requires_gradient_sync(last)
    yield


def mean_over_workers(values: Tensor, *, group: dist.ProcessGroup | None = None) -> Tensor:
    """Return the means of scalars (n,) over all workers, in one message."""
    if dist.is_initialized() and dist.get_world_size() > 1:
        dist.all_reduce(values, group=group)
        values /= dist.get_world_size()
    return values


def host_group() -> dist.ProcessGroup | None:
    """Return a group for messages between hosts, which wait for no GPU; every worker must ask."""
    if not dist.is_initialized():
        return None
    return cast("dist.ProcessGroup", dist.new_group(backend="gloo"))


def inner(model: nn.Module) -> nn.Module:
    """Return the module inside a DDP wrapper, or the module itself."""
    wrapped: nn.Module = model.module if isinstance(model, DistributedDataParallel) else model
    return wrapped


def _repeats(module: nn.Module) -> bool:
    """Whether `module` is a block of a U-Net or a layer of a transformer, by its class name."""
    name = type(module).__name__
    return name.endswith(("Block", "Block2D", "EncoderLayer", "Layer"))
