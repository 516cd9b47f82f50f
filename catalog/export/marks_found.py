"""Which marks a PNG file carries: what anyone can ask, and with the key also the watermark."""

import io
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image, UnidentifiedImageError

from catalog.export.png_text import text_of
from factory.errors import CatalogError


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
        pixels = np.asarray(Image.open(io.BytesIO(png)))
    except (CatalogError, UnidentifiedImageError, OSError, ValueError) as error:
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
