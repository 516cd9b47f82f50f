"""`RealDataset`: images, labels, masks, groups and attributes behind one fingerprint."""

import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from factory.digest import digest, sha256_hex
from factory.errors import DataError
from factory.real.duplicates import Looks
from factory.real.field import Crop, Look, Shown, crop_rule
from factory.real.images import decode, decode_mask, square, square_mask
from factory.real.mask_values import (
    MaskRule,
    ValueCount,
    mask_rule,
)
from factory.real.scale import LOOKED_AT_PX, Views, first_of_each, object_scale, views
from factory.real.stored import Stored

FEW_COLOURS = 16
"""Pictures of 2 to so many colours are hardly photographs: masks are like that."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RealImage:
    """One image as its source lists it: who it is, and where its bytes lie.

    `group` is what must not be divided between train and test (patient, slide, sequence); an image
    of no known group is a group of its own. `grouped_by` says where the group comes from: a
    column, an attribute. `read_as` says how its pixels are read where the file leaves it open
    ("16-bit grey, stretched from 0..4095"): counted by `describe`, and part of the fingerprint.
    `drawn` is what says that a model drew it: such an image is not real.
    """

    id: str
    label: str
    image: Stored
    mask: Stored | None = None
    group: str = ""
    grouped_by: str = ""
    attributes: Mapping[str, str] = field(default_factory=dict)
    read_as: str = ""
    pixel_size_um: float | None = None
    drawn: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class NotRead:
    """What lies in a source and is no image of the dataset, so that it is counted and named.

    `kind` is what it is counted by: a suffix (".jfif"), "hidden", or words of a reader ("DICOM
    without pixels"). `name` is an example.
    """

    kind: str
    name: str
    count: int = 1


Found = RealImage | NotRead | DataError
"""What a source yields: an image, what it does not take, or what is wrong with one file or row.

An error that is yielded is raised by `build_dataset`, which first sees all of them; an error that
is raised by a source says that it cannot be read at all.
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Content:
    """What was found in the bytes when they were first read: upright size in pixels, SHA-256.

    `pixels_sha256` is of the decoded picture: the same for one picture in two formats.
    `colours` counts those of a picture that has no more than `FEW_COLOURS`, 0 for any other.
    `mask_values` are those after the dataset's rule for masks; `mask_jpeg`: their file is a JPEG.
    `read_as` and `drawn`: see `RealImage`; bytes may say the latter too. `greatest` is the greatest
    value that a picture of more than 8 bits stores, 0 for any other.
    """

    width_px: int
    height_px: int
    image_sha256: str
    pixels_sha256: str
    mask_sha256: str | None
    colours: int = 0
    mask_values: tuple[ValueCount, ...] = ()
    mask_jpeg: bool = False
    read_as: str = ""
    drawn: str = ""
    greatest: int = 0


@dataclass(frozen=True, kw_only=True)
class RealDataset:
    """Real images, checked once and then read lazily; small enough to send to workers.

    `class_names` fixes the class indices; a selection keeps the names of the whole. `broken` lists
    what was left out under `skip_broken`, one reason per image, `faults` what is wrong otherwise
    (empty, unless they were asked for). `not_read` counts what the source holds besides, one entry
    per kind. `reading` holds the rules by which the caller had the files read ("masks": "object").
    Open one with `factory.real.sources.open_dataset`.
    """

    items: tuple[RealImage, ...]
    contents: tuple[Content, ...]
    class_names: tuple[str, ...]
    broken: tuple[str, ...] = ()
    faults: tuple[str, ...] = ()
    not_read: tuple[NotRead, ...] = ()
    reading: Mapping[str, str] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.items)

    def __repr__(self) -> str:
        return f"RealDataset({len(self)} images, {len(self.class_names)} classes)"

    @cached_property
    def ids(self) -> tuple[str, ...]:
        """One id per image, unique."""
        return tuple(item.id for item in self.items)

    @cached_property
    def labels(self) -> tuple[str, ...]:
        """One class name per image."""
        return tuple(item.label for item in self.items)

    @cached_property
    def class_ids(self) -> NDArray[np.int64]:
        """(N,) positions of the labels in `class_names`."""
        position = {name: number for number, name in enumerate(self.class_names)}
        return np.array([position[label] for label in self.labels], np.int64)

    @cached_property
    def groups(self) -> tuple[str, ...]:
        """One group per image: given by the source, else the image's own id."""
        return tuple(item.group or item.id for item in self.items)

    @cached_property
    def attributes(self) -> dict[str, dict[str, str]]:
        """Attributes by image id."""
        return {item.id: dict(item.attributes) for item in self.items}

    @cached_property
    def fingerprint(self) -> str:
        """Digest of ids, labels, groups, attributes, bytes and rules: wherever the files lie."""
        rows: list[list[object]] = [
            [i.id, i.label, group, dict(i.attributes), c.image_sha256, c.mask_sha256]
            for i, group, c in zip(self.items, self.groups, self.contents, strict=True)
        ]
        for row, content in zip(rows, self.contents, strict=True):
            row += [content.read_as] if content.read_as else []
        rows.sort(key=lambda row: str(row[0]))
        return digest([rows, dict(self.reading)] if self.reading else rows)

    @cached_property
    def mask_rule(self) -> MaskRule | None:
        """How the stored values of masks are read; None: as they are."""
        return mask_rule(self.reading.get("masks"))

    @property
    def has_masks(self) -> bool:
        """Whether every image has a mask (False for an empty dataset)."""
        return bool(self.items) and all(item.mask is not None for item in self.items)

    @cached_property
    def like_masks(self) -> tuple[str, ...]:
        """Ids of the images that hold as few colours as masks do; blank ones are not among them."""
        found = zip(self.ids, self.contents, strict=True)
        return tuple(image_id for image_id, content in found if content.colours > 1)

    @cached_property
    def _position(self) -> dict[str, int]:
        return {image_id: number for number, image_id in enumerate(self.ids)}

    def index_of(self, image_id: str) -> int:
        """Return the position of an image.

        Raises:
            DataError: no image has this id.
        """
        try:
            return self._position[image_id]
        except KeyError:
            example = self.ids[0] if self.ids else "none"
            raise DataError(
                f"no image {image_id!r} among {len(self)}", remedy=f"Ids look like {example!r}"
            ) from None

    def encoded(self, i: int) -> bytes:
        """Return image `i` as its source stores it (arrays and drawn cells: as PNM).

        Raises:
            DataError: gone, or changed since the dataset was opened.
        """
        stored = self.items[i].image
        return _unchanged(stored.read(), self.contents[i].image_sha256, stored)

    def picture(self, i: int) -> Image.Image:
        """Return image `i`, upright RGB: what everything is made from.

        Raises:
            DataError: gone, or changed since the dataset was opened.
        """
        picture = decode(self.encoded(i), name=self.items[i].image.name)
        return cropped(picture, self.crop, self.items[i])

    @cached_property
    def crop(self) -> Crop | None:
        """The central part of every frame that is shown; None: all of it."""
        return crop_rule(self.reading.get("crop"))

    @property
    def fields_um(self) -> tuple[float | None, ...]:
        """Side of the central square of every image in micrometres, where its pixels are known."""
        return tuple(
            None
            if item.pixel_size_um is None
            else item.pixel_size_um * min(content.width_px, content.height_px)
            for item, content in zip(self.items, self.contents, strict=True)
        )

    def look(
        self, size_px: int, ids: Sequence[str], *, called: Mapping[str, str] | None = None
    ) -> Look:
        """Return images (one or more) as a side of a comparison of scales: some of each class.

        Args:
            size_px: of the other side.
            ids: of the images.
            called: class -> its name on the other side, where that differs.
        """
        return Look(
            name="real images",
            objects=self._views(size_px, ids, called or {}),
            field_um=self.field_um(ids),
            crop=self.crop.text if self.crop else None,
        )

    def shown(
        self, size_px: int, ids: Sequence[str], *, called: Mapping[str, str] | None = None
    ) -> Shown:
        """Return the field of view of images (one or more) that are learnt from at `size_px`.

        `called`: class -> the name under which it is told, where that differs.
        """
        field_um = self.field_um(ids)
        return Shown(
            pixel_size_um=None if field_um is None else float(f"{field_um / size_px:.6g}"),
            crop=self.crop.text if self.crop else None,
            objects=object_scale(self._views(size_px, ids, called or {})),
        )

    def field_um(self, ids: Sequence[str]) -> float | None:
        """Return the median side of what images show, where the pixels of all are known."""
        fields = self.fields_um
        known = [field_um for row in self._chosen(ids) if (field_um := fields[row]) is not None]
        return float(np.median(known)) if known and len(known) == len(ids) else None

    def _views(self, size_px: int, ids: Sequence[str], called: Mapping[str, str]) -> Views:
        own = (self.labels[row] for row in self._chosen(ids))
        labels = [called.get(label, label) for label in own]
        rows = first_of_each(labels)
        images = self.array(min(size_px, LOOKED_AT_PX), [ids[row] for row in rows])
        return views(images, [labels[row] for row in rows])

    @cached_property
    def looks(self) -> Looks:
        """What the images look like, for near-duplicates; every image is read once."""
        return Looks.of((name, self.picture(i)) for i, name in enumerate(self.ids))

    def image(self, i: int) -> NDArray[np.uint8]:
        """Return image `i`, upright RGB (H, W, 3)."""
        return np.array(self.picture(i))

    def mask(self, i: int) -> NDArray[np.uint8] | None:
        """Return the mask of image `i`, (H, W) with the values stored or by rule, or None."""
        stored = self.items[i].mask
        expected = self.contents[i].mask_sha256
        if stored is None or expected is None:
            return None
        data = _unchanged(stored.read(), expected, stored)
        mask = decode_mask(data, name=stored.name, rule=self.mask_rule)
        return cropped_mask(mask, self.crop, self.items[i])

    def array(self, size_px: int, ids: Iterable[str] | None = None) -> NDArray[np.uint8]:
        """Return the central squares of images as (N, size_px, size_px, 3), in the order asked."""
        chosen = self._chosen(ids)
        out = np.empty((len(chosen), size_px, size_px, 3), np.uint8)
        for row, i in enumerate(chosen):
            out[row] = np.asarray(square(self.picture(i), size_px))
        return out

    def mask_array(self, size_px: int, ids: Iterable[str] | None = None) -> NDArray[np.uint8]:
        """Return the masks that belong to `array`, (N, size_px, size_px), nearest neighbour.

        Raises:
            DataError: an image without a mask.
        """
        chosen = self._chosen(ids)
        out = np.empty((len(chosen), size_px, size_px), np.uint8)
        for row, i in enumerate(chosen):
            mask = self.mask(i)
            if mask is None:
                raise DataError(
                    f"image {self.ids[i]!r} has no mask", remedy="Select images that have one"
                )
            out[row] = square_mask(mask, size_px)
        return out

    def select(self, ids: Iterable[str]) -> "RealDataset":
        """Return the images with these ids, in this order; class names stay."""
        chosen = self._chosen(ids)
        return replace(
            self,
            items=tuple(self.items[i] for i in chosen),
            contents=tuple(self.contents[i] for i in chosen),
        )

    def _chosen(self, ids: Iterable[str] | None) -> Sequence[int]:
        return range(len(self)) if ids is None else [self.index_of(i) for i in ids]


def cropped(picture: Image.Image, crop: Crop | None, item: RealImage) -> Image.Image:
    """Return the part of a picture that is shown.

    Raises:
        DataError: see `Crop.box`.
    """
    if crop is None:
        return picture
    return picture.crop(crop.box(picture.size, item.pixel_size_um, name=item.image.name))


def cropped_mask(mask: NDArray[np.uint8], crop: Crop | None, item: RealImage) -> NDArray[np.uint8]:
    """Return what `cropped` shows of a mask (H, W)."""
    if crop is None:
        return mask
    size_px = (mask.shape[1], mask.shape[0])
    left, top, right, bottom = crop.box(size_px, item.pixel_size_um, name=item.image.name)
    return mask[top:bottom, left:right]


def composed(text: str) -> str:
    """Return text in NFC: a name means the same whatever file system spelled it."""
    return unicodedata.normalize("NFC", text)


def _unchanged(data: bytes, expected_sha256: str, stored: Stored) -> bytes:
    if sha256_hex(data) != expected_sha256:
        raise DataError(
            f"{stored.name} changed since the dataset was opened",
            remedy="Open the dataset again; its fingerprint is another one now",
        )
    return data
