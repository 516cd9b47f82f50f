"""The agreement gate: a segmenter that never saw the mask must find the same object in the image.

The segmenter must not be the generator's own, nor the one that a study judges with.
"""

from collections.abc import Callable
from typing import Annotated

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field

from factory.gate.masks import dice
from factory.gate.verdict import Verdict

Segment = Callable[[NDArray[np.uint8]], NDArray[np.uint8]]
"""Images (B, H, W, 3) RGB to class indices (B, H, W)."""


class AgreementGate(BaseModel):
    """Which segmenter judges, and the least Dice; null: scores only."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    segmenter: str = Field(min_length=1)
    """Folder, see `factory.models.segmenter`."""
    min_dice: Annotated[float, Field(ge=0, le=1)] | None = 0.7

    def judge(
        self, images: NDArray[np.uint8], masks: NDArray[np.uint8], segment: Segment
    ) -> list[Verdict]:
        """Return the verdict of the gate 'agreement' on every pair.

        Args:
            images: (B, H, W, 3) RGB.
            masks: (B, H, W) class indices.
            segment: what finds the object in the image alone.
        """
        found = segment(images)
        return [self._verdict(dice(mask, other)) for mask, other in zip(masks, found, strict=True)]

    def _verdict(self, score: float) -> Verdict:
        low = self.min_dice is not None and score < self.min_dice
        reason = f"Dice {score:.3f} with the segmenter, below {self.min_dice}" if low else ""
        return Verdict(gate="agreement", score=score, reason=reason)
