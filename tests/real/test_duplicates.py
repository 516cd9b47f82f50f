import io

import numpy as np
import pytest
from PIL import Image, ImageEnhance

from factory.errors import ModelError
from factory.real.build import build_dataset
from factory.real.dataset import RealImage
from factory.real.duplicates import (
    Digests,
    Looks,
    grouped,
    merge_groups,
    near_duplicates,
    perceptual_hash,
    turned,
    turned_hashes,
)
from factory.real.smear import draw_cell
from factory.real.stored import InlineBytes
from tests.real.builders import encoded


def cell(index: int) -> Image.Image:
    return Image.fromarray(draw_cell(index, size_px=96).pixels)


def pairs(*images: Image.Image) -> list[tuple[int, int]]:
    return Looks.of((str(n), image) for n, image in enumerate(images)).pairs()


def jpeg(image: Image.Image, quality: int) -> Image.Image:
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=quality)
    return Image.open(buffer)


def test_reencoded_resized_and_slightly_brighter_copies_are_found():
    original = cell(1)
    jpeg = Image.fromarray(np.asarray(original))
    copies = [
        jpeg.resize((60, 60)),
        ImageEnhance.Brightness(original).enhance(1.04),
        original.crop((1, 1, 95, 95)),
    ]
    assert pairs(original, *copies)[:3] == [(0, 1), (0, 2), (0, 3)]


@pytest.mark.parametrize("turn", range(8))
def test_a_turned_copy_is_found_saved_small_or_as_it_is(turn):
    original = cell(1)
    copy = Image.fromarray(turned(np.asarray(original), turn))
    small = jpeg(copy.resize((60, 60)), 60)
    assert pairs(original, copy, small, cell(6)) == [(0, 1), (0, 2), (1, 2)]


def test_hashes_of_turned_terms_are_those_of_turned_pictures():
    original = cell(3)
    told = [
        perceptual_hash(Image.fromarray(turned(np.asarray(original), turn))) for turn in range(8)
    ]
    assert turned_hashes(original).tolist() == told
    assert len(set(told)) == 8


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


def test_digests_know_a_picture_again_by_its_signs_alone(tmp_path):
    kept = Digests.of(cell(n) for n in range(40))
    kept.save(tmp_path / "seen.parquet")
    read = Digests.load(tmp_path / "seen.parquet")
    assert np.array_equal(read.codes, kept.codes)
    assert len(read) == 40
    assert (tmp_path / "seen.parquet").stat().st_size < 40 * 24 + 2000
    original = cell(7)
    side = original.size[0]
    framed = Image.new("RGB", (130, 140), (240, 220, 200))
    framed.paste(original, ((130 - side) // 2, (140 - side) // 2))  # a wider field around it
    copies = [
        original,
        Image.fromarray(turned(np.asarray(original), 5)),
        jpeg(original.resize((48, 48)), 75),
        original.resize((200, 200)),
        original.crop((8, 8, 88, 88)),
        ImageEnhance.Contrast(original).enhance(1.2),
        framed,
    ]
    assert all(read.hold(copy) for copy in copies)
    assert not any(read.hold(cell(n)) for n in range(40, 80))


def test_damaged_digests_are_named(tmp_path):
    (tmp_path / "seen.parquet").write_bytes(b"PAR1 nothing")
    with pytest.raises(ModelError, match=r"seen\.parquet holds no digests"):
        Digests.load(tmp_path / "seen.parquet")
