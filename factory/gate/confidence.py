"""The confidence gate: an expert must see in the image the class that was asked for.

The expert must not be the judge of a study: what passed by its word would be graded by it.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, ClassVar

from pydantic import Field

from factory.arrays import Images, Masks
from factory.gate.gate import Gate, Judge, Score
from factory.gate.verdict import Verdict


class ConfidenceGate(Gate):
    """Which expert is asked, and the least probability of the class; null: scores only.

    An image of a class that the expert does not know passes without a score.
    """

    key: ClassVar[str] = "confidence"
    scores: ClassVar[tuple[Score, ...]] = (Score(gate="confidence", low="min_probability"),)
    heavy: ClassVar[bool] = True

    expert: str = Field(min_length=1)
    """Folder, see `factory expert`."""
    min_probability: Annotated[float, Field(ge=0, le=1)] | None = 0.5

    def open(self) -> Judge:
        """See `Gate`."""
        import torch

        from factory.device import own_device
        from factory.models.expert_file import load_expert

        expert, _ = load_expert(Path(self.expert).expanduser())
        device = own_device()
        expert = expert.to(device)
        names = expert.spec.class_names

        @torch.inference_mode()
        def judge(
            images: Images, _masks: Masks | None, classes: Sequence[str]
        ) -> list[list[Verdict]]:
            shown = torch.from_numpy(images).permute(0, 3, 1, 2).float().to(device) / 127.5 - 1
            found = expert(shown).softmax(1).cpu().tolist()
            return [
                [self._verdict(row[names.index(name)], names[row.index(max(row))], name)]
                if name in names
                else []
                for row, name in zip(found, classes, strict=True)
            ]

        return judge

    def check(self, _split_digest: str | None) -> None:
        """Raise ModelError unless the expert is there."""
        from factory.models.expert_file import read_notes

        read_notes(Path(self.expert).expanduser())

    def _verdict(self, score: float, seen: str, name: str) -> Verdict:
        low = self.min_probability is not None and score < self.min_probability
        reason = f"{name} at {score:.3f}, below {self.min_probability}; it sees {seen}"
        return Verdict(gate="confidence", score=score, reason=reason if low else "")
