"""Clusters whose GPUs are not there yet: they are asked for, and draw.

The nodes are real ones of Ray on this machine, which its fake provider starts for the autoscaler;
their GPUs are numbers, and what is drawn there is drawn on the CPU (`FACTORY_DEVICE`).
"""

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from ray._raylet import GcsClient
from ray.autoscaler.v2.sdk import get_cluster_resource_state
from ray.core.generated.autoscaler_pb2 import NodeStatus

from catalog import Catalog
from cluster.local import HOST, Head, free_ports, ray_head
from factory.device import DEVICE
from tests.fakes.tiny import tiny_generator

pytestmark = [pytest.mark.slow, pytest.mark.ray]

HEAD_NODE = "f" * 51 + "00000"
"""The name that Ray's fake provider gives the head."""
EMPTY = (
    *("cluster_synced_files", "initialization_commands", "setup_commands", "head_setup_commands"),
    *("worker_setup_commands", "head_start_ray_commands", "worker_start_ray_commands"),
)
"""What the autoscaler looks for in every file."""
OPEN = {"RAY_AUTH_MODE": "disabled"}
"""This process looks at the head as well, and reads how to only once."""
VARIABLES = {**OPEN, DEVICE: "cpu", "RAY_FAKE_CLUSTER": "1", "AUTOSCALER_UPDATE_INTERVAL_S": "1"}
IDLE_SECONDS = 6
PATIENCE_SECONDS = 400


def autoscaler_file(folder: Path, port: int) -> Path:
    """Write the file of a cluster that is a head without a core, and up to two nodes of a GPU."""
    gpu = {"resources": {"CPU": 2, "GPU": 1}, "node_config": {}, "min_workers": 0, "max_workers": 2}
    head = {"resources": {"CPU": 0}, "node_config": {}, "max_workers": 0}
    path = folder / "autoscaler.json"
    stored = {
        "cluster_name": "growing",
        "max_workers": 2,
        "upscaling_speed": 1.0,
        "idle_timeout_minutes": IDLE_SECONDS / 60,
        "provider": {
            "type": "fake_multinode",
            "head_node_id": HEAD_NODE,
            "disable_node_updaters": True,  # nobody logs in there
            "use_node_id_as_ip": True,  # they share an address, and idle ones are told apart by it
            "gcs_address": f"{HOST}:{port}",
        },
        "auth": {},
        "docker": {},
        "file_mounts": {},
        **{key: [] for key in EMPTY},
        "available_node_types": {"ray.head.default": head, "gpu": gpu},
        "head_node_type": "ray.head.default",
    }
    path.write_text(json.dumps(stored))
    return path


@pytest.fixture
def cluster(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Head]:
    """A head with the options that a test names; its nodes draw on the CPU."""
    (port,) = free_ports(1)
    file = autoscaler_file(tmp_path, port)
    options = [option.replace("FILE", str(file)) for option in request.param]
    with ray_head(*options, port=port, **VARIABLES) as head:
        yield head


def typed(head: Head, *words: object) -> subprocess.Popen[str]:
    """Start a `factory` command that finds this head."""
    command = [sys.executable, "-c", "from factory.cli import main; main()", *map(str, words)]
    own = {**os.environ, **OPEN, "PYTHONPATH": str(Path.cwd()), "RAY_ADDRESS": head.address}
    pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    return subprocess.Popen(command, start_new_session=True, env=own, **pipes)


def gpus(head: Head) -> tuple[int, int]:
    """Return how many GPUs the live nodes have, and how many requests wait for one."""
    found = get_cluster_resource_state(GcsClient(address=head.address))
    nodes = [state for state in found.node_states if state.status != NodeStatus.DEAD]
    live = sum(state.total_resources.get("GPU", 0) for state in nodes)
    asked = [r for r in found.pending_resource_requests if "GPU" in r.request.resources_bundle]
    return int(live), sum(r.count for r in asked)


GROWING = "--num-cpus=0", "--autoscaling-config=FILE"


@pytest.mark.parametrize("cluster", [GROWING], indirect=True)
def test_gpus_that_are_not_there_are_asked_for_and_draw(cluster: Head, tmp_path: Path) -> None:
    tiny = tiny_generator(tmp_path / "tiny")
    drawing = ["num_inference_steps=2", "batch_size=16", "gates=null", "stream.gpus_per_actor=1"]
    sets = [word for key in (f"model={tiny.folder}", *drawing) for word in ("--set", key)]
    place = tmp_path / "catalog"
    assert gpus(cluster) == (0, 0)
    command = typed(cluster, "generate", "--catalog", place, "--num-images", 320, *sets)
    joined, asked, most = None, None, 0
    while command.poll() is None:
        live, waiting = gpus(cluster)
        jobs = GcsClient(address=cluster.address).get_all_job_info()
        if joined is None and any(not job.is_dead for job in jobs.values()):
            joined = time.monotonic()
        if asked is None and (waiting or live):
            asked = time.monotonic()
        most = max(most, live)
        time.sleep(0.2)
    output, _ = command.communicate(timeout=PATIENCE_SECONDS)
    assert command.returncode == 0, output
    assert joined
    assert asked
    assert 1 <= most <= 2
    ended = time.monotonic()
    while gpus(cluster)[0] and time.monotonic() < ended + PATIENCE_SECONDS:
        time.sleep(0.5)
    assert gpus(cluster) == (0, 0), "what nobody uses goes"
    gone = time.monotonic() - ended
    print(f"asked for a GPU after {asked - joined:.1f} s, {most} came, gone {gone:.0f} s after")
    rows = Catalog(str(place)).samples().to_table()
    assert len(set(rows["image_id"].to_pylist())) == rows.num_rows == 320
