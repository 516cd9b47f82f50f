"""`build_dataset`: what a source finds, read and checked once, as a `RealDataset`."""

import unicodedata
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial

from factory.digest import sha256_hex
from factory.errors import DataError
from factory.real.dataset import (
    FEW_COLOURS,
    Content,
    Found,
    NotRead,
    RealDataset,
    RealImage,
    composed,
    cropped,
    cropped_mask,
)
from factory.real.depth import FULL, depth_bits
from factory.real.drawn import exported_near, mark_in
from factory.real.field import Crop, crop_rule
from factory.real.images import decode, decode_mask, greatest_value
from factory.real.mask_values import (
    JPEG,
    NO_MASKS,
    MaskRule,
    count_values,
    mask_rule,
    pooled,
    refusal,
    spoilt,
)
from factory.real.stored import ScaledBytes

CHECK_THREADS = 4
"""Pictures decoded at a time while a dataset is opened (Pillow lets go of the interpreter lock)."""


def build_dataset(
    source: Iterable[Found],
    *,
    class_names: Sequence[str] | None = None,
    skip_broken: bool = False,
    keep_faults: bool = False,
    masks: str | None = None,
    crop: str | None = None,
    pixel_size_um: float | None = None,
) -> RealDataset:
    """Read and check every image once and return the dataset.

    Args:
        source: images, what is not read, and what is wrong with single files or rows.
        class_names: the classes in order; the sorted labels when absent.
        skip_broken: leave undecodable images out and list them in `broken`.
        keep_faults: list all that is wrong in `broken` and `faults` instead of raising the first.
        masks: how mask values are read, see `mask_rule`; 'none': not at all.
        crop: the central part of every frame that is shown, see `crop_rule`.
        pixel_size_um: of all images, whatever the source says.

    Raises:
        DataError: nothing left, an error that the source yielded, an id twice, the same image
            under two classes, a label outside `class_names`, (unless skipped) a broken image or
            mask, or masks spoilt by compression or resizing that no rule mends.
    """
    rule, part = mask_rule(masks), crop_rule(crop)
    found = list(source)
    listed = [item for item in found if isinstance(item, RealImage)]
    faults = [item for item in found if isinstance(item, DataError)]
    not_read = [item for item in found if isinstance(item, NotRead)]
    if masks == NO_MASKS:
        not_read += [_mask_not_read(item) for item in listed if item.mask is not None]
        listed = [replace(item, mask=None) for item in listed]
    if pixel_size_um is not None:
        listed = [replace(item, pixel_size_um=pixel_size_um) for item in listed]
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
    kept, broken = _read_all(
        listed, partial(inspect, rule=rule, crop=part), skip_broken=skip_broken or keep_faults
    )
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
        reading=({"masks": rule.text} if rule else {}) | ({"crop": part.text} if part else {}),
    )


def inspect(
    item: RealImage,
    rule: MaskRule | None = None,
    crop: Crop | None = None,
    *,
    depth_known: bool = False,
) -> Content:
    """Return what the bytes of `item` hold, after decoding image and mask once.

    Args:
        rule: how values of its mask are read.
        crop: the part of it that is shown; sizes and pixels are of that part.
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
    whole_px = picture.size
    picture = cropped(picture, crop, item)
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
    mask = decode_mask(stored, name=item.mask.name, size_px=whole_px, rule=rule)
    return replace(
        content,
        mask_sha256=sha256_hex(stored),
        mask_values=count_values(cropped_mask(mask, crop, item)),
        mask_jpeg=stored.startswith(JPEG),
    )


def _read_all(
    items: Sequence[RealImage], look: Callable[..., Content], *, skip_broken: bool
) -> tuple[list[tuple[RealImage, Content]], list[DataError]]:
    """Inspect all images; those whose depth only the whole set tells are inspected again."""
    kept, broken = _inspected(items, look, skip_broken=skip_broken)
    bits = depth_bits(max((content.greatest for _, content in kept), default=0))
    waiting = [_at_depth(item, bits) for item, content in kept if not content.image_sha256]
    known = partial(look, depth_known=True)
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
