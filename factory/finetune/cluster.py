"""Where and on how many workers a training runs, and whether it can."""

from typing import Literal

from pydantic import Field, model_validator

from factory.config import Count, Frozen
from factory.errors import ConfigError

Sharding = Literal["none", "ddp", "fsdp"]
"""How a model lies on several workers: not at all, a copy each, a shard each."""


class ClusterConfig(Frozen):
    """Where and on how many workers a training runs."""

    workers: Count | tuple[Count, Count] = 1
    """A number, or (least, most): the group shrinks when a node is lost, down to `least`, and grows
    when the cluster does. Ray 2.60 starts the group anew for either; it goes on from its newest
    checkpoint: at once, after a death or a growth, and at the node's deadline, after a notice of
    preemption, which is answered by a checkpoint within seconds. The result does not depend on the
    number of workers beyond the order of sums."""
    sharding: Sharding = "none"
    use_gpu: bool | None = None
    """null: on GPUs where there is one for every worker, else on CPUs."""
    cpus_per_worker: float = Field(1, gt=0)
    max_failures: int = Field(3, ge=0)
    checkpoint_seconds: float = Field(180, gt=0)
    """Between two checkpoints: what a group that dies repeats at most."""

    @model_validator(mode="after")
    def _alike(self) -> "ClusterConfig":
        if self.least > self.most:
            raise ValueError(f"workers: the least, {self.least}, is above the most, {self.most}")
        if self.most > 1 and self.sharding == "none":
            raise ValueError(
                f"sharding none with {self.most} workers would train as many models:"
                " choose ddp (a copy each) or fsdp (a shard each)"
            )
        return self

    @property
    def least(self) -> int:
        """The smallest number of workers."""
        return self.workers if isinstance(self.workers, int) else self.workers[0]

    @property
    def most(self) -> int:
        """The largest number of workers."""
        return self.workers if isinstance(self.workers, int) else self.workers[1]


def on_gpus(cluster: ClusterConfig) -> bool:
    """Return whether a training runs on GPUs: those of this Ray, or that it could start, or here.

    Raises:
        ConfigError: they are asked for and there are none.
    """
    if cluster.use_gpu is False:
        return False
    import ray
    import torch

    from factory.device import cluster_gpus

    joined = ray.is_initialized()
    found = cluster_gpus()[1] if joined else torch.cuda.device_count()
    if cluster.use_gpu and not found:
        raise ConfigError(
            f"cluster.use_gpu is true, and {'this Ray cluster' if joined else 'this machine'} has 0"
            " GPUs",
            remedy="Set cluster.use_gpu to false, or join a cluster with GPUs",
        )
    return bool(cluster.use_gpu) or found >= cluster.least


def check_room(cluster: ClusterConfig) -> None:
    """Raise where the present Ray, which cannot grow, never holds the least number of workers.

    Raises:
        ConfigError: with what it needs and what there is; Ray itself would wait for ever.
    """
    import ray

    needed = cluster.least * cluster.cpus_per_worker
    found = ray.cluster_resources().get("CPU", 0)
    if needed > found:
        raise ConfigError(
            f"cluster.workers {cluster.least} x cluster.cpus_per_worker {cluster.cpus_per_worker:g}"
            f" need {needed:g} CPUs, and this machine has {found:g}",
            remedy="Ask for fewer, or join a cluster with --address",
        )
