import numpy as np
import pytest
from ray import cloudpickle

from factory.errors import DataError
from factory.real.build import build_dataset
from factory.real.dataset import RealImage
from factory.real.sources import open_dataset
from factory.real.stored import FileBytes, InlineBytes
from tests.real.builders import class_folder, encoded, pixels, png, put


def item(image_id: str, seed: int, label: str = "a", **rest) -> RealImage:
    image = InlineBytes(name=f"file-{image_id}", data=png(seed))
    return RealImage(id=image_id, label=label, image=image, **rest)


def test_images_masks_labels_and_groups_come_out_as_they_went_in():
    mask = np.arange(120, dtype=np.uint8).reshape(10, 12)
    stored = InlineBytes(name="m", data=encoded(mask))
    made = build_dataset(
        [
            item("x", 1, "b", mask=stored, group="p1", attributes={"stain": "HE"}),
            item("y", 2, "a"),
        ]
    )
    assert (made.ids, made.labels, made.class_names) == (("x", "y"), ("b", "a"), ("a", "b"))
    assert made.class_ids.tolist() == [1, 0]
    assert made.groups == ("p1", "y")
    assert made.attributes == {"x": {"stain": "HE"}, "y": {}}
    assert (made.image(0) == pixels(1)).all()
    assert (made.mask(0) == mask).all()
    assert made.mask(1) is None
    assert made.encoded(1) == png(2)
    assert not made.has_masks


def test_array_is_square_and_in_the_order_asked():
    made = build_dataset([item("x", 1), item("y", 2)])
    both, swapped = made.array(8), made.array(8, ["y", "x"])
    assert both.shape == (2, 8, 8, 3)
    assert both.dtype == np.uint8
    assert (both[::-1] == swapped).all()


def test_mask_array_fits_array_and_refuses_images_without_mask():
    mask = np.zeros((10, 12), np.uint8)
    mask[:, 6:] = 7
    stored = InlineBytes(name="m", data=encoded(mask))
    made = build_dataset([item("x", 1, mask=stored), item("y", 2)])
    assert made.mask_array(5, ["x"])[0, 0].tolist() == [0, 0, 7, 7, 7]
    with pytest.raises(DataError, match="'y' has no mask"):
        made.mask_array(5)


def test_selection_keeps_class_indices():
    made = build_dataset([item("x", 1, "a"), item("y", 2, "b")])
    chosen = made.select(["y"])
    assert (chosen.ids, chosen.class_names, chosen.class_ids.tolist()) == (("y",), ("a", "b"), [1])
    with pytest.raises(DataError, match="no image 'z'"):
        made.select(["z"])


def test_fingerprint_ignores_order_and_place_but_no_content(tmp_path):
    items = [item("x", 1), item("y", 2)]
    made = build_dataset(items).fingerprint
    moved = FileBytes(path=put(tmp_path / "elsewhere.png", png(1)))
    changed = [
        [item("x", 3), items[1]],
        [item("x", 1, "b"), items[1]],
        [item("x", 1, group="p"), items[1]],
        [item("x", 1, attributes={"k": "v"}), items[1]],
        [item("x", 1, mask=InlineBytes(name="m", data=encoded(pixels(1)[..., 0]))), items[1]],
        [items[0]],
    ]
    assert build_dataset(items[::-1]).fingerprint == made
    assert build_dataset([RealImage(id="x", label="a", image=moved), items[1]]).fingerprint == made
    assert len({made, *(build_dataset(c).fingerprint for c in changed)}) == 1 + len(changed)


def test_one_image_under_two_classes_names_both():
    with pytest.raises(DataError, match=r"file-x is 'a', file-y is 'b'"):
        build_dataset([item("x", 1, "a"), item("y", 1, "b")])


def test_duplicate_ids_are_refused():
    items = [item("x", 1), RealImage(id="x", label="a", image=InlineBytes(name="o", data=png(2)))]
    with pytest.raises(DataError, match="'x' belongs to 2 images: file-x and o"):
        build_dataset(items)


def test_unlisted_class_is_refused():
    with pytest.raises(DataError, match="class 'a' is none of"):
        build_dataset([item("x", 1, "a")], class_names=["b"])


def test_broken_images_are_named_or_skipped_and_listed(tmp_path):
    root = class_folder(tmp_path)
    put(root / "a/3.png", b"")
    put(root / "b/4.png", png(9)[:60])
    with pytest.raises(DataError, match=r"a/3\.png is empty"):
        open_dataset(root)
    made = open_dataset(root, skip_broken=True)
    assert made.ids == ("a/1", "a/2", "b/1", "b/2")
    assert len(made.broken) == 2
    assert "b/4.png" in made.broken[1]


def test_mask_of_another_size_is_found_on_opening(tmp_path):
    root = class_folder(tmp_path, images="images", masks=True)
    put(root / "masks/b/2.png", encoded(np.zeros((4, 4), np.uint8)))
    with pytest.raises(DataError, match=r"b/2\.png is 4x4 pixels, its image 12x10"):
        open_dataset(root)


def test_one_picture_in_two_formats_and_classes_is_refused(tmp_path):
    root = class_folder(tmp_path)
    put(root / "b/3.bmp", encoded(pixels(0), "BMP"))  # as a/1.png
    with pytest.raises(DataError, match=r"one image under two classes: .*a/1\.png is 'a'"):
        open_dataset(root)
    (root / "b/3.bmp").rename(root / "a/3.bmp")
    assert len(open_dataset(root)) == 5


def test_nothing_left_is_an_error(tmp_path):
    put(tmp_path / "a/1.png", b"")
    with pytest.raises(DataError, match="no image is left"):
        open_dataset(tmp_path, skip_broken=True)


def test_a_file_changed_after_opening_is_noticed(tmp_path):
    made = open_dataset(class_folder(tmp_path))
    put(tmp_path / "a/1.png", png(50))
    with pytest.raises(DataError, match="changed since"):
        made.image(0)
    (tmp_path / "a/2.png").unlink()
    with pytest.raises(DataError, match=r"2\.png cannot be read"):
        made.image(1)


def test_dataset_travels_to_workers_without_its_pixels(tmp_path):
    made = open_dataset(class_folder(tmp_path))
    data = cloudpickle.dumps(made)  # as Ray sends it
    copy = cloudpickle.loads(data)
    assert copy.fingerprint == made.fingerprint
    assert (copy.image(3) == made.image(3)).all()
    assert png(0) not in data


def deep(image_id: str, greatest: int) -> RealImage:
    values = np.linspace(0, greatest, 120).round().reshape(10, 12).astype(np.uint16)
    return RealImage(
        id=image_id, label="a", image=InlineBytes(name=image_id, data=encoded(values, "TIFF"))
    )


def test_one_depth_holds_for_all_pictures_of_a_set_and_is_part_of_its_fingerprint():
    made = build_dataset([deep("bright", 4000), deep("half", 2000), item("x", 1)])
    assert made.items[0].read_as == "12 bits stored in 16, shown as 0..4095"
    assert made.items[2].read_as == ""
    assert [int(made.image(i).max()) for i in (0, 1)] == [249, 125]  # as bright as they were
    assert (made.image(2) == pixels(1)).all()
    brighter = build_dataset([deep("bright", 8000), deep("half", 2000), item("x", 1)])
    assert int(brighter.image(1).max()) == 62
    assert brighter.select(["half"]).fingerprint != made.select(["half"]).fingerprint
    sent = cloudpickle.loads(cloudpickle.dumps(made.select(["half"])))
    assert np.array_equal(sent.array(8), made.array(8, ["half"]))


def test_sixteen_bits_that_are_filled_keep_their_high_byte_beside_dimmer_ones():
    made = build_dataset([deep("full", 60000), deep("dim", 5000)])
    assert [int(made.image(i).max()) for i in (0, 1)] == [60000 >> 8, 5000 >> 8]
    assert {i.read_as for i in made.items} == {""}


@pytest.mark.parametrize("greatest", [60000, 16000])
def test_a_picture_all_but_black_beside_its_set_is_named_or_left_out(greatest):
    images = [deep("full", greatest), deep("dark", 700)]
    with pytest.raises(DataError, match=r"dark has .*700"):
        build_dataset(images)
    made = build_dataset(images, skip_broken=True)
    assert (made.ids, len(made.broken)) == (("full",), 1)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("\u00dcbergang", "U\u0308bergang"),
        ("basophil", "basophil "),
        ("T cell", "T\u00a0cell"),
        ("T cell", "T  cell"),
        ("band", "ba\u200bnd"),
    ],
)
def test_classes_that_print_alike_are_refused_with_their_spellings(one, other):
    with pytest.raises(DataError, match="classes print alike") as told:
        build_dataset([item("x", 1, one), item("y", 2, other), item("z", 3, "c")])
    assert ascii(one) in str(told.value)
    assert ascii(other) in str(told.value)


def test_names_are_trimmed_and_composed_so_that_one_set_is_one_set_everywhere():
    here = build_dataset([item("\u00dc/1", 1, "\u00dcbergang", group="p1")])
    there = build_dataset([item("U\u0308/1", 1, " U\u0308bergang ", group="p1 ")])
    assert there.class_names == ("\u00dcbergang",)
    assert there.groups == ("p1",)
    assert there.fingerprint == here.fingerprint
    assert build_dataset([item("x", 1, "A"), item("y", 2, "a")]).class_names == ("A", "a")
