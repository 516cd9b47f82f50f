"""One training of a study: an arm under a fold and a seed. A pure function of what names it."""

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from factory.digest import digest
from factory.evaluate.arms import Manifest
from factory.evaluate.classifier import (
    Classifier,
    RealPart,
    TrainingRows,
    predict,
    train_classifier,
)
from factory.evaluate.compare import Tally
from factory.evaluate.scores import (
    accuracy,
    balanced_accuracy,
    confusion_rows,
    macro_f1,
    one_against_rest_auc,
    recalls,
    tally,
)

VERSION = 1
"""Raised when equal settings give other results: finished trainings are not mixed with new ones."""


@dataclass(frozen=True, kw_only=True)
class Material:
    """Every image of a study in memory, at the learner's size; sent to workers once.

    Row `position[id]` of `images` (N, S, S, 3) uint8; real images also have a label and a group.
    """

    class_names: tuple[str, ...]
    images: NDArray[np.uint8] = field(repr=False)
    position: Mapping[str, int] = field(repr=False)
    labels: Mapping[str, str] = field(repr=False)
    groups: Mapping[str, str] = field(repr=False)
    masks: NDArray[np.uint8] | None = field(default=None, repr=False)
    """(N, S, S) class indices, for segmenters."""

    def rows(self, ids: Sequence[str]) -> list[int]:
        """Return the positions of images."""
        return [self.position[i] for i in ids]

    def real(self, ids: Sequence[str]) -> RealPart:
        """Return real images to validate or test on."""
        names = [self.class_names.index(self.labels[i]) for i in ids]
        return RealPart(images=self.images[self.rows(ids)], labels=np.array(names, np.int64))


@dataclass(frozen=True, kw_only=True)
class Unit:
    """What is trained, on which rows, and what it is validated and tested on: real ids."""

    learner: Classifier
    manifest: Manifest
    fold: int
    seed: int
    split_digest: str
    val: tuple[str, ...]
    test: tuple[str, ...]
    """Empty while something is still being chosen: the test part is touched once."""

    @property
    def place(self) -> tuple[int, int]:
        """Fold and seed: what is paired."""
        return self.fold, self.seed

    @property
    def id(self) -> str:
        """Names the training and its result."""
        learner = self.learner.model_dump(mode="json")
        return digest(
            [
                VERSION,
                learner,
                self.manifest.digest,
                self.split_digest,
                self.seed,
                list(self.val),
                list(self.test),
            ]
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """What a training gave: scores of val and test, and what was said of each test image."""

    unit_id: str
    best_step: int
    seconds: float
    val: Mapping[str, float]
    test: Mapping[str, float]
    """Metrics, and 'recall/<class>' of classes with images."""
    said: tuple[int, ...]
    """Class index given to each test image, in the order of the unit's `test`."""

    def to_json(self) -> dict[str, Any]:
        """Return plain data that `from_json` reads."""
        return {name: getattr(self, name) for name in self.__slots__}

    @classmethod
    def from_json(cls, stored: Mapping[str, Any]) -> "Result":
        """Return what `to_json` wrote."""
        return cls(**{**stored, "said": tuple(stored["said"])})


def run_unit(unit: Unit, material: Material) -> Result:
    """Train on the unit's rows; the best validation weights are tested.

    Raises:
        ConfigError: see `train_classifier`.
        ModelError: see `train_classifier`.
    """
    started = time.monotonic()
    val, test = material.real(unit.val), material.real(unit.test)
    rows = training_rows(unit.manifest, material)
    network, fitted = train_classifier(
        unit.learner, material.class_names, rows, val, seed=unit.seed
    )
    chances = predict(network, test.images)
    return Result(
        unit_id=unit.id,
        best_step=fitted.best_step,
        seconds=time.monotonic() - started,
        val=metrics(val.labels, predict(network, val.images), material.class_names),
        test=metrics(test.labels, chances, material.class_names) if unit.test else {},
        said=tuple(chances.argmax(1).tolist()) if unit.test else (),
    )


def training_rows(manifest: Manifest, material: Material) -> TrainingRows:
    """Return the examples of an arm."""
    rows = manifest.rows
    return TrainingRows(
        images=torch.from_numpy(material.images[material.rows([row.id for row in rows])]),
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


def tally_of(unit: Unit, result: Result, material: Material) -> Tally:
    """Return the confusion of a test part by group of images: what intervals are made of."""
    labels = material.real(unit.test).labels
    rows = confusion_rows(labels, np.array(result.said), len(material.class_names))
    return tally([material.groups[i] for i in unit.test], rows)
