"""Folders of DICOM files as real images: pixels leave the file, what names a patient does not.

De-identification is by a list of what may pass (`KEPT`), which is stricter than the list of what
must go in the Basic Application Level Confidentiality Profile (PS3.15 E.1): ids, dates, names, free
texts and private tags never come out. A patient becomes a number, which keeps the patient's images
on one side of a split. An image's id is a digest of its SOP instance UID. What is burned into
pixels cannot be taken away here, so files that declare it are refused.
"""

import logging
import math
import warnings
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from factory.digest import digest
from factory.errors import DataError
from factory.real.columns import Asked
from factory.real.dataset import Found, NotRead, RealImage
from factory.real.dicom_pixels import (
    DamagedError,
    Span,
    asks_for_span,
    causes,
    picture,
    settle,
    span_of,
)
from factory.real.field import positive
from factory.real.folders import UNLABELLED, Listing, printable, suffix_of
from factory.real.images import encode_pnm
from factory.real.stored import Unreadable

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
_UNREADABLE = "{path} cannot be read as DICOM"
_PIXELS = ("PixelData", "FloatPixelData", "DoubleFloatPixelData")
_FIRST_GROUPS = (b"\x02\x00", b"\x08\x00", b"\x00\x02", b"\x00\x08")
"""How a file without preamble begins: with group 0002 or 0008, in either byte order."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DicomBytes:
    """The picture of one DICOM file, given out as PNM.

    `span` is what becomes black and white where the file does not say it itself.
    """

    path: Path
    span: Span | None = None

    @property
    def name(self) -> str:
        """What errors call this picture."""
        return str(self.path)

    def read(self) -> bytes:
        """Return the picture as 8-bit PNM; `DataError` when the file is refused or broken."""
        with causes(self.path):
            dataset = _opened(self.path)
            for keyword, what in _REFUSED.items():
                if str(dataset.get(keyword, "")).upper() == "YES":
                    raise DataError(
                        f"{self.path} declares {what} ({keyword} YES)",
                        remedy="Have it removed at the source, or pass --skip-broken",
                    )
            settle(dataset, self.path)
            return encode_pnm(picture(dataset, self.path, self.span))


def is_dicom(path: Path) -> bool:
    """Return whether a file is DICOM by its suffix or content, with or without preamble.

    A directory of media (DICOMDIR) is none.
    """
    if path.suffix.lower() == ".dcm":
        return True
    try:
        with path.open("rb") as file:
            start = file.read(132)
        if path.name.upper() == "DICOMDIR":
            return False
        if start[128:] == b"DICM":
            return True
        return start[:2] in _FIRST_GROUPS and "SOPClassUID" in _opened(path, pixels=False)
    except (OSError, DataError):  # named by who reads the file next
        return False


def dicom_items(found: Listing, asked: Asked) -> Iterator[Found]:
    """Yield the DICOM images of a folder: `root/<class>/...`, or flat with `asked.label`.

    Objects without pixels (reports, presentation states) and other files are passed over and
    counted. Where files of more than 8 bits have no window of their own and would come out dark,
    those that share a scale are stretched alike: all in Hounsfield units, else series by series.

    Raises:
        DataError: no DICOM, an attribute that may identify somebody, or the extra `dicom` is
            missing. One that a file causes (no instance UID, no label, broken) is yielded.
    """
    _library()
    root = found.root
    _check_asked(root, asked)
    numbers: dict[tuple[str, str], int] = {}
    seen: dict[str, Path] = {}
    listed: list[tuple[Path, RealImage, _Scale | None]] = []
    passed: list[Found] = [*found.not_read, *found.faults]
    for below in found.files:
        path = root / below
        if not is_dicom(path):
            passed.append(NotRead(kind=suffix_of(path), name=printable(below)))
            continue
        try:
            with causes(path, _UNREADABLE):
                head = _opened(path, pixels=False)
                if _has_no_pixels(head, path):
                    kind = f"DICOM without pixels: {head.get('Modality') or 'no modality'}"
                    passed.append(NotRead(kind=kind, name=printable(below)))
                    continue
                item = _item(head, path, root, asked, numbers, seen)
                listed.append((path, item, _scale(head, path)))
        except DamagedError as error:  # as any broken image: raised, or left out by --skip-broken
            image = Unreadable(name=str(path), what=error.what, remedy=error.remedy)
            passed.append(RealImage(id=str(path), label=UNLABELLED, image=image))
        except DataError as error:
            passed.append(error)
    if not listed and all(isinstance(each, NotRead) for each in passed):
        kinds = ", ".join(sorted({each.kind for each in passed if isinstance(each, NotRead)}))
        raise DataError(
            f"{root} holds no DICOM file with an image{kinds and f', only {kinds}'}",
            remedy="Give the folder that holds them",
        )
    yield from passed
    yield from _stretched(listed)


def _item(
    head: Any, path: Path, root: Path, asked: Asked, numbers: dict[tuple[str, str], int],
    seen: dict[str, Path],
) -> RealImage:  # fmt: skip
    groups = (asked.group,) if asked.group else GROUPS
    found = ((keyword, str(head.get(keyword, "") or "")) for keyword in groups)
    group = next((pair for pair in found if pair[1]), None)
    instance = _instance(head, path)
    if instance in seen:
        raise DataError(
            f"{path} and {seen[instance]} have one SOP instance UID: they are the same image",
            remedy="Keep one of the files",
        )
    seen[instance] = path
    return RealImage(
        id=digest(["dicom", instance]),
        label=_label(head, path, root, asked),
        image=DicomBytes(path=path),
        group="" if group is None else f"{group[0]} {numbers.setdefault(group, len(numbers))}",
        grouped_by="" if group is None else group[0],
        attributes=_attributes(head, asked.attributes or KEPT),
        drawn=_drawn(head),
        pixel_size_um=_pixel_size_um(head),
    )


def _stretched(
    listed: Sequence[tuple[Path, RealImage, "_Scale | None"]],
) -> Iterator[RealImage]:
    """Yield the images, with a common span where those of one scale would come out dark."""
    members: defaultdict[_Scale, list[int]] = defaultdict(list)
    for number, (_, _, scale) in enumerate(listed):
        if scale is not None:
            members[scale].append(number)
    shown: dict[int, tuple[Span, str]] = {}
    for scale, numbers in members.items():
        spans = [span for n in numbers if (span := _span(listed[n][0])) is not None]
        if not spans:  # none can be read: each says so when its turn comes
            continue
        held, whole = spans[0]
        for other_held, other_whole in spans[1:]:
            held, whole = held.joined(other_held), whole.joined(other_whole)
        if held.is_small_in(whole):
            values = f"{held.low:g}..{held.high:g}" if not scale.within else "what its series holds"
            how = f"{scale.name} without window, stretched from {values}"
            shown |= dict.fromkeys(numbers, (held, how))
    for number, (path, image, _) in enumerate(listed):
        if number not in shown:
            yield image
            continue
        held, how = shown[number]
        yield replace(image, image=DicomBytes(path=path, span=held), read_as=how)


def _span(path: Path) -> tuple[Span, Span] | None:
    try:
        with causes(path):
            dataset = _opened(path)
            settle(dataset, path)
            return span_of(dataset, path)
    except DataError:
        return None


@dataclass(frozen=True, slots=True, kw_only=True)
class _Scale:
    """What the values of a file mean: the same in all files, or `within` a series (or file)."""

    name: str
    within: str = ""


def _scale(head: Any, path: Path) -> _Scale | None:
    """Return the scale of a file without a rule of its own for its brightness, else None.

    Hounsfield units mean the same everywhere; other values mean something within their series.
    """
    with suppress(DataError):  # told when the image is read
        settle(head, path)
    if not asks_for_span(head):
        return None
    modality = str(head.get("Modality") or "DICOM")
    if int(head.get("SamplesPerPixel") or 1) > 1:
        return _Scale(name=f"{modality} colour")
    rescaled = head.get("RescaleSlope") is not None
    unit = str(head.get("RescaleType") or ("HU" if rescaled and modality == "CT" else ""))
    if unit == "HU":
        return _Scale(name=f"{modality} in HU")
    series = head.get("SeriesInstanceUID") or path
    return _Scale(name=modality, within=f"{series} from {head.get('RescaleIntercept')}")


def _drawn(head: Any) -> str:
    """Return what says that the image was drawn (PS3.3 C.7.6.1: Synthetic Data), or ''."""
    told = {"SyntheticData": "YES", "ConversionType": "SYN"}
    return next((f"{k} {v}" for k, v in told.items() if str(head.get(k, "")).upper() == v), "")


def _pixel_size_um(head: Any) -> float | None:
    """Return the side of a pixel in micrometres; None: not told, or not square."""
    for keyword in ("PixelSpacing", "ImagerPixelSpacing", "NominalScannedPixelSpacing"):
        try:
            sides_mm = [positive(str(side)) or 0.0 for side in head.get(keyword) or ()]
        except (ValueError, TypeError, AttributeError):  # a value that is no list of numbers
            continue
        if len(sides_mm) == 2 and min(sides_mm) > 0 and math.isclose(*sides_mm, rel_tol=0.01):
            return 1000 * sides_mm[0]
    return None


def _has_no_pixels(head: Any, path: Path) -> bool:
    """Return whether an object is no image: it has neither a size nor, looked at whole, pixels."""
    if head.get("Rows") and head.get("Columns"):
        return False
    whole = _opened(path)
    return not any(keyword in whole for keyword in _PIXELS)


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
    if asked.pixel_size is not None:
        raise DataError(
            f"DICOM files have no column {asked.pixel_size!r}",
            remedy="Leave --pixel-size-um out: their PixelSpacing is read; or give a number",
        )


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


def _opened(path: Path, *, pixels: bool = True) -> Any:
    """Return a dataset, with the transfer syntax that it is written in if it names none."""
    pydicom = _library()
    with causes(path, _UNREADABLE):
        if not path.stat().st_size:
            raise DamagedError(f"{path} is empty", remedy="Restore the file, or take it out")
        dataset = pydicom.dcmread(path, stop_before_pixels=not pixels, force=True)
        if not any(keyword in dataset for keyword in ("SOPClassUID", "Rows", *_PIXELS)):
            raise ValueError("no DICOM object in it")
        if "TransferSyntaxUID" not in dataset.file_meta:
            implicit, little = dataset.original_encoding
            kind = "ImplicitVRLittleEndian" if implicit else "ExplicitVRLittleEndian"
            dataset.file_meta.TransferSyntaxUID = getattr(
                pydicom.uid, kind if little else "ExplicitVRBigEndian"
            )
        return dataset


def _library() -> Any:
    try:
        import pydicom
        import pydicom.config
        import pydicom.uid
    except ImportError as error:
        raise DataError(
            "reading DICOM needs the library pydicom",
            remedy="Install it: pip install 'medimage-factory[dicom]'",
        ) from error
    # What is odd in a file is said by us where it matters, once.
    pydicom.config.settings.reading_validation_mode = pydicom.config.IGNORE
    logging.getLogger("pydicom").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", module="pydicom")
    return pydicom
