import numpy as np
import pytest
from PIL import Image

from factory.real.describe import OUTLINE, contact_sheet, describe
from factory.real.sources import open_dataset
from tests.real.builders import class_folder, encoded, pixels, png, put, write_table


def test_description_counts_classes_sizes_attributes_copies_and_broken_files(tmp_path):
    root = class_folder(tmp_path, images="images")
    put(root / "images/a/3.png", png(0, 24, 24))
    put(root / "images/a/4.png", (root / "images/a/3.png").read_bytes())
    put(root / "images/b/9.png", b"")
    rows = [{"file": "images/a/1.png", "stain": "HE"}, {"file": "images/b/1.png", "stain": "HE"}]
    write_table(root / "metadata.csv", rows)
    found = describe(open_dataset(root, skip_broken=True))
    assert found.num_images == 6
    assert found.classes == {"a": 4, "b": 2}
    assert found.sizes_px == {"12x10": 4, "24x24": 2}
    assert (found.num_groups, found.num_split_groups) == (6, 5)
    assert found.duplicates == [["a/3", "a/4"]]
    assert found.attributes == {"stain": {"HE": 2}}
    assert (round(found.majority_rate, 3), found.imbalance) == (0.667, 2.0)
    assert found.conflicts == []
    assert len(found.broken) == 1
    assert found.num_masks == 0


def test_near_duplicates_of_several_classes_are_conflicts(tmp_path):
    root = class_folder(tmp_path)
    put(root / "b/3.jpg", encoded(pixels(0), "JPEG", quality=95, subsampling=0))
    found = describe(open_dataset(root))
    assert found.duplicates == found.conflicts == [["a/1", "b/3"]]


def test_contact_sheet_shows_every_class_and_mask_borders(tmp_path):
    dataset = open_dataset("smear:10?size=32")
    contact_sheet(dataset, tmp_path / "sheet.png", per_class=2, tile_px=48)
    sheet = np.asarray(Image.open(tmp_path / "sheet.png"))
    assert sheet.shape == (5 * 68, 2 * 48, 3)
    for row in range(5):
        tiles = sheet[row * 68 + 20 : (row + 1) * 68]
        assert (tiles == OUTLINE).all(axis=2).sum() > 50
        assert tiles.std() > 20


def test_all_that_is_wrong_is_listed_at_once_beside_the_figures(tmp_path):
    root = class_folder(tmp_path)
    put(root / "a/3.png", b"")
    put(root / "b/4.png", png(9)[:60])
    put(root / "b/5.bmp", encoded(pixels(0), "BMP"))  # as a/1.png
    put(root / "b/6.bmp", encoded(pixels(1), "BMP"))  # as a/2.png
    put(root / "b/1.bmp", encoded(pixels(8), "BMP"))  # called like b/1.png
    put(root / "a/7_mask.png", png(7))
    put(root / "notes.txt", b"x")
    found = describe(open_dataset(root, keep_faults=True))
    assert (found.num_images, len(found.broken)) == (6, 2)
    reasons = ["mask of no image", "'b/1' belongs to 2", "under two classes", "under two classes"]
    assert len(found.faults) == len(reasons)
    for reason in reasons:
        assert any(reason in fault for fault in found.faults)
    assert [(one.kind, one.count) for one in found.not_read] == [(".txt", 1)]


def test_what_masks_hold_is_told_with_shares_rule_and_joined_files(tmp_path):
    for n in range(2):
        put(tmp_path / f"{n}.png", png(n))
        mask = np.zeros((10, 12), np.uint8)
        mask[:5] = 7
        put(tmp_path / f"{n}_mask.png", encoded(mask))
    put(tmp_path / "0_mask_1.png", encoded(np.zeros((10, 12), np.uint8)))
    found = describe(open_dataset(tmp_path))
    assert (found.mask_shares, found.num_joined_masks) == ({0: 0.5, 7: 0.5}, 1)
    found = describe(open_dataset(tmp_path, masks="object"))
    assert (found.mask_shares, found.reading) == ({0: 0.5, 255: 0.5}, {"masks": "object"})


def flat_set(root, classes, patients=None):
    """Write images of these classes with a metadata table, one row a class entry."""
    rows = []
    for n, name in enumerate(classes):
        put(root / f"images/{n}.png", png(n))
        rows.append({"file": f"images/{n}.png", "class": name})
        if patients:
            rows[-1]["patient"] = patients[n]
    write_table(root / "metadata.csv", rows)
    return root


def test_thin_classes_and_parts_are_warned_of_and_folds_proposed(tmp_path):
    classes = ["a"] * 30 + ["b"] * 20 + ["c"] * 2
    found = describe(open_dataset(flat_set(tmp_path, classes)))
    assert found.parts["a"] == {"train": 24, "val": 3, "test": 3}
    assert sum(found.parts["c"].values()) == 2
    text = "\n".join(found.warnings)
    assert "too few to learn a class from and to test on it: c 2;" in text
    assert "holds no image of c" in text
    assert "--folds 5 tests every image once" in text


def test_a_part_of_one_patient_is_warned_of_and_the_column_named(tmp_path):
    patients = [f"p{n // 6}" for n in range(60)]
    root = flat_set(tmp_path, ["a", "b"] * 30, patients)
    dataset = open_dataset(root)
    found = describe(dataset)
    assert found.grouped_by == {"patient": 60}
    text = "\n".join(found.warnings)
    assert "test holds one group only (patient 'p" in text
    assert "--folds 5" in text
    alone = describe(open_dataset(root, group="file"))
    assert "one group only" not in "\n".join(alone.warnings)


def test_a_split_that_is_not_possible_is_a_warning(tmp_path):
    found = describe(open_dataset(flat_set(tmp_path, ["a"] * 40, [f"p{n % 2}" for n in range(40)])))
    assert found.parts == {}
    assert any("split as by default is not possible: no group is left" in w for w in found.warnings)


def test_folders_below_classes_are_spoken_of(tmp_path):
    for n in range(4):
        put(tmp_path / f"x/BUSI/{'ab'[n % 2]}/{n}.png", png(n))
        put(tmp_path / f"y/{'ab'[n % 2]}/p{n}/{n}.png", png(n))
    wrapped = describe(open_dataset(tmp_path / "x"))
    assert any("if its folders (a, b) are the classes" in w for w in wrapped.warnings)
    patients = describe(open_dataset(tmp_path / "y"))
    assert any("(p0, p1, p2) are not taken as groups" in w for w in patients.warnings)
    assert not any("folders" in w for w in describe(open_dataset(tmp_path / "y/a")).warnings)


@pytest.mark.parametrize("column", ["PatientID", "StudyInstanceUID", "lesion_id"])
def test_a_column_that_speaks_of_patients_is_proposed_as_group_and_not_taken(tmp_path, column):
    root = class_folder(tmp_path)
    rows = [{"file": f"{n}.png", column: f"p{n[-1]}", "age": "7"} for n in ("a/1", "a/2", "b/1")]
    write_table(root / "metadata.csv", rows)
    (text,) = (text for text in describe(open_dataset(root)).warnings if "--group" in text)
    assert f"pass --group {column} " in text
    grouped = describe(open_dataset(root, group=column))
    assert not [text for text in grouped.warnings if "speaks of" in text]


def test_classes_that_differ_in_case_alone_are_told(tmp_path):
    for n, name in enumerate(["Basophil", "basophil", "monocyte"]):
        put(tmp_path / name / f"{n}.png", png(n))
    found = [text for text in describe(open_dataset(tmp_path)).warnings if "case" in text]
    assert found == [
        "classes 'Basophil' and 'basophil' differ in case alone: rename one if they are one"
    ]


def test_images_without_a_group_among_grouped_ones_are_told(tmp_path):
    patients = [f"p{n // 2}" if n else "" for n in range(30)]
    found = describe(open_dataset(flat_set(tmp_path, ["a"] * 30, patients)))
    assert "1 of 30 images have no group (patient)" in "\n".join(found.warnings)


def test_folders_of_the_same_names_in_each_class_may_be_the_classes(tmp_path):
    for n in range(8):
        put(tmp_path / f"centre{n % 2}/{'ab'[n // 4]}/{n}.png", png(n))
    found = describe(open_dataset(tmp_path))
    assert "folders of the same names (a, b): if these are the classes" in "\n".join(found.warnings)
