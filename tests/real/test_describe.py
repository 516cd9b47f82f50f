import numpy as np
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
