"""The field of view: how large a pixel is, and which part of a frame is shown.

A learner sees squares of so many pixels and cannot know that cells of one set are 1.4 times as
large as those of another, since one shows whole frames and the other their middle. Pixel sizes,
where they are known, tell it; where they are not, the objects do: `factory.real.scale`.
"""

import math
from dataclasses import dataclass
from typing import Annotated

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field

from factory.errors import DataError
from factory.real.scale import (
    TOLERANCE,
    ObjectScale,
    ScaleDifference,
    Views,
    compare_scale,
    compare_with,
)


@dataclass(frozen=True, slots=True)
class Crop:
    """The central part of a frame that is shown: a share of its sides, or a field in µm."""

    share: float | None = None
    field_um: float | None = None

    @property
    def text(self) -> str:
        """What `crop_rule` reads back: part of a dataset's fingerprint."""
        return f"{self.share:g}" if self.share is not None else f"{self.field_um:g}um"

    def box(
        self, size_px: tuple[int, int], pixel_size_um: float | None, *, name: str
    ) -> tuple[int, int, int, int]:
        """Return (left, top, right, bottom) of the part in a frame of (width, height).

        Raises:
            DataError: a field in micrometres of an image without pixel size, or smaller than asked.
        """
        width, height = size_px
        if self.share is not None:
            wide, high = (max(1, round(self.share * side)) for side in size_px)
        elif pixel_size_um is None:
            raise DataError(
                f"image {name} has no pixel size, and --crop {self.text} is a field",
                remedy="Give --pixel-size-um (a number, or a column of the table), or a share: 0.7",
            )
        else:
            wide = high = round((self.field_um or 0) / pixel_size_um)
            shown_um = min(size_px) * pixel_size_um
            if wide > min(size_px):
                raise DataError(
                    f"image {name} shows {shown_um:.4g} µm, less than --crop {self.text}",
                    remedy=f"Ask for {shown_um:.4g}um or less, or leave this image out",
                )
        left, top = (width - wide) // 2, (height - high) // 2
        return (left, top, left + wide, top + high)


def crop_rule(text: str | None) -> Crop | None:
    """Return the crop that '0.711' or '80um' names; None for None or the whole frame.

    Raises:
        DataError: neither.
    """
    if text is None:
        return None
    bare = text.strip().replace("µm", "um").replace("μm", "um")
    value = positive(bare.removesuffix("um"))
    if value is None or (not bare.endswith("um") and value > 1):
        raise DataError(
            f"--crop {text!r} is no part of a frame",
            remedy="Write a share of its side (0.711), or a field in micrometres (80um)",
        )
    if bare.endswith("um"):
        return Crop(field_um=value)
    return None if value == 1 else Crop(share=value)


def positive(text: str) -> float | None:
    """Return a number above 0, written with a point or a comma; None: it is none."""
    try:
        value = float(text.strip().replace(",", "."))
    except ValueError:
        return None
    return value if math.isfinite(value) and value > 0 else None


def _text_of_crop(text: str) -> str | None:
    try:
        part = crop_rule(text)
    except DataError as error:
        raise ValueError(error.what) from error
    return None if part is None else part.text


def _typed(value: object) -> object:
    """Return 0.711 and 256 as the text that the command line has them in."""
    number = isinstance(value, int | float) and not isinstance(value, bool)
    return str(value) if number else value


CropText = Annotated[str, BeforeValidator(_typed), AfterValidator(_text_of_crop)]
"""What `--crop` takes, as a configuration or a manifest holds it; the whole frame becomes None."""


class Shown(BaseModel):
    """The field of a generator's training images, as its manifest keeps it (`field`)."""

    model_config = ConfigDict(frozen=True)

    pixel_size_um: float | None = Field(None, gt=0, allow_inf_nan=False)
    """Of the pixels it draws."""
    crop: CropText | None = None
    """Part of the frames that it learnt; None: whole frames."""
    objects: ObjectScale | None = None
    """How large objects look in it."""

    def look(self, name: str, size_px: int, objects: Views | None = None) -> "Look":
        """Return what a generator learnt, or draws, at this size as a side of a comparison.

        Args:
            objects: of drawn images; None: those that it learnt.
        """
        pixel_size_um = self.pixel_size_um
        return Look(
            name=name,
            objects=objects or self.objects,
            field_um=None if pixel_size_um is None else pixel_size_um * size_px,
            crop=self.crop,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Look:
    """A side of a comparison: how large objects look in some images, and what these show."""

    name: str
    """As it is told: "drawn images"."""
    objects: Views | ObjectScale | None
    """None: nobody measured them."""
    field_um: float | None = None
    """Side of what an image shows, where pixel sizes are known."""
    crop: str | None = None
    """Part of their frames, as `--crop` names it; None: all, or not known."""

    @property
    def told(self) -> str:
        """Its name, and which part of their frames they show."""
        part = crop_rule(self.crop)
        return f"{self.name} (the central {part.text} of their frames)" if part else self.name


def cut_from(frames: str | None, shown: Shown) -> Shown:
    """Return `shown` as seen from larger frames, of which the image files are the part `frames`.

    Raises:
        DataError: see `crop_rule`.
    """
    outer, inner = crop_rule(frames), crop_rule(shown.crop)
    if outer is None or (inner is not None and inner.share is None):  # a field in µm is one of both
        return shown
    share = None if outer.share is None else outer.share * (inner.share or 1 if inner else 1)
    part = outer if share is None else Crop(share=float(f"{share:.4g}"))
    return shown.model_copy(update={"crop": part.text})


def scale_line(real: Look, drawn: Look) -> str | None:
    """Return what is said where objects look larger, or smaller, in drawn images than in real ones.

    One line: how much, and the option that shows the real ones alike. By pixel sizes where both
    are known and differ, else by the objects. None: one scale, or nothing that would tell.

    Args:
        real: with views of images.
        drawn: likewise, or with what a generator keeps.
    """
    if real.field_um is not None and drawn.field_um is not None:
        ratio = real.field_um / drawn.field_um
        if not 1 / TOLERANCE <= ratio <= TOLERANCE:
            return (
                f"scale: {drawn.told} show {drawn.field_um:.4g} µm, {real.told} {real.field_um:.4g}"
                f" µm: objects look {ratio:.2f} times as large in the former;"
                f" {_remedy(real, ratio, drawn.field_um)}"
            )
    found = _measured(real, drawn)
    if found is None or not found.differs:
        return None
    what = f"scale: {found.told(drawn.told, real.told)}, beyond {TOLERANCE:g}"
    if real.field_um is not None and drawn.field_um is not None:
        return f"{what}, though their pixel sizes agree: look at both"
    return f"{what}; {_remedy(real, found.ratio)}"


def _measured(real: Look, drawn: Look) -> ScaleDifference | None:
    """Return how large objects look in drawn images beside real ones."""
    if real.objects is None or isinstance(real.objects, ObjectScale) or drawn.objects is None:
        return None
    if isinstance(drawn.objects, ObjectScale):
        found = compare_with(real.objects, drawn.objects)
        return None if found is None else found.inverse
    return compare_scale(drawn.objects, real.objects)


def _remedy(real: Look, ratio: float, field_um: float | None = None) -> str:
    """Return how real images are shown like drawn ones, in which objects look `ratio` times larger.

    Args:
        field_um: what the drawn ones show, where it is known.
    """
    part = crop_rule(real.crop) or Crop(share=1.0)
    if field_um is not None and ratio > 1:
        wanted = Crop(field_um=float(f"{field_um:.4g}"))
    elif part.share is None:
        wanted = Crop(field_um=float(f"{(part.field_um or 0) / ratio:.3g}"))
    elif part.share / ratio <= 1:
        wanted = Crop(share=round(part.share / ratio, 2))
    else:
        return (
            f"no --crop shows more of {real.name}: take wider ones, or a generator of their scale"
        )
    return f"--crop {wanted.text} shows {real.name} alike (another dataset: split it with it too)"
