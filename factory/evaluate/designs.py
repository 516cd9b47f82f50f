"""How an arm is made: the designs that a study can compare, each a small configuration."""

import math
from collections.abc import Callable, Mapping
from typing import Annotated, Literal

from pydantic import Field

from factory.config import Frozen
from factory.digest import digest
from factory.errors import ConfigError, DataError
from factory.evaluate.arms import Manifest, Row, Stock, repeated, synthetic_row


class Arm(Frozen):
    """What all designs share."""

    augment: bool = True
    """Vary the training images by flips, crops, colour and stain."""


class Real(Arm):
    """The real training images, once each."""

    design: Literal["real"] = "real"


class Duplicate(Arm):
    """Real images repeated until every class has as many rows as in another arm.

    Tells more rows from new images: a 2026 study of chest films saw this control win.
    """

    design: Literal["duplicate"] = "duplicate"
    like: str
    """Name of the arm with synthetic images that this one controls."""


class Oversample(Arm):
    """Real images repeated until every class has as many rows as the largest one."""

    design: Literal["oversample"] = "oversample"


class _Drawing(Arm):
    synthetic_weight: float = Field(1.0, gt=0)
    """Weight of a synthetic row's loss; a real row's is 1."""


class SyntheticOnly(_Drawing):
    """No real image at all."""

    design: Literal["synthetic"] = "synthetic"
    per_class: int | None = Field(None, ge=1)
    """null: all there are."""


class Add(_Drawing):
    """All real images and N synthetic ones per class (CytoDiff's +N)."""

    design: Literal["add"] = "add"
    per_class: int = Field(ge=1)
    quota: Mapping[str, int] = Field(default_factory=dict)
    """Another N for single classes, 0 included."""


class TopUp(_Drawing):
    """Synthetic images fill every class up to T rows (CytoDiff's balanced design)."""

    design: Literal["top_up"] = "top_up"
    to: int = Field(ge=1)
    cut: bool = False
    """Also cut larger classes down to T, as CytoDiff does."""


class Ratio(_Drawing):
    """All real images and r times as many synthetic ones, class by class, rounded up."""

    design: Literal["ratio"] = "ratio"
    ratio: float | None = Field(gt=0, le=1000)
    """null: as many as the synthetic images of every class allow, at most 1."""


class PerReference(_Drawing):
    """Each real image brings, with chance alpha, r synthetic images made from it (diffuse-gen)."""

    design: Literal["per_reference"] = "per_reference"
    alpha: float = Field(0.5, ge=0, le=1)
    r: int = Field(1, ge=1)


Design = Annotated[
    Real | Duplicate | Oversample | SyntheticOnly | Add | TopUp | Ratio | PerReference,
    Field(discriminator="design"),
]
CONTROLS = (Real, Duplicate, Oversample)
"""Designs without a synthetic image: what the others must beat."""


def make_arms(designs: Mapping[str, Design], stock: Stock) -> dict[str, Manifest]:
    """Return the manifest of every arm.

    Raises:
        ConfigError: `like` or `quota` names what is not there.
        DataError: an arm without rows, a class without real images, or too few synthetic ones.
    """
    empty = [name for name, rows in stock.real_rows.items() if not rows]
    if empty:
        raise DataError(
            f"no real training image of {', '.join(empty)}",
            remedy="Make a split whose train part has one of each, or leave them out: --set"
            f" 'without=[{', '.join(empty)}]'",
        )
    made: dict[str, Manifest] = {}
    for name in sorted(designs, key=lambda n: isinstance(designs[n], Duplicate)):
        rows = _rows(name, designs[name], stock, made)
        made[name] = Manifest(
            arm=name,
            class_names=stock.class_names,
            rows=tuple(rows),
            augment=designs[name].augment,
        )
        if not rows:
            raise DataError(f"arm {name!r} has no rows", remedy="Ask for images, or leave it out")
    return {name: made[name] for name in designs}


def _rows(name: str, arm: Design, stock: Stock, made: Mapping[str, Manifest]) -> list[Row]:
    real = stock.real_rows
    every = [row for rows in real.values() for row in rows]
    match arm:
        case Real():
            return every
        case Oversample():
            return _repeated_to(real, {n: max(map(len, real.values())) for n in real})
        case Duplicate():
            return _repeated_to(real, _like(name, arm, made).counts)
        case SyntheticOnly():
            found = {n: len(images) for n, images in stock.drawn_by_class.items()}
            wanted = found if arm.per_class is None else dict.fromkeys(found, arm.per_class)
            return stock.synthetic_rows(
                wanted, weight=arm.synthetic_weight, arm=name, most=_most(arm, stock)
            )
        case PerReference():
            return every + _of_references(arm, stock)
        case Add() | TopUp() | Ratio():
            quota = arm.quota if isinstance(arm, Add) else {}
            if unknown := sorted(set(quota) - set(real)):
                raise ConfigError(
                    f"arm {name!r}: a quota of class {unknown[0]!r}, which no real image has",
                    remedy=f"Choose of {', '.join(real)}",
                )
            asked = {n: _added(name, arm, n)(len(rows)) for n, rows in real.items()}
            if isinstance(arm, Ratio) and arm.ratio is None:
                asked = _as_far_as_drawn(stock)
            kept = arm.to if isinstance(arm, TopUp) and arm.cut else len(every)
            first = [row for rows in real.values() for row in rows[:kept]]
            return first + stock.synthetic_rows(
                asked, weight=arm.synthetic_weight, arm=name, most=_most(arm, stock)
            )


def _most(arm: SyntheticOnly | Add | TopUp | Ratio, stock: Stock) -> str | None:
    """Return the largest number of its key that the synthetic images of every class allow."""
    have = {n: len(images) for n, images in stock.drawn_by_class.items()}
    if min(have.values()) == 0:
        return None
    if isinstance(arm, Ratio):
        return f"ratio={_reach(stock):g}"
    if isinstance(arm, TopUp):
        return f"to={min(have[n] + len(rows) for n, rows in stock.real_rows.items())}"
    return f"per_class={min(have.values())}"


def _as_far_as_drawn(stock: Stock) -> dict[str, int]:
    """Return as many images of each class as real ones, or the share of it that all classes allow.

    Where a class has none: one of each such class, which is then said to lack.
    """
    drawn = {n: len(images) for n, images in stock.drawn_by_class.items()}
    held = {n: len(rows) for n, rows in stock.real_rows.items()}
    if missing := [n for n in held if not drawn[n]]:
        return dict.fromkeys(missing, 1)
    share = min(1.0, *(drawn[n] / held[n] for n in held))
    return {n: min(drawn[n], math.ceil(round(share * held[n], 9))) for n in held}


def _reach(stock: Stock) -> float:
    """Return the largest ratio, in hundredths, that the synthetic images of every class allow."""
    drawn = stock.drawn_by_class
    least = min(len(drawn[n]) / len(rows) for n, rows in stock.real_rows.items())
    return math.floor(100 * least) / 100


def _added(name: str, arm: Add | TopUp | Ratio, class_name: str) -> Callable[[int], int]:
    """Return how many synthetic images join so many real ones of a class."""
    if isinstance(arm, TopUp):
        return lambda held: max(0, arm.to - held)
    if isinstance(arm, Ratio):
        ratio = arm.ratio or 1.0
        return lambda held: math.ceil(round(ratio * held, 9))
    if any(count < 0 for count in arm.quota.values()):
        raise ConfigError(f"arm {name!r}: a quota below 0", remedy="Give 0 or more")
    return lambda _held: arm.quota.get(class_name, arm.per_class)


def _like(name: str, arm: Duplicate, made: Mapping[str, Manifest]) -> Manifest:
    if arm.like not in made:
        raise ConfigError(
            f"arm {name!r} is to be as large as {arm.like!r}, which is no other arm's name",
            remedy=f"Choose one of {', '.join(sorted(made)) or 'none yet: add one'}",
        )
    return made[arm.like]


def _repeated_to(real: Mapping[str, list[Row]], counts: Mapping[str, int]) -> list[Row]:
    """Repeat each class to its count, never below one pass: a control leaves nothing real out."""
    return [row for n, rows in real.items() for row in repeated(rows, max(counts[n], len(rows)))]


def _of_references(arm: PerReference, stock: Stock) -> list[Row]:
    chosen = [i for i in sorted(stock.real) if _chance(stock.seed, i) < arm.alpha]
    found = stock.drawn_by_reference
    short = [i for i in chosen if len(found.get(i, ())) < arm.r]
    if short:
        raise DataError(
            f"{len(short)} real images have fewer than {arm.r} synthetic images made from them,"
            f" the first is {short[0]!r}",
            remedy="Draw with images_per_reference, or lower r or alpha",
        )
    return [
        synthetic_row(d, weight=arm.synthetic_weight) for i in chosen for d in found[i][: arm.r]
    ]


def _chance(seed: int, image_id: str) -> float:
    """Return a number in [0, 1) that follows from seed and id: nested for rising alpha."""
    return int(digest(["alpha", seed, image_id])[:12], 16) / 16**12
