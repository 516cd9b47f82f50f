"""How the arms of a study are made: the rows of each design, of one split, seed and draw."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from factory.digest import digest
from factory.errors import ConfigError, DataError
from factory.evaluate.arms import (
    Manifest,
    Row,
    Stock,
    pasted_id,
    repeated,
    share_of,
    shared,
    synthetic_row,
)
from factory.evaluate.designs import (
    Add,
    CopyPaste,
    Design,
    Drawing,
    Duplicate,
    Oversample,
    PerReference,
    Ratio,
    Real,
    SampledFeatures,
    SelfTraining,
    Source,
    SyntheticOnly,
    TopUp,
    ways_of,
)

_Rowed = Real | Duplicate | Oversample | SyntheticOnly | Add | TopUp | Ratio | PerReference
SUREST = (0.4, 0.6, 0.8)
"""Shares of the unlabelled images called a class that are kept for it, round after round (as in P.
Cascante-Bonilla et al., Curriculum Labeling, AAAI 2021); chosen on val parts of one study."""


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
        arm = designs[name]
        if isinstance(arm, (SampledFeatures, CopyPaste, Source, SelfTraining)):
            rows = _with_others(name, arm, stock)
        else:
            rows = _rows(name, arm, stock.where(getattr(arm, "where", None)), made)
        if isinstance(arm, Drawing) and arm.shuffled_labels:
            rows = _shuffled(rows, stock)
        if isinstance(arm, Drawing) and arm.hard_labels:
            rows = [replace(row, soft_label=_hardened(row)) for row in rows]
        if (share := getattr(arm, "real_share", None)) is not None:
            rows = shared(rows, share_of(share, rows, len(stock.class_names)))
        if arm.unlabelled is not None:
            rows = [*rows, *stock.unlabelled_rows(rows, arm.unlabelled)]
        made[name] = Manifest(
            arm=name,
            class_names=stock.class_names,
            rows=tuple(rows),
            augment=arm.augment,
            keep=_kept(arm),
            strong=arm.strong,
            ways=ways_of(arm),
        )
        if not rows:
            raise DataError(f"arm {name!r} has no rows", remedy="Ask for images, or leave it out")
    return {name: made[name] for name in designs}


def _with_others(
    name: str, arm: SampledFeatures | CopyPaste | Source | SelfTraining, stock: Stock
) -> list[Row]:
    """Return all real rows and those of an arm that are neither real ones of its own nor drawn."""
    every = [row for rows in stock.real_rows.values() for row in rows]
    if isinstance(arm, SampledFeatures):
        return every + _sampled(stock.real_rows, arm.per_class)
    if isinstance(arm, CopyPaste):
        return every + _pasted(stock.real_rows, arm.per_class)
    labelled = isinstance(arm, Source)
    rows = stock.source_rows(arm.source, arm.per_class, labelled=labelled, arm=name)
    return rows if isinstance(arm, Source) and not arm.real else every + rows


def _rows(name: str, arm: _Rowed, stock: Stock, made: Mapping[str, Manifest]) -> list[Row]:
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


def _sampled(real: Mapping[str, list[Row]], per_class: int) -> list[Row]:
    return [
        Row(
            id=f"sampled:{name}:{number}",
            synthetic=False,
            soft_label=rows[0].soft_label,
            made="sampled",
        )
        for name, rows in real.items()
        for number in range(per_class)
    ]


def _pasted(real: Mapping[str, list[Row]], per_class: int) -> list[Row]:
    """Return rows of pairs: every image of a class gives its object as often, to each in turn."""
    found = []
    for rows in real.values():
        count = len(rows)
        for number in range(per_class):
            giver, further = rows[number % count], number // count
            taker = rows[(number + 1 + further) % count]
            pair = pasted_id(giver.id, taker.id, number)
            found.append(replace(giver, id=pair, soft_label=taker.soft_label, made="pasted"))
    return found


def _shuffled(rows: Sequence[Row], stock: Stock) -> list[Row]:
    """Return the rows, the synthetic ones with each other's labels."""
    drawn = [row for row in rows if row.synthetic]
    given = sorted(drawn, key=lambda row: digest(["label", stock.seed, row.id]))
    labels = {own.id: other.soft_label for own, other in zip(drawn, given, strict=True)}
    return [replace(row, soft_label=labels.get(row.id, row.soft_label)) for row in rows]


def _hardened(row: Row) -> tuple[float, ...]:
    """Return 1 for the likeliest class of a row, the first of equal ones, and 0 for the others."""
    likeliest = row.soft_label.index(max(row.soft_label))
    return tuple(float(index == likeliest) for index in range(len(row.soft_label)))


def _kept(arm: Design) -> tuple[float, ...]:
    if isinstance(arm, SelfTraining):
        return (arm.keep,)
    return SUREST if arm.unlabelled is not None else ()


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


def most_drawn(arm: Design, held: Mapping[str, int]) -> int:
    """Return how many drawn images of one class an arm needs at most; 0: what there are will do.

    Args:
        arm: of any design.
        held: real training images of each class.
    """
    if isinstance(arm, Add | TopUp | Ratio):
        return max((_added("", arm, name)(count) for name, count in held.items()), default=0)
    return (arm.per_class or 0) if isinstance(arm, SyntheticOnly) else 0


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
