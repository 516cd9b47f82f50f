"""How a bridge's progressions behave: ranks along k, source by source, and where real images fall.

And whether real images come back: inverted to full depth and denoised again by their own generator.
"""

import json
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.stats import mannwhitneyu, spearmanr
from torch import Tensor

from factory.arrays import Images
from factory.errors import ConfigError, DataError
from factory.finetune.latents import to_signed
from factory.judge.sets import ImageSet
from factory.measure.intervals import Estimate, mean_of, proportion
from factory.methods.bridge.draw import predictor_of
from factory.methods.bridge.facts import odds
from factory.methods.bridge.inversion import denoise_from, evaluations_of, invert
from factory.models.domains import Domain
from factory.sample.config import GenerateConfig
from factory.sample.engine import Engine
from factory.sample.levels import even_levels
from factory.sample.prepare import make_plan

Curve = NDArray[np.float64]
CURVES = ("depth", "label", "target_probability", "odds", "ssim")


@dataclass(frozen=True, slots=True, kw_only=True)
class Grader:
    """Who says what an image shows: classes, and (N, classes) probabilities of images."""

    name: str
    class_names: tuple[str, ...]
    probabilities: Callable[[Images], NDArray[np.float64]]

    def column(self, name: str) -> int:
        """Return the place of a class.

        Raises:
            ConfigError: it knows none of this name.
        """
        if name not in self.class_names:
            raise ConfigError(
                f"the {self.name} knows no class {name!r}",
                remedy=f"It knows {', '.join(self.class_names)}",
            )
        return self.class_names.index(name)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Progression:
    """The images k = 1 .. m of one source in one direction, and what was measured of them."""

    source_id: str
    source: str
    target: str
    rows: Sequence[int]
    """In the set, k = 1 .. m."""
    label: Curve
    """(m,) the target's weight in the soft label."""
    depth: Curve
    """(m,) share of the levels, 0 .. 1."""
    ssim: Curve
    """(m,) to the source."""
    target_probability: Curve
    """(m,) the grader's, of all its classes ..."""
    odds: Curve
    """(m,) ... and against the source's alone."""
    arrived: bool
    """Whether the grader names the target in the deepest."""
    evaluations: int
    """Of networks, for all m."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DirectionFigures:
    """Figures of one direction; means and intervals are over its sources."""

    source: str
    target: str
    num_sources: int
    probability_rises: Estimate
    """Spearman of k and the grader's probability of the target: 1 where it only rises."""
    ssim_falls: Estimate
    """Spearman of k and the negative SSIM to the source."""
    odds_rise: Estimate
    """Spearman of k and p(target) / (p(source) + p(target)): other classes, which may lie on the
    way, do not count."""
    label_follows: Estimate
    """Spearman of the soft label and the grader's probability of the target."""
    steps_ssim_falls: Estimate
    """Share of the steps k to k + 1 at which SSIM falls."""
    arrived: Estimate
    """Share of the deepest images in which the grader sees the target."""
    curves: Mapping[str, Sequence[Estimate]]
    """Each of `CURVES` at k = 1 .. m."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BetweenFigures:
    """Real images that no one trained on: the grader's odds of the target, by class."""

    source: str
    target: str
    scores: Mapping[str, Estimate]
    above_source: Mapping[str, float]
    """In-between class -> chance that one of its images scores above one of the source class."""
    below_target: Mapping[str, float]
    """... and that it scores below one of the target class."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RoundTrip:
    """Unseen real images of a domain there and back; PSNR in dB, means over images."""

    domain: str
    steps: int
    corrections: int
    evaluations: int
    """Of the network, for one image."""
    to_kept: Estimate
    """Against what the autoencoder keeps of the image: the diffusion's own loss."""
    to_real: Estimate
    """Against the image itself ..."""
    autoencoder: Estimate
    """... which the autoencoder alone reaches at best."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BridgeFigures:
    """Everything that is said of a bridge beside the figures of its deepest images."""

    grader: str
    directions: Sequence[DirectionFigures]
    between: Sequence[BetweenFigures]
    trips: Sequence[RoundTrip]
    evaluations: Estimate
    """Of networks, per source and direction."""


def ends_of(drawn: ImageSet) -> set[str]:
    """Return the domains that a bridge's images come from and go to."""
    terms = (json.loads(str(fact["guidance_terms"])) for fact in drawn.facts)
    return {str(told["source"]) for told in terms} | set(drawn.labels)


def progressions(drawn: ImageSet, grader: Grader) -> list[Progression]:
    """Return all progressions of a set, in order of direction and source.

    Raises:
        DataError: images that no bridge drew.
        ConfigError: the grader does not know a domain.
    """
    if any(fact.get("bridge_depth") is None for fact in drawn.facts) or not drawn.facts:
        raise DataError("no bridge drew these images", remedy="Judge a generator of method bridge")
    groups: defaultdict[str, list[int]] = defaultdict(list)
    for row, fact in enumerate(drawn.facts):
        groups[str(fact["recipe"])].append(row)
    seen = grader.probabilities(drawn.images)
    found = [_progression(drawn, rows, seen, grader) for rows in groups.values()]
    return sorted(found, key=lambda each: (each.source, each.target, each.source_id))


def _progression(
    drawn: ImageSet, rows: list[int], seen: NDArray[np.float64], grader: Grader
) -> Progression:
    rows = sorted(rows, key=lambda row: int(drawn.facts[row]["index"]))
    facts = [drawn.facts[row] for row in rows]
    terms = [json.loads(str(fact["guidance_terms"])) for fact in facts]
    source, target = str(terms[0]["source"]), str(drawn.labels[rows[0]])
    weight = list(facts[0]["class_names"]).index(target)
    own, column = seen[rows], grader.column(target)
    return Progression(
        source_id=str(facts[0]["reference_id"]),
        source=source,
        target=target,
        rows=rows,
        label=np.array([fact["soft_label"][weight] for fact in facts], np.float64),
        depth=np.array([fact["bridge_depth"] for fact in facts], np.float64),
        ssim=np.array([term["ssim_to_source"] for term in terms], np.float64),
        target_probability=own[:, column],
        odds=odds(own, grader.column(source), column),
        arrived=bool(own[-1].argmax() == column),
        evaluations=int(terms[0]["evaluations"]),
    )


def spearman(values: Curve) -> float:
    """Return Spearman's rank correlation of (m,) values with 1 .. m; 0 where they are all equal."""
    return correlation(np.arange(len(values), dtype=np.float64), values)


def correlation(first: Curve, second: Curve) -> float:
    """Return Spearman's rank correlation; 0, not undefined, where one of them never changes."""
    if np.ptp(first) == 0 or np.ptp(second) == 0:
        return 0.0
    return float(spearmanr(first, second).statistic)


def direction_figures(found: Sequence[Progression]) -> list[DirectionFigures]:
    """Return the figures of every direction, rejected images included.

    Raises:
        DataError: fewer than two sources, or sources of different numbers of images.
    """
    pairs = dict.fromkeys((each.source, each.target) for each in found)
    return [
        _direction([each for each in found if (each.source, each.target) == pair]) for pair in pairs
    ]


def _direction(found: Sequence[Progression]) -> DirectionFigures:
    first, lengths = found[0], {len(each.ssim) for each in found}
    if len(lengths) != 1 or lengths == {1}:
        raise DataError(
            f"{first.source} to {first.target}: progressions of {sorted(lengths)} images",
            remedy="Judge one run whose sources all have the same number of depths, two or more",
        )
    falls = np.diff([each.ssim for each in found], axis=1) < 0

    def by_k(name: str) -> list[Estimate]:
        columns = np.stack([getattr(each, name) for each in found], axis=1)
        return [mean_of(column) for column in columns]

    return DirectionFigures(
        source=first.source,
        target=first.target,
        num_sources=len(found),
        probability_rises=mean_of([spearman(each.target_probability) for each in found]),
        ssim_falls=mean_of([spearman(-each.ssim) for each in found]),
        odds_rise=mean_of([spearman(each.odds) for each in found]),
        label_follows=mean_of([correlation(e.label, e.target_probability) for e in found]),
        steps_ssim_falls=proportion(int(falls.sum()), falls.size),
        arrived=proportion(sum(each.arrived for each in found), len(found)),
        curves={name: by_k(name) for name in CURVES},
    )


def between_figures(scores: Mapping[str, Curve], source: str, target: str) -> BetweenFigures:
    """Return where the classes other than `source` and `target` score.

    Args:
        scores: class -> (n,) the grader's odds of `target` against `source` in real images of it.
        source: one of the classes.
        target: likewise.
    """
    between = [name for name in scores if name not in (source, target)]
    return BetweenFigures(
        source=source,
        target=target,
        scores={name: mean_of(values) for name, values in scores.items() if len(values) > 1},
        above_source={name: _above(scores[name], scores[source]) for name in between},
        below_target={name: _above(scores[target], scores[name]) for name in between},
    )


def _above(first: Curve, second: Curve) -> float:
    """Return the chance that one of `first` is above one of `second`; ties count half."""
    return float(mannwhitneyu(first, second).statistic) / (len(first) * len(second))


def judge_between(
    images: Images, labels: Sequence[str], grader: Grader, source: str, target: str
) -> BetweenFigures | None:
    """Return where unseen real images of all classes score; None: there are none in between."""
    names = sorted(set(labels))
    if not {source, target} < set(names):
        return None
    seen, own = grader.probabilities(images), np.array(labels)
    scores = odds(seen, grader.column(source), grader.column(target))
    return between_figures({name: scores[own == name] for name in names}, source, target)


@torch.inference_mode()
def round_trips(
    domain: Domain,
    images: Images,
    *,
    steps: Sequence[int],
    corrections: Sequence[int] = (0,),
    batch_size: int = 16,
) -> list[RoundTrip]:
    """Return the round trips of real images under a domain's class, without guidance.

    Args:
        domain: its generator inverts and denoises.
        images: (n, S, S, 3) uint8 at the generator's size.
        steps: of the inversion, a round trip each.
        corrections: fixed-point iterations of a step, a round trip each.
        batch_size: images in a forward.

    Raises:
        DataError: fewer than two images.
        ConfigError: more steps than it has.
        ModelError: it has no latents to invert.
    """
    if len(images) < 2:
        raise DataError(
            f"a round trip of {len(images)} images of {domain.name}",
            remedy="Hold out two or more of the class",
        )
    engine = Engine(domain.generator)
    method = engine.guided(domain.class_name)
    classes = {domain.class_name: domain.prompt}
    plain = GenerateConfig(num_images=1, guidance_scale=1.0, seed=0, classes=classes)
    recipe = make_plan(plain, domain.generator).quotas[0].recipe
    parts = [
        part.to(engine.device)
        for part in torch.split(to_signed(torch.from_numpy(images)), batch_size)
    ]
    kept = [method.decode(method.encode(part)).clamp(-1, 1) for part in parts]

    def back(part: Tensor, count: int, number: int) -> Tensor:
        levels = even_levels(method.training_config, count)
        predict = predictor_of(method, recipe, len(part))
        *_, top = invert(predict, levels, method.encode(part), corrections=number)
        slots = len(part)
        found = denoise_from(predict, levels, top.state, [levels.top] * slots, slots=slots)
        return method.decode(found).clamp(-1, 1)

    trips = []
    for count in steps:
        for number in corrections:
            returned = [back(part, count, number) for part in parts]
            trips.append(
                RoundTrip(
                    domain=domain.name,
                    steps=count,
                    corrections=number,
                    evaluations=evaluations_of(count, [count], corrections=number),
                    to_kept=mean_of(_psnr_db(returned, kept)),
                    to_real=mean_of(_psnr_db(returned, parts)),
                    autoencoder=mean_of(_psnr_db(kept, parts)),
                )
            )
    return trips


def _psnr_db(first: Sequence[Tensor], second: Sequence[Tensor]) -> Curve:
    """Return (n,); images span 2, so the peak's square is 4."""
    error = ((torch.cat(list(first)) - torch.cat(list(second))) ** 2).mean((1, 2, 3))
    found: Curve = (-10 * torch.log10(error.clamp(min=1e-12) / 4)).double().cpu().numpy()
    return found
