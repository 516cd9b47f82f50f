"""Drawn images that come back as if they were real: known by bytes, tables, manifests, catalogs."""

import io
import shutil

import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner
from PIL import Image

from catalog.export import layout
from catalog.export.marking import Marking
from catalog.export.png_text import with_text
from catalog.export.write import export
from factory.cli import cli
from factory.errors import DataError
from factory.real.drawn import COLUMN, MANIFEST, SOURCE_TYPE
from factory.real.sources import open_dataset
from tests.catalog.export.conftest import NAMES, published, row_of
from tests.real.builders import class_folder, encoded, pixels, png, put, write_table

DRAWN = r"DRAWN, NOT REAL: 7 of 7 images"


@pytest.fixture(scope="module")
def masked(tmp_path_factory):
    """Seven drawn images with masks in a catalog."""
    uri = tmp_path_factory.mktemp("drawn") / "catalog"
    return published(uri, [row_of(i, values=(1,)) for i in range(7)])


@pytest.mark.parametrize(
    ("form", "place"),
    [
        ("csv", ""),
        ("csv", "images"),
        ("csv", "manifest.csv"),
        ("coco", ""),
        ("coco", "images"),
        ("yolo", "images/train"),
        ("imagefolder", "train"),
        ("imagefolder", "train/metadata.jsonl"),
        ("imagefolder", "metadata.jsonl"),
        ("huggingface", ""),
        ("huggingface", "data"),
        ("huggingface", "data/train-00000.parquet"),
    ],
)
def test_exports_are_not_real_wherever_they_are_opened(tmp_path, masked, form, place):
    export(masked, tmp_path / "out", form)
    with pytest.raises(DataError, match=DRAWN):
        open_dataset(tmp_path / "out" / place)


def test_a_class_of_an_export_and_its_root_as_imagefolder_are_not_real(tmp_path, masked):
    export(masked, tmp_path / "out", "imagefolder")
    folder = next(path for path in (tmp_path / "out/train").iterdir() if path.is_dir())
    with pytest.raises(DataError, match="DRAWN, NOT REAL"):
        open_dataset(folder)
    shutil.copytree(tmp_path / "out/train", tmp_path / "elsewhere")  # without the manifest
    with pytest.raises(DataError, match=DRAWN):
        open_dataset(tmp_path / "elsewhere")


def test_dicom_that_says_synthetic_is_not_real(tmp_path, masked):
    pytest.importorskip("pydicom", reason="pydicom is not installed (extra dicom)")
    export(masked, tmp_path / "out", "dicom")
    for name in (tmp_path / "out/images").iterdir():
        shutil.copytree(name, tmp_path / "mine" / name.name)
    with pytest.raises(DataError, match=rf"{DRAWN}.*SyntheticData YES"):
        open_dataset(tmp_path / "mine")


def test_our_export_for_hugging_face_is_described_as_what_it_is(tmp_path, masked):
    export(masked, tmp_path / "out", "huggingface")
    for place in ("out", "out/data"):
        found = open_dataset(tmp_path / place, keep_faults=True)
        assert sorted(found.class_names) == sorted(NAMES)
        assert (len(found), found.has_masks) == (7, True)
        assert found.ids[0] == row_of(0)["image_id"]
        assert any(fault.startswith("DRAWN, NOT REAL: 7 of 7") for fault in found.faults)


def test_a_catalog_and_what_lies_in_it_is_no_dataset(tmp_path):
    catalog = tmp_path / "catalog"
    published(catalog, [row_of(i) for i in range(7)])
    file = next((catalog / "samples").rglob("*.parquet"))
    for place in (catalog, catalog / "samples", file.parent):
        with pytest.raises(DataError, match=r"samples is a Delta table.*drawn, not real"):
            open_dataset(place)
    with pytest.raises(DataError, match=DRAWN):
        open_dataset(file)
    copy = tmp_path / "copy" / "x.parquet"
    put(copy, b"")
    pq.write_table(pq.read_table(file), copy)
    with pytest.raises(DataError, match=rf"{DRAWN}.*column is_synthetic"):
        open_dataset(copy.parent)


def test_marks_are_found_in_any_file_and_only_the_marked_ones_are_named(tmp_path):
    root = class_folder(tmp_path)
    put(root / "a/9.png", with_text(png(9), image_id="x", release="r@1.0.0"))
    with pytest.raises(DataError, match=r"DRAWN, NOT REAL: 1 of 5 images, .*a/9\.png"):
        open_dataset(root)
    (root / "a/9.png").unlink()
    assert len(open_dataset(root)) == 4
    xmp = f"<x:xmpmeta><a b='{SOURCE_TYPE}'/></x:xmpmeta>".encode()
    put(root / "b/8.jpg", encoded(pixels(8), "JPEG", xmp=xmp))
    with pytest.raises(DataError, match=r"1 of 5 images, .*b/8\.jpg.*trainedAlgorithmicMedia"):
        open_dataset(root)
    (root / "b/8.jpg").unlink()
    kind = {"bytes": with_text(png(7), image_id="x", release="r"), "path": "7.png"}
    import pyarrow as pa

    pq.write_table(pa.table({"image": [kind], "label": ["a"]}), tmp_path / "t.parquet")
    with pytest.raises(DataError, match="DRAWN, NOT REAL: 1 of 1"):
        open_dataset(tmp_path / "t.parquet")


def test_marked_exports_are_known_one_by_one_without_manifest(tmp_path, masked):
    export(masked, tmp_path / "out", "csv", marking=Marking(release="r@1", text=True))
    file = next((tmp_path / "out/images").rglob("*.png"))
    root = class_folder(tmp_path / "mine")
    shutil.copy(file, root / "a/patient7.png")
    with pytest.raises(DataError, match=r"1 of 5 images.*patient7\.png"):
        open_dataset(root)


def test_images_that_leave_a_catalog_one_by_one_are_known(tmp_path, masked):
    row = row_of(3)
    said = ["catalog", "show", row["image_id"], "--catalog", str(masked.catalog.uri)]
    root = class_folder(tmp_path / "mine")
    result = CliRunner().invoke(cli, [*said, "--out", str(root / "a/x.png")])
    assert result.exit_code == 0, result.output
    with pytest.raises(DataError, match=r"1 of 5 images, .*x\.png.*trainedAlgorithmicMedia"):
        open_dataset(root)


def test_real_images_beside_drawn_ones_are_told_apart(tmp_path, masked):
    export(masked, tmp_path / "out", "csv")
    for n in range(3):  # as the export's own file says: add your real ones
        put(tmp_path / "out/real/a" / f"{n}.png", png(n))
    assert len(open_dataset(tmp_path / "out/real")) == 3
    drawn = next((tmp_path / "out/images").rglob("*.png"))
    shutil.copy(drawn, tmp_path / "out/real/a/new.png")
    with pytest.raises(DataError, match=r"1 of 4 images, .*new\.png \(listed in .*manifest\.csv"):
        open_dataset(tmp_path / "out/real")


@pytest.mark.parametrize(("says", "drawn"), [("true", 1), ("1", 1), ("False", 0), ("", 0)])
def test_a_table_may_say_which_of_its_images_are_drawn(tmp_path, says, drawn):
    put(tmp_path / "x.png", png(1))
    put(tmp_path / "y.png", png(2))
    rows = [{"path": f"{n}.png", "label": "a", COLUMN: s} for n, s in (("x", says), ("y", "no"))]
    table = write_table(tmp_path / "t.csv", rows)
    if not drawn:
        assert len(open_dataset(table)) == 2
        return
    with pytest.raises(DataError, match=r"1 of 2 images, .*x\.png \(column is_synthetic\)"):
        open_dataset(table)


def test_a_manifest_of_another_kind_means_nothing(tmp_path):
    root = class_folder(tmp_path)
    put(root / "manifest.csv", b"file,size\na/1.png,3\n")
    assert len(open_dataset(root)) == 4
    put(root / "manifest.csv", b"\xff\xfe\x00")
    assert len(open_dataset(root)) == 4


def test_what_is_looked_for_is_what_exports_write():
    assert layout.MANIFEST == MANIFEST
    assert {COLUMN, "file_sha256", "recipe_digest"} <= set(layout.HEAD)


def test_a_png_that_lost_its_marks_is_as_any_other():
    marked = with_text(png(1), image_id="x", release="r")
    buffer = io.BytesIO()
    Image.open(io.BytesIO(marked)).save(buffer, "BMP")
    from factory.real.drawn import mark_in

    assert mark_in(marked)
    assert not mark_in(buffer.getvalue())
