import pytest

from catalog import Catalog, SampleSink, record_model, record_run, sql, write_batch
from catalog.query import files_scanned
from factory.errors import CatalogError
from tests.fakes.rows import CLASSES, batch_rows, model_row, rows_table, run_row, sample_row


@pytest.fixture(scope="module")
def catalog(tmp_path_factory):
    """40 files: a class and a guidance each, scores rising from file to file."""
    uri = tmp_path_factory.mktemp("catalog")
    files = []
    for i in range(40):
        rows = [
            sample_row(
                i * 4 + j,
                class_name=CLASSES[i % 5],
                class_id=i % 5,
                guidance_scale=1.0 + i // 5 * 0.5,
                blank_score=i / 40 + j / 1000,
            )
            for j in range(4)
        ]
        files.append(write_batch(uri, run_id="run-1", batch_index=i, rows=rows_table(rows)))
    SampleSink(uri, "run-1").commit(files)
    record_run(uri, run_row("run-1"))
    record_run(uri, run_row("run-1", event=1))
    record_model(uri, model_row())
    return Catalog(uri)


@pytest.mark.parametrize(
    ("where", "rows", "files"),
    [
        ("class_name = 'monocyte'", 32, 8),
        ("class_name IN ('monocyte', 'basophil')", 64, 16),
        ("guidance_scale > 4", 20, 5),
        ("guidance_scale >= 4", 40, 10),
        ("guidance_scale < 1.5", 20, 5),
        ("guidance_scale BETWEEN 2 AND 2.5", 40, 10),
        ("guidance_scale <> 1", 140, 35),
        ("NOT (guidance_scale > 1)", 20, None),
        ("class_name = 'monocyte' AND guidance_scale > 3 AND blank_score < 0.85", 8, 2),
        ("class_name = 'monocyte' OR guidance_scale = 1", 48, 12),
        ("blank_score BETWEEN 0.5 AND 0.525", 5, 2),
        ("recipe_index = 17", 1, 1),
        ("created_at > '2030-01-01'", 0, 0),
        ("created_at = TIMESTAMPTZ '2026-11-21 05:00:00.123456+00'", 160, 40),
        ("gate_status = 'rejected'", 0, 0),
        ("run_id = 'run-2'", 0, 0),
        ("bridge_depth > 0.5", 0, 40),
        ("bridge_depth IS NULL", 160, 40),
        ("class_name LIKE 'mono%'", 32, None),
        ("seed IS NULL", 0, None),
    ],
)
def test_filters_give_the_right_rows_and_skip_files(catalog, where, rows, files):
    text = f"SELECT count(*) AS n FROM samples WHERE {where}"
    assert sql(catalog, text)["n"].to_pylist() == [rows]
    # the same without any pushdown: DuckDB over the whole table in memory
    unpruned = sql(
        catalog, f"WITH s AS MATERIALIZED (FROM samples) SELECT count(*) AS n FROM s WHERE {where}"
    )
    assert unpruned["n"].to_pylist() == [rows]
    if files is not None:
        assert files_scanned(catalog, text) == (files, 40)


def test_two_scans_of_the_table_are_pruned_each_for_itself(catalog):
    text = """SELECT count(*) AS n FROM samples a JOIN samples b USING (recipe_digest)
        WHERE a.recipe_index = 3 AND b.guidance_scale > 4"""
    assert sql(catalog, text)["n"].to_pylist() == [20]
    assert files_scanned(catalog, text) == (6, 40)


def test_counts_groups_and_limits(catalog):
    assert sql(catalog, "SELECT count(*) AS n FROM samples")["n"].to_pylist() == [160]
    grouped = sql(catalog, "SELECT class_name, count(*) AS n FROM samples GROUP BY 1 ORDER BY 1")
    assert grouped.to_pydict() == {"class_name": sorted(CLASSES), "n": [32] * 5}
    assert sql(catalog, "FROM samples", limit=7).num_rows == 7


def test_images_come_back_as_bytes(catalog):
    text = "SELECT image, image.path AS path FROM samples WHERE recipe_index = 9"
    row = sql(catalog, text).to_pylist()[0]
    assert row["image"] == sample_row(9)["image"]
    assert row["path"] == sample_row(9)["image"]["path"]


def test_runs_shows_the_latest_event_and_models_join(catalog):
    runs = sql(catalog, "SELECT run_id, status, event FROM runs")
    assert runs.to_pylist() == [{"run_id": "run-1", "status": "complete", "event": 1}]
    joined = sql(
        catalog,
        "SELECT m.name, count(*) AS n FROM samples s JOIN models m USING (model_id) "
        "JOIN runs r USING (run_id) GROUP BY 1",
    )
    assert joined.to_pylist() == [{"name": "wbc-base", "n": 160}]


@pytest.mark.parametrize(
    "text",
    [
        "EXPLAIN SELECT * FROM samples",
        "DESCRIBE samples",
        "SHOW TABLES",
        "VALUES (1)",
        "WITH a AS (SELECT 1 AS x) SELECT * FROM a",
        "SELECT 1; -- a comment",
    ],
)
def test_reading_statements_are_allowed(catalog, text):
    assert sql(catalog, text).num_rows >= 1


@pytest.mark.parametrize(
    "text",
    [
        "CREATE TABLE x AS SELECT 1",
        "DROP VIEW samples",
        "DELETE FROM samples",
        "UPDATE samples SET seed = 1",
        "INSERT INTO samples VALUES (1)",
        "COPY samples TO 'out.parquet'",
        "ATTACH 'x.db'",
        "INSTALL httpfs",
        "LOAD httpfs",
        "SET threads = 1",
        "RESET lock_configuration",
        "PRAGMA version",
        "CALL pragma_version()",
        "EXPORT DATABASE 'x'",
        "PREPARE p AS SELECT 1",
        "BEGIN",
        "VACUUM",
        "USE memory",
        "EXPLAIN ANALYZE COPY samples TO 'x.csv'",
    ],
)
def test_statements_that_write_or_set_are_refused_by_name(catalog, text):
    with pytest.raises(CatalogError, match=r"is not allowed: SQL on a catalog only reads"):
        sql(catalog, text)


@pytest.mark.parametrize(
    "text",
    [
        "SELECT * FROM read_csv('{file}')",
        "SELECT * FROM '{file}'",
        "SELECT * FROM read_text('{file}')",
        "SELECT * FROM read_blob('{file}')",
        "SELECT * FROM glob('{folder}/*')",
        "SELECT * FROM read_parquet('{folder}/samples/*/*.parquet')",
        "SELECT * FROM read_csv('http://127.0.0.1:9/x.csv')",
        "SELECT * FROM sniff_csv('{file}')",
    ],
)
def test_files_and_network_are_out_of_reach(catalog, tmp_path, text):
    secret = tmp_path / "secret.csv"
    secret.write_text("a,b\n1,2\n")
    with pytest.raises(CatalogError, match="no files or network"):
        sql(catalog, text.format(file=secret, folder=tmp_path))
    assert [path.name for path in tmp_path.iterdir()] == ["secret.csv"]


def test_python_variables_and_environment_are_no_tables(catalog, monkeypatch):
    monkeypatch.setenv("FACTORY_TEST_SECRET", "hush")
    here = rows_table([sample_row(0)])
    assert len(here) == 1
    for text in ("SELECT * FROM here", "SELECT getenv('FACTORY_TEST_SECRET')"):
        with pytest.raises(CatalogError):
            sql(catalog, text)


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("SELEC 1", 'syntax error at or near "SELEC"'),
        ("SELECT colour FROM samples", '"colour" not found.*DESCRIBE samples'),
        ("SELECT * FROM smaples", 'Did you mean "samples"'),
        ("SELECT 1; SELECT 2", "2 SQL statements"),
        ("", "0 SQL statements"),
        ("-- nothing", "0 SQL statements"),
        ("SELECT CAST('x' AS INTEGER)", "Could not convert string 'x'"),
        ("SELECT image_id + 1 FROM samples", "Explicit|No function|Could not convert"),
    ],
)
def test_wrong_sql_is_explained(catalog, text, complaint):
    with pytest.raises(CatalogError, match=complaint):
        sql(catalog, text)


def test_data_file_that_was_deleted_behind_our_back_is_named(tmp_path):
    file = write_batch(tmp_path, run_id="run-1", batch_index=0, rows=batch_rows(0))
    SampleSink(tmp_path, "run-1").commit([file])
    (tmp_path / "samples" / file.path).unlink()
    with pytest.raises(CatalogError, match="batch-00000000"):
        sql(Catalog(tmp_path), "SELECT image_id FROM samples")
