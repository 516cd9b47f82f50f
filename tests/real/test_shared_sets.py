"""Every source on the real sets that developers have in ../shared/data."""

import shutil
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from catalog.sheet import CAPTION_PX, GAP_PX
from factory.models.generator import find_generator
from factory.real.duplicates import grouped, near_duplicates
from factory.real.field import scale_line
from factory.real.sources import open_dataset
from factory.real.splits import make_split, verify_split

SHARES = {"train": 0.7, "val": 0.15, "test": 0.15}


@pytest.fixture(scope="module")
def data(shared: Path) -> Path:
    return shared / "data"


@pytest.mark.parametrize(
    ("name", "images", "classes", "masks"),
    [
        ("crc_kather_mini", 100, 8, False),
        ("embryo_stork", 84, 2, False),
        ("glas", 123, 2, True),
        ("polyp_bkai_neo", 240, 2, True),
        ("polyp_cvc_clinicdb", 473, 1, True),
        ("wbc_seg1", 224, 5, True),
    ],
)
def test_folder_and_its_table_are_one_dataset(data, name, images, classes, masks):
    folder, table = open_dataset(data / name), open_dataset(data / name / "metadata.csv")
    assert (len(folder), len(folder.class_names), folder.has_masks) == (images, classes, masks)
    assert folder.fingerprint == table.fingerprint
    assert folder.array(16, folder.ids[:3]).std() > 5


def test_cell_masks_hold_background_cytoplasm_and_nucleus(data):
    cells = open_dataset(data / "wbc_seg1")
    assert set(np.unique(cells.mask(40))) == {0, 128, 255}
    assert cells.mask(40).shape == cells.image(40).shape[:2]


def test_one_bit_polyp_masks_are_zero_and_one(data):
    polyps = open_dataset(data / "polyp_bkai_neo")
    assert set(np.unique(polyps.mask_array(64, polyps.ids[:8]))) == {0, 1}


def test_parquet_parts_carry_attributes(data):
    cells = open_dataset(data / "wbc_pbc_full" / "part-00003.parquet")
    assert len(cells) == 4189
    i = cells.index_of("BA_426699")
    assert cells.labels[i] == "basophil"
    assert cells.attributes["BA_426699"]["nucleus_shape"] == "segmented-bilobed"
    assert cells.image(i).shape == (96, 96, 3)


def test_same_cells_in_two_crops_are_found(data):
    cells = open_dataset(data / "wbc_seg1")
    found = {(cells.ids[i], cells.ids[j]) for i, j in near_duplicates(cells)}
    assert found == {
        ("monocyte/071", "monocyte/084"),
        ("neutrophil/157", "neutrophil/158"),
        ("neutrophil/166", "neutrophil/171"),
        ("neutrophil/167", "neutrophil/169"),
    }


def test_tiles_that_were_published_flipped_are_found(data):
    tiles = open_dataset(data / "crc_torino")
    assert [(tiles.ids[i], tiles.ids[j]) for i, j in near_duplicates(tiles)] == [
        ("healthy/image_H_2409", "healthy/image_H_2783"),
        ("healthy/image_H_2578", "healthy/image_H_279"),
    ]


def test_the_embedded_base_knows_its_cells_again_and_no_others(data):
    seen = find_generator("wbc-base").seen
    assert len(seen) == 15080
    frames = open_dataset(data / "wbc_pbc")  # whole frames at 360 px: it saw the middle, at 96 px
    known = sum(seen.hold(frames.picture(i)) for i in range(0, len(frames), 16))
    assert known == 65  # of 80: those of its train part
    cells = open_dataset(data / "wbc_seg1")
    assert not any(seen.hold(cells.picture(i)) for i in range(0, len(cells), 4))


@pytest.fixture(scope="module")
def few_frames(data, tmp_path_factory):
    """Twelve whole frames of each class of PBC, of whose central 256 of 360 px wbc-base learnt."""
    folder = tmp_path_factory.mktemp("frames")
    for path in (data / "wbc_pbc/images").iterdir():
        (folder / path.name).mkdir()
        for image in sorted(path.iterdir())[:12]:
            shutil.copyfile(image, folder / path.name / image.name)
    return folder


@pytest.mark.parametrize(
    ("crop", "said"), [("1", True), ("0.9", True), ("0.711", False), ("0.68", False)]
)
def test_whole_frames_are_told_from_the_middles_that_wbc_base_draws(few_frames, crop, said):
    frames, base = open_dataset(few_frames, crop=crop), find_generator("wbc-base")
    real = frames.look(base.size_px, frames.ids)
    sheet = Image.open(base.folder / "sheet.png").convert("RGB")
    names, side, down = base.class_names, 128, 128 + CAPTION_PX + GAP_PX
    corners = [
        (GAP_PX + (side + GAP_PX) * column, CAPTION_PX + down * row)
        for row in range(len(names))
        for column in range(12)
    ]
    tiles = [np.asarray(sheet.crop((x, y, x + side, y + side))) for x, y in corners]
    drawn = base.drawn(np.stack(tiles), [name for name in names for _ in range(12)])
    for other in (drawn, base.learnt()):  # drawn, or as its manifest keeps it
        line = scale_line(real, other)
        assert (line is not None) == said
        if line is not None:
            share = float(line.partition("--crop ")[2].split()[0])
            assert share == pytest.approx(0.711, abs=0.03)


def test_near_duplicates_recover_the_embryos_without_their_column(data):
    embryos = open_dataset(data / "embryo_stork", group="embryo")
    blind = grouped(open_dataset(data / "embryo_stork"))
    linked = Counter(zip(embryos.groups, blind, strict=True))
    assert len(linked) == len(set(blind)) == len(set(embryos.groups)) == 12


def test_split_of_gland_images_keeps_patients_apart(data):
    glands = open_dataset(data / "glas")
    groups = grouped(glands)
    split = make_split(
        dataset=glands.fingerprint,
        ids=glands.ids,
        labels=glands.labels,
        groups=groups,
        fractions=SHARES,
        seed=0,
    )
    verify_split(split, dataset=glands.fingerprint, ids=glands.ids, groups=groups)
    patient = dict(zip(glands.ids, glands.groups, strict=True))
    parts = [{patient[i] for i in part} for part in (split.train, split.val, split.test)]
    assert sum(map(len, parts)) == len(set(patient.values())) == 10
