"""What a gate says of one image, and what all gates together say."""

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """One gate's answer. `reason` is empty when the image passed."""

    gate: str
    score: float | None
    """Goes into the column '<gate>_score'; None: it is told elsewhere."""
    reason: str = ""

    @property
    def passed(self) -> bool:
        """Whether this gate lets the image through."""
        return not self.reason


def status_of(verdicts: Sequence[Verdict]) -> str:
    """Return the catalog's gate_status: 'accepted' if every gate passed, else 'rejected'."""
    return "accepted" if all(verdict.passed for verdict in verdicts) else "rejected"
