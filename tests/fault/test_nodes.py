"""Exactly once on several nodes: one is lost in the middle of a run, or the head's state is."""

import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from cluster.local import Head, free_ports, ray_head
from factory.models.generator import Generator
from tests.fault.driver import finished, written_job
from tests.fault.nodes import running_nodes
from tests.fault.test_kills import Place, exactly_once, wait_for_lines

pytestmark = [pytest.mark.ray, pytest.mark.fault, pytest.mark.slow]
NODES = 4
REDIS_PASSWORD = "of-this-test-alone"


def place(head: Head, tiny: Generator, tmp_path: Path, *, actors: int) -> Place:
    source = written_job(tiny, tmp_path, seed=7, actors=actors)
    return Place(str(tmp_path / "catalog"), source, head)


def test_a_lost_node_loses_and_doubles_nothing(tiny: Generator, tmp_path: Path) -> None:
    with running_nodes(NODES) as nodes:
        here = place(nodes.head, tiny, tmp_path, actors=NODES)
        driver = here.start()
        wait_for_lines(driver, 3)
        assert nodes.say("kill node") == f"{NODES - 1} left"
        finished(driver)
    exactly_once(here, tiny)


@pytest.fixture
def redis(tmp_path: Path) -> Iterator[str]:
    """The address of a Redis server of this test's own, on loopback, with a password."""
    server = shutil.which("redis-server")
    if server is None:
        pytest.skip("redis-server is not installed (apt-get install redis-server)")
    (port,) = free_ports(1)
    process = subprocess.Popen(
        [
            *(server, "--bind", "127.0.0.1", "--port", str(port), "--save", ""),
            *("--requirepass", REDIS_PASSWORD, "--dir", str(tmp_path)),
        ],
        stdout=subprocess.DEVNULL,
    )
    try:
        for _ in range(100):
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", port)) == 0:
                    break
            time.sleep(0.1)
        yield f"127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait(timeout=900)


def test_a_head_that_loses_its_gcs_ends_the_run_with_redis_behind_it(
    redis: str, tiny: Generator, tmp_path: Path
) -> None:
    """The GCS is killed and started again: nodes, actors and driver find it, and go on."""
    behind = {"RAY_REDIS_ADDRESS": redis, "FAULT_REDIS_PASSWORD": REDIS_PASSWORD}
    with running_nodes(2, **behind) as nodes:
        here = place(nodes.head, tiny, tmp_path, actors=2)
        driver = here.start()
        wait_for_lines(driver, 2)
        assert nodes.say("restart gcs") == "restarted"
        finished(driver)
    exactly_once(here, tiny)


def test_a_head_outlives_a_raylet_that_gets_no_processor_for_a_while() -> None:
    """Of a busy machine: 75 s of silence, after which Ray by itself gives its only node up."""
    with ray_head() as head:
        found: list[psutil.Process] = []
        while not found:  # the dashboard answers before there is a raylet
            assert psutil.Process(head.pid).status() != psutil.STATUS_ZOMBIE
            started = psutil.Process(head.pid).children(recursive=True)
            found = [process for process in started if process.name() == "raylet"]
            time.sleep(0.5)
        (raylet,) = found
        time.sleep(20)  # by now it has joined
        raylet.suspend()
        time.sleep(75)
        raylet.resume()
        time.sleep(20)  # Ray looks every 3 s
        assert raylet.is_running()
        assert psutil.Process(head.pid).status() != psutil.STATUS_ZOMBIE
