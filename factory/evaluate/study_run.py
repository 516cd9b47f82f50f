"""Runs a study: leaks refused, images loaded once, trainings here or on Ray, results recorded."""

import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from pathlib import Path

from catalog import record_evaluation
from catalog.place import Where
from factory.atomic import write_text
from factory.code_version import code_version
from factory.config import to_yaml
from factory.errors import ConfigError, OutputError
from factory.evaluate.config import MaskProbe, Probe
from factory.evaluate.material import study_material
from factory.evaluate.outset import about_scale, expected_seconds, power_lines, said_first
from factory.evaluate.placement import Room
from factory.evaluate.study import Planned
from factory.evaluate.study_html import Beside, Made, error_arm, to_html
from factory.evaluate.study_report import StudyReport, make_report, to_markdown
from factory.evaluate.study_sheet import look_at, mistakes
from factory.evaluate.tasks import TASKS
from factory.evaluate.units import Material, Result, Unit
from factory.terminal import Tell, duration

Execute = Callable[[Sequence[Unit], Material], Iterator[Result]]


def run_study(
    planned: Planned,
    output: Path,
    execute: Execute,
    *,
    room: Room | None = None,
    made: Made = Made(),  # noqa: B008 -- a value
    tell: Tell | None = None,
) -> StudyReport:
    """Train what is not trained yet, and write the report into `output`: .html, .md, .json.

    Args:
        planned: the study.
        output: a folder.
        execute: trains.
        room: of `execute`, on Ray; None: this process alone.
        made: what the page says of how it was made.
        tell: gets lines to show, first how long it will take; None: nothing is told or measured.

    Raises:
        ConfigError: see `run_unit`.
        ModelError: see `run_unit`.
        OutputError: `output` cannot be written.
    """
    announce(planned, output, tell=tell)
    inputs = planned.inputs
    material = study_material(
        planned.units,
        inputs.dataset,
        inputs.catalog,
        sources=inputs.sources,
        folder=output,
        gpus=room.gpus_looking if room else 0.0,
        tell=tell,
    )
    try:
        return _studied(planned, material, output, execute, room=room, made=made, tell=tell)
    finally:
        material.discard()


def _studied(
    planned: Planned,
    material: Material,
    output: Path,
    execute: Execute,
    *,
    room: Room | None,
    made: Made,
    tell: Tell | None,
) -> StudyReport:
    """Train what is not trained yet, on all its images, and write the report."""
    metric, folder = TASKS[planned.config.learner.task].metric, output / "units"
    results = {unit.id: found for unit in planned.units if (found := read_result(folder, unit))}
    todo = [unit for unit in planned.units if unit.id not in results]
    named = {unit.id: unit for unit in planned.units}
    finished = len(planned.units) - len(todo)
    todo = list({unit.id: unit for unit in todo}.values())
    scales = about_scale(planned)
    if tell is not None:
        tell(f"{len(planned.units)} trainings, {finished} of them finished before")
        for line in scales:
            tell(line)
    if tell is not None and todo:
        seconds = (room.expected_seconds if room else expected_seconds)(todo, material)
        tell(f"about {duration(seconds)}{f' on {room}' if room else ''}")
    every = max(1, len(todo) // 50) if isinstance(planned.config.learner, Probe | MaskProbe) else 1
    begun = time.monotonic()
    for number, result in enumerate(execute(todo, material), start=1):
        unit = named[result.unit_id]
        write_result(folder, result)
        results[unit.id] = result
        if tell is not None and number % every == 0:
            left = (time.monotonic() - begun) / number * (len(todo) - number)
            tell(
                f"{unit.manifest.arm}, fold {unit.fold}, seed {unit.seed}:"
                f" val {metric} {result.val[metric]:.3f} ({len(results)}/{len(named)},"
                f" {result.seconds:.0f} s; {duration(left)} left)"
            )
    report = make_report(
        planned.config,
        planned.units,
        results,
        material,
        notes=(*planned.notes, *scales),
        values=planned.subgroup_of,
        knew=planned.knew,
    )
    for unit in planned.units:
        path = output / "manifests" / f"{unit.manifest.digest}.json"
        if not path.exists():
            write_text(path, json.dumps(unit.manifest.to_json()) + "\n")
    write_text(output / "study.yaml", to_yaml(planned.config))
    write_text(output / "report.json", json.dumps(report.to_json(), indent=1) + "\n")
    write_text(output / "report.md", to_markdown(report))
    beside = beside_report(planned, report, results, material, made)
    write_text(output / "report.html", to_html(report, beside))
    return report


def beside_report(
    planned: Planned,
    report: StudyReport,
    results: Mapping[str, Result],
    material: Material,
    made: Made,
) -> Beside:
    """Return what the page of a finished study shows beside its figures."""
    arm, units = error_arm(report), planned.units
    control = report.baselines.get(arm, report.baseline) if arm else report.baseline
    facts = (
        ("evaluation", planned.id),
        ("images", f"{len(planned.inputs.dataset)}, {planned.inputs.dataset.fingerprint}"),
        ("splits", ", ".join(split.digest for split in planned.inputs.splits)),
        ("synthetic images", f"version {planned.pool.version}" if planned.pool.images else "none"),
        ("learner", f"{planned.config.learner.task}, {planned.config.learner.size_px} px"),
        ("code", code_version()),
    )
    return Beside(
        made=replace(made, facts=facts, config=to_yaml(planned.config)),
        sheet=look_at(units, material),
        errors=mistakes(units, results, material, arm=arm, control=control)
        if arm and TASKS[report.task].classes
        else {},
        power=[*said_first(planned), *power_lines(planned)],
    )


def announce(planned: Planned, output: Path, *, tell: Tell | None = None) -> None:
    """Write the primary comparison and its digest into `output` before anything is tested.

    Raises:
        ConfigError: another one was announced there.
    """
    config, path = planned.config, output / "primary.json"
    if config.primary is None:
        return
    told = {"primary": config.primary, "margin": config.margin, "study": config.digest}
    told["digest"] = config.primary_digest
    if path.exists() and json.loads(path.read_text()) != told:
        raise ConfigError(
            f"{path} announces another primary comparison than {config.primary!r}, or one of"
            " another study",
            remedy="Give another --output, and tell of both",
        )
    write_text(path, json.dumps(told) + "\n")
    if tell is not None:
        tell(f"named beforehand: {config.primary} ({config.primary_digest})")


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
    place: Where,
    *,
    now: datetime,
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
    record_evaluation(place, row, scores)


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
