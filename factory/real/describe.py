"""What a real dataset holds, in figures and on one sheet, before anything is trained on it."""

from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from factory.atomic import write_bytes, writing
from factory.real.dataset import RealDataset
from factory.real.duplicates import merge_groups, near_duplicates
from factory.real.images import encode_png, square_mask

OUTLINE = (0, 170, 60)
"""Colour of mask borders on the sheet."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Description:
    """Figures of one dataset; `asdict` gives plain JSON."""

    fingerprint: str
    num_images: int
    classes: dict[str, int]
    sizes_px: dict[str, int]
    """Images per size, "360x363", most frequent first."""
    num_groups: int
    num_split_groups: int
    """Groups once near-duplicates have joined some: what a split divides."""
    num_masks: int
    attributes: dict[str, dict[str, int]]
    """Per attribute the images per value."""
    duplicates: list[list[str]]
    """Ids that show the same picture, set by set."""
    conflicts: list[list[str]]
    """Those of the duplicates that are labelled as different classes."""
    broken: list[str]

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
    duplicates = _sets(dataset.ids, pairs)
    label_of = dict(zip(dataset.ids, dataset.labels, strict=True))
    labels = Counter(dataset.labels)
    sizes = Counter(f"{c.width_px}x{c.height_px}" for c in dataset.contents)
    return Description(
        fingerprint=dataset.fingerprint,
        num_images=len(dataset),
        classes={name: labels[name] for name in dataset.class_names},
        sizes_px=dict(sizes.most_common()),
        num_groups=len(set(dataset.groups)),
        num_split_groups=len(set(merge_groups(dataset.groups, pairs))),
        num_masks=sum(item.mask is not None for item in dataset.items),
        attributes=_attribute_counts(dataset),
        duplicates=duplicates,
        conflicts=[ids for ids in duplicates if len({label_of[i] for i in ids}) > 1],
        broken=list(dataset.broken),
    )


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
