"""Folders of DICOM files as real images: pixels leave the file, what names a patient does not.

De-identification is by a list of what may pass (`KEPT`), which is stricter than the list of what
must go in the Basic Application Level Confidentiality Profile (PS3.15 E.1): ids, dates, names, free
texts and private tags never come out. A patient becomes a number, which keeps the patient's images
on one side of a split. An image's id is a digest of its SOP instance UID. What is burned into
pixels cannot be taken away here, so files that declare it are refused.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from factory.digest import digest
from factory.errors import DataError
from factory.real.columns import Asked
from factory.real.dataset import RealImage
from factory.real.folders import UNLABELLED
from factory.real.images import MAX_PIXELS, encode_pnm
from factory.tree import files_below

KEPT = (
    *("Modality", "BodyPartExamined", "Laterality", "ImageLaterality", "ViewPosition"),
    *("Manufacturer", "ManufacturerModelName", "SliceThickness", "KVP", "MagneticFieldStrength"),
)
"""Attributes that may pass: none of them is in the profile's table of what identifies."""
GROUPS = ("PatientID", "StudyInstanceUID", "SeriesInstanceUID")
"""What may group images; numbers stand for its values. The first that a file has, unless asked."""

_REFUSED = {
    "BurnedInAnnotation": "text burned into its pixels",
    "RecognizableVisualFeatures": "features by which a person can be recognised",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class DicomBytes:
    """The picture of one DICOM file, given out as PNM."""

    path: Path

    @property
    def name(self) -> str:
        """What errors call this picture."""
        return str(self.path)

    def read(self) -> bytes:
        """Return the picture as 8-bit PNM; `DataError` when the file is refused or broken."""
        dataset = _opened(self.path)
        for keyword, what in _REFUSED.items():
            if str(dataset.get(keyword, "")).upper() == "YES":
                raise DataError(
                    f"{self.path} declares {what} ({keyword} YES)",
                    remedy="Have it removed at the source, or pass --skip-broken",
                )
        return encode_pnm(_pixels(dataset, self.path))


def is_dicom_folder(folder: Path) -> bool:
    """Return whether any file below `folder` is called .dcm."""
    try:
        return any(path.suffix.lower() == ".dcm" for path in files_below(folder))
    except OSError:  # named by who reads the folder next
        return False


def dicom_items(root: Path, asked: Asked) -> Iterator[RealImage]:
    """Yield the DICOM images below `root`: `root/<class>/...`, or flat with `asked.label`.

    Files without the mark DICM and directories of media (DICOMDIR) are passed over.

    Raises:
        DataError: no DICOM, an attribute that may identify somebody, a file without an instance
            UID or a label, or the extra `dicom` is missing.
    """
    _library()
    _check_asked(root, asked)
    paths = [path for path in files_below(root) if _is_dicom(path)]
    if not paths:
        raise DataError(f"{root} holds no DICOM file", remedy="Give the folder that holds them")
    numbers: dict[tuple[str, str], int] = {}
    for path in paths:
        head = _opened(path, stop_before_pixels=True)
        groups = (asked.group,) if asked.group else GROUPS
        found = ((keyword, str(head.get(keyword, "") or "")) for keyword in groups)
        group = next((pair for pair in found if pair[1]), None)
        yield RealImage(
            id=digest(["dicom", _instance(head, path)]),
            label=_label(head, path, root, asked),
            image=DicomBytes(path=path),
            group="" if group is None else f"{group[0]} {numbers.setdefault(group, len(numbers))}",
            attributes=_attributes(head, asked.attributes or KEPT),
        )


def _check_asked(root: Path, asked: Asked) -> None:
    named = [asked.label, *(asked.attributes or ())]
    unfit = [name for name in named if name is not None and name not in KEPT]
    if unfit:
        raise DataError(
            f"the DICOM attribute {unfit[0]!r} may identify a patient and does not leave {root}",
            remedy=f"Choose of {', '.join(KEPT)}",
        )
    if asked.group is not None and asked.group not in GROUPS:
        raise DataError(
            f"DICOM images are not grouped by {asked.group!r}",
            remedy=f"Choose of {', '.join(GROUPS)}",
        )
    if asked.image is not None:
        raise DataError(f"{root} has no image column", remedy="Leave --image out")


def _label(head: Any, path: Path, root: Path, asked: Asked) -> str:
    if asked.label is not None:
        value = str(head.get(asked.label, "") or "")
        if not value:
            raise DataError(
                f"{path} has no {asked.label}", remedy="Take it out, or sort into class folders"
            )
        return value
    folders = path.relative_to(root).parts[:-1]
    return folders[0] if folders else UNLABELLED


def _attributes(head: Any, names: Sequence[str]) -> dict[str, str]:
    values = ((name, str(head.get(name, "") or "")) for name in names)
    return {name: value for name, value in values if value}


def _instance(head: Any, path: Path) -> str:
    value = str(head.get("SOPInstanceUID", "") or "")
    if not value:
        raise DataError(f"{path} has no SOP instance UID", remedy="Export it again as DICOM")
    return value


def _pixels(dataset: Any, path: Path) -> NDArray[np.uint8]:
    """Return (H, W) or (H, W, 3): rescaled, windowed, upright in brightness, 8 bits."""
    size = int(dataset.get("Rows", 0)) * int(dataset.get("Columns", 0))
    frames = int(dataset.get("NumberOfFrames", 1) or 1)
    if frames > 1 or not 0 < size <= MAX_PIXELS:
        raise DataError(
            f"{path} holds {frames} frames of {size:,} pixels",
            remedy="Export every frame as an own file, and tile what is larger than"
            f" {MAX_PIXELS:,} pixels",
        )
    try:
        values = dataset.pixel_array
        kind = str(dataset.PhotometricInterpretation)
        if kind == "PALETTE COLOR":
            return _palette(values, dataset)
        if values.ndim == 3:
            return _colour(values, path)
        return _grey(values, dataset, inverted=kind == "MONOCHROME1")
    except (ValueError, AttributeError, KeyError, TypeError, NotImplementedError, OSError,
            RuntimeError) as error:  # fmt: skip
        raise DataError(
            f"the pixels of {path} cannot be decoded ({' '.join(str(error).split())[:160]})",
            remedy="Convert it to an uncompressed transfer syntax, or pass --skip-broken",
        ) from error


def _grey(values: NDArray[Any], dataset: Any, *, inverted: bool) -> NDArray[np.uint8]:
    """Return brightness: by the file's own LUT or first window, else its whole stored range."""
    from pydicom.pixels import apply_modality_lut, apply_voi, apply_windowing

    low, high = _range(dataset)
    scaled = apply_modality_lut(values, dataset)
    if dataset.get("VOILUTSequence"):
        scaled = apply_voi(scaled, dataset)
        low, high = 0.0, 2.0 ** int(dataset.VOILUTSequence[0].LUTDescriptor[2]) - 1
    elif dataset.get("WindowWidth") is not None:
        scaled = apply_windowing(scaled, dataset)
    share = np.clip((scaled.astype(np.float64) - low) / (high - low), 0, 1)
    bright = (1 - share if inverted else share) * 255
    return np.asarray(bright + 0.5, np.uint8)


def _range(dataset: Any) -> tuple[float, float]:
    """Return what the least and the greatest stored value mean (PS3.3 C.11.1)."""
    if dataset.get("ModalityLUTSequence"):
        return 0.0, 2.0 ** int(dataset.ModalityLUTSequence[0].LUTDescriptor[2]) - 1
    bits, signed = int(dataset.BitsStored), bool(dataset.PixelRepresentation)
    ends = (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) if signed else (0, 2**bits - 1)
    slope, intercept = dataset.get("RescaleSlope"), dataset.get("RescaleIntercept")
    if slope is None or intercept is None:
        return float(ends[0]), float(ends[1])
    return float(ends[0] * slope + intercept), float(ends[1] * slope + intercept)


def _palette(values: NDArray[Any], dataset: Any) -> NDArray[np.uint8]:
    from pydicom.pixels import apply_color_lut

    colours = apply_color_lut(values, dataset)[..., :3]
    return np.asarray(colours >> (8 * (colours.dtype.itemsize - 1)), np.uint8)


def _colour(values: NDArray[Any], path: Path) -> NDArray[np.uint8]:
    if values.dtype != np.uint8 or values.shape[-1] != 3:
        raise DataError(
            f"{path} has colours of {values.dtype} in {values.shape[-1]} samples",
            remedy="Export it with three samples of 8 bits",
        )
    return np.asarray(values, np.uint8)


def _is_dicom(path: Path) -> bool:
    if path.name.upper() == "DICOMDIR" or not path.is_file():
        return False
    with path.open("rb") as file:
        return file.read(132)[128:] == b"DICM"


def _opened(path: Path, *, stop_before_pixels: bool = False) -> Any:
    pydicom = _library()
    try:
        return pydicom.dcmread(path, stop_before_pixels=stop_before_pixels)
    except (OSError, EOFError, ValueError, pydicom.errors.InvalidDicomError) as error:
        raise DataError(
            f"{path} cannot be read as DICOM ({' '.join(str(error).split())[:160]})",
            remedy="Restore the file, or take it out",
        ) from error


def _library() -> Any:
    try:
        import pydicom
        import pydicom.errors
    except ImportError as error:
        raise DataError(
            "reading DICOM needs the library pydicom",
            remedy="Install it: pip install 'medimage-factory[dicom]'",
        ) from error
    return pydicom
