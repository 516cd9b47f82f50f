"""The copy gate: no drawn image nearer to a training image than unseen real images are."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, ClassVar, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from factory.arrays import Images, Masks
from factory.gate.gate import Gate, Judge, Score
from factory.gate.verdict import Verdict
from factory.measure.bank_file import Resemblance, check_bank
from factory.models.generator import RINGS_FILE

Compare = Callable[[NDArray[np.uint8]], Sequence[Resemblance]]
"""Images (B, H, W, 3) RGB to what they resemble most."""
OWN = "own"


class CopyGate(Gate):
    """Which bank of training images is looked up, and the least ratio; null: scores only."""

    key: ClassVar[str] = "copies"
    scores: ClassVar[tuple[Score, ...]] = (Score(gate="copy", low="min_ratio"),)
    heavy: ClassVar[bool] = True

    bank: str = Field(OWN, min_length=1)
    """Folder that `factory bank` wrote; 'own': what came with the generator, if anything did."""
    min_ratio: Annotated[float, Field(ge=0)] | None = 1.0

    @classmethod
    def default(cls) -> Self | None:
        """On, wherever a generator brings what it needs: see `factory.measure.rings`."""
        return cls()

    def of(self, folder: Path) -> Self | None:
        """See `Gate`: the bank of the generator itself is in its folder."""
        if self.bank != OWN:
            return self
        return self.model_copy(update={"bank": str(folder)}) if _holds(folder) else None

    def open(self) -> Judge:
        """See `Gate`."""
        compare = _opened(self.bank)

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


def _holds(folder: Path) -> bool:
    return (folder / RINGS_FILE).is_file()


def _opened(bank: str) -> Compare:
    """Return what compares images with a bank of either kind."""
    from factory.measure.bank import load_bank
    from factory.measure.rings import RingBank

    folder = Path(bank).expanduser()
    return RingBank.load(folder / RINGS_FILE) if _holds(folder) else load_bank(folder)
