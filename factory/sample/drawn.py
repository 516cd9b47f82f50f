"""What an engine draws: images, their masks where the method makes any, and facts about each."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from factory.errors import ModelError
from factory.gate.verdict import Verdict

COLUMNS = frozenset({"soft_label", "guidance_terms", "bridge_depth", "cluster_id"})
"""Columns of `samples` that a method may fill: everything else follows from the request."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Drawn:
    """A batch as drawn; row i of everything belongs to request i.

    Args:
        images: (B, H, W, 3) uint8, RGB.
        masks: (B, H, W) uint8 class indices, or None where the method draws no masks.
        columns: column of `COLUMNS` -> one plain JSON value per image.
        verdicts: what the method itself found wrong or right with each image; empty: nothing.

    Raises:
        ModelError: parts of different lengths or sizes, or a column that is not the method's.
    """

    images: NDArray[np.uint8]
    masks: NDArray[np.uint8] | None = None
    columns: Mapping[str, Sequence[Any]] = field(default_factory=dict)
    verdicts: Sequence[Sequence[Verdict]] = ()

    def __post_init__(self) -> None:
        count = len(self.images)
        parts = {**self.columns, **({"verdicts": self.verdicts} if self.verdicts else {})}
        odd = sorted(name for name, part in parts.items() if len(part) != count)
        odd += sorted(set(self.columns) - COLUMNS)
        if self.masks is not None and self.masks.shape != self.images.shape[:3]:
            odd.append("masks")
        if odd:
            raise ModelError(
                f"{count} images were drawn with {odd[0]!r} that do not fit them",
                remedy="This is a mistake of the method that drew them: report it",
            )

    def __len__(self) -> int:
        return len(self.images)

    def first(self, count: int) -> "Drawn":
        """Return the first `count` images: what is left when the padding is dropped."""
        return self.rows(range(count))

    def rows(self, numbers: Sequence[int]) -> "Drawn":
        """Return the images with these numbers, in this order."""
        chosen = list(numbers)
        return Drawn(
            images=self.images[chosen],
            masks=None if self.masks is None else self.masks[chosen],
            columns={name: [all_[i] for i in chosen] for name, all_ in self.columns.items()},
            verdicts=[self.verdicts[i] for i in chosen] if self.verdicts else (),
        )

    def mask(self, number: int) -> NDArray[np.uint8] | None:
        """Return the mask (H, W) of image `number`, or None."""
        return None if self.masks is None else self.masks[number]

    def facts(self, number: int) -> dict[str, Any]:
        """Return the columns of image `number`."""
        return {name: values[number] for name, values in self.columns.items()}

    def verdicts_of(self, number: int) -> Sequence[Verdict]:
        """Return the method's own verdicts on image `number`."""
        return self.verdicts[number] if self.verdicts else ()
