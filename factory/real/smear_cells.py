"""The five white cells by code: radius, nucleus, cytoplasm and granules of each class.

What a haematology atlas says, in numbers (radii and offsets relative to the cell's radius, colours
as they look on an unstained slide, sRGB 0..255).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from factory.real.smear_fields import Field, Grid, bent, disc, joined, rod

Rgb = tuple[int, int, int]
Nucleus = Callable[[Grid, np.random.Generator, float], tuple[Field, str]]
"""(grid centred on the cell, rng, cell radius) -> distance to the nucleus' rim, shape in words."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Granules:
    """Dots in the cytoplasm. `number` at the mean cell area, `radius` relative to the cell's."""

    words: str
    number: int
    radius: float
    rgb: Rgb
    strength: float
    over_nucleus: float = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class CellKind:
    """How one class looks."""

    name: str
    radius: tuple[float, float]
    """Range of the cell's radius, as a share of half the image at zoom 1."""
    ragged: float
    """How far the outline leaves a circle."""
    cytoplasm: Rgb
    cytoplasm_texture: float
    nucleus: Nucleus
    nucleus_rgb: Rgb
    chromatin: float
    """Contrast of the clumps in the nucleus."""
    granules: tuple[Granules, ...]
    vacuoles: float = 0
    """Mean number of clear bubbles."""


def _lobes(
    points: Grid, centres: Sequence[tuple[float, float]], radii: Sequence[float], bridge: float
) -> Field:
    """Return lobes on a string: discs joined in order by rods of half-width `bridge`."""
    discs = [disc(points, x, y, r) for (x, y), r in zip(centres, radii, strict=True)]
    rods = [rod(points, a, b, bridge) for a, b in pairwise(centres)]
    return joined([*discs, *rods], 0.22 * min(radii))


def _segmented(points: Grid, rng: np.random.Generator, cell: float) -> tuple[Field, str]:
    """Neutrophil: 2-5 lobes along an arc on thin bridges, or one bent band (one in four)."""
    points = bent(points, rng, cells=9, amount=0.035 * cell)
    start, ring = rng.uniform(0, 2 * np.pi), rng.uniform(0.42, 0.5) * cell
    band = rng.random() < 0.25
    number = 9 if band else int(rng.choice([2, 3, 4, 5], p=[0.2, 0.4, 0.3, 0.1]))
    span = rng.uniform(2.6, 4.0) if band else rng.uniform(1.15, 1.4) * (number - 1)
    angles = start + np.linspace(0, min(span, 4.9), number) + rng.normal(0, 0.03, number)
    away = ring * (1 + (0 if band else 0.16) * rng.standard_normal(number))
    centres = [(r * np.cos(a), r * np.sin(a)) for r, a in zip(away, angles, strict=True)]
    if band:
        radii = rng.uniform(0.2, 0.24) * cell * (1 + 0.06 * rng.standard_normal(number))
        return _lobes(points, centres, list(radii), 0.12 * cell), "unsegmented band"
    size = {2: 0.37, 3: 0.32, 4: 0.27, 5: 0.235}[number] * cell
    radii = size * rng.uniform(0.85, 1.15, number)
    return _lobes(points, centres, list(radii), 0.07 * cell), f"{number} lobes"


def _bilobed(points: Grid, rng: np.random.Generator, cell: float) -> tuple[Field, str]:
    """Eosinophil: two round lobes like spectacles, now and then three."""
    points = bent(points, rng, cells=7, amount=0.03 * cell)
    number = 2 if rng.random() < 0.8 else 3
    start = rng.uniform(0, 2 * np.pi)
    angles = start + np.arange(number) * rng.uniform(1.75, 2.3)
    away = rng.uniform(0.42, 0.5) * cell
    centres = [(away * np.cos(a), away * np.sin(a)) for a in angles]
    radii = (0.39 if number == 2 else 0.32) * cell * rng.uniform(0.88, 1.1, number)
    return _lobes(points, centres, list(radii), 0.08 * cell), f"{number} lobes"


def _veiled(points: Grid, rng: np.random.Generator, cell: float) -> tuple[Field, str]:
    """Basophil: a large vague nucleus of merging lobes under the granules."""
    points = bent(points, rng, cells=8, amount=0.06 * cell)
    number = int(rng.integers(2, 4))
    angles = rng.uniform(0, 2 * np.pi) + np.arange(number) * 2 * np.pi / number
    away = 0.3 * cell
    centres = [(away * np.cos(a), away * np.sin(a)) for a in angles]
    radii = 0.43 * cell * rng.uniform(0.85, 1.12, number)
    return _lobes(points, centres, list(radii), 0.2 * cell), "irregular"


def _round(points: Grid, rng: np.random.Generator, cell: float) -> tuple[Field, str]:
    """Lymphocyte: one round nucleus that nearly fills the cell, sometimes with a dent."""
    points = bent(points, rng, cells=5, amount=0.03 * cell)
    radius, turn = rng.uniform(0.76, 0.88) * cell, rng.uniform(0, 2 * np.pi)
    off = rng.uniform(0, 0.92 * cell - radius)
    shape = disc(
        points,
        off * np.cos(turn),
        off * np.sin(turn),
        radius,
        stretch=rng.uniform(1, 1.07),
        turn=turn,
    )
    if rng.random() < 0.3:
        dent = disc(points, -1.25 * cell * np.cos(turn), -1.25 * cell * np.sin(turn), 0.62 * cell)
        return np.minimum(shape, -dent), "indented"
    return shape, "round"


def _folded(points: Grid, rng: np.random.Generator, cell: float) -> tuple[Field, str]:
    """Monocyte: a kidney, a horseshoe or a folded blob, large and loose."""
    points = bent(points, rng, cells=6, amount=0.06 * cell)
    turn = rng.uniform(0, 2 * np.pi)
    if rng.random() < 0.35:
        angles = turn + np.linspace(0, rng.uniform(3.0, 3.9), 9)
        centres = [(0.42 * cell * np.cos(a), 0.42 * cell * np.sin(a)) for a in angles]
        radii = 0.27 * cell * (1 + 0.08 * rng.standard_normal(9))
        return _lobes(points, centres, list(radii), 0.2 * cell), "horseshoe"
    body = disc(
        points,
        0.08 * cell * np.cos(turn),
        0.08 * cell * np.sin(turn),
        rng.uniform(0.58, 0.68) * cell,
        stretch=rng.uniform(1.02, 1.18),
        turn=turn + np.pi / 2,
    )
    away = rng.uniform(0.78, 0.95) * cell
    dent = disc(points, -away * np.cos(turn), -away * np.sin(turn), rng.uniform(0.4, 0.52) * cell)
    return np.minimum(body, -joined([dent, dent - 0.1], 0.1)), "kidney"


KINDS = (
    CellKind(
        name="basophil",
        radius=(0.42, 0.5),
        ragged=0.035,
        cytoplasm=(214, 184, 206),
        cytoplasm_texture=0.25,
        nucleus=_veiled,
        nucleus_rgb=(98, 62, 138),
        chromatin=0.22,
        granules=(
            Granules(
                words="coarse purple",
                number=260,
                radius=0.052,
                rgb=(66, 28, 96),
                strength=0.9,
                over_nucleus=0.75,
            ),
        ),
    ),
    CellKind(
        name="eosinophil",
        radius=(0.5, 0.6),
        ragged=0.03,
        cytoplasm=(226, 186, 180),
        cytoplasm_texture=0.2,
        nucleus=_bilobed,
        nucleus_rgb=(92, 58, 128),
        chromatin=0.3,
        granules=(
            Granules(
                words="coarse red",
                number=760,
                radius=0.038,
                rgb=(204, 116, 100),
                strength=0.62,
                over_nucleus=0.06,
            ),
        ),
    ),
    CellKind(
        name="lymphocyte",
        radius=(0.34, 0.43),
        ragged=0.035,
        cytoplasm=(152, 158, 200),
        cytoplasm_texture=0.2,
        nucleus=_round,
        nucleus_rgb=(74, 42, 110),
        chromatin=0.24,
        granules=(),
    ),
    CellKind(
        name="monocyte",
        radius=(0.54, 0.68),
        ragged=0.07,
        cytoplasm=(184, 170, 190),
        cytoplasm_texture=0.24,
        nucleus=_folded,
        nucleus_rgb=(104, 64, 126),
        chromatin=0.26,
        granules=(
            Granules(words="fine dust", number=240, radius=0.018, rgb=(150, 96, 150), strength=0.3),
        ),
        vacuoles=2.2,
    ),
    CellKind(
        name="neutrophil",
        radius=(0.48, 0.58),
        ragged=0.035,
        cytoplasm=(224, 194, 194),
        cytoplasm_texture=0.14,
        nucleus=_segmented,
        nucleus_rgb=(82, 48, 116),
        chromatin=0.28,
        granules=(
            Granules(words="fine pink", number=420, radius=0.02, rgb=(176, 112, 148), strength=0.4),
        ),
    ),
)
"""The classes in alphabetical order, which is also the order of their indices."""
