"""What others wrote is data until it was checked."""

import pyarrow as pa
import pytest

from catalog.boundary import check_files, check_rows, file_name, json_counts, json_object
from factory.errors import CatalogError
from tests.fakes.rows import rows_table, sample_row


@pytest.mark.parametrize(
    "path",
    [
        "../x",
        "a/../../x",
        "..",
        "/etc/x",
        "file:///x",
        "s3://b/x",
        "C:/x",
        "a\\..\\x",
        "a\nb",
        None,
    ],
)
def test_a_file_that_does_not_lie_in_its_table_is_refused(path):
    good = "run_id=run-1/batch-0.parquet"
    with pytest.raises(CatalogError, match="does not lie in it"):
        check_files(pa.array([good, path]), None, "here")
    check_files(
        pa.array([good, "a..b/c.parquet", "x%2e%2e"]), pa.array(["r", "r.1", "R_-"]), "here"
    )
    check_files(pa.array([], pa.string()), pa.array([], pa.string()), "here")


@pytest.mark.parametrize("run_id", ["../x", "", "a/b", "a b", "x" * 129, "a\n", ".a", None])
def test_a_run_of_others_is_a_safe_folder_name_or_refused(run_id):
    with pytest.raises(CatalogError, match="no safe folder name"):
        check_files(pa.array(["a", "b"]), pa.array(["run-1", run_id]), "here")


@pytest.mark.parametrize(
    ("column", "value"),
    [("class_name", None), ("image", None), ("image", {"bytes": None, "path": "x"}),
     ("mask", {"bytes": None, "path": "x"}), ("soft_label", [1.0]), ("soft_label", [None] * 5),
     ("class_names", [None] * 5), ("reference_ids", [None])],
)  # fmt: skip
def test_a_row_without_what_every_row_has_is_refused(column, value):
    rows = rows_table([sample_row(0), sample_row(1) | {column: value}])
    with pytest.raises(CatalogError, match=r"here holds .* No factory wrote this"):
        check_rows(rows, "here")
    assert check_rows(rows.slice(0, 1), "here").num_rows == 1
    assert check_rows(rows.slice(0, 0), "here").num_rows == 0


def test_a_text_that_is_none_is_refused():
    texts = pa.array([b"\xff\xfe"]).cast(pa.binary()).view(pa.string())
    with pytest.raises(CatalogError, match="broken values"):
        check_rows(pa.table({"class_name": texts}), "here")


@pytest.mark.parametrize("text", ["", "[]", "{", "7", "[" * 10**5, '{"a": NaN', "\x1b"])
def test_json_of_others_is_an_object_or_refused(text):
    if text:
        with pytest.raises(CatalogError, match="counts is no JSON object"):
            json_object(text, "counts")
    assert json_object(None, "counts") == {}
    for other in ('{"a": "b"}', '{"a": true}', '{"a": 1.5}'):
        with pytest.raises(CatalogError, match="other things than numbers"):
            json_counts(other, "counts")


def test_the_id_of_a_drawn_image_is_its_file_name():
    assert file_name("0cc7c09635a126476a7645b45605f45a") == "0cc7c09635a126476a7645b45605f45a"
