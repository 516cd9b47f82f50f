"""One training of a study, an arm under a fold and a seed: what names it, and what it gave."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from factory.arrays import Images, Masks
from factory.digest import digest
from factory.evaluate.arms import Manifest
from factory.evaluate.config import Fitting, Learner
from factory.evaluate.pictures import Pictures, discard

if TYPE_CHECKING:
    from factory.evaluate.mask_probe import Dense

VERSION = 2
"""Raised when equal settings give other results: finished trainings are not mixed with new ones."""


@dataclass(frozen=True, kw_only=True)
class Material:
    """Every image of a study, at the learner's size; sent to workers once.

    In memory, or in a file where they are more than it should hold. Row `position[id]` of `images`
    (N, S, S, 3) uint8; real images also have a label and a group.
    """

    class_names: tuple[str, ...]
    images: Images | Pictures = field(repr=False)
    position: Mapping[str, int] = field(repr=False)
    labels: Mapping[str, str] = field(repr=False)
    groups: Mapping[str, str] = field(repr=False)
    masks: Masks | Pictures = field(default_factory=lambda: np.empty(0, np.uint8), repr=False)
    """(N, S, S) class indices, for segmenters; empty for classifiers."""
    num_mask_classes: int = 0
    """Background included."""
    features: NDArray[np.float32] = field(
        default_factory=lambda: np.empty((0, 0), np.float32), repr=False
    )
    """(M, F) of all views of all images, for probes; else empty."""
    dense: "Dense | None" = field(default=None, repr=False)
    """What probes for masks work on."""
    view_rows: Mapping[str, tuple[int, int]] = field(default_factory=dict, repr=False)
    """First and last + 1 row of an image's views."""
    experts: Mapping[str, Mapping[str, NDArray[np.float32]]] = field(
        default_factory=dict, repr=False
    )
    """Of a probe's experts: what each says (V, F) of the views of the images that it is asked."""

    def discard(self) -> None:
        """Remove the files of its images: it is of no more use."""
        discard(self.images, self.masks)

    def rows(self, ids: Sequence[str]) -> list[int]:
        """Return the positions of images."""
        return [self.position[i] for i in ids]

    def views_of(self, image_id: str, expert: str | None = None) -> NDArray[np.float32]:
        """Return the features (V, F) of an image's views, beside them those of an expert."""
        first, last = self.view_rows[image_id]
        own = self.features[first:last]
        return np.hstack([own, self.experts[expert][image_id]]) if expert else own

    def class_indices(self, ids: Sequence[str]) -> NDArray[np.int64]:
        """Return the classes (N,) of real images."""
        return np.array([self.class_names.index(self.labels[i]) for i in ids], np.int64)


@dataclass(frozen=True, kw_only=True)
class Unit:
    """What is trained, on which rows, and what it is validated and tested on: real ids."""

    learner: Learner
    manifest: Manifest
    fold: int
    seed: int
    split_digest: str
    val: tuple[str, ...]
    test: tuple[str, ...]
    """Empty while something is still being chosen: the test part is touched once."""
    draw: int | None = None
    """Number of the draw of its shots, in a study of several; None: there is one."""
    generator: int = 0
    """Number of the training of the generator, likewise."""

    @property
    def place(self) -> tuple[int, ...]:
        """What is paired: fold and seed, in a study of several draws these and the generator's."""
        if self.draw is None:
            return self.fold, self.seed
        return self.fold, self.seed, self.draw, self.generator

    @cached_property
    def id(self) -> str:
        """Names the training and its result."""
        learner = self.learner.model_dump(mode="json")
        own = self.learner
        cut = (
            isinstance(own, Fitting) and own.warmup_steps > own.steps // 4
        )  # in version 2, to this
        return digest(
            [
                VERSION + cut,
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
    """Metrics by name; of classifiers also 'recall/<class>' of classes with images."""
    said: tuple[tuple[float, ...], ...]
    """Of each image of the unit's `test`, what its task makes a row of counts of."""

    def to_json(self) -> dict[str, Any]:
        """Return plain data that `from_json` reads."""
        return {name: getattr(self, name) for name in self.__slots__}

    @classmethod
    def from_json(cls, stored: Mapping[str, Any]) -> "Result":
        """Return what `to_json` wrote."""
        return cls(**{**stored, "said": tuple(tuple(row) for row in stored["said"])})
