"""What is settled and said before a study trains: folds, what it can show, how long it takes."""

import math
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

from scipy import special

from catalog import Catalog
from factory.errors import ConfigError
from factory.evaluate.compare import MIN_FOLDS
from factory.evaluate.config import Fitting, MaskProbe, Probe, StudyConfig
from factory.evaluate.lineage import Known, ancestors
from factory.evaluate.study import Planned
from factory.evaluate.synthetic import drawn_look, known_models, read_pool
from factory.evaluate.units import Material, Unit
from factory.measure.intervals import counted
from factory.real.dataset import RealDataset
from factory.real.duplicates import grouped
from factory.real.field import scale_line
from factory.real.scale import LOOKED_AT_PX
from factory.real.splits import Split, load_split, make_folds, make_split

FEW_IMAGES = 2000
"""Of a dataset: one division would test on fewer than 400 of them, so it is divided into folds."""
FOLDS = 5
ONE = {"train": 0.6, "val": 0.2, "test": 0.2}
"""Of a larger dataset: one division."""
DIFFERING = 0.2
"""Share of test images of which two trainings say different things: assumed, and said."""
DRAW_DIFFERENCE = 0.04
"""Standard deviation, over draws of the shots, of a paired difference: likewise (2 to 7 points were
measured at 4 shots a class)."""
DICE_DIFFERENCE = 0.15
"""Standard deviation, over test images, of the Dice of one training minus another: likewise."""
PATIENCE_SECONDS = 5.0
"""A first step that took longer is not repeated to measure it again."""


def own_splits(
    config: StudyConfig, dataset: RealDataset, catalog: Catalog | None, output: Path
) -> tuple[Split, ...]:
    """Return the splits of a study that was given none: five folds of a small dataset, else one.

    They are kept in `output`/splits, and taken from there when the study goes on. Groups and
    near-duplicates stay together, as by `factory real split`.

    Raises:
        ConfigError: a generator learnt from these very images: under its split alone is it known
            what it did not see.
        DataError: too few groups.
    """
    folder = output / "splits"
    if paths := sorted(folder.glob("*.json")):
        return tuple(load_split(path) for path in paths)
    if config.mixed and catalog is not None:
        pool = read_pool(catalog, config.synthetic, dataset.class_names)
        known = Known(models=known_models(catalog))
        for origin in pool.origins.values():
            for model in ancestors(origin, known):
                if model.dataset_fingerprint == dataset.fingerprint:
                    raise ConfigError(
                        f"model {model.model_id} learnt from the train part of split"
                        f" {model.split_digest} of these images, and no --split is given",
                        remedy="Give that split file with --split",
                    )
    groups = grouped(dataset)
    divide: Callable[..., Split | list[Split]] = partial(make_split, fractions=ONE)
    if len(dataset.ids) < FEW_IMAGES:
        divide = partial(make_folds, k=min(FOLDS, max(3, len(set(groups)))))
    found = divide(
        dataset=dataset.fingerprint,
        ids=dataset.ids,
        labels=dataset.labels,
        groups=groups,
        seed=0,
    )
    made = [found] if isinstance(found, Split) else found
    for number, split in enumerate(made):
        split.save(folder / f"{number}.json")
    return tuple(made)


def said_first(planned: Planned) -> list[str]:
    """Return what a study will train, and which differences it can show."""
    config, dataset = planned.config, planned.inputs.dataset
    folds = {unit.fold: unit for unit in planned.units}
    tested = [i for unit in folds.values() for i in unit.test]
    groups = len({dataset.groups[dataset.index_of(i)] for i in tested})
    of = f" of {counted(groups, 'group')}" if groups < len(tested) else ""
    least = detectable_points(
        Counter(dataset.labels[dataset.index_of(i)] for i in tested),
        num_folds=len(folds),
        num_groups=groups,
        masks=of_masks(config),
        draws=config.draws,
    )
    lines = [
        f"{counted(len(config.arms), 'arm')} x {counted(len(folds), 'fold')} x"
        f" {counted(len(config.seeds), 'seed')}"
        + (f" x {counted(config.draws, 'draw')} of the shots" if config.draws else "")
        + (f" x {counted(len(config.generators), 'generator')}" if config.generators else "")
        + f"; tested on {len(tested)} real images{of}",
    ]
    if of_one_group(planned.units, dataset):
        lines.append(
            "these test images are of one group (patient): differences will be told without an"
            " interval, and no verdict can come of them"
        )
    else:
        lines.append(
            f"differences below about {least:.0f} points will hardly be told from chance (80 %"
            " power, where "
            + (
                f"the Dice of an image differs by {DICE_DIFFERENCE} between trainings)"
                if of_masks(config)
                else "trainings disagree on one image in five)"
            )
        )
    if len(folds) == 1 and len(dataset.ids) < FEW_IMAGES:
        lines.append(_way_to_folds(planned))
    if isinstance(config.learner, Fitting) and config.learner.warmup_steps > config.learner.steps:
        lines.append(
            f"learner.warmup_steps {config.learner.warmup_steps} is longer than the training"
            f" ({config.learner.steps} steps): learning_rate is never reached"
        )
    return lines


def of_one_group(units: Sequence[Unit], dataset: RealDataset) -> bool:
    """Return whether the test images of a fold are of one group, of fewer folds than decide."""
    tested = {unit.fold: unit.test for unit in units}
    groups = [{dataset.groups[dataset.index_of(i)] for i in ids} for ids in tested.values()]
    return len(tested) < MIN_FOLDS and min(map(len, groups), default=2) < 2


def about_scale(planned: Planned) -> list[str]:
    """Return what is said of each model whose objects look larger or smaller than the real ones."""
    catalog, dataset = planned.inputs.catalog, planned.inputs.dataset
    manifests = [unit.manifest for unit in planned.units]
    taught = {
        row.id: manifest.class_names[row.soft_label.index(max(row.soft_label))]
        for manifest in manifests
        for row in manifest.rows
        if row.synthetic
    }
    if catalog is None or not taught:
        return []
    tested = {i for unit in planned.units for i in unit.test}
    rows = {
        row.id for manifest in manifests for row in manifest.rows if not (row.synthetic or row.made)
    }
    real = dataset.look(LOOKED_AT_PX, sorted(rows | tested))
    by_model: dict[str, dict[str, str]] = defaultdict(dict)
    for image_id, class_name in taught.items():
        by_model[planned.pool.model_of[image_id]][image_id] = class_name
    names = {row["model_id"]: row["name"] for row in catalog.models().to_pylist()}
    lines = []
    for model, own in by_model.items():
        drawn = drawn_look(catalog, own)
        if len(by_model) > 1:
            drawn = replace(drawn, name=f"images of {names.get(model, 'model')} ({model})")
        lines.append(scale_line(real, drawn))
    return [line for line in lines if line is not None]


def detectable_points(
    tested: Counter[str],
    *,
    num_folds: int,
    num_groups: int | None = None,
    masks: bool = False,
    draws: int | None = None,
    power: float = 0.8,
) -> float:
    """Return the least difference, in points, that a study finds with the chance `power`.

    Args:
        tested: test images by class, of all folds together.
        num_folds: from three on they are the independent units ...
        num_groups: ... else groups of test images; None: every image is one.
        masks: a segmenter is tested by Dice; else a classifier by the mean over classes.
        draws: of the shots in each fold, which then count with groups of images, not folds.
        power: chance of a 95 % interval that leaves 0 out.
    """
    total = tested.total()
    if total == 0:
        return 100.0
    variance = (
        DICE_DIFFERENCE**2 / total
        if masks
        else DIFFERING * sum(1 / count for count in tested.values()) / len(tested) ** 2
    )
    units = num_folds if num_folds >= 3 and not draws else num_groups or total
    if draws:
        variance += DRAW_DIFFERENCE**2 / (draws * num_folds)
    freedom = max(1, units - 1)
    quantiles = sum(float(special.stdtrit(freedom, share)) for share in (0.975, power))
    return min(100.0, 100 * quantiles * math.sqrt(variance))


def of_masks(config: StudyConfig) -> bool:
    """Return whether a study is about masks: its learners are scored by Dice."""
    return config.learner.task in ("segment", "probe_masks")


def power_lines(planned: Planned) -> list[str]:
    """Return what the study could see with more or fewer draws of its shots, and what it cannot."""
    config, dataset = planned.config, planned.inputs.dataset
    folds = {unit.fold: unit for unit in planned.units}
    tested = [i for unit in folds.values() for i in unit.test]
    counts = Counter(dataset.labels[dataset.index_of(i)] for i in tested)
    groups = len({dataset.groups[dataset.index_of(i)] for i in tested})
    masks = of_masks(config)
    asked = sorted({10, 20, 50, 100, config.draws}) if config.draws else [None]
    lines = []
    for draws in asked:
        found = {
            power: detectable_points(
                counts,
                num_folds=len(folds),
                num_groups=groups,
                masks=masks,
                draws=draws,
                power=power,
            )
            for power in (0.5, 0.8, 0.95)
        }
        error = found[0.5] / 100 / 1.96
        none = float(special.ndtr(config.margin / max(error, 1e-9) - 1.96))
        lines.append(
            (f"{draws} draws: " if draws else "")
            + ", ".join(
                f"{points:.1f} points with a chance of {p:.0%}" for p, points in found.items()
            )
            + f"; no effect is told to be no gain of {100 * config.margin:g} points with {none:.0%}"
        )
    return [
        "differences that are found (the 95 % interval leaves 0 out):",
        *lines,
        f"assumed: {DIFFERING:.0%} of test images are named differently by two arms"
        f" (Dice: {DICE_DIFFERENCE}); paired differences vary by {100 * DRAW_DIFFERENCE:g} points"
        " between draws; what another generator would give is not in it",
    ]


def _way_to_folds(planned: Planned) -> str:
    dataset = planned.inputs.dataset
    bound = [
        origin
        for origin in planned.pool.origins.values()
        if origin.dataset_fingerprint == dataset.fingerprint
    ]
    if bound:
        return (
            "five folds would test on all images: factory real split ... --folds 5, then a"
            " generator of each fold (factory finetune --split split.0.json ...), all drawn into"
            " one catalog, and every fold's --split here"
        )
    return f"without --split, five folds would test on all {len(dataset.ids)} images"


def expected_seconds(
    units: Sequence[Unit], material: Material, *, threads: int | None = None
) -> float:
    """Return how long trainings take one after another, by the first steps of one of them.

    `threads`: of each training, as its worker has; None: as in this process.
    """
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(threads or before)
    try:
        return _expected_seconds(units, material)
    finally:
        torch.set_num_threads(before)


def _expected_seconds(units: Sequence[Unit], material: Material) -> float:
    from factory.evaluate.tasks import run_unit

    if isinstance(units[0].learner, Probe | MaskProbe):
        some = [units[n * (len(units) - 1) // 4] for n in range(5)]
        run_unit(replace(some[0], test=()), material)  # with what is imported once
        times = [run_unit(replace(each, test=()), material).seconds for each in some]
        return sum(times) / len(times) * len(units)
    unit = max(units, key=lambda each: len(each.manifest.rows))

    def seconds(steps: int) -> float:
        short = unit.learner.model_copy(update={"steps": steps, "validate_every": steps})
        return run_unit(replace(unit, learner=short, test=()), material).seconds

    first = seconds(1)  # with what is done once: it is dropped where that is cheap
    steps, taken = (1, first) if first > PATIENCE_SECONDS else (2, seconds(2))
    # A step's batch is run forwards and backwards, about 3 times the work of a forward pass; val
    # images are passed twice: while choosing the weights, and in the end.
    learner = unit.learner
    assert isinstance(learner, Fitting)  # noqa: S101 -- probes went above
    each = taken / (3 * learner.batch_size * steps + 2 * len(unit.val))
    return sum(each * _passes(own) for own in units)


def _passes(unit: Unit) -> float:
    """Return the work of a training in forward passes of one image."""
    learner = unit.learner
    assert isinstance(learner, Fitting)  # noqa: S101 -- probes take no steps
    validations = math.ceil(learner.steps / learner.validate_every)
    held = (validations + 1) * len(unit.val) + len(unit.test)
    return 3.0 * learner.batch_size * learner.steps + held
