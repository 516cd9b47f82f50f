"""Rows of a table become images: a recipe each, kept with its images, named where it is wrong."""

import json
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from catalog.query import sql
from catalog.schema import SAMPLES
from catalog.table import Catalog
from factory.config import load_config
from factory.errors import ConfigError, DataError, FactoryError
from factory.judge.config import JudgeConfig
from factory.models.generator import Generator, find_generator
from factory.sample.batches import draw_here
from factory.sample.config import GenerateConfig
from factory.sample.plan import plan_further
from factory.sample.prepare import Run, make_plan, prepare, prepare_resume
from factory.sample.regenerate import regenerate_images
from factory.sample.row_prompts import with_table
from factory.sample.run import execute
from factory.sample.session import start_run
from factory.sample.table import read_rows
from factory.search.config import SweepConfig
from tests.sample.test_prepare import config as plain

CELLS = """class_name,size,stain,guidance_scale,seed,count
monocyte,big,dark,,,2
monocyte,small,dark,3,,
lymphocyte,big,,,5,1
"""
CLASSES = {"monocyte": "a {size} monocyte", "lymphocyte": "a {size} {class_name}"}


@pytest.fixture
def cells(tmp_path: Path) -> Path:
    path = tmp_path / "cells.csv"
    path.write_text(CELLS)
    return path


def config(tiny: Generator, table: Path, **changes: object) -> GenerateConfig:
    known = {"model": str(tiny.folder), "num_images": 99, "classes": CLASSES, "seed": 11}
    short = {"num_inference_steps": 2, "batch_size": 4, "table": str(table)}
    return GenerateConfig.model_validate(known | short | changes)


def planned(tiny: Generator, table: Path, **changes: object) -> Run:
    return prepare(config(tiny, table, **changes), "nowhere")


def test_a_row_is_a_recipe_with_its_prompt_scale_seed_and_number(
    tiny: Generator, cells: Path
) -> None:
    run = planned(tiny, cells)
    found = [
        (r.class_name, r.prompt, r.guidance_scale, r.seed, json.loads(str(r.attributes)), q.count)
        for q in run.plan.quotas
        for r in [q.recipe]
    ]
    assert found == [
        ("monocyte", "a big monocyte", 2, 11, {"size": "big", "stain": "dark"}, 2),
        ("monocyte", "a small monocyte", 3, 11, {"size": "small", "stain": "dark"}, 1),
        ("lymphocyte", "a big lymphocyte", 2, 5, {"size": "big"}, 1),
    ]
    assert run.config.num_images == run.plan.num_images == 4
    assert run.said == ("in no prompt, and only kept with the images: stain",)
    assert [q.recipe.class_id for q in run.plan.quotas] == [1, 1, 0]


def test_rows_of_equal_scale_share_batches_whatever_their_seeds(
    tiny: Generator, cells: Path
) -> None:
    plan = planned(tiny, cells).plan
    assert sorted(len(batch.requests) for batch in plan.batches()) == [1, 3]


def test_equal_tables_are_one_run_in_any_order_and_kind_of_file(
    tiny: Generator, cells: Path, tmp_path: Path
) -> None:
    head, *rows = CELLS.splitlines()
    rows[0:1] = [rows[0].replace(",2", ",1")] * 2
    (turned := tmp_path / "turned.tsv").write_text(
        "\n".join([head, *reversed(rows)]).replace(",", "\t")
    )
    table = pa.table(
        {
            "class_name": ["monocyte", "monocyte", "lymphocyte"],
            "size": ["big", "small", "big"],
            "stain": ["dark", "dark", None],
            "guidance_scale": [None, 3.0, None],
            "seed": pa.array([None, None, 5.0]),  # pandas: a column with holes
            "count": [2, 1, 1],
        }
    )
    pq.write_table(table, stored := tmp_path / "cells.parquet")
    (lines := tmp_path / "cells.jsonl").write_text(
        "\n".join(json.dumps(row) for row in table.to_pylist())
    )
    runs = [planned(tiny, path) for path in (cells, turned, stored, lines)]
    assert len({run.run_id for run in runs}) == 1
    assert len({run.config.table_digest for run in runs}) == 1


@pytest.mark.parametrize(
    ("old", "new"),
    [("dark", "pale"), ("stain", "colour"), (",,2", ",,3"), ("3,", "4,"), ("small", "tiny")],
)
def test_another_table_is_another_run(tiny: Generator, cells: Path, old: str, new: str) -> None:
    before = planned(tiny, cells).run_id
    cells.write_text(CELLS.replace(old, new))
    assert planned(tiny, cells).run_id != before


def test_a_row_may_bring_its_own_prompt_and_the_class_may_be_the_only_one(
    tiny: Generator, cells: Path
) -> None:
    cells.write_text("prompt,size\n{size} cell,big\nplain,\n")
    run = planned(tiny, cells, classes={"monocyte": "never"})
    assert [(q.recipe.class_name, q.recipe.prompt) for q in run.plan.quotas] == [
        ("monocyte", "big cell"),
        ("monocyte", "plain"),
    ]


def test_rows_that_write_what_others_leave_to_the_run_are_one_recipe(
    tiny: Generator, cells: Path
) -> None:
    cells.write_text("class_name,guidance_scale,prompt\nmonocyte,2,\nmonocyte,,a monocyte\n")
    (quota,) = planned(tiny, cells, classes={}).plan.quotas
    assert (quota.recipe.prompt, quota.count, quota.recipe.attributes) == ("a monocyte", 2, None)


def test_a_generator_with_a_grammar_writes_the_prompts_itself(cells: Path) -> None:
    cells.write_text(
        "class_name,cell_size,nucleus_shape,cytoplasm_vacuole,ward\n"
        "eosinophil,big,segmented-bilobed,,3\n"
        "monocyte,,,yes,\n"
        "neutrophil,,,,7\n"
    )
    known = {"model": "wbc-base", "num_images": 1, "seed": 1, "table": str(cells)}
    run = prepare(GenerateConfig.model_validate(known), "nowhere")
    assert [q.recipe.prompt for q in run.plan.quotas] == [
        "a big eosinophil, segmented-bilobed nucleus",
        "a monocyte, with vacuoles",
        find_generator("wbc-base").prompts["neutrophil"],
    ]
    assert "only kept with the images: ward" in run.said[-1]


def test_a_general_base_learns_its_classes_from_the_table(tiny: Generator, cells: Path) -> None:
    nameless = replace(tiny, manifest={"method": "text", "size_px": 16})
    cells.write_text("class_name,prompt\nnevus,a mole\nmelanoma,a dark mole\n")
    found, table = with_table(config(tiny, cells, classes={}), nameless)
    recipes = [q.recipe for q in make_plan(found, nameless, table=table).quotas]
    assert [(r.class_name, r.class_id) for r in recipes] == [("nevus", 1), ("melanoma", 0)]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("class_name,size\nmonocyte,\n", r"line 2 has nothing for \{size\}.*Fill the column"),
        ("class_name,size\nblast,big\n", "line 2: class_name 'blast' is not drawn.*lymphocyte"),
        ("class_name,size\n,big\n", "line 2 has no class_name.*Write one of"),
        ("label,size\nmonocyte,big\n", "no column 'class_name', and one 'label'.*Rename"),
        ("class_name,seed\nmonocyte,-1\n", "line 2: seed is '-1'.*whole number from 0"),
        ("class_name,seed\nmonocyte,1.5\n", "line 2: seed is '1.5'"),
        ("class_name,seed\nmonocyte,9223372036854775808\n", "seed is '9223372036854775808'"),
        ("class_name,seed\nmonocyte,\u0663\n", "seed is '\u0663'"),
        ("class_name,count\nmonocyte,0\n", "line 2: count is '0'.*from 1"),
        ("class_name,count\nmonocyte,1000000000000\n", "count is '1000000000000'"),
        ("class_name,guidance_scale\nmonocyte,high\n", "guidance_scale is 'high'.*a number from 0"),
        ("class_name,guidance_scale\nmonocyte,nan\n", "guidance_scale is 'nan'"),
        ("class_name,guidance_scale\nmonocyte,inf\n", "guidance_scale is 'inf'"),
        ("class_name,size\nmonocyte\n", "line 2 has not the 2 cells"),
        ("class_name,size,size\nmonocyte,big,big\n", "column 'size' twice"),
        ("class_name,scheduler\nmonocyte,ddim\n", "'scheduler' is a setting of the whole run"),
        ("class_name," + "x" * 65 + "\nmonocyte,1\n", "has 65 characters"),
        ("class_name,size\nmonocyte," + "x" * 5000 + "\n", "characters in its attributes"),
        ("class_name,size\n", "has no row"),
        ("", "has no row"),
        ("class_name,prompt\nmonocyte,a {colour} cell\n", r"nothing for \{colour\}"),
    ],
)
def test_a_bad_row_is_named_with_its_value_and_the_way_out(
    tiny: Generator, cells: Path, text: str, message: str
) -> None:
    cells.write_text(text)
    with pytest.raises(DataError, match=message):
        planned(tiny, cells)


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("cells.xlsx", "x", "no table that is read.*csv"),
        ("cells.parquet", "no parquet", "cannot be read as Parquet"),
        ("cells.jsonl", '{"class_name": "monocyte", "size": ["big"]}\n', "lists or objects"),
        ("cells.jsonl", "[1]\n", "line 1 is no JSON object"),
        ("cells.csv", "class_name,size\nmonocyte,\xe9\n", "no UTF-8"),
    ],
)
def test_a_file_that_is_no_table_is_refused(
    tmp_path: Path, name: str, text: str, message: str
) -> None:
    (tmp_path / name).write_bytes(text.encode("latin-1"))
    with pytest.raises(DataError, match=message):
        read_rows(tmp_path / name)


def test_nested_columns_of_parquet_and_missing_files_are_refused(tmp_path: Path) -> None:
    pq.write_table(pa.table({"class_name": [["monocyte"]]}), path := tmp_path / "a.parquet")
    with pytest.raises(DataError, match="class_name holds lists or objects"):
        read_rows(path)
    with pytest.raises(DataError, match="there is no table at"):
        read_rows(tmp_path / "nowhere.csv")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"classes": {"monocyte": ("a", "b"), "lymphocyte": "c"}}, "has 2 prompts, and a row"),
        ({"classes": ("lymphocyte",)}, "class_name 'monocyte' is not drawn here"),
        ({"table_digest": "other"}, "holds other rows"),
    ],
)
def test_a_table_beside_a_configuration_that_does_not_fit_is_refused(
    tiny: Generator, cells: Path, changes: dict[str, object], message: str
) -> None:
    with pytest.raises(FactoryError, match=message):
        planned(tiny, cells, **changes)


def test_a_number_beside_a_table_is_refused(tiny: Generator, cells: Path) -> None:
    for how in ({"num_images": 5}, {}):
        words = [f"model={tiny.folder}", f"table={cells}", *([] if how else ["num_images=5"])]
        with pytest.raises(ConfigError, match=r"num_images=5, and how many .* stands in table"):
            start_run(source="wbc", overrides=words, place="nowhere", **how)


def test_who_draws_numbers_of_their_own_takes_no_table(tiny: Generator, cells: Path) -> None:
    with pytest.raises(ConfigError, match=r"generate\.table: a judge"):
        load_config(JudgeConfig, "judge", [f"generate.table={cells}"])
    with pytest.raises(ConfigError, match=r"generate\.table: a search"):
        load_config(SweepConfig, "wbc_sweep", [f"generate.table={cells}"])
    with pytest.raises(ConfigError, match="were not read"):
        make_plan(plain(table=cells), tiny)


def test_a_prompt_of_a_row_that_would_be_cut_is_refused_with_its_line(
    tiny: Generator, cells: Path
) -> None:
    cells.write_text(f"class_name,prompt\nmonocyte,{'monocyte ' * 90}\n")
    with pytest.raises(ConfigError, match=r"prompt of '.*cells.csv line 2' has .* tokens"):
        planned(tiny, cells)


def test_refused_images_of_a_row_are_drawn_on(tiny: Generator, cells: Path) -> None:
    plan = planned(tiny, cells).plan
    found = {quota.recipe.digest: (quota.count, 0) for quota in plan.quotas}
    more = plan_further(plan, found, first_batch=plan.num_batches, max_tries=2)
    assert more is not None
    assert [(q.first, q.count) for q in more.quotas] == [(2, 2), (1, 1), (1, 1)]


def test_a_drawn_table_is_resumed_queried_and_redrawn_from_its_rows(
    tiny: Generator, cells: Path, tmp_path: Path
) -> None:
    uri = str(tmp_path / "catalog")
    run = prepare(config(tiny, cells), uri)
    *_, last = execute(run, stream=draw_here)
    assert (last.drawn, last.complete) == (4, True)
    text = (
        "SELECT attributes->>'size' AS size, attributes->>'stain' AS stain, count(*) AS n"
        " FROM samples GROUP BY ALL ORDER BY ALL"
    )
    assert sql(Catalog(uri), text).to_pylist() == [
        {"size": "big", "stain": "dark", "n": 2},
        {"size": "big", "stain": None, "n": 1},
        {"size": "small", "stain": "dark", "n": 1},
    ]
    assert prepare_resume(run.run_id, uri).plan.digest == run.plan.digest
    cells.write_text(CELLS.replace("dark", "pale"))
    with pytest.raises(ConfigError, match=r"holds other rows.*Restore its rows"):
        prepare_resume(run.run_id, uri)
    cells.unlink()  # an image needs its own row of the catalog alone
    ids = sql(Catalog(uri), "SELECT image_id FROM samples")["image_id"].to_pylist()
    assert len(set(ids)) == 4
    assert {str(each) for each in regenerate_images(uri, image_ids=ids)} == {"identical"}


def test_a_catalog_without_tables_keeps_its_bytes() -> None:
    assert SAMPLES.field("attributes").nullable
    assert GenerateConfig(num_images=1).model_dump().keys().isdisjoint({"table", "table_digest"})
