"""The same table read by others' tools, without our code: image bytes, lists, times, partitions."""

import io
from datetime import UTC

import numpy as np
import pytest
from deltalake import DeltaTable
from PIL import Image

from catalog import Catalog, SampleSink, write_batch
from catalog.upkeep import optimize
from factory.real.pixels import pixel_sha256
from tests.fakes.rows import batch_rows, png

MASK = {"bytes": png(7), "path": "mask.png"}
COLUMNS = ["image_id", "class_name", "guidance_scale", "soft_label", "created_at", "run_id"]


@pytest.fixture(scope="module", params=["as written", "compacted"])
def table(request, tmp_path_factory):
    """Two runs of three batches; one has masks, and one, published twice, is there once."""
    uri = tmp_path_factory.mktemp("catalog")
    for run_id, changes in (("run-1", {}), ("run-2", {"recipe": "b", "mask": MASK})):
        sink = SampleSink(uri, run_id)
        for batch in (0, 1, 2, 1):
            rows = batch_rows(batch, **changes)
            sink.commit([write_batch(uri, run_id=run_id, batch_index=batch, rows=rows)])
    if request.param == "compacted":
        optimize(uri)
    return uri


def check(rows, table):
    """`rows` are dicts with `COLUMNS`, image and mask, as a reader gave them."""
    ours = {row["image_id"]: row for row in Catalog(table).samples().to_table().to_pylist()}
    assert sorted(row["image_id"] for row in rows) == sorted(ours)
    for row in rows:
        own = ours[row["image_id"]]
        for name in ("class_name", "guidance_scale", "run_id"):
            assert row[name] == own[name]
        assert list(row["soft_label"]) == own["soft_label"]
        made = row["created_at"]
        assert (made if made.tzinfo else made.replace(tzinfo=UTC)) == own["created_at"]
        assert row["image"]["bytes"] == own["image"]["bytes"]
        shown = np.asarray(Image.open(io.BytesIO(row["image"]["bytes"])))
        assert pixel_sha256(shown) == own["pixel_sha256"]
        assert (row["mask"] and row["mask"]["bytes"]) == (own["mask"] and own["mask"]["bytes"])


WANTED = [*COLUMNS, "image", "mask"]


def test_pandas_and_pyarrow(table):
    delta = DeltaTable(str(table / "samples"))
    check(delta.to_pyarrow_table(columns=WANTED).to_pylist(), table)
    frame = delta.to_pandas(columns=WANTED)
    check(frame.astype(object).where(frame.notna(), None).to_dict("records"), table)


def test_duckdb(table):
    import duckdb

    samples = DeltaTable(str(table / "samples")).to_pyarrow_dataset()
    with duckdb.connect() as connection:
        connection.register("samples", samples)
        found = connection.sql(f"SELECT {', '.join(WANTED)} FROM samples").to_arrow_table()
    check(found.to_pylist(), table)


def test_polars(table):
    polars = pytest.importorskip("polars", reason="polars is not installed (extra dev)")
    lazy = polars.scan_delta(str(table / "samples"))
    check(lazy.select(WANTED).collect().to_dicts(), table)
    few = lazy.filter(polars.col("class_name") == "monocyte").collect()
    assert set(few["class_name"]) == {"monocyte"}


def test_daft(table):
    daft = pytest.importorskip("daft", reason="daft is not installed (0.7 wants pyarrow below 26)")
    frame = daft.read_deltalake(str(table / "samples")).select(*WANTED)
    check(frame.to_pylist(), table)


def test_hugging_face_datasets(table, tmp_path, monkeypatch):
    datasets = pytest.importorskip("datasets", reason="datasets is not installed (extra dev)")
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    datasets.disable_progress_bars()
    files = DeltaTable(str(table / "samples")).file_uris()
    place = str(tmp_path / "cache")
    read = datasets.load_dataset("parquet", data_files=files, split="train", cache_dir=place)
    assert isinstance(read.cast_column("image", datasets.Image())[0]["image"], Image.Image)
    ours = {row["image_id"]: row for row in Catalog(table).samples().to_table().to_pylist()}
    found = read.select_columns(["image_id", "image", "class_name"]).to_list()
    assert len(found) == len(ours) == 24
    for row in found:
        assert row["image"]["bytes"] == ours[row["image_id"]]["image"]["bytes"]
        assert row["class_name"] == ours[row["image_id"]]["class_name"]


@pytest.mark.ray
def test_ray_data(table):
    import ray

    from factory.sample.session import ray_session

    with ray_session():
        ray.data.DataContext.get_current().enable_progress_bars = False
        check(ray.data.read_delta(str(table / "samples"), columns=WANTED).take_all(), table)
