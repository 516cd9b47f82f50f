"""What a generator is measured against: the cells it learned from, and cells it never saw."""

from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from factory.errors import DataError
from factory.evaluate.colours import COLOURS, colour_quantiles
from factory.measure.cache import ArrayCache
from factory.measure.copies import nearest, thumbnails, turned_thumbnails
from factory.measure.features import TURNS, Features, FeatureSpace, load_feature_space
from factory.measure.real_features import RealPart, in_pieces, real_part
from factory.models.generator import Generator
from factory.real.dataset import RealDataset
from factory.real.options import opened
from factory.real.splits import Split, load_split

PIXELS = "pixels at 32 px"


@dataclass(frozen=True, kw_only=True)
class Reference:
    """The train and val parts of a split at the generator's size, computed when first asked."""

    dataset: RealDataset
    split: Split
    size_px: int
    space: FeatureSpace
    cache: ArrayCache

    @cached_property
    def held_out(self) -> RealPart:
        """The val part under all eight turns: what the judges are fitted to."""
        return self._part(self.split.val, TURNS)

    @cached_property
    def training(self) -> RealPart:
        """The train part, upright: what drawn images should resemble and not repeat."""
        return self._part(self.split.train, 1)

    def _part(self, ids: tuple[str, ...], num_turns: int) -> RealPart:
        return real_part(
            self.dataset,
            ids,
            size_px=self.size_px,
            space=self.space,
            num_turns=num_turns,
            cache=self.cache,
        )

    @cached_property
    def held_out_spaces(self) -> dict[str, Features]:
        """The val part (T, N, D) in each space where judges of attributes look."""
        colours = in_pieces(
            self.dataset,
            self.split.val,
            size_px=self.size_px,
            what=["colours"],
            compute=colour_quantiles,
            cache=self.cache,
        )
        return {self.space.name: self.held_out.turns, COLOURS: colours[None]}

    @cached_property
    def training_vectors(self) -> dict[str, Features]:
        """The train part (M, D) in each space where copies are sought."""
        pixels = in_pieces(
            self.dataset,
            self.split.train,
            size_px=self.size_px,
            what=["thumbnails"],
            compute=thumbnails,
            cache=self.cache,
        )
        return {self.space.name: self.training.turns[0], PIXELS: pixels}

    @cached_property
    def held_out_distances(self) -> dict[str, NDArray[np.float64]]:
        """Distances to training of unseen cells, as many of each class, in each space."""
        chosen = self.held_out.balanced(self.held_out.smallest_class)
        ids = [self.held_out.ids[i] for i in chosen]

        def queries(space: str) -> Features:
            if space == PIXELS:
                return turned_thumbnails(self.dataset.array(self.size_px, ids))
            return self.held_out.turns[:, chosen]

        def distances(space: str) -> NDArray[np.float64]:
            return nearest(queries(space), self.training_vectors[space]).distance

        key = ["nearest", self.space.digest, self.split.digest, self.size_px, ids]
        return {
            space: self.cache.get([*key, space], partial(distances, space))
            for space in self.training_vectors
        }


def open_reference(
    generator: Generator, data: str, *, split: Path, weights: Path, cache: Path, **columns: Any
) -> Reference:
    """Open the real images, the split and the feature weights that measure a generator.

    Args:
        columns: see `factory.real.options.opened`; without a label it is that of the training.

    Raises:
        DataError: unreadable data or split, or what `make_reference` finds.
        ModelError: unreadable feature weights.
    """
    columns["label"] = columns.get("label") or generator.manifest.get("config", {}).get("label")
    return make_reference(
        generator,
        opened(data, columns),
        load_split(split),
        space=load_feature_space(weights),
        cache=ArrayCache(folder=cache),
    )


def make_reference(
    generator: Generator,
    dataset: RealDataset,
    split: Split,
    *,
    space: FeatureSpace,
    cache: ArrayCache,
) -> Reference:
    """Return the reference of a generator, if the val part of `split` is unseen by it.

    Raises:
        DataError: the split is of another dataset, the generator was trained on another split or
            records none, or a class is not held out.
    """
    if split.dataset != dataset.fingerprint:
        raise DataError(
            f"the split was made for dataset {split.dataset}, this one is {dataset.fingerprint}",
            remedy="Give the dataset that was split",
        )
    if generator.manifest.get("split_digest") != split.digest:
        raise DataError(
            f"generator {generator.name!r} was trained on split"
            f" {generator.manifest.get('split_digest')}, this one is {split.digest}:"
            " it may have seen the cells that would judge it",
            remedy="Give the split file of its training",
        )
    labels = dict(zip(dataset.ids, dataset.labels, strict=True))
    known, unseen = ({labels[i] for i in part} for part in (split.train, split.val))
    if known != unseen:
        raise DataError(
            f"class {sorted(known ^ unseen)[0]!r} is missing from train or from val",
            remedy="Judge with a split that has every class in both",
        )
    return Reference(
        dataset=dataset, split=split, size_px=generator.size_px, space=space, cache=cache
    )
