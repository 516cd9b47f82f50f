"""Trains an expert: a short, class-balanced fine-tune that is the same every time it is done.

A pure function of images, settings and initial weights. It takes minutes, so a run that was killed
redoes it and gets the same expert, bit for bit on a CPU, instead of keeping checkpoints.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from factory.atomic import writing
from factory.device import own_device
from factory.errors import DataError, ModelError
from factory.finetune.config import ExpertConfig, ExpertTraining
from factory.finetune.latents import TURNS, to_signed, turn
from factory.finetune.order import step_generator, warmup_hold_decay
from factory.models.config import ExpertSpec
from factory.models.expert_file import ExpertNotes, save_expert
from factory.models.experts import Expert, build_expert, seeded
from factory.real.dataset import RealDataset
from factory.real.splits import Split, check_dataset


@dataclass(frozen=True, slots=True, kw_only=True)
class LabelledImages:
    """Images (N, S, S, 3) uint8 and the class name of each."""

    images: NDArray[np.uint8]
    labels: Sequence[str]

    def targets(self, class_names: Sequence[str]) -> Tensor:
        """Return (N,) class indices.

        Raises:
            DataError: a label that is none of `class_names`, or not one label an image.
        """
        unknown = sorted(set(self.labels) - set(class_names))
        if unknown or len(self.labels) != len(self.images):
            raise DataError(
                f"{len(self.images)} images have {len(self.labels)} labels,"
                f" of which {unknown} are no classes of the expert",
                remedy=f"Label every image with one of {', '.join(class_names)}",
            )
        return torch.tensor([class_names.index(label) for label in self.labels], dtype=torch.long)


def train_expert(
    spec: ExpertSpec,
    train: LabelledImages,
    val: LabelledImages,
    settings: ExpertTraining,
    *,
    weights: Path | None = None,
    device: str = "cpu",
    report: Callable[[int, float], object] = lambda _step, _loss: None,
) -> tuple[Expert, float]:
    """Return a frozen expert, on the CPU, and its accuracy on `val`.

    Every class is drawn equally often. The weights are those of the last step, not of the best:
    nothing is chosen on `val`, so its accuracy is honest.

    Args:
        spec: backbone, classes, input.
        train: real images of the train part.
        val: real images that neither the expert nor a generator is trained on.
        settings: lengths and rates.
        weights: initial weights of the backbone; None starts from random ones.
        device: to train on.
        report: is told the step (from 1) and its loss.

    Raises:
        DataError: a class without training images, no val images, or an unknown label.
        ModelError: `weights` do not fit, or the loss is no number any more.
    """
    targets, val_targets = train.targets(spec.class_names), val.targets(spec.class_names)
    chances = _class_balance(targets, spec.class_names)
    if len(val_targets) == 0:
        raise DataError("an expert needs val images", remedy="Make a split with a val part")
    expert = build_expert(spec, seed=settings.seed, weights=weights).to(device)
    images = torch.from_numpy(train.images)
    optimizer = torch.optim.AdamW(_trained(expert, settings), weight_decay=settings.weight_decay)
    with seeded(settings.seed, device):  # for backbones with dropout of their own
        for step in range(settings.steps):
            loss = _step(expert, optimizer, images, targets, chances, settings, step)
            report(step + 1, loss)
    expert.freeze()
    return expert.cpu(), accuracy(expert, val.images, val_targets)


@torch.no_grad()
def accuracy(
    expert: Expert, images: NDArray[np.uint8], targets: Tensor, *, batch_size: int = 64
) -> float:
    """Return the share of images (N, S, S, 3) that `expert` gives the class in `targets` (N,)."""
    device = expert.mean.device
    said = [
        expert(to_signed(chunk.to(device))).argmax(1).cpu()
        for chunk in torch.split(torch.from_numpy(images), batch_size)
    ]
    return int((torch.cat(said) == targets).sum()) / len(targets)


def _class_balance(targets: Tensor, class_names: Sequence[str]) -> Tensor:
    """Return (N,) chances of being drawn: 1 / images of the class."""
    counts = torch.bincount(targets, minlength=len(class_names))
    empty = [name for name, count in zip(class_names, counts.tolist(), strict=True) if not count]
    if empty:
        raise DataError(
            f"no training images of {', '.join(empty)}",
            remedy="Add images, or leave these classes out",
        )
    return 1 / counts[targets].double()


def _trained(expert: Expert, settings: ExpertTraining) -> list[nn.Parameter]:
    if settings.head_only:
        expert.requires_grad_(False).eval()
        expert.network.get_classifier().requires_grad_(True)
    else:
        expert.train()
    return [parameter for parameter in expert.parameters() if parameter.requires_grad]


def _step(
    expert: Expert,
    optimizer: torch.optim.Optimizer,
    images: Tensor,
    targets: Tensor,
    chances: Tensor,
    settings: ExpertTraining,
    step: int,
) -> float:
    """Take one step of cross-entropy and return the loss."""
    generator = step_generator(step, seed=settings.seed)
    drawn = torch.multinomial(chances, settings.batch_size, replacement=True, generator=generator)
    turns = torch.randint(0, TURNS, (len(drawn),), generator=generator).tolist()
    batch = to_signed(images[drawn])
    if settings.augment:
        batch = torch.cat([turn(image[None], n) for image, n in zip(batch, turns, strict=True)])
    factor = warmup_hold_decay(
        step,
        steps=settings.steps,
        warmup_steps=settings.steps // 10,
        decay_steps=settings.steps - settings.steps // 10,
    )
    for group in optimizer.param_groups:
        group["lr"] = settings.learning_rate * factor
    device = expert.mean.device
    loss = F.cross_entropy(expert(batch.to(device)), targets[drawn].to(device))
    if not math.isfinite(value := float(loss.detach())):
        raise ModelError(
            f"the expert's loss is {value} at step {step + 1}", remedy="Lower its learning_rate"
        )
    torch.autograd.backward(loss)
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    return value


def make_expert(
    config: ExpertConfig,
    dataset: RealDataset,
    split: Split,
    output: Path,
    *,
    weights: Path | None = None,
    report: Callable[[int, float], object] = lambda _step, _loss: None,
) -> ExpertNotes:
    """Train an expert of the dataset's classes on the train part and write it to `output`.

    Its accuracy is that on the val part, of which it saw nothing.

    Args:
        config: backbone, input, lengths and rates.
        dataset: the real images.
        split: of `dataset`.
        output: folder that is written atomically.
        weights: initial weights of the backbone (safetensors); None: random ones.
        report: is told the step (from 1) and its loss.

    Raises:
        DataError: a split of another dataset, a class without training images, no val part.
        ConfigError: timm knows no such backbone.
        ModelError: `weights` do not fit, or the loss is no number any more.
        OutputError: `output` cannot be written.
    """
    check_dataset(split, dataset.fingerprint)
    labels = dict(zip(dataset.ids, dataset.labels, strict=True))

    def images(ids: Sequence[str]) -> LabelledImages:
        return LabelledImages(
            images=dataset.array(config.size_px, ids), labels=[labels[i] for i in ids]
        )

    expert, val_accuracy = train_expert(
        ExpertSpec(
            backbone=config.backbone,
            class_names=tuple(sorted(set(dataset.labels))),
            size_px=config.size_px,
            grey=config.grey,
        ),
        images(split.train),
        images(split.val),
        config.training,
        weights=weights,
        device=own_device(),
        report=report,
    )
    with writing(output):
        return save_expert(output, expert, val_accuracy=val_accuracy, split_digest=split.digest)
