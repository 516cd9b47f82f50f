"""Draws what trials lack, through the line that all images go through."""

from catalog.place import Where
from factory.sample.batches import draw_here
from factory.sample.config import GenerateConfig
from factory.sample.prepare import prepare
from factory.sample.run import RunProgress, execute
from factory.sample.stream import stream_batches
from factory.terminal import duration, rate


class Drawer:
    """Draws what trials lack, one after another: nothing twice."""

    def __init__(self, catalog: Where, *, actors: int = 0) -> None:
        """`actors`: that sample, at most; 0: in this process, which needs no other core."""
        self._catalog, self._actors = catalog, actors
        self._stream = stream_batches if actors else draw_here
        self._told: str | None = None

    def draw(self, config: GenerateConfig) -> tuple[str, int]:
        """Publish what the run of `config` lacks; return the run and how many were drawn now."""
        run = prepare(self._within(config), self._catalog)
        drawn = 0
        for progress in execute(run, stream=self._stream):
            drawn = progress.drawn
            self._told = _line(progress)
        self._told = None
        return run.run_id, drawn

    def _within(self, config: GenerateConfig) -> GenerateConfig:
        if not self._actors:
            return config
        stream = config.stream.model_copy(update={"actors": self._actors})
        return config.model_copy(update={"stream": stream})

    def progress(self) -> str | None:
        """Return a line on the drawing that goes on; None: nothing is drawn."""
        return self._told


def _line(progress: RunProgress) -> str:
    done, eta = progress.published + progress.drawn, progress.eta_seconds
    left = "" if eta is None else f", {duration(eta)} left"
    speed = f"{rate(progress.images_per_second)} images/s"
    return f"drawing {progress.run_id}: {done}/{progress.requested} images ({speed}{left})"
