"""DICOM in: what comes out of a file, what never does, and what is refused."""

from contextlib import suppress

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

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
    if "HighBit" not in told:
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
    with pytest.raises(DataError, match="holds no DICOM file with an image"):
        open_dataset(f"dicom:{tmp_path / 'none'}")


def test_files_without_suffix_are_read_when_asked_for_as_dicom(tmp_path):
    instance(tmp_path / "IM0001", grey())
    dataset = open_dataset(f"dicom:{tmp_path}", label="BodyPartExamined", group="StudyInstanceUID")
    assert dataset.labels == ("CHEST",)
    assert dataset.groups == ("StudyInstanceUID 0",)


def ramp(low, high, dtype=np.uint16, shape=(16, 16)):
    return np.linspace(low, high, shape[0] * shape[1]).round().reshape(shape).astype(dtype)


def by_name(dataset):
    return {item.image.path.stem: dataset.image(i) for i, item in enumerate(dataset.items)}


def test_values_of_sixteen_bits_without_window_are_stretched_series_by_series(tmp_path):
    bright = {"Modality": "MR", "SeriesInstanceUID": "1.1"}
    instance(tmp_path / "a" / "1.dcm", ramp(66, 726), number=1, **bright)
    instance(tmp_path / "a" / "2.dcm", ramp(66, 400), number=2, **bright)
    other = {"Modality": "MR", "SeriesInstanceUID": "1.2"}
    instance(tmp_path / "b" / "3.dcm", ramp(0, 90), number=3, **other)
    shifted = {
        **bright,
        "RescaleIntercept": "-1024",
    }  # values of another meaning, though one series
    instance(tmp_path / "b" / "4.dcm", ramp(50, 944, np.int16)[::-1], number=4, **shifted)
    made = open_dataset(tmp_path)
    found = by_name(made)
    for name in "134":
        assert (found[name].min(), found[name].max()) == (0, 255)
    assert abs(int(found["2"].max()) - 255 * (400 - 66) / (726 - 66)) < 3  # as beside its series
    assert {item.read_as for item in made.items} == {
        "MR without window, stretched from what its series holds"
    }


def test_hounsfield_units_mean_the_same_in_every_file(tmp_path):
    rescale = {"Modality": "CT", "RescaleSlope": "1", "RescaleIntercept": "-1024"}
    instance(tmp_path / "a" / "1.dcm", ramp(0, 1100, np.int16), SeriesInstanceUID="1.1", **rescale)
    wide = ramp(500, 2500, np.uint16)
    instance(tmp_path / "a" / "2.dcm", wide, number=2, SeriesInstanceUID="1.2", **rescale)
    made = open_dataset(tmp_path)
    found = by_name(made)
    same = found["1"][ramp(0, 1100) == 1001][0, 0], found["2"][np.abs(wide - 1001.0) < 5][0, 0]
    assert abs(int(same[0]) - int(same[1])) <= 1
    assert {item.read_as for item in made.items} == {
        "CT in HU without window, stretched from -1024..1476"
    }


def test_the_rule_of_stretching_is_part_of_the_fingerprint(tmp_path):
    for folder, bits in [("stretched", 16), ("whole", 10)]:
        values = ramp(0, 1023)
        instance(tmp_path / folder / "a" / "1.dcm", values, BitsStored=bits)
    first, second = (open_dataset(tmp_path / name) for name in ("stretched", "whole"))
    assert np.array_equal(first.image(0), second.image(0))
    assert first.fingerprint != second.fingerprint


def test_values_that_use_their_stored_range_are_not_stretched(tmp_path):
    instance(tmp_path / "a" / "1.dcm", ramp(0, 1100), BitsStored=12)
    instance(tmp_path / "a" / "2.dcm", ramp(90, 120, np.uint8), number=2)
    found = by_name(open_dataset(tmp_path))
    assert abs(int(found["1"].max()) - 1100 / 4095 * 255) <= 1
    assert found["2"].min() == 90


@pytest.mark.parametrize(
    ("pixels", "attributes"),
    [
        (ramp(0, 4095) << 4, {"BitsStored": 12, "HighBit": 15}),  # values in the upper bits
        (ramp(0, 4095) | 0xF000, {"BitsStored": 12, "HighBit": 11}),  # an overlay in the upper
        (ramp(-2000, 2000, np.int16), {}),
        (ramp(0, 65535)[::-1, ::-1], {"PhotometricInterpretation": "MONOCHROME1"}),
        (ramp(900, 0, np.int16), {"PhotometricInterpretation": "MONOCHROME1"}),
    ],
)
def test_brightness_is_upright_and_full_whatever_the_container(tmp_path, pixels, attributes):
    instance(tmp_path / "a" / "1.dcm", pixels, **attributes)
    found = only(tmp_path)
    assert np.abs(found.astype(int) - ramp(0, 255)).max() <= 2


def test_padding_does_not_decide_how_bright_the_rest_is(tmp_path):
    outside = ramp(0, 99) < 9
    pixels = np.where(outside, -2000, ramp(100, 800, np.int16)).astype(np.int16)
    instance(tmp_path / "a" / "1.dcm", pixels, PixelPaddingValue=-2000)
    shown = pixels[~outside]
    wanted = (shown - shown.min()) / (shown.max() - shown.min()) * 255
    assert np.abs(only(tmp_path)[~outside] - wanted).max() <= 1
    assert not only(tmp_path)[outside].any()


@pytest.mark.parametrize(
    ("bits", "top", "dtype"), [(12, 4095, np.uint16), (16, 4095, np.uint16), (16, 65535, np.uint16)]
)
def test_colours_of_more_than_eight_bits_keep_their_hue(tmp_path, bits, top, dtype):
    rgb = np.stack([ramp(0, top), ramp(top, 0), ramp(0, top // 2)], -1).astype(dtype)
    instance(tmp_path / "a" / "1.dcm", rgb, BitsStored=bits)
    found = open_dataset(tmp_path).image(0)
    assert np.abs(found - rgb.astype(float) / top * 255).max() <= 1


def test_palettes_of_eight_bits_that_claim_sixteen_are_not_black(tmp_path):
    colours = {"PhotometricInterpretation": "PALETTE COLOR"}
    for n, name in enumerate(("Red", "Green", "Blue")):
        lut = (np.arange(256) * (n + 1) // 3).astype("<u2")
        colours[f"{name}PaletteColorLookupTableDescriptor"] = [256, 0, 16]
        colours[f"{name}PaletteColorLookupTableData"] = lut.tobytes()
    instance(tmp_path / "a" / "1.dcm", grey(), **colours)
    expected = np.stack([grey().astype(int) * (n + 1) // 3 for n in range(3)], axis=-1)
    assert np.array_equal(open_dataset(tmp_path).image(0), expected)


def test_video_colours_of_half_resolution_come_as_rgb(tmp_path):
    from pydicom.pixels import convert_color_space

    flat = np.full((8, 8, 3), (200, 60, 90), np.uint8)
    y, cb, cr = np.moveaxis(convert_color_space(flat, "RGB", "YBR_FULL"), -1, 0)
    halved = np.stack([y[:, ::2], y[:, 1::2], cb[:, ::2], cr[:, ::2]], -1).reshape(8, 16)
    instance(tmp_path / "a" / "1.dcm", halved, SamplesPerPixel=3, Columns=8, PlanarConfiguration=0,
             PhotometricInterpretation="YBR_FULL_422")  # fmt: skip
    assert np.abs(open_dataset(tmp_path).image(0).astype(int) - flat).max() <= 3


LUT = {"LUTDescriptor": [256, 0, 8], "LUTData": bytes(range(255, -1, -1))}


def table(**attributes):
    from pydicom.dataset import Dataset

    item = Dataset()
    for keyword, value in attributes.items():
        setattr(item, keyword, value)
    return [item]


@pytest.mark.parametrize(
    "attributes",
    [
        {"RescaleSlope": None, "RescaleIntercept": "0"},
        {"RescaleSlope": "1", "RescaleIntercept": None},
        {"RescaleSlope": "0", "RescaleIntercept": "0"},
        {"RescaleSlope": None, "RescaleIntercept": None, "RescaleType": None},
        {"WindowCenter": None, "WindowWidth": "256"},
        {"WindowCenter": "128", "WindowWidth": None},
        {"WindowCenter": "128", "WindowWidth": "0"},
        {"WindowCenter": "128", "WindowWidth": "-5"},
        {"WindowCenter": "128", "WindowWidth": "256", "VOILUTFunction": None},
        {"VOILUTSequence": []},
        {"VOILUTSequence": [{}]},
        {"VOILUTSequence": [{"LUTDescriptor": [256, 0, 8], "LUTData": None}]},
        {"ModalityLUTSequence": [{"LUTDescriptor": None}]},
        {"NumberOfFrames": None, "PixelPaddingValue": None},
    ],
)
def test_what_stands_in_a_file_without_a_value_counts_as_absent(tmp_path, attributes):
    told = {
        keyword: [table(**item)[0] for item in value] if isinstance(value, list) else value
        for keyword, value in attributes.items()
    }
    instance(tmp_path / "a" / "1.dcm", grey(), **told)
    assert np.abs(only(tmp_path).astype(int) - grey()).max() <= 1


def rewritten(path, old, new):
    """Write what no library would: a value of the same length in the place of another."""
    data = path.read_bytes()
    assert len(old) == len(new)
    assert data.count(old) == 1
    path.write_bytes(data.replace(old, new))


def test_decimal_commas_and_several_windows_are_read(tmp_path):
    first = {"WindowCenter": ["50.5", "999"], "WindowWidth": ["101.0", "1"]}
    instance(tmp_path / "point" / "a" / "1.dcm", grey(), **first)
    instance(tmp_path / "comma" / "a" / "1.dcm", grey(), **first)
    rewritten(tmp_path / "comma" / "a" / "1.dcm", b"50.5\\999", b"50,5\\999")
    rewritten(tmp_path / "comma" / "a" / "1.dcm", b"101.0\\1", b"101,0\\1")
    instance(tmp_path / "later" / "a" / "1.dcm", grey(), WindowCenter=["7777", "50.5"],
             WindowWidth=["8888", "101.0"])  # fmt: skip
    rewritten(tmp_path / "later" / "a" / "1.dcm", b"8888\\101.0", b"    \\101.0")
    wanted = only(tmp_path / "point")
    assert wanted.max() == 255 > grey()[wanted == 255].min()
    assert np.array_equal(only(tmp_path / "comma"), wanted)
    assert np.array_equal(only(tmp_path / "later"), wanted)


def test_an_error_names_its_real_cause_and_no_other_remedy(tmp_path):
    instance(tmp_path / "word" / "a" / "1.dcm", grey(), WindowCenter="7777", WindowWidth="9")
    rewritten(tmp_path / "word" / "a" / "1.dcm", b"7777", b"wide")
    with pytest.raises(DataError, match="has the WindowCenter 'wide', which is no number") as told:
        open_dataset(tmp_path / "word")
    assert "transfer syntax" not in str(told.value)
    instance(tmp_path / "law" / "a" / "1.dcm", grey(), WindowCenter="9", WindowWidth="9",
             VOILUTFunction="CUBIC")  # fmt: skip
    with pytest.raises(DataError, match="CUBIC") as told:
        open_dataset(tmp_path / "law")
    assert "transfer syntax" not in str(told.value)


def test_an_enhanced_object_of_one_frame_is_windowed_and_one_of_many_is_refused(tmp_path):
    told = {"Modality": "MR", "SOPClassUID": "1.2.840.10008.5.1.4.1.1.4.1"}
    window = table(WindowCenter="50.5", WindowWidth="101")
    frame = {"SharedFunctionalGroupsSequence": table(FrameVOILUTSequence=window)}
    instance(tmp_path / "one" / "a" / "1.dcm", grey(), NumberOfFrames=1, **told, **frame)
    instance(tmp_path / "old" / "a" / "1.dcm", grey(), WindowCenter="50.5", WindowWidth="101")
    assert np.array_equal(only(tmp_path / "one"), only(tmp_path / "old"))
    instance(tmp_path / "many" / "a" / "1.dcm", np.zeros((16, 8), np.uint16), Rows=8,
             NumberOfFrames=2, **told)  # fmt: skip
    with pytest.raises(DataError, match=r"1\.dcm holds 2 frames.*Export every frame"):
        open_dataset(tmp_path / "many")


def without_pixels(path, modality):
    """Write a report or a presentation state: an object that is no image."""
    instance(path, grey(), Modality=modality, SOPClassUID="1.2.840.10008.5.1.4.1.1.88.11",
             number=path.stem)  # fmt: skip
    import pydicom

    dataset = pydicom.dcmread(path)
    for keyword in ("Rows", "Columns", "PixelData"):
        delattr(dataset, keyword)
    dataset.save_as(path)


def test_objects_without_pixels_are_passed_over_and_counted(tmp_path):
    instance(tmp_path / "a" / "1.dcm", grey())
    for name, modality in [("7", "SR"), ("8", "SR"), ("9", "PR")]:
        without_pixels(tmp_path / "a" / f"{name}.dcm", modality)
    made = open_dataset(tmp_path)
    assert len(made) == 1
    assert {each.kind: each.count for each in made.not_read} == {
        "DICOM without pixels: SR": 2,
        "DICOM without pixels: PR": 1,
    }
    (tmp_path / "a" / "1.dcm").unlink()
    with pytest.raises(DataError, match="no DICOM file with an image, only DICOM without pixels"):
        open_dataset(tmp_path)


@pytest.mark.parametrize("suffix", ["", ".dcm", ".DCM", ".ima"])
def test_files_are_dicom_by_content_with_and_without_preamble(tmp_path, suffix):
    import pydicom

    instance(tmp_path / "whole" / "a" / "1.dcm", grey())
    whole = (tmp_path / "whole" / "a" / "1.dcm").read_bytes()
    wanted = open_dataset(tmp_path / "whole")
    bare = pydicom.dcmread(tmp_path / "whole" / "a" / "1.dcm")
    del bare.file_meta
    for name, implicit in [("implicit", True), ("explicit", False)]:
        path = tmp_path / name / "a" / f"1{suffix}"
        path.parent.mkdir(parents=True)
        bare.save_as(path, implicit_vr=implicit, little_endian=True)
    path = tmp_path / "meta" / "a" / f"1{suffix}"
    path.parent.mkdir(parents=True)
    path.write_bytes(whole[132:])
    for name in ("implicit", "explicit", "meta"):
        assert open_dataset(f"dicom:{tmp_path / name}").fingerprint == wanted.fingerprint, name


def test_a_file_that_claims_to_be_dicom_and_is_none_is_broken_not_dropped(tmp_path):
    instance(tmp_path / "a" / "1.dcm", grey())
    (tmp_path / "a" / "2.dcm").write_bytes(b"no dicom " * 40)
    (tmp_path / "a" / "3.dcm").write_bytes(b"")
    with pytest.raises(DataError, match=r"2\.dcm cannot be read as DICOM"):
        open_dataset(tmp_path)
    made = open_dataset(tmp_path, skip_broken=True)
    assert (len(made), len(made.broken)) == (1, 2)
    assert "3.dcm is empty" in made.broken[1]


def test_one_instance_twice_is_named_with_both_files(tmp_path):
    instance(tmp_path / "a" / "1.dcm", grey())
    instance(tmp_path / "a" / "copy.dcm", grey())
    with pytest.raises(DataError, match=r"copy\.dcm and .*1\.dcm have one SOP instance UID.*Keep"):
        open_dataset(tmp_path)


@settings(max_examples=80, deadline=None)
@given(
    flips=st.lists(st.tuples(st.floats(0, 1), st.integers(0, 255)), min_size=1, max_size=5),
    cut=st.floats(0.2, 1),
    begin=st.sampled_from([0, 132]),
)
def test_damaged_files_are_read_or_give_our_error_only(tmp_path_factory, flips, cut, begin):
    root = tmp_path_factory.mktemp("damaged", numbered=True)
    instance(root / "a" / "1.dcm", ramp(0, 900), WindowCenter="40", RescaleSlope="2",
             VOILUTSequence=table(**LUT))  # fmt: skip
    data = bytearray((root / "a" / "1.dcm").read_bytes())
    for where, value in flips:
        data[min(int(where * len(data)), len(data) - 1)] = value
    (root / "a" / "1.dcm").write_bytes(data[begin : int(len(data) * cut)])
    with suppress(DataError):
        open_dataset(root)


@pytest.mark.parametrize(
    ("attributes", "size_um"),
    [
        ({"PixelSpacing": ["0.25", "0.25"]}, 250),
        ({"ImagerPixelSpacing": ["0.1", "0.1"]}, 100),
        ({"PixelSpacing": ["0.25", "0.5"]}, None),  # not square
        ({"PixelSpacing": ["0", "0"]}, None),
        ({"PixelSpacing": ""}, None),
        ({}, None),
    ],
)
def test_the_size_of_a_pixel_is_read(tmp_path, attributes, size_um):
    instance(tmp_path / "a" / "1.dcm", grey(), **attributes)
    dataset = open_dataset(tmp_path)
    assert dataset.items[0].pixel_size_um == size_um
    if size_um is not None:
        assert open_dataset(tmp_path, crop=f"{4 * size_um}um").image(0).shape == (4, 4, 3)
    with pytest.raises(DataError, match="DICOM files have no column 'mpp'"):
        open_dataset(tmp_path, pixel_size_um="mpp")
