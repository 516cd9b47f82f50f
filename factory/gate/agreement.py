"""The agreement gate: a segmenter that never saw the mask must find the same object in the image.

The segmenter must not be the generator's own, nor the one that a study judges with.
"""

from collections.abc import Callable, Sequence
from typing import Annotated, ClassVar

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from factory.arrays import Images, Masks
from factory.gate.gate import Gate, Judge, Score
from factory.gate.masks import dice
from factory.gate.verdict import Verdict

Segment = Callable[[NDArray[np.uint8]], NDArray[np.uint8]]
"""Images (B, H, W, 3) RGB to class indices (B, H, W)."""


class AgreementGate(Gate):
    """Which segmenter judges, and the least Dice; null: scores only."""

    key: ClassVar[str] = "agreement"
    scores: ClassVar[tuple[Score, ...]] = (Score(gate="agreement", low="min_dice"),)
    of_masks: ClassVar[bool] = True
    heavy: ClassVar[bool] = True

    segmenter: str = Field(min_length=1)
    """Folder, see `factory.models.segmenter`."""
    min_dice: Annotated[float, Field(ge=0, le=1)] | None = 0.7

    def open(self) -> Judge:
        """See `Gate`."""
        from factory.models.segmenter import load_segmenter

        segment = load_segmenter(self.segmenter)

        def judge(
            images: Images, masks: Masks | None, _classes: Sequence[str]
        ) -> list[list[Verdict]]:
            if masks is None:
                return [[] for _ in images]
            return [[verdict] for verdict in self.judge(images, masks, segment)]

        return judge

    def check(self, _split_digest: str | None) -> None:
        """Raise ModelError unless the segmenter is there."""
        from factory.models.segmenter import read_facts

        read_facts(self.segmenter)

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
