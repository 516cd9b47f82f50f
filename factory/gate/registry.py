"""The gates there are. A line here is all that a new one needs outside its own file."""

from collections.abc import Iterator

from factory.config import Frozen
from factory.gate.agreement import AgreementGate
from factory.gate.brightness import BrightnessGate
from factory.gate.confidence import ConfidenceGate
from factory.gate.copies import CopyGate
from factory.gate.gate import Gate, Score
from factory.gate.masks import MaskGates
from factory.gate.pixel import PixelGates

GATES: tuple[type[Gate], ...] = (
    *(PixelGates, MaskGates, AgreementGate, CopyGate),
    *(BrightnessGate, ConfidenceGate),
)


def sections(config: Frozen) -> Iterator[Gate]:
    """Yield the gates of a run's configuration, in the order of `GATES`."""
    for kind in GATES:
        if (section := getattr(config, kind.key)) is not None:
            yield section


def all_scores() -> tuple[Score, ...]:
    """Return the scores of all gates."""
    return tuple(score for kind in GATES for score in kind.scores)
