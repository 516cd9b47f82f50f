"""Folders as tools and data sets lay them out: who is image, mask, part or class."""

from pathlib import PurePath

import pytest

from factory.real.layout import layout_of, part_and_rest, parts_among


def read(*names: str) -> tuple[list[str], dict[str, list[str]], list[str]]:
    """Return the keys of images, the masks by key and the orphans of a folder of these files."""
    found = layout_of([PurePath(name) for name in sorted(names)])
    masks = {key: sorted(map(str, paths)) for key, paths in found.masks.items()}
    return sorted(found.images.values()), masks, [str(path) for path in found.orphans]


@pytest.mark.parametrize(
    ("image", "mask", "key"),
    [
        ("benign/benign (1).png", "benign/benign (1)_mask.png", "benign/benign (1)"),
        ("testA_1.bmp", "testA_1_anno.bmp", "testA_1"),
        ("ISIC_0000000.jpg", "ISIC_0000000_segmentation.png", "ISIC_0000000"),
        ("a/x.TIF", "a/x Mask.PNG", "a/x"),
        ("a/x.png", "a/x-mask.png", "a/x"),
        ("a/x.png", "a/x.mask.png", "a/x"),
        ("a/x.png", "a/mask_x.png", "a/x"),
        ("a/x.png", "a/GT_x.png", "a/x"),
        ("a/cell07.png", "a/cell07Mask.png", "a/cell07"),
        ("001_image.png", "001_mask.png", "001_image"),
        ("img_001.png", "mask_001.png", "img_001"),
        ("x.png", "x_ground_truth.png", "x"),
        ("x.png", "x_Groundtruth (1).png", "x"),
        ("a/x.tif", "a/x_cp_masks.png", "a/x"),
        ("a/x.jpg", "a/x_lesion_mask.png", "a/x"),
        ("a/x.tif", "a/Mask of x.tif", "a/x"),
        ("a/x [d=1,y=0].png", "a/x [d=1,y=0]-labelled.png", "a/x [d=1,y=0]"),
        ("x_jpg.rf.a1.jpg", "x_jpg.rf.a1_mask.png", "x_jpg.rf.a1"),
        ("img/1.png", "masks_machine/1.png", "1"),
        ("imagesTr/c1_0000.png", "labelsTr/c1.png", "c1_0000"),
        ("Original/1.tif", "Ground Truth/1.tif", "1"),
        ("Images/1.jpg", "Masks/1.png", "1"),
        ("images/1.jpg", "labels/1.png", "1"),
        ("images/a/1.jpg", "masks/a/1_mask.png", "a/1"),
        ("JPEGImages/2007_01.jpg", "SegmentationClass/2007_01.png", "2007_01"),
        ("img/1.png", "gt/1.png", "1"),
        ("raw/1.png", "Segmentation/1_seg.png", "1"),
        ("benign/images/1.png", "benign/masks/1.png", "benign/1"),
        ("benign/1.png", "benign/masks/1.png", "benign/1"),
        ("benign/1.png", "masks/benign/1.png", "benign/1"),
        ("benign/1.png", "benign_masks/1.png", "benign/1"),
        ("CVC-612/1.png", "CVC-612 masks/1.png", "CVC-612/1"),
        ("train/1.png", "train_masks/1.png", "1"),
        (
            "ISIC2018_Task1-2_Training_Input/ISIC_1.jpg",
            "ISIC2018_Task1_Training_GroundTruth/ISIC_1_segmentation.png",
            "ISIC_1",
        ),
    ],
)
def test_images_find_their_masks(image, mask, key):
    assert read(image, mask) == ([key], {key: [mask]}, [])


def test_several_masks_of_one_image_are_all_kept():
    names = ["benign (4).png", "benign (4)_mask.png", "benign (4)_mask_1.png"]
    assert read(*names) == (["benign (4)"], {"benign (4)": names[1:]}, [])
    cells = ["7/images/7.png", "7/masks/a0f.png", "7/masks/b1e.png"]
    assert read(*cells) == (["7/7"], {"7/7": cells[1:]}, [])


def test_a_number_behind_the_word_may_be_the_images():
    names = ["x_1.png", "x_2.png", "x_mask_1.png", "x_mask_2.png"]
    assert read(*names)[1] == {"x_1": ["x_mask_1.png"], "x_2": ["x_mask_2.png"]}


def test_classes_with_masks_beside_each():
    names = ["tumor/1.png", "tumor_masks/1.png", "normal/2.png", "normal_masks/2.png"]
    assert read(*names)[:2] == (
        ["normal/2", "tumor/1"],
        {"tumor/1": ["tumor_masks/1.png"], "normal/2": ["normal_masks/2.png"]},
    )


@pytest.mark.parametrize(
    "names",
    [
        ["seg/1.png", "band/1.png"],  # neutrophils: words of masks that are classes
        ["manual/7.png", "automatic/7.png"],
        ["with_mask/1.png", "no_mask/1.png"],
        ["a/BNE_seg.png", "a/SNE.png"],
        ["a/label_1.png", "a/label_2.png"],
        ["original/1.png", "stained/1.png"],
        ["neutrophil/1.png", "seg_neutrophil/1.png"],
    ],
)
def test_words_for_masks_without_an_image_of_the_name_are_names(names):
    keys, masks, orphans = read(*names)
    assert sorted(names) == [f"{key}.png" for key in keys]
    assert (masks, orphans) == ({}, [])


@pytest.mark.parametrize(
    ("names", "orphans"),
    [
        (["masks/2.png", "images/1.png"], ["masks/2.png"]),
        (["Ground Truth/2.tif", "Original/1.tif"], ["Ground Truth/2.tif"]),
        (["a/1.png", "a/2_mask.png"], ["a/2_mask.png"]),
        (
            ["1_segmentation.png", "2_segmentation.png"],
            ["1_segmentation.png", "2_segmentation.png"],
        ),
        (["mask_1.png"], ["mask_1.png"]),
    ],
)
def test_masks_of_no_image_are_never_images(names, orphans):
    found = read(*names)
    assert found[2] == orphans
    assert len(found[0]) == len(names) - len(orphans)


def test_two_kinds_of_masks_are_noticed():
    names = ["JPEGImages/1.jpg", "SegmentationClass/1.png", "SegmentationObject/1.png"]
    found = layout_of([PurePath(name) for name in names])
    assert found.rivals == ("SegmentationClass", "SegmentationObject")


def test_a_word_behind_the_name_of_another_picture_is_told():
    names = ["x_1.jpg", "x_1_1stHO.png", "x_2.jpg", "x_10.jpg"]
    found = layout_of([PurePath(name) for name in names])
    assert dict(found.extended) == {PurePath(names[1]): PurePath(names[0])}


def test_what_explains_an_image_or_lies_beside_images_is_passed():
    names = ["ISIC_1.jpg", "ISIC_1_superpixels.png", "ISIC_2.jpg"]
    found = layout_of([PurePath(name) for name in names])
    assert dict(found.passed) == {PurePath(names[1]): "explains an image"}
    names = ["images/1.png", "masks/1.png", "figures/1.png", "preview.png"]
    found = layout_of([PurePath(name) for name in names])
    assert set(found.passed.values()) == {"beside images/"}
    assert sorted(map(str, found.passed)) == ["figures/1.png", "preview.png"]


def test_the_only_folder_of_images_is_no_class():
    for top in ("Images", "JPEGImages", "img", "RAW"):
        assert read(f"{top}/a/1.png", f"{top}/b/2.png")[0] == ["a/1", "b/2"]
    assert read("cells/a/1.png", "cells/b/2.png")[0] == ["cells/a/1", "cells/b/2"]


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("train", ("train", ())),
        ("TRAIN", ("train", ())),
        ("Training_set", ("train", ())),
        ("Testing set", ("test", ())),
        ("testA", ("test", ())),
        ("val2017", ("val", ())),
        ("Validation-Data", ("val", ())),
        ("train_images", ("train", ())),
        ("Test_positive", ("test", ("positive",))),
        ("imagesTr", ("train", ())),
        ("Tr", ("", ("tr",))),
        ("restrained", ("", ("restrained",))),
        ("attest", ("", ("attest",))),
    ],
)
def test_words_for_parts(name, expected):
    assert part_and_rest(name) == expected


def test_parts_among_classes():
    assert parts_among(["Training_set", "Testing_set"]) == ["Testing_set", "Training_set"]
    assert parts_among(["train", "a", "b"]) == ["train"]
    assert parts_among(["ISIC_Training", "ISIC_Test"]) == ["ISIC_Test", "ISIC_Training"]
    assert parts_among(["Test_positive", "Test_negative"]) == []
    assert parts_among(["valid", "invalid"]) == []
    assert parts_among(["train", "valid"]) == ["train", "valid"]
    assert parts_among(["a", "b"]) == []
