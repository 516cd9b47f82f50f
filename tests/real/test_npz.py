import io
import sys
import tracemalloc
import zipfile

import numpy as np
import pytest

from factory.errors import DataError
from factory.real.sources import open_dataset
from tests.real.builders import pixels


def save(path, labels=((0,), (1,)), images=None, **more):
    images = np.stack([pixels(0, 28, 28), pixels(1, 28, 28)]) if images is None else images
    np.savez_compressed(path, train_images=images, train_labels=np.array(labels), **more)
    return path


def test_medmnist_file_gives_images_labels_and_official_parts(tmp_path):
    grey = pixels(5, 28, 28)[None, ..., 0]
    path = save(tmp_path / "x.npz", test_images=grey, test_labels=np.array([[10]], np.uint8))
    made = open_dataset(path)
    assert made.ids == ("train/000000", "train/000001", "test/000000")
    assert made.labels == ("00", "01", "10")  # padded: class indices follow the numbers
    assert made.attributes["test/000000"] == {"official_part": "test"}
    assert (made.image(1) == pixels(1, 28, 28)).all()
    assert (made.image(2) == grey[0, ..., None]).all()


def test_arrays_that_are_no_images_are_counted(tmp_path):
    made = open_dataset(save(tmp_path / "x.npz", train_masks=np.zeros(2), note=np.array("x")))
    assert [(one.kind, one.count) for one in made.not_read] == [("array", 2)]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"labels": [[0, 1], [1, 0]]}, "multi-label"),
        ({"labels": [[0]]}, r"images \(2, 28, 28, 3\) and labels \(1, 1\)"),
        ({"labels": [[0], [-1]]}, "other than 0, 1"),
        ({"labels": [["a"], ["b"]]}, "other than 0, 1"),
        ({"labels": [[0], [float("nan")]]}, "other than 0, 1"),
        ({"labels": 3}, r"images \(2, 28, 28, 3\) and labels \(\)"),
        ({"images": np.uint8(3)}, r"images \(\) and labels \(2, 1\)"),
        ({"images": np.zeros((2, 8, 8, 8), np.uint8)}, "volumes"),
        ({"images": np.zeros((2, 8, 8), np.float32)}, "float32"),
        ({"images": np.array([{"a": 1}, None], object)}, "gives no array"),  # a pickle inside
    ],
)
def test_unsuitable_arrays_are_refused(tmp_path, change, message):
    with pytest.raises(DataError, match=message):
        open_dataset(save(tmp_path / "x.npz", **change))


def test_broken_and_foreign_files_are_named(tmp_path):
    path = save(tmp_path / "x.npz")
    path.write_bytes(path.read_bytes()[:500])
    with pytest.raises(DataError, match=r"x\.npz"):
        open_dataset(path)
    np.savez(tmp_path / "y.npz", other=np.zeros(3))
    with pytest.raises(DataError, match=r"y\.npz has no array 'train_images'"):
        open_dataset(tmp_path / "y.npz")


def npy(shape, data=b""):
    """An array's head that claims `shape`, before `data`."""
    buffer = io.BytesIO()
    head = {"descr": "|u1", "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(buffer, head)
    return buffer.getvalue() + data


@pytest.mark.parametrize(
    ("shape", "data"),
    [
        ((10**6, 1000, 1000, 3), b""),  # 3 TB claimed, nothing there
        ((1, 9000, 9000), bytes(81_000_000)),  # 81 MB of zeros in 80 kB
    ],
)
def test_an_archive_that_would_fill_the_memory_is_refused_before_it_is_unpacked(
    tmp_path, shape, data
):
    path = tmp_path / "bomb.npz"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("train_images.npy", npy(shape, data))
        archive.writestr("train_labels.npy", npy((shape[0], 1), bytes(min(shape[0], 9))))
    tracemalloc.start()
    with pytest.raises(DataError, match=r"bomb\.npz array 'train_images' claims"):
        open_dataset(path)
    assert tracemalloc.get_traced_memory()[1] < 10_000_000
    tracemalloc.stop()


class FakePackage:
    """medmnist's surface: INFO, info.DEFAULT_ROOT and one class that downloads."""

    def __init__(self, root):
        self.INFO = {"bloodmnist": {"python_class": "BloodMNIST", "label": {"0": "x", "1": "a"}}}
        self.info = type("info", (), {"DEFAULT_ROOT": str(root)})
        self.downloads = []

    def BloodMNIST(self, *, split, download, size):
        self.downloads.append(size)
        name = "bloodmnist.npz" if size == 28 else f"bloodmnist_{size}.npz"
        save(f"{self.info.DEFAULT_ROOT}/{name}")


def test_named_set_downloads_only_when_asked(tmp_path, monkeypatch):
    package = FakePackage(tmp_path)
    monkeypatch.setitem(sys.modules, "medmnist", package)
    with pytest.raises(DataError, match=r"bloodmnist_64\.npz is not in .* --download"):
        open_dataset("medmnist:bloodmnist?size=64")
    assert package.downloads == []
    made = open_dataset("medmnist:bloodmnist?size=64", download=True)
    assert made.class_names == ("x", "a")  # the package's order, not the alphabet's
    assert made.labels == ("x", "a")
    open_dataset("medmnist:bloodmnist?size=64", download=True)
    assert package.downloads == [64]


def test_named_set_without_package_or_with_wrong_name_says_so(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "medmnist", None)
    with pytest.raises(DataError, match="need the package medmnist"):
        open_dataset("medmnist:bloodmnist")
    monkeypatch.setitem(sys.modules, "medmnist", FakePackage(tmp_path))
    for uri in ("medmnist:blodmnist", "medmnist:bloodmnist?size=65"):
        with pytest.raises(DataError, match="MedMNIST has no set"):
            open_dataset(uri)
    with pytest.raises(DataError, match="unknown key 'sizes'"):
        open_dataset("medmnist:bloodmnist?sizes=64")
