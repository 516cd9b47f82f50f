"""Every format opened by its own ecosystem's reader: the same bytes, masks and classes."""

import csv
import io
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from catalog.export.formats import FORMATS, Format
from catalog.export.layout import Pictures
from catalog.export.objects import objects_of
from catalog.export.write import export
from catalog.selection import Selection
from tests.catalog.export.conftest import NAMES, published, row_of, rows_by_id


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """Hugging Face `datasets` with a cache of its own and no network."""
    datasets = pytest.importorskip("datasets", reason="datasets is not installed (extra dev)")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    datasets.disable_progress_bars()
    return lambda *args, **how: datasets.load_dataset(
        *args, split="train", cache_dir=str(tmp_path / "cache"), **how
    )


def undecoded(dataset):
    from datasets import Image as Pictures

    images = [name for name in ("image", "mask") if name in dataset.column_names]
    for name in images:
        dataset = dataset.cast_column(name, Pictures(decode=False))
    return dataset


def held(value):
    """The bytes of an undecoded image of `datasets`: inside, or in the file that it names."""
    return value["bytes"] if value["bytes"] is not None else open(value["path"], "rb").read()


@pytest.mark.parametrize("how", ["parquet", "folder"])
def test_datasets_reads_the_parquet_layout_with_images_masks_and_class_labels(
    tmp_path, masked, hub, how
):
    export(masked, tmp_path / "out", "huggingface", shard_bytes=3000)
    shards = sorted((tmp_path / "out" / "data").iterdir())
    assert len(shards) > 2
    if how == "parquet":
        dataset = hub("parquet", data_files=str(tmp_path / "out" / "data" / "*.parquet"))
    else:
        dataset = hub(str(tmp_path / "out"))
    table = rows_by_id(masked)
    assert dataset.features["label"].names == list(NAMES)
    called = dataset.features["label"].int2str(dataset["label"])
    found = dict(zip(dataset["image_id"], called, strict=True))
    assert found == {i: row["class_name"] for i, row in table.items()}
    assert isinstance(dataset[0]["image"], Image.Image)
    for row in undecoded(dataset):
        for name in ("image", "mask"):
            assert row[name]["bytes"] == table[row["image_id"]][name]["bytes"]
        assert row["soft_label"] == table[row["image_id"]]["soft_label"]


@pytest.mark.parametrize("kind", ["plain", "masked"])
@pytest.mark.parametrize("how", ["imagefolder", "folder"])
def test_datasets_reads_the_image_folder_with_classes_and_columns(
    tmp_path, how, kind, hub, request
):
    """And masks, where the card may lead: `datasets` follows no path up from `train`."""
    selection = request.getfixturevalue(kind)
    export(selection, tmp_path / "out", "imagefolder")
    place = str(tmp_path / "out")
    dataset = hub("imagefolder", data_dir=place) if how == "imagefolder" else hub(place)
    table = rows_by_id(selection)
    assert sorted(dataset["image_id"]) == sorted(table)
    for row in undecoded(dataset):
        source = table[row["image_id"]]
        assert (row["class_name"], row["class_id"]) == (source["class_name"], source["class_id"])
        assert row["label"] == source["class_name"]
        assert held(row["image"]) == source["image"]["bytes"]
        if how == "folder" and kind == "masked":
            assert held(row["mask"]) == source["mask"]["bytes"]


@pytest.mark.parametrize("kind", ["plain", "masked"])
def test_torchvision_reads_the_image_folder(tmp_path, kind, request):
    """Masks are no class."""
    from torchvision.datasets import ImageFolder

    plain = request.getfixturevalue(kind)
    export(plain, tmp_path / "out", "imagefolder")
    folder = ImageFolder(tmp_path / "out" / "train")
    assert folder.classes == sorted(NAMES)
    found = {path.split("/")[-1][:-4]: folder.classes[target] for path, target in folder.samples}
    table = rows_by_id(plain)
    assert found == {i: row["class_name"] for i, row in table.items()}
    image, _ = folder[0]
    expected = table[folder.samples[0][0].split("/")[-1][:-4]]["image"]["bytes"]
    assert np.array_equal(np.asarray(image), np.asarray(Image.open(io.BytesIO(expected))))


def test_class_names_that_mean_something_to_readers_stay_texts_and_one_split(tmp_path, hub):
    names = ("NA", "test", "train", "01", "null")
    selection = published(tmp_path / "c", [row_of(i, names=names) for i in range(5)])
    export(selection, tmp_path / "out", "imagefolder")
    dataset = hub("imagefolder", data_dir=str(tmp_path / "out"))
    assert sorted(dataset["class_name"]) == sorted(names)


def test_webdataset_reads_the_shards(tmp_path, masked):
    webdataset = pytest.importorskip("webdataset", reason="webdataset is not installed (extra dev)")
    export(masked, tmp_path / "out", "webdataset", shard_bytes=3000)
    shards = sorted(map(str, (tmp_path / "out").glob("*.tar")))
    assert len(shards) > 2
    table = rows_by_id(masked)
    seen = []
    for sample in webdataset.WebDataset(shards, shardshuffle=False, empty_check=False):
        source = table[sample["__key__"]]
        seen.append(sample["__key__"])
        assert sample["png"] == source["image"]["bytes"]
        assert sample["mask.png"] == source["mask"]["bytes"]
        assert NAMES[int(sample["cls"])] == source["class_name"]
        assert json.loads(sample["json"])["prompt"] == source["prompt"]
    assert sorted(seen) == sorted(table)


# pycocotools' compiled arrays, not ours to mend
OLD_ARRAYS = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")


def coco_of(folder):
    coco = pytest.importorskip("pycocotools.coco", reason="pycocotools is not installed (dev)")
    return coco.COCO(str(folder / "annotations" / "instances_train.json"))


@OLD_ARRAYS
def test_coco_instances_give_the_masks_back_and_are_of_their_images_class(tmp_path, masked, capsys):
    export(masked, tmp_path / "out", "coco")
    coco, table = coco_of(tmp_path / "out"), rows_by_id(masked)
    categories = {c["id"]: c["name"] for c in coco.loadCats(coco.getCatIds())}
    assert tuple(categories.values()) == NAMES
    for image in coco.loadImgs(coco.getImgIds()):
        source = table[image["image_id"]]
        file = tmp_path / "out" / "images" / image["file_name"]
        assert file.read_bytes() == source["image"]["bytes"]
        expected = np.asarray(Image.open(io.BytesIO(source["mask"]["bytes"])))
        drawn = np.zeros_like(expected)
        for annotation in coco.loadAnns(coco.getAnnIds(image["id"])):
            inside = coco.annToMask(annotation)
            assert categories[annotation["category_id"]] == source["class_name"]
            assert annotation["area"] == inside.sum()
            assert not (drawn & inside).any()
            rows, columns = np.nonzero(inside)
            left, top, width, height = annotation["bbox"]
            assert (columns.min(), rows.min()) == (left, top)
            assert (columns.max() + 1, rows.max() + 1) == (left + width, top + height)
            drawn |= inside
        assert np.array_equal(drawn, expected)
        kept = tmp_path / "out" / "masks" / image["file_name"]
        assert kept.read_bytes() == source["mask"]["bytes"]


@OLD_ARRAYS
def test_masks_of_several_values_make_a_category_of_each(tmp_path, parts, capsys):
    export(parts, tmp_path / "out", "coco")
    coco, table = coco_of(tmp_path / "out"), rows_by_id(parts)
    assert [c["name"] for c in coco.loadCats(coco.getCatIds())] == ["mask value 1", "mask value 2"]
    for image in coco.loadImgs(coco.getImgIds()):
        expected = np.asarray(Image.open(io.BytesIO(table[image["image_id"]]["mask"]["bytes"])))
        drawn = np.zeros_like(expected)
        for annotation in coco.loadAnns(coco.getAnnIds(image["id"])):
            drawn[coco.annToMask(annotation) > 0] = annotation["category_id"]
        assert np.array_equal(drawn, expected)


def filled(points, shape):
    """Pixels whose centre lies in a polygon of shares, by even-odd crossings."""
    height, width = shape
    corners = np.array(points).reshape(-1, 2) * (width, height)
    y, x = np.mgrid[:height, :width] + 0.5
    inside = np.zeros(shape, bool)
    for (x1, y1), (x2, y2) in zip(corners, np.roll(corners, -1, axis=0), strict=True):
        if y1 != y2:
            inside ^= ((y1 > y) != (y2 > y)) & (x < x1 + (y - y1) / (y2 - y1) * (x2 - x1))
    return inside


def test_yolo_outlines_and_boxes_are_those_of_the_objects(tmp_path, parts):
    import yaml
    from scipy.ndimage import binary_fill_holes

    export(parts, tmp_path / "out", "yolo")
    export(parts, tmp_path / "boxes", "yolo-boxes")
    data = yaml.safe_load((tmp_path / "out" / "data.yaml").read_text())
    assert data["names"] == {0: "mask value 1", 1: "mask value 2"}
    for picture in pictures_of(parts):
        name = f"{picture.image_id}.txt"
        outlines = (tmp_path / "out" / "labels" / "train" / name).read_text().splitlines()
        boxes = (tmp_path / "boxes" / "labels" / "train" / name).read_text().splitlines()
        for found, outline, box in zip(objects_of(picture), outlines, boxes, strict=True):
            kind, *points = map(float, outline.split())
            whole = np.zeros((16, 16), bool)
            height, width = found.inside.shape
            place = (slice(found.top, found.top + height), slice(found.left, found.left + width))
            whole[place] = found.inside
            assert kind == found.value - 1
            assert np.array_equal(filled(points, (16, 16)), binary_fill_holes(whole))
            centre_x, centre_y, wide, high = map(float, box.split()[1:])
            assert (wide * 16, high * 16) == (width, height)
            assert (centre_x * 16 - width / 2, centre_y * 16 - height / 2) == (
                found.left,
                found.top,
            )
        image = tmp_path / "out" / "images" / "train" / f"{picture.image_id}.png"
        assert image.read_bytes() == picture.image


def yolo_parts(file):
    """The folders of a data.yaml as its readers look for them: beside the file without `path`."""
    import yaml

    data = yaml.safe_load(file.read_text())
    root = Path(data["path"]) if "path" in data else file.parent
    if not root.is_absolute():
        root = Path("/somewhere/datasets") / root
    return {part: root / data[part] for part in ("train", "val")}


@pytest.mark.parametrize("form", ["yolo", "yolo-boxes"])
def test_yolo_finds_its_images_from_any_folder_and_has_a_val_part(tmp_path, parts, form):
    export(parts, tmp_path / "out", form)
    found = yolo_parts(tmp_path / "out" / "data.yaml")
    for folder in found.values():
        images = sorted(folder.glob("*.png"))
        assert len(images) == 5
        for image in images:  # the last 'images' of the path becomes 'labels'
            label = "/labels/".join(str(image.with_suffix(".txt")).rsplit("/images/", 1))
            assert Path(label).is_file()
    told = (tmp_path / "out" / "data.yaml").read_text()
    assert "drawn: scores on them say nothing" in told


@OLD_ARRAYS
def test_coco_categories_have_a_supercategory(tmp_path, masked, capsys):
    export(masked, tmp_path / "out", "coco")
    coco = coco_of(tmp_path / "out")
    assert [c["supercategory"] for c in coco.loadCats(coco.getCatIds())] == ["object"] * 3
    assert coco.getCatIds(supNms=["object"]) == [1, 2, 3]


def pictures_of(selection: Selection) -> list:
    from catalog.export.facts import facts_of
    from catalog.export.marking import Marking

    return list(Pictures(selection=selection, facts=facts_of(selection), marking=Marking()))


@pytest.mark.parametrize("form", ["coco", "yolo"])
def test_objects_need_a_mask_of_every_image(tmp_path, form):
    from factory.errors import CatalogError

    rows = [row_of(0, values=(1,)), row_of(1)]
    selection = published(tmp_path / "c", rows)
    with pytest.raises(CatalogError, match=f"{rows[1]['image_id']}' has no mask .*IS NOT NULL"):
        export(selection, tmp_path / "out", form)
    assert not (tmp_path / "out").exists()


def test_csv_leads_from_every_image_to_its_files_and_how_it_was_drawn(tmp_path, masked):
    export(masked, tmp_path / "out", "csv")
    with (tmp_path / "out" / "manifest.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    table = rows_by_id(masked)
    assert sorted(row["image_id"] for row in rows) == sorted(table)
    for row in rows:
        source = table[row["image_id"]]
        assert (tmp_path / "out" / row["file"]).read_bytes() == source["image"]["bytes"]
        assert (tmp_path / "out" / row["mask_file"]).read_bytes() == source["mask"]["bytes"]
        assert row["class_name"] == source["class_name"]
        assert int(row["seed"]) == source["seed"]
        assert json.loads(row["soft_label"]) == source["soft_label"]


def test_runs_with_other_class_lists_are_numbered_anew(tmp_path):
    uri = tmp_path / "c"
    published(uri, [row_of(0, names=("b", "c"))])
    selection = published(uri, [row_of(1, names=("a", "b"), recipe="other")], "run-2")
    export(selection, tmp_path / "out", "csv")
    with (tmp_path / "out" / "manifest.csv").open(newline="") as file:
        found = {row["class_name"]: int(row["class_id"]) for row in csv.DictReader(file)}
    assert found == {"b": 1}


def test_a_new_format_is_one_file_and_one_line(plain, tmp_path, monkeypatch):
    monkeypatch.setitem(
        FORMATS,
        "flat",
        Format(writer="tests.fakes.toy_export:write", what="flat pictures", example="ls"),
    )
    made = export(plain, tmp_path / "out", "flat")
    named = {path.name for path in (tmp_path / "out").glob("*.png")} - {"sheet.png"}
    assert made.num_images == len(plain) == len(named)
    assert "Flat pictures" in (tmp_path / "out" / "README.md").read_text()
