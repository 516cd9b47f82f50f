"""Judges an adapted generator beside its base: draws, measures, writes report and sheets.

The base is whatever the training began with: a generator of another domain, which may know other
classes, or an early checkpoint of the same training.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal, Self

import numpy as np

from factory.atomic import write_text
from factory.errors import DataError
from factory.evaluate.adapted import Domain, Fall, Figures, check_domain, fall, floor, measure
from factory.evaluate.base_drawn import Drawn, all_turns
from factory.evaluate.drawing import Order, Settings, draw
from factory.finetune.plan import choose_images
from factory.measure.cache import ArrayCache
from factory.measure.copies import Nearest
from factory.measure.features import TURNS, FeatureSpace, Images, load_feature_space
from factory.measure.real_features import RealPart, real_part
from factory.measure.sheets import beside, pairs, write_sheet
from factory.models.generator import Generator
from factory.real.dataset import RealDataset
from factory.real.field import scale_line
from factory.real.splits import Split, check_dataset
from factory.sample.engine import Engine

CELLS = 8
"""Images of each kind in a row of a sheet."""

Part = Literal["val", "test", "held_out"]
"""Which real images judge; held_out: val and test together, where either alone is too small."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AdaptedReport:
    """Base and adapted generator against the new domain, and the floor of real images."""

    model_id: str
    base_model_id: str
    settings: Settings
    features: str
    split_digest: str
    figures: Sequence[Figures]
    fall: Fall
    n_learnt: int
    scale: str | None
    """What is said where objects look larger or smaller in drawn images than in real ones."""


def judge_adapted(
    generator: Generator,
    base: Generator,
    dataset: RealDataset,
    split: Split,
    *,
    part: Part = "test",
    features: Path,
    settings: Settings,
    times: int = 1,
    out: Path,
) -> AdaptedReport:
    """Draw with both in the class mix of the unseen `part`, and write report and sheets into `out`.

    A base of other classes draws as many images of its own, in equal parts.
    Sheets: real-base-adapted.png (a row a class) and closest-*.png (drawn images beside the learnt
    ones that they are nearest to, one sheet for each space). They show real images: they stay
    where the data is.

    Args:
        times: images drawn for each unseen image.

    Raises:
        DataError: another dataset or split than that of the training, or see `check_domain`.
    """
    space, cache = load_feature_space(features), ArrayCache(folder=out / "cache")
    domain = _domain(generator, dataset, split, part, space, cache)
    check_domain(domain)
    drawn = {
        name: _draw(Engine(each), domain, settings, times, space, cache)
        for name, each in (("base", base), ("adapted", generator))
    }
    found = {name: measure(name, own, domain, space=space.name) for name, own in drawn.items()}
    real, adapted = floor(domain, len(drawn["adapted"].images)), drawn["adapted"]
    look = dataset.look(generator.size_px, domain.unseen.ids)
    report = AdaptedReport(
        model_id=generator.model_id,
        base_model_id=base.model_id,
        settings=settings,
        features=space.name,
        split_digest=split.digest,
        figures=[real, *(figures for figures, _ in found.values())],
        fall=fall(drawn["base"].turns[0], drawn["adapted"].turns[0], domain.unseen.turns[0]),
        n_learnt=len(domain.learnt.ids),
        scale=scale_line(look, generator.drawn(adapted.images, adapted.labels)),
    )
    _write_sheets(out, domain, drawn, found["adapted"][1])
    write_text(out / "report.json", json.dumps(asdict(report), indent=1) + "\n")
    return report


@dataclass(frozen=True, slots=True, kw_only=True)
class _Learnt:
    """Which images of a train part a generator of any method learnt from, as its manifest says."""

    only: tuple[str, ...]
    n_shot: int | None
    seed: int

    @classmethod
    def of(cls, generator: Generator) -> Self:
        config = generator.manifest.get("config", {})
        return cls(
            only=generator.class_names, n_shot=config.get("n_shot"), seed=config.get("seed", 0)
        )


def _domain(
    generator: Generator,
    dataset: RealDataset,
    split: Split,
    part: Part,
    space: FeatureSpace,
    cache: ArrayCache,
) -> Domain:
    check_dataset(split, dataset.fingerprint)
    if (known_split := generator.manifest.get("split_digest")) != split.digest:
        raise DataError(
            f"{generator.name} was trained on split {known_split}, this one is {split.digest}",
            remedy="Give the split of the training: what another one holds back may be learnt",
        )
    size_px, labels = generator.size_px, dict(zip(dataset.ids, dataset.labels, strict=True))
    learnt = choose_images(dataset, split, _Learnt.of(generator))

    def known(ids: Sequence[str]) -> list[str]:
        return [i for i in ids if labels[i] in generator.class_names]

    def opened(ids: Sequence[str], num_turns: int) -> RealPart:
        return real_part(
            dataset, ids, size_px=size_px, space=space, num_turns=num_turns, cache=cache
        )

    unseen = known([*split.val, *split.test] if part == "held_out" else getattr(split, part))
    return Domain(
        unseen=opened(unseen, TURNS),
        others=opened(known(split.train), 1),
        learnt=opened(learnt, 1),
        unseen_images=dataset.array(size_px, unseen),
        learnt_images=dataset.array(size_px, learnt),
    )


def _draw(
    engine: Engine,
    domain: Domain,
    settings: Settings,
    times: int,
    space: FeatureSpace,
    cache: ArrayCache,
) -> Drawn:
    prompts = engine.generator.prompts
    counts = {name: count * times for name, count in domain.counts.items()}
    if not set(counts) <= set(prompts):
        counts = shared_out(sum(counts.values()), engine.generator.class_names)
    orders = [
        Order(class_name=name, prompt=prompts[name], count=count) for name, count in counts.items()
    ]
    images = np.concatenate(draw(engine, orders, settings, cache=cache))
    labels = [order.class_name for order in orders for _ in range(order.count)]
    return Drawn(images=images, labels=labels, turns=all_turns(images, space, cache))


def shared_out(count: int, names: Sequence[str]) -> dict[str, int]:
    """Return how many of `count` images each class gets: as equal as they can be, none with 0."""
    each, rest = divmod(count, len(names))
    counts = {name: each + (number < rest) for number, name in enumerate(names)}
    return {name: own for name, own in counts.items() if own}


def _write_sheets(
    out: Path, domain: Domain, drawn: Mapping[str, Drawn], near: Mapping[str, Nearest]
) -> None:
    base, adapted = drawn["base"], drawn["adapted"]
    rows = {}
    for name in domain.counts:
        real = domain.unseen_images[[own == name for own in domain.unseen.labels]][:CELLS]
        before = _first(base.images, base.labels, name) if name in base.labels else base.images
        pair = beside(before[:CELLS], _first(adapted.images, adapted.labels, name))
        rows[f"{name}: real | base | adapted"] = beside(real, pair)
    write_sheet(out / "real-base-adapted.png", rows)
    for space, found in near.items():
        _write_closest(out / f"closest-{space}.png", domain, adapted.images, found)


def _write_closest(path: Path, domain: Domain, drawn: Images, near: Nearest) -> None:
    closest = near.distance.argsort()[: 2 * CELLS]
    shown = pairs(drawn[closest], domain.learnt_images[near.position[closest]])
    caption = "drawn, nearest learnt image; distances "
    halves = {
        caption + ", ".join(f"{d:.3g}" for d in near.distance[closest[i : i + CELLS]]): shown[
            2 * i : 2 * (i + CELLS)
        ]
        for i in range(0, len(closest), CELLS)
    }
    write_sheet(path, halves)


def _first(images: Images, labels: Sequence[str], name: str) -> Images:
    return images[[own == name for own in labels]][:CELLS]
