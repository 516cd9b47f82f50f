"""The score of a point: draw what is missing, train on real and drawn images, validate."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from catalog import Catalog
from factory.evaluate.leaks import Use
from factory.evaluate.study import Inputs, Planned, plan_study
from factory.real.dataset import RealDataset
from factory.real.splits import Split
from factory.search.config import TRIED, Point, Setting, SweepConfig, setting_at, study_of

Draw = Callable[[Setting], tuple[str, int]]
"""Publishes what a setting's run lacks; returns the run and how many images were drawn now."""


@dataclass(frozen=True, kw_only=True)
class Ground:
    """What every trial works on: plain data, which travels to the workers once."""

    config: SweepConfig
    dataset: RealDataset
    splits: tuple[Split, ...]
    catalog_uri: str
    storage: dict[str, str] | None
    output: Path
    generator_splits: tuple[Split, ...] = ()
    seen: tuple[Use, ...] = ()

    def inputs(self) -> Inputs:
        """Return what a study works on, with the catalog as it is now."""
        return Inputs(
            dataset=self.dataset,
            splits=self.splits,
            catalog=Catalog(self.catalog_uri, self.storage),
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


def score_point(ground: Ground, point: Point, draw: Draw) -> Iterator[Scored]:
    """Train a point, fold by fold and seed by seed, and yield its score after every training.

    The test part is not touched. Trainings that an earlier attempt finished are not repeated.

    Raises:
        FactoryError: see `setting_at`, `plan_study` and `run_unit`.
    """
    from factory.evaluate.material import study_material  # torch: not before a trial begins
    from factory.evaluate.study_run import read_result, write_result
    from factory.evaluate.tasks import TASKS, run_unit

    setting = setting_at(ground.config, point)
    run_id, drawn = draw(setting)
    planned = plan_trial(ground, setting, run_id)
    units, folder = planned.units, ground.output / "units"
    material = None
    found: list[float] = []
    for unit in units:
        result = read_result(folder, unit)
        if result is None:
            material = material or study_material(
                units, planned.inputs.dataset, planned.inputs.catalog
            )
            result = run_unit(unit, material)
            write_result(folder, result)
        found.append(result.val[TASKS[unit.learner.task].metric])
        yield Scored(
            score=float(np.mean(found)),
            trained=len(found),
            num_synthetic=units[0].manifest.num_synthetic,
            drawn=drawn,
            asked=setting.generate.num_images,
        )


def plan_trial(ground: Ground, setting: Setting, run_id: str) -> Planned:
    """Return the trainings of a point, without a test part; leaks are refused as in a study."""
    study = study_of(ground.config, setting, run_id, arm_name=TRIED, final=False)
    planned = plan_study(study, ground.inputs())
    tried = [unit for unit in planned.units if unit.manifest.arm == TRIED]
    return replace(planned, units=tuple(replace(unit, test=()) for unit in tried))
