"""What a training holds beside its weights: their average, and all that a resumed one needs."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from factory.finetune.workers import inner
from factory.models.shards import local, reshard


class Ema:
    """The average of the trainable parameters of a module; everything else it never changes."""

    def __init__(self, model: nn.Module, *, decay: float) -> None:
        """Start from the present weights. `decay` 0 keeps no average: the weights themselves."""
        self.decay, self.updates = decay, 0
        now = {name: p.detach() for name, p in trainable(model).items()}
        self.values = {name: value.clone() for name, value in now.items()} if decay else now

    @torch.no_grad()
    def update(self, model: nn.Module) -> None:
        """Move towards the weights of `model`: fast at first, then by 1 - `decay`.

        Without that warm-up the random initial weights stay visible for 1 / (1 - decay) updates.
        """
        if self.decay:
            now = min(self.decay, (1 + self.updates) / (10 + self.updates))
            current = [local(p) for p in trainable(model).values()]
            torch._foreach_lerp_([local(v) for v in self.values.values()], current, 1 - now)
        self.updates += 1

    @contextmanager
    def applied(self, model: nn.Module) -> Iterator[nn.Module]:
        """Give `model` the average weights for a while, to validate or to export it."""
        kept = {n: p.detach().clone() for n, p in trainable(model).items()} if self.decay else {}
        if self.decay:
            _assign(model, self.values)
        try:
            yield model
        finally:
            reshard(model)
            if self.decay:
                _assign(model, kept)


def trainable(model: nn.Module) -> dict[str, nn.Parameter]:
    """Return the parameters that gradients reach, by name."""
    return {name: p for name, p in model.named_parameters() if p.requires_grad}


@torch.no_grad()
def _assign(model: nn.Module, values: dict[str, Tensor]) -> None:
    for name, parameter in trainable(model).items():
        local(parameter).copy_(local(values[name]))


def state_tensors(
    model: nn.Module, ema: Ema, optimizer: torch.optim.Optimizer
) -> dict[str, Tensor]:
    """Return the tensors of a checkpoint by name, sharded as the weights are; views, not copies."""
    module = inner(model)
    reshard(module)
    _prepare_moments(model, optimizer)
    tensors: dict[str, Tensor] = {}
    for name, parameter in trainable(module).items():
        moments = optimizer.state[parameter]
        tensors[f"model/{name}"] = parameter.detach()
        if ema.decay:
            tensors[f"ema/{name}"] = ema.values[name]
        tensors[f"exp_avg/{name}"] = moments["exp_avg"]
        tensors[f"exp_avg_sq/{name}"] = moments["exp_avg_sq"]
    kept = module.state_dict()
    buffers = {n: b for n, b in module.named_buffers() if n in kept}
    return tensors | {f"buffer/{name}": value for name, value in buffers.items()}


def _prepare_moments(model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    """Give AdamW its moments before its first step, so that a checkpoint can fill them."""
    for parameter in trainable(model).values():
        if parameter not in optimizer.state:
            optimizer.state[parameter] = {
                "step": torch.zeros((), device=local(parameter).device),
                "exp_avg": torch.zeros_like(parameter),
                "exp_avg_sq": torch.zeros_like(parameter),
            }
