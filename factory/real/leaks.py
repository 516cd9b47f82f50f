"""Leaks: held-out images that something was trained, tuned or drawn from. Refused, ids listed.

A held-out image counts as seen by its id, by equal pixels (whatever file holds them), by its group
(patient, slide), or by a near-duplicate, turned or not. This is the one check for splits, trainings
of every method and studies.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from functools import cached_property

from factory.errors import DataError
from factory.real.dataset import RealDataset
from factory.real.duplicates import Digests, Looks
from factory.real.splits import Split, check_dataset, verify_split

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
class Told:
    """Real images that something saw and that are not at hand: their digests tell of them."""

    what: str
    digests: Digests = field(repr=False)


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
class Held:
    """The images of a study that nothing may have seen: val and test of its split."""

    dataset: RealDataset
    ids: tuple[str, ...]

    @cached_property
    def looks(self) -> Looks:
        """What the held-out images look like."""
        return _looks(self.dataset, self.ids)

    @cached_property
    def _by_pixels(self) -> dict[str, str]:
        return {_pixels(self.dataset, i): i for i in self.ids}

    @cached_property
    def _by_group(self) -> dict[str, str]:
        return {self.dataset.groups[self.dataset.index_of(i)]: i for i in self.ids}

    def leaks(self, use: Use | Told) -> list[Leak]:
        """Return the held-out images that `use` saw, each once, in order of their ids.

        Takes a second for a few hundred images.

        Raises:
            DataError: an unknown id, or an image that cannot be read.
        """
        if isinstance(use, Told):
            return list(self._known(use))
        found = {leak.held: leak for leak in reversed(list(self._plain(use)))}
        plainly = {leak.seen for leak in found.values()}
        if unseen := tuple(i for i in use.ids if i not in plainly):
            for held, seen in self.looks.near(_looks(use.dataset, unseen)):
                leak = Leak(what=use.what, held=held, seen=seen, why="nearly")
                found.setdefault(held, leak)
        return sorted(found.values(), key=lambda leak: leak.held)

    def _known(self, use: Told) -> Iterator[Leak]:
        for image_id in sorted(self.ids):
            if use.digests.hold(self.dataset.picture(self.dataset.index_of(image_id))):
                seen = f"one of {len(use.digests):,} training images"
                yield Leak(what=use.what, held=image_id, seen=seen, why="looks like")

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


def check_apart(dataset: RealDataset, split: Split) -> Held:
    """Return the held-out images of a split whose parts share no picture, turned or not.

    Raises:
        DataError: a split of another dataset, a divided group, or an image that looks like one of
            another part.
    """
    verify_split(split, dataset=dataset.fingerprint, ids=dataset.ids, groups=dataset.groups)
    held = held_out(dataset, split)
    refuse_leaks(held, [Use(what="the train part", dataset=dataset, ids=split.train)])
    tested = Held(dataset=dataset, ids=split.test)
    refuse_leaks(tested, [Use(what="the val part", dataset=dataset, ids=split.val)])
    return held


def refuse_leaks(held: Held, uses: Iterable[Use | Told]) -> None:
    """Check that no held-out image was seen.

    Raises:
        DataError: the leaks of all uses, the first `SHOWN` of each by name.
    """
    told, only_told = [], True
    for use in uses:
        if found := held.leaks(use):
            more = f" and {len(found) - SHOWN} others" if found[SHOWN:] else ""
            told.append(f"{use.what} saw {', '.join(map(str, found[:SHOWN]))}{more}")
            only_told &= isinstance(use, Told)
    if told:
        raise DataError(
            f"held-out images leak: {'; '.join(told)}", remedy=_TAKE_OUT if only_told else _AGAIN
        )


def _looks(dataset: RealDataset, ids: Iterable[str]) -> Looks:
    return dataset.looks.select([dataset.index_of(i) for i in ids])


def _pixels(dataset: RealDataset, image_id: str) -> str:
    return dataset.contents[dataset.index_of(image_id)].pixels_sha256


_AGAIN = "Make a new split with near-duplicates grouped, and train what saw these again"
_TAKE_OUT = "Take these images out of the dataset and split it again, or draw with another base"
