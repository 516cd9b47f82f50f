import csv
import io
import json
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner
from PIL import Image

from catalog import SampleSink, record_run, write_batch
from catalog.commands import catalog as group
from catalog.export.png_text import chunks, text_of
from factory.errors import CatalogError, OutputError
from tests.fakes.rows import batch_rows, png, rows_table, run_row, sample_row

ROOT = Path(__file__).parents[2]


@pytest.fixture
def uri(tmp_path):
    place = tmp_path / "catalog"
    for i in range(2):
        file = write_batch(place, run_id="run-1", batch_index=i, rows=batch_rows(i))
        SampleSink(place, "run-1").commit([file])
    return str(place)


def run(*arguments, **environment):
    result = CliRunner(env=environment).invoke(group, [str(a) for a in arguments])
    if result.exception and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


def test_sql_prints_a_table_json_or_csv(uri):
    query = "SELECT image_id, image.bytes AS image, blank_score FROM samples ORDER BY recipe_index"
    size = len(png(0))
    drawn = run("sql", query, "--catalog", uri, "--limit", 1).output
    assert sample_row(0)["image_id"] in drawn
    assert f"<{size} bytes>" in drawn
    assert "1 row\n" in drawn
    rows = json.loads(run("sql", query, "--catalog", uri, "--json").output)
    assert [row["image_id"] for row in rows] == [sample_row(i)["image_id"] for i in range(8)]
    assert rows[3] == {
        "image_id": sample_row(3)["image_id"],
        "image": f"<{len(png(3))} bytes>",
        "blank_score": 0.03,
    }
    lines = list(csv.DictReader(io.StringIO(run("sql", query, "--catalog", uri, "--csv").output)))
    assert [float(line["blank_score"]) for line in lines] == [i / 100 for i in range(8)]


def test_nested_and_missing_values_and_markup_print(uri):
    query = "SELECT soft_label, mask, '[red]x' AS text FROM samples WHERE recipe_index = 1"
    drawn = run("sql", query, "--catalog", uri).output
    assert "[0.0, 1.0, 0.0, 0.0, 0.0]" in drawn
    assert "[red]x" in drawn
    line = run("sql", query, "--catalog", uri, "--csv").output.splitlines()[1]
    assert line == '"[0.0, 1.0, 0.0, 0.0, 0.0]",,[red]x'


def test_json_is_json_whatever_the_numbers(uri):
    query = "SELECT 'NaN'::DOUBLE AS a, ['-Infinity'::DOUBLE] AS b"
    output = run("sql", query, "--catalog", uri, "--json").output
    assert json.loads(output, parse_constant=pytest.fail) == [{"a": None, "b": [None]}]
    assert run("sql", query, "--catalog", uri, "--csv").output == "a,b\nnan,[null]\n"


def test_columns_of_one_name_are_told_apart(uri):
    query = "SELECT 1 AS a, 2 AS a, 3 AS a_1"
    output = run("sql", query, "--catalog", uri, "--csv").output
    assert output == "a,a_2,a_1\n1,2,3\n"
    assert json.loads(run("sql", query, "--catalog", uri, "--json").output) == [
        {"a": 1, "a_2": 2, "a_1": 3}
    ]


def test_nothing_in_a_result_is_markup(uri):
    query = r"""SELECT 'x\[/b]' AS "[/y]", '[red]' AS b, 3 AS c"""
    drawn = run("sql", query, "--catalog", uri).output
    assert all(text in drawn for text in ("[/y]", r"x\[/b]", "[red]"))


def test_many_columns_are_drawn_below_each_other(uri):
    drawn = run("sql", "FROM samples ORDER BY recipe_index LIMIT 2", "--catalog", uri).output
    lines = [line.split() for line in drawn.splitlines()]
    assert [words[1] for words in lines if words[:1] == ["image_id"]] == [
        sample_row(0)["image_id"],
        sample_row(1)["image_id"],
    ]
    assert max(map(len, drawn.splitlines())) < 100


def test_a_result_of_one_or_two_columns_is_not_cut(uri):
    assert "x" * 90 in run("sql", "SELECT repeat('x', 90) AS a", "--catalog", uri).output
    plan = run("sql", "EXPLAIN SELECT count(*) FROM samples", "--catalog", uri).output
    assert "…" not in plan
    assert len(plan.splitlines()) > 10
    assert "…" in run("sql", "SELECT repeat('x', 90) AS a, 1 AS b, 2 AS c", "--catalog", uri).output


@pytest.mark.parametrize("table", ["samples", "runs"])
def test_a_lost_file_is_named_with_the_way_out(uri, table):
    record_run(uri, run_row())
    for file in Path(uri, table).rglob("*.parquet"):
        file.unlink()
    query = f"SELECT * FROM {table}"
    uses = [("sql", query), ("show", sample_row(0)["image_id"]), ("sheet",)]
    for use in uses if table == "samples" else uses[:1]:
        with pytest.raises(CatalogError, match=r"\.parquet.*Restore it, or read a version before"):
            run(*use, "--catalog", uri)


def test_version_and_as_of_show_the_past(uri):
    count = "SELECT count(*) AS n FROM samples"
    assert json.loads(run("sql", count, "--catalog", uri, "--version", 1, "--json").output) == [
        {"n": 4}
    ]
    past = run("sql", count, "--catalog", uri, "--as-of", "2001-01-01", "--json").output
    assert json.loads(past) == [{"n": 0}]


def test_catalog_comes_from_the_environment(uri):
    output = run("sql", "SELECT count(*) AS n FROM samples", "--csv", FACTORY_CATALOG=uri).output
    assert output == "n\n8\n"


def test_history_lists_versions_newest_first(uri):
    rows = json.loads(run("history", "--catalog", uri, "--json").output)
    assert [(row["version"], row["batches"]) for row in rows] == [(2, "1"), (1, "0"), (0, None)]
    assert len(json.loads(run("history", "--catalog", uri, "--json", "--limit", 1).output)) == 1


def test_show_writes_the_image_and_prints_its_row(uri, tmp_path):
    image_id = sample_row(3)["image_id"]
    output = run("show", image_id, "--catalog", uri, "--out", tmp_path / "cell.png").output
    written = (tmp_path / "cell.png").read_bytes()  # says what it is, wherever it will lie
    assert text_of(written)["image_id"] == image_id
    assert b"".join(c for _, c in chunks(png(3))) == b"".join(
        c for kind, c in chunks(written) if kind != b"iTXt"
    )
    assert "monocyte" in output
    assert f"<{len(png(3))} bytes>" in output
    row = json.loads(
        run("show", image_id, "--catalog", uri, "--out", tmp_path / "b.png", "--json").output
    )
    assert (row["image_id"], row["seed"]) == (image_id, sample_row(3)["seed"])


def test_nothing_that_is_there_is_overwritten(uri, tmp_path):
    image_id, other = (sample_row(n)["image_id"] for n in (3, 2))
    out = tmp_path / "mine.png"
    for _ in range(2):  # the same image again changes nothing
        run("show", image_id, "--catalog", uri, "--out", out)
    shown = out.read_bytes()
    for command in (("show", other), ("sheet",), ("strip", "x")):
        with pytest.raises(OutputError, match=r"mine.png' is there already.*--out"):
            run(*command, "--catalog", uri, "--out", out)
    assert out.read_bytes() == shown


def test_show_writes_the_mask_beside_the_image(tmp_path):
    row = sample_row(0)
    row["mask"] = {"bytes": png(9), "path": "x.png"}
    file = write_batch(tmp_path / "c", run_id="run-1", batch_index=0, rows=rows_table([row]))
    SampleSink(tmp_path / "c", "run-1").commit([file])
    out = tmp_path / "cell.png"
    output = run("show", row["image_id"], "--catalog", tmp_path / "c", "--out", out).output
    assert (tmp_path / "cell-mask.png").read_bytes() == png(9)
    assert str(tmp_path / "cell-mask.png") in output


@pytest.mark.parametrize("out", [".", "/", ""])
def test_a_folder_is_no_place_for_the_image(tmp_path, monkeypatch, out):
    row = sample_row(0)
    row["mask"] = {"bytes": png(9), "path": "x.png"}
    file = write_batch(tmp_path / "c", run_id="run-1", batch_index=0, rows=rows_table([row]))
    SampleSink(tmp_path / "c", "run-1").commit([file])
    monkeypatch.chdir(tmp_path)
    arguments = ("show", row["image_id"], "--catalog", "c", "--out", out)
    if out:
        assert "is a directory" in run(*arguments).output
    else:
        with pytest.raises(OutputError, match="cannot be written"):
            run(*arguments)


def test_sheet_draws_what_satisfies_the_condition(uri, tmp_path):
    out = tmp_path / "sheet.png"
    output = run("sheet", "--catalog", uri, "--out", out, "--where", "class_id < 2").stdout
    assert output == f"{out}: 4 images\n"
    with Image.open(out) as image:
        assert image.format == "PNG"


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["sql", "SELECT * FROM nothing"], "Tables are samples, runs, models"),
        (["sql", "DROP TABLE samples"], "DROP is not allowed"),
        (["sql", "EXPLAIN ANALYZE DROP VIEW samples"], "DROP is not allowed"),
        (["sql", "/* a */ EXPLAIN (FORMAT JSON) DROP VIEW samples"], "DROP is not allowed"),
        (["show", "nope", "--out", "x.png"], "'nope' is not in version 2"),
        (["sheet", "--where", "FALSE", "--out", "x.png"], "satisfies 'FALSE'"),
        (["history", "--storage-option", "secret"], "no value"),
        (["history", "--version", "9"], "at version 9"),
    ],
)
def test_mistakes_end_in_one_clear_error_and_leave_no_file(uri, tmp_path, arguments, complaint):
    with pytest.raises(CatalogError, match=complaint):
        run(*arguments, "--catalog", uri)
    assert not Path("x.png").exists()


def test_missing_catalog_names_the_option(tmp_path):
    with pytest.raises(CatalogError, match="Check the --catalog URI"):
        run("history", "--catalog", tmp_path / "nowhere")


def test_import_loads_neither_torch_nor_ray_nor_arrow_before_it_is_used():
    script = """
import sys
import catalog, catalog.commands
early = {"torch", "ray", "pyarrow", "deltalake", "duckdb", "numpy"} & set(sys.modules)
from catalog import Catalog, SampleSink, sql, write_batch
import catalog.query, catalog.query, catalog.sheet
late = {"torch", "ray"} & set(sys.modules)
print(sorted(early), sorted(late))
"""
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert done.stdout == "[] []\n"


def test_unknown_name_of_the_package_is_an_attribute_error():
    import catalog

    assert set(catalog.__all__) <= set(dir(catalog))
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = catalog.nothing
