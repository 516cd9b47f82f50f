"""The figures of a base generator: named classes, fidelity, copies, attributes."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

from factory.evaluate.attributes import Contrast, agreement
from factory.evaluate.base_drawn import Drawn
from factory.evaluate.colours import COLOURS, colour_quantiles
from factory.evaluate.reference import PIXELS, Reference
from factory.measure.copies import CopyCheck, Nearest, check_copies, nearest, turned_thumbnails
from factory.measure.distances import frechet_distance, kid
from factory.measure.features import Features
from factory.measure.intervals import Estimate, proportion
from factory.measure.judge import balanced_accuracy, cross_fitted_logits, fit_judge, recalls

REFERENCE_PER_CLASS = 500
"""Training cells of each class that distances are measured to (4,000 over 8 classes)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Named:
    """What the judge calls images: right for drawn ones, and for unseen real ones."""

    drawn: Estimate
    real: Estimate
    drawn_by_class: Mapping[str, Estimate]
    real_by_class: Mapping[str, Estimate]
    called: Mapping[str, Mapping[str, int]]
    """Class asked for -> what the judge said -> how often."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Fidelity:
    """Distances of drawn cells to training cells of the same class mix.

    Floors: unseen real cells in the place of the drawn ones, the same number of every class. A
    perfect generator would stand at the floor; one below it repeats its training set.
    """

    num_images: int
    num_reference: int
    kid: Estimate
    kid_floor: Estimate
    frechet: float
    frechet_floor: float
    kid_by_class: Mapping[str, Estimate]
    kid_floor_by_class: Mapping[str, Estimate]


@dataclass(frozen=True, slots=True, kw_only=True)
class AttributeFigures:
    """One contrast: how often the judge, reading `space`, sees the value asked for.

    Chance is 0.5.
    """

    attribute: str
    class_name: str
    values: tuple[str, str]
    prompts: tuple[str, str]
    space: str
    drawn: Estimate
    real: Estimate


def name_classes(drawn: Drawn, reference: Reference) -> Named:
    """Judge drawn images with all unseen cells, and those cells with the other half of them."""
    held_out, cache = reference.held_out, reference.cache
    labels = list(held_out.labels)
    judge = fit_judge(held_out.turns, labels, cache=cache)
    found = judge.names(drawn.turns)
    logits = cross_fitted_logits(held_out.turns, labels, held_out.ids, cache=cache)
    own = [judge.class_names[k] for k in logits.argmax(axis=1)]
    pairs = list(zip(drawn.labels, found, strict=True))
    return Named(
        drawn=proportion(sum(asked == said for asked, said in pairs), len(pairs)),
        real=balanced_accuracy(own, labels),
        drawn_by_class=recalls(found, drawn.labels),
        real_by_class=recalls(own, labels),
        called={
            name: dict(Counter(said for asked, said in pairs if asked == name).most_common())
            for name in judge.class_names
        },
    )


def measure_fidelity(drawn: Drawn, reference: Reference) -> Fidelity:
    """Measure drawn cells, upright, against training cells: all classes, then each alone."""
    training, held_out = reference.training, reference.held_out
    names = sorted(set(held_out.labels))
    per_class = len(drawn.labels) // len(names)
    count = min(per_class, held_out.smallest_class)
    goal = min(REFERENCE_PER_CLASS, training.smallest_class)
    known = training.turns[0][training.balanced(goal)]
    unseen = held_out.turns[0][held_out.balanced(count)]
    firsts = [k * per_class + i for k in range(len(names)) for i in range(count)]
    made = drawn.turns[0][firsts]

    def part(features: Features, number: int) -> Features:
        size = len(features) // len(names)
        return features[number * size : (number + 1) * size]

    return Fidelity(
        num_images=len(made),
        num_reference=len(known),
        kid=kid(made, known),
        kid_floor=kid(unseen, known),
        frechet=frechet_distance(made, known),
        frechet_floor=frechet_distance(unseen, known),
        kid_by_class={n: kid(part(made, k), part(known, k)) for k, n in enumerate(names)},
        kid_floor_by_class={n: kid(part(unseen, k), part(known, k)) for k, n in enumerate(names)},
    )


def find_copies(drawn: Drawn, reference: Reference) -> dict[str, tuple[CopyCheck, Nearest]]:
    """Return, in features and in pixels, the check and every drawn image's nearest neighbour."""
    found = {}
    for space, vectors in reference.training_vectors.items():
        queries = turned_thumbnails(drawn.images) if space == PIXELS else drawn.turns
        near = nearest(queries, vectors)
        check = check_copies(space, near.distance, reference.held_out_distances[space])
        found[space] = (check, near)
    return found


def judge_attribute(contrast: Contrast, drawn: tuple[Drawn, Drawn]) -> AttributeFigures:
    """Return the figures of one contrast."""

    def seen(part: Drawn) -> Features:
        return colour_quantiles(part.images)[None] if contrast.space == COLOURS else part.turns

    return AttributeFigures(
        attribute=contrast.attribute,
        class_name=contrast.class_name,
        values=contrast.values,
        prompts=contrast.prompts,
        space=contrast.space,
        drawn=agreement(contrast, (seen(drawn[0]), seen(drawn[1]))),
        real=contrast.real,
    )
