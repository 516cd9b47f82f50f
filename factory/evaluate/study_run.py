"""Runs a study: leaks refused, images loaded once, trainings here or on Ray, results recorded."""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from catalog import Catalog, record_evaluation
from catalog.place import StorageOptions
from factory.atomic import write_text
from factory.code_version import code_version
from factory.config import to_yaml
from factory.digest import digest
from factory.errors import ConfigError, OutputError
from factory.evaluate.intervals import counted
from factory.evaluate.leaks import Held, Use, held_out, refuse_leaks
from factory.evaluate.lineage import Known
from factory.evaluate.material import study_material
from factory.evaluate.study import StudyConfig, plan_units
from factory.evaluate.study_html import to_html
from factory.evaluate.study_report import StudyReport, make_report, to_markdown
from factory.evaluate.study_sheet import look_at
from factory.evaluate.subgroups import subgroup_values
from factory.evaluate.synthetic import EMPTY, Pool, known_models, read_pool
from factory.evaluate.tasks import TASKS, run_unit
from factory.evaluate.units import Material, Result, Unit
from factory.real.dataset import RealDataset
from factory.real.splits import Split, verify_split

Tell = Callable[[str], object]
Execute = Callable[[Sequence[Unit], Material], Iterator[Result]]


@dataclass(frozen=True, kw_only=True)
class Inputs:
    """What a study works on. `generator_splits`: those of generators that were trained apart."""

    dataset: RealDataset
    splits: tuple[Split, ...]
    catalog: Catalog | None = None
    generator_splits: tuple[Split, ...] = ()
    seen: tuple[Use, ...] = ()
    """Other real images that generators, references, clusters or gates saw."""


@dataclass(frozen=True, kw_only=True)
class Planned:
    """A study that may run: nothing leaks, and every arm has its rows."""

    config: StudyConfig
    inputs: Inputs
    pool: Pool
    units: tuple[Unit, ...]
    notes: tuple[str, ...]
    subgroup_of: Mapping[str, str]
    """Of real images, where the study asks for subgroups."""

    @property
    def id(self) -> str:
        """Names the evaluation: everything that decides its figures."""
        return digest([self.config.digest, self.pool.version, [unit.id for unit in self.units]])


def plan_study(config: StudyConfig, inputs: Inputs) -> Planned:
    """Refuse leaks and plan all trainings; nothing is trained or tested yet.

    Raises:
        ConfigError: arms with synthetic images and no catalog, an attribute of subgroups that no
            image has, or see `plan_units`.
        DataError: a leak, a split of another dataset, too few images.
        CatalogError: see `read_pool`.
    """
    if config.mixed and inputs.catalog is None:
        raise ConfigError(
            f"arm {config.mixed[0]!r} takes synthetic images, and no catalog has them",
            remedy="Give --catalog, or leave out arms with synthetic images",
        )
    dataset, catalog = inputs.dataset, inputs.catalog
    subgroup_of = subgroup_values(dataset, config.subgroups)
    pool = read_pool(catalog, config.synthetic, dataset.class_names) if catalog else EMPTY
    fingerprints = {use.dataset.fingerprint for use in inputs.seen}
    known = Known(
        splits={split.digest: split for split in inputs.generator_splits},
        models=known_models(catalog) if catalog else {},
        foreign=frozenset([*config.synthetic.foreign, *fingerprints]) - {dataset.fingerprint},
    )
    drawn, refusals = [], []
    for fold, split in enumerate(inputs.splits):
        held = _checked(inputs, split)
        images, refused = pool.usable(held, split, known)
        drawn.append(images)
        refusals.append(refused)
        if config.mixed and not images:
            raise ConfigError(
                f"no synthetic image may be used in fold {fold}:"
                f" {'; '.join(refused.values()) or 'none'}",
                remedy="Train the generator under the study's split, or give --generator-split; of"
                " another dataset give --seen, or synthetic.foreign if you know they share nothing",
            )
    units = plan_units(config, dataset, inputs.splits, drawn)
    return Planned(
        config=config,
        inputs=inputs,
        pool=pool,
        units=tuple(units),
        notes=_left_out(refusals),
        subgroup_of=subgroup_of,
    )


def run_study(
    planned: Planned, output: Path, execute: Execute, *, tell: Tell = lambda _line: None
) -> StudyReport:
    """Train what is not trained yet, and write the report into `output`: .html, .md, .json.

    Raises:
        ConfigError: see `run_unit`.
        ModelError: see `run_unit`.
        OutputError: `output` cannot be written.
    """
    metric = TASKS[planned.config.learner.task].metric
    inputs = planned.inputs
    material = study_material(planned.units, inputs.dataset, inputs.catalog)
    folder = output / "units"
    results = {unit.id: found for unit in planned.units if (found := read_result(folder, unit))}
    todo = [unit for unit in planned.units if unit.id not in results]
    named = {unit.id: unit for unit in planned.units}
    finished = len(planned.units) - len(todo)
    tell(f"{len(planned.units)} trainings, {finished} of them finished before")
    for result in execute(list({unit.id: unit for unit in todo}.values()), material):
        unit = named[result.unit_id]
        write_result(folder, result)
        results[unit.id] = result
        tell(
            f"{unit.manifest.arm}, fold {unit.fold}, seed {unit.seed}:"
            f" val {metric} {result.val[metric]:.3f} ({len(results)}/{len(named)},"
            f" {result.seconds:.0f} s)"
        )
    report = make_report(
        planned.config,
        planned.units,
        results,
        material,
        notes=planned.notes,
        values=planned.subgroup_of,
    )
    for unit in planned.units:
        path = output / "manifests" / f"{unit.manifest.digest}.json"
        if not path.exists():
            write_text(path, json.dumps(unit.manifest.to_json()) + "\n")
    write_text(output / "study.yaml", to_yaml(planned.config))
    write_text(output / "report.json", json.dumps(report.to_json(), indent=1) + "\n")
    write_text(output / "report.md", to_markdown(report))
    sheet = look_at(planned.units, material)
    write_text(output / "report.html", to_html(report, sheet=sheet))
    return report


def execute_here(units: Sequence[Unit], material: Material) -> Iterator[Result]:
    """Train one after another in this process."""
    yield from (run_unit(unit, material) for unit in units)


def execute_on_ray(units: Sequence[Unit], material: Material) -> Iterator[Result]:
    """Train side by side, a core each, and yield results as they come.

    A worker that dies is replaced; what its training would give is the same.
    """
    import ray

    shared = ray.put(material)
    task = ray.remote(num_cpus=1, max_retries=3)(run_unit)
    waiting = [task.remote(unit, shared) for unit in units]
    while waiting:
        done, waiting = ray.wait(waiting, num_returns=1)
        yield from ray.get(done)


def write_result(folder: Path, result: Result) -> None:
    """Keep the result of a training for `read_result`."""
    write_text(folder / f"{result.unit_id}.json", json.dumps(result.to_json()) + "\n")


def read_result(folder: Path, unit: Unit) -> Result | None:
    """Return the result of a finished training, or None."""
    try:
        return Result.from_json(json.loads((folder / f"{unit.id}.json").read_text()))
    except (OSError, ValueError, TypeError, KeyError):  # absent, or not ours: train anew
        return None


def record_study(
    planned: Planned,
    report: StudyReport,
    output: Path,
    catalog_uri: str,
    *,
    now: datetime,
    storage_options: StorageOptions | None = None,
) -> None:
    """Record the study that `run_study` finished in `output` in the tables `evaluations`, `scores`.

    Once: a second time changes nothing.

    Raises:
        CatalogError: not writable.
        OutputError: results in `output` are gone.
    """
    results = {}
    for unit in planned.units:
        found = read_result(output / "units", unit)
        if found is None:
            raise OutputError(
                f"results in {str(output)!r} are gone", remedy="Run the same command again"
            )
        results[unit.id] = found
    config, units = planned.config, planned.units
    used = {row.id for unit in units for row in unit.manifest.rows if row.synthetic}
    row = {
        "evaluation_id": planned.id,
        "name": config.name,
        "task": config.learner.task,
        "config": to_yaml(config),
        "config_digest": config.digest,
        "dataset_fingerprint": planned.inputs.dataset.fingerprint,
        "split_digests": [split.digest for split in planned.inputs.splits],
        "catalog_version": planned.pool.version,
        "model_ids": sorted({planned.pool.model_of[i] for i in used}),
        "arms": list(config.arms),
        "baseline": report.baseline,
        "metric": TASKS[config.learner.task].metric,
        "verdicts": json.dumps(report.verdicts),
        "comparisons": json.dumps(report.to_json()["comparisons"]),
        "code_version": code_version(),
        "finished_at": now,
    }
    scores = [line for unit in units for line in _score_rows(planned.id, unit, results[unit.id])]
    record_evaluation(catalog_uri, row, scores, storage_options=storage_options)


def _score_rows(evaluation_id: str, unit: Unit, result: Result) -> Iterator[dict[str, object]]:
    parts = (("val", result.val, unit.val), ("test", result.test, unit.test))
    for part, found, ids in parts:
        for metric, value in found.items():
            name, _, class_name = metric.partition("/")
            yield {
                "evaluation_id": evaluation_id,
                "unit_id": unit.id,
                "arm": unit.manifest.arm,
                "fold": unit.fold,
                "seed": unit.seed,
                "part": part,
                "metric": name,
                "class_name": class_name or None,
                "value": value,
                "num_images": len(ids),
                "num_real": unit.manifest.num_real,
                "num_synthetic": unit.manifest.num_synthetic,
                "manifest_digest": unit.manifest.digest,
                "split_digest": unit.split_digest,
                "best_step": result.best_step,
            }


def _left_out(refusals: Sequence[Mapping[str, str]]) -> tuple[str, ...]:
    """Return notes on models that may not be used, by fold: reasons where none may use them."""
    reasons = {model: reason for refused in refusals for model, reason in refused.items()}
    nowhere = [m for m in reasons if all(m in refused for refused in refusals)]
    notes = [f"images were left out, since {reasons[model]}" for model in nowhere]
    if some := len(reasons) - len(nowhere):
        notes.append(
            f"images of {counted(some, 'generator')} serve some folds alone: those under whose"
            " split they were trained"
        )
    return tuple(notes)


def _checked(inputs: Inputs, split: Split) -> Held:
    """Return the held-out images of a fold that nothing saw.

    Raises:
        DataError: a split of another dataset, or a leak.
    """
    dataset = inputs.dataset
    verify_split(split, dataset=dataset.fingerprint, ids=dataset.ids, groups=dataset.groups)
    held = held_out(dataset, split)
    refuse_leaks(held, [Use(what="the train part", dataset=dataset, ids=split.train), *inputs.seen])
    return held
