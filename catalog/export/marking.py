"""Marks that say of a picture that it is drawn: made as asked, and found again."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from catalog.boundary import decoded_png
from catalog.export.formats import FORMATS, MARKS
from catalog.export.png_text import text_of, with_text
from factory.errors import CatalogError
from factory.real.images import encode_png
from factory.real.pixels import opened

if TYPE_CHECKING:
    from catalog.export.c2pa_sign import Signer


@dataclass(frozen=True, slots=True, kw_only=True)
class Marking:
    """The marks of one export; `release` is what they name. No mark: bytes stay as they are."""

    release: str = ""
    watermark_key: bytes | None = None
    text: bool = False
    signer: "Signer | None" = None

    @property
    def names(self) -> tuple[str, ...]:
        """The marks that are made, in the order of `MARKS`."""
        made = (self.watermark_key is not None, self.text, self.signer is not None)
        return tuple(name for name, is_made in zip(MARKS, made, strict=True) if is_made)

    def marked(self, png: bytes, image_id: str) -> bytes:
        """Return an image's bytes with every mark.

        Raises:
            CatalogError: an image that cannot carry one.
        """
        if self.watermark_key is not None:
            png = _watermarked(png, self.watermark_key, image_id)
        if self.text:
            png = with_text(png, image_id=image_id, release=self.release)
        if self.signer is not None:
            png = self.signer.signed(png, image_id=image_id, release=self.release)
        return png


def marking_of(
    marks: Sequence[str],
    *,
    form: str,
    release: str,
    watermark_key: Path | None = None,
    c2pa_certificate: Path | None = None,
    c2pa_key: Path | None = None,
) -> Marking:
    """Return the marking that was asked for.

    Raises:
        CatalogError: a mark without its key, a key without its mark, or a mark that the format
            must not carry.
    """
    _check(marks, form, {"watermark": (watermark_key,), "c2pa": (c2pa_certificate, c2pa_key)})
    signer = None
    if "c2pa" in marks and c2pa_certificate is not None and c2pa_key is not None:
        from catalog.export.c2pa_sign import Signer

        signer = Signer(c2pa_certificate, c2pa_key)
    return Marking(
        release=release,
        watermark_key=None if watermark_key is None else read_key(watermark_key),
        text="text" in marks,
        signer=signer,
    )


def read_key(path: Path) -> bytes:
    """Return the bytes of a watermark key file.

    Raises:
        CatalogError: unreadable, or too short to be secret.
    """
    from catalog.export.watermark import LEAST_KEY_BYTES

    try:
        key = path.read_bytes()
    except OSError as error:
        raise CatalogError(
            f"watermark key {str(path)!r} cannot be read ({error.strerror or error})",
            remedy="Make one: openssl rand -out mark.key 32",
        ) from error
    if len(key) < LEAST_KEY_BYTES:
        raise CatalogError(
            f"watermark key {str(path)!r} has {len(key)} bytes",
            remedy=f"Give {LEAST_KEY_BYTES} or more: openssl rand -out mark.key 32",
        )
    return key


def _check(marks: Sequence[str], form: str, files: dict[str, tuple[Path | None, ...]]) -> None:
    options = {
        "watermark": "--watermark-key",
        "c2pa": "--c2pa-certificate and --c2pa-key",
    }
    for mark, given in files.items():
        if (mark in marks) != all(given) or any(given) != all(given):
            what = "needs" if mark in marks else "is not asked for, but was given"
            raise CatalogError(
                f"mark {mark} {what} {options[mark]}",
                remedy=f"Give both or neither (--mark {mark})",
            )
    if "watermark" in marks and FORMATS[form].for_training:
        shown = " or ".join(name for name, f in FORMATS.items() if not f.for_training)
        raise CatalogError(
            f"{form} is a copy to train on: a watermark would be learnt with it",
            remedy=f"Export as {shown} to show images, or leave --mark watermark out",
        )
    if form == "dicom" and (unfit := [mark for mark in marks if mark != "watermark"]):
        raise CatalogError(
            f"mark {unfit[0]} is for PNG files, DICOM files say themselves that they are synthetic",
            remedy=f"Leave --mark {unfit[0]} out",
        )


def _watermarked(png: bytes, key: bytes, image_id: str) -> bytes:
    from catalog.export.watermark import embed

    return encode_png(embed(np.asarray(decoded_png(png, named=f"image {image_id}")), key, image_id))


def marks_of(path: Path, watermark_key: bytes | None = None) -> Iterator[str]:
    """Yield a line for every kind of mark that was looked for.

    Raises:
        CatalogError: no readable PNG.
    """
    try:
        png = path.read_bytes()
    except OSError as error:
        raise CatalogError(
            f"{str(path)!r} cannot be read ({error.strerror or error})", remedy="Give a PNG file"
        ) from error
    try:
        told = text_of(png)
        pixels = np.asarray(opened(png))
    except (CatalogError, OSError, ValueError) as error:
        raise CatalogError(f"{str(path)!r} is no whole PNG", remedy="Give a PNG file") from error
    if told is None:
        yield "text: none"
    else:
        yield f"text: synthetic, image {told.get('image_id')!r} of {told.get('release')!r}"
    yield f"c2pa: {_signed(png)}"
    if watermark_key is not None:
        from catalog.export.watermark import THRESHOLD, detect  # SciPy

        found = detect(pixels, watermark_key)
        verdict = "found" if found.marked else "none"
        yield f"watermark: {verdict} (z {found.z:.1f}, threshold {THRESHOLD:.1f})"


def _signed(png: bytes) -> str:
    from catalog.export.c2pa_sign import manifest_of

    if b"caBX" not in png:
        return "none"
    try:
        manifest = manifest_of(png)
    except CatalogError:
        return "there is one, which only the extra c2pa reads"
    if manifest is None:
        return "none"
    return f"{manifest.get('title')!r}, {manifest['validation_state']}"
