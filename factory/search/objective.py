"""The score of a point: draw what is missing, train on real and drawn images, validate."""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from catalog import Catalog
from catalog.place import Place
from factory.errors import CatalogError, ConfigError
from factory.evaluate.rows import most_drawn
from factory.evaluate.study import Inputs, Planned, plan_study, plan_units
from factory.evaluate.synthetic import origin_of, pool_of
from factory.measure.intervals import counted
from factory.models.domains import members_of
from factory.models.generator import Generator
from factory.real.dataset import RealDataset
from factory.real.leaks import Use
from factory.real.splits import Split, shots_of_class
from factory.sample.prepare import drawn_by, lineage, prepare, with_classes
from factory.sample.run import check_drawn_elsewhere
from factory.search.config import (
    PLAIN,
    TRIED,
    WINNER,
    Point,
    Setting,
    SweepConfig,
    setting_at,
    study_of,
)
from factory.search.space import corners, num_points

Draw = Callable[[Setting], tuple[str, int]]
"""Publishes what a setting's run lacks; returns the run and how many images were drawn now."""


@dataclass(frozen=True, kw_only=True)
class Ground:
    """What every trial works on: plain data, which travels to the workers once."""

    config: SweepConfig
    dataset: RealDataset
    splits: tuple[Split, ...]
    catalog: Place
    output: Path
    generator_splits: tuple[Split, ...] = ()
    seen: tuple[Use, ...] = ()

    @property
    def trainings(self) -> int:
        """How often a point is trained, if it is not given up before: seeds, folds, draws."""
        return len(self.config.seeds) * len(self.splits) * (self.config.draws or 1)

    def inputs(self) -> Inputs:
        """Return what a study works on, with the catalog as it is now; none before a drawing."""
        try:
            catalog = Catalog(self.catalog)
        except CatalogError:  # if it is there and broken, drawing says so
            catalog = None
        return Inputs(
            dataset=self.dataset,
            splits=self.splits,
            catalog=catalog,
            generator_splits=self.generator_splits,
            seen=self.seen,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Scored:
    """A point after some of its trainings."""

    score: float
    """Mean of the validation metric so far."""
    trained: int
    num_synthetic: int
    """Of the first training's rows."""
    drawn: int
    """Images that this trial had to draw."""
    asked: int
    """Images that it would have had to draw without the catalog."""


def setting_of(ground: Ground, point: Point) -> Setting:
    """Return what a point means on these real images: only their classes are drawn.

    Raises:
        ConfigError: see `setting_at`; or a class that the real images do not have.
        ModelError: no such generator.
    """
    setting, config = setting_at(ground.config, point), ground.config
    generator = drawn_by(setting.generate)
    if not setting.generate.classes and not generator.prompts:
        return setting
    own = set(ground.dataset.class_names) - set(config.without)
    lead = config.synthetic.classes
    asked = with_classes(setting.generate, generator)
    kept = {name: p for name, p in asked.prompts.items() if lead.get(name, name) in own}
    left = {name for name in asked.prompts if lead.get(name, name) in config.without}
    others = [name for name in asked.prompts if name not in kept and name not in left]
    if others and (setting.generate.classes or not kept):
        raise ConfigError(
            f"class {others[0]!r} would be drawn, and the real images have none of it"
            f" ({', '.join(ground.dataset.class_names)})",
            remedy="Map names with synthetic.classes: {drawn: real}, or leave it out of"
            " generate.classes",
        )
    return replace(setting, generate=asked.model_copy(update={"classes": kept}))


def with_enough(ground: Ground) -> Ground:
    """Return the ground with as many images to draw as the largest arm of the space asks for.

    A run draws its classes evenly, so the largest class of a train part decides: of 67 real images
    a ratio of 3 asks for 201 of each class, whatever `generate.num_images` says.
    """
    config, labels = (
        ground.config,
        dict(zip(ground.dataset.ids, ground.dataset.labels, strict=True)),
    )
    parts = [Counter(labels[i] for i in split.train) for split in ground.splits]
    held = [
        {
            name: min(count, shots_of_class(config.shots, name) or count)
            for name, count in part.items()
            if name not in config.without
        }
        for part in parts
    ]
    asked, drawn = config.generate.num_images, dict[str, int]()
    for point in corners(config):
        setting = setting_at(config, point)
        way = setting.generate.digest
        if way not in drawn:  # opens the generator
            drawn[way] = max(1, len(setting_of(ground, point).generate.prompts))
        asked = max(asked, *(drawn[way] * most_drawn(setting.arm, part) for part in held))
    enough = config.generate.model_copy(update={"num_images": asked})
    return replace(ground, config=config.model_copy(update={"generate": enough}))


def check_plans(ground: Ground) -> list[int]:
    """Plan what every corner of the space would draw and train, before anything is drawn.

    Returns:
        How many images each of the ways of drawing that it met would draw.

    Raises:
        FactoryError: what a trial, or the test of the winner, would end with: leaks, a generator
            that may not be used, classes or scores that it does not have, too few images.
    """
    ways: dict[str, Inputs] = {}
    models: set[str] = set()
    for number, point in enumerate(corners(ground.config)):
        setting = setting_of(ground, point)
        way = setting.generate.digest
        if way not in ways:
            ways[way] = _expected(ground, setting)
        inputs, name = ways[way], WINNER if number == 0 else TRIED
        study = study_of(ground.config, setting, "planned", arm_name=name, final=number == 0)
        if number == 0 or setting.generate.model not in models:
            plan_study(study, inputs)  # leaks too: seconds
            models.add(setting.generate.model)
        elif inputs.expected is not None:
            one = study.model_copy(update={"seeds": study.seeds[:1]})
            plan_units(one, ground.dataset, ground.splits[:1], [inputs.expected.images])
    return [len(inputs.expected.images) for inputs in ways.values() if inputs.expected]


def told_plans(ground: Ground, ways: Sequence[int]) -> list[str]:
    """Return what the search will cost, as far as it is known, and what its test can show."""
    config, size = ground.config, num_points(ground.config)
    points = "" if size is None else f" of {counted(size, 'point')}"
    trials = config.trials if size is None else min(config.trials, size)
    arms = len({PLAIN, *config.controls}) + 3 + bool(config.start)
    final = arms * len(config.final_seeds) * len(ground.splits) * (config.draws or 1)
    axes = sorted(key for key in config.space if key.startswith("generate."))
    each = f", for each way of drawing ({', '.join(axes)})" if axes else ""
    each_point = counted(ground.trainings, "training")
    return [
        f"{counted(trials, 'trial')}{points}, each of up to {each_point};"
        f" then {counted(final, 'training')} of the winner and its controls",
        f"{ways[0]} images are drawn{each}",
    ]


def _expected(ground: Ground, setting: Setting) -> Inputs:
    """Return what a study would work on once a setting's images are drawn, all of them accepted."""
    run, inputs = prepare(setting.generate, ground.catalog), ground.inputs()
    if inputs.catalog is not None:
        check_drawn_elsewhere(run, inputs.catalog)
    generator, dataset = run.generator, ground.dataset
    _check_scores(setting, generator)
    told = {"model_id": generator.model_id, **lineage(generator)}
    requests = (request for batch in run.plan.batches() for request in batch.requests)
    rows = (
        {
            "image_id": request.image_id,
            "class_name": request.recipe.class_name,
            "class_names": [request.recipe.class_name],
            "soft_label": [1.0],
            "reference_ids": [i for i in (request.recipe.reference_id,) if i],
            **told,
        }
        for request in requests
    )
    pool = pool_of(
        rows,
        ground.config.synthetic,
        dataset.class_names,
        without=ground.config.without,
        version=None,
    )
    members = members_of(generator)
    known = {m.model_id: origin_of({**m.manifest, "model_id": m.model_id}) for m in members}
    own = {**generator.manifest, **told, "member_ids": sorted(known)}
    for each in (generator, *members):
        if each.adapters:
            base = each.base()
            known[base.model_id] = origin_of({**base.manifest, "model_id": base.model_id})
    known[generator.model_id] = origin_of(own)
    return replace(inputs, expected=pool, models=known)


def _check_scores(setting: Setting, generator: Generator) -> None:
    masks = [column for column in setting.least if column.startswith("mask_")]
    if masks and not generator.manifest.get("mask_values"):
        raise ConfigError(
            f"axis 'gate.{masks[0]}': generator {generator.name!r} draws no masks",
            remedy="Leave this axis out",
        )


def score_point(ground: Ground, point: Point, draw: Draw) -> Iterator[Scored]:
    """Train a point, fold by fold and seed by seed, and yield its score after every training.

    The test part is not touched. Trainings that an earlier attempt finished are not repeated.

    Raises:
        FactoryError: see `setting_at`, `plan_study` and `run_unit`.
    """
    from factory.evaluate.material import study_material  # torch: not before a trial begins
    from factory.evaluate.study_run import read_result, write_result
    from factory.evaluate.tasks import TASKS, run_unit

    setting = setting_of(ground, point)
    run_id, drawn = draw(setting)
    planned = plan_trial(ground, setting, run_id)
    units, folder = planned.units, ground.output / "units"
    material = None
    found: list[float] = []
    try:
        for unit in units:
            result = read_result(folder, unit)
            if result is None:
                material = material or study_material(
                    units, planned.inputs.dataset, planned.inputs.catalog, folder=ground.output
                )
                result = run_unit(unit, material)
                write_result(folder, result)
            found.append(result.val[TASKS[unit.learner.task].metric])
            yield Scored(
                score=float(np.mean(found)),
                trained=len(found),
                num_synthetic=units[0].manifest.num_synthetic,
                drawn=drawn,
                asked=max(drawn, setting.generate.num_images),  # what gates refuse is drawn anew
            )
    finally:
        if material is not None:
            material.discard()


def plan_trial(ground: Ground, setting: Setting, run_id: str) -> Planned:
    """Return the trainings of a point, without a test part; leaks are refused as in a study."""
    study = study_of(ground.config, setting, run_id, arm_name=TRIED, final=False)
    planned = plan_study(study, ground.inputs())
    tried = [unit for unit in planned.units if unit.manifest.arm == TRIED]
    return replace(planned, units=tuple(replace(unit, test=()) for unit in tried))
