"""What the copy gate catches on real images, and what it refuses by mistake.

python -m tests.bench.bench_copies --data DATA --features efficientnet_lite0.safetensors [--seeds 3]
python -m tests.bench.bench_copies --data wbc_pbc_full --generator wbc-base --planted 300

Each seed divides the set anew: 60 % are what a generator may have learnt, 20 % calibrate the gate,
20 % judge it. Copies of the first are planted as they are, turned, blurred, recoloured, stored as
JPEG; the last were seen by nothing. The gate looks at pixels and features, without --features at
ring spectra. With --generator its own bank judges the images that it learnt, which its digests
tell, also after its autoencoder, and all others.
"""

import io
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path

import click
import numpy as np
from PIL import Image, ImageFilter

from factory.arrays import Images
from factory.evaluate.derived import round_trip
from factory.gate.copies import Compare, CopyGate
from factory.measure.bank import make_bank
from factory.measure.features import TURNS, turned
from factory.measure.intervals import proportion
from factory.measure.rings import RingBank
from factory.models.generator import RINGS_FILE, find_generator
from factory.real.dataset import RealDataset
from factory.real.duplicates import Digests
from factory.real.sources import open_dataset
from tests.fakes.splits import split_of

GATE = CopyGate(bank="in memory")
BLUR_SHARE, JPEG_QUALITY = 0.01, 85
RECOLOURED = np.array([0.95, 1.0, 1.04])
Found = dict[str, list[bool]]


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


def refused(images: Images, bank: Compare) -> list[bool]:
    return [not verdict.passed for verdict in GATE.judge(images, bank)]


def plant(images: Images, unseen: Images, bank: Compare, found: Found) -> None:
    """Add what the gate refuses of copies of images that were learnt, and of unseen ones."""
    for name, change in CHANGES.items():
        found.setdefault(name, []).extend(refused(change(images), bank))
    found.setdefault("unseen", []).extend(refused(unseen, bank))


def divided(dataset: RealDataset, seed: int, *, size_px: int, features: Path | None) -> tuple:
    """Return a bank of 60 % of the images, their ids, and those of the 20 % that nothing saw."""
    split = split_of(dataset, seed=seed, train=0.6, val=0.2, test=0.2)
    if features is None:
        learnt = dataset.array(size_px, list(split.train))
        return RingBank.of([learnt], split.digest), split.train, split.test
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder) / "bank"
        bank = make_bank(place, dataset, split, size_px=size_px, weights=features)
        return bank, split.train, split.test


def learnt_by(name: str, dataset: RealDataset) -> tuple:
    """Return the bank that came with a generator, and the ids that it learnt and did not learn."""
    generator = find_generator(name)
    codes = {code.tobytes() for code in generator.seen.codes.T}

    def known(image_id: str) -> bool:
        picture = dataset.picture(dataset.index_of(image_id))
        return Digests.of([picture]).codes.T[0].tobytes() in codes

    told = {image_id: known(image_id) for image_id in dataset.ids}
    seen, unseen = ([i for i in dataset.ids if told[i] is own] for own in (True, False))
    return RingBank.load(generator.folder / RINGS_FILE), seen, unseen


@click.command()
@click.option("--data", required=True, help="Real images, see `factory real`.")
@click.option("--features", type=click.Path(path_type=Path, exists=True))
@click.option("--generator", help="Its own bank, and the images that it learnt.")
@click.option("--size-px", default=64, show_default=True)
@click.option("--planted", default=100, show_default=True, help="Images of each kind and seed.")
@click.option("--seeds", default=3, show_default=True)
def main(
    data: str, features: Path | None, generator: str | None, size_px: int, planted: int, seeds: int
) -> None:
    """Print the share that is refused of each kind of copy, and of unseen images."""
    dataset = open_dataset(data, label="class") if generator else open_dataset(data)
    found: Found = {}
    for seed in range(1 if generator else seeds):
        if generator:
            bank, learnt, others = learnt_by(generator, dataset)
        else:
            bank, learnt, others = divided(dataset, seed, size_px=size_px, features=features)
        rng = np.random.Generator(np.random.Philox(seed))
        images = dataset.array(size_px, rng.permutation(learnt)[:planted].tolist())
        plant(images, dataset.array(size_px, list(others)), bank, found)
        if generator:
            found["through its autoencoder"] = refused(round_trip(images, generator), bank)
    for name, verdicts in found.items():
        click.echo(f"{name:24} {proportion(sum(verdicts), len(verdicts))}  (n {len(verdicts)})")


if __name__ == "__main__":
    main()
