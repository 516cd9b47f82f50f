"""Fingerprints that recipes, splits and generators refer to: what was read rightly stays the same.

Every picture here is written byte by byte (PNM, stored deflate, DICOM), so that no library's
version decides a digest. A changed value means that old splits no longer open: never correct one
here to make a test pass.
"""

import csv

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from factory.real.images import encode_pnm
from factory.real.sources import open_dataset
from tests.real.builders import pixels, png16, put

NAMES = ("a/1", "a/2", "b/1", "b/2")
RAMP = np.linspace(0, 1, 120).reshape(10, 12)


def pnm(n):
    return encode_pnm(pixels(n))


def deep_pnm(values):
    height, width = values.shape[:2]
    kind = b"P5" if values.ndim == 2 else b"P6"
    return b"%s %d %d 65535\n" % (kind, width, height) + values.astype(">u2").tobytes()


def folder(root):
    for n, name in enumerate(NAMES):
        put(root / f"{name}.ppm", pnm(n))
    return root


def folder_with_masks(root):
    for n, name in enumerate(NAMES):
        put(root / f"images/{name}.ppm", pnm(n))
        put(root / f"masks/{name}.pgm", encode_pnm(np.full((10, 12), n * 40, np.uint8)))
    with (root / "metadata.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["file", "class", "patient", "grade", "site "])
        writer.writerows([f"images/{n}.ppm", n[0], f"p{n[-1]}", " II ", ""] for n in NAMES)
    return root


def flat(root):
    for n in range(3):
        put(root / f"scan.v{n}.ppm", pnm(n))
    return root


def table(root):
    folder(root)
    lines = [f"{n}.ppm,{n[0].upper()},s{n[-1]},{n}" for n in NAMES]
    return put(root / "t.csv", "\n".join(["path,label,slide,dose", *lines]).encode())


def named_table(root):
    folder(root)
    lines = [f'id{n[-1]}{n[0]},"x, {n[0]}",{n}.ppm' for n in NAMES]
    return put(root / "t.csv", "\r\n".join(["image_id,class_name,file_name", *lines]).encode())


def absolute_table(root):
    folder(root)
    lines = [f"{root}/{n}.ppm,x" for n in ("a/1", "b/2")]
    return put(root / "t.csv", "\n".join(["image,class", *lines]).encode())


def parquet(root):
    kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    images = pa.array([{"bytes": pnm(n), "path": f"c.{n}.ppm"} for n in range(4)], kind)
    masks = pa.array([encode_pnm(np.full((10, 12), n, np.uint8)) for n in range(4)])
    ages = pa.array([3, None, 4, 5])
    content = {"image": images, "mask": masks, "label": list("abab"), "age": ages}
    pq.write_table(pa.table(content), root / "t.parquet", row_group_size=3)
    return root / "t.parquet"


def parquet_parts(root):
    for part in range(2):
        content = {"image": [pnm(2 * part), pnm(2 * part + 1)], "label": [0, 1], "case": ["p", "q"]}
        pq.write_table(pa.table(content), root / f"part-{part}.parquet")
    return root


def npz(root):
    images = np.stack([pixels(n, 28, 28) for n in range(3)])
    labels = np.array([[0], [1], [0]])
    np.savez(root / "x.npz", train_images=images[:2], train_labels=labels[:2],
             test_images=images[2:], test_labels=labels[2:])  # fmt: skip
    return root / "x.npz"


def deep_folder(root):
    put(root / "a/grey.pgm", deep_pnm(RAMP * 65535))
    put(root / "a/dim.pgm", deep_pnm(RAMP * 30000))
    put(root / "a/colour.ppm", deep_pnm(np.stack([RAMP, RAMP[::-1], RAMP / 2], -1) * 65535))
    put(root / "b/grey.png", png16(RAMP[::-1] * 65535))
    put(root / "b/colour.png", png16(np.stack([RAMP[::-1], RAMP, RAMP / 3], -1) * 65535))
    return root


def smear(root):
    return "smear:12?seed=3&size=24"


EXPECTED = {
    folder: "15f54b0944a19f3cff82a2f75aad7b78",
    folder_with_masks: "7de30e187200c5c585a5ab6feec074f4",
    flat: "3b54a91c8487b146cfd9ebd9e3a39d8e",
    table: "678318ab6df0ccd9b673640c21f3d970",
    named_table: "d7a62c289be84cb8c8db0c38c8cdd809",
    absolute_table: "4f4d10b49fa581ab5e1636c4d4963617",
    parquet: "d95053252a663c1ef4fe8bc6865c5280",
    parquet_parts: "505fb3394988c0ce929835b07a4e965a",
    npz: "5c8148b722a2a07c1d15abf9a95a6285",
    deep_folder: "c3e3923fd9dfaef9d178dd68dfe5357d",
    smear: "24d822e209f3abb2476f44fb2764e567",
}


@pytest.mark.parametrize("build", EXPECTED, ids=lambda build: build.__name__)
def test_what_was_read_rightly_keeps_its_fingerprint(tmp_path, build):
    assert open_dataset(build(tmp_path)).fingerprint == EXPECTED[build]


def dicom(root, name, values, **attributes):
    pytest.importorskip("pydicom", reason="pydicom is not installed (extra dicom)")
    from tests.real.test_dicom import instance

    number = len(list(root.rglob("*.dcm")))
    instance(root / name / f"{number}.dcm", values, patient=name, number=number, **attributes)


def plain_dicom(root):
    dicom(root, "a", (RAMP * 255).astype(np.uint8))
    dicom(root, "a", (RAMP * 90 + 20).astype(np.uint8), PhotometricInterpretation="MONOCHROME1")
    dicom(root, "b", pixels(1))
    dicom(root, "b", (RAMP * 100).astype(np.uint8), WindowCenter="50", WindowWidth="60")
    return root


def deep_dicom(root):
    dicom(root, "a", (RAMP * 4095).astype(np.uint16), BitsStored=12)
    dicom(root, "a", (RAMP * 2000).astype(np.uint16), BitsStored=12)
    dicom(root, "a", (RAMP * 60000).astype(np.uint16))
    dicom(root, "b", (RAMP[::-1] * 65535 - 32768).astype(np.int16))
    window = {"WindowCenter": ["40", "300"], "WindowWidth": ["400", "1500"]}
    rescale = {"RescaleSlope": "1", "RescaleIntercept": "-1024"}
    dicom(root, "b", (RAMP * 3000).astype(np.int16), **window, **rescale)
    return root


DICOM = {
    plain_dicom: "4797b817f741a349283908eb2600939c",
    deep_dicom: "6783ccd325ed8a72154af32077d04e36",
}


@pytest.mark.parametrize("build", DICOM, ids=lambda build: build.__name__)
def test_dicom_that_was_read_rightly_keeps_its_fingerprint(tmp_path, build):
    assert open_dataset(build(tmp_path)).fingerprint == DICOM[build]
