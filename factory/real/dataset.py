"""`RealDataset`: images, labels, masks, groups and attributes behind one fingerprint."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from factory.digest import digest, sha256_hex
from factory.errors import DataError
from factory.real.images import decode, decode_mask, square, square_mask
from factory.real.stored import Stored

CHECK_THREADS = 4
"""Pictures decoded at a time while a dataset is opened (Pillow lets go of the interpreter lock)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RealImage:
    """One image as its source lists it: who it is, and where its bytes lie.

    `group` is what must not be divided between train and test (patient, slide, sequence); an image
    of no known group is a group of its own.
    """

    id: str
    label: str
    image: Stored
    mask: Stored | None = None
    group: str = ""
    attributes: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Content:
    """What was found in the bytes when they were first read: upright size in pixels, SHA-256.

    `pixels_sha256` is of the decoded picture: the same for one picture in two formats.
    """

    width_px: int
    height_px: int
    image_sha256: str
    pixels_sha256: str
    mask_sha256: str | None


@dataclass(frozen=True, kw_only=True)
class RealDataset:
    """Real images, checked once and then read lazily; small enough to send to workers.

    `class_names` fixes the class indices; a selection keeps the names of the whole. `broken` lists
    what was left out under `skip_broken`, one reason per image. Open one with
    `factory.real.sources.open_dataset`.
    """

    items: tuple[RealImage, ...]
    contents: tuple[Content, ...]
    class_names: tuple[str, ...]
    broken: tuple[str, ...] = ()

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
        """Digest of ids, labels, groups, attributes and bytes: the same wherever the files lie."""
        rows = [
            [i.id, i.label, group, dict(i.attributes), c.image_sha256, c.mask_sha256]
            for i, group, c in zip(self.items, self.groups, self.contents, strict=True)
        ]
        return digest(sorted(rows, key=lambda row: str(row[0])))

    @property
    def has_masks(self) -> bool:
        """Whether every image has a mask (False for an empty dataset)."""
        return bool(self.items) and all(item.mask is not None for item in self.items)

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

    def image(self, i: int) -> NDArray[np.uint8]:
        """Return image `i`, upright RGB (H, W, 3)."""
        return np.array(decode(self.encoded(i), name=self.items[i].image.name))

    def mask(self, i: int) -> NDArray[np.uint8] | None:
        """Return the mask of image `i`, (H, W) with the stored values, or None."""
        stored = self.items[i].mask
        expected = self.contents[i].mask_sha256
        if stored is None or expected is None:
            return None
        return decode_mask(_unchanged(stored.read(), expected, stored), name=stored.name)

    def array(self, size_px: int, ids: Iterable[str] | None = None) -> NDArray[np.uint8]:
        """Return the central squares of images as (N, size_px, size_px, 3), in the order asked."""
        chosen = self._chosen(ids)
        out = np.empty((len(chosen), size_px, size_px, 3), np.uint8)
        for row, i in enumerate(chosen):
            picture = decode(self.encoded(i), name=self.items[i].image.name)
            out[row] = np.asarray(square(picture, size_px))
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


def build_dataset(
    items: Iterable[RealImage],
    *,
    class_names: Sequence[str] | None = None,
    skip_broken: bool = False,
) -> RealDataset:
    """Read and check every image once and return the dataset.

    Args:
        class_names: the classes in order; the sorted labels when absent.
        skip_broken: leave undecodable images out and list them in `broken`.

    Raises:
        DataError: nothing left, an id twice, the same image under two classes, a label outside
            `class_names`, or (unless skipped) a broken image or mask.
    """
    listed = tuple(items)
    if not listed:
        raise DataError("the dataset lists no image", remedy="Check that it has rows")
    _check_ids(listed)
    kept, broken = _read_all(listed, skip_broken=skip_broken)
    if not kept:
        raise DataError(
            f"no image is left ({len(broken)} broken)", remedy="Check that the URI is the right one"
        )
    _check_labels(kept)
    names = tuple(class_names) if class_names else tuple(sorted({i.label for i, _ in kept}))
    unknown = sorted({item.label for item, _ in kept} - set(names))
    if unknown:
        raise DataError(
            f"class {unknown[0]!r} is none of {list(names)}", remedy="Correct the label or the list"
        )
    return RealDataset(
        items=tuple(item for item, _ in kept),
        contents=tuple(content for _, content in kept),
        class_names=names,
        broken=tuple(broken),
    )


def inspect(item: RealImage) -> Content:
    """Return what the bytes of `item` hold, after decoding image and mask once.

    Raises:
        DataError: broken or unreadable, or a mask of another size.
    """
    data = item.image.read()
    picture = decode(data, name=item.image.name)
    size_px = picture.size
    mask_sha256 = None
    if item.mask is not None:
        mask = item.mask.read()
        decode_mask(mask, name=item.mask.name, size_px=size_px)
        mask_sha256 = sha256_hex(mask)
    return Content(
        width_px=size_px[0],
        height_px=size_px[1],
        image_sha256=sha256_hex(data),
        pixels_sha256=sha256_hex(repr(size_px).encode() + picture.tobytes()),
        mask_sha256=mask_sha256,
    )


def _read_all(
    items: Sequence[RealImage], *, skip_broken: bool
) -> tuple[list[tuple[RealImage, Content]], list[str]]:
    kept, broken = [], []
    with ThreadPoolExecutor(CHECK_THREADS) as pool:
        for item, result in zip(items, pool.map(_attempt, items), strict=True):
            if isinstance(result, Content):
                kept.append((item, result))
            elif skip_broken:
                broken.append(result.what)
            else:
                pool.shutdown(cancel_futures=True)
                raise result
    return kept, broken


def _attempt(item: RealImage) -> Content | DataError:
    """Return the error as a value, so that the first one in list order is the one reported."""
    try:
        return inspect(item)
    except DataError as error:
        return error


def _check_ids(items: Sequence[RealImage]) -> None:
    image_id, count = Counter(item.id for item in items).most_common(1)[0] if items else ("", 0)
    if count > 1:
        names = [item.image.name for item in items if item.id == image_id]
        raise DataError(
            f"id {image_id!r} belongs to {count} images: {names[0]} and {names[1]}",
            remedy="Rename one of them, or give the table an image_id column",
        )


def _check_labels(kept: Sequence[tuple[RealImage, Content]]) -> None:
    first: dict[str, RealImage] = {}
    for item, content in kept:
        other = first.setdefault(content.pixels_sha256, item)
        if other.label != item.label:
            raise DataError(
                f"one image under two classes: {other.image.name} is {other.label!r}, "
                f"{item.image.name} is {item.label!r}",
                remedy="Keep the right one and remove the other",
            )


def _unchanged(data: bytes, expected_sha256: str, stored: Stored) -> bytes:
    if sha256_hex(data) != expected_sha256:
        raise DataError(
            f"{stored.name} changed since the dataset was opened",
            remedy="Open the dataset again; its fingerprint is another one now",
        )
    return data
