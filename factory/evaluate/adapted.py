"""How near generators come to a domain: the adapted one beside its base, on images unseen by both.

Everything is drawn in the class mix of the unseen images, so that a distance means how the cells
look and not how many there are of each kind.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from factory.errors import DataError
from factory.evaluate.base_drawn import Drawn
from factory.finetune.material import spread
from factory.measure.copies import (
    CopyCheck,
    Nearest,
    check_copies,
    nearest,
    thumbnails,
    turned_thumbnails,
)
from factory.measure.distances import frechet_distance, kid
from factory.measure.diversity import mean_diversity, ssim_diversity
from factory.measure.features import Features, Images
from factory.measure.intervals import Z95, Estimate, proportion
from factory.measure.judge import balanced_accuracy, cross_fitted_logits, fit_judge, recalls
from factory.measure.real_features import RealPart

HALVES = 20
"""Half-samples behind the interval of a fall; a Fréchet distance of 1,280 features takes 1 s."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Domain:
    """Real images of one domain: unseen ones, others for the floor, and those learnt from."""

    unseen: RealPart
    """With all turns: fits the judge, and is what distances are measured to."""
    others: RealPart
    """The rest of the domain, in about the same class mix: their distance is the floor."""
    learnt: RealPart
    """What the adapted generator was trained on: copies are sought among them."""
    unseen_images: Images
    learnt_images: Images

    @property
    def counts(self) -> dict[str, int]:
        """Class -> how many to draw: the mix of the unseen images."""
        return dict(sorted(Counter(self.unseen.labels).items()))


@dataclass(frozen=True, slots=True, kw_only=True)
class Figures:
    """One set of images against the domain. `copies`: by the name of the space, for drawn ones."""

    name: str
    num_images: int
    kid: Estimate
    frechet: float
    named: Estimate | None
    """Share that the judge calls what was asked for; None: other classes were asked for."""
    named_by_class: Mapping[str, Estimate]
    diversity: Estimate | None
    """Mean over the classes of 1 - SSIM of pairs of a class; None: no class has three images."""
    copies: Mapping[str, CopyCheck]


@dataclass(frozen=True, slots=True, kw_only=True)
class Fall:
    """By how much a distance is lower than the base's, as a share of it; paired half-samples."""

    kid: Estimate
    frechet: Estimate


def check_domain(domain: Domain) -> None:
    """Raise unless unseen and learnt images are apart and every drawn class can be judged.

    Raises:
        DataError: an image in both parts, or a class with fewer than two unseen images.
    """
    if both := sorted(set(domain.unseen.ids) & set(domain.learnt.ids)):
        raise DataError(
            f"{len(both)} images were learnt from and would judge, such as {both[0]!r}",
            remedy="Judge with the part of the split that no generator was trained on",
        )
    if rare := [name for name, count in domain.counts.items() if count < 2]:
        raise DataError(
            f"class {rare[0]!r} has a single unseen image", remedy="Leave it out, or split anew"
        )


def measure(
    name: str, drawn: Drawn, domain: Domain, *, space: str
) -> tuple[Figures, dict[str, Nearest]]:
    """Return the figures of drawn images, and the learnt image nearest to each, by space."""
    near, unseen = _distances(drawn.turns, drawn.images, domain, space), _unseen(domain, space)
    asked_for = set(drawn.labels) <= set(domain.counts)
    named, by_class = _named(drawn, domain) if asked_for else (None, {})
    figures = Figures(
        name=name,
        num_images=len(drawn.images),
        kid=kid(drawn.turns[0], domain.unseen.turns[0]),
        frechet=frechet_distance(drawn.turns[0], domain.unseen.turns[0]),
        named=named,
        named_by_class=by_class,
        diversity=_diversity(drawn.images, drawn.labels),
        copies={s: check_copies(s, near[s].distance, unseen[s].distance) for s in near},
    )
    return figures, near


def _named(drawn: Drawn, domain: Domain) -> tuple[Estimate, dict[str, Estimate]]:
    """Return how often the judge of the unseen images sees what was asked for, and by class."""
    found = fit_judge(domain.unseen.turns, domain.unseen.labels).names(drawn.turns)
    right = sum(asked == said for asked, said in zip(drawn.labels, found, strict=True))
    return proportion(right, len(found)), recalls(found, drawn.labels)


def _diversity(images: Images, labels: Sequence[str]) -> Estimate | None:
    own = np.array(labels)
    classes = [name for name, count in Counter(labels).items() if count >= 3]
    found = {name: ssim_diversity(images[own == name]) for name in classes}
    return mean_diversity(found) if found else None


def floor(domain: Domain, count: int) -> Figures:
    """Return the figures of other real images of the domain: what a perfect generator would get.

    Of `count` of them, if there are as many: a Frechet distance falls as a set grows. The judge's
    share is that of unseen images, each named by a judge of the other half.
    """
    others = domain.others.turns[0][spread(domain.others.labels, count)]
    unseen = domain.unseen
    logits = cross_fitted_logits(unseen.turns, unseen.labels, unseen.ids)
    names = sorted(set(unseen.labels))
    found = [names[k] for k in logits.argmax(axis=1)]
    return Figures(
        name="other real images",
        num_images=len(others),
        kid=kid(others, unseen.turns[0]),
        frechet=frechet_distance(others, unseen.turns[0]),
        named=balanced_accuracy(found, unseen.labels),
        named_by_class=recalls(found, unseen.labels),
        diversity=_diversity(domain.unseen_images, unseen.labels),
        copies={},
    )


def fall(base: Features, adapted: Features, unseen: Features, *, seed: int = 0) -> Fall:
    """Return 1 - adapted / base for both distances of features (N, D), (N, D) and (M, D).

    The interval: the same random halves for both generators, `HALVES` times; their spread is the
    sampling error at the whole n (see `fidelity.kid`).
    """
    random = np.random.default_rng(seed)
    halves = []
    for _ in range(HALVES):
        rows = random.permutation(len(base))[: len(base) // 2]
        real = unseen[random.permutation(len(unseen))[: len(unseen) // 2]]
        halves.append(_shares(base[rows], adapted[rows], real))
    whole, spread = _shares(base, adapted, unseen), np.std(halves, axis=0, ddof=1)
    kids, frechets = (
        Estimate(value=value, low=value - Z95 * s, high=value + Z95 * s, n=len(base))
        for value, s in zip(whole, spread, strict=True)
    )
    return Fall(kid=kids, frechet=frechets)


def _shares(base: Features, adapted: Features, real: Features) -> tuple[float, float]:
    return (
        1 - kid(adapted, real).value / kid(base, real).value,
        1 - frechet_distance(adapted, real) / frechet_distance(base, real),
    )


def _distances(turns: Features, images: Images, domain: Domain, space: str) -> dict[str, Nearest]:
    return {
        space: nearest(turns, domain.learnt.turns[0]),
        "pixels": nearest(turned_thumbnails(images), thumbnails(domain.learnt_images)),
    }


def _unseen(domain: Domain, space: str) -> dict[str, Nearest]:
    return _distances(domain.unseen.turns, domain.unseen_images, domain, space)
