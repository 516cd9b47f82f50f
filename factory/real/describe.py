"""What a real dataset holds, in figures and on one sheet, before anything is trained on it."""

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from factory.atomic import write_bytes, writing
from factory.errors import DataError
from factory.real.columns import likely_groups
from factory.real.dataset import NotRead, RealDataset
from factory.real.duplicates import merge_groups, near_duplicates
from factory.real.images import encode_png, square_mask
from factory.real.mask_values import number_objects, pooled, spoilt
from factory.real.scale import TOLERANCE
from factory.real.splits import PARTS, Split, make_split
from factory.real.stored import JoinedMasks
from factory.real.tables import METADATA, TABLES

OUTLINE = (0, 170, 60)
"""Colour of mask borders on the sheet."""
SHARES = {"train": 0.8, "val": 0.1, "test": 0.1}
"""How `factory real split` divides images unless it is told otherwise."""
THIN_IMAGES = 10
"""A class of fewer images is thin: a tenth of it, a part by default, is less than one image."""
MOST_FOLDS = 5
MOST_LIKELY_CLASSES = 12
"""A column of more values is hardly one of classes, where nobody said so."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Description:
    """Figures of one dataset; `asdict` gives plain JSON."""

    fingerprint: str
    num_images: int
    classes: dict[str, int]
    sizes_px: dict[str, int]
    """Images per size, "360x363", most frequent first."""
    grouped_by: dict[str, int]
    """Images per column or attribute that their group comes from; without one: no entry."""
    num_groups: int
    num_split_groups: int
    """Groups once near-duplicates have joined some: what a split divides."""
    num_masks: int
    num_joined_masks: int
    """Images whose mask is put together from several files."""
    mask_shares: dict[int, float]
    """Share of the pixels of all masks per value, as they are read."""
    masks_number_objects: bool
    """Whether they count objects: classes only by a rule."""
    reading: dict[str, str]
    """Rules that the caller gave ("masks": "object")."""
    read_as: dict[str, int]
    """Images per way of reading, where the file leaves it open."""
    fields_um: dict[str, int]
    """Images per side of their central square in micrometres, most frequent first; empty where no
    pixel size is known."""
    parts: dict[str, dict[str, int]]
    """Images per class and part of a split by default; empty where there can be none."""
    attributes: dict[str, dict[str, int]]
    """Per attribute the images per value."""
    duplicates: list[list[str]]
    """Ids that show the same picture, set by set."""
    conflicts: list[list[str]]
    """Those of the duplicates that are labelled as different classes."""
    not_read: list[NotRead]
    """What lies in the source besides, one entry per kind."""
    broken: list[str]
    faults: list[str]
    """What is wrong with files and rows that can be read."""
    like_masks: list[str]
    """Ids of images that hold as few colours as masks do."""
    warnings: list[str]

    @property
    def majority_rate(self) -> float:
        """Accuracy of always naming the largest class: the floor of every classifier."""
        return max(self.classes.values()) / self.num_images

    @property
    def imbalance(self) -> float:
        """Images of the largest class per image of the smallest."""
        return max(self.classes.values()) / max(1, min(self.classes.values()))


def describe(dataset: RealDataset) -> Description:
    """Return the figures of `dataset`; reads every image once to look for near-duplicates."""
    pairs = near_duplicates(dataset)
    groups = merge_groups(dataset.groups, pairs)
    duplicates = _sets(dataset.ids, pairs)
    label_of = dict(zip(dataset.ids, dataset.labels, strict=True))
    labels = Counter(dataset.labels)
    sizes = Counter(f"{c.width_px}x{c.height_px}" for c in dataset.contents)
    masks = pooled(content.mask_values for content in dataset.contents)
    total = sum(count.pixels for count in masks)
    by_default = _split_by_default(dataset, groups)
    warnings = [
        *about_masks(dataset),
        *_about_fields(dataset),
        *_thin(labels),
        *about_folders(dataset),
        *_about_names(dataset),
    ]
    if isinstance(by_default, Split):
        warnings += split_warnings(dataset, [by_default], groups)
    else:
        warnings += [f"a split as by default is not possible: {by_default}", *_folds(groups)]
    return Description(
        fingerprint=dataset.fingerprint,
        num_images=len(dataset),
        classes={name: labels[name] for name in dataset.class_names},
        sizes_px=dict(sizes.most_common()),
        grouped_by=grouped_by(dataset),
        num_groups=len(set(dataset.groups)),
        num_split_groups=len(set(groups)),
        num_masks=sum(item.mask is not None for item in dataset.items),
        num_joined_masks=sum(isinstance(item.mask, JoinedMasks) for item in dataset.items),
        masks_number_objects=_number_objects(dataset),
        mask_shares={count.value: count.pixels / total for count in masks},
        reading=dict(dataset.reading),
        fields_um=_fields(dataset),
        read_as=dict(Counter(c.read_as for c in dataset.contents if c.read_as).most_common()),
        parts=part_counts(dataset, by_default) if isinstance(by_default, Split) else {},
        attributes=_attribute_counts(dataset),
        duplicates=duplicates,
        conflicts=[ids for ids in duplicates if len({label_of[i] for i in ids}) > 1],
        not_read=list(dataset.not_read),
        broken=list(dataset.broken),
        faults=list(dataset.faults),
        like_masks=list(dataset.like_masks),
        warnings=warnings,
    )


def _fields(dataset: RealDataset) -> dict[str, int]:
    told = ("unknown" if field is None else f"{field:.4g}" for field in dataset.fields_um)
    found = Counter(told)
    return {} if set(found) == {"unknown"} else dict(found.most_common())


def _number_objects(dataset: RealDataset) -> bool:
    held = [content.mask_values for content in dataset.contents]
    jpeg = any(content.mask_jpeg for content in dataset.contents)
    return number_objects(held) and not spoilt(pooled(held), jpeg=jpeg)


def about_masks(dataset: RealDataset) -> list[str]:
    """Return what is told of masks that number objects: they are no classes to learn."""
    if not _number_objects(dataset):
        return []
    return [
        "the masks seem to number objects, another number in each: --masks object, in this and"
        " every later command, takes all of them as one class"
    ]


def _about_fields(dataset: RealDataset) -> list[str]:
    """Return what is told of images that show fields of several sizes."""
    known = [field for field in dataset.fields_um if field is not None]
    if len(known) < len(dataset):
        return [f"{len(dataset) - len(known)} images have no pixel size"] if known else []
    if max(known) <= TOLERANCE * min(known):
        return []
    return [
        f"images show fields of {min(known):.4g} to {max(known):.4g} µm, all brought to one size:"
        f" objects of one size look different; --crop {min(known):.4g}um shows them alike"
    ]


def grouped_by(dataset: RealDataset) -> dict[str, int]:
    """Return how many images have their group from which column or attribute."""
    by = Counter(item.grouped_by or "group" for item in dataset.items if item.group)
    return dict(by.most_common())


def part_counts(dataset: RealDataset, split: Split) -> dict[str, dict[str, int]]:
    """Return the images of each class in each part of a split."""
    label_of = dict(zip(dataset.ids, dataset.labels, strict=True))
    counts = {part: Counter(label_of[i] for i in getattr(split, part)) for part in PARTS}
    return {name: {part: counts[part][name] for part in PARTS} for name in dataset.class_names}


def split_warnings(
    dataset: RealDataset, splits: Sequence[Split], groups: Sequence[str]
) -> list[str]:
    """Return what is thin about the parts of a split, or of folds, and what to do about it.

    Args:
        groups: what was divided, one per image: see `factory.real.duplicates.grouped`.
    """
    if len(splits) > 1:
        found = _poor_folds(dataset, splits)
    elif found := _poor_parts(dataset, splits[0]):
        found += _folds(groups)
    return [*_without_group(dataset), *found]


def _without_group(dataset: RealDataset) -> list[str]:
    """Return what is told of images that have no group where others have one."""
    without = [item.id for item in dataset.items if not item.group]
    if not without or len(without) == len(dataset):
        return []
    return [
        f"{len(without)} of {len(dataset)} images have no group ({'/'.join(grouped_by(dataset))}),"
        f" each is taken as one of its own: for example {without[0]}"
    ]


def _folds(groups: Sequence[str]) -> list[str]:
    """Return the proposal to cross-validate, where there are groups enough."""
    folds = min(MOST_FOLDS, len(set(groups)))
    if folds < 3:
        return []
    return [
        f"`factory real split` with --folds {folds} tests every image once, over {folds} splits:"
        " better for few images or patients"
    ]


def _poor_parts(dataset: RealDataset, split: Split) -> list[str]:
    """Return the parts without an image of some class, or of one group only."""
    found = []
    for part, names in missing_classes(dataset, split).items():
        if names:
            found.append(f"{part} holds no image of {', '.join(names)}")
        if (only := _only_group(dataset, getattr(split, part))) is not None:
            by = "/".join(grouped_by(dataset)) or "group"
            found.append(f"{part} holds one group only ({by} {only!r})")
    return found


def _poor_folds(dataset: RealDataset, splits: Sequence[Split]) -> list[str]:
    """Return the same of folds: a line a class, and how many folds lack it in which part."""
    missing = [missing_classes(dataset, split) for split in splits]
    found = []
    for name in dataset.class_names:
        counts = {part: sum(name in fold.get(part, ()) for fold in missing) for part in PARTS}
        if told := ", ".join(f"{part} of {n}" for part, n in counts.items() if n):
            found.append(f"{name}: no image in {told} of the {len(splits)} folds")
    for part in PARTS:
        alone = sum(_only_group(dataset, getattr(split, part)) is not None for split in splits)
        if alone:
            found.append(f"{part} holds one group only in {alone} of the {len(splits)} folds")
    return found


def missing_classes(dataset: RealDataset, split: Split) -> dict[str, list[str]]:
    """Return the classes of which a part that holds images has none, part by part."""
    counts = part_counts(dataset, split)
    shown = [name for name, row in counts.items() if any(row.values())]
    return {
        part: [name for name in shown if not counts[name][part]]
        for part in PARTS
        if getattr(split, part)
    }


def _only_group(dataset: RealDataset, ids: Sequence[str]) -> str | None:
    """Return the group of a part that holds a single one, where groups were given."""
    items = [dataset.items[dataset.index_of(i)] for i in ids]
    groups = {item.group for item in items}
    return groups.pop() if len(groups) == 1 and all(item.group for item in items) else None


def _split_by_default(dataset: RealDataset, groups: Sequence[str]) -> Split | DataError:
    try:
        return make_split(
            dataset=dataset.fingerprint,
            ids=dataset.ids,
            labels=dataset.labels,
            groups=groups,
            fractions=SHARES,
            seed=0,
        )
    except DataError as error:
        return error


def _thin(labels: Mapping[str, int]) -> list[str]:
    thin = [f"{name} {count}" for name, count in labels.items() if count < THIN_IMAGES]
    if not thin:
        return []
    return [
        f"fewer than {THIN_IMAGES} images are too few to learn a class from and to test on it:"
        f" {', '.join(thin)}; add images, or leave the class out"
    ]


def about_folders(dataset: RealDataset) -> list[str]:
    """Return what the folders below the classes may mean besides."""
    below = {
        tuple(image_id.split("/")[:2])
        for image_id, label in zip(dataset.ids, dataset.labels, strict=True)
        if image_id.startswith(f"{label}/") and image_id.count("/") > 1
    }
    example = ", ".join(sorted({folder for _, folder in below})[:3])
    if len(below) > 1 and len(dataset.class_names) == 1:
        return [
            f"all images are of one class, {dataset.class_names[0]!r}: if its folders ({example})"
            " are the classes, give that folder itself"
        ]
    alike = {tuple(sorted(n for top, n in below if top == name)) for name, _ in below}
    if len(alike) == 1 and len(min(alike)) > 1 and len(dataset.class_names) > 1:
        return [
            f"each class holds folders of the same names ({example}): if these are the classes,"
            f" {' and '.join(dataset.class_names[:2])} are parts, centres or patients; sort the"
            " images by class, and name the other in a column (metadata.csv)"
        ]
    if below and not grouped_by(dataset):
        return [
            f"folders below the classes ({example}) are not taken as groups: if they are patients,"
            " name them in a column (metadata.csv) and give --group"
        ]
    return []


def _about_names(dataset: RealDataset) -> list[str]:
    """Return what names of columns and classes speak of, though nobody said so."""
    found = []
    columns = dict.fromkeys(name for item in dataset.items for name in item.attributes)
    if not grouped_by(dataset) and (likely := likely_groups(list(columns))):
        found.append(
            f"images are not grouped, and column {likely[0]!r} speaks of patients, slides or"
            f" studies: pass --group {likely[0]} so that none is in train and test"
        )
    if len(dataset.class_names) == 1:
        found += _likely_classes(dataset)
        found += [
            f"{one.name} is not read: if it says of which class or patient images are, give it in"
            f" place of the folder, or call it {METADATA[0]}"
            for one in dataset.not_read
            if one.kind in TABLES
        ]
    folded: defaultdict[str, list[str]] = defaultdict(list)
    for name in dataset.class_names:
        folded[name.casefold()].append(name)
    found += [
        f"classes {' and '.join(map(repr, same))} differ in case alone: rename one if they are one"
        for same in folded.values()
        if len(same) > 1
    ]
    return found


def _likely_classes(dataset: RealDataset) -> list[str]:
    """Return the columns that may be the classes of images that are all of one."""
    counts = _attribute_counts(dataset)
    likely = [
        name
        for name, values in counts.items()
        if 1 < len(values) <= MOST_LIKELY_CLASSES and sum(values.values()) == len(dataset)
    ]
    plain = [name for name in likely if name not in likely_groups(likely)]
    return [
        f"all images are of one class, {dataset.class_names[0]!r}: if column {name!r}"
        f" ({', '.join(counts[name])}) holds the classes, pass --label {name}"
        for name in plain[:1]
    ]


def contact_sheet(
    dataset: RealDataset, path: Path, *, per_class: int = 10, tile_px: int = 96
) -> None:
    """Write a PNG with one row per class: evenly chosen images, mask borders drawn in green.

    Raises:
        OutputError: `path` cannot be written.
    """
    caption_px = 20
    row_px = tile_px + caption_px
    size = (per_class * tile_px, len(dataset.class_names) * row_px)
    sheet = Image.new("RGB", size, "white")
    pen, font = ImageDraw.Draw(sheet), ImageFont.load_default(13)
    for row, name in enumerate(dataset.class_names):
        members = [i for i, label in enumerate(dataset.labels) if label == name]
        pen.text((4, row * row_px + 2), f"{name}  ({len(members)})", fill="black", font=font)
        chosen = members[:: max(1, len(members) // per_class)][:per_class]
        for column, i in enumerate(chosen):
            tile = Image.fromarray(_tile(dataset, i, tile_px))
            sheet.paste(tile, (column * tile_px, row * row_px + caption_px))
    with writing(path):
        write_bytes(path, encode_png(np.asarray(sheet)))


def _tile(dataset: RealDataset, i: int, tile_px: int) -> NDArray[np.uint8]:
    """Return image `i` as a tile (tile_px, tile_px, 3) with its mask's borders."""
    pixels: NDArray[np.uint8] = dataset.array(tile_px, [dataset.ids[i]])[0]
    mask = dataset.mask(i)
    if mask is not None:
        small = square_mask(mask, tile_px)
        border = np.zeros(small.shape, bool)
        border[1:] |= small[1:] != small[:-1]
        border[:, 1:] |= small[:, 1:] != small[:, :-1]
        pixels[border] = OUTLINE
    return pixels


def _attribute_counts(dataset: RealDataset) -> dict[str, dict[str, int]]:
    counts: defaultdict[str, Counter[str]] = defaultdict(Counter)
    for attributes in dataset.attributes.values():
        for name, value in attributes.items():
            counts[name][value] += 1
    return {name: dict(counter.most_common()) for name, counter in counts.items()}


def _sets(ids: Sequence[str], pairs: Sequence[tuple[int, int]]) -> list[list[str]]:
    """Return the connected sets of ids that `pairs` link, each sorted."""
    members: defaultdict[str, list[str]] = defaultdict(list)
    for image_id, root in zip(ids, merge_groups(ids, pairs), strict=True):
        members[root].append(image_id)
    return sorted(sorted(found) for found in members.values() if len(found) > 1)
