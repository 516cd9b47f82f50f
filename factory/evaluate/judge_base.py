"""Judges a base generator: draws, measures, and writes report and contact sheets."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from factory.atomic import write_text
from factory.evaluate.attributes import find_contrasts
from factory.evaluate.base_drawn import Drawn, Report, draw_classes, draw_contrasts, grammar_of
from factory.evaluate.base_figures import (
    AttributeFigures,
    find_copies,
    judge_attribute,
    measure_fidelity,
    name_classes,
)
from factory.evaluate.base_report import BaseReport, to_markdown
from factory.evaluate.drawing import Settings
from factory.evaluate.reference import Reference
from factory.measure.copies import Nearest
from factory.measure.sheets import beside, pairs, write_sheet
from factory.real.field import scale_line
from factory.sample.engine import Engine

SHEET_COLUMNS = 16
CLOSEST = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class Counts:
    """How many images to draw.

    `per_class`: of every class. `per_value`: under each of an attribute's two prompts; 0 leaves
    attributes out.
    """

    per_class: int = 100
    per_value: int = 50


def judge_base(
    engine: Engine,
    reference: Reference,
    settings: Settings,
    counts: Counts,
    *,
    out: Path,
    report: Report = lambda _done, _of: None,
) -> BaseReport:
    """Draw, measure, and write report.json, report.md and the sheets into the folder `out`.

    Sheets: drawn.png, real-beside-drawn.png, closest.png (drawn cells beside their nearest
    training cells) and attributes.png. Two of them show real cells: the folder is for the machine
    where the data is.

    Args:
        report: told how many batches are drawn, and of how many.
    """
    drawn = draw_classes(
        engine,
        sorted(set(reference.held_out.labels)),
        settings,
        per_class=counts.per_class,
        space=reference.space,
        cache=reference.cache,
        report=report,
    )
    copies = find_copies(drawn, reference)
    generator, dataset = engine.generator, reference.dataset
    real = dataset.look(reference.size_px, reference.split.val)
    found = BaseReport(
        generator=generator.manifest.get("name", generator.folder.name),  # never a path
        model_id=generator.model_id,
        steps_trained=generator.manifest.get("steps_trained"),
        settings=settings,
        features=reference.space.name,
        split_digest=reference.split.digest,
        named=name_classes(drawn, reference),
        fidelity=measure_fidelity(drawn, reference),
        scale=scale_line(real, generator.drawn(drawn.images, drawn.labels)),
        copies=[check for check, _ in copies.values()],
        attributes=_attributes(engine, reference, settings, counts.per_value, out, report),
    )
    _write_sheets(out, drawn, reference, {space: near for space, (_, near) in copies.items()})
    write_text(out / "report.json", json.dumps(asdict(found), indent=1) + "\n")
    write_text(out / "report.md", to_markdown(found))
    return found


def _attributes(
    engine: Engine,
    reference: Reference,
    settings: Settings,
    per_value: int,
    out: Path,
    report: Report,
) -> list[AttributeFigures]:
    """Judge attribute prompts and write attributes.png: eight cells of each prompt in a row."""
    if not per_value:
        return []
    contrasts = find_contrasts(
        reference.held_out,
        reference.held_out_spaces,
        grammar_of(engine.generator),
        cache=reference.cache,
    )
    if not contrasts:
        return []
    drawn = draw_contrasts(
        engine,
        contrasts,
        settings,
        per_value=per_value,
        space=reference.space,
        cache=reference.cache,
        report=report,
    )
    shown = SHEET_COLUMNS // 2
    rows = {
        f"{contrast.prompts[0]}  |  {contrast.prompts[1]}": beside(
            first.images[:shown], second.images[:shown]
        )
        for contrast, (first, second) in zip(contrasts, drawn, strict=True)
    }
    write_sheet(out / "attributes.png", rows)
    return [judge_attribute(c, pair) for c, pair in zip(contrasts, drawn, strict=True)]


def _write_sheets(
    out: Path, drawn: Drawn, reference: Reference, near: Mapping[str, Nearest]
) -> None:
    names = sorted(set(drawn.labels))
    cells = dict(zip(names, np.split(drawn.images, len(names)), strict=True))
    write_sheet(out / "drawn.png", {n: images[:SHEET_COLUMNS] for n, images in cells.items()})

    half = min(SHEET_COLUMNS // 2, reference.held_out.smallest_class)
    chosen = [reference.held_out.ids[i] for i in reference.held_out.balanced(half)]
    real = np.split(reference.dataset.array(reference.size_px, chosen), len(names))
    rows = {
        f"{name}: real | drawn": beside(own, cells[name][:half])
        for name, own in zip(names, real, strict=True)
    }
    write_sheet(out / "real-beside-drawn.png", rows)

    closest = {}
    for space, found in near.items():
        order = found.distance.argsort()[:CLOSEST]
        ids = [reference.training.ids[i] for i in found.position[order]]
        caption = f"{space}: drawn, nearest training cell; distances " + ", ".join(
            f"{distance:.3g}" for distance in found.distance[order]
        )
        stored = reference.dataset.array(reference.size_px, ids)
        closest[caption] = pairs(drawn.images[order], stored)
    write_sheet(out / "closest.png", closest)
