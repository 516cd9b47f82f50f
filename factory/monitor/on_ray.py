"""Metrics through Ray: every node exports what its processes count to Prometheus."""

import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache
from typing import Any

from catalog.sink import BatchFile
from factory.errors import ConfigError
from factory.monitor import metrics
from factory.monitor.metrics import Metric
from factory.monitor.recorder import Recorder, RunInfo


class RayRecorder(Recorder):
    """Counts a submission in the driver's process.

    Args:
        price_per_hour: of the whole cluster; None leaves the cost out.
        clock: seconds, rising.
    """

    def __init__(
        self,
        *,
        price_per_hour: float | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._price, self._clock = price_per_hour, clock
        self._started, self._accepted, self._run_id = clock(), 0, ""

    def begun(self, run: RunInfo) -> None:
        """Name the run, and show what waits."""
        self._run_id, self._started, self._accepted = run.run_id, self._clock(), 0
        self._queue(draw=run.num_batches, publish=0)

    def drawn(self, file: BatchFile, *, left: int, waiting: int) -> None:
        """Count images, verdicts and the batch."""
        self._count(metrics.BATCHES, 1, status="drawn")
        self._count(metrics.IMAGES, file.num_accepted, status="accepted")
        self._count(metrics.IMAGES, file.num_rejected, status="rejected")
        for gate, images in json.loads(file.rejected_by_gate).items():
            self._count(metrics.REJECTS, images, gate=gate)
        self._queue(draw=left, publish=waiting)
        self._accepted += file.num_accepted
        if self._price is not None and self._accepted:
            hours = (self._clock() - self._started) / 3600
            tags = {"run_id": self._run_id}
            _made(metrics.COST).set(self._price * hours / self._accepted, tags=tags)

    def committed(self, files: Sequence[BatchFile], *, seconds: float) -> None:
        """Count what was published, and how long it took."""
        self._count(metrics.BATCHES, len(files), status="published")
        # a histogram takes no 0: a commit faster than the clock's step counts as its first bucket
        tags = {"run_id": self._run_id}
        _made(metrics.COMMIT_SECONDS).observe(max(seconds, 1e-6), tags=tags)
        _made(metrics.QUEUE_DEPTH).set(0, tags=tags | {"stage": "publish"})

    def retried(self) -> None:
        """Count the retry."""
        self._count(metrics.RETRIES, 1)

    def _count(self, metric: Metric, number: int, **tags: str) -> None:
        if number:  # a counter only rises
            _made(metric).inc(number, tags={"run_id": self._run_id, **tags})

    def _queue(self, **stages: int) -> None:
        for stage, batches in stages.items():
            tags = {"run_id": self._run_id, "stage": stage}
            _made(metrics.QUEUE_DEPTH).set(batches, tags=tags)


@contextmanager
def busy(run_id: str, device: str) -> Iterator[None]:
    """Count the seconds spent inside as an actor's; nothing is counted without Ray."""
    import ray

    begun = time.monotonic()
    yield
    if ray.is_initialized():
        seconds = time.monotonic() - begun
        _made(metrics.BUSY_SECONDS).inc(max(seconds, 1e-6), {"run_id": run_id, "device": device})


def price_per_hour(environ: Mapping[str, str]) -> float | None:
    """Return the price that the environment names, or None.

    Raises:
        ConfigError: no number, or a negative one.
    """
    text = environ.get(metrics.PRICE, "")
    try:
        price = float(text) if text else None
    except ValueError:
        price = -1.0
    if price is not None and not 0 <= price < float("inf"):
        raise ConfigError(
            f"{metrics.PRICE} is {text!r}", remedy="Give the cluster's price per hour: 3.20"
        )
    return price


@cache
def _made(metric: Metric) -> Any:
    """Return Ray's object for a metric: one in each process."""
    from ray.util.metrics import Counter, Gauge, Histogram

    if metric.kind == "histogram":
        return Histogram(
            metric.name, metric.what, boundaries=list(metric.boundaries), tag_keys=metric.tags
        )
    kind = Counter if metric.kind == "counter" else Gauge
    return kind(metric.name, metric.what, tag_keys=metric.tags)
