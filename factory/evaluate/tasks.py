"""What a study's learner is trained for and scored by: to name a class, or to find a mask."""

import math
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray

from factory.arrays import Floats
from factory.evaluate.arms import Manifest
from factory.evaluate.backbones import open_backbone
from factory.evaluate.classifier import (
    RealPart,
    TrainingRows,
    build_classifier,
    predict,
    train_classifier,
)
from factory.evaluate.compare import Repeat, Score, Tally
from factory.evaluate.config import Classifier, Learner, MaskProbe, Probe, SegmenterLearner
from factory.evaluate.learner import Fitted
from factory.evaluate.mask_probe import best_shift, encoder_of, masks_of, solve
from factory.evaluate.pictures import Chosen
from factory.evaluate.probe import chances_of, fit_probe
from factory.evaluate.scores import (
    accuracy,
    balanced_accuracy,
    confusion_rows,
    image_dice,
    image_iou,
    macro_f1,
    mask_rows,
    one_against_rest_auc,
    pooled_dice,
    pooled_iou,
    recalls,
    tally,
)
from factory.evaluate.segment import TrainingPairs, segment, train_segmenter_on
from factory.evaluate.units import Material, Result, Unit
from factory.models.segmenter_networks import build_segmenter

Said = tuple[tuple[float, ...], ...]
Tested = Callable[[Sequence[str]], tuple[dict[str, float], Said]]
"""Real ids to the metrics of a trained learner on them, and what it said of each."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """How a learner is trained and what is compared."""

    metric: str
    """What arms are compared by."""
    score: Score
    """The metric, of sums over images."""
    shown: Mapping[str, str]
    """Metrics of a report's table and their titles, the compared one first."""
    train: Callable[[Unit, Material], tuple[Fitted, Tested]]
    rows: Callable[[Unit, Result, Material], Floats]
    """Counts (N, F) of the test images, which the score is made of."""
    classes: bool = True
    """Whether it names a class: there is a floor, and a confusion."""


def check_learner(learner: Learner, class_names: tuple[str, ...]) -> None:
    """Build the network once, so that nothing goes wrong on a worker, for every unit.

    Raises:
        ConfigError: see `build_classifier` and `build_segmenter`.
        ModelError: the same.
    """
    if isinstance(learner, Classifier):
        build_classifier(learner, class_names, seed=0)
    elif isinstance(learner, Probe):
        open_backbone(learner)
    elif isinstance(learner, MaskProbe):
        encoder_of(learner)
    else:
        build_segmenter(learner, 2, seed=0)


def run_unit(unit: Unit, material: Material) -> Result:
    """Train on the unit's rows; the best validation weights are tested.

    Raises:
        ConfigError: see `train_classifier` and `train_segmenter_on`.
        ModelError: the same.
    """
    started = time.monotonic()
    fitted, tested = TASKS[unit.learner.task].train(unit, material)
    val, _ = tested(unit.val) if unit.val else ({}, ())
    test, said = tested(unit.test) if unit.test else ({}, ())
    seconds = time.monotonic() - started
    return Result(
        unit_id=unit.id, best_step=fitted.best_step, seconds=seconds, val=val, test=test, said=said
    )


def tally_of(unit: Unit, result: Result, material: Material) -> Tally:
    """Return the counts of a test part by group of images: what intervals are made of."""
    rows = TASKS[unit.learner.task].rows(unit, result, material)
    return tally([material.groups[i] for i in unit.test], rows)


def tallies_by_arm(
    trained: Iterable[tuple[Unit, Result]], material: Material
) -> dict[str, dict[Repeat, Tally]]:
    """Return the tally of every training by arm and place."""
    found: dict[str, dict[Repeat, Tally]] = {}
    for unit, result in trained:
        of_arm = found.setdefault(unit.manifest.arm, {})
        of_arm[unit.place] = tally_of(unit, result, material)
    return found


def training_rows(manifest: Manifest, material: Material) -> TrainingRows:
    """Return the examples of an arm."""
    rows = manifest.rows
    return TrainingRows(
        images=Chosen(material.images, material.rows([row.id for row in rows])),
        soft_labels=torch.tensor([row.soft_label for row in rows]),
        synthetic=torch.tensor([row.synthetic for row in rows]),
        weights=torch.tensor([row.weight for row in rows]),
        augment=manifest.augment,
    )


def metrics(
    labels: NDArray[np.int64], chances: NDArray[np.float64], class_names: Sequence[str]
) -> dict[str, float]:
    """Return macro_f1, accuracy, balanced_accuracy, auc (if defined), recall/<class>."""
    sums = confusion_rows(labels, chances.argmax(1), len(class_names)).sum(axis=0)
    found = {
        "macro_f1": float(macro_f1(sums)),
        "accuracy": float(accuracy(sums)),
        "balanced_accuracy": float(balanced_accuracy(sums)),
    }
    area = one_against_rest_auc(labels, chances)
    if area is not None:
        found["auc"] = area
    shares = zip(class_names, recalls(sums).tolist(), strict=True)
    return found | {f"recall/{name}": share for name, share in shares if not math.isnan(share)}


def _train_classifier(unit: Unit, material: Material) -> tuple[Fitted, Tested]:
    assert isinstance(unit.learner, Classifier)  # noqa: S101 -- its task says so
    names, rows = material.class_names, training_rows(unit.manifest, material)
    val = RealPart(
        images=Chosen(material.images, material.rows(unit.val)),
        labels=material.class_indices(unit.val),
    )
    network, fitted = train_classifier(unit.learner, names, rows, val, seed=unit.seed)

    def tested(ids: Sequence[str]) -> tuple[dict[str, float], Said]:
        chances = predict(network, Chosen(material.images, material.rows(ids)))
        said = tuple((index,) for index in chances.argmax(1).tolist())
        return metrics(material.class_indices(ids), chances, names), said

    return fitted, tested


def _train_probe(unit: Unit, material: Material) -> tuple[Fitted, Tested]:
    assert isinstance(unit.learner, Probe)  # noqa: S101 -- its task says so
    settings, names = unit.learner, material.class_names
    head, _strength = fit_probe(settings, unit.manifest, material)

    def tested(ids: Sequence[str]) -> tuple[dict[str, float], Said]:
        chances = chances_of(head, settings, unit.manifest, material, ids)
        said = tuple((index,) for index in chances.argmax(1).tolist())
        return metrics(material.class_indices(ids), chances, names), said

    return Fitted(best_step=0, curve=()), tested


def _confusion(unit: Unit, result: Result, material: Material) -> Floats:
    said = np.array([index for (index,) in result.said], np.int64)
    return confusion_rows(material.class_indices(unit.test), said, len(material.class_names))


def _train_segmenter(unit: Unit, material: Material) -> tuple[Fitted, Tested]:
    assert isinstance(unit.learner, SegmenterLearner)  # noqa: S101 -- its task says so
    rows, held = unit.manifest.rows, material.rows(unit.val)
    own = material.rows([row.id for row in rows])
    train = TrainingPairs(
        images=Chosen(material.images, own),
        masks=Chosen(material.masks, own),
        synthetic=torch.tensor([row.synthetic for row in rows]),
        weights=torch.tensor([row.weight for row in rows]),
        augment=unit.manifest.augment,
    )
    network, fitted = train_segmenter_on(
        unit.learner,
        train,
        (Chosen(material.images, held), material.masks[held]),
        num_classes=material.num_mask_classes,
        seed=unit.seed,
    )

    def tested(ids: Sequence[str]) -> tuple[dict[str, float], Said]:
        wanted = material.rows(ids)
        said = segment(network, Chosen(material.images, wanted))
        counts = mask_rows(said, material.masks[wanted])
        return mask_metrics(counts), tuple(map(tuple, counts.tolist()))

    return fitted, tested


def _solve_masks(unit: Unit, material: Material) -> tuple[Fitted, Tested]:
    assert isinstance(unit.learner, MaskProbe)  # noqa: S101 -- its task says so
    dense, size_px = material.dense, unit.learner.size_px
    assert dense is not None  # noqa: S101 -- its material has it
    decoder = solve(unit.learner, unit.manifest, dense)

    def maps(ids: Sequence[str]) -> NDArray[np.float16]:
        return dense.maps[[dense.position[i] for i in ids]]

    held = material.masks[material.rows(unit.val)]
    shift = best_shift(decoder, maps(unit.val), held, size_px=size_px)

    def tested(ids: Sequence[str]) -> tuple[dict[str, float], Said]:
        said = masks_of(decoder, maps(ids), size_px=size_px, shift=shift)
        counts = mask_rows(said, material.masks[material.rows(ids)])
        return mask_metrics(counts), tuple(map(tuple, counts.tolist()))

    return Fitted(best_step=0, curve=()), tested


def mask_metrics(counts: Floats) -> dict[str, float]:
    """Return the scores of masks by name, from counts (N, 6)."""
    return {name: float(of(counts.sum(axis=0))) for name, of in MASK_SCORES.items()}


MASK_SCORES: Mapping[str, Score] = {
    "dice": image_dice,
    "iou": image_iou,
    "pooled_dice": pooled_dice,
    "pooled_iou": pooled_iou,
}
"""Of the foreground: everything that is not background."""

TASKS: dict[str, Task] = {
    "classify": Task(
        metric="macro_f1",
        score=macro_f1,
        shown={
            "macro_f1": "macro-F1",
            "accuracy": "accuracy",
            "balanced_accuracy": "balanced",
            "auc": "AUC",
        },
        train=_train_classifier,
        rows=_confusion,
    ),
    "segment": Task(
        metric="dice",
        score=image_dice,
        shown={
            "dice": "Dice",
            "iou": "IoU",
            "pooled_dice": "pooled Dice",
            "pooled_iou": "pooled IoU",
        },
        train=_train_segmenter,
        rows=lambda _unit, result, _material: np.array(result.said),
        classes=False,
    ),
}
TASKS = {
    "probe": replace(TASKS["classify"], train=_train_probe),
    "probe_masks": replace(TASKS["segment"], train=_solve_masks),
    **TASKS,
}
