"""What the copy gate catches on real images, and what it refuses by mistake.

python -m tests.bench.bench_copies --data DATA --features efficientnet_lite0.safetensors [--seeds 3]

Each seed divides the set anew: 60 % are what a generator may have learnt, 20 % calibrate the gate,
20 % judge it. Copies of the first are planted as they are, turned, blurred, recoloured, stored as
JPEG; the last were seen by nothing. The gate looks at pixels and features.
"""

import io
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path

import click
import numpy as np
from PIL import Image, ImageFilter

from factory.gate.copies import CopyGate
from factory.measure.bank import CopyBank, make_bank
from factory.measure.features import TURNS, Images, turned
from factory.measure.intervals import proportion
from factory.real.sources import open_dataset
from tests.fakes.splits import split_of

GATE = CopyGate(bank="in memory")
BLUR_SHARE, JPEG_QUALITY = 0.01, 85
RECOLOURED = np.array([0.95, 1.0, 1.04])


def each(change: Callable[[Image.Image], Image.Image]) -> Callable[[Images], Images]:
    """Return `change` for arrays (N, H, W, 3)."""
    return lambda images: np.stack([np.asarray(change(Image.fromarray(i))) for i in images])


def blurred(image: Image.Image) -> Image.Image:
    return image.filter(ImageFilter.GaussianBlur(BLUR_SHARE * image.width))


def as_jpeg(image: Image.Image) -> Image.Image:
    stored = io.BytesIO()
    image.save(stored, "JPEG", quality=JPEG_QUALITY)
    return Image.open(stored).convert("RGB")


def recoloured(images: Images) -> Images:
    changed: Images = np.clip(images * RECOLOURED, 0, 255).astype(np.uint8)
    return changed


CHANGES: Mapping[str, Callable[[Images], Images]] = {
    "as it is": lambda images: images,
    **{f"turned, way {n}": lambda i, n=n: turned(i, n) for n in range(1, TURNS)},  # type: ignore[misc]
    "blurred": each(blurred),
    "recoloured": recoloured,
    "as JPEG": each(as_jpeg),
}


def refused(images: Images, bank: CopyBank) -> list[bool]:
    return [not verdict.passed for verdict in GATE.judge(images, bank)]


@click.command()
@click.option("--data", required=True, help="Real images, see `factory real`.")
@click.option("--features", required=True, type=click.Path(path_type=Path, exists=True))
@click.option("--size-px", default=64, show_default=True)
@click.option("--planted", default=100, show_default=True, help="Images of each kind and seed.")
@click.option("--seeds", default=3, show_default=True)
def main(data: str, features: Path, size_px: int, planted: int, seeds: int) -> None:
    """Print the share that is refused of each kind of copy, and of unseen images."""
    dataset = open_dataset(data)
    found: dict[str, list[bool]] = {}
    for seed in range(seeds):
        split = split_of(dataset, seed=seed, train=0.6, val=0.2, test=0.2)
        with tempfile.TemporaryDirectory() as folder:
            bank = make_bank(
                Path(folder) / "bank",
                dataset,
                split,
                size_px=size_px,
                weights=features,
            )
            rng = np.random.Generator(np.random.Philox(seed))
            chosen = rng.permutation(split.train)[:planted].tolist()
            images = dataset.array(size_px, chosen)
            for name, change in CHANGES.items():
                found.setdefault(name, []).extend(refused(change(images), bank))
            unseen = dataset.array(size_px, list(split.test))
            found.setdefault("unseen", []).extend(refused(unseen, bank))
    for name, verdicts in found.items():
        click.echo(f"{name:16} {proportion(sum(verdicts), len(verdicts))}  (n {len(verdicts)})")


if __name__ == "__main__":
    main()
