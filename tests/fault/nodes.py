"""A cluster of several nodes on this machine, as a process that a test tells what to break.

    python -m tests.fault.nodes NODES

Ray's own `Cluster`: a head without CPUs and NODES nodes with one. Prints the head's address, then
obeys a line at a time: 'kill node' ends all processes of one node at once, 'restart gcs' kills the
head's GCS and starts it again. Each is answered with a line. The end of input ends the cluster.
"""

import os
import secrets
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from cluster.local import Head


class Nodes:
    """The other end of the pipe."""

    def __init__(self, process: subprocess.Popen[str], head: Head) -> None:
        self.process, self.head = process, head

    def say(self, order: str) -> str:
        """Give an order; return the answer."""
        assert self.process.stdin is not None
        self.process.stdin.write(f"{order}\n")
        self.process.stdin.flush()
        return self.answer()

    def answer(self) -> str:
        assert self.process.stdout is not None
        while line := self.process.stdout.readline():
            if line.startswith("nodes: "):  # Ray prints lines of its own
                return line.removeprefix("nodes: ").strip()
        raise AssertionError("the cluster ended")


@contextmanager
def running_nodes(count: int, **environ: str) -> Iterator[Nodes]:
    """Start a cluster with a token of its own, and end it."""
    token = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)}
    with tempfile.TemporaryDirectory(prefix="ray") as folder:
        process = subprocess.Popen(
            [sys.executable, "-m", "tests.fault.nodes", str(count), folder],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            env={**os.environ, **token, **environ, "PYTHONPATH": str(Path.cwd())},
        )
        try:
            nodes = Nodes(process, Head(dashboard="", address="", pid=process.pid, token=token))
            address = nodes.answer()
            nodes.head = Head(dashboard="", address=address, pid=process.pid, token=token)
            yield nodes
        finally:
            assert process.stdin is not None
            process.stdin.close()
            process.wait(timeout=900)


def main() -> None:
    from ray.cluster_utils import Cluster

    count, folder = int(sys.argv[1]), sys.argv[2]
    head_args: dict[str, object] = {"num_cpus": 0, "include_dashboard": False, "temp_dir": folder}
    if password := os.environ.get("FAULT_REDIS_PASSWORD"):
        head_args["redis_password"] = password
    cluster = Cluster(initialize_head=True, head_node_args=head_args)
    nodes = [cluster.add_node(num_cpus=1) for _ in range(count)]
    tell(cluster.address)
    for order in sys.stdin:
        if order.strip() == "kill node":
            cluster.remove_node(nodes.pop(), allow_graceful=False)
            tell(f"{len(nodes)} left")
        elif order.strip() == "restart gcs":
            cluster.head_node.kill_gcs_server()
            cluster.head_node.start_gcs_server()
            tell("restarted")
    cluster.shutdown()


def tell(line: str) -> None:
    print(f"nodes: {line}", flush=True)


if __name__ == "__main__":
    main()
