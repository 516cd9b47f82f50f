"""What a training holds in memory on each worker, by arithmetic: nothing is allocated.

Weights, gradients, two moments of AdamW and the average are counts of parameters, in float32.
Activations come from a step of the same network on fake tensors, which have shapes and no content.
"""

import weakref
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from factory.finetune.cluster import Sharding
from factory.finetune.config import MethodConfig
from factory.finetune.state import trainable
from factory.finetune.workers import shard_groups

GIB, _FLOAT32 = 2**30, 4
_ROW = "{:>7}  {:8}  {:>13}  {:>6}  {:>7}  {:>9}  {:>6}  {:>7}  {:>11}  {:>8}  {:>6}"
_TERMS = ("total", "weights", "gradients", "AdamW", "average", "activations", "gathered", "saving")


@dataclass(frozen=True, slots=True, kw_only=True)
class Memory:
    """Bytes on one worker. The terms never all peak at once, so `total` errs upwards."""

    weights: int
    gradients: int
    moments: int
    average: int
    activations: int
    gathered: int
    """Whole weights and gradients of the blocks that FSDP computes with just now."""
    saving: int
    """A copy of all that a checkpoint holds, in main memory, until it is on disk."""

    @property
    def total(self) -> int:
        """During a step."""
        held = self.weights + self.gradients + self.moments + self.average
        return held + self.activations + self.gathered

    def __str__(self) -> str:
        """Return all terms in GiB."""
        terms = {
            "weights": self.weights,
            "gradients": self.gradients,
            "AdamW": self.moments,
            "average": self.average,
            "activations": self.activations,
            "gathered blocks": self.gathered,
        }
        told = ", ".join(f"{name} {_gib(size)}" for name, size in terms.items() if size)
        return f"{_gib(self.total)} GiB ({told})"


def memory(
    network: nn.Module,
    *,
    workers: int,
    sharding: Sharding,
    activations: int,
    averaged: bool = True,
) -> Memory:
    """Return what one of `workers` holds of `network`, whose trainable parameters are marked.

    Args:
        network: on any device, not placed yet.
        workers: of the whole group; they divide what FSDP shards.
        sharding: see `place`; a DDP worker holds what a lone one holds.
        activations: bytes of one worker's part of a step, see `activation_bytes`.
        averaged: whether an average of the weights is kept.
    """
    parts = workers if sharding == "fsdp" else 1
    everything = _bytes([*network.parameters(), *network.buffers()])
    learnt = _bytes(trainable(network).values())
    return Memory(
        weights=everything // parts,
        gradients=learnt // parts,
        moments=2 * learnt // parts,
        average=learnt // parts if averaged else 0,
        activations=activations,
        gathered=_gathered(network) if sharding == "fsdp" else 0,
        saving=(4 if averaged else 3) * learnt // parts,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Sketch:
    """A network on paper: it has shapes and no content.

    Args:
        name: what is trained, for a person.
        network: on the meta device, its trainable parameters marked.
        forward: predicts for so many images; the network's parameters are fake tensors by then.
        size_px: side of the images.
    """

    name: str
    network: nn.Module
    forward: Callable[[int], Tensor]
    size_px: int


def told_needs(config: MethodConfig, sketch: Sketch) -> str:
    """Return what every worker of a training needs, as a line to show before it begins."""
    workers = config.cluster.most
    held = needs_of(config, sketch, workers=workers, shardings=[config.cluster.sharding])[0]
    each = "" if workers == 1 else f" on each of {workers} workers"
    return (
        f"needs about {held}{each}, and {_gib(held.saving)} GiB more while a checkpoint is written"
    )


def needs_of(
    config: Any, sketch: Sketch, *, workers: int, shardings: Sequence[Sharding]
) -> list[Memory]:
    """Return what each worker of a training holds under each of `shardings`.

    Without the autoencoder, the expert of an aligned loss and the libraries themselves. The sketch
    is of no other use afterwards.
    """
    training, network = config.training, sketch.network
    batch_size = -(-training.batch_size // (workers * training.accumulate))
    with FakeTensorMode():
        _make_fake(network)

        def step() -> None:
            with _precision(getattr(training, "precision", "bfloat16")):
                prediction = sketch.forward(batch_size)
            torch.autograd.backward(prediction.float().square().mean())

        activations, averaged = activation_bytes(step, network), training.ema_decay > 0
        return [
            memory(
                network,
                workers=workers,
                sharding=sharding,
                activations=activations,
                averaged=averaged,
            )
            for sharding in shardings
        ]


def table(
    config: Any, sketch_of: Callable[[Any], Sketch], *, workers: Sequence[int]
) -> Iterator[str]:
    """Yield the lines of the table: every number of workers, sharding and checkpointing.

    Args:
        config: of any method.
        sketch_of: makes the sketch of a configuration, anew for every line.
        workers: numbers of them.
    """
    training, shown = config.training, sketch_of(config)
    kept = f", train: {config.train}" if hasattr(config, "train") else ""
    yield (
        f"{shown.name}{kept}, {training.batch_size} images of {shown.size_px} px a step,"
        f" {getattr(training, 'precision', 'bfloat16')}; GiB on each worker"
    )
    yield _ROW.format("workers", "sharding", "checkpointing", *_TERMS)
    can = "gradient_checkpointing" in type(training).model_fields
    for checkpointing in (False, True) if can else (False,):
        changed = {"gradient_checkpointing": checkpointing} if can else {}
        asked = config.model_copy(update={"training": training.model_copy(update=changed)})
        for count in workers:
            copied: Sharding = "none" if count == 1 else "ddp"
            held = needs_of(asked, sketch_of(asked), workers=count, shardings=("ddp", "fsdp"))
            for sharding, each in zip((copied, "fsdp"), held, strict=True):
                sizes = (
                    each.total,
                    each.weights,
                    each.gradients,
                    each.moments,
                    each.average,
                    each.activations,
                    each.gathered,
                    each.saving,
                )
                told = (_gib(size) for size in sizes)
                yield _ROW.format(count, sharding, "yes" if checkpointing else "no", *told)


def activation_bytes(step: Callable[[], object], network: nn.Module) -> int:
    """Return the most that `step`, a forward and a backward, holds beside weights and gradients.

    Whatever is saved for the backward, and what is computed and dropped on the way. Must run under
    the `FakeTensorMode` that made `network`, which is of no other use afterwards.
    """
    live = _Live(network.parameters())
    for parameter in trainable(network).values():
        add_hook: Any = parameter.register_post_accumulate_grad_hook
        add_hook(live.leave_out_gradient)
    with live:
        step()
    return live.peak


class _Live(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts the bytes of all storages that operations make, until they are freed."""

    def __init__(self, ignored: Iterable[Tensor]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.now = self.peak = 0
        self._sizes = {_key(tensor): 0 for tensor in ignored}

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        found = func(*args, **(kwargs or {}))
        for value in tree_leaves(found):
            if isinstance(value, Tensor) and _key(value) not in self._sizes:
                self._count(value)
        return found

    def leave_out_gradient(self, parameter: Tensor) -> None:
        """Stop counting a gradient that has reached its parameter: it is a term of its own."""
        key = _key(parameter.grad) if parameter.grad is not None else 0
        self.now -= self._sizes.get(key, 0)
        self._sizes[key] = 0

    def _count(self, tensor: Tensor) -> None:
        storage = tensor.untyped_storage()
        self._sizes[_key(tensor)] = storage.nbytes()
        self.now += storage.nbytes()
        self.peak = max(self.peak, self.now)
        weakref.finalize(storage, self._free, _key(tensor))

    def _free(self, key: int) -> None:
        self.now -= self._sizes.pop(key, 0)


def _make_fake(network: nn.Module) -> None:
    """Give a network on the meta device fake tensors of the CPU: those choose the CPU's kernels."""
    for module in network.modules():
        for name, parameter in module.named_parameters(recurse=False):
            fake = torch.empty(parameter.shape, dtype=parameter.dtype)
            setattr(module, name, nn.Parameter(fake, requires_grad=parameter.requires_grad))
        for name, buffer in module.named_buffers(recurse=False):
            setattr(module, name, torch.empty(buffer.shape, dtype=buffer.dtype))


def _gathered(network: nn.Module) -> int:
    """Return the root's own and two blocks' weights, and a block's gradients, as FSDP2 holds them.

    The root stays gathered from forward to backward, and the next block is fetched while one
    computes.
    """
    *blocks, root = ([*group.values()] for group in shard_groups(network).values())
    learnt = [[p for p in block if p.requires_grad] for block in blocks]
    return _bytes(root) + 2 * _largest(blocks) + _largest(learnt)


def _precision(name: str) -> Any:
    return torch.autocast("cpu", torch.bfloat16) if name == "bfloat16" else nullcontext()


def _key(tensor: Tensor) -> int:
    key: int = tensor.untyped_storage()._cdata
    return key


def _bytes(tensors: Iterable[Tensor]) -> int:
    sizes = ((tensor, tensor.numel()) for tensor in tensors)
    return sum(n * (t.element_size() if t.is_floating_point() else _FLOAT32) for t, n in sizes)


def _largest(groups: Iterable[Iterable[Tensor]]) -> int:
    return max((_bytes(group) for group in groups), default=0)


def _gib(size: float) -> str:
    return f"{size / GIB:.2f}"
