"""A downstream classifier: any timm backbone, trained on one arm, tested on real images only."""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from factory.arrays import Floats, Images
from factory.device import device_of, own_device, up
from factory.evaluate.augment import augmented
from factory.evaluate.clip import build_clip
from factory.evaluate.config import Classifier
from factory.evaluate.learner import Fitted, fit
from factory.evaluate.pictures import Chosen
from factory.evaluate.pooled import batch_loss, mixed, soft_cross_entropy
from factory.evaluate.scores import confusion_rows, macro_f1
from factory.finetune.latents import to_signed
from factory.finetune.order import step_generator, step_indices
from factory.models.config import ExpertSpec
from factory.models.experts import build_expert, seeded


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingRows:
    """Training examples: images (N, S, S, 3) uint8 and what they teach."""

    images: Tensor | Chosen
    soft_labels: Tensor
    """(N, K)"""
    synthetic: Tensor
    """(N,) bool"""
    weights: Tensor
    """(N,)"""
    augment: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class RealPart:
    """Real images (N, S, S, 3) uint8 to validate or test on, with class indices (N,)."""

    images: Images | Chosen
    labels: NDArray[np.int64]


def train_classifier(
    settings: Classifier,
    class_names: tuple[str, ...],
    train: TrainingRows,
    val: RealPart,
    *,
    seed: int,
) -> tuple[nn.Module, Fitted]:
    """Return the classifier with the best val macro-F1 (ties: lower loss), and its curve.

    Equal settings and seed give equal initial weights, and draws that follow from step and seed.
    It is trained on the device that this process has (`own_device`), and stays there.

    Raises:
        ConfigError: see `build_classifier`.
        ModelError: the same, or the loss is no number any more.
    """
    device = own_device()
    network = build_classifier(settings, class_names, seed=seed).to(device)

    def loss_of(module: nn.Module, step: int) -> Tensor:
        return classifier_loss(module, settings, train, step, seed=seed)

    def validate(module: nn.Module) -> tuple[float, ...]:
        chances = predict(module, val.images)
        loss = -np.log(np.maximum(chances[np.arange(len(val.labels)), val.labels], 1e-12)).mean()
        sums = confusion_rows(val.labels, chances.argmax(1), len(class_names)).sum(axis=0)
        return float(macro_f1(sums)), -float(loss)

    with seeded(seed, device):  # dropout has no generator argument
        fitted = fit(network, loss_of, validate, settings, frozen_norm=settings.frozen_norm)
    return network, fitted


def build_classifier(settings: Classifier, class_names: tuple[str, ...], *, seed: int) -> nn.Module:
    """Return the untrained network: (B, 3, H, W) in [-1, 1] to logits (B, classes).

    Raises:
        ConfigError: timm knows no such backbone, or see `build_clip`.
        ModelError: weights that do not fit, or see `build_clip`.
    """
    if settings.clip is not None:
        return build_clip(settings.clip, class_names, seed=seed)
    spec = ExpertSpec(backbone=settings.backbone, class_names=class_names, size_px=settings.size_px)
    network = build_expert(spec, seed=seed, weights=settings.weights)
    if settings.head_only:
        network.requires_grad_(False)
        network.network.get_classifier().requires_grad_(True)
    return network


def classifier_loss(
    module: nn.Module, settings: Classifier, train: TrainingRows, step: int, *, seed: int
) -> Tensor:
    """Return the loss of one step: rows, augmentation and mixing follow from step and seed."""
    rows = torch.from_numpy(
        step_indices(step, batch_size=settings.batch_size, num_images=len(train.images), seed=seed)
    )
    device = device_of(module)
    images = to_signed(up(train.images[rows], device))
    targets = up(train.soft_labels[rows], device)
    synthetic = train.synthetic[rows]
    if train.augment:
        generator = step_generator(step, seed=seed)
        images, _turns, _grids = augmented(settings.augmentation, images, generator)
        within = settings.pooled is not None
        images, targets = mixed(
            images, targets, synthetic, settings.mixing, generator, within_sides=within
        )
    losses = soft_cross_entropy(module(images), targets)
    return batch_loss(losses, synthetic, train.weights[rows], settings.pooled)


@torch.no_grad()
def predict(network: nn.Module, images: Images | Chosen, *, batch_size: int = 64) -> Floats:
    """Return class probabilities (N, K) of images (N, S, S, 3), without any augmentation."""
    if not len(images):
        return np.empty((0, 0))
    device = device_of(network)
    said = [
        network(to_signed(up(torch.as_tensor(images[start : start + batch_size]), device)))
        for start in range(0, len(images), batch_size)
    ]
    return np.asarray(torch.cat([logits.softmax(1) for logits in said]).cpu().double().numpy())
