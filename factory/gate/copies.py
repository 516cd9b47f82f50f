"""The copy gate: no drawn image nearer to a training image than unseen real images are."""

from collections.abc import Callable, Sequence
from typing import Annotated, ClassVar

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from factory.gate.gate import Gate, Images, Judge, Masks, Score
from factory.gate.verdict import Verdict
from factory.measure.bank_file import Resemblance, check_bank

Compare = Callable[[NDArray[np.uint8]], Sequence[Resemblance]]
"""Images (B, H, W, 3) RGB to what they resemble most."""


class CopyGate(Gate):
    """Which bank of training images is looked up, and the least ratio; null: scores only."""

    key: ClassVar[str] = "copies"
    scores: ClassVar[tuple[Score, ...]] = (Score(gate="copy", low="min_ratio"),)
    heavy: ClassVar[bool] = True

    bank: str = Field(min_length=1)
    """Folder, see `factory.measure.bank`."""
    min_ratio: Annotated[float, Field(ge=0)] | None = 1.0

    def open(self) -> Judge:
        """See `Gate`."""
        from factory.measure.bank import load_bank

        compare = load_bank(self.bank)

        def judge(
            images: Images, _masks: Masks | None, _classes: Sequence[str]
        ) -> list[list[Verdict]]:
            return [[verdict] for verdict in self.judge(images, compare)]

        return judge

    def check(self, split_digest: str | None) -> None:
        """Raise unless there is a bank, of the generator's split: see `check_bank`."""
        check_bank(self.bank, split_digest)

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
