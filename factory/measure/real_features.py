"""Real images as vectors, in pieces that are kept: a killed or repeated job goes on from there."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from factory.arrays import Features, Images
from factory.digest import digest
from factory.errors import DataError
from factory.measure.cache import ArrayCache
from factory.measure.features import FeatureSpace, turned
from factory.real.dataset import RealDataset
from factory.terminal import Pace, Tell

PIECE = 512
"""Images per kept piece: about ten seconds of work on one core."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RealPart:
    """Some real images: the features (T, N, D) of T turns of each, and what they show."""

    ids: Sequence[str]
    labels: Sequence[str]
    facts: Sequence[Mapping[str, str]]
    turns: Features

    def balanced(self, per_class: int) -> list[int]:
        """Return the positions of `per_class` images of every class, class after class.

        Which ones follows from the ids alone.

        Raises:
            DataError: a class with fewer.
        """
        chosen = []
        for name in sorted(set(self.labels)):
            members = [i for i, own in enumerate(self.labels) if own == name]
            if len(members) < per_class:
                raise DataError(
                    f"class {name!r} has {len(members)} images here, {per_class} were asked",
                    remedy="Ask for fewer per class, or hold out more",
                )
            members.sort(key=lambda i: digest(["balanced", self.ids[i]]))
            chosen += members[:per_class]
        return chosen

    @property
    def smallest_class(self) -> int:
        """Images of the rarest class."""
        return min(list(self.labels).count(name) for name in set(self.labels))


def real_part(
    dataset: RealDataset,
    ids: Sequence[str],
    *,
    size_px: int,
    space: FeatureSpace,
    num_turns: int,
    cache: ArrayCache,
    tell: Tell | None = None,
) -> RealPart:
    """Return these images at `size_px` with the features of their first `num_turns` turns.

    `tell` gets a line now and then.
    """
    labels = dict(zip(dataset.ids, dataset.labels, strict=True))
    pace = Pace(len(ids) * num_turns, f"views of real images by {space.name}", tell)

    def features(turn: int) -> Features:
        def compute(images: Images) -> Features:
            return space.extract(turned(images, turn))

        def count(done: int) -> None:
            pace(turn * len(ids) + done)

        what = ["features", space.digest, turn]
        return in_pieces(
            dataset, ids, size_px=size_px, what=what, compute=compute, cache=cache, count=count
        )

    return RealPart(
        ids=ids,
        labels=[labels[i] for i in ids],
        facts=[dataset.attributes[i] for i in ids],
        turns=np.stack([features(turn) for turn in range(num_turns)]),
    )


def in_pieces(
    dataset: RealDataset,
    ids: Sequence[str],
    *,
    size_px: int,
    what: Sequence[object],
    compute: Callable[[Images], Features],
    cache: ArrayCache,
    count: Callable[[int], object] = lambda _done: None,
) -> Features:
    """Return `compute` of the images with these ids, piece by piece through the cache.

    Args:
        what: names the computation in the cache.
        compute: rows for images (n, size_px, size_px, 3); must treat each image alone.
        count: gets how many are done.
    """

    def piece(start: int) -> Features:
        chosen = list(ids[start : start + PIECE])
        found = cache.get(
            [*what, dataset.fingerprint, size_px, chosen],
            lambda: compute(dataset.array(size_px, chosen)),
        )
        count(start + len(chosen))
        return found

    return np.concatenate([piece(start) for start in range(0, len(ids), PIECE)])
