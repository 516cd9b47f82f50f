"""Images of people whom the factory never met: cells in class folders, glands, embryos."""

import csv
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

CELLS = {"band": 9, "blast": 2, "eosinophil": 8, "monocyte": 10, "neutrophil": 12}
"""Images by class: one class has two, as happens."""
PATIENTS, GLANDS_EACH = 6, 4
EMBRYOS_EACH = 7


def write_cells(root: Path) -> Path:
    """Write class folders of cells: JPEG and PNG, no two of one size."""
    for kind, (name, count) in enumerate(CELLS.items()):
        for n in range(count):
            rng = np.random.default_rng([1, kind, n])
            pixels = _ground(rng, (24 + n % 5, 26 + n % 3), (235, 225, 160))
            inside = _disc(pixels.shape[:2], rng, 0.22 + 0.03 * kind)
            pixels[inside] = _ground(rng, pixels.shape[:2], (150 - 20 * kind, 70, 120 + 15 * kind))[
                inside
            ]
            _save(root / name / f"IMG {n:03}.{'jpg' if n % 3 else 'PNG'}", pixels)
    return root


def write_glands(root: Path) -> Path:
    """Write images/, masks/ that number glands, and metadata.csv with the patients."""
    rows = []
    for n in range(PATIENTS * GLANDS_EACH):
        rng = np.random.default_rng([2, n])
        name = ("benign", "malignant")[n % 2]
        pixels = _ground(rng, (32, 40), (200, 140, 190))
        mask = np.zeros((32, 40), np.uint8)
        for number in range(1, 3 + n % 4):
            inside = _disc(mask.shape, rng, 0.12, apart=0.35)
            mask[inside] = number
            pixels[inside] = _ground(rng, mask.shape, (120 + 40 * (n % 2), 60, 130))[inside]
        file = f"{name}/slide {n}.jpg"
        _save(root / "images" / file, pixels)
        _save((root / "masks" / file).with_suffix(".png"), mask)
        rows.append(
            {
                "file": f"images/{file}",
                "class": name,
                "mask": f"masks/{file.removesuffix('.jpg')}.png",
                "patient": f"P{n // GLANDS_EACH}",
            }
        )
    with (root / "metadata.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return root


def write_embryos(root: Path) -> Path:
    """Write fourteen grey rings in two class folders."""
    for kind, name in enumerate(("good", "poor")):
        for n in range(EMBRYOS_EACH):
            rng = np.random.default_rng([3, kind, n])
            pixels = _ground(rng, (40, 40), (120, 120, 120)).mean(axis=2).astype(np.uint8)
            pixels[_disc(pixels.shape, rng, 0.4)] += 60
            pixels[_disc(pixels.shape, rng, 0.3 - 0.1 * kind)] -= 40
            _save(root / name / f"{n}.jpg", pixels)
    return root


def _ground(
    rng: np.random.Generator, shape: tuple[int, int], colour: tuple[int, int, int]
) -> NDArray[np.uint8]:
    """Return (H, W, 3): a colour that drifts over the field, and a grain."""
    drift = Image.fromarray(rng.integers(0, 60, (4, 4, 3), np.uint8)).resize(shape[::-1])
    noisy = np.array(colour) + np.asarray(drift) - 30 + rng.normal(0, 2, (*shape, 3))
    return np.clip(noisy, 0, 255).astype(np.uint8)


def _disc(
    shape: tuple[int, int], rng: np.random.Generator, radius: float, *, apart: float = 0.12
) -> NDArray[np.bool_]:
    """Return where a disc lies whose centre is `apart` from the middle at most, in sides."""
    rows, columns = np.mgrid[: shape[0], : shape[1]] / min(shape)
    middle = np.array(shape) / min(shape) / 2 + rng.uniform(-apart, apart, 2)
    inside: NDArray[np.bool_] = np.hypot(rows - middle[0], columns - middle[1]) < radius
    return inside


def _save(path: Path, pixels: NDArray[np.uint8]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path, quality=92)
