"""A downstream segmenter: a small U-Net, or a timm encoder under a standard decoder."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from factory.arrays import Images, Masks
from factory.device import device_of, own_device, up
from factory.evaluate.augment import apply_geometry, augmented
from factory.evaluate.config import SegmenterLearner
from factory.evaluate.learner import Fitted, fit
from factory.evaluate.pictures import Chosen
from factory.evaluate.pooled import batch_loss
from factory.evaluate.scores import image_dice, mask_rows
from factory.finetune.latents import to_signed
from factory.finetune.order import step_generator, step_indices
from factory.models.experts import seeded
from factory.models.segmenter_networks import build_segmenter


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingPairs:
    """Training pairs: images (N, S, S, 3) uint8, class indices (N, S, S) uint8."""

    images: Tensor | Chosen
    masks: Tensor | Chosen
    synthetic: Tensor
    """(N,) bool"""
    weights: Tensor
    """(N,)"""
    augment: bool


def train_segmenter_on(
    settings: SegmenterLearner,
    train: TrainingPairs,
    val: tuple[Images | Chosen, Masks],
    *,
    num_classes: int,
    seed: int,
) -> tuple[nn.Module, Fitted]:
    """Return the segmenter with the best mean val Dice of the foreground, and its curve.

    It is trained on the device that this process has (`own_device`), and stays there.

    Args:
        settings: architecture, lengths and rates.
        train: the arm's pairs.
        val: real images (M, S, S, 3) and masks (M, S, S).
        num_classes: K, background included.
        seed: of weights and order.

    Raises:
        ConfigError: see `build_segmenter`.
        ModelError: the same, or the loss is no number any more.
    """
    device = own_device()
    network = build_segmenter(settings, num_classes, seed=seed).to(device)

    def loss_of(module: nn.Module, step: int) -> Tensor:
        return pair_loss(module, settings, train, step, seed=seed)

    def validate(module: nn.Module) -> tuple[float, ...]:
        rows = mask_rows(segment(module, val[0]), val[1])
        return (float(image_dice(rows.sum(axis=0))),)

    with seeded(seed, device):
        fitted = fit(network, loss_of, validate, settings)
    return network, fitted


def pair_loss(
    module: nn.Module, settings: SegmenterLearner, train: TrainingPairs, step: int, *, seed: int
) -> Tensor:
    """Return the loss of one step: cross-entropy plus soft Dice, image by image."""
    rows = torch.from_numpy(
        step_indices(step, batch_size=settings.batch_size, num_images=len(train.images), seed=seed)
    )
    device = device_of(module)
    images = to_signed(up(train.images[rows], device))
    masks = up(train.masks[rows], device)[:, None].float()
    if train.augment:
        generator = step_generator(step, seed=seed)
        images, turns, grids = augmented(settings.augmentation, images, generator)
        masks = apply_geometry(masks, turns, grids, mode="nearest")
    losses = image_losses(module(images), masks[:, 0].long())
    return batch_loss(losses, train.synthetic[rows], train.weights[rows], settings.pooled)


def image_losses(logits: Tensor, masks: Tensor) -> Tensor:
    """Return (B,) cross-entropy plus 1 - soft Dice of the foreground classes, of each image.

    Source of the soft Dice: F. Milletari et al., V-Net, 2016, equation 3, without squares; a pixel
    is added above and below, so that empty masks have a gradient and no division by 0.
    """
    cross_entropy = nn.functional.cross_entropy(logits, masks, reduction="none").mean((1, 2))
    shares = logits.softmax(1)[:, 1:]
    wanted = nn.functional.one_hot(masks, logits.shape[1]).permute(0, 3, 1, 2)[:, 1:].float()
    overlap, total = (shares * wanted).sum((2, 3)), (shares + wanted).sum((2, 3))
    dice = ((2 * overlap + 1) / (total + 1)).mean(1)
    return cross_entropy + 1 - dice


@torch.no_grad()
def segment(network: Any, images: Images | Chosen, *, batch_size: int = 16) -> Masks:
    """Return class indices (N, S, S) of images (N, S, S, 3), without any augmentation."""
    device = device_of(network)
    found = [
        network(to_signed(up(torch.as_tensor(images[start : start + batch_size]), device)))
        .argmax(1)
        .to(torch.uint8)
        for start in range(0, len(images), batch_size)
    ]
    return np.asarray(torch.cat(found).cpu().numpy())
