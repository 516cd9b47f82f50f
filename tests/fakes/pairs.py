"""A small real set of image + mask pairs, made of discs, with its split file."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from catalog import Catalog, SampleSink, write_batch
from factory.real.images import encode_png
from factory.real.sources import open_dataset
from factory.real.splits import Split
from tests.fakes.rows import rows_table, sample_row


def disc_pair(
    number: int, *, size_px: int = 16, values: Sequence[int] = (0, 255)
) -> tuple[np.ndarray, np.ndarray]:
    """Return an image (S, S, 3) and a mask (S, S): a coloured disc for each value but the first."""
    rng = np.random.default_rng(number)
    rows, columns = np.mgrid[:size_px, :size_px] / size_px
    row, column = rng.uniform(0.35, 0.65, 2)
    distance = np.hypot(rows - row, columns - column)
    image = np.full((size_px, size_px, 3), (200, 170, 180), np.int64)
    mask = np.full((size_px, size_px), values[0], np.uint8)
    for step, value in enumerate(values[1:]):
        inside = distance < rng.uniform(0.28, 0.36) / (1 + step)
        image[inside] = (60 + 20 * number % 60, 40 + 70 * step, 120)
        mask[inside] = value
    noisy = np.clip(image + rng.integers(-6, 7, image.shape), 0, 255)
    return noisy.astype(np.uint8), mask


def write_pairs(
    root: Path,
    *,
    count: int = 8,
    classes: Sequence[str] = ("polyp",),
    size_px: int = 16,
    values: Sequence[int] = (0, 255),
) -> tuple[str, str]:
    """Write `count` pairs and a split (the last two images held back); return both places."""
    for number in range(count):
        label = classes[number % len(classes)]
        for kind, pixels in zip(
            ("images", "masks"), disc_pair(number, size_px=size_px, values=values), strict=True
        ):
            path = root / "data" / kind / label / f"{number}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(encode_png(pixels))
    dataset = open_dataset(root / "data")
    ids = sorted(dataset.ids, key=lambda image_id: int(image_id.split("/")[-1]))
    split = Split(
        dataset=dataset.fingerprint,
        seed=0,
        train=tuple(sorted(ids[:-2])),
        val=(ids[-2],),
        test=(ids[-1],),
    )
    split.save(root / "split.json")
    return str(root / "data"), str(root / "split.json")


def publish_pairs(
    uri: Path, split: Split, *, masks: bool, names: Sequence[str] = ("polyp",)
) -> Catalog:
    """Write a catalog of ten drawn pairs a class, or of images alone, by a generator of `split`."""
    rows = []
    for number in range(10 * len(names)):
        own = number % len(names)
        image, mask = disc_pair(100 + number, size_px=32, values=(0, 1, 2))
        row = sample_row(number, class_name=names[own], class_id=own)
        label = [float(own == other) for other in range(len(names))]
        row |= {"class_names": list(names), "soft_label": label}
        row |= {"height_px": 32, "width_px": 32}
        row |= {"split_digest": split.digest, "dataset_fingerprint": split.dataset}
        row["image"] = {"bytes": encode_png(image), "path": f"{row['image_id']}.png"}
        if masks:
            row["mask"] = {"bytes": encode_png(mask), "path": f"{row['image_id']}-mask.png"}
        rows.append(row)
    batch = write_batch(uri, run_id="run-1", batch_index=0, rows=rows_table(rows))
    SampleSink(uri, "run-1").commit([batch])
    return Catalog(uri)
