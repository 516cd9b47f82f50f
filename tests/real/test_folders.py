import numpy as np
import pytest

from factory.errors import DataError
from factory.real.sources import open_dataset
from tests.real.builders import class_folder, encoded, png, put, write_table


def test_classes_are_folder_names_and_ids_relative_paths(tmp_path):
    bare = open_dataset(class_folder(tmp_path / "x"))
    beneath = open_dataset(class_folder(tmp_path / "y", images="images"))
    assert bare.ids == beneath.ids == ("a/1", "a/2", "b/1", "b/2")
    assert bare.labels == ("a", "a", "b", "b")
    assert bare.fingerprint == beneath.fingerprint


def test_other_files_are_ignored_unless_they_claim_to_be_pictures(tmp_path):
    root = class_folder(tmp_path)
    put(root / "README.md", b"hello")
    put(root / "a/Thumbs.db", b"x")
    put(root / "a/._1.png", b"AppleDouble")
    put(root / ".cache/a/9.png", b"x")
    assert len(open_dataset(root)) == 4
    put(root / "a/fake.JPG", b"not a jpeg")
    with pytest.raises(DataError, match=r"fake\.JPG cannot be decoded"):
        open_dataset(root)


def test_masks_are_paired_by_name_whatever_their_suffix(tmp_path):
    root = class_folder(tmp_path, images="images", masks=True)
    (root / "masks/b/2.png").unlink()
    put(root / "masks/b/2.bmp", encoded(np.full((10, 12), 9, np.uint8), "BMP"))
    made = open_dataset(root)
    assert made.has_masks
    assert [int(made.mask(i)[0, 0]) for i in range(4)] == [0, 40, 80, 9]


def test_masks_beside_bare_class_folders_are_no_class(tmp_path):
    made = open_dataset(class_folder(tmp_path, masks=True))
    assert made.class_names == ("a", "b")
    assert made.has_masks


def test_mask_without_image_is_named(tmp_path):
    root = class_folder(tmp_path, images="images", masks=True)
    put(root / "masks/a/typo.png", png(3))
    with pytest.raises(DataError, match=r"typo\.png is the mask of no image"):
        open_dataset(root)


def test_flat_images_with_masks_have_no_label_unless_metadata_say(tmp_path):
    for n in range(2):
        put(tmp_path / f"images/{n}.png", png(n))
        put(tmp_path / f"masks/{n}.png", encoded(np.zeros((10, 12), np.uint8)))
    assert open_dataset(tmp_path).labels == ("unlabelled", "unlabelled")
    rows = [{"file": "images/0.png", "class": "polyp"}, {"file": "images/1.png", "class": "flat"}]
    write_table(tmp_path / "metadata.csv", rows)
    assert open_dataset(tmp_path).labels == ("polyp", "flat")


def test_metadata_add_groups_and_attributes_and_another_label_on_demand(tmp_path):
    root = class_folder(tmp_path, images="images")
    rows = [
        {
            "file": f"images/{name}.png",
            "class": name[0],
            "patient": "p1",
            "grade": grade,
            "site": "",
        }
        for name, grade in [("a/1", "low"), ("a/2", "high"), ("b/1", "low"), ("b/2", "high")]
    ]
    write_table(root / "metadata.csv", rows)
    made = open_dataset(root)
    assert set(made.groups) == {"p1"}
    assert made.attributes["a/2"] == {"grade": "high"}  # an empty cell is an absent attribute
    assert open_dataset(root, label="grade").labels == ("low", "high", "low", "high")
    assert open_dataset(root, group="grade").groups == ("low", "high", "low", "high")
    assert open_dataset(root, attributes=[]).attributes["a/2"] == {}
    with pytest.raises(DataError, match="no column 'gradus'"):
        open_dataset(root, label="gradus")


@pytest.mark.parametrize("name", ["images/a/9.png", "images/a/1.png"])
def test_metadata_row_without_image_or_twice_names_the_line(tmp_path, name):
    root = class_folder(tmp_path, images="images")
    rows = [{"file": "images/a/1.png", "x": "1"}, {"file": name, "x": "2"}]
    write_table(root / "metadata.csv", rows)
    with pytest.raises(DataError, match=r"metadata\.csv line 3 names 'a/"):
        open_dataset(root)


def test_same_name_with_two_suffixes_is_a_duplicate_id(tmp_path):
    root = class_folder(tmp_path)
    put(root / "a/1.bmp", png(77))
    with pytest.raises(DataError, match="'a/1' belongs to 2 images"):
        open_dataset(root)


def test_parts_instead_of_classes_are_noticed(tmp_path):
    for n, part in enumerate(["train", "test"]):
        class_folder(tmp_path / part)
        put(tmp_path / part / "a/1.png", png(10 + n))
    with pytest.raises(DataError, match=r"parts \(test, train\), not classes"):
        open_dataset(tmp_path)
    assert len(open_dataset(tmp_path / "train")) == 4


def test_image_beside_class_folders_is_named(tmp_path):
    put(class_folder(tmp_path) / "loose.png", png(8))
    with pytest.raises(DataError, match=r"loose\.png lies beside class folders \(a, b\)"):
        open_dataset(tmp_path)


def test_empty_folder_and_missing_path_say_what_to_give(tmp_path):
    with pytest.raises(DataError, match="holds no images"):
        open_dataset(tmp_path)
    for uri in (tmp_path / "gone", "s3://bucket/set", "http://host/set.csv"):
        with pytest.raises(DataError, match="there is no dataset at"):
            open_dataset(uri)
    with pytest.raises(DataError, match=r"notes\.txt is no dataset"):
        open_dataset(put(tmp_path / "notes.txt", b"x"))


def test_linked_class_folders_count_and_loops_do_not(tmp_path):
    real = open_dataset(class_folder(tmp_path / "real"))
    linked = tmp_path / "linked"
    linked.mkdir()
    for name in "ab":
        (linked / name).symlink_to(tmp_path / "real" / name)
    assert open_dataset(linked).fingerprint == real.fingerprint
    (tmp_path / "real/a/loop").symlink_to(tmp_path / "real")
    assert open_dataset(tmp_path / "real").fingerprint == real.fingerprint


def test_a_link_that_leads_nowhere_is_a_broken_image(tmp_path):
    root = class_folder(tmp_path)
    (root / "a/3.png").symlink_to(tmp_path / "gone.png")
    with pytest.raises(DataError, match=r"a/3\.png cannot be read"):
        open_dataset(root)
    assert len(open_dataset(root, skip_broken=True).broken) == 1


def test_the_home_folder_is_found_and_no_name_is_no_dataset(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    class_folder(tmp_path / "cells")
    assert len(open_dataset("~/cells")) == 4
    monkeypatch.chdir(tmp_path / "cells")
    for uri in ("", " ", "s3://bucket/set"):
        with pytest.raises(DataError, match=f"no dataset at '{uri}'"):
            open_dataset(uri)
