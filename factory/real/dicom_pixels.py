"""The pixels of one DICOM file as 8-bit brightness or colour, by the file's own rules or a span.

What stands in a file without a value counts as absent, decimals may have commas, and of several
windows the first complete one is taken (PS3.3 C.11.1, C.11.2). Brightness follows the file's own
VOI table or window, else its stored range. Values of more than 8 bits that fill less than a quarter
of that range would come out black or flat: they are stretched by the span that they do hold, which
`factory.real.dicom` finds for all files that share a scale.
"""

import struct
import zlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from math import isfinite
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from factory.errors import DataError
from factory.real.depth import depth_bits, to_8_bits
from factory.real.images import MAX_PIXELS

SPAN_SHARE = 0.25
"""Values that fill less of their stored range than this are stretched: two bits are empty."""
_DARKEST = 0.1
"""Percent of the pixels that may be darker than the span, and brighter: a hot pixel or a steel clip
does not decide how bright everything else is."""
_SAMPLED = 2**16
"""Pixels of one file that its span is found from."""
_DECIMALS = ("RescaleSlope", "RescaleIntercept", "WindowCenter", "WindowWidth")
_TABLES = ("ModalityLUTSequence", "VOILUTSequence")
_BROKEN = (
    *(ValueError, AttributeError, LookupError, TypeError, OSError, RuntimeError, EOFError),
    *(ArithmeticError, AssertionError, struct.error, zlib.error),
)
"""What pydicom raises on damaged files, whose values it decodes when they are asked for."""


class DamagedError(DataError):
    """A DICOM file that cannot be decoded."""


@contextmanager
def causes(path: Path, what: str = "the pixels of {path} cannot be decoded") -> Iterator[None]:
    """Turn what pydicom raises into an error that names the file, the cause and its remedy.

    Raises:
        DamagedError: instead of the errors of pydicom.
    """
    try:
        yield
    except Exception as error:
        of_pydicom = type(error).__module__.startswith("pydicom")  # some have no base of their own
        if isinstance(error, DataError) or not (of_pydicom or isinstance(error, _BROKEN)):
            raise
        remedy = "Restore the file or export it again, or pass --skip-broken"
        if isinstance(error, RuntimeError):  # no decoder, or all of them failed
            remedy = "Convert it to an uncompressed transfer syntax, or pass --skip-broken"
        reason = " ".join(str(error).split())[:160] or type(error).__name__
        raise DamagedError(f"{what.format(path=path)} ({reason})", remedy=remedy) from error


@dataclass(frozen=True, slots=True, kw_only=True)
class Span:
    """Values that become black and white: rescaled ones of grey files, stored ones of colours."""

    low: float
    high: float

    def joined(self, other: "Span") -> "Span":
        """Return the span over both."""
        return Span(low=min(self.low, other.low), high=max(self.high, other.high))

    def is_small_in(self, whole: "Span") -> bool:
        """Return whether these values would be black or flat if `whole` were what is shown."""
        return 0 < self.high - self.low < SPAN_SHARE * (whole.high - whole.low)


def settle(dataset: Any, path: Path) -> None:
    """Bring a dataset's own rules of brightness into one form, in place.

    What has no value is taken out. Rescale slope and intercept, window centre and width are single
    numbers afterwards, both of a pair or none.

    Raises:
        DataError: a value that is no number.
    """
    _lift_frame_values(dataset)
    if not dataset.get("NumberOfFrames"):
        _take_out(dataset, ["NumberOfFrames"])
    for keyword in _TABLES:
        items = dataset.get(keyword) or ()
        if not any(item.get("LUTData") and item.get("LUTDescriptor") for item in items[:1]):
            _take_out(dataset, [keyword])
    slopes, intercepts, centres, widths = (_decimals(dataset, name, path) for name in _DECIMALS)
    _take_out(dataset, _DECIMALS)
    slope, intercept = next(iter(slopes), None), next(iter(intercepts), None)
    if slope is not None or intercept is not None:  # of slope 0 nothing would be left
        dataset.add_new("RescaleSlope", "FD", slope or 1.0)
        dataset.add_new("RescaleIntercept", "FD", intercept or 0.0)
    windows = ((c, w) for c, w in zip(centres, widths, strict=False) if c is not None)
    window = next(((c, w) for c, w in windows if w is not None and w > 0), None)
    kind = str(dataset.get("VOILUTFunction") or "LINEAR").strip().upper()
    _take_out(dataset, ["VOILUTFunction"])
    if window is not None:
        dataset.add_new("WindowCenter", "FD", window[0])
        dataset.add_new("WindowWidth", "FD", window[1])
        # C.11.2.1.2 forbids widths below 1 under LINEAR alone; scaled floats have such windows.
        dataset.VOILUTFunction = "LINEAR_EXACT" if kind == "LINEAR" and window[1] < 1 else kind


def picture(dataset: Any, path: Path, span: Span | None = None) -> NDArray[np.uint8]:
    """Return (H, W) or (H, W, 3): rescaled, windowed, upright in brightness, 8 bits.

    Args:
        dataset: after `settle`, with its pixels.
        span: what becomes black and white where the file says nothing; its stored range if absent.

    Raises:
        DataError: several frames, an unknown kind of colour, or pixels that cannot be decoded.
    """
    values = _values(dataset, path)
    with causes(path):
        kind = str(dataset.PhotometricInterpretation)
        if kind == "PALETTE COLOR":
            return _palette(values, dataset)
        if values.ndim == 3:
            return _colour(values, dataset, span)
        return _grey(values, dataset, span, inverted=kind == "MONOCHROME1")


def asks_for_span(head: Any) -> bool:
    """Return whether a file holds more than 8 bits and no rule of its own for them."""
    if str(head.get("PhotometricInterpretation", "")) == "PALETTE COLOR":
        return False
    own = head.get("VOILUTSequence") or head.get("WindowWidth") is not None
    colours = int(head.get("SamplesPerPixel") or 1) > 1
    return _bits_stored(head) > 8 and (colours or not own)


def span_of(dataset: Any, path: Path) -> tuple[Span, Span]:
    """Return the span that one file's values hold, padding left out, and its stored range.

    Raises:
        DataError: as `picture`.
    """
    values = _values(dataset, path)
    with causes(path):
        if values.ndim == 3:
            bits = depth_bits(int(values.max()))
            return Span(low=0, high=2.0**bits - 1), _stored(dataset, scaled=False)
        from pydicom.pixels import apply_modality_lut

        flat = values.ravel()
        shown = flat[~_padding(flat, dataset)]
        sample = shown[:: max(1, shown.size // _SAMPLED)]
        if not sample.size:
            return _stored(dataset), _stored(dataset)
        scaled = apply_modality_lut(sample, dataset)
        low = np.percentile(scaled, _DARKEST, method="lower")  # values that occur: exact anywhere
        high = np.percentile(scaled, 100 - _DARKEST, method="higher")
        return Span(low=float(low), high=float(high)), _stored(dataset)


def _values(dataset: Any, path: Path) -> NDArray[Any]:
    """Return the stored values (H, W) or (H, W, 3), at most `MAX_PIXELS` of one frame."""
    with causes(path):
        size = int(dataset.get("Rows") or 0) * int(dataset.get("Columns") or 0)
        frames = int(dataset.get("NumberOfFrames") or 1)
    if frames > 1 or not 0 < size <= MAX_PIXELS:
        raise DataError(
            f"{path} holds {frames} frames of {size:,} pixels",
            remedy="Export every frame as an own file, and tile what is larger than"
            f" {MAX_PIXELS:,} pixels",
        )
    with causes(path):
        bits = _bits_stored(dataset)
        # Old files keep the values in the upper bits; pydicom would take the lower ones.
        above = max(0, int(dataset.get("HighBit") or bits - 1) + 1 - bits)
        dataset.BitsStored = bits + above
        values = dataset.pixel_array >> above if above else dataset.pixel_array
        dataset.BitsStored = bits
        return np.asarray(values)


def _grey(
    values: NDArray[Any], dataset: Any, span: Span | None, *, inverted: bool
) -> NDArray[np.uint8]:
    """Return brightness: by the file's own LUT or first window, else by `span` or stored range."""
    from pydicom.pixels import apply_modality_lut, apply_voi, apply_windowing

    shown = _stored(dataset)
    scaled = apply_modality_lut(values, dataset)
    if dataset.get("VOILUTSequence"):
        scaled = apply_voi(scaled, dataset)
        shown = _table(dataset.VOILUTSequence[0])
    elif dataset.get("WindowWidth") is not None:
        scaled = apply_windowing(scaled, dataset)
    elif span is not None:
        shown = span
    return to_8_bits(scaled, shown.low, shown.high, inverted=inverted)


def _stored(dataset: Any, *, scaled: bool = True) -> Span:
    """Return what the least and the greatest stored value mean (PS3.3 C.11.1)."""
    if scaled and dataset.get("ModalityLUTSequence"):
        return _table(dataset.ModalityLUTSequence[0])
    bits, signed = _bits_stored(dataset), bool(dataset.get("PixelRepresentation"))
    ends = (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) if signed else (0, 2**bits - 1)
    slope, intercept = dataset.get("RescaleSlope"), dataset.get("RescaleIntercept")
    if slope is None or not scaled:
        return Span(low=float(ends[0]), high=float(ends[1]))
    low, high = (float(end * slope + intercept) for end in ends)
    return Span(low=low, high=high)


def _table(item: Any) -> Span:
    return Span(low=0.0, high=2.0 ** int(item.LUTDescriptor[2]) - 1)


def _palette(values: NDArray[Any], dataset: Any) -> NDArray[np.uint8]:
    from pydicom.pixels import apply_color_lut

    colours = apply_color_lut(values, dataset)[..., :3]
    if colours.dtype.itemsize == 1:
        return np.asarray(colours, np.uint8)
    entries, first, _ = dataset.RedPaletteColorLookupTableDescriptor
    whole = apply_color_lut(np.arange(first, first + (entries or 2**16)), dataset)
    bits = depth_bits(int(whole[..., :3].max()))  # tables of 8 bits that claim 16 are common
    return to_8_bits(colours, 0, 2**bits - 1) if bits < 16 else (colours >> 8).astype(np.uint8)


def _colour(values: NDArray[Any], dataset: Any, span: Span | None) -> NDArray[np.uint8]:
    if values.shape[-1] != 3:
        raise ValueError(f"{values.shape[-1]} samples per pixel, not 3")
    if values.dtype == np.uint8:
        return values
    shown = span or _stored(dataset, scaled=False)
    return to_8_bits(values, shown.low, shown.high)


def _padding(values: NDArray[Any], dataset: Any) -> NDArray[np.bool_]:
    """Return where stored values mean that there is nothing (C.7.5.1.1.2)."""
    start, end = dataset.get("PixelPaddingValue"), dataset.get("PixelPaddingRangeLimit")
    if not isinstance(start, int):
        return np.zeros(values.shape, bool)
    low, high = sorted([start, end if isinstance(end, int) else start])
    return np.asarray((values >= low) & (values <= high))


def _bits_stored(dataset: Any) -> int:
    return int(dataset.get("BitsStored") or dataset.get("BitsAllocated") or 8)


def _lift_frame_values(dataset: Any) -> None:
    """Let the rules that an enhanced object of one frame keeps per frame count as the file's."""
    for groups in ("PerFrameFunctionalGroupsSequence", "SharedFunctionalGroupsSequence"):
        for group in (dataset.get(groups) or ())[:1]:
            for macro in ("PixelValueTransformationSequence", "FrameVOILUTSequence"):
                for item in (group.get(macro) or ())[:1]:
                    for keyword in (*_DECIMALS, "VOILUTFunction"):
                        if keyword in item and keyword not in dataset:
                            dataset[keyword] = item[keyword]


def _decimals(dataset: Any, keyword: str, path: Path) -> list[float | None]:
    """Return the values of a decimal string; None stands for an empty one."""
    numbers: list[float | None] = []
    for text in _texts(dataset, keyword):
        try:
            number = float(text.replace(",", ".")) if text else None
        except ValueError:
            number = float("nan")
        if number is not None and not isfinite(number):
            raise DataError(
                f"{path} has the {keyword} {text!r}, which is no number",
                remedy="Export the file again, or pass --skip-broken",
            )
        numbers.append(number)
    return numbers


def _texts(dataset: Any, keyword: str) -> list[str]:
    """Return the values as they stand in the file: pydicom gives up on decimals with commas."""
    element = dataset.get_item(keyword)
    value = None if element is None else element.value
    if isinstance(value, bytes):
        value = value.decode("latin-1").split("\\")
    elif value is None or isinstance(value, str | float | int):
        value = [] if value is None else [value]
    return [str(each).strip(" \0") for each in value]


def _take_out(dataset: Any, keywords: Iterable[str]) -> None:
    for keyword in keywords:
        if keyword in dataset:
            delattr(dataset, keyword)
