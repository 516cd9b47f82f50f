"""The names of all metrics, in one place: the dashboard's queries are held against them.

Ray exports each as `ray_` + name on every node's metrics port.
"""

from dataclasses import dataclass
from typing import Literal


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
