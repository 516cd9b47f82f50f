"""Pictures of a study: what an arm was trained on, and which test images it names wrong."""

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from factory.arrays import Images
from factory.evaluate.study_drawn import MOST_COMPARED
from factory.evaluate.units import Material, Result, Unit
from factory.measure.copies import nearest, thumbnails, turned_thumbnails
from factory.measure.sheets import sheet_of
from factory.real.images import encode_png

SHOWN = 6
MISTAKES = 12
"""Test images of a kind that are shown."""


def look_at(units: Sequence[Unit], material: Material) -> bytes | None:
    """Return a PNG with a row for each class: real | drawn | nearest real; None: nothing drawn.

    The images of the first training on both; nearness is that of 32 px thumbnails under any turn.
    """
    both = (u.manifest for u in units if u.manifest.num_real and u.manifest.num_synthetic)
    rows = [row for manifest in [*both][:1] for row in manifest.rows if not row.made]
    shown: dict[str, Images] = {}
    for index, name in enumerate(material.class_names):
        own = [row for row in rows if int(np.argmax(row.soft_label)) == index]
        real, drawn = (
            material.images[material.rows([row.id for row in own if row.synthetic is side][:most])]
            for side, most in ((False, MOST_COMPARED), (True, SHOWN))
        )
        if len(real) and len(drawn):
            near = real[nearest(turned_thumbnails(drawn), thumbnails(real)).position]
            blank = np.full_like(drawn[:1], 255)
            row = np.concatenate([real[:SHOWN], blank, drawn, blank, near])
            shown[f"{name}: real | drawn | the real image nearest to each"] = row
    return sheet_of(shown, zoom=1) if shown else None


@dataclass(frozen=True, slots=True, kw_only=True)
class Mistake:
    """A test image, what it shows, what it was called instead, and how often, of all trainings."""

    png: bytes
    truth: str
    called: str
    wrong: float
    """Share of the trainings with drawn images that named it wrong ..."""
    wrong_without: float
    """... and of those of the control."""


def mistakes(
    units: Sequence[Unit],
    results: Mapping[str, Result],
    material: Material,
    *,
    arm: str,
    control: str,
) -> dict[str, list[Mistake]]:
    """Return test images by what became of them: mended by drawn images, spoilt, wrong in both.

    Those come first in which the arms differ most. Of classifiers; a result says a class for each.

    Args:
        units, results, material: of the study.
        arm: with drawn images.
        control: that it is compared with.
    """
    said: dict[str, dict[str, Counter[int]]] = defaultdict(lambda: defaultdict(Counter))
    for unit in units:
        if unit.manifest.arm in (arm, control):
            for image_id, (index, *_) in zip(unit.test, results[unit.id].said, strict=True):
                said[image_id][unit.manifest.arm][int(index)] += 1
    found: dict[str, list[Mistake]] = {}
    for image_id, by_arm in said.items():
        truth = material.labels[image_id]
        own = material.class_names.index(truth)
        wrong, without = (1 - c[own] / max(1, c.total()) for c in (by_arm[arm], by_arm[control]))
        if kind := _kind(wrong, without):
            called = by_arm[control if kind == "mended" else arm]
            called.pop(own, None)
            found.setdefault(kind, []).append(
                Mistake(
                    png=encode_png(material.images[material.position[image_id]]),
                    truth=truth,
                    called=material.class_names[called.most_common(1)[0][0]],
                    wrong=wrong,
                    wrong_without=without,
                )
            )
    for kind, own_kind in found.items():
        own_kind.sort(key=lambda m: (-abs(m.wrong - m.wrong_without), -m.wrong, m.truth))
        found[kind] = own_kind[:MISTAKES]
    return {kind: found[kind] for kind in ("mended", "spoilt", "wrong in both") if kind in found}


def _kind(wrong: float, without: float) -> str | None:
    """Return what became of an image: named by most trainings of one arm, or of neither."""
    if wrong <= 0.5 < without:
        return "mended"
    if without <= 0.5 < wrong:
        return "spoilt"
    return "wrong in both" if min(wrong, without) > 0.5 else None
