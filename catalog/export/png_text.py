"""A PNG that says of itself that it is synthetic, in two text chunks; the rest stays as it was.

`Synthetic` holds JSON; `XML:com.adobe.xmp` holds the IPTC property DigitalSourceType, which
viewers and search engines read. Chunks as in the PNG specification, section 11.3.3.4 (iTXt).
"""

import json
import struct
import zlib
from collections.abc import Iterator
from xml.sax.saxutils import quoteattr

from factory.errors import CatalogError
from factory.real.drawn import SOURCE_TYPE

KEYWORD = "Synthetic"
_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_XMP = "XML:com.adobe.xmp"


def with_text(png: bytes, *, image_id: str, release: str) -> bytes:
    """Return `png` with the mark before its pixels, in place of an earlier one.

    Raises:
        CatalogError: no whole PNG.
    """
    told = {"synthetic": True, "image_id": image_id, "release": release, "source": SOURCE_TYPE}
    marks = _text(KEYWORD, json.dumps(told)) + _text(_XMP, _xmp(image_id))
    out, placed = [_SIGNATURE], False
    for kind, chunk in chunks(png):
        if kind == b"iTXt" and _is_ours(chunk[8:]):
            continue
        if kind == b"IDAT" and not placed:
            out.append(marks)
            placed = True
        out.append(chunk)
    return b"".join(out)


def as_synthetic(png: bytes, image_id: str) -> bytes:
    """Return an image that leaves its catalog one by one, with the mark; no PNG stays as it is.

    Once it lies among other files, its bytes alone can say what it is.
    """
    try:
        return with_text(png, image_id=image_id, release="its catalog")
    except CatalogError:
        return png


def text_of(png: bytes) -> dict[str, object] | None:
    """Return what the mark says, None where there is none.

    Raises:
        CatalogError: no whole PNG.
    """
    begin = KEYWORD.encode() + b"\0\0\0\0\0"
    for kind, chunk in chunks(png):
        if kind == b"iTXt" and chunk[8:].startswith(begin):
            told: dict[str, object] = json.loads(chunk[8 + len(begin) : -4])
            return told
    return None


def chunks(png: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Yield (type, whole chunk with length and checksum) of a PNG, up to its end.

    Raises:
        CatalogError: no signature, a cut or damaged chunk, or no end.
    """
    at = len(_SIGNATURE)
    broken = CatalogError("an image is no whole PNG", remedy="Draw it with `factory regenerate`")
    if not png.startswith(_SIGNATURE):
        raise broken
    while True:
        if len(png) < at + 12:
            raise broken
        (length,) = struct.unpack(">I", png[at : at + 4])
        chunk = png[at : at + 12 + length]
        if len(chunk) < 12 + length or _checksum(chunk[4:-4]) != chunk[-4:]:
            raise broken
        yield chunk[4:8], chunk
        if chunk[4:8] == b"IEND":
            return
        at += 12 + length


def _is_ours(data: bytes) -> bool:
    xmp = data.startswith(_XMP.encode()) and SOURCE_TYPE.encode() in data
    return xmp or data.startswith(KEYWORD.encode() + b"\0")


def _text(keyword: str, text: str) -> bytes:
    """Return an iTXt chunk: uncompressed, no language, no translated keyword."""
    data = b"iTXt" + keyword.encode("latin-1") + b"\0\0\0\0\0" + text.encode()
    return struct.pack(">I", len(data) - 4) + data + _checksum(data)


def _checksum(data: bytes) -> bytes:
    return struct.pack(">I", zlib.crc32(data))


def _xmp(image_id: str) -> str:
    printable = "".join(c if c.isprintable() else "?" for c in image_id)  # XML knows no controls
    return (
        '<x:xmpmeta xmlns:x="adobe:ns:meta/">'
        '<rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">'
        '<rdf:Description rdf:about="" xmlns:dc="http://purl.org/dc/elements/1.1/"'
        ' xmlns:Iptc4xmpExt="http://iptc.org/std/Iptc4xmpExt/2008-02-29/"'
        f" Iptc4xmpExt:DigitalSourceType={quoteattr(SOURCE_TYPE)}"
        f" dc:identifier={quoteattr(printable)}/></rdf:RDF></x:xmpmeta>"
    )
