"""Scores of classifiers and segmenters as functions of sums over images: they can be resampled."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from factory.arrays import Floats
from factory.evaluate.compare import Tally


def confusion_rows(labels: NDArray[np.int64], said: NDArray[np.int64], classes: int) -> Floats:
    """Return (N, K * K): for every image a 1 at (its class, what was said)."""
    rows = np.zeros((len(labels), classes * classes))
    rows[np.arange(len(labels)), labels * classes + said] = 1
    return rows


def tally(groups: Sequence[str], rows: Floats) -> Tally:
    """Return the sums of rows (N, F) by group, in order of name."""
    names, position = np.unique(np.asarray(groups), return_inverse=True)
    counts = np.zeros((len(names), rows.shape[1]))
    np.add.at(counts, position, rows)
    return Tally(groups=tuple(names.tolist()), counts=counts)


def _square(sums: Floats) -> Floats:
    classes = round(sums.shape[-1] ** 0.5)
    return sums.reshape(*sums.shape[:-1], classes, classes)


def accuracy(sums: Floats) -> Floats:
    """Return the share of images that were named right, from confusion sums (..., K * K)."""
    confusion = _square(sums)
    right = np.trace(confusion, axis1=-2, axis2=-1)
    return _ratio(right, confusion.sum(axis=(-2, -1)))


def recalls(sums: Floats) -> Floats:
    """Return the recall of every class (..., K); NaN for a class without images."""
    confusion = _square(sums)
    held = confusion.sum(axis=-1)
    with np.errstate(invalid="ignore"):
        return np.asarray(np.diagonal(confusion, axis1=-2, axis2=-1) / held)


def balanced_accuracy(sums: Floats) -> Floats:
    """Return the mean recall of the classes that have images."""
    return _mean_of_present(np.nan_to_num(recalls(sums)), sums)


def macro_f1(sums: Floats) -> Floats:
    """Return the mean F1 of the classes that have images; 0 for a class that is never found.

    A class that is said but has no image counts through the precision of the others.
    """
    confusion = _square(sums)
    right = np.diagonal(confusion, axis1=-2, axis2=-1)
    total = confusion.sum(axis=-1) + confusion.sum(axis=-2)
    return _mean_of_present(_ratio(2 * right, total), sums)


def image_dice(sums: Floats) -> Floats:
    """Return the mean Dice over images, from sums as `mask_rows` gives them."""
    return _ratio(sums[..., 0], sums[..., 2])


def image_iou(sums: Floats) -> Floats:
    """Return the mean intersection over union over images."""
    return _ratio(sums[..., 1], sums[..., 2])


def pooled_dice(sums: Floats) -> Floats:
    """Return the Dice of all pixels of all images together."""
    return _ratio(2 * sums[..., 3], sums[..., 4] + sums[..., 5])


def pooled_iou(sums: Floats) -> Floats:
    """Return the intersection over union of all pixels of all images together."""
    return _ratio(sums[..., 3], sums[..., 4] + sums[..., 5] - sums[..., 3])


def mask_rows(found: NDArray[np.uint8], wanted: NDArray[np.uint8]) -> Floats:
    """Return (N, 6) of masks (N, H, W), of which everything above 0 is foreground.

    Dice, intersection over union, 1, then pixels: in both, found, wanted. Two empty masks agree
    fully.
    """
    mine, theirs = found > 0, wanted > 0
    both, one, two = (m.sum(axis=(1, 2)).astype(float) for m in (mine & theirs, mine, theirs))
    empty = one + two == 0
    dice = np.where(empty, 1.0, 2 * both / np.maximum(one + two, 1))
    iou = np.where(empty, 1.0, both / np.maximum(one + two - both, 1))
    return np.stack([dice, iou, np.ones(len(mine)), both, one, two], axis=1)


def one_against_rest_auc(labels: NDArray[np.int64], chances: Floats) -> float | None:
    """Return the mean area under the ROC curve of classes with images and images of others.

    None where no class has both.
    """
    from sklearn.metrics import roc_auc_score

    areas = [
        roc_auc_score(labels == k, chances[:, k])
        for k in range(chances.shape[1])
        if 0 < (labels == k).sum() < len(labels)
    ]
    return float(np.mean(areas)) if areas else None


@dataclass(frozen=True, slots=True, kw_only=True)
class MajorityRate:
    """What naming the most frequent training class everywhere would score: the floor."""

    class_name: str
    accuracy: float
    balanced_accuracy: float
    macro_f1: float


def majority_rate(
    class_names: Sequence[str], train: NDArray[np.int64], test: NDArray[np.int64]
) -> MajorityRate:
    """Return the floor for real class indices of a train and a test part."""
    most = int(np.bincount(train, minlength=len(class_names)).argmax())
    sums = confusion_rows(test, np.full_like(test, most), len(class_names)).sum(axis=0)
    return MajorityRate(
        class_name=class_names[most],
        accuracy=float(accuracy(sums)),
        balanced_accuracy=float(balanced_accuracy(sums)),
        macro_f1=float(macro_f1(sums)),
    )


def _mean_of_present(values: Floats, sums: Floats) -> Floats:
    present = _square(sums).sum(axis=-1) > 0
    return _ratio((values * present).sum(axis=-1), present.sum(axis=-1))


def _ratio(above: Floats, below: Floats) -> Floats:
    """Return above / below, 0 where there is nothing."""
    return np.asarray(above / np.where(below == 0, 1, below))
