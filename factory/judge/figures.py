"""The figures of one set of images: distances, agreement, diversity, copies, class by class."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from factory.arrays import Features, Images
from factory.errors import DataError
from factory.finetune.latents import to_signed
from factory.judge.sets import PIXELS, ImageSet, RealSets
from factory.measure.copies import CopyCheck, Nearest, check_copies
from factory.measure.distances import Overlap, frechet_distance, kid, overlap
from factory.measure.diversity import (
    WINDOW_PX,
    Pairwise,
    diversity_by_class,
    mean_diversity,
    ssim,
    unlike_by_ms_ssim,
    unlike_by_ssim,
)
from factory.measure.features import turned
from factory.measure.intervals import Estimate, mean_of, proportion
from factory.measure.judge import balanced_accuracy, cross_fitted_logits, fit_judge, recalls
from factory.measure.perceptual import Perceptual
from factory.measure.real_features import RealPart
from factory.models.experts import Expert

FEW = 50
"""Images below which a distance says little, and is marked."""
NEIGHBOURS = 5
BATCH = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class Distances:
    """Of `n` images to `n_reference` real ones, as many of every class; in one feature space."""

    n: int
    n_reference: int
    kid: Estimate
    frechet: float
    overlap: Overlap | None
    """None: too few images to have neighbours."""

    @property
    def few(self) -> bool:
        """Whether there are so few images that the figures say little."""
        return min(self.n, self.n_reference) < FEW


@dataclass(frozen=True, slots=True, kw_only=True)
class Agreement:
    """How often someone who knows real images sees the class that was asked for."""

    overall: Estimate
    by_class: Mapping[str, Estimate]
    called: Mapping[str, Mapping[str, int]]
    """Class asked for -> what was seen -> how often."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Diversity:
    """How unlike the images of a class are, on average over pairs; and the mean over classes."""

    mean: Estimate
    by_class: Mapping[str, Estimate]


@dataclass(frozen=True, slots=True, kw_only=True)
class SetFigures:
    """One set of images against real ones.

    judge, expert: None where classes are asked for that they do not know. copies: by the name of
    the space; empty where nothing was learnt from these real images.
    """

    name: str
    num_images: int
    distances: Distances
    distances_by_class: Mapping[str, Distances]
    judge: Agreement | None
    expert: Agreement | None
    diversity: Mapping[str, Diversity]
    """By the name of the measure."""
    copies: Mapping[str, CopyCheck]
    ssim_to_nearest: Estimate | None
    """Mean over images, to the learnt one that is nearest in pixels under any turn."""


@dataclass(frozen=True, kw_only=True)
class Measures:
    """What figures are taken with, beside the real images."""

    real: RealSets
    reference: str
    """See `JudgeConfig`: 'unseen' or 'train'."""
    per_class: int
    """Images of a class in the reference, at most."""
    perceptual: Perceptual | None
    expert: Expert | None
    expert_val_accuracy: float | None = None

    @property
    def unlikes(self) -> dict[str, Pairwise]:
        """Measures of diversity by name."""
        found: dict[str, Pairwise] = {}
        if self.real.size_px >= WINDOW_PX:
            found = {"1 - SSIM": unlike_by_ssim, "1 - MS-SSIM": unlike_by_ms_ssim}
        if self.perceptual is not None:
            found[self.perceptual.name] = self.perceptual.unlike
        return found

    def sides(self) -> tuple[RealPart, RealPart]:
        """Return the real images that are measured to, and those in the place of drawn ones."""
        pair = (self.real.unseen, self.real.train)
        return pair if self.reference == "unseen" else (pair[1], pair[0])


def measure(drawn: ImageSet, by: Measures) -> tuple[SetFigures, dict[str, Nearest]]:
    """Return the figures of drawn images, and the learnt image nearest to each, by space.

    Raises:
        DataError: fewer than four images of a class.
    """
    real = by.real
    turns, labels = real.turns(drawn.images), [str(label) for label in drawn.labels]
    asked = set(labels) <= set(real.unseen.labels)
    seen = turns if real.judge_space.digest == real.space.digest else None
    if asked and seen is None:
        seen = real.turns(drawn.images, real.judge_space)
    near, floors = real.nearest(drawn.images, turns), real.unseen_nearest
    whole, by_class = _distances(turns[0], labels if asked else None, by)
    judged = asked and seen is not None and len(set(real.unseen.labels)) > 1
    figures = SetFigures(
        name=drawn.name,
        num_images=len(drawn),
        distances=whole,
        distances_by_class=by_class,
        judge=_judged(seen, labels, real) if judged and seen is not None else None,
        expert=_asked_expert(by.expert, drawn.images, labels),
        diversity=_diversity(drawn.images, labels, by),
        copies={s: check_copies(s, near[s].distance, floors[s].distance) for s in near},
        ssim_to_nearest=_likeness(drawn.images, near, real),
    )
    return figures, near


def measure_floor(by: Measures, count: int) -> SetFigures:
    """Return the figures of real images in the place of drawn ones: a perfect generator's.

    Distances are those of other real images, as many as were drawn, where there are so many; a
    Frechet distance falls as a set grows. The rest is of unseen ones, each named by a judge that
    was fitted to the other half of them: so their agreement is of classes that weigh the same.

    Args:
        by: real images and networks.
        count: how many images were drawn.
    """
    real, (_, other) = by.real, by.sides()
    names = sorted(set(other.labels))
    each = max(1, count // len(names))
    rows = other.balanced(min(each, other.smallest_class))
    unseen, images = real.judged, real.images(real.unseen_ids)
    whole, by_class = _distances(other.turns[0][rows], [other.labels[i] for i in rows], by)
    agreement = None
    if len(names) > 1:
        logits = cross_fitted_logits(unseen.turns, unseen.labels, unseen.ids, cache=real.cache)
        known = sorted(set(unseen.labels))
        found = [known[k] for k in logits.argmax(axis=1)]
        agreement = _agreement(found, unseen.labels, balanced_accuracy(found, unseen.labels))
    return SetFigures(
        name="unseen real",
        num_images=len(images),
        distances=whole,
        distances_by_class=by_class,
        judge=agreement,
        expert=_asked_expert(by.expert, images, unseen.labels),
        diversity=_diversity(images, unseen.labels, by),
        copies={},
        ssim_to_nearest=_likeness(images, real.unseen_nearest, real),
    )


def _distances(
    features: Features, labels: Sequence[str] | None, by: Measures
) -> tuple[Distances, dict[str, Distances]]:
    """Return distances of upright features (N, D) to the reference, of all classes and of each.

    Of as many images of every class on either side; `labels` None: of all as they are.
    """
    reference, other = by.sides()
    if labels is None:
        rows = reference.balanced(min(by.per_class, reference.smallest_class))
        return _distance(features, reference.turns[0][rows]), {}
    own = np.array(labels)
    names = sorted(set(labels))
    count = min(int((own == name).sum()) for name in names)
    count = min(count, *(list(other.labels).count(name) for name in names))
    if count * len(names) < 4:
        raise DataError(
            f"{count} images of each of {len(names)} classes are too few for a distance",
            remedy="Draw more (num_images), or hold out more real ones",
        )
    members = {name: np.flatnonzero(own == name)[:count] for name in names}
    most = min(by.per_class, *(list(reference.labels).count(name) for name in names))
    chosen = _balanced(reference, names, most)
    whole = _distance(
        features[np.concatenate([members[name] for name in names])],
        reference.turns[0][np.concatenate([chosen[name] for name in names])],
    )
    by_class = {
        name: _distance(features[members[name]], reference.turns[0][chosen[name]])
        for name in names
        if min(count, most) >= 4 and len(names) > 1
    }
    return whole, by_class


def _balanced(part: RealPart, names: Sequence[str], most: int) -> dict[str, NDArray[np.int64]]:
    rows = np.array(part.balanced(min(most, part.smallest_class)))
    labels = np.array(part.labels)[rows]
    return {name: rows[labels == name] for name in names}


def _distance(drawn: Features, reference: Features) -> Distances:
    enough = min(len(drawn), len(reference)) > NEIGHBOURS
    return Distances(
        n=len(drawn),
        n_reference=len(reference),
        kid=kid(drawn, reference),
        frechet=frechet_distance(drawn, reference),
        overlap=overlap(drawn, reference, neighbours=NEIGHBOURS) if enough else None,
    )


def _judged(turns: Features, labels: Sequence[str], real: RealSets) -> Agreement:
    judge = fit_judge(real.judged.turns, real.judged.labels, cache=real.cache)
    return agreement(judge.names(turns), labels)


def agreement(found: Sequence[str], wanted: Sequence[str]) -> Agreement:
    """Return how often `found` is `wanted`, with Wilson intervals over the images.

    Raises:
        DataError: no images, or not one class seen for every image.
    """
    if not found or len(found) != len(wanted):
        raise DataError(
            f"{len(found)} classes were seen in {len(wanted)} images",
            remedy="Give one class for every drawn image",
        )
    right = sum(seen == asked for seen, asked in zip(found, wanted, strict=True))
    return _agreement(found, wanted, proportion(right, len(found)))


def _agreement(found: Sequence[str], wanted: Sequence[str], overall: Estimate) -> Agreement:
    pairs = list(zip(found, wanted, strict=True))
    return Agreement(
        overall=overall,
        by_class=recalls(found, wanted),
        called={
            name: dict(Counter(seen for seen, asked in pairs if asked == name).most_common())
            for name in sorted(set(wanted))
        },
    )


def _asked_expert(expert: Expert | None, images: Images, labels: Sequence[str]) -> Agreement | None:
    if expert is None or not set(labels) <= set(expert.spec.class_names):
        return None
    names = expert.spec.class_names
    return agreement([names[k] for k in probabilities(expert, images).argmax(1)], labels)


@torch.inference_mode()
def probabilities(expert: Expert, images: Images) -> NDArray[np.float64]:
    """Return (N, classes), the expert's, of images (N, S, S, 3) uint8."""
    device = expert.mean.device
    found = [
        expert(to_signed(part.to(device))).softmax(1).double().cpu()
        for part in torch.split(torch.from_numpy(images), BATCH)
    ]
    table: NDArray[np.float64] = torch.cat(found).numpy()
    return table


def _diversity(images: Images, labels: Sequence[str], by: Measures) -> dict[str, Diversity]:
    found = {}
    for name, unlike in by.unlikes.items():
        by_class = diversity_by_class(images, labels, unlike)
        if by_class:
            found[name] = Diversity(mean=mean_diversity(by_class), by_class=by_class)
    return found


def _likeness(images: Images, near: Mapping[str, Nearest], real: RealSets) -> Estimate | None:
    if PIXELS not in near or len(images) < 2 or real.size_px < WINDOW_PX:
        return None
    found = near[PIXELS]
    shown = [turned(images[i : i + 1], int(view)) for i, view in enumerate(found.view)]
    stored = real.images([real.learnt_ids[int(i)] for i in found.position])
    return mean_of(ssim(np.concatenate(shown), stored))
