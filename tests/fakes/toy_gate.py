"""A gate that is one file: how red an image is."""

from collections.abc import Sequence
from typing import ClassVar

from factory.arrays import Images, Masks
from factory.gate.gate import Gate, Judge, Score
from factory.gate.verdict import Verdict


class RednessGate(Gate):
    """The greatest mean of the red channel, 0..1; null: scores only."""

    key: ClassVar[str] = "redness"
    scores: ClassVar[tuple[Score, ...]] = (Score(gate="red", high="max_red"),)

    max_red: float | None = 0.5

    def open(self) -> Judge:
        def judge(
            images: Images, _masks: Masks | None, _classes: Sequence[str]
        ) -> list[list[Verdict]]:
            reds = images[..., 0].mean(axis=(1, 2)) / 255
            return [[Verdict(gate="red", score=float(r), reason=self._reason(r))] for r in reds]

        return judge

    def _reason(self, red: float) -> str:
        over = self.max_red is not None and red > self.max_red
        return f"redness {red:.3f} above {self.max_red}" if over else ""
