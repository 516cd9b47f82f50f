"""Draws what trials lack, through the line that all images go through."""

from factory.config import GenerateConfig
from factory.sample.run import execute, prepare
from factory.sample.stream import draw_here, stream_batches


class Drawer:
    """Draws what trials lack, one after another: nothing twice, the generator stays loaded."""

    def __init__(self, catalog_uri: str, storage: dict[str, str] | None, *, on_ray: bool) -> None:
        """`on_ray`: through sampling actors; else in this process, which needs no other core."""
        self._uri, self._storage = catalog_uri, storage
        self._stream = stream_batches if on_ray else draw_here

    def draw(self, config: GenerateConfig) -> tuple[str, int]:
        """Publish what the run of `config` lacks; return the run and how many were drawn now."""
        run = prepare(config, self._uri, storage_options=self._storage)
        drawn = 0
        for progress in execute(run, stream=self._stream):
            drawn = progress.drawn
        return run.run_id, drawn
