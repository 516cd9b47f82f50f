"""Verification finds one flipped byte, one swapped image, and anything that is missing."""

import shutil
from datetime import UTC, datetime
from pathlib import Path

import pytest

from catalog import SampleSink, batch, write_batch
from catalog.releases import list_releases, verify_release
from catalog.releasing import create_release
from tests.fakes.rows import png, rows_table, sample_row

MADE = {"now": datetime(2026, 11, 22, tzinfo=UTC), "code_version": "0.1.0"}


def with_mask(index):
    """A row whose hash covers its mask too."""
    import numpy as np

    from factory.real.pixels import pixel_sha256, published_pixels
    from factory.sample.rows import encode_png

    row = sample_row(index)
    mask = np.eye(8, dtype=np.uint8)
    image, _ = published_pixels(row)
    row["mask"] = {"bytes": encode_png(mask), "path": "mask.png"}
    return row | {"pixel_sha256": pixel_sha256(image, mask)}


def released(uri, rows):
    file = write_batch(uri, run_id="run-1", batch_index=0, rows=rows_table(rows))
    SampleSink(uri, "run-1").commit([file])
    create_release(uri, "wbc", **MADE)
    return Path(uri) / "samples" / file.path


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    uri = tmp_path_factory.mktemp("whole") / "catalog"
    released(uri, [sample_row(0), with_mask(1), sample_row(2)])
    return uri


@pytest.fixture
def copy(whole, tmp_path):
    """A copy of the whole catalog, and its one data file."""
    shutil.copytree(whole, tmp_path / "copy")
    (data,) = (tmp_path / "copy" / "samples").rglob("batch-*.parquet")
    return tmp_path / "copy", data


def test_a_fresh_copy_holds_every_digest(copy):
    found = verify_release(copy[0], "wbc")
    assert (found.holds, found.problems) == (True, [])
    assert (found.num_files, found.num_images) == (1, 3)
    assert found.release.name == "wbc@1.0.0"


@pytest.mark.parametrize("place", ["start", "pixels", "middle", "end"])
def test_one_flipped_bit_is_found_wherever_it_is(copy, place):
    uri, data = copy
    content = bytearray(data.read_bytes())
    pixels = content.index(png(0)) + len(png(0)) - 20  # in the compressed pixels
    position = {"start": 0, "pixels": pixels, "middle": len(content) // 2, "end": -1}[place]
    content[position] ^= 1
    data.write_bytes(bytes(content))
    problems = verify_release(uri, "wbc").problems
    assert f"file run_id=run-1/{data.name} has SHA-256" in problems[0]
    if place == "pixels":
        assert "page integrity" in problems[1]


def test_pixels_are_hashed_too_where_an_older_file_has_no_checksums(tmp_path, monkeypatch):
    write_table = batch.pq.write_table
    monkeypatch.setattr(
        batch.pq, "write_table",
        lambda *args, **how: write_table(*args, **how | {"write_page_checksum": False}),
    )  # fmt: skip
    data = released(tmp_path, [sample_row(0)])
    content = bytearray(data.read_bytes())
    content[content.index(png(0)) + len(png(0)) - 20] ^= 1
    data.write_bytes(bytes(content))
    problems = verify_release(tmp_path, "wbc").problems
    assert any("cannot be decoded" in p or "other pixels" in p for p in problems[1:])


def test_a_file_that_is_gone_or_cut_is_named(copy):
    uri, data = copy
    data.write_bytes(data.read_bytes()[:-7])
    problems = verify_release(uri, "wbc").problems
    assert f"{data.stat().st_size} bytes, {data.stat().st_size + 7} recorded" in problems[0]
    data.unlink()
    problems = verify_release(uri, "wbc").problems
    assert problems[0].endswith("is gone")
    assert "its rows cannot be read" in problems[1]


def test_a_swapped_image_is_found_though_every_file_is_as_released(tmp_path):
    swapped = sample_row(1) | {"image": sample_row(2)["image"]}
    swapped["image"] = {**swapped["image"], "path": f"{swapped['image_id']}.png"}
    released(tmp_path, [sample_row(0), swapped])
    assert verify_release(tmp_path, "wbc").problems == [
        f"image {swapped['image_id']} has other pixels than its pixel_sha256 says"
    ]


def test_a_mask_that_was_changed_is_found(tmp_path):
    row = with_mask(0)
    released(tmp_path, [row | {"mask": {"bytes": png(3), "path": "mask.png"}}])
    (problem,) = verify_release(tmp_path, "wbc").problems
    assert "other pixels" in problem


def test_a_record_that_was_changed_is_found(copy):
    """Somebody rewrites the list of files and the log, but not the manifest digest."""
    import pyarrow.parquet as pq
    from deltalake import DeltaTable, write_deltalake

    uri, _ = copy
    table = DeltaTable(uri / "release_files")
    files = pq.read_table(table.file_uris()[0])
    write_deltalake(
        table, files.set_column(3, "size_bytes", [[1]]).cast(files.schema), mode="overwrite"
    )
    problems = verify_release(uri, list_releases(uri)[0].name).problems
    assert "1 recorded" in problems[0]
    assert "not the one of its manifest digest" in problems[1]
