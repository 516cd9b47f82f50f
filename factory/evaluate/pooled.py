"""Losses over real and synthetic rows together, and mixing that keeps to its side of the border.

Source: CytoDiff's pooled loss, after DataDream's (which has no batch-share factors); MixUp
(H. Zhang et al., 2018) and CutMix (S. Yun et al., 2019).
"""

import numpy as np
import torch
from torch import Tensor

from factory.device import up
from factory.evaluate.config import Mixing, PooledLoss


def soft_cross_entropy(logits: Tensor, targets: Tensor) -> Tensor:
    """Return the loss of every row (B,) for soft labels (B, K) that sum to 1."""
    return -(targets * logits.log_softmax(1)).sum(1)


def batch_loss(
    losses: Tensor, synthetic: Tensor, weights: Tensor, pooled: PooledLoss | None
) -> Tensor:
    """Return one loss of the rows' losses (B,).

    Plain: their weighted mean. Pooled: L = lambda (n_r / n) L_real + (1 - lambda) (n_s / n) L_syn
    with the fractions only under `batch_shares`; each L is a weighted mean, and a side without
    rows adds nothing.

    Args:
        losses: of the rows, wherever they were computed.
        synthetic: (B,) bool, of the CPU: which sides there are is asked without waiting.
        weights: (B,) of the rows, of the CPU.
        pooled: None for the plain loss.
    """
    if pooled is None:
        return _mean(losses, up(weights, losses.device))
    total = losses.sum() * 0  # keeps the graph where a side is missing
    sides = ((~synthetic, pooled.real_weight), (synthetic, 1 - pooled.real_weight))
    for side, factor in sides:
        if bool(side.any()):
            share = float(side.float().mean()) if pooled.batch_shares else 1.0
            rows, weight = (up(t, losses.device) for t in (side.nonzero()[:, 0], weights[side]))
            total = total + factor * share * _mean(losses[rows], weight)
    return total


def mixed(
    images: Tensor,
    targets: Tensor,
    synthetic: Tensor,
    mixing: Mixing,
    generator: torch.Generator,
    *,
    within_sides: bool,
) -> tuple[Tensor, Tensor]:
    """Return images (B, C, H, W) and targets (B, K) after MixUp or CutMix, or unchanged.

    Both lie on one device, `synthetic` (B,) bool and `generator` are of the CPU.
    One proportion and one box for the batch. With `within_sides` a real image is mixed with real
    ones only, and a synthetic one with synthetic ones.
    """
    chance, choice = torch.rand(2, generator=generator).tolist()
    proportion = _beta(mixing.alpha, generator)
    partner = partners(synthetic, generator, within_sides=within_sides)
    corner = torch.rand(2, generator=generator)
    if chance >= mixing.probability:
        return images, targets
    partner = up(partner, images.device)
    if mixing.kind == "cutmix" or (mixing.kind == "either" and choice < 0.5):
        images, proportion = _with_box(images, images[partner], corner, proportion)
    else:
        images = proportion * images + (1 - proportion) * images[partner]
    return images, proportion * targets + (1 - proportion) * targets[partner]


def partners(synthetic: Tensor, generator: torch.Generator, *, within_sides: bool) -> Tensor:
    """Return (B,) row numbers, a permutation of all rows or of each side within itself."""
    order = torch.randperm(len(synthetic), generator=generator)
    if not within_sides:
        return order
    out = torch.empty_like(order)
    for side in (synthetic, ~synthetic):
        out[side] = order[side[order]]
    return out


def _with_box(
    images: Tensor, others: Tensor, corner: Tensor, proportion: float
) -> tuple[Tensor, float]:
    """Paste a box of the others; return the images and the share that is still their own."""
    height, width = images.shape[2:]
    tall, wide = (round(side * (1 - proportion) ** 0.5) for side in (height, width))
    top, left = (
        int(c * (s - b + 1)) for c, s, b in zip(corner, (height, width), (tall, wide), strict=True)
    )
    out = images.clone()
    box = (..., slice(top, top + tall), slice(left, left + wide))
    out[box] = others[box]
    return out, 1 - tall * wide / (height * width)


def _beta(alpha: float, generator: torch.Generator) -> float:
    seed = int(torch.randint(2**62, (1,), generator=generator))  # torch's Beta takes no generator
    return float(np.random.Generator(np.random.Philox(seed)).beta(alpha, alpha))


def _mean(losses: Tensor, weights: Tensor) -> Tensor:
    return (losses * weights).sum() / weights.sum()
