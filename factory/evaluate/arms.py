"""Arms: the training sets that are compared, as lists of rows; pixels stay where they are."""

import json
import math
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass, field, replace
from functools import cache, cached_property
from typing import Annotated, Literal

from pydantic import Field

from factory.digest import canonical_json, digest, digest_bytes
from factory.errors import ConfigError, DataError

Colouring = Literal["reinhard", "macenko"]
RealShare = Annotated[float, Field(gt=0, lt=1)] | Literal["auto"]
"""Of the weight of all rows, that own real ones have together; 'auto': see `AS_MANY`."""
AS_MANY = 16.0
"""Drawn images of a class are taken for as many real ones, whatever their number: of n real ones of
a class the weight is n / (n + AS_MANY) of all. Set beforehand, and not tuned on any images: half at
sixteen labels, less below, where half was seen to be too much for one label."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One training example: an id of the real dataset or of the catalog, and what it teaches."""

    id: str
    synthetic: bool
    soft_label: tuple[float, ...]
    """A weight per class, summing to 1."""
    weight: float = 1.0
    """Of its loss."""
    made: Literal["", "source", "unlabelled", "own", "sampled", "pasted"] = ""
    """'source': an image of another lab, 'unlabelled': one of another lab whose label nobody tells,
    'own': one of the train part whose label the arm does not know, 'sampled': features around a
    class's mean, no image, 'pasted': an object of one image in another; else empty."""

    @property
    def is_own(self) -> bool:
        """Whether it is a real image of the study's own, its label known or not."""
        return not self.synthetic and self.made in ("", "own")

    @property
    def is_unlabelled(self) -> bool:
        """Whether nobody tells its label."""
        return self.made in ("unlabelled", "own")


@dataclass(frozen=True, slots=True, kw_only=True)
class Drawn:
    """A synthetic image that an arm may take."""

    id: str
    class_name: str
    soft_label: tuple[float, ...]
    reference_ids: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Ways:
    """What a probe does with rows that are not its own real ones; see `designs.Arm`."""

    colour: Colouring | None = None
    autoencoder: str | None = None
    stain: bool = False
    expert: str | None = None
    stages: bool = False
    stacked: bool = False
    select: str | None = None

    @property
    def told(self) -> dict[str, object]:
        """What is not as it is in an arm that says nothing."""
        return {n: v for n in Ways.__slots__ if (v := getattr(self, n)) not in (None, False)}


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """One arm under one split and seed. A real image may stand in several rows."""

    arm: str
    class_names: tuple[str, ...]
    rows: tuple[Row, ...]
    augment: bool
    keep: tuple[float, ...] = ()
    """Shares of the unlabelled rows that are kept, the surest, round after round."""
    strong: bool = False
    """Whether a probe also sees varied views and mixtures."""
    ways: Ways = Ways()
    """What else a probe does with these rows."""

    @cached_property
    def digest(self) -> str:
        """Names the training set, whatever the arm is called."""
        keep = self.keep[0] if len(self.keep) == 1 else list(self.keep) or 1.0
        later: list[object] = [[keep, self.strong]] if keep != 1.0 or self.strong else []
        later += [self.ways.told] if self.ways.told else []
        names, rest = (canonical_json(part) for part in (self.class_names, [self.augment, *later]))
        rows = ",".join(map(_told, self.rows))  # of a draw they are those of all others, but a few
        return digest_bytes(f"[{names},[{rows}],{rest[1:]}".encode())

    def shown_as(self, row: Row) -> tuple[str, ...]:
        """Return under which ids a row's image is looked at: itself, or what was made of it.

        None of what is features alone.
        """
        if row.made == "sampled":
            return ()
        ways, foreign = self.ways, row.synthetic or row.made == "source"
        if ways.colour and foreign and self.own:
            return (f"{row.id}@{ways.colour}:{self.coloured_after}",)
        if row.synthetic:
            return (row.id,)
        return self.judged_as(row.id)[-1:] if foreign else self.judged_as(row.id)

    def judged_as(self, image_id: str) -> tuple[str, ...]:
        """Return under which ids a real image of the study is looked at, a held-out one as well."""
        if not self.ways.autoencoder:
            return (image_id,)
        return (image_id, f"{image_id}@autoencoder:{self.ways.autoencoder}")

    @cached_property
    def own(self) -> tuple[str, ...]:
        """Ids of the real images of the study's own."""
        return tuple(sorted({r.id for r in self.rows if not (r.synthetic or r.made)}))

    @cached_property
    def coloured_after(self) -> str:
        """Names them."""
        return digest(list(self.own))[:16]

    @property
    def num_real(self) -> int:
        """Rows of real images of this dataset, repeats included."""
        return sum(not (row.synthetic or row.made) for row in self.rows)

    @property
    def num_synthetic(self) -> int:
        """Rows of synthetic images."""
        return sum(row.synthetic for row in self.rows)

    @property
    def counts(self) -> dict[str, int]:
        """Rows by the class with the largest weight, without those of unknown labels."""
        told = (row for row in self.rows if not row.is_unlabelled)
        found = Counter(self.class_names[_largest(row.soft_label)] for row in told)
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
    sources: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    """Class by id, of each source: real images of another lab."""
    picked: Mapping[str, Set[str]] = field(default_factory=dict)
    """Ids of drawn images by the SQL condition of an arm that takes just these."""
    train: Sequence[str] = ()
    """Ids of the whole train part: those that are not `real` have labels that nobody told."""

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

    def where(self, condition: str | None) -> "Stock":
        """Return the stock of an arm that takes the drawn images of a condition; None: all."""
        if condition is None:
            return self
        kept = self.picked[condition]
        return replace(self, drawn=[image for image in self.drawn if image.id in kept])

    def order(self, image_id: str) -> str:
        """Return the sort key of the seeded shuffle."""
        return _order(self.seed, image_id)

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

    def source_rows(
        self, name: str, per_class: int | None, *, labelled: bool, arm: str
    ) -> list[Row]:
        """Return rows of the first so many images of each class of a source; None: of all.

        Raises:
            ConfigError: there is no such source, or it has none of these classes.
        """
        if name not in self.sources:
            raise ConfigError(
                f"arm {arm!r} takes images of source {name!r}, which is not given",
                remedy=f"Give --source {name}=URI"
                + (f", or choose of {', '.join(self.sources)}" if self.sources else ""),
            )
        by_class: dict[str, list[Row]] = {own: [] for own in self.class_names}
        found = self.sources[name]
        for image_id in sorted((i for i in found if found[i] in by_class), key=self.order):
            own = found[image_id]
            made: Literal["source", "unlabelled"] = "source" if labelled else "unlabelled"
            label = self._hard(own) if labelled else self._any
            row_id = source_id(name, image_id)
            by_class[own].append(Row(id=row_id, synthetic=False, soft_label=label, made=made))
        rows = [row for own in by_class.values() for row in own[:per_class]]
        if not rows:
            raise ConfigError(
                f"arm {arm!r}: source {name!r} has none of the classes of the real images",
                remedy=f"Give a source with some of {', '.join(self.class_names)}",
            )
        return rows

    def unlabelled_rows(self, rows: Sequence[Row], share: float) -> list[Row]:
        """Return the images of the train part that are not among `rows`, without their labels.

        They weigh `share` of what they and `rows` weigh together.
        """
        known = {row.id for row in rows}
        found = [
            Row(id=image_id, synthetic=False, soft_label=self._any, made="own")
            for image_id in sorted(self.train, key=self.order)
            if image_id not in known
        ]
        total = sum(row.weight for row in rows) * share / (1 - share)
        return _weighing(found, total) if found else []

    @property
    def _any(self) -> tuple[float, ...]:
        return (1 / len(self.class_names),) * len(self.class_names)

    def _hard(self, name: str) -> tuple[float, ...]:
        return tuple(float(name == own) for own in self.class_names)


@cache
def _told(row: Row) -> str:
    """Return a row as canonical JSON, without what is not used of it."""
    return canonical_json({n: getattr(row, n) for n in Row.__slots__ if n != "made" or row.made})


@cache
def _order(seed: int, image_id: str) -> str:
    return digest(["arm", seed, image_id])


def source_id(name: str, image_id: str) -> str:
    """Return the id of a source's image in a study: no image of the study's own has it."""
    return f"source:{name}:{image_id}"


def pasted_id(giver: str, taker: str, number: int) -> str:
    """Return the id of a pair in which one image's object lies in another, see `pasted_of`."""
    return "pasted:" + json.dumps([giver, taker, number])


def pasted_of(row_id: str) -> tuple[str, str, int]:
    """Return who gives, who takes, and the number by which places differ."""
    giver, taker, number = json.loads(row_id.removeprefix("pasted:"))
    return giver, taker, number


def synthetic_row(image: Drawn, *, weight: float) -> Row:
    """Return the row of a synthetic image."""
    return Row(id=image.id, synthetic=True, soft_label=image.soft_label, weight=weight)


def repeated(rows: Sequence[Row], count: int) -> list[Row]:
    """Return `count` rows: all of them again and again, the last time only the first ones."""
    return (list(rows) * math.ceil(count / max(1, len(rows))))[:count]


def share_of(asked: RealShare, rows: Sequence[Row], num_classes: int) -> float:
    """Return the share of the weight that own real rows get: `asked`, or by how many they are."""
    if asked != "auto":
        return asked
    per_class = len({row.id for row in rows if not (row.synthetic or row.made)}) / num_classes
    return per_class / (per_class + AS_MANY)


def shared(rows: list[Row], share: float) -> list[Row]:
    """Return the rows with weights by which own real ones have a share of the whole."""
    real = [row for row in rows if not (row.synthetic or row.made)]
    others = [row for row in rows if row.synthetic or row.made]
    if not (real and others):
        return rows
    total = len(rows)
    return [*_weighing(real, share * total), *_weighing(others, (1 - share) * total)]


def _weighing(rows: Sequence[Row], total: float) -> list[Row]:
    """Return rows whose weights add up to `total`, in the proportions that they had."""
    factor = total / sum(row.weight for row in rows)
    return [replace(row, weight=factor * row.weight) for row in rows]


def _largest(weights: Sequence[float]) -> int:
    return max(range(len(weights)), key=lambda i: weights[i])
