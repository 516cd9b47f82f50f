"""DICOM in: what comes out of a file, what never does, and what is refused."""

import numpy as np
import pytest

from factory.errors import DataError
from factory.real.dicom import KEPT
from factory.real.sources import open_dataset

pytest.importorskip("pydicom", reason="pydicom is not installed (extra dicom)")

CANARY = "Doe^Jane"


def instance(path, pixels, *, patient="p-1", number=1, **attributes):
    """Write a DICOM file with everything that names a patient."""
    from pydicom.dataset import Dataset, FileMetaDataset
    from pydicom.uid import ExplicitVRLittleEndian

    dataset = Dataset()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    told = {
        "SOPClassUID": "1.2.840.10008.5.1.4.1.1.7",
        "SOPInstanceUID": f"1.2.3.{number}",
        "StudyInstanceUID": "1.2.4",
        "PatientName": CANARY,
        "PatientID": patient,
        "PatientBirthDate": "19700101",
        "InstitutionName": CANARY,
        "StudyDescription": CANARY,
        "Modality": "DX",
        "BodyPartExamined": "CHEST",
        "Rows": pixels.shape[0],
        "Columns": pixels.shape[1],
        "SamplesPerPixel": 1 if pixels.ndim == 2 else 3,
        "PhotometricInterpretation": "MONOCHROME2" if pixels.ndim == 2 else "RGB",
        "BitsAllocated": pixels.dtype.itemsize * 8,
        "BitsStored": pixels.dtype.itemsize * 8,
        "PixelRepresentation": int(pixels.dtype.kind == "i"),
    }
    if pixels.ndim == 3:
        told["PlanarConfiguration"] = 0
    told |= attributes
    for keyword, value in told.items():
        setattr(dataset, keyword, value)
    dataset.HighBit = dataset.BitsStored - 1
    dataset.PixelData = pixels.tobytes()
    dataset["PixelData"].VR = "OW" if pixels.dtype.itemsize == 2 else "OB"
    block = dataset.private_block(0x0011, "LAB", create=True)
    block.add_new(1, "LO", CANARY)
    path.parent.mkdir(parents=True, exist_ok=True)
    dataset.save_as(path, enforce_file_format=True)


def grey(shape=(8, 10), dtype=np.uint8, top=255):
    return np.linspace(0, top, shape[0] * shape[1]).reshape(shape).astype(dtype)


def only(root, **how):
    dataset = open_dataset(root, **how)
    assert len(dataset) == 1
    return dataset.image(0)[..., 0]


def test_classes_come_from_folders_and_patients_become_numbers(tmp_path):
    for number, (label, patient) in enumerate([("a", "x"), ("a", "y"), ("b", "x")]):
        pixels = grey(top=100 + number)
        instance(tmp_path / label / f"{number}.dcm", pixels, patient=patient, number=number)
    (tmp_path / "DICOMDIR").write_bytes(b"\0" * 128 + b"DICM")
    (tmp_path / "notes.txt").write_text("x")
    dataset = open_dataset(tmp_path)
    assert dataset.labels == ("a", "a", "b")
    assert dataset.groups == ("PatientID 0", "PatientID 1", "PatientID 0")
    assert dataset.attributes[dataset.ids[0]] == {"Modality": "DX", "BodyPartExamined": "CHEST"}
    assert np.array_equal(dataset.image(0)[..., 0], grey(top=100))


def test_nothing_that_names_a_patient_leaves_a_file(tmp_path):
    instance(tmp_path / "a" / "1.dcm", grey(), patient="ID-77")
    dataset = open_dataset(tmp_path)
    items = repr([(i.id, i.label, i.group, dict(i.attributes)) for i in dataset.items])
    for secret in (CANARY, "Doe", "ID-77", "1970", "1.2.3.1", "1.2.4"):
        assert secret not in items
        assert secret.encode() not in dataset.encoded(0)
    with pytest.raises(DataError, match="'PatientName' may identify a patient"):
        open_dataset(tmp_path, attributes=["PatientName"])
    with pytest.raises(DataError, match="'PatientID' may identify a patient"):
        open_dataset(tmp_path, label="PatientID")
    assert not [name for name in KEPT if "Patient" in name or "Date" in name or "UID" in name]


@pytest.mark.parametrize("keyword", ["BurnedInAnnotation", "RecognizableVisualFeatures"])
def test_what_is_burned_into_pixels_is_refused_or_left_out(tmp_path, keyword):
    instance(tmp_path / "a" / "1.dcm", grey(), **{keyword: "YES"})
    instance(tmp_path / "a" / "2.dcm", grey(top=90), number=2)
    with pytest.raises(DataError, match=rf"1.dcm declares .*{keyword} YES"):
        open_dataset(tmp_path)
    dataset = open_dataset(tmp_path, skip_broken=True)
    assert (len(dataset), len(dataset.broken)) == (1, 1)


def test_brightness_follows_inversion_window_and_rescale(tmp_path):
    cases = {
        "plain": (grey(), {}, grey()),
        "inverted": (grey(), {"PhotometricInterpretation": "MONOCHROME1"}, 255 - grey()),
        "12 bits": (grey(dtype=np.uint16, top=4095), {"BitsStored": 12}, grey()),
    }
    for name, (pixels, attributes, expected) in cases.items():
        instance(tmp_path / name / "a" / "1.dcm", pixels, **attributes)
        found = only(tmp_path / name)
        assert np.abs(found.astype(int) - expected).max() <= 1, name


def test_a_window_in_rescaled_units_decides_what_is_black_and_white(tmp_path):
    pixels = np.array([[0, 974, 1024, 1074, 2000, 4095]] * 4, np.int16)  # CT, intercept -1024
    window = {"WindowCenter": "0.5", "WindowWidth": "101"}
    rescale = {"RescaleSlope": "1", "RescaleIntercept": "-1024", "BitsStored": 16}
    instance(tmp_path / "a" / "1.dcm", pixels, **window, **rescale)
    # PS3.3 C.11.2.1.2.1: -50 HU black, 0 HU in the middle, 50 HU white
    assert only(tmp_path)[0].tolist() == [0, 0, 128, 255, 255, 255]


def test_colours_and_palettes_come_as_rgb(tmp_path):
    from pydicom.pixels import convert_color_space

    rgb = np.random.default_rng(0).integers(0, 256, (8, 10, 3), np.uint8)
    instance(tmp_path / "rgb" / "a" / "1.dcm", rgb)
    assert np.array_equal(open_dataset(tmp_path / "rgb").image(0), rgb)
    ybr = convert_color_space(rgb, "RGB", "YBR_FULL")
    instance(tmp_path / "ybr" / "a" / "1.dcm", ybr, PhotometricInterpretation="YBR_FULL")
    assert np.abs(open_dataset(tmp_path / "ybr").image(0).astype(int) - rgb).max() <= 3
    colours = {"PhotometricInterpretation": "PALETTE COLOR"}
    for n, name in enumerate(("Red", "Green", "Blue")):
        lut = (np.arange(256) * (n + 1) // 3 * 257).astype("<u2")
        colours[f"{name}PaletteColorLookupTableDescriptor"] = [256, 0, 16]
        colours[f"{name}PaletteColorLookupTableData"] = lut.tobytes()
    instance(tmp_path / "lut" / "a" / "1.dcm", grey(), **colours)
    expected = np.stack([grey().astype(int) * (n + 1) // 3 for n in range(3)], axis=-1)
    assert np.array_equal(open_dataset(tmp_path / "lut").image(0), expected)


def test_frames_broken_files_and_folders_without_dicom_are_named(tmp_path):
    instance(tmp_path / "many" / "a" / "1.dcm", np.zeros((16, 8), np.uint8), Rows=8,
             NumberOfFrames=2)  # fmt: skip
    with pytest.raises(DataError, match=r"1.dcm holds 2 frames"):
        open_dataset(tmp_path / "many")
    instance(tmp_path / "cut" / "a" / "1.dcm", grey())
    whole = (tmp_path / "cut" / "a" / "1.dcm").read_bytes()
    (tmp_path / "cut" / "a" / "1.dcm").write_bytes(whole[:-40])
    with pytest.raises(DataError, match=r"1.dcm cannot be decoded"):
        open_dataset(tmp_path / "cut")
    (tmp_path / "none").mkdir()
    with pytest.raises(DataError, match="holds no DICOM file"):
        open_dataset(f"dicom:{tmp_path / 'none'}")


def test_files_without_suffix_are_read_when_asked_for_as_dicom(tmp_path):
    instance(tmp_path / "IM0001", grey())
    dataset = open_dataset(f"dicom:{tmp_path}", label="BodyPartExamined", group="StudyInstanceUID")
    assert dataset.labels == ("CHEST",)
    assert dataset.groups == ("StudyInstanceUID 0",)
