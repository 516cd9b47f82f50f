"""A mixed folder: drawn images in the train part alone, at a ratio, each told for what it is."""

import csv
import json
from pathlib import Path

import pytest

from catalog import SampleSink, write_batch
from factory.errors import DataError, OutputError
from factory.evaluate.mix import mix
from factory.real.dataset import RealDataset
from factory.real.images import encode_png
from factory.real.splits import Split
from tests.fakes.rows import rows_table, sample_row
from tests.fakes.splits import split_of

DATA = "smear:40?seed=3&size=16"


@pytest.fixture(scope="module")
def real() -> RealDataset:
    from factory.real.sources import open_dataset

    return open_dataset(DATA)


@pytest.fixture(scope="module")
def place(real: RealDataset, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Split]:
    """A catalog of a drawn image for each real one, and a split."""
    folder = tmp_path_factory.mktemp("mix")
    split = split_of(real, train=0.5, val=0.25, test=0.25)
    split.save(folder / "split.json")
    rows = []
    for number, name in enumerate(real.labels):
        row = sample_row(
            number,
            class_name=name,
            class_id=real.class_names.index(name),
            class_names=list(real.class_names),
            soft_label=[float(name == own) for own in real.class_names],
            split_digest=split.digest,
            dataset_fingerprint=split.dataset,
        )
        image = {"bytes": encode_png(255 - real.image(number)), "path": f"{row['image_id']}.png"}
        rows.append(row | {"image": image})
    uri = folder / "catalog"
    batch = write_batch(uri, run_id="run-1", batch_index=0, rows=rows_table(rows))
    SampleSink(uri, "run-1").commit([batch])
    return folder, split


def call(folder: Path, out: Path, *words: str) -> None:
    known = ["--data", DATA, "--split", str(folder / "split.json")]
    known += ["--catalog", str(folder / "catalog"), "--out", str(out)]
    mix.main([*known, *words], standalone_mode=False)


def test_train_is_mixed_at_the_ratio_and_the_rest_is_real(
    place: tuple[Path, Split], tmp_path: Path, real: RealDataset
) -> None:
    folder, split = place
    call(folder, tmp_path / "mixed", "--ratio", "0.5")
    with (tmp_path / "mixed" / "metadata.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    drawn = [row for row in rows if row["is_synthetic"] == "True"]
    kept = {row["id"] for row in rows if row["is_synthetic"] == "False"}
    assert kept == set(real.ids)
    assert {row["part"] for row in drawn} == {"train"}
    by_class = {name: sum(row["class"] == name for row in drawn) for name in real.class_names}
    labels = dict(zip(real.ids, real.labels, strict=True))
    for name, count in by_class.items():
        held = sum(labels[i] == name for i in split.train)
        assert count == -(-held // 2)
    assert {row["model_id"] for row in drawn} == {"model-a"}
    assert all((tmp_path / "mixed" / row["file"]).is_file() for row in rows)
    told = json.loads((tmp_path / "mixed" / "mix.json").read_text())
    assert told["split_digest"] == split.digest
    assert b"synthetic" in (tmp_path / "mixed" / drawn[0]["file"]).read_bytes()
    with pytest.raises(OutputError, match="is there already"):
        call(folder, tmp_path / "mixed")


def test_too_few_drawn_images_are_refused_before_anything_is_written(
    place: tuple[Path, Split], tmp_path: Path
) -> None:
    with pytest.raises(DataError, match="too few synthetic images"):
        call(place[0], tmp_path / "mixed", "--ratio", "5")
    assert not (tmp_path / "mixed").exists()
