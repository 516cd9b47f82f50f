"""Paint one stained cell among red cells, as light sees it: stains absorb, layers multiply.

Colours are optical densities per channel (Beer-Lambert): overlapping cells darken each other the
way they do under a microscope, and a stain is moved by scaling its density.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFilter

from factory.real.smear_cells import CellKind, Granules, Rgb
from factory.real.smear_fields import Field, Grid, bent, cover, disc, grid, noise, rim, window

BACKGROUND, CYTOPLASM, NUCLEUS = 0, 1, 2
"""Mask values."""
GLASS = np.array([252, 230, 206], np.float32)
"""An unstained slide in the warm light of a CellaVision camera, sRGB."""
COOL_GLASS = np.array([226, 226, 238], np.float32)
RED_CELL: Rgb = (206, 174, 168)
PLATELET: Rgb = (150, 110, 160)


@dataclass(frozen=True, slots=True, kw_only=True)
class Scene:
    """What the domain decides, for one slide: see `factory.real.smear.SmearStyle` for ranges."""

    stain_hue: float
    stain_strength: float
    zoom: float
    background: float
    red_cells: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Painted:
    """A cell's pixels (H, W, 3), its exact mask (H, W) and what it shows, in words."""

    pixels: NDArray[np.uint8]
    mask: NDArray[np.uint8]
    nucleus_shape: str
    radius: float


def paint(kind: CellKind, scene: Scene, rng: np.random.Generator, size_px: int) -> Painted:
    """Return one cell of `kind`; equal rng states give equal cells at every size."""
    oversample = max(2, -(-160 // size_px)) if size_px < 160 else 2
    n = size_px * oversample
    points = grid(n)
    radius = rng.uniform(*kind.radius) * scene.zoom
    centre = rng.normal(0, 0.05, 2)
    local = points.moved(-centre[0], -centre[1])
    outline = _outline(kind, local, rng, radius)
    nucleus, shape = kind.nucleus(local, rng, radius)
    nucleus = np.minimum(nucleus, outline - 0.03 * radius)  # never outside its cell

    around = _neighbours(points, scene, rng, centre, radius)
    inside = cover(outline, 0.035)[..., None]
    density = around * (1 - 0.92 * inside) + _cell(kind, outline, nucleus, local, rng, radius)
    density *= scene.stain_strength * _hue_gains(scene.stain_hue)
    light = _light(points, scene, rng) * np.exp(-density)
    return Painted(
        pixels=_exposed(light, rng, size_px),
        mask=_mask(outline, nucleus, size_px),
        nucleus_shape=shape,
        radius=radius / scene.zoom,
    )


def density(rgb: Rgb) -> NDArray[np.float32]:
    """Return the optical density (3,) that makes glass look like `rgb`."""
    return np.log(GLASS / np.array(rgb, np.float32)).astype(np.float32)


def _outline(kind: CellKind, local: Grid, rng: np.random.Generator, radius: float) -> Field:
    points = bent(local, rng, cells=5, amount=kind.ragged * radius * 1.6)
    points = bent(points, rng, cells=14, amount=kind.ragged * radius * 0.35)
    stretch, turn = rng.uniform(1.0, 1.06 + kind.ragged), rng.uniform(0, np.pi)
    return disc(points, 0, 0, radius, stretch=stretch, turn=turn)


def _cell(
    kind: CellKind,
    outline: Field,
    nucleus: Field,
    local: Grid,
    rng: np.random.Generator,
    radius: float,
) -> NDArray[np.float32]:
    """Return the optical density (n, n, 3) of cytoplasm, granules and nucleus."""
    n = len(outline)
    inside, core = cover(outline, 0.035), cover(nucleus, 0.03)
    grain = 1 + kind.cytoplasm_texture * (0.6 * noise(rng, n, 10) + 0.7 * noise(rng, n, 40))
    clear = 1 - _vacuoles(kind, outline, local, rng, radius)
    layer = inside * (1 - core) * (np.clip(grain, 0.2, None) + 0.55 * rim(outline, 0.03)) * clear
    total = layer[..., None] * density(kind.cytoplasm)

    clumps = 0.4 * noise(rng, n, 18) + 0.7 * noise(rng, n, 40) + 0.5 * noise(rng, n, 64)
    chromatin = 1 + kind.chromatin * np.tanh(clumps) + 0.18 * rim(nucleus, 0.035)
    total += (core * (0.4 + 0.6 * clear) * chromatin)[..., None] * density(kind.nucleus_rgb)

    for granules in kind.granules:
        dots = _dots(granules, outline, local, rng, radius)
        veil = dots * inside * clear * (1 - core * (1 - granules.over_nucleus))
        total += veil[..., None] * density(granules.rgb)
    return total.astype(np.float32)


def _dots(
    granules: Granules, outline: Field, local: Grid, rng: np.random.Generator, radius: float
) -> Field:
    """Return granules as a field 0..strength, scattered evenly over the whole cell."""
    n = len(outline)
    away = 1.02 * radius * np.sqrt(rng.random(granules.number))
    angle = rng.uniform(0, 2 * np.pi, granules.number)
    size = granules.radius * radius * rng.uniform(0.7, 1.25, granules.number)
    depth = rng.uniform(0.45, 1.0, granules.number)
    order = np.argsort(depth)  # dark granules on top, whatever order they were drawn in
    half, left, top = n / 2, -local.x[0, 0] * n / 2, -local.y[0, 0] * n / 2
    canvas = Image.new("L", (n, n))
    pen = ImageDraw.Draw(canvas)
    for i in order:
        x = left + away[i] * np.cos(angle[i]) * half
        y = top + away[i] * np.sin(angle[i]) * half
        r = max(size[i] * half, 0.5)
        pen.ellipse((x - r, y - r, x + r, y + r), fill=int(255 * depth[i]))
    soft = canvas.filter(ImageFilter.GaussianBlur(0.35 * granules.radius * radius * half))
    return np.asarray(soft, np.float32) * np.float32(granules.strength / 255)


def _vacuoles(
    kind: CellKind, outline: Field, local: Grid, rng: np.random.Generator, radius: float
) -> Field:
    """Return how clear the cytoplasm is, 0..1: bubbles of kinds that have them."""
    clear = np.zeros_like(outline)
    for _ in range(int(rng.poisson(kind.vacuoles))):
        angle, away = rng.uniform(0, 2 * np.pi), radius * rng.uniform(0.45, 0.85)
        size = radius * rng.uniform(0.05, 0.1)
        bubble = disc(local, away * np.cos(angle), away * np.sin(angle), size)
        clear = np.maximum(clear, 0.85 * cover(bubble, 0.03))
    return clear * cover(outline - 0.05, 0.05)


def _neighbours(
    points: Grid, scene: Scene, rng: np.random.Generator, centre: NDArray[np.float64], radius: float
) -> NDArray[np.float32]:
    """Return the density (n, n, 3) of red cells and platelets around a white cell."""
    red = np.zeros_like(points.x)
    bend = bent(points, rng, cells=6, amount=0.02)
    placed = [(float(centre[0]), float(centre[1]), radius)]
    for _ in range(int(rng.poisson(22 * scene.red_cells / scene.zoom**2))):
        x, y = rng.uniform(-1, 1, 2) * (1 + 0.35 * scene.zoom)
        size = scene.zoom * rng.uniform(0.26, 0.34)
        habit, overlap = rng.random(5), rng.uniform(0.6, 1.05)
        # Red cells lie side by side, at times over one another, never over the white cell.
        gaps = [np.hypot(x - px, y - py) / (size + ps) for px, py, ps in placed]
        if gaps[0] > 1 and min(gaps[1:], default=1) > overlap:
            placed.append((x, y, size))
            rows, columns = window(x, y, 1.3 * size, len(red))
            near = Grid(x=bend.x[rows, columns], y=bend.y[rows, columns])
            red[rows, columns] += _red_cell(near, habit, x, y, size)
    red = np.minimum(red, 1.15 + 0.35 * np.tanh(red - 1.15))
    total = red[..., None] * density(RED_CELL)
    for _ in range(int(rng.poisson(0.8 * scene.red_cells))):
        x, y = rng.uniform(-1, 1, 2)
        size = scene.zoom * rng.uniform(0.045, 0.08)
        speck = disc(bend, x, y, size, stretch=rng.uniform(1, 1.3), turn=rng.uniform(0, 3))
        texture = 1 + 0.4 * np.tanh(noise(rng, len(red), 60))
        if np.hypot(x - centre[0], y - centre[1]) > radius + size:
            total += (cover(speck, 0.05) * texture)[..., None] * density(PLATELET)
    return np.asarray(total, np.float32)


def _red_cell(points: Grid, habit: NDArray[np.float64], x: float, y: float, size: float) -> Field:
    """Return the thickness of one red cell: a biconcave disc, pale in the middle.

    `habit` (5,) in 0..1 says how oval, turned, wide and deep its hollow, and thick it is.
    """
    depth = disc(points, x, y, size, stretch=1 + 0.14 * habit[0], turn=np.pi * habit[1])
    from_middle = (size - depth) / np.float32((0.42 + 0.13 * habit[2]) * size)
    hollow = np.exp(-np.square(np.square(from_middle)))
    dish = 1 - np.float32(0.3 + 0.55 * habit[3]) * hollow + 0.12 * rim(depth - 0.03, 0.03)
    thickness = cover(depth, 0.04) * dish * np.float32(0.75 + 0.3 * habit[4])
    return np.asarray(thickness, np.float32)


def _hue_gains(stain_hue: float) -> NDArray[np.float32]:
    """Return channel gains (3,) of density: -1 blue-green stain, +1 red-brown stain."""
    return np.array([1 - 0.45 * stain_hue, 1, 1 + 0.45 * stain_hue], np.float32)


def _light(points: Grid, scene: Scene, rng: np.random.Generator) -> NDArray[np.float32]:
    """Return the lit empty slide (n, n, 3) in 0..1: colour, uneven lamp, faint protein film."""
    colour = GLASS + (COOL_GLASS - GLASS) * np.float32(scene.background)
    angle = rng.uniform(0, 2 * np.pi)
    lamp = 1 + 0.012 * (points.x * np.cos(angle) + points.y * np.sin(angle))
    film = 1 + 0.006 * noise(rng, len(points.x), 6)
    return np.asarray((lamp * film)[..., None] * colour / 255, np.float32)


def _exposed(
    light: NDArray[np.float32], rng: np.random.Generator, size_px: int
) -> NDArray[np.uint8]:
    """Return the camera's picture: mean light per pixel and a little sensor noise."""
    n = len(light)
    step = n // size_px
    mean = light.reshape(size_px, step, size_px, step, 3).mean(axis=(1, 3))
    grain = rng.normal(0, 0.007, mean.shape).astype(np.float32)
    return np.asarray(np.clip(mean + grain, 0, 1) * 255 + 0.5, np.uint8)


def _mask(outline: Field, nucleus: Field, size_px: int) -> NDArray[np.uint8]:
    """Return the class that covers most of each pixel."""
    step = len(outline) // size_px

    def share(inside: NDArray[np.bool_]) -> Field:
        blocks = inside.reshape(size_px, step, size_px, step)
        return np.asarray(blocks.mean(axis=(1, 3)), np.float32)

    cell, core = share(outline > 0), share(nucleus > 0)
    mask = np.where(cell > 0.5, CYTOPLASM, BACKGROUND)
    return np.where((core > cell - core) & (cell > 0.5), NUCLEUS, mask).astype(np.uint8)
