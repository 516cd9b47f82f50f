"""The copy gate: no drawn image nearer to a training image than unseen real images are."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Annotated

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field

from factory.gate.verdict import Verdict


@dataclass(frozen=True, slots=True, kw_only=True)
class Resemblance:
    """How near an image comes to the nearest training image."""

    ratio: float
    """Its distance, in shares of the one below which 1 % of unseen real images lie: the least of
    all spaces."""
    space: str
    """Where that is."""
    image_id: str
    """Of the training image."""


Compare = Callable[[NDArray[np.uint8]], Sequence[Resemblance]]
"""Images (B, H, W, 3) RGB to what they resemble most."""


class CopyGate(BaseModel):
    """Which bank of training images is looked up, and the least ratio; null: scores only."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    bank: str = Field(min_length=1)
    """Folder, see `factory.evaluate.copy_bank`."""
    min_ratio: Annotated[float, Field(ge=0)] | None = 1.0

    def judge(self, images: NDArray[np.uint8], compare: Compare) -> list[Verdict]:
        """Return the verdict of the gate 'copy' on every image (B, H, W, 3)."""
        return [self._verdict(found) for found in compare(images)]

    def _verdict(self, found: Resemblance) -> Verdict:
        near = self.min_ratio is not None and found.ratio < self.min_ratio
        reason = (
            f"{found.ratio:.2f} of the distance that unseen real images keep in {found.space},"
            f" to {found.image_id}"
            if near
            else ""
        )
        return Verdict(gate="copy", score=found.ratio, reason=reason)
