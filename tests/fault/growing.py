"""A cluster that begins without a core or a GPU, and starts nodes when somebody asks for them.

    python -m tests.fault.growing ADDRESS

prints the GPUs of a cluster every second. The nodes are Ray's `fake_multinode`: processes of this
machine. Ray's `AutoscalingCluster` ends every other Ray here first, so the head is started by us.
"""

import json
import os
import secrets
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil


@dataclass(frozen=True, slots=True, kw_only=True)
class Growing:
    """A running head, and the environment in which others join it."""

    address: str
    environ: dict[str, str]


def configuration(address: str, *, gpu_nodes: int) -> dict[str, Any]:
    """Return what `ray up` would be given: nodes of a GPU and two cores, none of them at first."""
    lists = ("initialization_commands", "setup_commands", "head_setup_commands")
    lists += ("worker_setup_commands", "head_start_ray_commands", "worker_start_ray_commands")
    lists += ("cluster_synced_files", "rsync_exclude", "rsync_filter")
    return {key: [] for key in lists} | {
        "cluster_name": "growing",
        "max_workers": gpu_nodes,
        "upscaling_speed": 10.0,
        "idle_timeout_minutes": 0.1,
        "provider": {
            "type": "fake_multinode",
            "use_node_id_as_ip": True,
            "disable_node_updaters": True,
            "disable_launch_config_check": True,
            "launch_multiple": True,
            "gcs_address": address,
        },
        "auth": {},
        "file_mounts": {},
        "file_mounts_sync_continuously": False,
        "head_node_type": "ray.head.default",
        "available_node_types": {
            "ray.head.default": {"resources": {"CPU": 0}, "node_config": {}, "max_workers": 0},
            "gpu": {
                "resources": {"CPU": 2, "GPU": 1},
                "node_config": {},
                "min_workers": 0,
                "max_workers": gpu_nodes,
            },
        },
    }


@contextmanager
def growing_cluster(folder: Path, *, gpu_nodes: int) -> Iterator[Growing]:
    """Start a head without cores, whose autoscaler may start so many nodes; end them all."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    stored = folder / "growing.json"
    stored.write_text(json.dumps(configuration(address, gpu_nodes=gpu_nodes)))
    environ = {
        **os.environ,
        "AUTOSCALER_UPDATE_INTERVAL_S": "1",
        "FACTORY_DEVICE": "cpu",
        "PYTHONPATH": str(Path.cwd()),
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN": secrets.token_hex(32),
        "RAY_FAKE_CLUSTER": "1",
    }
    words = ["start", "--head", "--block", "--node-ip-address", "127.0.0.1", "--num-cpus", "0"]
    words += [
        "--num-gpus",
        "0",
        "--port",
        address.partition(":")[2],
        "--include-dashboard",
        "false",
    ]
    words += ["--temp-dir", str(folder / "r"), "--autoscaling-config", str(stored)]
    log = (folder / "head.log").open("w")
    head = subprocess.Popen(
        [sys.executable, "-m", "ray.scripts.scripts", *words],
        env=environ,
        stdout=log,
        stderr=log,
        start_new_session=True,
    )
    try:
        yield Growing(address=address, environ=environ)
    finally:
        every = [*psutil.Process(head.pid).children(recursive=True), psutil.Process(head.pid)]
        for process in every:
            with suppress(psutil.NoSuchProcess):
                process.send_signal(signal.SIGKILL)
        for process in psutil.process_iter(["cmdline"]):  # nodes leave the monitor's family
            if str(folder / "r") in " ".join(process.info["cmdline"] or ()):
                with suppress(psutil.NoSuchProcess):
                    process.kill()
        head.wait()
        log.close()


def main() -> None:
    import ray

    ray.init(address=sys.argv[1], logging_level="error")
    while True:
        print(int(ray.cluster_resources().get("GPU", 0)), flush=True)
        time.sleep(1)


if __name__ == "__main__":
    main()
