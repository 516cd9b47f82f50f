import os

import numpy as np
import pytest

from factory.errors import DataError
from factory.real.sources import open_dataset
from tests.real.builders import class_folder, encoded, pixels, png, put, write_table


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
    with pytest.raises(DataError, match=r"metadata\.csv line 3 names 'images/a/"):
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
    assert open_dataset(linked, follow_links=True).fingerprint == real.fingerprint
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


def said(dataset):
    return {one.kind: one.count for one in dataset.not_read}


def test_a_column_of_other_classes_than_the_folders_is_named(tmp_path):
    root = class_folder(tmp_path)
    rows = [("file", "label"), ("a/1.png", "a"), ("a/2.png", "mel"), ("b/1.png", "nv")]
    (root / "metadata.csv").write_text("".join(",".join(row) + "\n" for row in rows))
    made = open_dataset(root)
    assert made.labels == ("a", "a", "b", "b")
    assert said(made) == {"column label of other classes than the folders": 2}
    (root / "metadata.csv").write_text("file,label\na/1.png,a\na/2.png,a\nb/1.png,b\nb/2.png,c\n")
    asked = open_dataset(root, label="label")
    assert asked.labels == ("a", "a", "b", "c")
    assert said(asked) == {}


def test_what_is_not_read_is_counted_by_kind_with_an_example(tmp_path):
    root = class_folder(tmp_path)
    for name in ("a/old.psd", "b/old.psd", "notes.txt", "a/0001", ".cache/x.png", "__MACOSX/1.png"):
        put(root / name, b"x")
    put(root / "a/Thumbs.db", b"x")
    put(root / "a/.ipynb_checkpoints/1-checkpoint.png", png(7))
    made = open_dataset(root)
    assert made.class_names == ("a", "b")
    assert said(made) == {"hidden": 4, ".psd": 2, ".txt": 1, "without suffix": 1}
    assert {one.kind: one.name for one in made.not_read}[".psd"] == "a/old.psd"
    assert made.fingerprint == open_dataset(class_folder(tmp_path / "bare")).fingerprint


def test_pictures_beside_images_are_named_not_dropped(tmp_path):
    root = class_folder(tmp_path, images="images", masks=True)
    put(root / "overlays/1.png", png(9))
    assert said(open_dataset(root)) == {".png beside images/": 1}


@pytest.mark.parametrize("suffix", [".jfif", ".webp", ".JPG", ".Png", ".jp2", ".avif", ".jpe"])
def test_every_suffix_of_a_format_that_is_read_counts(tmp_path, suffix):
    kind = {".jfif": "JPEG", ".jpg": "JPEG", ".jpe": "JPEG", ".webp": "WEBP", ".png": "PNG"}
    more = {".jp2": "JPEG2000", ".avif": "AVIF"}
    data = encoded(pixels(5, 32, 32), {**kind, **more}[suffix.lower()])
    put(class_folder(tmp_path) / f"a/9{suffix}", data)
    assert open_dataset(tmp_path).labels == ("a", "a", "a", "b", "b")


def test_masks_in_the_folder_of_their_images_are_no_class_images(tmp_path):
    for n, name in enumerate(["benign (1)", "benign (2)", "benign (3)"]):
        put(tmp_path / f"benign/{name}.png", png(n))
        for k, suffix in enumerate(["_mask", "_mask_1"][: n + 1]):
            mask = np.zeros((10, 12), np.uint8)
            mask[4 * k : 4 * k + 3] = 255
            put(tmp_path / f"benign/{name}{suffix}.png", encoded(mask))
    made = open_dataset(tmp_path)
    assert (len(made), made.has_masks) == (3, True)
    assert [int((made.mask(i) > 0).sum()) for i in range(3)] == [36, 72, 72]


def test_masks_of_no_image_are_all_named(tmp_path):
    root = class_folder(tmp_path)
    put(root / "a/7_mask.png", png(7))
    put(root / "b/8_segmentation.png", png(8))
    with pytest.raises(DataError, match=r"7_mask\.png is the mask of no image.*1 more like this"):
        open_dataset(root)
    found = open_dataset(root, keep_faults=True)
    assert (len(found), len(found.faults)) == (4, 2)


def test_a_column_of_masks_names_them_wherever_they_lie(tmp_path):
    for n in range(2):
        put(tmp_path / f"{n}.png", png(n))
        put(tmp_path / f"drawn/{n}-x.png", encoded(np.full((10, 12), n, np.uint8)))
    rows = [{"file": f"{n}.png", "mask": f"drawn/{n}-x.png", "class": "c"} for n in range(2)]
    write_table(tmp_path / "metadata.csv", rows)
    made = open_dataset(tmp_path)
    assert (made.ids, made.has_masks) == (("0", "1"), True)
    rows[1]["mask"] = "drawn/gone.png"
    write_table(tmp_path / "metadata.csv", rows)
    with pytest.raises(DataError, match=r"line 3 names the mask drawn/gone\.png, which is no file"):
        open_dataset(tmp_path)


@pytest.mark.parametrize(
    "names", [("Training_set", "Testing_set"), ("TRAIN", "TEST"), ("train2017", "val2017")]
)
@pytest.mark.parametrize("below", ["", "images", "set_of_1998"])
def test_parts_by_other_names_are_noticed_and_below_another_folder_too(tmp_path, names, below):
    for n, part in enumerate(names):
        put(tmp_path / below / part / "a/1.png", png(n))
    with pytest.raises(DataError, match=rf"parts \(.*{names[0]}.*\), not classes"):
        open_dataset(tmp_path)


def test_parts_beside_classes_and_two_kinds_of_masks_are_refused(tmp_path):
    class_folder(tmp_path / "x")
    put(tmp_path / "x/test/a/9.png", png(9))
    with pytest.raises(DataError, match=r"test, called like parts of a set, beside the classes a"):
        open_dataset(tmp_path / "x")
    for name in ("JPEGImages/1", "SegmentationClass/1", "SegmentationObject/1"):
        put(tmp_path / f"y/{name}.png", encoded(np.zeros((10, 12), np.uint8)))
    with pytest.raises(DataError, match="two masks of the same images, in SegmentationClass and"):
        open_dataset(tmp_path / "y")


def test_links_out_of_the_folder_are_refused_unless_asked_for(tmp_path):
    elsewhere = class_folder(tmp_path / "elsewhere")
    root = class_folder(tmp_path / "set")
    (root / "c").symlink_to(elsewhere / "a")
    (root / "a/9.png").symlink_to(put(elsewhere / "b/9.png", png(9)))
    with pytest.raises(DataError, match=r"a/9\.png is a link to .*elsewhere.*--follow-links"):
        open_dataset(root)
    found = open_dataset(root, keep_faults=True)
    assert (found.class_names, len(found.faults)) == (("a", "b"), 2)
    (elsewhere / "a/1.png").write_bytes(png(20))
    (elsewhere / "a/2.png").write_bytes(png(21))
    assert open_dataset(root, follow_links=True).class_names == ("a", "b", "c")
    assert len(open_dataset(f"{root}?follow_links=yes")) == 7


def test_a_table_leads_out_by_dots_or_links_only_when_asked_for(tmp_path):
    put(tmp_path / "elsewhere/1.png", png(1))
    (tmp_path / "set").mkdir()
    (tmp_path / "set/2.png").symlink_to(tmp_path / "elsewhere/1.png")
    for path in ("../elsewhere/1.png", "2.png"):
        table = write_table(tmp_path / "set/t.csv", [{"file": path, "class": "a"}])
        with pytest.raises(DataError, match=r"leads out of .*set\. .*--root.*--follow-links"):
            open_dataset(table)
        assert len(open_dataset(table, follow_links=True)) == 1
    table = write_table(tmp_path / "set/t.csv", [{"file": "elsewhere/1.png", "class": "a"}])
    assert len(open_dataset(table, root=tmp_path)) == 1
    named = write_table(
        tmp_path / "set/t.csv", [{"file": str(tmp_path / "elsewhere/1.png"), "class": "a"}]
    )
    assert len(open_dataset(named)) == 1


@pytest.mark.parametrize("name", [b"\xdcbergang/1.png", b"a/caf\xe9.png"])
def test_names_that_are_no_utf8_are_refused_and_named(tmp_path, name):
    root = class_folder(tmp_path)
    path = os.path.join(os.fsencode(root), name)
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with open(path, "wb") as file:
        file.write(png(9))
    with pytest.raises(DataError, match=r"the name of .*\\x.* is not UTF-8"):
        open_dataset(root)
    assert len(open_dataset(root, keep_faults=True)) == 4


def test_other_files_and_the_folder_itself_with_such_names(tmp_path):
    root = class_folder(tmp_path / "x")
    with open(os.path.join(os.fsencode(root), b"caf\xe9.txt"), "wb"):
        pass
    assert open_dataset(root).not_read[0].name == "caf\\xe9.txt"
    odd = os.path.join(os.fsencode(tmp_path), b"caf\xe9")
    os.rename(root, odd)
    with pytest.raises(DataError, match=r"name of .*caf\\xe9 is not UTF-8"):
        open_dataset(os.fsdecode(odd))


def test_parts_with_masks_say_where_both_lie(tmp_path):
    mask = encoded(np.zeros((10, 12), np.uint8))
    for n, part in enumerate(["train", "test"]):
        put(tmp_path / f"x/{part}/image/{n}.png", png(n))
        put(tmp_path / f"x/{part}/label/{n}.png", mask)
        put(tmp_path / f"y/images/{part}/{n}.png", png(n))
        put(tmp_path / f"y/masks/{part}/{n}.png", mask)
        put(tmp_path / f"z/images/{part}/{n}.png", png(n))
    with pytest.raises(DataError, match=r"Give one part \(.*x/train\)"):
        open_dataset(tmp_path / "x")
    assert open_dataset(tmp_path / "x/train").has_masks
    with pytest.raises(DataError, match="Move the images and masks of one part into a folder"):
        open_dataset(tmp_path / "y")
    with pytest.raises(DataError, match=r"Give one part \(.*z/images/train\)"):
        open_dataset(tmp_path / "z")
    assert len(open_dataset(tmp_path / "z/images/train")) == 1


def test_masks_by_an_unknown_word_are_seen_by_their_colours(tmp_path):
    drawn = np.zeros((10, 12), np.uint8)
    drawn[3:6] = 255
    for n in range(2):
        put(tmp_path / f"Image_0{n}L.png", png(n))
        put(tmp_path / f"Image_0{n}L_crop.png", png(9 + n))
    assert len(open_dataset(tmp_path)) == 4
    put(tmp_path / "Image_00L_1stHO.png", encoded(drawn))
    with pytest.raises(
        DataError, match=r"1stHO\.png is called like Image_00L\.png, and holds 2 col"
    ):
        open_dataset(tmp_path)


def test_pictures_of_few_colours_are_told(tmp_path):
    drawn = np.zeros((10, 12), np.uint8)
    drawn[3:6] = 255
    put(class_folder(tmp_path) / "c/1.png", encoded(drawn))
    put(tmp_path / "c/2.png", encoded(np.full((10, 12, 3), 230, np.uint8)))  # blank
    assert open_dataset(tmp_path).like_masks == ("c/1",)


def test_a_folder_of_masks_alone_says_so(tmp_path):
    put(tmp_path / "1_segmentation.png", png(1))
    with pytest.raises(DataError, match=r"no images, only masks of no image \(1_segmentation"):
        open_dataset(tmp_path)


def test_folders_of_masks_by_an_unknown_word_are_seen_by_names_and_colours(tmp_path):
    for n in range(4):
        drawn = np.zeros((10, 12), np.uint8)
        drawn[n : n + 3] = 255
        put(tmp_path / f"Bilder/{n}.png", png(n))
        put(tmp_path / f"Masken/{n}.png", encoded(drawn))
    with pytest.raises(DataError, match=r"pictures of Masken/ are called like those of Bilder/"):
        open_dataset(tmp_path)
    for n in range(4):  # two classes whose images are numbered alike
        put(tmp_path / f"Masken/{n}.png", png(20 + n))
    assert open_dataset(tmp_path).class_names == ("Bilder", "Masken")
