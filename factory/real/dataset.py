"""`RealDataset`: images, labels, masks, groups and attributes behind one fingerprint."""

import unicodedata
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import cached_property, partial

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from factory.digest import digest, sha256_hex
from factory.errors import DataError
from factory.real.depth import FULL, depth_bits
from factory.real.drawn import exported_near, mark_in
from factory.real.duplicates import Looks
from factory.real.images import decode, decode_mask, greatest_value, square, square_mask
from factory.real.mask_values import (
    JPEG,
    NO_MASKS,
    MaskRule,
    ValueCount,
    count_values,
    mask_rule,
    pooled,
    refusal,
    spoilt,
)
from factory.real.stored import ScaledBytes, Stored

FEW_COLOURS = 16
"""Pictures of 2 to so many colours are hardly photographs: masks are like that."""
CHECK_THREADS = 4
"""Pictures decoded at a time while a dataset is opened (Pillow lets go of the interpreter lock)."""


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
        return decode(self.encoded(i), name=self.items[i].image.name)

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
        return decode_mask(data, name=stored.name, rule=self.mask_rule)

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


def build_dataset(
    source: Iterable[Found],
    *,
    class_names: Sequence[str] | None = None,
    skip_broken: bool = False,
    keep_faults: bool = False,
    masks: str | None = None,
) -> RealDataset:
    """Read and check every image once and return the dataset.

    Args:
        source: images, what is not read, and what is wrong with single files or rows.
        class_names: the classes in order; the sorted labels when absent.
        skip_broken: leave undecodable images out and list them in `broken`.
        keep_faults: list all that is wrong in `broken` and `faults` instead of raising the first.
        masks: how mask values are read, see `mask_rule`; 'none': not at all.

    Raises:
        DataError: nothing left, an error that the source yielded, an id twice, the same image
            under two classes, a label outside `class_names`, (unless skipped) a broken image or
            mask, or masks spoilt by compression or resizing that no rule mends.
    """
    rule = mask_rule(masks)
    found = list(source)
    listed = [item for item in found if isinstance(item, RealImage)]
    faults = [item for item in found if isinstance(item, DataError)]
    not_read = [item for item in found if isinstance(item, NotRead)]
    if masks == NO_MASKS:
        not_read += [_mask_not_read(item) for item in listed if item.mask is not None]
        listed = [replace(item, mask=None) for item in listed]
    if not listed:
        raise (
            faults[0]
            if faults
            else DataError("the dataset lists no image", remedy="Check that it has rows")
        )
    listed, alike = _with_plain_names(listed)
    listed, twice = _without_double_ids(listed)
    faults += [*alike, *twice]
    if faults and not keep_faults:
        raise _first(faults)
    kept, broken = _read_all(listed, rule, skip_broken=skip_broken or keep_faults)
    if not kept:
        raise DataError(
            f"no image is left ({len(broken)} broken, the first: {broken[0].what})",
            remedy=f"Check that the URI is the right one. {broken[0].remedy}",
        )
    faults += [*_drawn(kept), *_contradictions(kept), *(() if rule else _spoilt_masks(kept))]
    if faults and not keep_faults:
        raise _first(faults)
    given = [composed(name.strip()) for name in class_names or ()]
    names = tuple(given or sorted({item.label for item, _ in kept}))
    unknown = sorted({item.label for item, _ in kept} - set(names))
    if unknown:
        raise DataError(
            f"class {unknown[0]!r} is none of {list(names)}", remedy="Correct the label or the list"
        )
    return RealDataset(
        items=tuple(item for item, _ in kept),
        contents=tuple(content for _, content in kept),
        class_names=names,
        broken=tuple(error.what for error in broken),
        faults=tuple(str(fault) for fault in faults),
        not_read=_by_kind(not_read),
        reading={"masks": rule.text} if rule else {},
    )


def inspect(item: RealImage, rule: MaskRule | None = None, *, depth_known: bool = False) -> Content:
    """Return what the bytes of `item` hold, after decoding image and mask once.

    Args:
        depth_known: that a picture of 16 bits fills them; unless it is, one whose values need
            fewer bits gives its greatest value alone (see `Content.greatest`).

    Raises:
        DataError: broken or unreadable, or a mask of another size.
    """
    data = item.image.read()
    greatest = greatest_value(data, name=item.image.name)
    if 0 < greatest < FULL and not depth_known:
        return Content(
            width_px=0, height_px=0, image_sha256="", pixels_sha256="", mask_sha256=None,
            greatest=greatest,
        )  # fmt: skip
    picture = decode(data, name=item.image.name)
    size_px = picture.size
    content = Content(
        width_px=size_px[0],
        height_px=size_px[1],
        image_sha256=sha256_hex(data),
        pixels_sha256=sha256_hex(repr(size_px).encode() + picture.tobytes()),
        mask_sha256=None,
        colours=len(picture.getcolors(FEW_COLOURS) or ()),
        read_as=item.read_as,
        drawn=item.drawn or mark_in(data),
        greatest=greatest,
    )
    if item.mask is None:
        return content
    stored = item.mask.read()
    mask = decode_mask(stored, name=item.mask.name, size_px=size_px, rule=rule)
    return replace(
        content,
        mask_sha256=sha256_hex(stored),
        mask_values=count_values(mask),
        mask_jpeg=stored.startswith(JPEG),
    )


def _read_all(
    items: Sequence[RealImage], rule: MaskRule | None, *, skip_broken: bool
) -> tuple[list[tuple[RealImage, Content]], list[DataError]]:
    """Inspect all images; those whose depth only the whole set tells are inspected again."""
    kept, broken = _inspected(items, partial(inspect, rule=rule), skip_broken=skip_broken)
    bits = depth_bits(max((content.greatest for _, content in kept), default=0))
    waiting = [_at_depth(item, bits) for item, content in kept if not content.image_sha256]
    known = partial(inspect, rule=rule, depth_known=True)
    again, too_dark = _inspected(waiting, known, skip_broken=skip_broken)
    done = {item.id: (item, content) for item, content in again}
    kept = [done.get(item.id, (item, content)) for item, content in kept]
    return [pair for pair in kept if pair[1].image_sha256], broken + too_dark


def _at_depth(item: RealImage, bits: int) -> RealImage:
    if bits == 16:
        return item
    scaled = ScaledBytes(stored=item.image, bits=bits)
    return replace(
        item, image=scaled, read_as=f"{bits} bits stored in 16, shown as 0..{2**bits - 1}"
    )


def _inspected(
    items: Sequence[RealImage], look: Callable[[RealImage], Content], *, skip_broken: bool
) -> tuple[list[tuple[RealImage, Content]], list[DataError]]:
    kept, broken = [], []
    with ThreadPoolExecutor(CHECK_THREADS) as pool:
        results = pool.map(partial(_attempt, look), items)
        for item, result in zip(items, results, strict=True):
            if isinstance(result, Content):
                kept.append((item, result))
            elif skip_broken:
                broken.append(result)
            else:
                pool.shutdown(cancel_futures=True)
                raise result
    return kept, broken


def _attempt(look: Callable[[RealImage], Content], item: RealImage) -> Content | DataError:
    """Return the error as a value, so that the first one in list order is the one reported."""
    try:
        return look(item)
    except DataError as error:
        return error


def composed(text: str) -> str:
    """Return text in NFC: a name means the same whatever file system spelled it."""
    return unicodedata.normalize("NFC", text)


def _with_plain_names(items: Sequence[RealImage]) -> tuple[list[RealImage], list[DataError]]:
    """Return images with trimmed labels and groups, and an error for classes that print alike."""
    spellings: defaultdict[str, dict[str, RealImage]] = defaultdict(dict)
    for item in items:
        seen = "".join(c for c in composed(item.label) if unicodedata.category(c) != "Cf")
        spellings[" ".join(seen.split())].setdefault(item.label, item)
    alike = [
        DataError(
            "classes print alike: "
            + ", ".join(f"{label!a} ({item.image.name})" for label, item in same.items()),
            remedy="Rename them: one class needs one spelling, two need names that differ",
        )
        for same in spellings.values()
        if len(same) > 1
    ]
    plain = [
        replace(
            item,
            id=composed(item.id),
            label=composed(item.label.strip()),
            group=composed(item.group.strip()),
        )
        for item in items
    ]
    return plain, alike


def _drawn(kept: Sequence[tuple[RealImage, Content]]) -> list[DataError]:
    """Return one error for all images that a model drew."""
    places = [getattr(item.image, "path", None) for item, _ in kept]
    exported = exported_near(path for path in places if path is not None)
    told = [(i.image.name, c.drawn or exported.get(c.image_sha256, "")) for i, c in kept]
    found = [(name, reason) for name, reason in told if reason]
    if not found:
        return []
    return [
        DataError(
            f"DRAWN, NOT REAL: {len(found)} of {len(kept)} images, for example {found[0][0]}"
            f" ({found[0][1]})",
            remedy="Take them out: what a model drew neither trains nor tests as real. Drawn images"
            " are compared from their catalog (`factory evaluate`)",
        )
    ]


def _without_double_ids(
    items: Sequence[RealImage],
) -> tuple[list[RealImage], list[DataError]]:
    """Return the first image of every id, and an error for each id of several."""
    by_id: defaultdict[str, list[RealImage]] = defaultdict(list)
    for item in items:
        by_id[item.id].append(item)
    faults = [
        DataError(
            f"id {image_id!r} belongs to {len(same)} images: {same[0].image.name} and "
            f"{same[1].image.name}",
            remedy="Rename one of them (NAME_mask if it is a mask), or give the table an image_id"
            " column",
        )
        for image_id, same in by_id.items()
        if len(same) > 1
    ]
    return [same[0] for same in by_id.values()], faults


def _contradictions(kept: Sequence[tuple[RealImage, Content]]) -> list[DataError]:
    """Return an error for each picture that stands under several classes."""
    by_pixels: defaultdict[str, dict[str, RealImage]] = defaultdict(dict)
    for item, content in kept:
        by_pixels[content.pixels_sha256].setdefault(item.label, item)
    return [
        DataError(
            "one image under two classes: "
            + ", ".join(f"{item.image.name} is {label!r}" for label, item in same.items()),
            remedy="Keep the right one and remove the other",
        )
        for same in by_pixels.values()
        if len(same) > 1
    ]


def _spoilt_masks(kept: Sequence[tuple[RealImage, Content]]) -> list[DataError]:
    counts = pooled(content.mask_values for _, content in kept)
    lost = spoilt(counts, jpeg=any(content.mask_jpeg for _, content in kept))
    return [refusal(counts, lost)] if lost else []


def _first(faults: Sequence[DataError]) -> DataError:
    """Return the first error, which says how many there are besides."""
    if len(faults) == 1:
        return faults[0]
    more = f"{len(faults) - 1} more like this: `factory real describe` lists all at once"
    return DataError(faults[0].what, remedy=f"{faults[0].remedy} ({more})")


def _mask_not_read(item: RealImage) -> NotRead:
    return NotRead(kind="mask", name="" if item.mask is None else item.mask.name)


def _by_kind(not_read: Iterable[NotRead]) -> tuple[NotRead, ...]:
    """Return one entry per kind, most frequent first, with the first of its names."""
    counts: Counter[str] = Counter()
    names: dict[str, str] = {}
    for one in not_read:
        counts[one.kind] += one.count
        names.setdefault(one.kind, one.name)
    return tuple(
        NotRead(kind=kind, name=names[kind], count=count) for kind, count in counts.most_common()
    )


def _unchanged(data: bytes, expected_sha256: str, stored: Stored) -> bytes:
    if sha256_hex(data) != expected_sha256:
        raise DataError(
            f"{stored.name} changed since the dataset was opened",
            remedy="Open the dataset again; its fingerprint is another one now",
        )
    return data
