import io

import pytest
from PIL import Image

from catalog import Catalog, SampleSink, write_batch
from catalog.sheet import CELL_PX, CLASS_COLOURS, INK, REFUSED, contact_sheet, sheet_of
from factory.errors import CatalogError, OutputError
from tests.fakes.rows import batch_rows, png, rejected, rows_table, sample_row


def pixels(path):
    with Image.open(path) as image:
        return image.convert("RGB").copy()


def test_images_are_enlarged_by_nearest_neighbour_and_framed_when_rejected(tmp_path):
    good = sample_row(0, class_name="a")
    bad = rejected(sample_row(1, class_name="a"), "blur: 0.1 < 0.2")
    sheet = pixels(contact_sheet(rows_table([good, bad]), tmp_path / "sheet.png", columns=2))
    counts = {colour: n for n, colour in sheet.getcolors(1 << 20)}
    assert counts[0, 0, 128] == CELL_PX**2  # 8 px enlarged 12 times, nothing blurred
    assert counts[1, 0, 128] == CELL_PX**2  # the frame hides nothing of it
    assert counts[REFUSED] == 2 * 4 * (CELL_PX + 2)
    assert any(max(abs(a - b) for a, b in zip(c, INK, strict=True)) < 8 for c in counts)


def test_a_mask_is_shown_beside_its_image_and_as_an_outline(tmp_path):
    row = sample_row(0, class_name="a")
    indices = Image.new("L", (8, 8), 0)
    indices.paste(2, (2, 2, 6, 6))
    buffer = io.BytesIO()
    indices.save(buffer, "PNG")
    row["mask"] = {"bytes": buffer.getvalue(), "path": "0.mask.png"}
    sheet = pixels(contact_sheet(rows_table([row]), tmp_path / "sheet.png"))
    counts = {colour: n for n, colour in sheet.getcolors(1 << 20)}
    side = 4 * CELL_PX // 8  # of the object on the sheet
    outline = side**2 - (side - 2) ** 2
    assert counts[CLASS_COLOURS[2]] == side**2 + outline
    assert counts[0, 0, 128] == 2 * CELL_PX**2 - outline
    row["mask"] = {"bytes": b"", "path": "0.mask.png"}
    with pytest.raises(CatalogError, match=r"mask '0.mask.png' is no readable PNG"):
        contact_sheet(rows_table([row]), tmp_path / "sheet.png")


def test_block_per_class_with_at_most_per_class_images(tmp_path):
    rows = rows_table([sample_row(i, class_name="ab"[i % 2]) for i in range(12)])
    few = pixels(contact_sheet(rows, tmp_path / "few.png", per_class=2, columns=2))
    many = pixels(contact_sheet(rows, tmp_path / "many.png", per_class=6, columns=2))
    assert many.height > 2.5 * few.height
    colours = {colour for _, colour in few.getcolors(1 << 20)}
    assert {(i, 0, 128) for i in range(4)} <= colours
    assert (4, 0, 128) not in colours


def test_large_images_are_shrunk_and_sizes_may_mix(tmp_path):
    big = sample_row(0)
    big["image"] = {"bytes": png(200, size_px=512), "path": big["image"]["path"]}
    sheet = pixels(contact_sheet(rows_table([big, sample_row(1)]), tmp_path / "sheet.png"))
    assert sheet.width < 5 * CELL_PX


def test_sheet_of_a_catalog_reads_only_what_it_shows(tmp_path):
    files = [
        write_batch(tmp_path, run_id="run-1", batch_index=i, rows=batch_rows(i)) for i in range(10)
    ]
    SampleSink(tmp_path, "run-1").commit(files)
    assert sheet_of(Catalog(tmp_path), tmp_path / "sheet.png", per_class=3) == 15
    shown = sheet_of(Catalog(tmp_path), tmp_path / "one.png", where="class_name = 'monocyte' -- x")
    assert shown == 8
    assert pixels(tmp_path / "one.png").height < pixels(tmp_path / "sheet.png").height


def test_nothing_to_show_broken_png_and_bad_condition_are_explained(tmp_path):
    rows = batch_rows(0)
    SampleSink(tmp_path, "run-1").commit(
        [write_batch(tmp_path, run_id="run-1", batch_index=0, rows=rows)]
    )
    catalog = Catalog(tmp_path)
    with pytest.raises(CatalogError, match="satisfies 'seed < 0'"):
        sheet_of(catalog, tmp_path / "s.png", where="seed < 0")
    with pytest.raises(CatalogError, match='"colour" not found'):
        sheet_of(catalog, tmp_path / "s.png", where="colour = 1")
    broken = sample_row(0)
    broken["image"] = {"bytes": b"no png", "path": "broken.png"}
    with pytest.raises(CatalogError, match=r"'broken.png' of class 'basophil' is no readable PNG"):
        contact_sheet(rows_table([broken]), tmp_path / "s.png")
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="cannot be written"):
        contact_sheet(rows, tmp_path / "file" / "s.png")
    assert not (tmp_path / "s.png").exists()
