"""DICOM: every image as a secondary capture that says of itself that it is synthetic.

PS3.3: Conversion Type SYN (synthetic image), Synthetic Data YES, Image Type derived and secondary,
Derivation Description. There is no patient: the patient's attributes are fixed words. UIDs follow
from ids (PS3.5 B.2, 2.25 and a 128-bit number), so that exporting again gives the same instances.
"""

import hashlib
import io
import json
import uuid
from collections.abc import Iterator
from typing import Any

import numpy as np

from catalog.boundary import decoded_png
from catalog.export.facts import NOT_REAL
from catalog.export.layout import Picture, Task, Written, put
from factory import __version__
from factory.errors import CatalogError

SECONDARY_CAPTURE = "1.2.840.10008.5.1.4.1.1.7"
PATIENT = {"PatientName": "SYNTHETIC^NOT A PATIENT", "PatientID": "SYNTHETIC"}
EMPTY = (
    *("PatientBirthDate", "PatientSex", "PatientOrientation", "ReferringPhysicianName"),
    *("StudyDate", "StudyTime", "StudyID", "AccessionNumber"),
)
"""Attributes that must be there and have nothing to say."""


def write(task: Task) -> Iterator[Written]:
    """Write `images/CLASS/ID.dcm` and, beside, lossless `masks/CLASS/ID.png`.

    The export is a study, every class a series.

    Raises:
        CatalogError: the extra `dicom` is missing.
    """
    _library()
    for number, picture in enumerate(task.pictures, start=1):
        name = f"{picture.folder}/{picture.name}"
        data = encoded(picture, release=task.pictures.facts.name, number=number)
        mask = picture.mask
        yield Written(
            picture=picture,
            file=put(task.folder, f"images/{name}.dcm", data),
            mask_file=None if mask is None else put(task.folder, f"masks/{name}.png", mask),
        )


def encoded(drawn: Picture, *, release: str, number: int) -> bytes:
    """Return a picture as a DICOM file, pixels as they are.

    Raises:
        CatalogError: it is no readable PNG.
    """
    pydicom = _library()
    pixels = np.asarray(decoded_png(drawn.image, named=f"image {drawn.image_id}"))
    dataset = pydicom.Dataset()
    dataset.file_meta = pydicom.dataset.FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = pydicom.uid.ExplicitVRLittleEndian
    for keyword, value in _attributes(drawn, release, number).items():
        setattr(dataset, keyword, value)
    dataset.Rows, dataset.Columns = pixels.shape[:2]
    dataset.SamplesPerPixel = 1 if pixels.ndim == 2 else 3
    dataset.PhotometricInterpretation = "MONOCHROME2" if pixels.ndim == 2 else "RGB"
    if pixels.ndim == 3:
        dataset.PlanarConfiguration = 0
    dataset.BitsAllocated = dataset.BitsStored = 8
    dataset.HighBit, dataset.PixelRepresentation = 7, 0
    raw = pixels.tobytes()
    dataset.PixelData = raw + b"\0" * (len(raw) % 2)
    dataset["PixelData"].VR = "OB"
    out = io.BytesIO()
    dataset.save_as(out, enforce_file_format=True)
    return out.getvalue()


def uid(*parts: str) -> str:
    """Return the UID under 2.25 that belongs to these texts."""
    digest = hashlib.sha256(json.dumps(["medimage-factory", *parts]).encode()).digest()
    return f"2.25.{uuid.UUID(bytes=digest[:16], version=5).int}"


def _attributes(picture: Picture, release: str, number: int) -> dict[str, Any]:
    told = {"image_id": picture.image_id, "class_name": picture.class_name, "release": release}
    size_um = picture.details["pixel_size_um"]
    side_mm = None if size_um is None else f"{size_um / 1000:.6g}"
    return {
        "SpecificCharacterSet": "ISO_IR 192",
        "SOPClassUID": SECONDARY_CAPTURE,
        "SOPInstanceUID": uid("image", picture.image_id),
        "StudyInstanceUID": uid("study", release),
        "SeriesInstanceUID": uid("series", release, picture.class_name),
        **PATIENT,
        **dict.fromkeys(EMPTY, ""),
        "PatientIdentityRemoved": "YES",
        "DeidentificationMethod": "Synthetic image: there is no patient",
        "StudyDescription": _line(f"Synthetic images, {release}"),
        "SeriesDescription": _line(f"Synthetic {picture.class_name}"),
        "SeriesNumber": picture.class_id + 1,
        "InstanceNumber": number,
        "Modality": "OT",
        "ConversionType": "SYN",
        "SyntheticData": "YES",
        "Manufacturer": "medimage-factory",
        "SoftwareVersions": __version__,
        "ImageType": ["DERIVED", "SECONDARY"],
        "DerivationDescription": NOT_REAL,
        "ImageComments": json.dumps(told),
        "BurnedInAnnotation": "NO",
        "LossyImageCompression": "00",
        **({} if side_mm is None else {"PixelSpacing": [side_mm, side_mm]}),
    }


def _line(text: str) -> str:
    """Return `text` as a value of LO: one of at most 64 characters, no control, no backslash."""
    return "".join(c if c.isprintable() and c != "\\" else " " for c in text)[:64]


def _library() -> Any:
    try:
        import pydicom
        import pydicom.dataset
    except ImportError as error:
        raise CatalogError(
            "the format dicom needs the library pydicom",
            remedy="Install it: pip install 'medimage-factory[dicom]'",
        ) from error
    return pydicom
