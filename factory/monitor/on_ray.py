"""Metrics through Ray: every node exports what its processes count to Prometheus.

The names of all metrics lie here: the dashboard's queries are held against them. Ray exports each
as `ray_` + name on every node's metrics port.
"""

import json
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from typing import Any, Literal

from catalog.sink import BatchFile
from factory.errors import ConfigError
from factory.monitor.log import LogRecorder
from factory.monitor.recorder import Recorder, RunInfo, Several


@dataclass(frozen=True, slots=True, kw_only=True)
class Metric:
    """One metric: counters rise, gauges show the present, histograms sort into buckets."""

    name: str
    kind: Literal["counter", "gauge", "histogram"]
    what: str
    tags: tuple[str, ...] = ("run_id",)
    boundaries: tuple[float, ...] = ()


IMAGES = Metric(
    name="factory_images",
    kind="counter",
    what="Images drawn and judged, by verdict ('accepted' or 'rejected').",
    tags=("run_id", "status"),
)
REJECTS = Metric(
    name="factory_rejects",
    kind="counter",
    what="Images that a gate rejected; one that two reject counts for both.",
    tags=("run_id", "gate"),
)
BATCHES = Metric(
    name="factory_batches",
    kind="counter",
    what="Batches drawn ('drawn') and visible in the catalog ('published').",
    tags=("run_id", "status"),
)
COMMIT_SECONDS = Metric(
    name="factory_commit_seconds",
    kind="histogram",
    what="Wall time of a commit, in seconds.",
    boundaries=(0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0),
)
RETRIES = Metric(
    name="factory_retries",
    kind="counter",
    what="Commits tried again because another writer was faster.",
)
QUEUE_DEPTH = Metric(
    name="factory_queue_depth",
    kind="gauge",
    what="Batches that wait: to be drawn ('draw') or to be published ('publish').",
    tags=("run_id", "stage"),
)
BUSY_SECONDS = Metric(
    name="factory_busy_seconds",
    kind="counter",
    what="Seconds that sampling actors spent drawing; its rate is the busy share of an actor.",
    tags=("run_id", "device"),
)
COST = Metric(
    name="factory_cost_per_accepted_image",
    kind="gauge",
    what="Price of the submission so far / accepted images; needs FACTORY_PRICE_PER_HOUR.",
)

METRICS = (
    *(IMAGES, REJECTS, BATCHES, COMMIT_SECONDS),
    *(RETRIES, QUEUE_DEPTH, BUSY_SECONDS, COST),
)
"""All of them."""
PREFIX = "ray_"
"""What Ray puts before every name."""
PRICE = "FACTORY_PRICE_PER_HOUR"
"""Variable with the price of the whole cluster per hour, in any currency."""


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
        self._count(BATCHES, 1, status="drawn")
        self._count(IMAGES, file.num_accepted, status="accepted")
        self._count(IMAGES, file.num_rejected, status="rejected")
        for gate, images in json.loads(file.rejected_by_gate).items():
            self._count(REJECTS, images, gate=gate)
        self._queue(draw=left, publish=waiting)
        self._accepted += file.num_accepted
        if self._price is not None and self._accepted:
            hours = (self._clock() - self._started) / 3600
            tags = {"run_id": self._run_id}
            _made(COST).set(self._price * hours / self._accepted, tags=tags)

    def committed(self, files: Sequence[BatchFile], *, seconds: float) -> None:
        """Count what was published, and how long it took."""
        self._count(BATCHES, len(files), status="published")
        # a histogram takes no 0: a commit faster than the clock's step counts as its first bucket
        tags = {"run_id": self._run_id}
        _made(COMMIT_SECONDS).observe(max(seconds, 1e-6), tags=tags)
        _made(QUEUE_DEPTH).set(0, tags=tags | {"stage": "publish"})

    def retried(self) -> None:
        """Count the retry."""
        self._count(RETRIES, 1)

    def _count(self, metric: Metric, number: int, **tags: str) -> None:
        if number:  # a counter only rises
            _made(metric).inc(number, tags={"run_id": self._run_id, **tags})

    def _queue(self, **stages: int) -> None:
        for stage, batches in stages.items():
            tags = {"run_id": self._run_id, "stage": stage}
            _made(QUEUE_DEPTH).set(batches, tags=tags)


@contextmanager
def busy(run_id: str, device: str) -> Iterator[None]:
    """Count the seconds spent inside as an actor's; nothing is counted without Ray."""
    begun = time.monotonic()
    yield
    if _on_ray():
        seconds = time.monotonic() - begun
        _made(BUSY_SECONDS).inc(max(seconds, 1e-6), {"run_id": run_id, "device": device})


def _on_ray() -> bool:
    """Whether this process is of a Ray; where nobody imported it, it is not imported either."""
    ray = sys.modules.get("ray")
    return ray is not None and bool(ray.is_initialized())


def price_per_hour(environ: Mapping[str, str]) -> float | None:
    """Return the price that the environment names, or None.

    Raises:
        ConfigError: no number, or a negative one.
    """
    text = environ.get(PRICE, "")
    try:
        price = float(text) if text else None
    except ValueError:
        price = -1.0
    if price is not None and not 0 <= price < float("inf"):
        raise ConfigError(f"{PRICE} is {text!r}", remedy="Give the cluster's price per hour: 3.20")
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


def recorder_for(environ: Mapping[str, str]) -> Recorder:
    """Return the recorder of a run of this process.

    Raises:
        ConfigError: FACTORY_PRICE_PER_HOUR is no price, or OPENLINEAGE_URL is set and the package
            that sends events is missing.
    """
    from factory.monitor.lineage import lineage_recorder

    price = price_per_hour(environ)
    chosen: list[Recorder] = [LogRecorder()]
    if _on_ray():
        chosen.append(RayRecorder(price_per_hour=price))
    if environ.get("OPENLINEAGE_URL"):
        chosen.append(lineage_recorder(environ))
    return Several(chosen)
