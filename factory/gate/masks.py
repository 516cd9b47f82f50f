"""Gates on masks alone: how much is foreground, and in how many objects. For rows with a mask."""

from collections.abc import Sequence
from typing import ClassVar, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, model_validator

from factory.arrays import Images, Mask, Masks
from factory.config import Share
from factory.gate.gate import Gate, Judge, Score
from factory.gate.verdict import Verdict


class MaskGates(Gate):
    """Thresholds of the mask gates; null switches a rejection off, its score stays.

    An empty mask is always rejected: a pair without an object teaches a segmenter nothing.
    """

    key: ClassVar[str] = "mask_gates"
    scores: ClassVar[tuple[Score, ...]] = (
        Score(gate="mask_area", low="min_area", high="max_area", parameter="area"),
        Score(gate="mask_parts", high="max_parts", parameter="parts"),
    )
    needed: ClassVar[bool] = True
    of_masks: ClassVar[bool] = True

    min_area: Share | None = 0.002
    max_area: Share | None = 0.95
    max_parts: int | None = Field(None, ge=1)

    @model_validator(mode="after")
    def _band(self) -> "MaskGates":
        low, high = self.min_area, self.max_area
        if low is not None and high is not None and low > high:
            raise ValueError(f"min_area {low} exceeds max_area {high}")
        return self

    @classmethod
    def default(cls) -> Self:
        """Return thresholds that refuse specks and covered frames."""
        return cls()

    def open(self) -> Judge:
        """See `Gate`."""

        def judge(
            images: Images, masks: Masks | None, _classes: Sequence[str]
        ) -> list[list[Verdict]]:
            if masks is None:
                return [[] for _ in images]
            return [self.judge(mask) for mask in masks]

        return judge

    def judge(self, mask: Mask) -> list[Verdict]:
        """Return the verdicts of the gates 'mask_area' and 'mask_parts' on class indices (H, W)."""
        area, parts = foreground_share(mask), count_parts(mask)
        many = self.max_parts is not None and parts > self.max_parts
        return [
            Verdict(gate="mask_area", score=area, reason=self._area_reason(area)),
            Verdict(
                gate="mask_parts",
                score=float(parts),
                reason=f"{parts} objects, more than {self.max_parts}" if many else "",
            ),
        ]

    def _area_reason(self, area: float) -> str:
        if area == 0:
            return "the mask is empty"
        if self.min_area is not None and area < self.min_area:
            return f"foreground share {area:.4g} below {self.min_area:.4g}"
        if self.max_area is not None and area > self.max_area:
            return f"foreground share {area:.4g} above {self.max_area:.4g}"
        return ""


def foreground_share(mask: Mask) -> float:
    """Return the share of pixels of any class but 0, 0..1."""
    return float((mask > 0).mean())


def count_parts(mask: Mask) -> int:
    """Return how many connected objects (8 neighbours) the foreground has."""
    from scipy import ndimage

    return int(ndimage.label(mask > 0, structure=np.ones((3, 3)))[1])


def dice(first: Mask, second: Mask) -> float:
    """Return the Dice overlap of two masks, the mean over the classes above 0 that either holds.

    1 for equal masks, also for two empty ones.
    Source: L. Dice, Measures of the Amount of Ecologic Association Between Species, 1945.
    """
    classes = sorted(({*np.unique(first).tolist()} | {*np.unique(second).tolist()}) - {0})
    overlaps = [_overlap(first == k, second == k) for k in classes]
    return sum(overlaps) / len(overlaps) if overlaps else 1.0


def _overlap(first: NDArray[np.bool_], second: NDArray[np.bool_]) -> float:
    return 2 * float((first & second).sum()) / float(first.sum() + second.sum())
