"""Everything that a resumed training needs of the one before: weights, average and moments."""

import torch
from torch import Tensor, nn

from factory.finetune.ema import Ema, trainable
from factory.finetune.workers import inner
from factory.models.shards import local, reshard


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
