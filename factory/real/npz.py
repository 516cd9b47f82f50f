"""MedMNIST: `.npz` files by path, or by name through the optional `medmnist` package."""

import importlib
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from factory.errors import DataError
from factory.real.dataset import Found, NotRead, RealImage
from factory.real.stored import NpzBytes, npz_array

PARTS = ("train", "val", "test")
SIZES_PX = (28, 64, 128, 224)
PART_ATTRIBUTE = "official_part"
"""Attribute that keeps MedMNIST's own part; the factory splits by itself."""


def npz_items(path: Path, class_names: list[str] | None = None) -> Iterator[Found]:
    """Yield the images of a MedMNIST `.npz`: arrays `<part>_images` and `<part>_labels`.

    Images are (N, H, W) or (N, H, W, 3) uint8, labels (N, 1) or (N,). Without `class_names` the
    classes are called by their zero-padded number. An id is `<part>/<row>`. Other arrays count
    as not read.

    Raises:
        DataError: no such arrays, volumes, several labels per image, or a label out of range.
    """
    path = path.resolve()
    arrays = _arrays(path)
    parts = [part for part in PARTS if f"{part}_images" in arrays]
    if not parts:
        raise DataError(f"{path} has no array 'train_images'", remedy=_LAYOUT)
    labels = {part: _labels(path, part) for part in parts}
    top = max(int(values.max(initial=0)) for values in labels.values())
    names = class_names or [f"{n:0{len(str(top))}d}" for n in range(top + 1)]
    if top >= len(names):
        raise DataError(f"{path} has label {top} but {len(names)} class names", remedy=_LAYOUT)
    read = {f"{part}_{kind}" for part in parts for kind in ("images", "labels")}
    for name in sorted(arrays - read):
        yield NotRead(kind="array", name=f"{path} {name}")
    for part in parts:
        for row, value in enumerate(labels[part]):
            yield RealImage(
                id=f"{part}/{row:06d}",
                label=names[int(value)],
                attributes={PART_ATTRIBUTE: part},
                image=NpzBytes(path=path, key=f"{part}_images", row=row),
            )


def find_medmnist(
    flag: str, *, size_px: int = 28, download: bool = False
) -> tuple[Path, list[str]]:
    """Return the `.npz` of a MedMNIST set in the package's folder, and its class names.

    Args:
        flag: the set's name, for example `bloodmnist`.
        size_px: 28, 64, 128 or 224.
        download: fetch it when it is not there; nothing is fetched otherwise.

    Raises:
        DataError: the package or the file is missing, an unknown name or size, a multi-label set.
    """
    medmnist = _package()
    if flag not in medmnist.INFO or size_px not in SIZES_PX:
        raise DataError(
            f"MedMNIST has no set {flag!r} of {size_px} px",
            remedy=f"Choose of {', '.join(sorted(medmnist.INFO))} and sizes {SIZES_PX}",
        )
    info = medmnist.INFO[flag]
    path = Path(medmnist.info.DEFAULT_ROOT) / f"{flag}{'' if size_px == 28 else f'_{size_px}'}.npz"
    if not path.is_file():
        if not download:
            raise DataError(
                f"{path.name} is not in {path.parent}",
                remedy="Pass --download (download=True) to fetch it, or give a path to the file",
            )
        try:
            getattr(medmnist, info["python_class"])(split="train", download=True, size=size_px)
        except RuntimeError as error:
            raise DataError(
                f"{path.name} could not be downloaded", remedy="Download it by hand, give its path"
            ) from error
    names = info["label"]
    return path, [names[str(n)] for n in range(len(names))]


def _package() -> Any:
    try:
        return importlib.import_module("medmnist")
    except ImportError as error:
        raise DataError(
            "MedMNIST sets by name need the package medmnist",
            remedy="Install it (pip install 'medimage-factory[medmnist]'), or give an .npz path",
        ) from error


def _arrays(path: Path) -> set[str]:
    """Return the names of the arrays in an `.npz`."""
    try:
        with np.load(path, allow_pickle=False) as arrays:
            return set(getattr(arrays, "files", ()))
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise DataError(f"{path} is no readable .npz file ({error})", remedy=_LAYOUT) from error


def _labels(path: Path, part: str) -> NDArray[np.int64]:
    """Return the labels of one part, (N,), after checking that its images fit them."""
    images = npz_array(path, f"{part}_images")
    labels = npz_array(path, f"{part}_labels")
    flat = labels.reshape(-1)
    if labels.shape[:1] != images.shape[:1] or images.shape[:1] != flat.shape:
        raise DataError(
            f"{path} {part} has images {images.shape} and labels {labels.shape}",
            remedy="One label per image is needed: multi-label sets are not supported",
        )
    if images.dtype != np.uint8 or not (images.ndim == 3 or images.shape[3:] == (3,)):
        raise DataError(
            f"{path} {part}_images is {images.dtype} {images.shape}, no 2-D uint8 images",
            remedy="Give (N, H, W) or (N, H, W, 3) uint8: volumes are not supported",
        )
    numbers = flat.dtype.kind in "iub" or (flat.dtype.kind == "f" and np.isfinite(flat).all())
    if not numbers or (flat.size and (flat.min() < 0 or (flat != flat.astype(np.int64)).any())):
        raise DataError(f"{path} {part}_labels has values other than 0, 1, ...", remedy=_LAYOUT)
    return flat.astype(np.int64)


_LAYOUT = "Give an .npz in MedMNIST's layout (train_images, train_labels, ...)"
