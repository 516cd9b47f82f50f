"""Drawn pairs: whether masks fit their images, and whether the object under a mask is a copy.

A segmenter that neither generator nor gate knows finds the object again; its Dice on real pairs
that nobody learnt from, beside it, is what it can do at all.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from factory.arrays import Images, Masks
from factory.errors import ConfigError
from factory.gate.agreement import Segment
from factory.judge.sets import ImageSet, RealSets
from factory.measure.copies import CopyCheck, check_copies, nearest, thumbnails, turned_thumbnails
from factory.measure.intervals import Estimate, mean_of
from factory.models.generator import Generator
from factory.models.pair_codec import class_index_array
from factory.models.segmenter import Segmenter, load_segmenter

BATCH = 32
GREY = 128
"""What stands around an object that is compared alone."""
INSIDE = "inside the mask"


@dataclass(frozen=True, slots=True, kw_only=True)
class PairFigures:
    """Of one set of pairs."""

    name: str
    num_images: int
    num_empty: int
    """Masks without an object."""
    dice: Mapping[str, Estimate]
    """'foreground' for any class, then 'class 1', ...; by the segmenter, over the images in which
    mask or segmenter finds the class. Empty: no segmenter was asked."""
    copies: CopyCheck | None
    """Of the objects alone; None: nothing learnt to compare them with."""


def judge_pairs(
    generator: Generator, drawn: Sequence[ImageSet], real: RealSets, segmenter: Path | None
) -> list[PairFigures]:
    """Return the figures of unseen real pairs and of every set; none where no masks are drawn.

    Args:
        generator: says which values of real masks its classes are.
        drawn: sets of one method.
        real: with masks.
        segmenter: folder of one that finds the object in the image alone.

    Raises:
        ConfigError: a segmenter of other masks.
        DataError: a real image without a mask, or a mask with a value of no class.
        ModelError: see `load_segmenter`.
    """
    if drawn[0].masks is None:
        return []
    segment = load_segmenter(segmenter) if segmenter else None
    facts = segment.facts if segment else {}
    values = tuple(generator.manifest.get("mask_values") or facts.get("mask_values") or (0, 255))
    if segment is not None and int(facts["num_classes"]) != len(values):
        raise ConfigError(
            f"the segmenter knows {facts['num_classes']} classes, masks are drawn of {len(values)}",
            remedy="Train one on the masks of the generator's training",
        )
    return [
        measure_real_pairs(real, values, segment),
        *(measure_pairs(each, real, values, segment) for each in drawn),
    ]


def measure_pairs(
    drawn: ImageSet, real: RealSets, mask_values: tuple[int, ...], segment: Segmenter | None
) -> PairFigures:
    """Return the figures of drawn pairs.

    Args:
        drawn: with masks of class indices.
        real: with masks.
        mask_values: the values of the real masks, in the order of class indices.
        segment: finds the object in the image alone; None: nobody does.
    """
    assert drawn.masks is not None  # noqa: S101 -- the caller asks for sets of pairs alone
    full = (drawn.masks > 0).any((1, 2))
    copies = None
    if real.learnt_ids and full.any():
        learnt, unseen = (
            _real_objects(real, ids, mask_values) for ids in (real.learnt_ids, real.unseen_ids)
        )
        stored = thumbnails(learnt)
        copies = check_copies(
            INSIDE,
            nearest(turned_thumbnails(objects(drawn.images, drawn.masks)), stored).distance,
            nearest(turned_thumbnails(unseen), stored).distance,
        )
    return PairFigures(
        name=drawn.name,
        num_images=len(drawn),
        num_empty=int((~full).sum()),
        dice=_dice_of(segment, drawn.images, drawn.masks, len(mask_values)),
        copies=copies,
    )


def measure_real_pairs(
    real: RealSets, mask_values: tuple[int, ...], segment: Segmenter | None
) -> PairFigures:
    """Return the figures of the unseen real pairs.

    Raises:
        DataError: an image without a mask, or a mask with a value of no class.
    """
    images, masks = real.images(real.unseen_ids), _real_masks(real, real.unseen_ids, mask_values)
    return PairFigures(
        name="unseen real",
        num_images=len(images),
        num_empty=int((~(masks > 0).any((1, 2))).sum()),
        dice=_dice_of(segment, images, masks, len(mask_values)),
        copies=None,
    )


def _real_masks(real: RealSets, ids: tuple[str, ...], mask_values: tuple[int, ...]) -> Masks:
    stored = real.dataset.mask_array(real.size_px, ids)
    return class_index_array(stored, mask_values, names=ids)


def _real_objects(real: RealSets, ids: tuple[str, ...], mask_values: tuple[int, ...]) -> Images:
    return objects(real.images(ids), _real_masks(real, ids, mask_values))


def objects(images: Images, masks: Masks) -> Images:
    """Return what lies under each mask, (M, S, S, 3), grey around; empty masks are left out.

    Cut to the square around the object and brought to the size of the image, so that an object
    that was moved or resized is still the same one.
    """
    import torch
    import torch.nn.functional as F

    found = []
    for image, mask in zip(images, masks, strict=True):
        rows, columns = np.nonzero(mask)
        if not len(rows):
            continue
        side = int(max(np.ptp(rows), np.ptp(columns))) + 1
        top = int(np.clip((rows.min() + rows.max() + 1 - side) // 2, 0, len(mask) - side))
        left = int(np.clip((columns.min() + columns.max() + 1 - side) // 2, 0, len(mask) - side))
        alone = np.where(mask[..., None] > 0, image, GREY).astype(np.float32)
        part = torch.from_numpy(alone[top : top + side, left : left + side]).permute(2, 0, 1)
        fitted = F.interpolate(part[None], image.shape[:2], mode="bilinear", antialias=True)
        found.append(fitted[0].permute(1, 2, 0).round().clamp(0, 255).to(torch.uint8).numpy())
    return np.stack(found) if found else np.empty((0, *images.shape[1:]), np.uint8)


def _dice_of(
    segment: Segment | None, images: Images, masks: Masks, num_classes: int
) -> dict[str, Estimate]:
    return {} if segment is None else agreement(segment, images, masks, num_classes=num_classes)


def agreement(
    segment: Segment, images: Images, masks: Masks, *, num_classes: int
) -> dict[str, Estimate]:
    """Return the mean Dice by class: 'foreground' for any of them, then 'class 1', 'class 2', ...

    A class that fewer than two images show is left out.
    """
    found = np.concatenate(
        [segment(images[start : start + BATCH]) for start in range(0, len(images), BATCH)]
    )
    by_class = {"foreground": _dice(found > 0, masks > 0)}
    if num_classes > 2:
        numbers = range(1, num_classes)
        by_class |= {f"class {k}": _dice(found == k, masks == k) for k in numbers}
    return {name: _share(values) for name, values in by_class.items() if len(values) > 1}


def _share(values: NDArray[np.float64]) -> Estimate:
    mean = mean_of(values)
    low, high = max(0.0, mean.low), min(1.0, mean.high)
    return Estimate(value=mean.value, low=low, high=high, n=mean.n)


def _dice(first: NDArray[np.bool_], second: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Return the Dice of each image in which either is not empty."""
    both = (first & second).sum((1, 2)).astype(np.float64)
    total = first.sum((1, 2)) + second.sum((1, 2))
    shares: NDArray[np.float64] = 2 * both[total > 0] / total[total > 0]
    return shares
