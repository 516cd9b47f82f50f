"""A recorder is told what a run does; where nobody asked for reports, it forgets it at once.

The run knows nothing of Prometheus, log files or lineage servers: it calls these few methods.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # `factory --help` need not wait for Arrow
    from catalog.sink import BatchFile


@dataclass(frozen=True, slots=True, kw_only=True)
class RunInfo:
    """What is known of a submission before its first image. No secret: it is published."""

    run_id: str
    catalog_uri: str
    model_id: str
    model_name: str
    config_digest: str
    data: str | None
    num_requested: int
    num_published: int
    num_batches: int
    """Batches that this submission has to draw."""


class Recorder:
    """Does nothing, in the same places in which others report."""

    def begun(self, run: RunInfo) -> None:
        """The run starts or goes on."""

    def drawn(self, file: "BatchFile", *, left: int, waiting: int) -> None:
        """A batch was drawn, judged and written; `left` are to be drawn, `waiting` to be published.

        An image that several gates rejected counts for each of them.
        """

    def committed(self, files: Sequence["BatchFile"], *, seconds: float) -> None:
        """Batches were published in one commit."""

    def retried(self) -> None:
        """Another writer was faster: the commit is tried again."""

    def completed(self, *, version: int | None) -> None:
        """Every image is published; `version` is that of `samples`."""

    def failed(self, error: BaseException) -> None:
        """The run ended early; what was published stays."""


NOTHING = Recorder()
"""The recorder of a run that nobody watches."""


@dataclass(frozen=True, slots=True)
class Several(Recorder):
    """Tells every one of its recorders, in order."""

    recorders: Sequence[Recorder]

    def begun(self, run: RunInfo) -> None:
        """Tell all."""
        for each in self.recorders:
            each.begun(run)

    def drawn(self, file: "BatchFile", *, left: int, waiting: int) -> None:
        """Tell all."""
        for each in self.recorders:
            each.drawn(file, left=left, waiting=waiting)

    def committed(self, files: Sequence["BatchFile"], *, seconds: float) -> None:
        """Tell all."""
        for each in self.recorders:
            each.committed(files, seconds=seconds)

    def retried(self) -> None:
        """Tell all."""
        for each in self.recorders:
            each.retried()

    def completed(self, *, version: int | None) -> None:
        """Tell all."""
        for each in self.recorders:
            each.completed(version=version)

    def failed(self, error: BaseException) -> None:
        """Tell all."""
        for each in self.recorders:
            each.failed(error)
