import numpy as np
from PIL import Image, ImageEnhance

from factory.real.dataset import RealImage, build_dataset
from factory.real.duplicates import (
    duplicate_pairs,
    grouped,
    merge_groups,
    near_duplicates,
    perceptual_hash,
    thumbnail,
)
from factory.real.smear import draw_cell
from factory.real.stored import InlineBytes
from tests.real.builders import encoded


def cell(index: int) -> Image.Image:
    return Image.fromarray(draw_cell(index, size_px=96).pixels)


def pairs(*images: Image.Image) -> list[tuple[int, int]]:
    hashes = np.array([perceptual_hash(i) for i in images])
    return duplicate_pairs(hashes, np.stack([thumbnail(i) for i in images]))


def test_reencoded_resized_and_slightly_brighter_copies_are_found():
    original = cell(1)
    jpeg = Image.fromarray(np.asarray(original))
    copies = [
        jpeg.resize((60, 60)),
        ImageEnhance.Brightness(original).enhance(1.04),
        original.crop((1, 1, 95, 95)),
    ]
    assert pairs(original, *copies)[:3] == [(0, 1), (0, 2), (0, 3)]


def test_other_cells_of_the_same_class_are_not():
    assert pairs(*(cell(5 * n) for n in range(12))) == []


def test_contrast_decides_not_absolute_difference():
    ground = np.full((96, 96, 3), 230, np.uint8)
    first, second = ground.copy(), ground.copy()
    first[40:52, 40:52] = 215  # two faint specks in different places: every pixel nearly equal
    second[30:40, 50:66] = 215
    assert pairs(Image.fromarray(first), Image.fromarray(second)) == []


def test_blank_pictures_are_alike():
    blank = Image.new("RGB", (40, 40), (250, 230, 205))
    assert pairs(blank, blank.copy()) == [(0, 1)]


def test_merging_joins_whole_groups_and_chains():
    groups = ["p1", "p1", "p2", "p3", "p4"]
    assert merge_groups(groups, [(1, 2), (2, 3)]) == ["p1", "p1", "p1", "p1", "p4"]
    assert merge_groups(groups, [(3, 2), (2, 0)]) == merge_groups(groups, [(0, 2), (2, 3)])


def test_grouped_joins_a_copy_with_the_group_of_its_original():
    def item(name: str, image: Image.Image, group: str) -> RealImage:
        stored = InlineBytes(name=name, data=encoded(np.asarray(image)))
        return RealImage(id=name, label="x", group=group, image=stored)

    dataset = build_dataset(
        [
            item("a", cell(0), "patient-1"),
            item("b", cell(1), "patient-2"),
            item("c", cell(0).resize((80, 80)), "patient-3"),
        ]
    )
    assert near_duplicates(dataset) == [(0, 2)]
    assert grouped(dataset) == ["patient-1", "patient-2", "patient-1"]
