"""What a study says of the drawn images themselves: how many, how diverse, how private."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from factory.evaluate.arms import Manifest
from factory.evaluate.pictures import Chosen
from factory.evaluate.units import Material, Unit
from factory.measure.copies import Privacy, measure_privacy
from factory.measure.diversity import most_of, ssim_diversity
from factory.measure.intervals import Estimate

LEAST = 3
MOST_COMPARED = 4000
"""Images of each side that are compared: of more, as many at even distances."""
EXPECTED_COPIES = 0.01
"""Share of images that copy nothing which are as near as a copy, by construction."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Diversity:
    """1 - mean SSIM of pairs of a class; None where there are fewer than three images."""

    drawn: Estimate | None
    unseen: Estimate | None
    """Of real images of the val and test parts: the drawn ones should be about as diverse."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DrawnFigures:
    """Of the drawn images of one arm in one fold, beside the real ones."""

    arm: str
    fold: int
    num_drawn: int
    diversity: Mapping[str, Diversity]
    privacy: Privacy


def measure_drawn(units: Sequence[Unit], material: Material) -> DrawnFigures | None:
    """Return the figures of the first training on real and drawn images; None: there is none.

    Raises:
        DataError: see `measure_privacy`.
    """
    unit = next((u for u in units if u.manifest.num_real and u.manifest.num_synthetic), None)
    if unit is None:
        return None
    ids = {side: _ids(unit.manifest, synthetic=side) for side in (True, False)}
    unseen = (*unit.val, *unit.test)
    if not unseen:
        return None
    chosen = [_some(rows) for rows in (ids[True], ids[False], unseen)]
    drawn, trained, held = (Chosen(material.images, material.rows(rows)) for rows in chosen)
    own, real = _classes(unit.manifest, chosen[0]), material.class_indices(chosen[2])
    return DrawnFigures(
        arm=unit.manifest.arm,
        fold=unit.fold,
        num_drawn=len(ids[True]),
        diversity={
            name: Diversity(
                drawn=_diversity(drawn, own == index), unseen=_diversity(held, real == index)
            )
            for index, name in enumerate(material.class_names)
        },
        privacy=measure_privacy(drawn, trained, held),
    )


def _some(ids: Sequence[str]) -> Sequence[str]:
    """Return at most `MOST_COMPARED` of them, some of everywhere."""
    if len(ids) <= MOST_COMPARED:
        return ids
    return [ids[row] for row in np.linspace(0, len(ids) - 1, MOST_COMPARED).astype(int)]


def _ids(manifest: Manifest, *, synthetic: bool) -> list[str]:
    """Return the images of one side whose labels the arm knows, each once, in order."""
    rows = (row for row in manifest.rows if row.synthetic is synthetic and not row.made)
    return list(dict.fromkeys(row.id for row in rows))


def _classes(manifest: Manifest, ids: Sequence[str]) -> NDArray[np.int64]:
    likeliest = {row.id: int(np.argmax(row.soft_label)) for row in manifest.rows}
    return np.array([likeliest[i] for i in ids], np.int64)


def _diversity(images: Chosen, of_class: NDArray[np.bool_]) -> Estimate | None:
    rows = torch.from_numpy(np.flatnonzero(of_class)[: most_of(images[:1].shape[1])])
    return ssim_diversity(images[rows].numpy()) if len(rows) >= LEAST else None


def diversity_rows(figures: DrawnFigures) -> list[list[str]]:
    """Return a line per class: its name, diversity of the drawn and of unseen real images."""
    return [
        [name, *("too few" if each is None else str(each) for each in (found.drawn, found.unseen))]
        for name, found in figures.diversity.items()
    ]


def copies_warning(figures: DrawnFigures | None) -> str:
    """Return what stands beside a verdict where more images are near copies than by chance."""
    if figures is None or figures.privacy.copies.share.low <= EXPECTED_COPIES:
        return ""
    return (
        "More drawn images than chance explains are nearly copies of training images:"
        f" {figures.privacy.copies.share.value:.0%} where {EXPECTED_COPIES:.0%} is expected. Look"
        " at them before anything is given away."
    )


def privacy_lines(figures: DrawnFigures) -> list[str]:
    """Return what the figures say of patients' privacy, in sentences."""
    told, copies = figures.privacy, figures.privacy.copies
    some = (
        [f"Compared are {copies.share.n:,} of the {figures.num_drawn:,}, at even distances."]
        if figures.num_drawn > MOST_COMPARED
        else []
    )
    return [
        *some,
        f"Copies: {copies.share} of {copies.share.n} drawn images are nearer to a training image"
        f" than 1 % of the {copies.num_held_out} unseen real ones (32 px, all turns); 0.01 is what"
        " images that copy nothing show.",
        f"Memorised: {told.memorised} of the {told.memorised.n} training images have such a copy.",
        f"Membership: AUC {told.membership} of guessing from the drawn images which real ones were"
        " learnt from; 0.5 is chance.",
    ]
