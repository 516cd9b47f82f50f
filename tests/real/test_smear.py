import numpy as np
import pytest

from factory.errors import DataError
from factory.real.build import build_dataset
from factory.real.duplicates import near_duplicates
from factory.real.smear import CLASS_NAMES, SmearStyle, draw_cell, smear_items, write_smear
from factory.real.sources import open_dataset


def mean_rgb(**style: float) -> np.ndarray:
    cells = [draw_cell(i, size_px=32, style=SmearStyle(**style)).pixels for i in range(10)]
    return np.stack(cells).mean(axis=(0, 1, 2))


def test_an_image_depends_on_seed_and_index_alone():
    late = draw_cell(7, seed=3, size_px=32)
    among = [draw_cell(i, seed=3, size_px=32) for i in range(9)][7]
    assert (late.pixels == among.pixels).all()
    assert (late.mask == among.mask).all()
    assert (late.pixels != draw_cell(7, seed=4, size_px=32).pixels).mean() > 0.5


def test_classes_take_turns_and_share_a_slide():
    cells = [draw_cell(i, size_px=16) for i in range(10)]
    assert tuple(c.class_name for c in cells[:5]) == CLASS_NAMES
    assert len({c.slide for c in cells[:5]}) == 1
    assert cells[5].slide != cells[4].slide


def test_one_cell_looks_alike_at_every_size():
    small, large = (draw_cell(3, size_px=size) for size in (32, 64))
    halved = large.pixels.reshape(32, 2, 32, 2, 3).mean(axis=(1, 3))
    assert np.abs(halved - small.pixels).mean() < 6
    assert (large.mask[::2, ::2] == small.mask).mean() > 0.95


def test_mask_marks_dark_nucleus_in_cytoplasm_on_light_ground():
    for index in range(15):
        cell = draw_cell(index, seed=1, size_px=64)
        light = cell.pixels.mean(axis=2)
        ground, cytoplasm, nucleus = (light[cell.mask == value].mean() for value in (0, 1, 2))
        assert nucleus < cytoplasm < ground, cell.id
        rows, columns = np.nonzero(cell.mask == 2)
        around = cell.mask[rows.min() : rows.max() + 1, columns.min() : columns.max() + 1]
        assert (around > 0).mean() > 0.5


def test_classes_differ_as_an_atlas_says():
    cells = [draw_cell(i, seed=2, size_px=48) for i in range(60)]

    def mean(name, measure):
        return np.mean([measure(c) for c in cells if c.class_name == name])

    def ratio(cell):
        return (cell.mask == 2).sum() / (cell.mask > 0).sum()

    def redness(cell):
        inside = cell.pixels[cell.mask == 1].astype(float)
        return (inside[:, 0] - inside[:, 2]).mean()

    assert mean("lymphocyte", ratio) > 0.6 > mean("neutrophil", ratio)
    assert mean("monocyte", lambda c: (c.mask > 0).sum()) > mean(
        "lymphocyte", lambda c: (c.mask > 0).sum()
    )
    assert mean("eosinophil", redness) > mean("neutrophil", redness) > mean("lymphocyte", redness)
    shapes = {c.attributes["nucleus_shape"] for c in cells if c.class_name == "neutrophil"}
    assert len(shapes) > 2


def test_each_knob_moves_what_it_names():
    plain = mean_rgb()
    redder = mean_rgb(stain_hue=1)
    assert redder[0] - redder[2] > plain[0] - plain[2] + 5
    cool = mean_rgb(background=1)
    assert cool[2] - cool[0] > plain[2] - plain[0] + 20
    assert mean_rgb(red_cells=3).mean() < mean_rgb(red_cells=0).mean() - 5
    big, small = (
        np.mean(
            [
                (draw_cell(i, size_px=32, style=SmearStyle(zoom=z)).mask > 0).mean()
                for i in range(10)
            ]
        )
        for z in (1.4, 0.7)
    )
    assert big > 2.5 * small


def test_drawn_cells_are_no_near_duplicates():
    assert near_duplicates(build_dataset(smear_items(100, size_px=32))) == []


def test_uri_folder_and_items_show_the_same_images(tmp_path):
    write_smear(tmp_path / "out", 6, seed=5, size_px=32, style=SmearStyle(zoom=1.2))
    folder = open_dataset(tmp_path / "out", group="slide")
    by_uri = open_dataset("smear:6?seed=5&size=32&zoom=1.2")
    assert sorted(folder.ids) == sorted(by_uri.ids)
    for image_id in by_uri.ids:
        i, j = folder.index_of(image_id), by_uri.index_of(image_id)
        assert (folder.image(i) == by_uri.image(j)).all()
        assert (folder.mask(i) == by_uri.mask(j)).all()
        assert folder.groups[i] == by_uri.groups[j]
        assert folder.attributes[image_id] == by_uri.attributes[image_id]


def test_small_sets_know_all_five_classes():
    assert open_dataset("smear:2?size=16").class_names == CLASS_NAMES


@pytest.mark.parametrize(
    ("uri", "message"),
    [
        ("smear:0", "0 smear images"),
        ("smear:many", "'many' in smear:many is no whole number"),
        ("smear:3?size=4", "4 px cannot be drawn"),
        ("smear:3?zoom=9", "zoom is 9"),
        ("smear:3?zoom=nan", "zoom is nan"),
        ("smear:3?zoom=big", "'big' in .* is no number"),
        ("smear:3?colour=red", "unknown key 'colour'"),
        ("smear:3?seed", "broken query"),
    ],
)
def test_bad_smear_uris_say_what_is_wrong(uri, message):
    with pytest.raises(DataError, match=message):
        open_dataset(uri)


def test_columns_of_a_drawn_set_are_refused():
    with pytest.raises(DataError, match="has no columns"):
        open_dataset("smear:3", label="grade")


def test_a_folder_in_use_is_not_overwritten(tmp_path):
    (tmp_path / "mine.txt").write_text("keep")
    with pytest.raises(DataError, match="is not empty"):
        write_smear(tmp_path, 2)
    assert [p.name for p in tmp_path.iterdir()] == ["mine.txt"]
