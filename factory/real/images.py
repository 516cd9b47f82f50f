"""Encoded bytes to pixels: every picture format in, 8-bit RGB or a mask of indices out."""

import io
import struct
import sys
import zlib
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import (
    AvifImagePlugin,
    BmpImagePlugin,
    GifImagePlugin,
    Image,
    ImageFile,
    ImageOps,
    Jpeg2KImagePlugin,
    JpegImagePlugin,
    PngImagePlugin,
    PpmImagePlugin,
    TiffImagePlugin,
    UnidentifiedImageError,
    WebPImagePlugin,
)

from factory.errors import DataError
from factory.real.depth import DARKEST_SHARE, FULL, to_8_bits
from factory.real.mask_values import NEAR, MaskRule

# Imported and named here because Pillow's own lazy loading of plugins is no affair for threads.
# (A camera's MPO comes in through the JPEG plugin.)
FORMATS = (
    PngImagePlugin.PngImageFile.format,
    JpegImagePlugin.JpegImageFile.format,
    TiffImagePlugin.TiffImageFile.format,
    BmpImagePlugin.BmpImageFile.format,
    BmpImagePlugin.DibImageFile.format,
    GifImagePlugin.GifImageFile.format,
    WebPImagePlugin.WebPImageFile.format,
    Jpeg2KImagePlugin.Jpeg2KImageFile.format,
    PpmImagePlugin.PpmImageFile.format,
    AvifImagePlugin.AvifImageFile.format,
)
"""What is opened at all. Pillow knows more, among them formats that start other programs."""
SUFFIXES = frozenset(
    [".mpo", *(suffix for suffix, kind in Image.EXTENSION.items() if kind in FORMATS)]
)
"""File names that claim to hold a picture: a folder source takes these and no others."""
BRIGHT = 64
"""A mask without brighter values holds class numbers, not grey values."""
MAX_PIXELS = 64_000_000
"""Larger pictures are refused before decoding: whole slides are to be tiled first."""

_BITS, _MEANING, _PLANES = 258, 262, 284
"""TIFF's BitsPerSample, PhotometricInterpretation (0 is WhiteIsZero, which Pillow turns round for 8
bits alone) and PlanarConfiguration (2: plane by plane)."""
BROKEN = (
    Image.DecompressionBombError,
    OSError,
    SyntaxError,
    ValueError,
    TypeError,
    EOFError,
    LookupError,
    ArithmeticError,
    struct.error,
    zlib.error,
    Warning,  # where warnings are errors: "Corrupt EXIF data", "Truncated File Read", ...
)
"""What Pillow's decoders raise on damaged bytes (half a million decodes were tried)."""


def decode(data: bytes, *, name: str) -> Image.Image:
    """Return `data` as an upright 8-bit RGB image.

    EXIF orientation is applied, transparency is laid over white (the empty slide), grey, palette
    and CMYK are converted. 16-bit values keep their high byte (0..65535 to 0..255, as Pillow does
    for 16-bit colour); where none exceeds 12 bits they are refused, since a camera's 12 bits would
    come out almost black and the picture alone does not tell its depth: see `decode_deep`.
    Floats must lie in [0, 1]. `name` is what errors call the picture.

    Raises:
        DataError: empty, broken, truncated, of an unknown format, of several frames, a float image
            outside [0, 1], integers of another depth than 16 bits, or larger than `MAX_PIXELS`.
    """
    return _flat(_to_8_bit(_load(data, name), name))


def greatest_value(data: bytes, *, name: str) -> int:
    """Return the greatest value of a picture of more than 8 bits (alpha aside), 0 for any other.

    Raises:
        DataError: as `decode`.
    """
    values = _deep_values(data, name)
    return 0 if values is None else _greatest(values)


def decode_deep(data: bytes, *, name: str, bits: int) -> NDArray[np.uint8]:
    """Return a picture whose values hold `bits` bits as upright RGB, (H, W, 3).

    Args:
        bits: depth of the whole set, see `factory.real.depth.depth_bits`.

    Raises:
        DataError: as `decode`; a picture of 8 bits, or one that would be all but black.
    """
    values = _deep_values(data, name)
    greatest = 0 if values is None else _greatest(values)
    if values is None or 0 < greatest < DARKEST_SHARE * 2**bits:
        raise DataError(
            f"image {name} has values up to {greatest} where its set needs {bits} bits: all but"
            " black",
            remedy="Scale it as the others are, open it as a set of its own, or pass --skip-broken",
        )
    return np.asarray(_flat(Image.fromarray(to_8_bits(values, 0, 2**bits - 1))))


def decode_mask(
    data: bytes,
    *,
    name: str,
    size_px: tuple[int, int] | None = None,
    rule: MaskRule | None = None,
) -> NDArray[np.uint8]:
    """Return a mask (H, W) with the values that the file stores, unscaled.

    Palette images give their palette indices, 1-bit images 0 and 1, grey images (also stored as
    RGB with equal channels, or with 16 bits up to 255) their grey values. A mask in an alpha
    channel, its colour being the same everywhere, gives the alpha.

    Args:
        size_px: (width, height) of the image that this mask belongs to, if it is to be checked.
        rule: turns stored values into those of the mask, for masks that are more than classes.

    Raises:
        DataError: as `decode`; another size than `size_px`; without a rule a coloured mask or
            values above 255; colour and alpha that show two different masks.
    """
    values = _stored_values(_load(data, name), name)
    mask = _classes(values, name) if rule is None else rule.applied(values, name=name)
    if size_px is not None and mask.shape != size_px[::-1]:
        height, width = mask.shape
        raise DataError(
            f"mask {name} is {width}x{height} pixels, its image {size_px[0]}x{size_px[1]}",
            remedy="Export the mask at the size of its image (nearest neighbour)",
        )
    return mask


def square(image: Image.Image, size_px: int) -> Image.Image:
    """Return the largest central square of `image`, resized with Lanczos to `size_px`."""
    centre = image.crop(_central_box(image.size))  # resize(box=...) would let the margin bleed in
    return centre.resize((size_px, size_px), Image.Resampling.LANCZOS)


def square_mask(mask: NDArray[np.uint8], size_px: int) -> NDArray[np.uint8]:
    """Return what `square` shows of a mask (H, W): nearest neighbour, (size_px, size_px)."""
    image = Image.fromarray(mask)
    centre = image.crop(_central_box(image.size))
    return np.array(centre.resize((size_px, size_px), Image.Resampling.NEAREST))


def encode_png(pixels: NDArray[np.uint8]) -> bytes:
    """Return (H, W) or (H, W, 3) as PNG."""
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, format="PNG")
    return buffer.getvalue()


def encode_pnm(pixels: NDArray[np.uint8]) -> bytes:
    """Return (H, W) or (H, W, 3) as binary PNM.

    A picture file whose bytes depend on its pixels alone, not on a zlib version: what pictures
    without a file of their own (arrays, drawn cells) are fingerprinted by.
    """
    height, width = pixels.shape[:2]
    magic = b"P6" if pixels.ndim == 3 else b"P5"
    return b"%s %d %d 255\n%s" % (magic, width, height, np.ascontiguousarray(pixels).tobytes())


def _load(data: bytes, name: str, *, low_bytes: bool = False) -> Image.Image:
    """Decode fully: a truncated file must fail here, not when its pixels are first used.

    Args:
        low_bytes: of 16-bit colour, which Pillow reads by its high bytes, return the low ones.
    """
    if not data:
        raise DataError(f"image {name} is empty (0 bytes)", remedy=_REPLACE)
    try:
        image = Image.open(io.BytesIO(data), formats=FORMATS)
        _check_extent(image, name)
        if low_bytes:
            image.tile = [tile._replace(args=_swapped(tile.args)) for tile in image.tile]
        image.load()
        return ImageOps.exif_transpose(image)
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise DataError(f"image {name} is too large ({error})", remedy=_TILE) from error
    except BROKEN as error:
        reason = "no known picture format" if isinstance(error, UnidentifiedImageError) else error
        raise DataError(f"image {name} cannot be decoded ({reason})", remedy=_REPLACE) from error


def _deep_values(data: bytes, name: str) -> NDArray[Any] | None:
    """Return the values of a picture of more than 8 bits, (H, W) or (H, W, 3 or 4); else None.

    Raises:
        DataError: as `decode`; a kind of deep picture that Pillow reads wrongly.
    """
    try:
        head = Image.open(io.BytesIO(data), formats=FORMATS)
        rawmode = _rawmode(head)
        tags = head.tag_v2 if isinstance(head, TiffImagePlugin.TiffImageFile) else {}
        deep_tiff = max(tags.get(_BITS, (8,))) > 8
    except BROKEN:  # named by `_load`
        return None
    in_planes = deep_tiff and tags.get(_PLANES) == 2 and head.mode in ("RGB", "RGBA")
    if deep_tiff and tags.get(_MEANING) == 0:
        raise _misread(name, "stores white as 0 in more than 8 bits", "Store it with black as 0")
    if in_planes and ";16" not in rawmode:
        raise _misread(name, "stores 16-bit colours plane by plane", "Store them pixel by pixel")
    if head.mode.startswith("I"):
        return _whole_numbers(_load(data, name), name)
    if not (head.mode in ("RGB", "RGBA") and ";16" in rawmode):
        return None
    high: NDArray[Any] = np.asarray(_load(data, name)).astype(np.uint16) << 8
    if not (in_planes or rawmode.startswith("LA")):
        low: NDArray[Any] = np.asarray(_load(data, name, low_bytes=True))
        high |= low
    elif 0 < _greatest(high) < FULL:
        what = "colours in planes" if in_planes else "grey with transparency"
        raise _misread(
            name,
            f"stores {what} of fewer than 16 bits in 16, of which only the upper 8 are read",
            "Store it pixel by pixel without transparency",
        )
    return high


def _misread(name: str, what: str, remedy: str) -> DataError:
    return DataError(f"image {name} {what}", remedy=f"{remedy}, or pass --skip-broken")


def _rawmode(image: ImageFile.ImageFile) -> str:
    """Return how the file stores a pixel, in Pillow's words: "RGB;16B" is 16-bit colour."""
    args = image.tile[0].args if image.tile else ""
    return str(args[0] if isinstance(args, tuple) and args else args)


def _swapped(args: Any) -> Any:
    """Return the arguments of a decoder with the two bytes of each value in the other order."""
    if isinstance(args, tuple):
        return (_swapped(args[0]), *args[1:])
    native = {"little": "L", "big": "B"}[sys.byteorder]
    order = native if args[-1] == "N" else args[-1]
    return args[:-1] + {"L": "B", "B": "L"}[order]


def _greatest(values: NDArray[Any]) -> int:
    return int((values[..., :3] if values.ndim == 3 else values).max())


def _flat(image: Image.Image) -> Image.Image:
    """Return an 8-bit image as RGB, transparency laid over white."""
    if image.has_transparency_data:
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, "white")
        image = Image.alpha_composite(white, image)
    return image.convert("RGB")


def _check_extent(image: Image.Image, name: str) -> None:
    width, height = image.size
    if width * height > MAX_PIXELS:
        raise DataError(
            f"image {name} is {width}x{height} pixels, the limit is {MAX_PIXELS:,}", remedy=_TILE
        )
    frames = getattr(image, "n_frames", 1)
    if frames > 1 and image.format != "MPO":  # a camera's MPO: the first frame is the picture
        raise DataError(
            f"image {name} holds {frames} frames", remedy="Export every frame as an own file"
        )


def _to_8_bit(image: Image.Image, name: str) -> Image.Image:
    if image.mode.startswith("I"):  # 16-bit grey, or 32-bit integers holding 16-bit values
        values = _whole_numbers(image, name)
        if 0 < values.max() < DARKEST_SHARE * 2**16:
            raise DataError(
                f"image {name} has integers up to {values.max()} only: 12 bits or fewer, not 16",
                remedy="Scale it to 8 or 16 bits first, all images of the set alike",
            )
        return Image.fromarray((values >> 8).astype(np.uint8))
    if image.mode == "F":
        floats = np.asarray(image, np.float32)
        if not (floats.min() >= 0 and floats.max() <= 1):  # also refuses NaN
            raise DataError(
                f"image {name} has floats in {floats.min():g}..{floats.max():g}, not 0..1",
                remedy="Window it to 0..1 or to 8 bits first",
            )
        return Image.fromarray((floats * 255 + 0.5).astype(np.uint8))
    return image


def _whole_numbers(image: Image.Image, name: str) -> NDArray[np.int64]:
    values = np.asarray(image).astype(np.int64)
    if values.min() < 0 or values.max() > 65535:
        raise DataError(
            f"image {name} has integers in {values.min()}..{values.max()}, not 0..65535",
            remedy="Window it to 8 or 16 bits first",
        )
    return values


def _stored_values(image: Image.Image, name: str) -> NDArray[Any]:
    """Return what a mask file stores: (H, W), or (H, W, 3) where it is coloured."""
    if image.mode in ("1", "L", "P"):
        return np.array(image, dtype=np.uint8)
    if image.mode == "PA":
        return np.asarray(image)[..., 0]
    if image.mode in ("LA", "La", "RGBA", "RGBa"):
        bands = np.asarray(image)
        return _beside_alpha(_one_channel(bands[..., :-1]), bands[..., -1], name)
    values = np.asarray(image)
    return _one_channel(values) if values.ndim == 3 else values


def _one_channel(values: NDArray[Any]) -> NDArray[Any]:
    """Return (H, W) where all channels of (H, W, C) are equal, else the channels as they are.

    Lossy colour leaves channels of grey a little apart: their mean counts. A class number in one
    channel is no such grey, since none of its values is bright.
    """
    apart = values.max(axis=-1).astype(np.int64) - values.min(axis=-1)
    if not apart.any():
        return values[..., 0]
    if values.dtype == np.uint8 and apart.max() <= NEAR and values.max() >= BRIGHT:
        return np.asarray(values.mean(axis=-1), np.uint8)
    return values


def _beside_alpha(colours: NDArray[Any], alpha: NDArray[Any], name: str) -> NDArray[Any]:
    """Return which of the two is the mask: a colour that never changes says nothing.

    What is fully transparent in one colour and opaque in others shows one and the same mask twice.
    """
    if (alpha == alpha[0, 0]).all():
        return colours
    if (colours == colours[0, 0]).all():
        return alpha
    clear = alpha == 0
    shown = colours.any(axis=-1) if colours.ndim == 3 else colours > 0
    if set(np.unique(alpha).tolist()) == {0, 255} and (clear != shown).all():
        return colours
    raise DataError(
        f"mask {name} holds one mask in its colours and another in its transparency",
        remedy="Export the one that is meant, without an alpha channel",
    )


def _classes(values: NDArray[Any], name: str) -> NDArray[np.uint8]:
    """Return stored values as class indices or grey values, (H, W)."""
    if values.ndim == 3:
        raise DataError(
            f"mask {name} is coloured",
            remedy="Store one class index or grey value per pixel, or pass --masks object"
            " (masks='object') if every colour but black is the object",
        )
    if not (values.min() >= 0 and values.max() <= 255 and (values == np.floor(values)).all()):
        raise DataError(
            f"mask {name} has values in {values.min()}..{values.max()}, not whole in 0..255",
            remedy="Number the classes from 0 and store them with 8 bits, or pass --masks object"
            " (masks='object') if they number objects",
        )
    return values.astype(np.uint8)


def _central_box(size_px: tuple[int, int]) -> tuple[int, int, int, int]:
    width, height = size_px
    side = min(width, height)
    left, top = (width - side) // 2, (height - side) // 2
    return (left, top, left + side, top + side)


_REPLACE = "Replace or remove the file, or pass --skip-broken (skip_broken=True)"
_TILE = "Tile or downscale it first, or pass --skip-broken (skip_broken=True)"
