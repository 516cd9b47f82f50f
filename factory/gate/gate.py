"""What a gate is: a section of a run's configuration that judges what was drawn.

A gate is one file here and one line of `registry.GATES`. From it follow its key of the
configuration, the columns of its scores in `samples`, its part of a run's name, the checks before a
run, and its rows, charts and filters in the gallery.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Self

from factory.arrays import Images, Masks
from factory.config import Frozen
from factory.gate.verdict import Verdict

Judge = Callable[[Images, Masks | None, Sequence[str]], list[list[Verdict]]]
"""Images, their masks, None where none are drawn, and the class asked for in each, to a list of
verdicts for every image."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Score:
    """A score that a gate gives every image."""

    gate: str
    """Name in verdicts and reasons."""
    low: str | None = None
    high: str | None = None
    """Keys of the gate's section that bound it."""
    parameter: str = ""
    """Name in the gallery's addresses; empty: that of the gate."""

    @property
    def column(self) -> str:
        """Where `samples` holds it."""
        return f"{self.gate}_score"


class Gate(Frozen):
    """The section of a run's configuration: thresholds; and what judges by them."""

    key: ClassVar[str]
    """Of the configuration."""
    scores: ClassVar[tuple[Score, ...]]
    needed: ClassVar[bool] = False
    """Whether the section may not be null."""
    of_masks: ClassVar[bool] = False
    """Whether it says something only where masks are drawn."""
    heavy: ClassVar[bool] = False
    """Whether it needs a network or training images: it then judges where images are drawn, which
    may have a GPU, not where they are encoded."""

    @classmethod
    def default(cls) -> Self | None:
        """Return the section of a configuration that does not name it; None: no such gate."""
        return None

    def of(self, _folder: Path) -> Self | None:
        """Return the gate as it judges what the generator in a folder draws; None: it cannot."""
        return self

    def open(self) -> Judge:
        """Return what judges a batch; what it needs is loaded now, once for every worker.

        Raises:
            ModelError: what it needs is missing or damaged.
        """
        raise NotImplementedError

    def check(self, _split_digest: str | None) -> None:
        """Raise unless what the gate needs is there, before anything is drawn.

        Args:
            _split_digest: of the split that the generator learnt from; None: not known.

        Raises:
            ModelError: missing or damaged.
            ConfigError: made for another generator.
        """
