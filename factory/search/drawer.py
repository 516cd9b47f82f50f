"""Draws what trials lack, through the line that all images go through."""

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from catalog.place import Where
from catalog.sink import BatchFile
from factory.sample.batches import Kept, drawn_by_one
from factory.sample.config import GenerateConfig, StreamConfig
from factory.sample.pool import Pool
from factory.sample.prepare import Run, prepare
from factory.sample.run import RunProgress, execute
from factory.terminal import duration, rate


class Drawer:
    """Draws what trials lack, one after another: nothing twice, with what it has loaded once."""

    def __init__(self, catalog: Where, *, actors: int = 0, gpus_per_actor: float = 0.0) -> None:
        """`actors`: that sample, at most; 0: in this process, which needs no other core."""
        self._catalog = catalog
        self.pool = Pool(actors, gpus=gpus_per_actor) if actors else None
        """What samples beside this process."""
        self.kept = Kept()
        """What this process has loaded."""
        self._stream = self.pool.stream if self.pool else self._here
        self._told: str | None = None

    def begin(self) -> None:
        """Return when what draws has what it needs: trials that come later take what is left."""
        if self.pool is not None:
            self.pool.begin()

    def draw(self, config: GenerateConfig) -> tuple[str, int]:
        """Publish what the run of `config` lacks; return the run and how many were drawn now."""
        run = prepare(config, self._catalog)
        drawn = 0
        for progress in execute(run, stream=self._stream):
            drawn = progress.drawn
            self._told = _line(progress)
        self._told = None
        return run.run_id, drawn

    def _here(
        self, run: Run, indices: Sequence[int] | NDArray[np.int64], _config: StreamConfig
    ) -> Iterator[BatchFile]:
        yield from drawn_by_one(run, indices, self.kept)

    def progress(self) -> str | None:
        """Return a line on the drawing that goes on; None: nothing is drawn."""
        return self._told


def _line(progress: RunProgress) -> str:
    done, eta = progress.published + progress.drawn, progress.eta_seconds
    left = "" if eta is None else f", {duration(eta)} left"
    speed = f"{rate(progress.images_per_second)} images/s"
    return f"drawing {progress.run_id}: {done}/{progress.requested} images ({speed}{left})"
