"""Arms: the training sets that are compared, as lists of rows; pixels stay where they are."""

import math
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property

from factory.digest import digest
from factory.errors import DataError


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One training example: an id of the real dataset or of the catalog, and what it teaches."""

    id: str
    synthetic: bool
    soft_label: tuple[float, ...]
    """A weight per class, summing to 1."""
    weight: float = 1.0
    """Of its loss."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Drawn:
    """A synthetic image that an arm may take."""

    id: str
    class_name: str
    soft_label: tuple[float, ...]
    reference_ids: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """One arm under one split and seed. A real image may stand in several rows."""

    arm: str
    class_names: tuple[str, ...]
    rows: tuple[Row, ...]
    augment: bool

    @cached_property
    def digest(self) -> str:
        """Names the training set, whatever the arm is called."""
        return digest([self.class_names, [asdict(row) for row in self.rows], self.augment])

    @property
    def num_real(self) -> int:
        """Rows of real images, repeats included."""
        return len(self.rows) - self.num_synthetic

    @property
    def num_synthetic(self) -> int:
        """Rows of synthetic images."""
        return sum(row.synthetic for row in self.rows)

    @property
    def counts(self) -> dict[str, int]:
        """Rows by the class with the largest weight."""
        found = Counter(self.class_names[_largest(row.soft_label)] for row in self.rows)
        return {name: found[name] for name in self.class_names}

    def to_json(self) -> dict[str, object]:
        """Return plain data: what was trained on, for whoever wants to do it again."""
        return {
            "arm": self.arm,
            "digest": self.digest,
            "class_names": list(self.class_names),
            "augment": self.augment,
            "rows": [[r.id, r.synthetic, list(r.soft_label), r.weight] for r in self.rows],
        }


@dataclass(frozen=True, kw_only=True)
class Stock:
    """What the arms of one split and seed choose from.

    Choices depend on `seed` and ids alone and are nested: the 100 first of a class are among the
    300 first, so that arms of several sizes differ by their size.
    """

    class_names: tuple[str, ...]
    real: Mapping[str, str]
    """Class by id: the real training images."""
    drawn: Sequence[Drawn] = ()
    seed: int = 0

    @cached_property
    def real_rows(self) -> dict[str, list[Row]]:
        """Rows of all real training images by class, in shuffled order."""
        by_class: dict[str, list[Row]] = {name: [] for name in self.class_names}
        for image_id, name in sorted(self.real.items(), key=lambda i: self.order(i[0])):
            by_class[name].append(Row(id=image_id, synthetic=False, soft_label=self._hard(name)))
        return by_class

    @cached_property
    def drawn_by_class(self) -> dict[str, list[Drawn]]:
        """The synthetic images by class, in shuffled order."""
        by_class: dict[str, list[Drawn]] = {name: [] for name in self.class_names}
        for image in sorted(self.drawn, key=lambda d: self.order(d.id)):
            by_class[image.class_name].append(image)
        return by_class

    @cached_property
    def drawn_by_reference(self) -> dict[str, list[Drawn]]:
        """The synthetic images by the real image that they were made from, in shuffled order."""
        found: defaultdict[str, list[Drawn]] = defaultdict(list)
        for image in sorted(self.drawn, key=lambda d: self.order(d.id)):
            if image.reference_ids:
                found[image.reference_ids[0]].append(image)
        return found

    def order(self, image_id: str) -> str:
        """Return the sort key of the seeded shuffle."""
        return digest(["arm", self.seed, image_id])

    def synthetic_rows(
        self, wanted: Mapping[str, int], *, weight: float, arm: str, most: str | None
    ) -> list[Row]:
        """Return the first so many synthetic images of every class.

        Args:
            wanted: class to count.
            weight: of their loss.
            arm: its name, for errors.
            most: what it could ask for at most, such as "ratio=0.5"; None: nothing.

        Raises:
            DataError: a class with fewer.
        """
        have = {n: len(self.drawn_by_class[n]) for n in wanted}
        if lacking := [n for n in wanted if have[n] < wanted[n]]:
            more = ", ".join(f"{wanted[n] - have[n]} of {n!r}" for n in lacking)
            less = f" ask for less (at most --set arms.{arm}.{most})," if most else ""
            raise DataError(
                f"arm {arm!r}: too few synthetic images of "
                + ", ".join(f"{n!r} ({have[n]} of {wanted[n]})" for n in lacking),
                remedy=f"Draw more with `factory generate` (lacking: {more}),{less}"
                f" or leave classes out: --set 'without=[{', '.join(lacking)}]'",
            )
        return [
            synthetic_row(image, weight=weight)
            for name, count in wanted.items()
            for image in self.drawn_by_class[name][:count]
        ]

    def _hard(self, name: str) -> tuple[float, ...]:
        return tuple(float(name == own) for own in self.class_names)


def synthetic_row(image: Drawn, *, weight: float) -> Row:
    """Return the row of a synthetic image."""
    return Row(id=image.id, synthetic=True, soft_label=image.soft_label, weight=weight)


def repeated(rows: Sequence[Row], count: int) -> list[Row]:
    """Return `count` rows: all of them again and again, the last time only the first ones."""
    return (list(rows) * math.ceil(count / max(1, len(rows))))[:count]


def _largest(weights: Sequence[float]) -> int:
    return max(range(len(weights)), key=lambda i: weights[i])
