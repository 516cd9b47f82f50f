"""A sampler that costs nothing, for what is measured about everything around it."""

from functools import cached_property

import numpy as np

from factory.sample.batches import SampleActor
from factory.sample.drawn import Drawn
from factory.sample.fingerprint import engine_fingerprint
from factory.sample.plan import Batch

SIZE_PX = 16


class FreeEngine:
    """Draws in no time: noise from the image's seed and number, as any order must give it."""

    device = "cpu"

    def __init__(self) -> None:
        self.fingerprint = engine_fingerprint("cpu", "float32")

    def draw(self, batch: Batch) -> Drawn:
        """Return images (B, 16, 16, 3)."""
        first = batch.requests[0]
        noise = np.random.Generator(np.random.Philox(key=[first.recipe.seed, first.index]))
        return Drawn(
            images=noise.integers(0, 256, (len(batch.requests), SIZE_PX, SIZE_PX, 3), np.uint8)
        )


class FreeActor(SampleActor):
    """The stream's actor around that engine."""

    @cached_property
    def _engine(self) -> FreeEngine:  # type: ignore[override]
        return FreeEngine()
