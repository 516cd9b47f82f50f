"""How an arm is made: the designs that a study can compare, each a small configuration."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator

from factory.config import Frozen
from factory.digest import digest
from factory.errors import ConfigError, DataError
from factory.evaluate.arms import (
    Colouring,
    Manifest,
    RealShare,
    Row,
    Stock,
    Ways,
    pasted_id,
    repeated,
    share_of,
    shared,
    synthetic_row,
)


class Arm(Frozen):
    """What all designs share."""

    augment: bool = True
    """Vary the training images by flips, crops, colour and stain."""
    strong: bool = False
    """Vary them much more, of a probe: views in other colours and crops (`learner.varied`), and
    mixtures of two images' features (V. Verma et al., Manifold Mixup, ICML 2019)."""
    shots: int | Literal["all"] | None = Field(None)
    """Real training images per class, 'all', or null: as many as the study says."""
    unlabelled: float | None = Field(None, gt=0, lt=1)
    """Of a probe: also learn from the images of the train part whose labels the arm does not know,
    with this share of the weight. A head of all others names them, and is fitted again with those
    it was surest of (D.-H. Lee, Pseudo-Label, 2013): three rounds, with more of them each."""
    expert: str | None = None
    """Of a probe: one of `learner.experts`, whose features stand beside those of the backbone."""
    autoencoder: str | None = None
    """Of a probe, name of a generator: real images are also seen as its autoencoder shows them,
    those that are judged as well, and the mean chance of both counts; a source's images in no other
    way. Drawn ones come out of it as they are: so all are equally sharp, once."""

    @field_validator("shots")
    @classmethod
    def _some(cls, value: Any) -> Any:
        if isinstance(value, int) and value < 1:
            raise ValueError("1 or more, all, or null")
        return value


class OfOthers(Arm):
    """What a probe can do with images that are not the study's own real ones: drawn, a source's."""

    colour: Colouring | None = None
    """Bring them to the colours of the own real images, all together (`derived.py`)."""
    stain: bool = False
    """See them in other stains and lights too (`learner.staining`), own real ones as ever."""
    stages: tuple[Literal["drawn"], Literal["real"]] | None = None
    """Fit the head to them first, then on the own real images, held to what it was."""
    stacked: bool = False
    """Fit a head to them, and a second one, on the own real images alone, to its scores beside the
    features: they tell what sets classes apart, the real ones where the borders lie."""
    select: Literal["agree", "uncertain"] | None = None
    """'agree': only those that a head fitted to the other half of them names as they are labelled;
    'uncertain': of these the half of which a head of the own real images is least sure."""

    @model_validator(mode="after")
    def _one_after_the_other(self) -> "OfOthers":
        if self.stages and self.stacked:
            raise ValueError("stages and stacked are two ways to use the same images: choose one")
        return self


class Real(Arm):
    """The real training images, once each."""

    design: Literal["real"] = "real"


class SampledFeatures(Arm):
    """Real images, and features drawn around each class's mean, of a probe: no image at all.

    Gaussian, with the covariance that views of all classes have within them; what cheap sampling
    in a feature space gives, a generator has to beat (D. Samuel et al., arXiv 2308.00994).
    """

    design: Literal["sampled_features"] = "sampled_features"
    per_class: int = Field(ge=1)
    real_share: RealShare | None = 0.5


class CopyPaste(Arm):
    """Real pairs, and pairs in which the object of one lies in another: turned, scaled, moved.

    What costs nothing and draws nothing (G. Ghiasi et al., Simple Copy-Paste, CVPR 2021); of
    learners with masks.
    """

    design: Literal["copy_paste"] = "copy_paste"
    per_class: int = Field(ge=1)
    real_share: RealShare | None = 0.5


class Source(OfOthers):
    """Real images of another lab, as they are: what a study knows whose images may travel."""

    design: Literal["source"] = "source"
    source: str
    """Name of a source that the study is given."""
    per_class: int | None = Field(None, ge=1)
    """null: all there are."""
    real: bool = True
    """Beside the own real images."""
    real_share: RealShare | None = 0.5


class SelfTraining(Arm):
    """Real images, and those of a source without their labels, which a first head names.

    The head is fitted again on what it was surest of (D.-H. Lee, Pseudo-Label, 2013); of a probe.
    """

    design: Literal["self_training"] = "self_training"
    source: str
    """Name of a source, such as the images that a generator learnt from."""
    per_class: int | None = Field(None, ge=1)
    """How many unlabelled images are taken, of each class that they really have; null: all."""
    keep: float = Field(0.5, gt=0, le=1)
    """RealShare of those called a class that are kept for it, the surest first."""
    real_share: RealShare | None = 0.5


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


class _Drawing(OfOthers):
    synthetic_weight: float = Field(1.0, gt=0)
    """Weight of a synthetic row's loss; a real row's is 1."""
    real_share: RealShare | None = None
    """null: what follows from the rows."""
    shuffled_labels: bool = False
    """Give the synthetic images each other's labels: what then still helps was not their label."""
    hard_labels: bool = False
    """Give each synthetic image its likeliest class alone: the arm beside one of soft labels."""
    where: str | None = None
    """SQL condition on the columns of `samples`: which of the study's synthetic images."""


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
    Real
    | Duplicate
    | Oversample
    | SampledFeatures
    | CopyPaste
    | SyntheticOnly
    | Add
    | TopUp
    | Ratio
    | PerReference
    | Source
    | SelfTraining,
    Field(discriminator="design"),
]
_Rowed = Real | Duplicate | Oversample | SyntheticOnly | Add | TopUp | Ratio | PerReference
SUREST = (0.4, 0.6, 0.8)
"""Shares of the unlabelled images called a class that are kept for it, round after round (as in P.
Cascante-Bonilla et al., Curriculum Labeling, AAAI 2021); chosen on val parts of one study."""
WAYS: Mapping[str, Any] = {
    **dict.fromkeys(("expert", "autoencoder", "colour", "stages", "select", "unlabelled")),
    "stain": False,
    "stacked": False,
}
"""Keys of what a probe does with rows, and what they say of an arm that asks for nothing."""
LATER_OF_ARMS: Mapping[str, Any] = {
    **WAYS,
    "strong": False,
    "shots": None,
    "real_share": None,
    "shuffled_labels": False,
    "hard_labels": False,
    "where": None,
}
"""Keys that arms learnt later, and what they say of an arm that does not use them."""
CONTROLS = (Real, Duplicate, Oversample, SampledFeatures, CopyPaste)
"""Designs without a synthetic image: what the others must beat."""
BOUNDS = (Source, SelfTraining)
"""Designs that know images of another lab: shown beside the others, beaten by none of them."""
OF_MASKS = (CopyPaste,)
"""Designs of learners with masks."""
OF_PROBES = (SampledFeatures, SelfTraining)
"""Designs whose rows are no images with labels: only a probe can be fitted to them."""


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
        if isinstance(arm, _Drawing) and arm.shuffled_labels:
            rows = _shuffled(rows, stock)
        if isinstance(arm, _Drawing) and arm.hard_labels:
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


def ways_of(arm: Design) -> Ways:
    """Return what an arm asks of a probe beyond its rows."""
    names = ("expert", "autoencoder", "colour", "stain", "stacked", "select")
    asked = {name: value for name in names if (value := getattr(arm, name, None))}
    return Ways(**asked, stages=getattr(arm, "stages", None) is not None)


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
