"""DICOM out: readable, the same pixels, synthetic by every flag, no patient, the same UIDs."""

import io

import numpy as np
import pytest
from PIL import Image

from catalog.export.dicom import uid
from catalog.export.marking import Marking
from catalog.export.watermark import detect
from catalog.export.write import export
from tests.catalog.export.conftest import encoded, published, row_of, rows_by_id
from tests.catalog.export.test_marks import KEY, smooth

pydicom = pytest.importorskip("pydicom", reason="pydicom is not installed (extra dicom)")


def instances(folder):
    return {path: pydicom.dcmread(path) for path in sorted(folder.rglob("*.dcm"))}


def test_every_image_is_a_secondary_capture_that_says_it_is_synthetic(tmp_path, masked):
    export(masked, tmp_path / "out", "dicom")
    table = rows_by_id(masked)
    found = instances(tmp_path / "out")
    assert len(found) == len(table)
    for path, dataset in found.items():
        source = table[path.stem]
        pixels = np.asarray(Image.open(io.BytesIO(source["image"]["bytes"])))
        assert np.array_equal(dataset.pixel_array, pixels)
        assert dataset.file_meta.MediaStorageSOPClassUID == "1.2.840.10008.5.1.4.1.1.7"
        assert list(dataset.ImageType) == ["DERIVED", "SECONDARY"]
        assert (dataset.SyntheticData, dataset.ConversionType) == ("YES", "SYN")
        assert "not real patients" in dataset.DerivationDescription
        assert (str(dataset.PatientName), dataset.PatientID) == (
            "SYNTHETIC^NOT A PATIENT", "SYNTHETIC"
        )  # fmt: skip
        assert dataset.PatientBirthDate == dataset.StudyDate == ""
        assert source["class_name"] in dataset.SeriesDescription
        mask = tmp_path / "out" / "masks" / path.parent.name / f"{path.stem}.png"
        assert mask.read_bytes() == source["mask"]["bytes"]


def test_uids_follow_from_ids_and_are_shared_as_they_should(tmp_path, plain):
    for name in ("a", "b"):
        export(plain, tmp_path / name, "dicom")
    first, second = (instances(tmp_path / name) for name in ("a", "b"))
    keys = ("SOPInstanceUID", "SeriesInstanceUID", "StudyInstanceUID")
    told = [[[d[k].value for k in keys] for d in side.values()] for side in (first, second)]
    assert told[0] == told[1]
    assert [len({row[n] for row in told[0]}) for n in range(3)] == [7, 3, 1]
    for row in told[0]:
        assert all(pydicom.uid.UID(value).is_valid and value.startswith("2.25.") for value in row)
    assert uid("image", "a") != uid("image", "b")


def test_grey_images_odd_sizes_and_long_class_names_are_written(tmp_path):
    name = "a\\b " + "x" * 100
    row = row_of(0, names=(name,), height_px=5, width_px=3, channels=1)
    pixels = np.arange(15, dtype=np.uint8).reshape(5, 3)
    row["image"]["bytes"] = encoded(pixels)
    export(published(tmp_path / "c", [row]), tmp_path / "out", "dicom")
    (dataset,) = instances(tmp_path / "out").values()
    assert np.array_equal(dataset.pixel_array, pixels)
    assert dataset.PhotometricInterpretation == "MONOCHROME2"
    assert len(dataset.SeriesDescription) == 64


def test_pixels_of_a_known_size_say_it_in_millimetres(tmp_path):
    rows = [row_of(0, pixel_size_um=0.25), row_of(1)]
    export(published(tmp_path / "c", rows), tmp_path / "out", "dicom")
    spacings = [found.get("PixelSpacing") for found in instances(tmp_path / "out").values()]
    assert sorted(map(str, spacings)) == ["None", "[0.00025, 0.00025]"]


def test_a_watermark_goes_into_the_pixels(tmp_path):
    row = row_of(0, size_px=64)
    row["image"]["bytes"] = encoded(smooth(0))
    selection = published(tmp_path / "c", [row])
    export(selection, tmp_path / "out", "dicom", marking=Marking(watermark_key=KEY))
    (dataset,) = instances(tmp_path / "out").values()
    assert detect(dataset.pixel_array, KEY).marked


def test_the_export_comes_back_as_what_it_is(tmp_path, plain):
    from factory.errors import DataError
    from factory.real.sources import open_dataset

    export(plain, tmp_path / "out", "dicom")
    with pytest.raises(DataError, match="DRAWN, NOT REAL: 7 of 7 images"):
        open_dataset(tmp_path / "out" / "images")
    dataset = open_dataset(tmp_path / "out" / "images", keep_faults=True)
    assert len(dataset) == 7
    assert set(dataset.labels) == {"zebra", "Ape", "mole"}
