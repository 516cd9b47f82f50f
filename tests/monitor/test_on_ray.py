"""What a run counts is found on the Prometheus endpoint of a real node."""

import re
import subprocess
import sys
import time
from collections import defaultdict
from pathlib import Path

import pytest

from cluster.local import ray_head
from factory.errors import ConfigError
from factory.models.generator import Generator
from factory.monitor.on_ray import METRICS, PREFIX, price_per_hour

DRIVER = """\
import os, sys, time
from pathlib import Path
from factory.models.generator import find_generator
from factory.monitor.on_ray import recorder_for
from factory.sample.run import execute
from factory.sample.session import ray_session
from tests.monitor.test_recorder import prepared
run = prepared(find_generator(sys.argv[1]), Path(sys.argv[2]), blur=1e9)
with ray_session(sys.argv[3]):
    list(execute(run, recorder=recorder_for(os.environ)))
    print("done", run.run_id, flush=True)
    sys.stdin.readline()
"""
Samples = dict[tuple[str, str], float]
"""(name, value of the tag beside run_id) -> sum over processes."""


def exported(session: Path, run_id: str) -> Samples:
    """Read what the node exports; Ray writes the address into its session folder."""
    import json
    from urllib.request import urlopen

    (targets,) = json.loads((session / "prom_metrics_service_discovery.json").read_text())
    found: Samples = defaultdict(float)
    for target in targets["targets"]:
        with urlopen(f"http://{target}/metrics", timeout=900) as reply:
            for line in reply.read().decode().splitlines():
                match = re.fullmatch(r"(ray_factory_\w+)\{(.*)\} (\S+)", line)
                if match is None or run_id not in match[2]:
                    continue
                tags = dict(re.findall(r'(\w+)="([^"]*)"', match[2]))
                told = tags.get("status") or tags.get("gate") or tags.get("stage") or ""
                found[match[1], told] += float(match[3])
    return found


@pytest.mark.ray
@pytest.mark.slow
def test_the_counts_of_a_run_are_on_the_metrics_endpoint(
    tiny: Generator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAY_metrics_report_interval_ms", "500")
    monkeypatch.setenv("FACTORY_PRICE_PER_HOUR", "3.6")
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[2]))
    with ray_head() as head:
        for name, value in head.token.items():
            monkeypatch.setenv(name, value)
        words = [str(tiny.folder), str(tmp_path / "c"), head.address]
        driver = subprocess.Popen(
            [sys.executable, "-c", DRIVER, *words],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        try:
            assert driver.stdout is not None
            done, run_id = driver.stdout.readline().split()
            assert done == "done"
            found = wanted_within(60, session_of(head.pid), run_id)
        finally:
            driver.communicate("\n", timeout=900)
    assert found["ray_factory_images_total", "rejected"] == 10
    assert found["ray_factory_rejects_total", "blur"] == 10
    assert found["ray_factory_batches_total", "drawn"] == 3
    assert found["ray_factory_batches_total", "published"] == 3
    assert found["ray_factory_commit_seconds_count", ""] == 2
    assert found["ray_factory_queue_depth", "draw"] == 0
    assert found["ray_factory_busy_seconds_total", ""] > 0
    assert ("ray_factory_cost_per_accepted_image", "") not in found  # no image was accepted


def wanted_within(seconds: float, session: Path, run_id: str) -> Samples:
    """Read until the last count is there: every process reports at intervals of its own."""
    deadline = time.monotonic() + seconds
    while True:
        found = exported(session, run_id)
        all_there = found["ray_factory_batches_total", "published"] == 3
        if (
            all_there and found["ray_factory_busy_seconds_total", ""]
        ) or time.monotonic() > deadline:
            return found
        time.sleep(0.5)


def session_of(head_pid: int) -> Path:
    import psutil

    words = psutil.Process(head_pid).cmdline()
    folder = next(word.partition("=")[2] for word in words if word.startswith("--temp-dir="))
    return Path(folder)


def test_names_are_words_that_prometheus_takes_and_unique() -> None:
    names = [metric.name for metric in METRICS]
    assert len(set(names)) == len(names)
    assert all(re.fullmatch(r"factory_[a-z_]+", name) for name in names)
    assert PREFIX == "ray_"


@pytest.mark.parametrize("text", ["cheap", "-1", "inf", "nan"])
def test_what_is_no_price_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="FACTORY_PRICE_PER_HOUR"):
        price_per_hour({"FACTORY_PRICE_PER_HOUR": text})


def test_without_a_price_there_is_no_cost() -> None:
    assert price_per_hour({}) is None
    assert price_per_hour({"FACTORY_PRICE_PER_HOUR": "3.20"}) == 3.2
