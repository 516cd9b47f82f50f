"""A cluster of two nodes that loses one during a training, with a notice or without; alone.

    python -m tests.finetune.elastic FOLDER notice|none

Prints the steps of the checkpoints that were there when the node went, and when it was announced.
"""

import json
import os
import sys
import time
from pathlib import Path
from threading import Thread
from typing import Any

os.environ["RAY_TRAIN_ENABLE_PREEMPTION_WATCHER"] = "1"

import ray
from ray.cluster_utils import Cluster

from factory.finetune.checkpoint import checkpoints
from factory.finetune.run import finetune_on_ray, load_plan

DEADLINE_SECONDS = 12


def lose(cluster: Cluster, node: Any, place: Path, told: dict[str, Any], *, notice: bool) -> None:
    """Take `node` away once there is a checkpoint, or once a begun training was given notice."""
    begun = place.parents[2] / "tensorboard" if notice else place
    while not [*begun.rglob("events*")] and not checkpoints(place):
        time.sleep(0.1)
    if notice:
        told["at_notice"] = [path.name for path in checkpoints(place)]
        drain(cluster.address, node.node_id)
        time.sleep(DEADLINE_SECONDS)
    told["at_loss"] = [path.name for path in checkpoints(place)]
    cluster.remove_node(node, allow_graceful=False)


def drain(address: str, node_id: str) -> None:
    """Announce that a node will be taken away, as an autoscaler does."""
    from ray._raylet import GcsClient
    from ray.core.generated import autoscaler_pb2

    reason = autoscaler_pb2.DrainNodeReason.Value("DRAIN_NODE_REASON_PREEMPTION")
    deadline_ms = int((time.time() + DEADLINE_SECONDS) * 1000)
    accepted, why = GcsClient(address=address).drain_node(node_id, reason, "spot", deadline_ms)
    assert accepted, why


def main() -> None:
    folder, way = Path(sys.argv[1]), sys.argv[2]
    plan = load_plan(folder)
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1})
    node = cluster.add_node(num_cpus=1)
    ray.init(address=cluster.address, logging_level="error")
    told: dict[str, Any] = {}
    place = plan.folder_of("all") / "checkpoints"
    arguments = (cluster, node, place, told)
    Thread(target=lose, args=arguments, kwargs={"notice": way == "notice"}, daemon=True).start()
    finetune_on_ray(plan)
    print("TOLD " + json.dumps(told))
    ray.shutdown()
    cluster.shutdown()


if __name__ == "__main__":
    main()
