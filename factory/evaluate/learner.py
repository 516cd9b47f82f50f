"""A learner's training: equal steps for every arm, and the best validation state is what stays."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from factory.device import LOOK_STEPS, device_of
from factory.errors import ModelError
from factory.evaluate.config import Fitting
from factory.finetune.order import warmup_hold_decay

LossOf = Callable[[nn.Module, int], Tensor]
"""(network, step) -> loss; draws its own rows."""
Validate = Callable[[nn.Module], tuple[float, ...]]
"""Scores of the present weights; the first counts, the next break ties; more is better."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Fitted:
    """What a training was: the step whose weights stayed and all validations (step, scores)."""

    best_step: int
    curve: tuple[tuple[int, tuple[float, ...]], ...]


def fit(
    network: nn.Module,
    loss_of: LossOf,
    validate: Validate,
    settings: Fitting,
    *,
    frozen_norm: bool = False,
) -> Fitted:
    """Train `network` in place; it ends in eval mode with the best validation weights.

    AdamW, warm-up and half a cosine to 2 %, gradients clipped to norm 1. Buffers (batch norm's
    statistics) go with the weights; with `frozen_norm` they stay as they came. Of equal scores the
    earliest stays. A GPU is waited for at validations and every `LOOK_STEPS` steps alone.

    Raises:
        ModelError: the loss is no number any more.
    """
    trained = [p for p in network.parameters() if p.requires_grad]
    frozen = len(trained) < len(list(network.parameters()))
    whole = not (frozen and _batch_norms(network))  # its statistics stay as they came
    optimizer = torch.optim.AdamW(trained, weight_decay=settings.weight_decay)
    curve: list[tuple[int, tuple[float, ...]]] = []
    best: tuple[tuple[float, ...], int, dict[str, Tensor]] | None = None
    losses: list[Tensor] = []
    look = 1 if device_of(network).type == "cpu" else LOOK_STEPS
    for step in range(settings.steps):
        network.train(whole)
        if frozen_norm:
            for norm in _batch_norms(network):
                norm.eval()
        losses.append(_step(network, optimizer, loss_of, settings, step))
        done = step + 1
        validating = done % settings.validate_every == 0 or done == settings.steps
        if validating or len(losses) == look:
            _check(losses, done)
            losses = []
        if validating:
            network.eval()
            scores = validate(network)
            curve.append((done, scores))
            if best is None or scores > best[0]:
                state = {name: value.clone() for name, value in network.state_dict().items()}
                best = (scores, done, state)
    assert best is not None  # noqa: S101 -- the last step validates
    network.load_state_dict(best[2])
    network.eval()
    return Fitted(best_step=best[1], curve=tuple(curve))


def rate_factor(settings: Fitting, step: int) -> float:
    """Return the factor on the learning rate at `step` (0-based): the whole warm-up, then decay."""
    warmup = settings.warmup_steps
    decay = max(0, settings.steps - warmup)
    return warmup_hold_decay(step, steps=settings.steps, warmup_steps=warmup, decay_steps=decay)


def _batch_norms(network: nn.Module) -> list[nn.Module]:
    return [m for m in network.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]


def _step(
    network: nn.Module,
    optimizer: torch.optim.Optimizer,
    loss_of: LossOf,
    settings: Fitting,
    step: int,
) -> Tensor:
    """Take a step; return its loss."""
    for group in optimizer.param_groups:
        group["lr"] = settings.learning_rate * rate_factor(settings, step)
    loss = loss_of(network, step)
    torch.autograd.backward(loss)
    nn.utils.clip_grad_norm_(network.parameters(), 1.0)
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    return loss.detach()


def _check(losses: list[Tensor], done: int) -> None:
    """Raise where one of the last losses before step `done` is no number: one copy for them all."""
    for step, value in enumerate(torch.stack(losses).tolist(), start=done - len(losses) + 1):
        if not math.isfinite(value):
            raise ModelError(f"the loss is {value} at step {step}", remedy="Lower learning_rate")
