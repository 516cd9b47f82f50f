"""What a training holds in memory on each worker, by arithmetic: nothing is allocated.

Weights, gradients, two moments of AdamW and the average are counts of parameters, in float32.
Activations come from a step of the same network on fake tensors, which have shapes and no content.
"""

import weakref
from collections.abc import Callable, Iterable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from diffusers import UNet2DConditionModel
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from transformers import CLIPTextConfig, CLIPTextModel

from factory.finetune.cluster import Sharding
from factory.finetune.config import FinetuneConfig
from factory.finetune.ema import trainable
from factory.finetune.plan import Plan
from factory.finetune.pretrain import TextConditioned
from factory.finetune.workers import shard_groups
from factory.models.folder import read_json
from factory.models.generator import Generator, find_generator
from factory.models.lora import attach_lora

GIB, _FLOAT32 = 2**30, 4


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


def told_needs(plan: Plan) -> str:
    """Return what every worker of a fine-tuning needs, as a line to show before it begins."""
    workers = plan.config.cluster.most
    base = find_generator(plan.config.base, revision=plan.config.revision)
    held = needs(plan.config, base, workers=workers)
    each = "" if workers == 1 else f" on each of {workers} workers"
    return (
        f"needs about {held}{each}, and {_gib(held.saving)} GiB more while a checkpoint is written"
    )


def needs(config: FinetuneConfig, base: Generator, *, workers: int) -> Memory:
    """Return what each of `workers` holds under the sharding of `config`; see `needs_of`."""
    return needs_of(config, base, workers=workers, shardings=[config.cluster.sharding])[0]


def needs_of(
    config: FinetuneConfig, base: Generator, *, workers: int, shardings: Sequence[Sharding]
) -> list[Memory]:
    """Return what each worker of an adaptation of `base` holds under each of `shardings`.

    Without the autoencoder, the expert of an aligned loss and the libraries themselves.
    """
    training = config.training
    size_px = config.size_px or base.size_px
    unet_config = read_json(base.folder / "unet" / "config.json")
    text_config = read_json(base.folder / "text_encoder" / "config.json")
    levels = len(read_json(base.folder / "vae" / "config.json")["block_out_channels"])
    batch_size = -(-training.batch_size // (workers * training.accumulate))
    with torch.device("meta"):
        network = TextConditioned(
            UNet2DConditionModel.from_config(unet_config),
            CLIPTextModel(CLIPTextConfig(**text_config)),
        )
    unet: Any = network.unet
    if config.train == "lora":
        attach_lora(unet, network.text_encoder, config.lora, seed=0)
    if training.gradient_checkpointing:
        unet.enable_gradient_checkpointing()
    with FakeTensorMode():
        _make_fake(network)
        side = size_px // 2 ** (levels - 1)
        latents = torch.zeros(batch_size, unet.config.in_channels, side, side)
        length = CLIPTextConfig(**text_config).max_position_embeddings  # or CLIP's 77
        tokens = torch.zeros(batch_size, length, dtype=torch.long)

        def step() -> None:
            with _precision(training.precision):
                prediction = network(latents, torch.zeros(batch_size, dtype=torch.long), tokens)
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
    return _FLOAT32 * sum(tensor.numel() for tensor in tensors)


def _largest(groups: Iterable[Iterable[Tensor]]) -> int:
    return max((_bytes(group) for group in groups), default=0)


def _gib(size: float) -> str:
    return f"{size / GIB:.2f}"
