"""The dashboard asks for metrics that exist, with tags that they have."""

import json
import re
from pathlib import Path

import pytest
import yaml

from factory.monitor.on_ray import METRICS, PREFIX, Metric

CLUSTER = Path(__file__).parents[2] / "cluster"
DASHBOARD = json.loads((CLUSTER / "grafana" / "factory.json").read_text())
QUERIES = [target["expr"] for panel in DASHBOARD["panels"] for target in panel["targets"]]
OF_RAY = {"ray_node_gpus_utilization"}
ENDINGS = {
    "counter": ("_total",),
    "gauge": ("",),
    "histogram": ("_bucket", "_sum", "_count"),
}


def exported(metric: Metric) -> list[str]:
    """Names under which Prometheus sees a metric."""
    return [f"{PREFIX}{metric.name}{ending}" for ending in ENDINGS[metric.kind]]


def unknown(query: str) -> set[str]:
    known = {name for metric in METRICS for name in exported(metric)} | OF_RAY
    return set(re.findall(r"\bray_\w+", query)) - known


@pytest.mark.parametrize("query", QUERIES)
def test_a_query_asks_for_a_metric_of_the_code(query: str) -> None:
    assert re.search(r"\bray_\w+", query)
    assert not unknown(query)


def test_a_misspelt_metric_is_found() -> None:
    assert unknown(QUERIES[0].replace("factory_images", "factory_imges"))
    assert unknown("ray_factory_images")  # counters are exported with _total


@pytest.mark.parametrize("query", QUERIES)
def test_a_query_groups_by_tags_that_its_metrics_have(query: str) -> None:
    tags = {"le", "instance"}
    for metric in METRICS:
        if any(name in query for name in exported(metric)):
            tags |= set(metric.tags)
    asked = set(re.findall(r"(\w+)=~?\"", query))
    for group in re.findall(r"by \(([\w, ]+)\)", query):
        asked |= {word.strip() for word in group.split(",")}
    assert asked <= tags


def test_every_metric_is_shown() -> None:
    shown = " ".join(QUERIES)
    missing = [m.name for m in METRICS if not any(name in shown for name in exported(m))]
    assert not missing


def test_panels_neither_overlap_nor_share_an_id() -> None:
    places = [panel["gridPos"] for panel in DASHBOARD["panels"]]
    cells = [
        (x, y)
        for p in places
        for x in range(p["x"], p["x"] + p["w"])
        for y in range(p["y"], p["y"] + p["h"])
    ]
    assert len(set(cells)) == len(cells)
    assert max(x for x, _ in cells) < 24
    assert len({panel["id"] for panel in DASHBOARD["panels"]}) == len(places)


def test_prometheus_reads_the_file_that_ray_writes() -> None:
    from ray._private.ray_constants import PROMETHEUS_SERVICE_DISCOVERY_FILE

    scraped = yaml.safe_load((CLUSTER / "prometheus" / "prometheus.yml").read_text())
    (files,) = scraped["scrape_configs"][0]["file_sd_configs"]
    assert files["files"] == [f"/tmp/ray/{PROMETHEUS_SERVICE_DISCOVERY_FILE}"]
