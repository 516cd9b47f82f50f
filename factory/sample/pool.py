"""Sampling actors that outlive a run: what they loaded stays for the next one.

    batch numbers -> a sampler that is free -> encode, gate, write (CPU tasks) -> files

Ray Data's pool goes with its run, which suits one of a million images. A search draws some hundred
in many ways, where loading takes longer than drawing. And a sampler that has its GPU keeps it:
trials that wait for what it draws cannot take it away.
"""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import ray
from numpy.typing import NDArray

from catalog.sink import BatchFile
from factory.sample.batches import NUMBER, Kept, SampleActor, write_drawn
from factory.sample.config import StreamConfig
from factory.sample.plan import Ranges
from factory.sample.prepare import Run
from factory.sample.stream import ENCODE_CPUS, fetched

IN_FLIGHT = 3
"""Batches of a sampler: one is drawn, one encoded, one waits."""


class Sampler:
    """An actor of Ray that draws batches of one run after another with what it has loaded."""

    def __init__(self) -> None:
        self._kept = Kept()
        self._submission = -1
        self._actor: SampleActor | None = None

    def ready(self) -> None:
        """Return when Ray has started it where it has what it asked for."""

    def loads(self) -> int:
        """Return how many engines it has loaded."""
        return self._kept.loads

    def draw(
        self, submission: int, shared: Sequence[Any], todo: Ranges, number: int
    ) -> dict[str, Any]:
        """Return a batch as columns, see `SampleActor`.

        Args:
            submission: numbers what is drawn at once, of one run.
            shared: a reference to the run, which is fetched once.
            todo: the batches that it lacks.
            number: which of these.
        """
        if submission != self._submission or self._actor is None:
            run = ray.get(shared[0])
            self._actor, self._submission = SampleActor(run, todo, self._kept), submission
        return self._actor({NUMBER: np.array([number])})


class Pool:
    """Samplers on one Ray, as many as a run has batches for, up to a number."""

    def __init__(self, most: int, *, gpus: float = 0.0) -> None:
        """`gpus`: of each, which also holds most of a core."""
        self._most = most
        self._sampler = ray.remote(
            num_cpus=1 - ENCODE_CPUS, num_gpus=gpus, max_restarts=-1, max_task_retries=-1
        )(Sampler)
        self.samplers: list[Any] = []
        """All that were asked for."""
        self._coming: dict[Any, int] = {}
        self._submissions = 0

    def begin(self) -> None:
        """Start a sampler and wait until it is there: whoever comes later takes what is left."""
        self._grow(1)
        ray.get(self.samplers[0].ready.remote())

    def stream(
        self, run: Run, indices: Sequence[int] | NDArray[np.int64], _config: StreamConfig
    ) -> Iterator[BatchFile]:
        """Draw, judge and write the batches with these indices; yield each file as it is written.

        Raises:
            FactoryError: from a worker, as it was raised there.
        """
        todo = Ranges.of(indices)
        self._grow(len(todo))
        self._submissions += 1
        write = ray.remote(num_cpus=ENCODE_CPUS)(write_drawn)
        begun = ray.put(run)
        there = [n for n in range(len(self.samplers)) if n not in self._coming.values()]
        free, written = there * IN_FLIGHT, dict[Any, int]()
        for number in range(len(todo)):
            while not free:
                yield from self._finished(written, free)
            sampler = free.pop(0)
            drawn = self.samplers[sampler].draw.remote(self._submissions, [begun], todo, number)
            written[write.remote(drawn, begun)] = sampler
        while written:
            yield from self._finished(written, free)

    def _finished(self, written: dict[Any, int], free: list[int]) -> Iterator[BatchFile]:
        """Wait for a file, which is yielded, or a sampler; put who may draw on into `free`."""
        (ref,), _ = ray.wait([*written, *self._coming], num_returns=1)
        if ref in self._coming:
            free += [self._coming.pop(ref)] * IN_FLIGHT
            return
        free.append(written.pop(ref))
        columns = fetched(ref)
        yield BatchFile(**{name: values[0] for name, values in columns.items()})

    def _grow(self, batches: int) -> None:
        for number in range(len(self.samplers), min(self._most, batches)):
            sampler = self._sampler.remote()
            self.samplers.append(sampler)
            self._coming[sampler.ready.remote()] = number
