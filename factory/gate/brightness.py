"""The brightness gate: mean luminance within the band of real images of the class.

Feature-Aligned Diffusion keeps what it draws by such a band, typed in by hand for each class; here
it is measured on the images that a generator learnt from.
"""

from collections.abc import Mapping, Sequence
from typing import ClassVar

from pydantic import Field

from factory.arrays import Images, Masks
from factory.config import Share
from factory.gate.gate import Gate, Judge, Score
from factory.gate.verdict import Verdict
from factory.measure.bank_file import brightness, check_bank, read_brightness


class BrightnessGate(Gate):
    """Bounds of the mean luminance, 0..1; null: none, the score stays."""

    key: ClassVar[str] = "brightness"
    scores: ClassVar[tuple[Score, ...]] = (
        Score(gate="brightness", low="min_brightness", high="max_brightness"),
    )

    min_brightness: Share | None = None
    """For every class."""
    max_brightness: Share | None = None
    bank: str | None = None
    """Folder that `factory bank` wrote: each class then has a band of its own beside the bounds."""
    deviations: float = Field(3.0, gt=0)
    """Half the width of that band, in standard deviations of the real images of the class."""

    def open(self) -> Judge:
        """See `Gate`."""
        bands = {} if self.bank is None else self._bands(read_brightness(self.bank))

        def judge(
            images: Images, _masks: Masks | None, classes: Sequence[str]
        ) -> list[list[Verdict]]:
            scores = brightness(images)
            return [
                [self._verdict(float(score), name, bands.get(name))]
                for score, name in zip(scores, classes, strict=True)
            ]

        return judge

    def check(self, split_digest: str | None) -> None:
        """Raise unless the bank, if one is named, is there and knows brightness."""
        if self.bank is not None:
            check_bank(self.bank, split_digest)
            read_brightness(self.bank)

    def _bands(self, real: Mapping[str, tuple[float, float]]) -> dict[str, tuple[float, float]]:
        return {
            name: (mean - self.deviations * deviation, mean + self.deviations * deviation)
            for name, (mean, deviation) in real.items()
        }

    def _verdict(self, score: float, name: str, band: tuple[float, float] | None) -> Verdict:
        low, high = self.min_brightness, self.max_brightness
        reason = ""
        if band is not None and not band[0] <= score <= band[1]:
            reason = f"brightness {score:.3f}, real {name} {band[0]:.3f} to {band[1]:.3f}"
        if (low is not None and score < low) or (high is not None and score > high):
            bounds = f"{'' if low is None else low} to {'' if high is None else high}"
            reason = f"brightness {score:.3f} outside {bounds}"
        return Verdict(gate="brightness", score=score, reason=reason)
