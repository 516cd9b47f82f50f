"""`factory mix`: real and drawn images in one folder at a ratio, for trainings elsewhere.

OUT/train/CLASS/ID.png      real images of the train part, and drawn ones
OUT/val, OUT/test           real images alone
OUT/masks/...               beside them, where there are masks
OUT/metadata.csv            file, class, part, and whether and by which model it was drawn
OUT/mix.json                what was chosen, with the digests of split and training set
"""

import csv
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from catalog.commands import parse_place, storage_option
from factory.command_line import tell_next
from factory.real.options import FILE, FOLDER, column_options, opened
from factory.terminal import say

if TYPE_CHECKING:  # Arrow and the rest wait until a command runs
    from catalog import Catalog
    from factory.evaluate.arms import Manifest
    from factory.real.dataset import RealDataset
    from factory.real.splits import Split

Told = dict[str, object]
AT_ONCE = 256
"""Drawn images that are in memory together."""
COLUMNS = ("file", "mask", "class", "part", "is_synthetic", "id", "model_id", "soft_label")


@dataclass(frozen=True, slots=True, kw_only=True)
class Mixed:
    """What was written: images of the train part by where they come from."""

    num_real: int
    num_synthetic: int
    digest: str
    """Names the training set."""


@click.command()
@click.option("--data", required=True, metavar="URI", help="Real images.")
@column_options
@click.option("--split", "split_file", required=True, type=FILE)
@click.option("--catalog", "uri", required=True, metavar="URI", help="Drawn ones.")
@storage_option
@click.option(
    "--ratio",
    type=click.FloatRange(min=0, min_open=True),
    metavar="R",
    help="Drawn images for each real one of a class. Default: 1, or as many as there are.",
)
@click.option("--where", metavar="SQL", help="Condition on drawn ones, e.g. copy_score > 1.")
@click.option(
    "--generator-split",
    "others",
    type=FILE,
    multiple=True,
    help="Split of --data that a generator was trained under, if another one.",
)
@click.option("--seed", default=0, type=click.IntRange(0), help="Chooses the drawn ones.")
@click.option("--out", required=True, type=FOLDER, help="A new folder.")
def mix(
    data: str,
    split_file: Path,
    uri: str,
    storage: tuple[str, ...],
    ratio: float | None,
    where: str | None,
    others: tuple[Path, ...],
    seed: int,
    out: Path,
    **columns: Any,
) -> None:
    """Write real and accepted drawn images into a folder, R drawn ones for each real one.

    Only the train part is mixed; val and test hold real images alone. Images of a generator that
    saw a held-out one are refused, as in a study.

    \b
    factory mix --data cells --split split.json --catalog wbc-catalog --ratio 1 --out mixed
    """  # noqa: D301 -- \b is click's mark
    from factory.atomic import check_writable
    from factory.errors import OutputError
    from factory.real.splits import load_split

    if out.exists():
        raise OutputError(f"{str(out)!r} is there already", remedy="Name a new folder")
    check_writable(out)
    split = load_split(split_file)
    generator_splits = tuple(load_split(path) for path in others)
    dataset = opened(data, columns)

    from catalog import Catalog
    from factory.config import parse_config
    from factory.evaluate.config import StudyConfig
    from factory.evaluate.study import Inputs, plan_study

    stored: dict[str, Any] = {
        "name": "mix",
        "arms": {"real": {"design": "real"}, "mixed": {"design": "ratio", "ratio": ratio}},
        "seeds": [seed],
        "synthetic": {"where": where} if where else {},
    }
    catalog = Catalog(parse_place(uri, storage))
    planned = plan_study(
        parse_config(StudyConfig, stored, where="the options"),
        Inputs(
            dataset=dataset, splits=(split,), catalog=catalog, generator_splits=generator_splits
        ),
    )
    for note in planned.notes:
        say(note)
    chosen = next(unit.manifest for unit in planned.units if unit.manifest.arm == "mixed")
    made = write_mix(out, chosen, planned.pool.model_of, dataset, split, catalog)
    say(f"{out}  train: {made.num_real} real and {made.num_synthetic} drawn images, {made.digest}")
    tell_next(
        "evaluate", "--data", data, "--split", split_file, "--catalog", uri, "--output", "study"
    )


def write_mix(
    folder: Path,
    manifest: "Manifest",
    model_of: Mapping[str, str],
    dataset: "RealDataset",
    split: "Split",
    catalog: "Catalog",
) -> Mixed:
    """Write the images of a training set and the held-out real ones; the folder appears whole.

    Args:
        folder: new.
        manifest: of an arm.
        model_of: model by drawn image.
        dataset: the real images.
        split: of `dataset`.
        catalog: holds the drawn ones.

    Raises:
        OutputError: the folder is there, or cannot be written.
    """
    from factory.atomic import new_folder

    with new_folder(folder) as work, (work / "metadata.csv").open("x", newline="") as file:
        rows = csv.DictWriter(file, COLUMNS)
        rows.writeheader()
        for row in _rows(work, manifest, model_of, dataset, split, catalog):
            rows.writerow(row)
        told = manifest.to_json() | {"split_digest": split.digest, "version": catalog.version}
        (work / "mix.json").write_text(json.dumps(told, indent=1) + "\n")
    return Mixed(
        num_real=manifest.num_real,
        num_synthetic=manifest.num_synthetic,
        digest=manifest.digest,
    )


def _rows(
    work: Path,
    manifest: "Manifest",
    model_of: Mapping[str, str],
    dataset: "RealDataset",
    split: "Split",
    catalog: "Catalog",
) -> Iterator[Told]:
    """Write every image and its mask, and yield its line of metadata."""
    from catalog.boundary import file_names
    from catalog.export.png_text import as_synthetic
    from factory.real.images import encode_png

    labels = dict(zip(dataset.ids, dataset.labels, strict=True))
    drawn = [row for row in manifest.rows if row.synthetic]
    names = file_names([*dataset.ids, *(row.id for row in drawn)])
    folders = file_names(sorted({*manifest.class_names, *dataset.class_names}))

    def put(part: str, label: str, image_id: str, png: bytes, mask: bytes | None) -> Told:
        place = Path(part) / folders[label] / f"{names[image_id]}.png"
        places = {place: png, **({Path("masks") / place: mask} if mask is not None else {})}
        for at, content in places.items():
            (work / at).parent.mkdir(parents=True, exist_ok=True)
            (work / at).write_bytes(content)
        return {
            "file": str(place),
            "mask": "" if mask is None else str(Path("masks") / place),
            "class": label,
            "part": part,
            "is_synthetic": part == "train" and image_id not in labels,
            "id": image_id,
        }

    kept = {row.id for row in manifest.rows if not row.synthetic}
    for part, ids in (("train", split.train), ("val", split.val), ("test", split.test)):
        for image_id in ids:
            if part == "train" and image_id not in kept:
                continue
            number = dataset.index_of(image_id)
            mask = dataset.mask(number)
            image = encode_png(dataset.image(number))
            encoded = None if mask is None else encode_png(mask)
            yield put(part, labels[image_id], image_id, image, encoded)
    for start in range(0, len(drawn), AT_ONCE):
        some = drawn[start : start + AT_ONCE]
        cells = catalog.rows([row.id for row in some], columns=["image", "mask"]).to_pylist()
        for row, cell in zip(some, cells, strict=True):
            likeliest = max(range(len(row.soft_label)), key=row.soft_label.__getitem__)
            label, mask = manifest.class_names[likeliest], (cell["mask"] or {}).get("bytes")
            told = put("train", label, row.id, as_synthetic(cell["image"]["bytes"], row.id), mask)
            weights = " ".join(f"{weight:g}" for weight in row.soft_label)
            yield {**told, "model_id": model_of[row.id], "soft_label": weights}
