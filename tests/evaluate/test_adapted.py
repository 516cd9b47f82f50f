"""Figures of generators whose answers are known: real cells, copies, noise."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest

from factory.errors import DataError
from factory.evaluate.adapted import Domain, Figures, check_domain, fall, floor, measure
from factory.evaluate.base_drawn import Drawn, all_turns
from factory.measure.cache import NOTHING_KEPT
from factory.measure.features import TURNS, FeatureSpace, Images, turned
from factory.measure.real_features import RealPart, real_part
from factory.real.dataset import RealDataset

LEARNT, UNSEEN, FRESH = 50, 75, 75
"""Of 200 cells the first, the next and those after: learnt, unseen, and drawn in some tests."""


@pytest.fixture(scope="module")
def order(cells: RealDataset) -> list[str]:
    """All ids, the classes mixed."""
    return [cells.ids[i] for i in np.random.default_rng(0).permutation(len(cells))]


@pytest.fixture(scope="module")
def domain(cells: RealDataset, order: list[str], tiny_space: FeatureSpace) -> Domain:
    def part(ids: Sequence[str], num_turns: int) -> RealPart:
        return real_part(
            cells, ids, size_px=16, space=tiny_space, num_turns=num_turns, cache=NOTHING_KEPT
        )

    learnt, unseen = order[:LEARNT], order[LEARNT : LEARNT + UNSEEN]
    return Domain(
        unseen=part(unseen, TURNS),
        others=part([*learnt, *order[LEARNT + UNSEEN :]], 1),
        learnt=part(learnt, 1),
        unseen_images=cells.array(16, unseen),
        learnt_images=cells.array(16, learnt),
    )


@pytest.fixture(scope="module")
def fresh(cells: RealDataset, order: list[str], tiny_space: FeatureSpace) -> Drawn:
    """What a perfect generator draws: cells that were neither learnt nor judge."""
    chosen = order[-FRESH:]
    labels = dict(zip(cells.ids, cells.labels, strict=True))
    return drawn_of(cells.array(16, chosen), [labels[i] for i in chosen], tiny_space)


def drawn_of(images: Images, labels: Sequence[str], space: FeatureSpace) -> Drawn:
    return Drawn(images=images, labels=labels, turns=all_turns(images, space, NOTHING_KEPT))


@pytest.fixture(scope="module")
def noise(fresh: Drawn, tiny_space: FeatureSpace) -> Drawn:
    images = np.random.default_rng(1).integers(0, 256, fresh.images.shape, np.uint8)
    return drawn_of(images, fresh.labels, tiny_space)


def figures(drawn: Drawn, domain: Domain) -> Figures:
    return measure("any", drawn, domain, space="tiny")[0]


def test_a_generator_that_draws_real_cells_is_at_the_floor(domain: Domain, fresh: Drawn) -> None:
    found, best = figures(fresh, domain), floor(domain, FRESH)
    assert best.num_images == found.num_images == FRESH
    assert found.kid.low < best.kid.value < found.kid.high
    assert found.frechet < 1.5 * best.frechet
    assert found.named is not None
    assert best.named is not None
    assert found.named.value > best.named.low
    assert found.diversity is not None
    assert best.diversity is not None
    assert found.diversity.value == pytest.approx(best.diversity.value, abs=0.05)
    assert all(check.share.value <= 0.05 for check in found.copies.values())


def test_a_generator_that_draws_noise_is_far_from_it(domain: Domain, noise: Drawn) -> None:
    found, best = figures(noise, domain), floor(domain, FRESH)
    assert found.kid.low > best.kid.high
    assert found.frechet > 3 * best.frechet
    assert found.named is not None
    assert found.named.high < 0.5
    assert set(found.named_by_class) == set(domain.counts)


@pytest.mark.parametrize("number", [0, 3, 6])
def test_one_that_repeats_what_it_learnt_is_caught_however_it_is_turned(
    domain: Domain, tiny_space: FeatureSpace, number: int
) -> None:
    copied = drawn_of(turned(domain.learnt_images, number), domain.learnt.labels, tiny_space)
    found, near = measure("copier", copied, domain, space="tiny")
    assert set(found.copies) == set(near) == {"tiny", "pixels"}
    for check in found.copies.values():
        assert check.share.value == 1
        assert check.share.low > 0.9
        assert check.median_drawn < 1e-3 < check.threshold
    assert near["pixels"].position.tolist() == list(range(LEARNT))


def test_a_generator_of_other_classes_is_not_asked_for_these(domain: Domain, fresh: Drawn) -> None:
    other = replace(fresh, labels=["gland"] * FRESH)
    found = figures(other, domain)
    assert found.named is None
    assert found.named_by_class == {}
    assert found.kid == figures(fresh, domain).kid


def test_the_fall_is_all_none_or_negative(domain: Domain, fresh: Drawn, noise: Drawn) -> None:
    far, near = noise.turns[0], fresh.turns[0]
    unseen = domain.unseen.turns[0]
    whole = fall(far, near, unseen)
    assert whole.kid.value == pytest.approx(1, abs=0.05)
    assert whole.kid.low > 0.9
    assert whole.frechet.low > 0.5
    same = fall(far, far, unseen)
    assert same.kid.low == same.kid.value == same.kid.high == 0
    assert fall(near, far, unseen).frechet.value < 0


def test_half_the_way_is_three_quarters_of_the_fall(domain: Domain) -> None:
    """Moved by d in one feature, a set is d^2 farther: 1/4 of the distance at d/2."""
    unseen = domain.unseen.turns[0]
    step = np.zeros_like(unseen[:1])
    step[0, 0] = 20
    found = fall(unseen + step, unseen + step / 2, unseen)
    assert found.frechet.value == pytest.approx(0.75, abs=0.01)
    assert found.frechet.low <= 0.75 <= found.frechet.high


def test_what_was_learnt_may_not_judge(domain: Domain) -> None:
    check_domain(domain)
    with pytest.raises(DataError, match=r"50 images were learnt from and would judge, such as"):
        check_domain(replace(domain, unseen=domain.learnt))
    alone = replace(domain.unseen, ids=["a", "b", "c"], labels=["basophil", "basophil", "monocyte"])
    with pytest.raises(DataError, match="class 'monocyte' has a single unseen image"):
        check_domain(replace(domain, unseen=alone))
