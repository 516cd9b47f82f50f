"""Rows are sampled as their file says: by weights, by another column, like real images."""

from collections import Counter
from pathlib import Path

import pytest
import yaml

from factory.errors import CatalogError, ConfigError, DataError, FactoryError
from factory.models.generator import Generator
from factory.real.sources import open_dataset
from factory.sample.columns import sampled
from factory.sample.table import read_rows
from tests.fakes.splits import split_of
from tests.sample.test_table import config, planned

CELLS = {
    "rows": 2000,
    "seed": 3,
    "columns": {
        "class_name": {"monocyte": 3, "lymphocyte": 1},
        "size": ["big", "small"],
        "stain": {
            "given": "class_name",
            "values": {"monocyte": ["dark"], "lymphocyte": {"pale": 1}},
        },
    },
}


def written(folder: Path, **changes: object) -> Path:
    path = folder / "cells.yaml"
    path.write_text(yaml.safe_dump(CELLS | changes))
    return path


def columns(**changes: object) -> dict[str, object]:
    return {**CELLS["columns"], **changes}  # type: ignore[dict-item]


def test_values_come_by_their_weights_and_by_what_decides_them(tmp_path: Path) -> None:
    names, rows = sampled(written(tmp_path))
    found = [row for _, row in rows]
    assert names == ("class_name", "size", "stain")
    assert len(found) == 2000
    classes = Counter(row["class_name"] for row in found)
    assert classes["monocyte"] == pytest.approx(1500, abs=100)
    assert Counter(row["size"] for row in found)["big"] == pytest.approx(1000, abs=120)
    assert {(row["class_name"], row["stain"]) for row in found} == {
        ("monocyte", "dark"),
        ("lymphocyte", "pale"),
    }


def test_a_file_is_the_same_rows_and_another_seed_others(tmp_path: Path) -> None:
    first = read_rows(written(tmp_path))
    assert read_rows(written(tmp_path)).digest == first.digest
    assert read_rows(written(tmp_path, seed=4)).digest != first.digest


def test_a_condition_keeps_rows_and_their_number(tmp_path: Path) -> None:
    no = "NOT (class_name = 'monocyte' AND size = 'small') AND guidance_scale > 1"
    wanted = columns(guidance_scale=[1, 2.5, 3])
    table = read_rows(written(tmp_path, rows=500, columns=wanted, where=no))
    assert table.num_images == 500
    assert {row.guidance_scale for row in table.rows} == {2.5, 3}
    found = {(row.class_name, row.attributes["size"]) for row in table.rows}
    assert ("monocyte", "small") not in found
    assert len(found) == 3


def real_table(folder: Path) -> Path:
    """Sixty cells whose shape hangs on their size, and two that are in no train part."""
    cells = open_dataset("smear:60?seed=1&size=16")
    rows = ["file,class,cell_size,shape"]
    for number, label in enumerate(cells.labels):
        cells.picture(number).save(folder / f"{number}.png")
        rows.append(f"{number}.png,{label},{('big', 'small')[number % 2]},{number % 2}")
    (folder / "metadata.csv").write_text("\n".join(rows) + "\n")
    dataset = open_dataset(str(folder / "metadata.csv"))
    split_of(dataset, train=0.6, val=0.2, test=0.2).save(folder / "split.json")
    return folder / "metadata.csv"


def test_real_columns_come_together_from_one_image_of_the_class(tmp_path: Path) -> None:
    data = real_table(tmp_path)
    label = open_dataset(str(data)).class_names[0]
    asked = {"class_name": [label], "cell_size": "real", "shape": "real"}
    place = {"data": str(data), "split": str(tmp_path / "split.json")}
    _, rows = sampled(written(tmp_path, rows=200, columns=asked, **place))
    found = {(row["cell_size"], row["shape"]) for _, row in rows}
    assert found <= {("big", "0"), ("small", "1")}
    _, rows = sampled(written(tmp_path, rows=300, columns={"class_name": "real"}, **place))
    assert {row["class_name"] for _, row in rows} == set(open_dataset(str(data)).class_names)


@pytest.mark.parametrize(
    ("changes", "kind", "words"),
    [
        ({"rows": 0}, ConfigError, "rows"),
        ({"column": {}}, ConfigError, "column"),
        ({"columns": {"size": []}}, ConfigError, "size"),
        ({"columns": {"size": {"big": -1}}}, ConfigError, "size"),
        ({"columns": {"size": {"big": 0}}}, ConfigError, "size"),
        ({"columns": {"count": [1]}}, ConfigError, "count"),
        ({"columns": {"a": {"given": "b", "values": {"x": ["y"]}}}}, DataError, "'b'"),
        ({"columns": {"a": {"given": "a", "values": {"x": ["y"]}}}}, DataError, "'a'"),
        ({"columns": {"size": "real"}}, DataError, "no data"),
        ({"columns": {"seed": ["many"]}}, DataError, "seed is 'many'"),
        ({"columns": {"seed": ["many"]}, "where": "true"}, DataError, "seed is 'many'"),
        ({"where": "size = 'huge'"}, DataError, "keeps 0 of 2,000 rows"),
        ({"where": "colour = 'red'"}, CatalogError, "colour"),
        ({"where": "true), 1) FROM rows; SELECT coalesce((true"}, CatalogError, "statements"),
        ({"where": "true), true) FROM rows UNION SELECT coalesce((1"}, CatalogError, "condition"),
        (
            {"where": "size IN (SELECT content FROM read_text('/etc/hostname'))"},
            CatalogError,
            "where",
        ),
    ],
)
def test_what_cannot_be_sampled_is_named(
    tmp_path: Path, changes: dict[str, object], kind: type[FactoryError], words: str
) -> None:
    with pytest.raises(kind, match=words):
        read_rows(written(tmp_path, **changes))


def test_sampled_rows_are_a_run_like_any_table(tiny: Generator, tmp_path: Path) -> None:
    run = planned(tiny, written(tmp_path, rows=40))
    assert run.config.num_images == 40
    assert {q.recipe.class_name for q in run.plan.quotas} == {"monocyte", "lymphocyte"}
    assert config(tiny, written(tmp_path)).table is not None
