"""Leaks: held-out images that something was trained, tuned or drawn from. Refused, ids listed.

A held-out image counts as seen by its id, by equal pixels (whatever file holds them), by its group
(patient, slide), or by a near-duplicate.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from factory.errors import DataError
from factory.real.dataset import RealDataset
from factory.real.duplicates import pairs_between, perceptual_hash, thumbnail
from factory.real.images import decode
from factory.real.splits import Split, check_dataset

SHOWN = 8
"""Leaks named in an error; the others are counted."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Use:
    """Real images that something saw: generator training, references, clusters, calibration.

    `ids` are of `dataset`, which may be another one than the study's.
    """

    what: str
    dataset: RealDataset = field(repr=False)
    ids: tuple[str, ...] = field(repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Leak:
    """A held-out image that was seen, as which image, and how that shows."""

    what: str
    held: str
    seen: str
    why: str

    def __str__(self) -> str:
        told = self.why if self.held == self.seen else f"{self.why} {self.seen}"
        return f"{self.held} ({told})"


@dataclass(frozen=True, kw_only=True)
class Looks:
    """Perceptual hashes (N,) and thumbnails (N, 16, 16, 3) of pictures with their names."""

    names: tuple[str, ...]
    hashes: NDArray[np.uint64]
    thumbnails: NDArray[np.float32]

    @classmethod
    def of(cls, pictures: Iterable[tuple[str, Image.Image]]) -> "Looks":
        """Return the looks of named pictures."""
        seen = [(name, perceptual_hash(p), thumbnail(p)) for name, p in pictures]
        return cls(
            names=tuple(name for name, _, _ in seen),
            hashes=np.array([own for _, own, _ in seen], np.uint64),
            thumbnails=np.array([own for _, _, own in seen], np.float32),
        )

    def near(self, others: "Looks") -> Iterator[tuple[str, str]]:
        """Yield (own name, other's name) of near-duplicates."""
        pairs = pairs_between(self.hashes, self.thumbnails, others.hashes, others.thumbnails)
        yield from ((self.names[i], others.names[j]) for i, j in pairs)


@dataclass(frozen=True, kw_only=True)
class Held:
    """The images of a study that nothing may have seen: val and test of its split."""

    dataset: RealDataset
    ids: tuple[str, ...]

    @cached_property
    def looks(self) -> Looks:
        """What the held-out images look like; computed once."""
        return looks_of(self.dataset, self.ids)

    @cached_property
    def _by_pixels(self) -> dict[str, str]:
        return {_pixels(self.dataset, i): i for i in self.ids}

    @cached_property
    def _by_group(self) -> dict[str, str]:
        return {self.dataset.groups[self.dataset.index_of(i)]: i for i in self.ids}

    def leaks(self, use: Use, *, near: bool = True) -> list[Leak]:
        """Return the held-out images that `use` saw, each once, in order of what it saw.

        Args:
            use: what was seen, and by what.
            near: look for near-duplicates too: a second for a few hundred images.

        Raises:
            DataError: an unknown id, or an image that cannot be read.
        """
        found = {leak.held: leak for leak in reversed(list(self._plain(use)))}
        if near:
            unseen = tuple(i for i in use.ids if i not in {leak.seen for leak in found.values()})
            for held, seen in self.looks.near(looks_of(use.dataset, unseen)):
                leak = Leak(what=use.what, held=held, seen=seen, why="nearly")
                found.setdefault(held, leak)
        return sorted(found.values(), key=lambda leak: leak.held)

    def _plain(self, use: Use) -> Iterator[Leak]:
        same = use.dataset.fingerprint == self.dataset.fingerprint
        held = set(self.ids)
        for i in use.ids:
            twin = self._by_pixels.get(_pixels(use.dataset, i))
            relative = self._by_group.get(use.dataset.groups[use.dataset.index_of(i)])
            if same and i in held:
                yield Leak(what=use.what, held=i, seen=i, why="itself")
            elif twin is not None:
                yield Leak(what=use.what, held=twin, seen=i, why="has the pixels of")
            elif same and relative is not None:
                yield Leak(what=use.what, held=relative, seen=i, why="is of one group with")


def held_out(dataset: RealDataset, split: Split) -> Held:
    """Return the val and test images of `split`.

    Raises:
        DataError: a split of another dataset.
    """
    check_dataset(split, dataset.fingerprint)
    return Held(dataset=dataset, ids=(*split.val, *split.test))


def looks_of(dataset: RealDataset, ids: Sequence[str]) -> Looks:
    """Return the looks of real images.

    Raises:
        DataError: an unknown id, or an image that cannot be read.
    """
    return Looks.of((i, decode(dataset.encoded(dataset.index_of(i)), name=i)) for i in ids)


def refuse_leaks(held: Held, uses: Iterable[Use], *, near: bool = True) -> None:
    """Check that no held-out image was seen.

    Raises:
        DataError: the leaks of all uses, the first `SHOWN` of each by name.
    """
    told = []
    for use in uses:
        if found := held.leaks(use, near=near):
            more = f" and {len(found) - SHOWN} others" if found[SHOWN:] else ""
            told.append(f"{use.what} saw {', '.join(map(str, found[:SHOWN]))}{more}")
    if told:
        raise DataError(
            f"held-out images leak: {'; '.join(told)}",
            remedy="Make a new split with near-duplicates grouped, and train what saw these again",
        )


def _pixels(dataset: RealDataset, image_id: str) -> str:
    return dataset.contents[dataset.index_of(image_id)].pixels_sha256
