"""Trains a small segmenter on real pairs: for the agreement gate, or to ask whether pairs help."""

from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from factory.errors import DataError
from factory.finetune.config import SegmenterConfig
from factory.finetune.latents import to_signed, turn
from factory.finetune.loop import Loop, LoopConfig
from factory.finetune.order import Part, step_generator, step_indices
from factory.finetune.train import follow_here
from factory.gate.masks import dice
from factory.models.pair_codec import class_index_array
from factory.models.segmenter import Segmenter, save_segmenter
from factory.models.segmenter_networks import build_segmenter
from factory.real.dataset import RealDataset
from factory.real.duplicates import grouped
from factory.real.mask_values import found_values
from factory.real.splits import Split, check_dataset, make_split
from factory.terminal import Tell


def train_segmenter(
    images: Tensor,
    masks: Tensor,
    config: SegmenterConfig,
    *,
    checkpoints: Path | None = None,
    tell: Tell = lambda _line: None,
) -> Segmenter:
    """Return a segmenter trained on images (N, S, S, 3) uint8 and class indices (N, S, S).

    Shown under all flips and quarter turns with varied colours; cross-entropy plus Dice. `tell`
    gets lines on how far it is.

    Raises:
        ConfigError, ModelError: see `build_segmenter`.
    """
    num_classes = int(masks.max()) + 1
    network = build_segmenter(config, num_classes, seed=config.seed)

    def loss_of(module: nn.Module, part: Part) -> dict[str, Tensor]:
        rows = step_indices(
            part.step, batch_size=config.batch_size, num_images=len(images), seed=config.seed
        )
        shown = turn(to_signed(images[rows]), part.step % 8)
        wanted = turn(masks[rows][:, None], part.step % 8)[:, 0].long()
        generator = step_generator(part.step, seed=config.seed)
        gain, shift = config.colour * torch.randn(2, len(rows), 3, 1, 1, generator=generator)
        return segmentation_loss(module(shown * (1 + gain) + shift), wanted)

    loop = Loop(
        network,
        loss_of,
        LoopConfig(
            steps=config.steps,
            batch_size=config.batch_size,
            learning_rate=config.learning_rate,
            warmup_steps=min(50, config.steps // 4),
            decay_steps=config.steps // 2,
            weight_decay=1e-4,
            ema_decay=0.99,
            precision="float32",
            resumable=config.model_dump(mode="json"),
            checkpoint_dir=checkpoints,
        ),
    )
    follow_here(loop, tell=tell)
    return Segmenter(
        network=_averaged(loop, network), size_px=config.size_px, facts=_facts(config, num_classes)
    )


def train_gate_segmenter(
    out: Path,
    dataset: RealDataset,
    split: Split,
    config: SegmenterConfig,
    *,
    half: str | None = None,
    tell: Tell = lambda _line: None,
) -> float | None:
    """Train on the train part ('first' or 'second' half of it), write `out`, return the val Dice.

    Raises:
        DataError: a split of another dataset, or images without masks.
        ConfigError, ModelError: see `train_segmenter`.
    """
    check_dataset(split, dataset.fingerprint)
    values = found_values(dataset, split.train)
    train = half_of_train(dataset, split, half, seed=0) if half else split.train
    parts = {
        part: (
            dataset.array(config.size_px, ids),
            class_index_array(dataset.mask_array(config.size_px, ids), values, names=ids),
        )
        for part, ids in (("train", train), ("val", split.val))
        if ids
    }
    images, masks = map(torch.from_numpy, parts["train"])
    made = train_segmenter(images, masks, config, tell=tell)
    score = mean_dice(made, *parts["val"]) if split.val else None
    facts = {"split_digest": split.digest, "mask_values": list(values), "val_dice": score}
    facts |= {"half": half, "images_trained": len(train)}
    save_segmenter(out, made.network, {**made.facts, **facts})
    return score


def segmentation_loss(logits: Tensor, masks: Tensor) -> dict[str, Tensor]:
    """Return 'loss', the sum of 'cross_entropy' and 'dice', of logits (B, K, S, S).

    Source of the soft Dice: F. Milletari et al., V-Net, 2016, equation 3, without squares.
    """
    cross_entropy = F.cross_entropy(logits, masks)
    shares = logits.softmax(1)[:, 1:]
    wanted = F.one_hot(masks, logits.shape[1]).permute(0, 3, 1, 2)[:, 1:].float()
    overlap = (shares * wanted).sum((0, 2, 3))
    total = (shares + wanted).sum((0, 2, 3))
    soft_dice = 1 - (2 * overlap / total.clamp(min=1)).mean()
    return {"loss": cross_entropy + soft_dice, "cross_entropy": cross_entropy, "dice": soft_dice}


def mean_dice(
    segmenter: Segmenter, images: NDArray[np.uint8], masks: NDArray[np.uint8], batch: int = 32
) -> float:
    """Return the mean over images of the Dice of what the segmenter finds."""
    found = [segmenter(images[i : i + batch]) for i in range(0, len(images), batch)]
    pairs = zip(np.concatenate(found), masks, strict=True)
    return float(np.mean([dice(mine, theirs) for mine, theirs in pairs]))


def _averaged(loop: Loop, network: nn.Module) -> nn.Module:
    kept = {name: value.clone() for name, value in loop.ema.values.items()}
    network.load_state_dict(kept, strict=False)
    return network.eval()


def _facts(config: SegmenterConfig, num_classes: int) -> dict[str, object]:
    return config.model_dump(mode="json") | {"num_classes": num_classes}


HALVES = ("first", "second")


def half_of_train(dataset: RealDataset, split: Split, half: str, *, seed: int) -> tuple[str, ...]:
    """Return the ids of one half of the train part: whole groups, classes in proportion.

    Args:
        dataset: that was split.
        split: its train part is halved.
        half: 'first' or 'second'; under one seed they share no image.
        seed: of the division.

    Raises:
        DataError: another dataset, another word, or a train part of one group.
    """
    check_dataset(split, dataset.fingerprint)
    if half not in HALVES:
        raise DataError(f"there is no half {half!r}", remedy=f"Choose of {', '.join(HALVES)}")
    known = zip(dataset.ids, dataset.labels, grouped(dataset), strict=True)
    train = set(split.train)
    rows = [row for row in known if row[0] in train]
    divided = make_split(
        dataset=dataset.fingerprint,
        ids=[image_id for image_id, _, _ in rows],
        labels=[label for _, label, _ in rows],
        groups=[group for _, _, group in rows],
        fractions={"train": 0.5, "val": 0.5},
        seed=seed,
    )
    return divided.train if half == HALVES[0] else divided.val
