"""Real images that a method is shown: of one split's train part only, named by their pixels."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from factory.errors import ConfigError, DataError
from factory.models.generator import Generator
from factory.real.dataset import RealDataset
from factory.real.images import square, square_mask
from factory.real.pixels import pixel_sha256
from factory.real.sources import open_dataset
from factory.real.splits import Split, check_dataset, load_split


@dataclass(frozen=True, kw_only=True)
class Reference:
    """One real image as a method sees it: its central square at the size that is drawn.

    `image` is (S, S, 3) uint8 RGB, `mask` (S, S) uint8 with the values as stored, or None.
    """

    id: str
    label: str
    image: NDArray[np.uint8]
    mask: NDArray[np.uint8] | None = None
    target: "Reference | None" = None
    """Another real image that leads the method, where its look is not to be the reference's own."""

    @cached_property
    def sha256(self) -> str:
        """Names the pixels as used, image and mask: what a recipe holds beside the id."""
        return pixel_sha256(self.image, self.mask)


@dataclass(frozen=True, kw_only=True)
class References:
    """The real images that may be shown. Small: pixels are read when asked for.

    Without `split` nothing is refused: what a redraw shows is held to its recipe's hash instead.
    """

    dataset: RealDataset
    split: Split | None = None

    @property
    def ids(self) -> tuple[str, ...]:
        """All that may be shown, sorted: the train part."""
        known = self.dataset.ids if self.split is None else self.split.train
        return tuple(sorted(known))

    def check(self, ids: Sequence[str]) -> None:
        """Refuse images that a method must not see.

        Raises:
            DataError: ids outside the split's train part, named.
        """
        allowed = set(self.ids)
        if refused := [image_id for image_id in ids if image_id not in allowed]:
            more = f" (and {len(refused) - 5} others)" if refused[5:] else ""
            raise DataError(
                f"{', '.join(refused[:5])}{more}: no image of the train part,"
                " and generation may see no other",
                remedy="Choose references of the split's train part",
            )

    def get(self, image_id: str, size_px: int, *, masks: bool) -> Reference:
        """Return one reference of side `size_px`, with its mask if `masks`.

        Raises:
            DataError: not to be shown, unreadable, or without the mask that is needed.
        """
        self.check([image_id])
        number = self.dataset.index_of(image_id)
        picture = square(Image.fromarray(self.dataset.image(number)), size_px)
        mask = self.dataset.mask(number) if masks else None
        if masks and mask is None:
            raise DataError(
                f"image {image_id!r} has no mask, and this method needs one",
                remedy="Choose references that have a mask, or another mode",
            )
        return Reference(
            id=image_id,
            label=self.dataset.items[number].label,
            image=np.asarray(picture),
            mask=None if mask is None else square_mask(mask, size_px),
        )

    def only(self, ids: Sequence[str]) -> "References":
        """Return these references alone, which travel to the workers.

        Raises:
            DataError: see `check`.
        """
        self.check(ids)
        return References(dataset=self.dataset.select(dict.fromkeys(ids)))


def open_references(data: str, split: str | None) -> References:
    """Open the real images at `data`, and the split file that says which may be shown.

    Raises:
        ConfigError: no split: without one nobody knows which images are held back.
        DataError: see `open_dataset` and `load_split`; a split of another dataset.
    """
    if split is None:
        raise ConfigError(
            f"references are taken from {data!r}, and no split says which of them may be seen",
            remedy="Set split: to the file that `factory real split` wrote",
        )
    dataset, divided = open_dataset(data), load_split(Path(split).expanduser())
    check_dataset(divided, dataset.fingerprint)
    return References(dataset=dataset, split=divided)


def check_generator(references: References, generator: Generator) -> None:
    """Refuse references whose split is another one than that of the generator's training.

    One split's train part holds images of another one's test part. Generators of other datasets
    are not concerned.

    Raises:
        DataError: one dataset, two splits.
    """
    split, learnt = references.split, generator.manifest.get("split_digest")
    if split is None or generator.manifest.get("dataset_fingerprint") != split.dataset:
        return
    if learnt is not None and learnt != split.digest:
        raise DataError(
            f"generator {generator.name!r} was trained under split {learnt}, the references"
            f" follow split {split.digest} of the same dataset",
            remedy="Give the split that the generator was trained under",
        )
